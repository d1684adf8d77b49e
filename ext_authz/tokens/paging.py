"""Cursors: where the next page begins. Encrypted, so that nobody builds on what is in them or makes one up."""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any

from ext_authz.errors import ConfigError
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.model import NotDone, Why

LONGEST = 512
"""Characters."""
MAX_LIMIT = 200
"""Entries of a page."""


def cursor_of(cipher: Cipher, listing: str, position: list[Any]) -> str:
    """`listing`: what is listed, and which of it: the cursor of one list is wrong in another."""
    return urlsafe_b64encode(cipher.encrypt(json.dumps(position).encode(), f"cursor {listing}")).decode("ascii")


def position_of(cipher: Cipher, listing: str, cursor: str) -> list[Any] | None:
    """None for the first page.

    Raises:
        NotDone: INVALID.
    """
    if not cursor:
        return None
    try:
        sealed = urlsafe_b64decode(cursor[:LONGEST].encode("ascii"))
        position: list[Any] = json.loads(cipher.decrypt(sealed, f"cursor {listing}"))
    except (ValueError, ConfigError):
        detail = "this is no cursor of this list: send it back as it was, with the same filters, or none"
        raise NotDone(Why.INVALID, detail, "cursor") from None
    return position


def ensure_limit(limit: int) -> None:
    """Raises NotDone (INVALID)."""
    if not 1 <= limit <= MAX_LIMIT:
        raise NotDone(Why.INVALID, f"a page has 1 to {MAX_LIMIT} entries", "limit")
