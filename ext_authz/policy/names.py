"""The grammar of what a caller names: path, host, model and version, over REST and gRPC.

What is not canonical is refused, never repaired: every repair has been a bypass. Triton, for one, cuts a model's name
at a NUL and reads `01`, `1abc` and `+1` as version 1. No refusal repeats what was named.
"""

from __future__ import annotations

import re
from enum import StrEnum
from urllib.parse import unquote

from ext_authz.decision import Reason
from ext_authz.errors import Denied

MAX_PATH = 1024
"""Characters."""
MAX_HOST = 261
"""Characters: a name of 255 (RFC 1035 section 2.3.4), a colon and a port."""
MODEL = r"(?!(?:\.{1,2}|-)(?:[/:]|\Z))[A-Za-z0-9_.-]{1,128}"
"""Neither a dot segment, nor `-`, which means none in a header."""
RESERVED = ".tollgate"
"""The first segment of the paths that Tollgate answers itself, on every host; no route of a policy serves them."""
CONSOLE = "tollgate"
"""The first segment of the paths of the console, likewise."""
CONSOLE_SERVICES = ("tollgate.tokens.v1.TokenService", "tollgate.revocation.v1.RevocationService")
"""Its gRPC services, likewise."""
VERSION = "[1-9][0-9]{0,17}"
"""Twenty digits overflow in Triton."""

_ESCAPE = "%(?!C2%[89])(?:2[0-46-9A-C]|3[ACDEF]|40|5[BDE]|60|7[B-D]|[89A-F][0-9A-F])"
"""An octet that may be escaped: neither unreserved (RFC 3986 section 2.3), nor `/`, `\\`, `%`, `;` or a control."""


def _paths(character: str) -> re.Pattern[str]:
    segment = rf"(?!\.{{1,2}}(?:/|\Z)){character}++"
    return re.compile(rf"/(?:{segment}(?:/{segment})*/?)?", re.ASCII)


_CHARACTER = r"[A-Za-z0-9_.~!$&'()*+,=:@-]"
_WITHOUT_ESCAPES = _paths(_CHARACTER)
_WITH_ESCAPES = _paths(f"(?:{_CHARACTER}++|{_ESCAPE})")
_HOST = re.compile(r"([A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*|\[[0-9A-Fa-f:.]{2,45}\])(?::[0-9]{1,5})?", re.ASCII)
_MODEL = re.compile(MODEL, re.ASCII)
_VERSION = re.compile(VERSION, re.ASCII)


class Encoding(StrEnum):
    """Which escapes (`%20`) a route takes in its paths, and how the upstream reads them."""

    STRICT = "strict"
    """None."""
    OPAQUE = "opaque"
    """The upstream uses paths as they are sent, and so do limits and conditions."""
    DECODED = "decoded"
    """The upstream decodes paths once, and limits and conditions read them decoded."""


def reading(method: str, path: str) -> str:
    """A canonical path as it is read by an upstream that decodes it once; without escapes the same string.

    Envoy forwards the string that is matched here, and both must see one spelling. Refused are CONNECT, `*`, `//`,
    `\\`, `;`, `#`, dot segments, control and non-ASCII characters, and most escapes: of `/`, `\\`, `%`, `;`, a control
    or unreserved character, in lower-case hex, and of octets that are not UTF-8.

    Raises:
        Denied: BAD_REQUEST, `method_refused`, `path_too_long` or `path_not_canonical`.
    """
    if method == "CONNECT":
        raise Denied(Reason.BAD_REQUEST, "method_refused", "CONNECT is not served here")
    if len(path) > MAX_PATH:
        raise Denied(Reason.BAD_REQUEST, "path_too_long", f"the path is longer than {MAX_PATH} characters")
    escaped = "%" in path
    if (_WITH_ESCAPES if escaped else _WITHOUT_ESCAPES).fullmatch(path) is None:
        raise not_canonical()
    try:
        return unquote(path, errors="strict") if escaped else path
    except UnicodeDecodeError:
        raise not_canonical() from None


def not_canonical() -> Denied:
    detail = "the path is not canonical: send it without empty or dot segments, backslashes and parameters, "
    detail += "and without escapes, or where its route takes them, in upper-case hex and only where they are needed"
    return Denied(Reason.BAD_REQUEST, "path_not_canonical", detail)


def ensure_short(host: str) -> None:
    """Raises Denied (BAD_REQUEST, `host_not_canonical`) for what is too long to be a host."""
    if len(host) > MAX_HOST:
        raise Denied(Reason.BAD_REQUEST, "host_not_canonical", f"the host is longer than {MAX_HOST} characters")


def bare_host(host: str) -> str:
    """The host without its port, in lower case: both mean the same to Envoy and to DNS (RFC 9110 section 4.2.3).

    A dot at the end is refused: it would lead the same request past the routes of its host.

    Raises:
        Denied: BAD_REQUEST, `host_not_canonical`.
    """
    found = _HOST.fullmatch(host)
    if found is None:
        raise Denied(Reason.BAD_REQUEST, "host_not_canonical", "the host is not canonical: send name or name:port")
    return found[1].lower()


def ensure_model(model: str) -> None:
    """Raises Denied (BAD_REQUEST, `model_not_canonical`) for a name that no policy can have."""
    if _MODEL.fullmatch(model) is None:
        detail = "a model's name is 1 to 128 letters, digits, _, . and -"
        raise Denied(Reason.BAD_REQUEST, "model_not_canonical", detail)


def ensure_version(version: str) -> None:
    """Only the plain spelling is accepted, or none.

    Raises:
        Denied: BAD_REQUEST, `version_not_canonical`.
    """
    if version and _VERSION.fullmatch(version) is None:
        detail = "a model's version is a whole number of at most 18 digits, without sign or leading zero"
        raise Denied(Reason.BAD_REQUEST, "version_not_canonical", detail)
