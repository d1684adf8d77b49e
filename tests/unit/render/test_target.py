"""Which messages name a model for certain."""

from __future__ import annotations

import pytest

from tests.e2e.server.raw import frame
from tests.messages import (
    NO_NAMES,
    NO_VERSIONS,
    ROW,
    VARINT,
    crafted,
    crafted_versions,
    framed,
    model,
    plain,
    tag,
    text,
    version,
)
from tests.unit.render.target import extracted, named, reads


@pytest.mark.parametrize("what", plain(b"mine", b"other"))
def test_a_plain_message_names_its_model(what: str) -> None:
    message, name, number = plain(b"mine", b"other")[what]
    assert named(message) == (name.decode(), number.decode())


@pytest.mark.parametrize("what", crafted(b"mine", b"other"))
def test_a_message_that_two_may_read_differently_names_nothing(what: str) -> None:
    assert named(crafted(b"mine", b"other")[what]) is None


@pytest.mark.parametrize("what", crafted_versions(b"mine"))
def test_neither_does_one_whose_version_two_may_read_differently(what: str) -> None:
    assert named(crafted_versions(b"mine")[what]) is None


@pytest.mark.parametrize("what", framed(b"mine", b"other"))
def test_what_is_no_single_message_names_nothing(what: str) -> None:
    assert extracted(framed(b"mine", b"other")[what]) == {}


def test_a_call_without_a_body_names_nothing() -> None:
    assert extracted(None) == {}


_PRINTED = ("an escape", "a slash", "a step up", "a path", "all models", "no model")
"""The authorizer is called with these, and refuses them."""


@pytest.mark.parametrize("what", [what for what in NO_NAMES if what not in _PRINTED])
def test_what_no_name_can_be_does_not_travel(what: str) -> None:
    assert extracted(frame(model(NO_NAMES[what]) + ROW)) == {"model": "?"}
    assert extracted(frame(model(b"mine") + version(NO_NAMES[what]) + ROW)) == {"model": "mine", "version": "?"}


@pytest.mark.parametrize("what", NO_VERSIONS)
def test_neither_does_what_no_version_can_be(what: str) -> None:
    found = extracted(frame(model(b"mine") + version(NO_VERSIONS[what]) + ROW))["version"]
    assert found in ("?", NO_VERSIONS[what].decode(errors="replace"))
    assert len(found) <= 128


@pytest.mark.parametrize("rpc", ["ModelInfer", "ModelMetadata", "ModelReady", "ModelConfig", "ModelStatistics"])
def test_most_messages_name_a_model_in_field_1_and_a_version_in_field_2(rpc: str) -> None:
    assert extracted(frame(text(1, b"m") + text(2, b"1")), rpc) == {"model": "m", "version": "1"}


@pytest.mark.parametrize("rpc", ["RepositoryModelLoad", "RepositoryModelUnload"])
def test_the_messages_of_the_repository_name_a_model_in_field_2(rpc: str) -> None:
    assert extracted(frame(text(1, b"repository") + text(2, b"m")), rpc) == {"model": "m"}


@pytest.mark.parametrize("rpc", ["ModelStreamInfer", "ServerLive", "RepositoryIndex", "TraceSetting", "ModelInfer?x"])
def test_other_calls_are_not_read(rpc: str) -> None:
    assert extracted(frame(text(1, b"m")), rpc) == {}


def test_the_work_for_one_message_is_bounded() -> None:
    many = frame((tag(1001, VARINT) + b"\0") * 1_000_000)
    assert extracted(many) == {}
    assert reads(many) <= 4097
