"""One call as it is passed on: read strictly, and written anew, so that MLflow reads what was checked and nothing else.

Repeated names, other spellings of a field (`experimentId`, which MLflow takes as well), a body beside a query and
escapes of escapes are refused.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from urllib.parse import parse_qsl, quote, urlencode

from msgspec import Struct
from starlette.requests import Request

from ext_authz.filter.endpoints import FIXED, MENTIONS, PATHS, Endpoint, Of, endpoint_of
from ext_authz.filter.not_served import reason
from ext_authz.filter.refusals import forbidden, too_large, unusable
from ext_authz.identity.identity import printable
from ext_authz.identity.strict_json import parse_object

BODY_BYTES = 1 << 20
"""Of a body in JSON; MLflow takes a batch of 1,000,000 bytes."""
_FIELDS = 512
"""Of a query."""
_LONGEST_PATH = 1024

_FIELD = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
_FILE_PATH = re.compile(r"(?!\.{1,2}(?:/|$))[^/\\%#?\x00-\x1f\x7f]+(?:/(?!\.{1,2}(?:/|$))[^/\\%#?\x00-\x1f\x7f]+)*")
_REPEATED = frozenset({"order_by", "run_id", "run_ids", "stages"})
"""Fields that a query may have several times; of all others MLflow reads the first, and others the last."""
_PARAMETER = re.compile(r"\{([a-z_]+)(?:=\*\*)?\}")


class Mention(Struct, frozen=True):
    """Something that a call names."""

    of: Of
    value: str


class Call(Struct, frozen=True):
    """`query` is empty where the body is read."""

    endpoint: Endpoint
    parameters: Mapping[str, str]
    query: tuple[tuple[str, str], ...] = ()
    body: Mapping[str, object] | None = None

    @property
    def target(self) -> str:
        """Path and query, with one escape of each character."""
        path = _PARAMETER.sub(lambda found: quote(self.parameters[found[1]]), self.endpoint.path)
        return f"{path}?{urlencode(self.query)}" if self.query else path

    @property
    def content(self) -> bytes | None:
        return None if self.body is None else json.dumps(self.body).encode()

    def mentions(self) -> list[Mention]:
        """Of everything that it names, each once.

        Raises:
            Refused: it names nothing that the endpoint needs, or something in another form.
        """
        named = dict(self._named())
        if self.endpoint.named and not named:
            raise unusable(f"{' or '.join(self.endpoint.named)} is missing")
        return list(dict.fromkeys([*named, *self._mentioned()]))

    def _named(self) -> Iterator[tuple[Mention, None]]:
        for name, value in self._top():
            if (of := self.endpoint.named.get(name)) and value not in ("", None, []):
                for each in _texts(name, value):
                    yield Mention(of, each), None

    def _mentioned(self) -> Iterator[Mention]:
        for name, value in (*self._top(), *_below(self.body)):
            _ensure_plain(name, value)
            if (of := MENTIONS.get(name)) and value not in ("", None, []):
                yield from (Mention(of, each) for each in _texts(name, value))

    def _top(self) -> Iterator[tuple[str, object]]:
        yield from self.parameters.items()
        yield from self.query
        yield from (self.body or {}).items()


async def read_call(request: Request, path: str) -> Call:
    """`path`: decoded, without the prefix of the door.

    Raises:
        Refused: it is not served, or can be read in two ways.
    """
    found = endpoint_of(request.method, path)
    if found is None:
        why = reason(path) or "it is not known"
        raise forbidden(f"{request.method} {printable(path)} is not served: {why}")
    endpoint, parameters = found
    query = _query(request.url.query)
    if endpoint.reads_query:
        return Call(endpoint, parameters, query)
    if query:
        raise unusable("this endpoint reads its body: send no query")
    return Call(endpoint, parameters, body=_object(await bounded_body(request)))


async def bounded_body(request: Request) -> bytes:
    body = b""
    async for chunk in request.stream():
        body += chunk
        if len(body) > BODY_BYTES:
            raise too_large(BODY_BYTES)
    return body


def _query(text: str) -> tuple[tuple[str, str], ...]:
    try:
        query = parse_qsl(
            text, keep_blank_values=True, strict_parsing=bool(text), errors="strict", max_num_fields=_FIELDS
        )
    except ValueError:
        raise unusable("the query is not of the form name=value&name=value, in UTF-8") from None
    names = [name for name, _ in query]
    for name in names:
        _ensure_field(name)
        if name not in _REPEATED and names.count(name) > 1:
            raise unusable(f"the query has {name} twice")
    return tuple(query)


def _object(body: bytes) -> dict[str, object]:
    """An empty body is an object without fields."""
    try:
        found = parse_object(body) if body else {}
    except (ValueError, RecursionError):
        raise unusable("the body is not one JSON object without repeated names") from None
    for name in (*found, *(name for name, _ in _below(found))):
        _ensure_field(name)
    return found


def _ensure_field(name: str) -> None:
    if not _FIELD.fullmatch(name):
        raise unusable("names of fields have lower-case letters, digits and _")


def _ensure_plain(name: str, value: object) -> None:
    if name in FIXED and value not in ("", None):
        raise unusable(f"{name} may not be chosen: leave it out")
    if name in PATHS and value not in ("", None):
        ensure_file_path(value)


def ensure_file_path(value: object) -> None:
    """Raises Refused."""
    if not isinstance(value, str) or len(value) > _LONGEST_PATH or not _FILE_PATH.fullmatch(value):
        raise unusable("a path has names separated by /, without . and .. as names, and without \\ % # ? and controls")


def _below(value: object) -> Iterator[tuple[str, object]]:
    """All fields of an object and of what is in it."""
    children = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    if isinstance(value, Mapping):
        yield from value.items()
    for child in children:
        yield from _below(child)


def _texts(name: str, value: object) -> list[str]:
    values = value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) for each in values):
        raise unusable(f"{name} is not a text")
    return [str(each) for each in values]
