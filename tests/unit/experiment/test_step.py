"""The weights in the file change, and nothing else; what cannot be changed safely is left alone."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.errors import ConfigError
from ext_authz.experiment.commands import experiment
from ext_authz.experiment.step import changed, write
from ext_authz.policy.faults import PolicyFaults
from ext_authz.policy.load import load_policy

HEAD = """version: 1  # the first
issuers:
  - {name: demo, issuer: "https://id.example/realms/ml", audiences: [triton]}
limits: {user: {key: [user], rate: 10/minute}}
models: {sentiment: {roles: [infer]}, cancer: {roles: [infer]}}
routes:
  - {name: infer, operation: infer, limits: [user]}
"""
BLOCK = """experiments:
  sentiment-v2:  # wächst
    model: sentiment
    weights:
      stable:   90   # die alte Fassung 🐢
      canary: 10
    salt: "10"
"""
FLOW = 'experiments: {"grow": {model: sentiment, salt: "🐢", weights: {canary-old: 90,  canary: 10 }}}\n'
NAMES = {BLOCK: ("sentiment-v2", "stable"), FLOW: ("grow", "canary-old")}


def written(directory: Path, text: str, name: str = "policy.yaml") -> Path:
    path = directory / name
    path.write_bytes(text.encode())
    return path


def weights(policy: Path) -> dict[str, int]:
    return dict(next(iter(load_policy(policy, {}).experiments.values())).weights)


@pytest.mark.parametrize("text", [BLOCK, FLOW, BLOCK.replace("\n", "\r\n")], ids=["block", "flow", "crlf"])
@pytest.mark.parametrize("weight", [0, 5, 100])
def test_only_the_numbers_change(text: str, weight: int, tmp_path: Path) -> None:
    name, first = NAMES[text.replace("\r\n", "\n")]
    end = "\r\n" if "\r\n" in text else "\n"
    policy = written(tmp_path, HEAD.replace("\n", end) + text)
    policy.chmod(0o640)
    change = changed(policy, name, {first: 100 - weight, "canary": weight}, {})
    assert policy.read_bytes() == change.before, "nothing is written by itself"
    expected = change.before.decode().replace(" 90", f" {100 - weight}").replace("canary: 10", f"canary: {weight}")
    assert change.after.decode() == expected
    write(change)
    assert weights(policy) == {first: 100 - weight, "canary": weight}
    assert stat.S_IMODE(policy.stat().st_mode) == 0o640
    assert [file.name for file in tmp_path.iterdir()] == ["policy.yaml"]


@given(
    before=st.integers(0, 100),
    after=st.integers(0, 100),
    note=st.text(st.characters(codec="utf-8", categories=("L", "N"))),
)
def test_whatever_stands_beside_them(
    before: int, after: int, note: str, tmp_path_factory: pytest.TempPathFactory
) -> None:
    text = BLOCK.replace(" 90", f" {100 - before}").replace("canary: 10", f"canary: {before}").replace("alte", note)
    policy = written(tmp_path_factory.mktemp("p"), HEAD + text)
    change = changed(policy, "sentiment-v2", {"stable": 100 - after, "canary": after}, {})
    if before == after:
        assert change.after == change.before
    write(change)
    assert weights(policy) == {"stable": 100 - after, "canary": after}
    back = changed(policy, "sentiment-v2", {"stable": 100 - before, "canary": before}, {})
    assert back.after == change.before


def test_a_policy_of_several_files(tmp_path: Path) -> None:
    (tmp_path / "more").mkdir()
    policy = written(tmp_path, HEAD.replace("limits: {", "include: [more/*.yaml]\nlimits: {"))
    inner = written(tmp_path / "more", BLOCK, "canary.yaml")
    change = changed(policy, "sentiment-v2", {"stable": 75, "canary": 25}, {})
    assert change.file == inner
    write(change)
    assert weights(policy) == {"stable": 75, "canary": 25}
    assert "stable:   75   # die" in change.diff()
    directory = tmp_path / "all"
    directory.mkdir()
    written(directory, HEAD, "a.yaml")
    written(directory, BLOCK, "b.yaml")
    assert changed(directory, "sentiment-v2", {"stable": 99, "canary": 1}, {}).file.name == "b.yaml"


def test_a_weight_from_the_environment_is_left_alone(tmp_path: Path) -> None:
    policy = written(tmp_path, HEAD + BLOCK.replace("canary: 10", "canary: ${W}"))
    with pytest.raises(
        ConfigError, match=r"policy.yaml:\d+:15: the weight is not a plain whole number: change it by hand"
    ):
        changed(policy, "sentiment-v2", {"stable": 75, "canary": 25}, {"W": "10"})


def test_a_policy_that_cannot_be_served_is_left_alone(tmp_path: Path) -> None:
    policy = written(tmp_path, HEAD + BLOCK + "rotes: []\n")
    with pytest.raises(PolicyFaults, match="rotes"):
        changed(policy, "sentiment-v2", {"stable": 75, "canary": 25}, {})
    policy = written(tmp_path, HEAD + BLOCK)
    with pytest.raises(PolicyFaults, match="100"):
        changed(policy, "sentiment-v2", {"stable": 75, "canary": 20}, {})


def test_what_somebody_else_wrote_meanwhile_is_kept(tmp_path: Path) -> None:
    policy = written(tmp_path, HEAD + BLOCK)
    change = changed(policy, "sentiment-v2", {"stable": 75, "canary": 25}, {})
    policy.write_bytes(change.before + b"# mine\n")
    with pytest.raises(ConfigError, match="was changed meanwhile: nothing is written"):
        write(change)
    assert policy.read_bytes() == change.before + b"# mine\n"
    assert [file.name for file in tmp_path.iterdir()] == ["policy.yaml"]


@pytest.mark.skipif(os.getuid() != 0, reason="only root can give a file away")
def test_the_file_keeps_its_owner(tmp_path: Path) -> None:
    """Root steps, and the authorizer, another user, must still be able to read it."""
    policy = written(tmp_path, HEAD + BLOCK)
    policy.chmod(0o600)
    os.chown(policy, 4321, 1234)
    write(changed(policy, "sentiment-v2", {"stable": 75, "canary": 25}, {}))
    assert (policy.stat().st_uid, policy.stat().st_gid) == (4321, 1234)


def test_a_file_that_cannot_be_given_back_to_its_owner_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    policy = written(tmp_path, HEAD + BLOCK)
    change = changed(policy, "sentiment-v2", {"stable": 75, "canary": 25}, {})
    given = policy.stat()
    others = os.stat_result([*given[:4], given.st_uid + 1, *given[5:]])
    real = Path.stat
    monkeypatch.setattr(Path, "stat", lambda path, **options: others if path == policy else real(path, **options))

    def refused(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "chown", refused)
    with pytest.raises(ConfigError, match="belongs to another user or group: run this as its owner, or as root"):
        write(change)
    assert policy.read_bytes() == change.before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    real = written(tmp_path / "real", HEAD + BLOCK)
    link = tmp_path / "policy.yaml"
    link.symlink_to(real)
    write(changed(link, "sentiment-v2", {"stable": 75, "canary": 25}, {}))
    assert link.is_symlink()
    assert weights(real) == {"stable": 75, "canary": 25}


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(experiment, list(map(str, arguments)), catch_exceptions=True, standalone_mode=False)


class TestCommand:
    def test_starting_needs_no_evidence(self, tmp_path: Path) -> None:
        policy = written(tmp_path, HEAD + BLOCK.replace(" 90", " 100").replace("canary: 10", "canary: 0"))
        shown = run("step", "sentiment-v2", policy, "--start")
        assert "+      canary: 1\n" in shown.stdout
        assert "nothing is written" in shown.stderr
        assert weights(policy) == {"stable": 100, "canary": 0}
        assert (
            "canary has the weight 1 now, and had 0" in run("step", "sentiment-v2", policy, "--start", "--write").stderr
        )
        assert weights(policy) == {"stable": 99, "canary": 1}
        assert "--start: canary has the weight 1 already" in str(
            run("step", "sentiment-v2", policy, "--start").exception
        )

    @pytest.mark.parametrize(
        ("options", "sentence"),
        [
            (["nothing"], "the policy has no experiment 'nothing' (there are: sentiment-v2)"),
            (
                ["sentiment-v2", "--variant", "stable"],
                "--variant: sentiment-v2 compares with stable: write one of canary",
            ),
            (["sentiment-v2", "-"], "the policy: write a file or a directory"),
            (["sentiment-v2", "--steps", "10,5"], "write growing per cent from 1 to 100"),
            (["sentiment-v2", "--steps", "x"], "write growing per cent from 1 to 100"),
            (["sentiment-v2", "--steps", "50,101"], "write growing per cent from 1 to 100"),
        ],
    )
    def test_a_wrong_option_is_a_sentence(
        self, options: list[str], sentence: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("TOLLGATE_POLICY", str(written(tmp_path, HEAD + BLOCK)))
        assert sentence in str(run("step", *options, "--start").exception)

    def test_of_three_variants_one_says_which(self, tmp_path: Path) -> None:
        three = BLOCK.replace("      canary: 10", "      canary: 0\n      dark: 10")
        policy = written(tmp_path, HEAD + three)
        assert "write --variant (canary, dark)" in str(run("step", "sentiment-v2", policy).exception)
        found = run("step", "sentiment-v2", policy, "--variant", "canary", "--start")
        assert "change the weight of canary from 0 to 1 by hand" in str(found.exception)
