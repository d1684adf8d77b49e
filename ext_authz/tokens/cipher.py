"""The cipher that keeps secrets of the console in Postgres: signing keys, sessions."""

from __future__ import annotations

import hashlib
import secrets
from base64 import b64decode

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ext_authz.errors import ConfigError

_TAG, _NONCE = 4, 12


class Cipher:
    """AES-256-GCM (NIST SP 800-38D) under keys of the settings: the first encrypts, all decrypt.

    Encrypted: 4 bytes that say under which key, a nonce of 12, the text with its tag. `context` is authenticated too,
    so that no ciphertext is of use in the place of another.
    """

    def __init__(self, keys: str) -> None:
        """`keys`: as in TOLLGATE_CONSOLE_KEYS, verified there."""
        raw = [b64decode(key.strip()) for key in keys.split(",")]
        self._keys = {hashlib.sha256(key).digest()[:_TAG]: AESGCM(key) for key in raw}
        self._first = next(iter(self._keys))

    def encrypt(self, plain: bytes, context: str) -> bytes:
        nonce = secrets.token_bytes(_NONCE)
        return self._first + nonce + self._keys[self._first].encrypt(nonce, plain, context.encode())

    def decrypt(self, sealed: bytes, context: str) -> bytes:
        """Raises ConfigError: none of the keys encrypted this, or it was changed."""
        key, nonce = self._keys.get(sealed[:_TAG]), sealed[_TAG : _TAG + _NONCE]
        try:
            if key is not None:
                return key.decrypt(nonce, sealed[_TAG + _NONCE :], context.encode())
        except (InvalidTag, ValueError):
            raise ConfigError(f"{context}: what Postgres holds was changed: restore it, or make a new one") from None
        raise ConfigError(
            f"{context}: no key in TOLLGATE_CONSOLE_KEYS decrypts this: add the key that it was encrypted with"
        )

    def is_current(self, sealed: bytes) -> bool:
        """Whether the first key encrypted it, so that the others could be taken out of the settings."""
        return sealed[:_TAG] == self._first
