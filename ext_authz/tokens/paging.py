"""What a listing may be asked for, and cursors, which say where the next page begins.

Cursors are encrypted, so that nobody builds on what is in them or makes one up.
"""

from __future__ import annotations

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from ext_authz.errors import ConfigError
from ext_authz.identity.identity import is_text
from ext_authz.tokens.cipher import Cipher
from ext_authz.tokens.model import NotDone, Why

T = TypeVar("T")

LONGEST = 512
"""Characters."""
MAX_LIMIT = 200
"""Entries of a page."""


def page_of(
    cipher: Cipher, listing: str, found: Sequence[T], limit: int, position: Callable[[T], list[Any]]
) -> tuple[tuple[T, ...], str]:
    """Of one entry more than it may have: the page, and the cursor of the next one, empty where there is none.

    `listing`: what is listed, and which of it: the cursor of one list is wrong in another.
    """
    page = tuple(found[:limit])
    if len(found) <= limit:
        return page, ""
    last = json.dumps(position(page[-1])).encode()
    return page, urlsafe_b64encode(cipher.encrypt(last, f"cursor {listing}")).decode("ascii")


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


def ensure_listing(limit: int, **filters: str) -> None:
    """Raises NotDone (INVALID); a filter that is empty selects nothing."""
    if not 1 <= limit <= MAX_LIMIT:
        raise NotDone(Why.INVALID, f"a page has 1 to {MAX_LIMIT} entries", "limit")
    for field, text in filters.items():
        if text and not is_text(text):
            raise NotDone(Why.INVALID, "at most 255 printable characters", field)
