"""Which Tritons are started for a policy, and what each serves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from devstack.stack.addresses import own_triton
from devstack.stack.directory import StateDirectory
from devstack.stack.settings import load_stack_settings
from devstack.stack.stack import Stack
from devstack.stack.triton import startable
from devstack.stack.variants import Instance, instances, lay_out
from ext_authz.errors import ConfigError
from ext_authz.policy.model import Experiment
from ext_authz.render.endpoints import Pipe

CANARY = Experiment(
    "sentiment-v2", "sentiment", {"stable": 90, "canary": 10}, "s", versions={"stable": "1", "canary": "2"}
)
POLICY_PART = """
experiments:
  sentiment-v2: {model: sentiment, weights: {stable: 90, canary: 10}, versions: {stable: "1", canary: "2"},
                 mirror: {to: canary}}
"""


def test_without_an_experiment_there_is_one() -> None:
    assert instances(()) == (Instance("triton", "", {}, serves_others=True),)


def test_each_other_variant_has_its_own() -> None:
    main, canary = instances([CANARY])
    assert main == Instance("triton", "stable", {"sentiment": "1"}, serves_others=True)
    assert canary == Instance("triton-canary", "canary", {"sentiment": "2"}, serves_others=False)


def test_a_variant_of_two_experiments_is_one() -> None:
    again = Experiment("other", "cancer", {"stable": 50, "canary": 50}, "s")
    main, canary = instances([CANARY, again])
    assert (main.variant, main.versions) == ("stable", {"sentiment": "1", "cancer": ""})
    assert canary.versions == {"sentiment": "2", "cancer": ""}
    main, *_ = instances([CANARY, Experiment("other", "cancer", {"blue": 50, "green": 50}, "s")])
    assert (main.variant, main.versions) == ("", {"sentiment": "1", "cancer": ""})


@pytest.fixture
def built(tmp_path: Path) -> Path:
    for part in ("sentiment/1", "sentiment/2", "cancer/1"):
        (tmp_path / "models" / part).mkdir(parents=True)
        config = tmp_path / "models" / part.partition("/")[0] / "config.pbtxt"
        config.write_text("a: 1\nversion_policy { specific { versions: [1] } }\nb: 2\n")
    return tmp_path / "models"


def served(built: Path, instance: Instance) -> list[str]:
    """Twice: what an earlier one left is gone."""
    to = built.parent / "served"
    lay_out(built, to, Instance())
    lay_out(built, to, instance)
    return sorted(str(path.parent.relative_to(to)) + "/" + path.name for path in to.glob("*/*"))


def test_an_instance_serves_its_version_alone(built: Path) -> None:
    main, canary = instances([CANARY])
    everything = ["cancer/1", "cancer/config.pbtxt", "sentiment/1", "sentiment/2", "sentiment/config.pbtxt"]
    assert served(built, Instance()) == everything
    assert served(built, main) == [name for name in everything if name != "sentiment/2"]
    assert served(built, canary) == ["sentiment/2", "sentiment/config.pbtxt"]
    told = (built.parent / "served/sentiment/config.pbtxt").read_text()
    assert told == "a: 1\nb: 2\nversion_policy { specific { versions: [2] } }\n"
    assert "versions: [1]" in (built / "sentiment/config.pbtxt").read_text()


def test_a_version_that_is_not_built_is_a_sentence(built: Path) -> None:
    (built / "sentiment/2").rmdir()
    with pytest.raises(
        ConfigError, match=r"the variant canary of .* serves version 2 of the model sentiment, which is not"
    ):
        served(built, instances([CANARY])[1])


def test_a_model_whose_framework_is_not_installed_is_left_out(built: Path) -> None:
    main, canary = instances([CANARY])
    for part in ("sentiment/1", "sentiment/2", "sentiment/config.pbtxt", "sentiment"):
        (built / part).unlink() if part.endswith("txt") else (built / part).rmdir()
    assert served(built, main) == ["cancer/1", "cancer/config.pbtxt"]
    with pytest.raises(ConfigError, match="which is not built"):
        served(built, canary)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """A project with one framework, and the versions of sentiment."""
    python = tmp_path / "models/.venvs/sklearn/bin/python"
    python.parent.mkdir(parents=True)
    python.touch()
    for version in ("1", "2"):
        (tmp_path / "models/repository/sentiment" / version).mkdir(parents=True)
    config = tmp_path / "models/repository/sentiment/config.pbtxt"
    config.write_text('parameters { key: "framework" value { string_value: "sklearn" } }\n')
    return tmp_path / "models"


def test_a_version_that_waits_for_training_has_no_triton_of_its_own(models: Path) -> None:
    found = instances([CANARY])
    assert startable(models, found) == found
    (models / "repository/sentiment/2/untrained.txt").write_text("train it\n")
    (main,) = startable(models, found)
    assert (main.variant, main.absent, main.versions) == ("stable", ("canary",), {"sentiment": "1"})
    (models / "repository/sentiment/2/SHA256SUMS").touch()
    assert startable(models, found) == found
    (models / ".venvs/sklearn/bin/python").unlink()
    assert [each.name for each in startable(models, found)] == ["triton"]


def stack_with(tmp_path: Path, models: Path, **more: object) -> Stack:
    policy = tmp_path / "policy.yaml"
    without = re.sub(r"\nexperiments:\n(?:  .*\n)+", "\n", load_stack_settings().policy.read_text())
    policy.write_text(without + POLICY_PART)
    stack = Stack(load_stack_settings({"policy": policy, "models": models, **more}), StateDirectory(tmp_path))
    stack.child("envoy").prepare()
    return stack


def rendered(tmp_path: Path) -> str:
    return (tmp_path / "envoy" / "bootstrap.json").read_text()


def test_the_stack_has_a_part_for_each_and_envoy_knows_their_sockets(tmp_path: Path, models: Path) -> None:
    stack = stack_with(tmp_path, models)
    main, canary = (stack.child(name) for name in ("triton", "triton-canary"))
    names = [part.name for part in stack.parts]
    assert names.index("triton-canary") == names.index("triton") + 1
    assert (main.environment["TOLLGATE_VARIANT"], canary.environment["TOLLGATE_VARIANT"]) == ("stable", "canary")
    for name in ("triton", "triton-canary"):
        for where in (own_triton(stack.state, name).http, own_triton(stack.state, name).grpc):
            assert isinstance(where, Pipe)
            assert f'"path": "{where.path}"' in rendered(tmp_path)
    assert "request_mirror_policies" in rendered(tmp_path)


def test_a_variant_that_cannot_be_served_is_where_nobody_listens(tmp_path: Path, models: Path) -> None:
    (models / "repository/sentiment/2/untrained.txt").write_text("train it\n")
    stack = stack_with(tmp_path, models)
    assert stack.child("triton").remark == "without sentiment 2: train it; callers of the variant canary get 503"
    assert "triton-canary" not in [part.name for part in stack.parts]
    where = own_triton(stack.state, "triton-canary").http
    assert isinstance(where, Pipe)
    assert f'"path": "{where.path}"' in rendered(tmp_path)


def test_where_one_triton_serves_every_variant_there_are_no_copies(tmp_path: Path, models: Path) -> None:
    elsewhere = stack_with(tmp_path, models, triton="gpu:8000:8001")
    assert not [part.name for part in elsewhere.parts if part.name.startswith("triton-")]
    assert "request_mirror_policies" not in rendered(tmp_path)
