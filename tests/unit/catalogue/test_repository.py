"""What is read of a model repository, of good files and of others."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from pathlib import Path
from typing import Any

import pytest

from ext_authz.catalogue import repository
from ext_authz.catalogue.entry import Entry, Origin, Tensor
from ext_authz.catalogue.repository import FRESH, Repository
from ext_authz.errors import Unavailable
from tests.fakes import FakeClock
from tests.unit.catalogue.world import CARD, CONFIG, model

OURS = Path(__file__).parents[3] / "model_servers/repository"


async def read(directory: Path) -> dict[str, Entry]:
    return {entry.id: entry for entry in await Repository(directory, FakeClock()).entries()}


async def test_a_model_is_described(tmp_path: Path) -> None:
    model(tmp_path, "sentiment", card=CARD, versions="2 10 1")
    (entry,) = (await read(tmp_path)).values()
    assert (entry.versions, entry.framework, entry.artifact) == (("1", "2", "10"), "scikit-learn", "python")
    assert entry.inputs == (Tensor("text", "other", (-1, 1), batched=True),)
    assert entry.outputs == (Tensor("score", "float32", (-1, 1), batched=True),)
    assert (entry.title, entry.card.license) == ("Sentiment of texts", "Apache-2.0")


async def test_every_model_of_this_repository_is_described(caplog: pytest.LogCaptureFixture) -> None:
    found = await read(OURS)
    assert set(found) >= {"sentiment", "cancer", "digits", "cars"}
    for entry in found.values():
        card = entry.card
        assert all([entry.artifact, entry.inputs, entry.outputs, entry.versions, entry.framework]), entry.id
        assert all([card.tasks, card.architecture, card.license, card.description]), entry.id
    assert caplog.messages == []


@pytest.mark.parametrize(
    ("policy", "versions"),
    [
        ("", ("10",)),
        ("version_policy { latest { num_versions: 2 } }", ("2", "10")),
        ("version_policy { all { } }", ("1", "2", "10")),
        ("version_policy { specific { versions: [2, 7] } }", ("2",)),
    ],
)
async def test_versions_are_those_that_are_served(tmp_path: Path, policy: str, versions: tuple[str, ...]) -> None:
    folder = model(tmp_path, "m", config=policy, versions="1 2 10")
    (folder / "007").mkdir()
    (folder / "environment").mkdir()
    assert (await read(tmp_path))["m"].versions == versions


NESTED = """
platform: "ensemble"
instance_group [{ count: 1 rate_limiter { resources [{ name: "r" count: 4 }, { global: true }] } }]
optimization { execution_accelerators { gpu_execution_accelerator: [{ name: "tensorrt" }] } cuda { graphs: true } }
sequence_batching { direct { } control_input [{ name: "S" control [{ kind: CONTROL_SEQUENCE_START }] }] }
ensemble_scheduling { step [{ model_name: "a" model_version: -1 input_map { key: "a" value: "b" } }] }
model_warmup [{ name: "w" inputs { key: "i" value: { data_type: TYPE_FP32 dims: [1] zero_data: true } } }]
dynamic_batching { preferred_batch_size: [4, 8] }
input [{ name: "i" data_type: TYPE_INT64 dims: [-1, 3] reshape: { shape: [3] } format: FORMAT_NONE optional: true }]
"""


async def test_what_is_not_read_of_a_configuration_does_no_harm(tmp_path: Path) -> None:
    model(tmp_path, "m", config=NESTED)
    entry = (await read(tmp_path))["m"]
    assert entry.artifact == "ensemble"
    assert entry.inputs == (Tensor("i", "int64", (-1, 3), batched=False),)


@pytest.mark.parametrize("config", ["input [{", "input { data_type: TYPE_NEW }", "x" * 300_000, ""])
async def test_a_model_with_a_bad_configuration_is_there_without_a_description(tmp_path: Path, config: str) -> None:
    model(tmp_path, "m", config=config, card="# M\n\nSomething.\n", versions="1 2")
    model(tmp_path, "other")
    found = await read(tmp_path)
    assert (found["m"].versions[-1:], found["m"].inputs, found["m"].card.title) == (("2",), (), "M")
    assert found["other"].artifact == "python"


async def test_what_is_no_model_is_not_listed(tmp_path: Path) -> None:
    for name in (".hidden", "a b", "x" * 129, "-"):
        (tmp_path / name).mkdir()
    (tmp_path / "file").write_text("")
    assert await read(tmp_path) == {} or set(await read(tmp_path)) == {".hidden"}


async def test_a_change_is_seen_and_the_rest_is_not_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    read_again: list[str] = []
    folder = model(tmp_path, "m", card=CARD)
    model(tmp_path, "other")
    found = Repository(tmp_path, clock)
    await found.entries()
    original = repository._entry

    def entry(folder: Path, state: repository.State) -> Entry:
        read_again.append(folder.name)
        return original(folder, state)

    monkeypatch.setattr(repository, "_entry", entry)
    (folder / "config.pbtxt").write_text(CONFIG.replace("sklearn", "onnx"))
    os.utime(folder / "config.pbtxt", ns=(1, 1))
    assert {entry.framework for entry in await found.entries()} == {"scikit-learn"}
    clock.advance(FRESH)
    assert {entry.framework for entry in await found.entries()} == {"scikit-learn", "ONNX"}
    assert read_again == ["m"]


async def test_a_directory_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match=r"model repository: .*absent: No such file"):
        await Repository(tmp_path / "absent", FakeClock()).entries()


async def test_too_many_are_not_listed_and_it_is_logged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(repository, "MOST_MODELS", 2)
    for name in ("a", "b", "c"):
        model(tmp_path, name)
    with caplog.at_level(logging.ERROR):
        assert list(await read(tmp_path)) == ["a", "b"]
    assert "more models than are listed" in caplog.text


def promoted(folder: Path, said: str = '{"registered": "sentiment 7", "run": "0123"}', *, signed: bool = True) -> None:
    """As `tollgate models promote` leaves it."""
    (folder / "promoted.json").write_text(said)
    (folder / "SHA256SUMS").write_text("00  weights.npz\n")
    if signed:
        (folder / "SHA256SUMS.sig").write_bytes(b"x")


async def test_where_a_version_came_from(tmp_path: Path) -> None:
    folder = model(tmp_path, "sentiment", versions="1 2 3")
    promoted(folder / "2")
    promoted(folder / "3", signed=False)
    (entry,) = (await read(tmp_path)).values()
    checksum = hashlib.sha256(b"00  weights.npz\n").hexdigest()
    about: dict[str, Any] = {"registered": "sentiment 7", "run": "0123", "checksum": checksum}
    assert entry.origins == (Origin(version="2", signed=True, **about), Origin(version="3", signed=False, **about))


async def test_the_aliases_that_a_version_had(tmp_path: Path) -> None:
    promoted(model(tmp_path, "m") / "1", '{"registered": "m 7", "run": "0123", "aliases": ["champion", "served"]}')
    assert [each.aliases for each in (await read(tmp_path))["m"].origins] == [("champion", "served")]


@pytest.mark.parametrize(
    "said",
    [
        "",
        "[]",
        '{"registered": "m 7", "run": "x", "aliases": ["a\\u0000"]}',
        f'{{"registered": "m 7", "run": "x", "aliases": {json.dumps(["a"] * 21)}}}',
        "{}",
        '{"registered": "", "run": "x"}',
        '{"registered": "a\\u0000", "run": "x"}',
        "x" * 70_000,
        "\udcff",
    ],
)
async def test_an_origin_that_cannot_be_read_hides_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, said: str
) -> None:
    folder = model(tmp_path, "sentiment")
    promoted(folder / "1", "")
    (folder / "1" / "promoted.json").write_bytes(said.encode(errors="surrogateescape"))
    (entry,) = (await read(tmp_path)).values()
    assert (entry.origins, entry.versions, entry.framework) == ((), ("1",), "scikit-learn")
    assert "an origin is not read" in caplog.text


async def test_an_origin_without_its_checksums_is_none(tmp_path: Path) -> None:
    folder = model(tmp_path, "sentiment")
    promoted(folder / "1")
    (folder / "1" / "SHA256SUMS").unlink()
    assert (await read(tmp_path))["sentiment"].origins == ()
