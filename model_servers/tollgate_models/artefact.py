"""What training writes into a version's directory, and `SHA256SUMS`, which `sha256sum --check` reads too.

Who promotes a model may sign that file with Ed25519, for one version of one model: its signature is of no use to
another. The code that reads the artefact is not signed: that is the checkout's.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from tollgate_models.environments import CannotBuild

SUMS, SIGNATURE = "SHA256SUMS", "SHA256SUMS.sig"


def seal(directory: Path, names: Iterable[str], key: Path | None = None) -> None:
    """`key`: a PEM file with an Ed25519 private key.

    Raises:
        CannotBuild: it is none.
    """
    signing = _private(key) if key else None
    sums = "".join(f"{_sum(directory / name)}  {name}\n" for name in sorted(names)).encode()
    if signing:
        (directory / SIGNATURE).write_bytes(signing.sign(_signed(directory, sums)))
    (directory / SUMS).write_bytes(sums)


def verify(directory: Path, key: Path | None = None) -> None:
    """`key`: a PEM file with the Ed25519 public key of who may promote; None: signatures are not asked for.

    Raises:
        CannotBuild: a file is not what was exported, or it is not signed with that key.
    """
    sums = (directory / SUMS).read_bytes()
    if key:
        _verify_signature(directory, sums, _public(key))
    for line in sums.decode().splitlines():
        wanted, _, name = line.partition("  ")
        path = directory / name
        if Path(name).name != name or not path.is_file():
            raise CannotBuild(f"{path} is missing: export the model again")
        if _sum(path) != wanted:
            raise CannotBuild(f"{path} is not what {SUMS} says: export the model again")


def _verify_signature(directory: Path, sums: bytes, key: Ed25519PublicKey) -> None:
    try:
        key.verify((directory / SIGNATURE).read_bytes(), _signed(directory, sums))
    except OSError:
        raise CannotBuild(
            f"{directory} is not signed, and TOLLGATE_MODELS_PUBLIC_KEY asks for that: promote the model with "
            "TOLLGATE_MODELS_SIGNING_KEY"
        ) from None
    except InvalidSignature:
        raise CannotBuild(
            f"{directory} is signed with another key than that of TOLLGATE_MODELS_PUBLIC_KEY, or was changed: "
            "promote the model again"
        ) from None


def _signed(directory: Path, sums: bytes) -> bytes:
    return f"tollgate model {directory.parent.name} {directory.name}\n".encode() + sums


def _private(path: Path) -> Ed25519PrivateKey:
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise CannotBuild(
            f"TOLLGATE_MODELS_SIGNING_KEY: {path} has no Ed25519 private key without a password in PEM: "
            f"openssl genpkey -algorithm ed25519 -out {path}"
        )
    return key


def _public(path: Path) -> Ed25519PublicKey:
    try:
        key = load_pem_public_key(path.read_bytes())
    except (OSError, ValueError):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise CannotBuild(
            f"TOLLGATE_MODELS_PUBLIC_KEY: {path} has no Ed25519 public key in PEM: "
            f"openssl pkey -in PRIVATE_KEY -pubout -out {path}"
        )
    return key


def _sum(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
