"""`tollgate models deploy`: a version of MLflow's registry into the Triton that runs, one step after another.

What was served before is kept until all is done. So a step that fails leaves what was served, and after a run that was
killed the next one knows what that was.
"""

from __future__ import annotations

import asyncio
import fcntl
import json
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import msgspec
from msgspec import Struct

from devstack.stack import loading, triton
from devstack.stack.directory import StateDirectory
from devstack.stack.loading import Failed
from devstack.stack.settings import StackSettings
from ext_authz.db.tables import connected
from ext_authz.errors import ConfigError, Unavailable
from ext_authz.policy.names import MODEL
from ext_authz.settings import DatabaseSettings, load_settings
from ext_authz.tokens import audit
from ext_authz.tokens.model import Actor

PROMOTED, SUMS = "promoted.json", "SHA256SUMS"
_CODE = shutil.ignore_patterns("*.py", "*.R", "untrained.txt", ".gitignore", "__pycache__")
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,254}", re.ASCII)
_LONGEST = 1000
"""Characters of what is said of a step."""
_BEFORE = "before"
STEPS = ("fetch", "checksums", "gate", "signature", "keep", "install", "build", "load", "catalogue", "alias")
"""The first four are those of `training.registry`, which change nothing."""
_MOST_RECORD = 1 << 20
"""Bytes of the file of records; then it begins anew, and one older file stays."""


class Done(Struct):
    """One step of a deployment."""

    step: str
    ok: bool
    said: str


class Record(Struct):
    """One deployment, as it is kept."""

    model: str
    wanted: str
    """Number or alias in the registry."""
    by: str
    began: datetime
    registered: str = ""
    """Number in the registry; empty: it was not found."""
    version: str = ""
    """In Triton."""
    steps: list[Done] = []
    outcome: str = "failed"
    """Or `deployed`, `rolled back`."""

    def say(self, step: str, said: str, *, ok: bool = True) -> None:
        said = said[:_LONGEST]
        self.steps.append(Done(step, ok, said))
        click.echo(f"{step:<10} {'ok' if ok else 'failed':<7} {said}", err=not ok)


class Place(Struct, frozen=True):
    """Where the version is that training fills, and where what was in it is kept."""

    settings: StackSettings
    state: StateDirectory
    model: str
    version: str

    @property
    def into(self) -> Path:
        return self.settings.models / "repository" / self.model / self.version

    @property
    def before(self) -> Path:
        return records_of(self.settings, self.model) / self.version / _BEFORE

    def keep(self) -> str:
        """What a run left that was killed is what was served before: it stays."""
        if not self.before.exists():
            new = self.before.with_name("new")
            shutil.rmtree(new, ignore_errors=True)
            shutil.copytree(self.into, new, ignore=_CODE)
            new.rename(self.before)
        return _name_of(self.before)

    def forget(self) -> None:
        """What was kept."""
        shutil.rmtree(self.before.rename(self.before.with_name("old")))

    def install(self, found: Path) -> None:
        """Checksums last: until then the version counts as not trained."""
        (self.into / SUMS).unlink(missing_ok=True)
        for file in self.into.iterdir():
            if file.is_file() and file.name not in _CODE(str(self.into), [file.name]):
                file.unlink()
        for file in sorted(found.iterdir(), key=lambda file: file.name == SUMS):
            shutil.copy(file, self.into)

    def serve(self) -> Iterator[tuple[str, Callable[[], str]]]:
        """Steps that bring what is installed to callers. Each raises Failed or ConfigError."""
        yield "build", lambda: _built(self)
        yield "load", lambda: loading.load(self.settings, self.state, self.model, self.version)

    def go_back(self) -> str:
        """To what was kept. Raises Failed, ConfigError."""
        self.install(self.before)
        for _, work in self.serve():
            work()
        said = _name_of(self.before)
        self.forget()
        return said


def deploy(settings: StackSettings, state: StateDirectory, wanted: tuple[str, str], to: str | None, by: str) -> Record:
    """`wanted`: model, and number or alias. Every step is printed; the record is kept beside the registry.

    Raises:
        ConfigError: one of these cannot be a name, or another deployment runs.
    """
    if not (re.fullmatch(MODEL, wanted[0], re.ASCII) and _VERSION.fullmatch(wanted[1])):
        raise ConfigError("write NAME and VERSION: a model, and its number or an alias in the registry")
    record = Record(model=wanted[0], wanted=wanted[1], by=by, began=datetime.now(UTC))
    with _alone(settings), tempfile.TemporaryDirectory() as found:
        try:
            place = _fetch(settings, state, record, Path(found), to)
            _bring(place, record, Path(found) / place.model / place.version)
        except (Failed, ConfigError, OSError) as failure:
            record.say(_next_step(record), str(failure), ok=False)
    _write(records_of(settings, record.model), record)
    return record


def _built(place: Place) -> str:
    triton.build_one(place.settings, place.state, place.model)
    return "Triton's repository has it"


def _fetch(settings: StackSettings, state: StateDirectory, record: Record, found: Path, to: str | None) -> Place:
    loading.ensure_live(settings, state)
    arguments = ["fetch", record.model, record.wanted, str(found), *([f"--to={to}"] if to else [])]
    done = triton.registry_says(settings, *arguments)
    said = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]  # MLflow may say more
    for each in said:
        if "step" in each:
            record.say(each["step"], each["said"])
    if done.returncode or "number" not in (said or [{}])[-1]:
        raise Failed(_last_line(done.stderr))
    record.registered, record.version = said[-1]["number"], said[-1]["version"]
    return Place(settings, state, record.model, record.version)


def _bring(place: Place, record: Record, found: Path) -> None:
    """Raises Failed where nothing was changed yet, or where going back fails too."""
    record.say("keep", place.keep())
    try:
        place.install(found)
        record.say("install", f"{place.model} {record.registered} as version {place.version}")
        for step, work in place.serve():
            record.say(step, work())
        record.say("catalogue", loading.listed(place.state, place.model, place.version, _registered(found)))
        _move_alias(place.settings, record)
    except (Failed, ConfigError, OSError) as failure:
        record.say(_next_step(record), str(failure), ok=False)
        record.say("roll back", place.go_back())
        record.outcome = "rolled back"
    else:
        place.forget()
        record.outcome = "deployed"


def _move_alias(settings: StackSettings, record: Record) -> None:
    done = triton.registry_says(settings, "served", record.model, record.registered)
    if done.returncode:
        raise Failed(_last_line(done.stderr))
    record.say("alias", f"served is {record.registered}")


def _last_line(text: str) -> str:
    """MLflow may say more before."""
    return (text.strip().splitlines() or ["the registry's program ended without a word"])[-1]


def _next_step(record: Record) -> str:
    """That which failed: the one after the last that was done."""
    done = [each.step for each in record.steps]
    if record.steps and not record.steps[-1].ok:
        return "roll back"
    return STEPS[STEPS.index(done[-1]) + 1] if done else STEPS[0]


def _registered(version: Path) -> str:
    return str(json.loads((version / PROMOTED).read_text())["registered"])


def _name_of(version: Path) -> str:
    if (version / PROMOTED).exists():
        return f"before: {_registered(version)} of the registry"
    return "before: what this checkout trains"


def records_of(settings: StackSettings, model: str) -> Path:
    """The directory with `records.jsonl` of one model."""
    return settings.models / "training" / ".deployments" / model


@contextmanager
def _alone(settings: StackSettings) -> Iterator[None]:
    """One deployment at a time in a checkout. Raises ConfigError."""
    directory = settings.models / "training" / ".deployments"
    directory.mkdir(exist_ok=True)
    with (directory / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConfigError(f"another deployment is running ({directory / 'lock'}): wait until it ends") from None
        yield


def _write(directory: Path, record: Record) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    file = directory / "records.jsonl"
    if file.exists() and file.stat().st_size > _MOST_RECORD:
        file.rename(directory / "records.old.jsonl")
    with file.open("ab") as opened:
        opened.write(msgspec.json.encode(record) + b"\n")


def note(settings: StackSettings, record: Record) -> None:
    """In the audit log, where Postgres is known and answers: what is deployed stays so without."""
    details = {name: value for name, value in msgspec.to_builtins(record).items() if name not in ("by", "model")}
    kept = records_of(settings, record.model) / "records.jsonl"
    try:
        asyncio.run(_audit(Actor(via="cli", name=record.by), record, details))
        click.echo(f"{record.outcome}: recorded in the audit log and in {kept}")
    except (ConfigError, Unavailable) as failure:
        click.echo(f"{record.outcome}: recorded in {kept}, and not in the audit log: {failure}", err=True)


async def _audit(actor: Actor, record: Record, details: Mapping[str, Any]) -> None:
    """Raises ConfigError, Unavailable."""
    url = load_settings(DatabaseSettings).database_url
    action = f"model.{record.outcome.replace(' ', '_')}"
    async with connected(url, {"audit_log": ("INSERT",)}) as connection:
        await audit.record(connection, actor, action, f"model:{record.model}", details)
