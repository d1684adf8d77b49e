"""What the build of the repository does with a version that training has written into, or not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

Module = Callable[[str], ModuleType]


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    for version in "12":
        (tmp_path / "repository/m" / version).mkdir(parents=True)
        (tmp_path / "repository/m" / version / "model.py").write_text("")
    (tmp_path / "repository/m/config.pbtxt").write_text('name: "m"\n')
    (tmp_path / "repository/m/2/untrained.txt").write_text("run make\n")
    return tmp_path / "repository"


def _built(module: Module, repository: Path) -> set[str]:
    out = repository.parent / "out" / "m"
    module("tollgate_models.build").build_model(repository / "m", out, None)
    return {str(path.relative_to(out)) for path in out.glob("[0-9]/*")}


def test_a_version_that_waits_for_training_is_left_out_until_it_is_trained(module: Module, repository: Path) -> None:
    assert _built(module, repository) == {"1/model.py"}
    (repository / "m/2/weights").write_text("1")
    module("tollgate_models.artefact").seal(repository / "m/2", ["weights"])
    assert _built(module, repository) == {"1/model.py", "2/model.py", "2/weights", "2/SHA256SUMS"}


@pytest.mark.parametrize("harm", ["changed", "missing", "outside"])
def test_what_is_not_what_was_exported_is_not_built(module: Module, repository: Path, harm: str) -> None:
    artefact = module("tollgate_models.artefact")
    version = repository / "m/2"
    (version / "weights").write_text("1")
    artefact.seal(version, ["weights"])
    if harm == "changed":
        (version / "weights").write_text("2")
    elif harm == "missing":
        (version / "weights").unlink()
    else:
        (version / artefact.SUMS).write_text(f"{'0' * 64}  ../1/model.py\n")
    said = "is not what SHA256SUMS says" if harm == "changed" else "is missing"
    build = module("tollgate_models.build")
    with pytest.raises(build.CannotBuild, match=f"{said}.*: export the model again"):
        build.build_model(repository / "m", repository.parent / "out" / "m", None)


def test_what_is_not_built_leaves_the_earlier_one(module: Module, repository: Path) -> None:
    """A Triton may be serving it."""
    before = _built(module, repository)
    (repository / "m/2/SHA256SUMS").write_text(f"{'0' * 64}  weights\n")
    build = module("tollgate_models.build")
    with pytest.raises(build.CannotBuild):
        build.build_model(repository / "m", repository.parent / "out" / "m", None)
    assert {
        str(path.relative_to(repository.parent / "out/m")) for path in repository.parent.glob("out/m/[0-9]/*")
    } == before
    (repository / "m/2/SHA256SUMS").unlink()
    assert _built(module, repository) == before
    assert [path.name for path in (repository.parent / "out").iterdir()] == ["m"]


def test_what_a_registry_had_is_built_and_not_what_is_trained_here(
    module: Module, repository: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (repository / "m/1/train.py").write_text("")
    trained = repository.parent / "trained"
    trained.mkdir()
    (trained / "weights").write_text("trained")
    build, artefact = module("tollgate_models.build"), module("tollgate_models.artefact")
    monkeypatch.setattr(build, "trained", lambda _: trained)
    build.build_model(repository / "m", repository.parent / "out/m", None)
    assert (repository.parent / "out/m/1/weights").read_text() == "trained"
    for name, content in {"weights": "promoted", "promoted.json": "{}"}.items():
        (repository / "m/1" / name).write_text(content)
    artefact.seal(repository / "m/1", ["weights", "promoted.json"])
    build.build_model(repository / "m", repository.parent / "out/m", None)
    assert (repository.parent / "out/m/1/weights").read_text() == "promoted"
    (repository / "m/1/weights").write_text("changed")
    with pytest.raises(build.CannotBuild, match="is not what SHA256SUMS says"):
        build.build_model(repository / "m", repository.parent / "out/m", None)


def _keys(place: Path) -> tuple[Path, Path]:
    """PEM files: a private key, and its public one."""
    key = Ed25519PrivateKey.generate()
    private, public = place / "private.pem", place / "public.pem"
    private.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.mark.parametrize("harm", ["none", "unsigned", "sums", "other key", "other version", "other model", "no key"])
def test_only_what_is_signed_for_this_version_of_this_model_is_built(
    module: Module, repository: Path, tmp_path: Path, harm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, artefact = module("tollgate_models.build"), module("tollgate_models.artefact")
    (private, public), version = _keys(tmp_path), repository / "m/2"
    (version / "weights").write_text("1")
    signed = {"other version": repository / "m/3", "other model": repository / "n/2"}.get(harm, version)
    if signed != version:
        shutil.copytree(version, signed)
    artefact.seal(signed, ["weights"], None if harm == "unsigned" else private)
    if signed != version:
        shutil.copytree(signed, version, dirs_exist_ok=True)
        shutil.rmtree(signed)
    if harm == "sums":
        (version / "weights").write_text("2")
        artefact.seal(version, ["weights"])  # the signature stays
    elif harm == "other key":
        (tmp_path / "another").mkdir()
        public = _keys(tmp_path / "another")[1]
    elif harm == "no key":
        public = private
    monkeypatch.setenv("TOLLGATE_MODELS_PUBLIC_KEY", str(public))
    if harm == "none":
        assert "2/weights" in _built(module, repository)
        return
    said = {"unsigned": "is not signed", "no key": "has no Ed25519 public key in PEM: openssl pkey"}
    with pytest.raises(build.CannotBuild, match=said.get(harm, "is signed with another key .* or was changed")):
        build.build_model(repository / "m", repository.parent / "out" / "m", None)


@pytest.mark.parametrize("content", ["", "-----BEGIN PUBLIC KEY-----", None])
def test_what_is_no_key_to_sign_with_is_told(module: Module, tmp_path: Path, content: str | None) -> None:
    artefact = module("tollgate_models.artefact")
    if content is not None:
        (tmp_path / "key.pem").write_text(content)
    with pytest.raises(
        artefact.CannotBuild, match=r"SIGNING_KEY: .*key\.pem has no Ed25519 private key .* openssl genpkey"
    ):
        artefact.seal(tmp_path, [], tmp_path / "key.pem")
