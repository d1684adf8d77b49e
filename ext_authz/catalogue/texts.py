"""Texts of the catalogue that somebody wrote: their lengths and characters."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, StringConstraints

Text = Annotated[str, StringConstraints(min_length=1, max_length=255, pattern=r"^[^\x00-\x1f\x7f-\x9f]*$")]


def ensure_url(text: str) -> str:
    """Raises ValueError: it is not one that leads anybody anywhere."""
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username is not None:
        raise ValueError("write a URL of the form https://host/path, without a password")
    return text


Url = Annotated[Text, AfterValidator(ensure_url)]
