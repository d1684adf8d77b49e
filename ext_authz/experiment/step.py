"""Changes the weights of an experiment in the file that has them: the numbers, and nothing else."""

from __future__ import annotations

import difflib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from msgspec import Struct

from ext_authz.errors import ConfigError
from ext_authz.policy.faults import PolicyFaults, Position
from ext_authz.policy.load import Loaded, examine
from ext_authz.policy.source import Source

_BY_HAND = "change it by hand"
_WEIGHT = re.compile(r"[0-9]{1,3}(?![^\s,}#])")
"""As it is written plainly: no quotes, no variable, no other base."""


class Change(Struct, frozen=True):
    """One file, with other weights."""

    file: Path
    before: bytes
    after: bytes

    def diff(self) -> str:
        """As `diff -u` prints it."""
        before, after = (text.decode().splitlines(keepends=True) for text in (self.before, self.after))
        return "".join(difflib.unified_diff(before, after, str(self.file), str(self.file)))


def changed(policy: Path, name: str, weights: Mapping[str, int], environ: Mapping[str, str]) -> Change:
    """`policy`: a file or a directory. The result was validated, as a whole.

    Raises:
        PolicyFaults: the policy, or what would become of it, cannot be served.
        ConfigError: the weights are not written so that they can be changed safely.
    """
    source = _source(examine(policy, environ))
    places = {source.position(("experiments", name, "weights", variant)): variant for variant in weights}
    files = {place.file for place in places}
    if len(files) > 1 or len(places) < len(weights):
        raise ConfigError(f"experiments.{name}.weights: is not written in one place: {_BY_HAND}")
    (file,) = files
    before = file.read_bytes()
    change = Change(file, before, _edited(before, {place: weights[variant] for place, variant in places.items()}))
    _ensure_only_weights(source, _source(_examined(change, policy, source, environ)), name, weights)
    return change


def write(change: Change) -> None:
    """Whole or not at all, with mode and owner of the file, by which authorizers may read it.

    Raises:
        ConfigError: somebody changed the file meanwhile, or it belongs to another user.
        OSError: it cannot be written.
    """
    file = Path(os.path.realpath(change.file))
    descriptor, name = tempfile.mkstemp(dir=file.parent, prefix=f".{file.name}.")
    unfinished = Path(name)
    try:
        with os.fdopen(descriptor, "wb") as out:
            out.write(change.after)
            out.flush()
            os.fsync(out.fileno())
        shutil.copymode(file, unfinished)
        _keep_owner(file, unfinished)
        if file.read_bytes() != change.before:
            raise ConfigError(f"{file}: was changed meanwhile: nothing is written, run this again")
        unfinished.replace(file)
    finally:
        unfinished.unlink(missing_ok=True)


def _keep_owner(file: Path, unfinished: Path) -> None:
    before, after = file.stat(), unfinished.stat()
    if (before.st_uid, before.st_gid) == (after.st_uid, after.st_gid):
        return
    try:
        os.chown(unfinished, before.st_uid, before.st_gid)
    except PermissionError:
        raise ConfigError(f"{file}: belongs to another user or group: run this as its owner, or as root") from None


def _source(loaded: Loaded) -> Source:
    if loaded.policy is None or loaded.source is None:
        raise PolicyFaults(loaded.faults)
    return loaded.source


def _edited(before: bytes, weights: Mapping[Position, int]) -> bytes:
    lines = before.decode().split("\n")
    # From the right: what is on the left of a place stays where it is.
    for place in sorted(weights, key=lambda place: (place.line, place.column), reverse=True):
        line, at = lines[place.line - 1], place.column - 1
        written = _WEIGHT.match(line, at)
        if written is None:
            raise ConfigError(f"{place}: the weight is not a plain whole number: {_BY_HAND}")
        lines[place.line - 1] = f"{line[:at]}{weights[place]}{line[written.end() :]}"
    return "\n".join(lines).encode()


def _examined(change: Change, policy: Path, source: Source, environ: Mapping[str, str]) -> Loaded:
    """A copy of all files, in which that one is changed."""
    root = policy if policy.is_dir() else policy.parent
    with tempfile.TemporaryDirectory(prefix="tollgate-experiment-") as directory:
        for file in source.files:
            copy = Path(directory) / file.relative_to(root)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(change.after if file == change.file else file.read_bytes())
        return examine(Path(directory) / policy.relative_to(root), environ)


def _ensure_only_weights(before: Source, after: Source, name: str, weights: Mapping[str, int]) -> None:
    found, wanted = dict(_values(after)), dict(_values(before))
    wanted |= {("experiments", name, "weights", variant): weight for variant, weight in weights.items()}
    if found != wanted:
        raise ConfigError(f"experiments.{name}.weights: other values would change too: {_BY_HAND}")


def _values(source: Source) -> Iterator[tuple[tuple[str | int, ...], object]]:
    return ((path, scalar.value) for path, scalar in source.tree.scalars())
