"""Whatever stands in a policy file: a policy comes of it, or faults that say where, in bounded time."""

from __future__ import annotations

import atexit
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from random import Random

from ext_authz.policy.faults import PolicyFaults, rendered
from ext_authz.policy.load import examine, load_policy
from ext_authz.policy.model import Policy
from ext_authz.policytool.warnings import warnings_of
from tests.fuzz.bounded import within
from tests.fuzz.choices import Choices
from tests.fuzz.documents import document
from tests.fuzz.policies import ENVIRON, policy_files

SECONDS = 2.0
_MADE = 0x80
"""From this first byte on, the rest says how to make a document; below, the rest is the file."""

_directory = tempfile.TemporaryDirectory(prefix="tollgate-fuzz-")
atexit.register(_directory.cleanup)
_FILE = Path(_directory.name) / "policy.yaml"


def target(data: bytes) -> None:
    """Raises where the loader does what it must not."""
    _FILE.write_bytes(_content(data))
    with within(SECONDS):
        loaded = examine(_FILE, ENVIRON)
        warnings = warnings_of(loaded)
    assert (loaded.policy is None) == bool(loaded.faults)
    for fault in (*loaded.faults, *warnings):
        assert rendered(fault).isprintable()
    _ensure_the_same_of_load(loaded.policy)


def _ensure_the_same_of_load(examined: Policy | None) -> None:
    try:
        policy = load_policy(_FILE, ENVIRON)
    except PolicyFaults:
        assert examined is None
    else:
        assert examined is not None
        assert examined.hash == policy.hash


def _content(data: bytes) -> bytes:
    if data[:1] < bytes([_MADE]):
        return data[1:]
    return json.dumps(document(Choices(data[1:])), ensure_ascii=False, indent=1).encode()


def seeds() -> Iterator[bytes]:
    """The shipped policies, and some made documents."""
    for file in policy_files():
        yield b"\0" + file.read_bytes()
    random = Random(20261120)  # the same corpus every time
    for _ in range(30):
        yield bytes([_MADE]) + random.randbytes(400)


def words() -> Iterator[str]:
    """What a mutation may put in: the keys and values of the language."""
    from ext_authz.policy.documents.schema import policy_schema

    def below(schema: object) -> Iterator[str]:
        if isinstance(schema, dict):
            yield from schema.get("properties", {})
            yield from (value for value in schema.get("enum", ()) if isinstance(value, str))
            for part in schema.values():
                yield from below(part)
        elif isinstance(schema, list):
            for part in schema:
                yield from below(part)

    yield from ("${TOLLGATE_ISSUER}", "{rest=**}", "{model}", "identity.", "request.headers", "model.name", "time.hour")
    yield from sorted(set(below(policy_schema())))
