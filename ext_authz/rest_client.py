"""The REST interface of a Tollgate that runs somewhere, for commands: called with a token from standard input."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import click

from ext_authz.command_line import C, StandardInput, bare
from ext_authz.errors import ConfigError, escaped

if TYPE_CHECKING:
    import httpx

REST = "/tollgate/api/v1"
_LOOPBACK = ("127.0.0.1", "::1", "localhost")
_SECONDS = 30.0


def rest_options(command: C) -> C:
    """--url and --jwt."""
    url = click.option("--url", required=True, metavar="URL", help="Where the models are: https://models.example.com.")
    text = "Read a token from standard input; it is never printed."
    return url(click.option("--jwt", "token", required=True, type=StandardInput(), metavar="-", help=text)(command))


@contextmanager
def rest_client(url: str, token: str) -> Iterator[httpx.Client]:
    """Raises ConfigError: no answer, or a place where no token should go."""
    import httpx

    parts = urlsplit(url)
    if not parts.hostname or not (parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in _LOOPBACK)):
        raise ConfigError("--url: write https://host, since a token is sent there (http only on loopback)")
    headers = {"authorization": f"Bearer {bare(token)}"}
    try:
        with httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=_SECONDS) as http:
            yield http
    except (httpx.HTTPError, httpx.InvalidURL, UnicodeEncodeError) as failure:
        raise ConfigError(f"--url: no answer from {escaped(url)}: {type(failure).__name__}") from None


def answer_of(http: httpx.Client, path: str, method: str = "GET", body: object = None) -> bytes:
    """Raises ConfigError with what the answer says."""
    answer = http.request(method, path, json=body)
    if answer.is_success:
        return answer.content
    try:
        detail = str(answer.json()["detail"])
    except (ValueError, KeyError, TypeError):
        detail = f"the answer is {answer.status_code}: is this where the models are?"
    raise ConfigError(escaped(detail))
