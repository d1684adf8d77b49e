"""The variables of conditions, their types, and how they are handed to CEL within bounds."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from operator import attrgetter
from typing import Any

from cel_expr_python import cel
from google.protobuf.descriptor_pool import DescriptorPool
from msgspec import Struct, field

from ext_authz.errors import TollgateError

MAX_ITEMS = 300
"""Members of lists and maps in one evaluation; with more, a condition cannot be evaluated."""
MAX_TEXT = 4096
"""Characters of one text."""
MAX_TEXTS = 32_768
"""Characters of all texts in one variable: the most that a token can have."""


class Caller(Struct, frozen=True):
    """`identity`: the caller. On a public route all defaults."""

    subject: str = ""
    client: str = ""
    issuer: str = ""
    """The policy's short name of the issuer."""
    roles: Collection[str] = ()
    scopes: Collection[str] = ()
    groups: Collection[str] = ()
    audiences: Collection[str] = ()
    claims: Mapping[str, Any] = field(default_factory=dict)
    """The claims that the policy keeps; lists of texts are lists."""


class Call(Struct, frozen=True):
    """`request`: the HTTP or gRPC call."""

    method: str = ""
    host: str = ""
    path: str = ""
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    """By lower-case name. Leave out what carries credentials."""
    source: str = ""
    is_grpc: bool = False


class Target(Struct, frozen=True):
    """`model`: what is called; `operation` and `right` as in `kserve.py`."""

    name: str | None = ""
    """None, as the version: the call can reach every model, so it has no single one."""
    version: str | None = ""
    """Empty: the caller names none, so it may be any."""
    operation: str = ""
    right: str = ""


class Moment(Struct, frozen=True):
    """`time`: now, in UTC, from the `Clock`."""

    epoch: int = 0
    """Whole seconds since 1970."""

    @property
    def hour(self) -> int:
        """0 to 23."""
        return self.epoch // 3600 % 24

    @property
    def weekday(self) -> int:
        """1 is Monday, 7 is Sunday (ISO 8601)."""
        return (self.epoch // 86_400 + 3) % 7 + 1


class Variables(Struct, frozen=True):
    """Everything a condition can read."""

    identity: Caller = Caller()
    request: Call = Call()
    model: Target = Target()
    time: Moment = Moment()


class EvaluationError(TollgateError):
    """A variable is too large to be evaluated in bounded time, or has no single value."""


def _unchanged(_name: str, value: object, _keys: Keys) -> object:
    return value


def _text(name: str, value: str, _keys: Keys) -> str:
    if len(value) > MAX_TEXT:
        raise EvaluationError(f"{name} is longer than {MAX_TEXT} characters")
    return value


def _of_one_model(name: str, value: str | None, _keys: Keys) -> str:
    if value is None:
        raise EvaluationError(f"this call can reach every model, so {name} has no single value")
    return value


def _texts(name: str, value: Collection[str], _keys: Keys) -> list[str]:
    if len(value) > MAX_ITEMS:
        raise EvaluationError(f"{name} has more than {MAX_ITEMS} members")
    _ensure_short(name, value)
    return sorted(value)  # sets have no order of their own, and one request has one answer


def _members(name: str, value: Mapping[str, Any], keys: Keys) -> dict[str, Any]:
    chosen = dict(value) if keys is None else {key: value[key] for key in keys if key in value}
    left, texts = MAX_ITEMS, []
    waiting: list[object] = [chosen]
    while waiting:
        item = waiting.pop()
        if isinstance(item, str):
            texts.append(item)
        elif isinstance(item, dict | list):
            left -= len(item)
            if left < 0:
                raise EvaluationError(f"{name} has more than {MAX_ITEMS} members")
            waiting.extend(item)
            waiting.extend(item.values() if isinstance(item, dict) else ())
    _ensure_short(name, texts)
    return chosen


def _ensure_short(name: str, texts: Collection[str]) -> None:
    for text in texts:
        _text(name, text, None)
    if sum(map(len, texts)) > MAX_TEXTS:
        raise EvaluationError(f"{name} is longer than {MAX_TEXTS} characters in all")


Keys = frozenset[str] | None
"""The only members of a map that a condition reads; None: all of them."""
_HandOver = Callable[[str, Any, Keys], Any]

_STRING = (cel.Type.STRING, _text)
_STRINGS = (cel.Type.List(cel.Type.STRING), _texts)
_NUMBER = (cel.Type.INT, _unchanged)

_VARIABLES: Mapping[str, tuple[Any, _HandOver]] = {
    "identity.subject": _STRING,
    "identity.client": _STRING,
    "identity.issuer": _STRING,
    "identity.roles": _STRINGS,
    "identity.scopes": _STRINGS,
    "identity.groups": _STRINGS,
    "identity.audiences": _STRINGS,
    "identity.claims": (cel.Type.Map(cel.Type.STRING, cel.Type.DYN), _members),
    "request.method": _STRING,
    "request.host": _STRING,
    "request.path": _STRING,
    "request.query": _STRING,
    "request.headers": (cel.Type.Map(cel.Type.STRING, cel.Type.STRING), _members),
    "request.source": _STRING,
    "request.is_grpc": (cel.Type.BOOL, _unchanged),
    "model.name": (cel.Type.STRING, _of_one_model),
    "model.version": (cel.Type.STRING, _of_one_model),
    "model.operation": _STRING,
    "model.right": _STRING,
    "time.epoch": _NUMBER,
    "time.hour": _NUMBER,
    "time.weekday": _NUMBER,
}

NAMES = frozenset(_VARIABLES)
"""Every variable, by the dotted name that a condition uses."""
LISTS = frozenset(name for name, (kind, _) in _VARIABLES.items() if kind is _STRINGS[0])
MAPS = frozenset({"identity.claims", "request.headers"})
"""The variables whose members have names."""

# A descriptor pool of its own: the meaning of a condition must not depend on which messages this process has loaded.
ENVIRONMENT = cel.NewEnv(DescriptorPool(), variables={name: kind for name, (kind, _) in _VARIABLES.items()})


def binding(name: str, keys: Keys) -> Callable[[Variables], Any]:
    """A function that takes one variable and hands it to CEL; it raises EvaluationError."""
    take, hand_over = attrgetter(name), _VARIABLES[name][1]
    return lambda variables: hand_over(name, take(variables), keys)
