"""Settings from the environment, an env file and a running stack: validated whole, with every error in one sentence.

All names carry the prefix TOLLGATE_, and no others may: a misspelt one would be a setting left out, such as the CA that
makes clients show a certificate.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Collection, Iterator, Mapping
from enum import StrEnum
from pathlib import Path
from typing import ClassVar, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from ext_authz.errors import ConfigError
from ext_authz.running_stack import running_stack

PREFIX = "TOLLGATE_"
ENV_FILE = "TOLLGATE_ENV_FILE"
"""The option --env-file of all commands sets it."""

_STORES = frozenset(PREFIX + name for name in ("DATABASE_URL", "DATABASE_DIRECT_URL", "REDIS_URL", "REDIS_SHARDS"))
"""Who sets one of them means another deployment than the running stack: then nothing is taken from that."""

_RENAMED = {
    "TOLLGATE_SHADOW_POLICY": "TOLLGATE_CANDIDATE_POLICY",
    "TOLLGATE_SHADOW_SAMPLE": "TOLLGATE_CANDIDATE_SAMPLE",
}

# What Kubernetes sets in every container of a namespace for a Service whose name begins with tollgate, unless the pod
# sets enableServiceLinks: false. One named tollgate-admin even has a name of ours: TOLLGATE_ADMIN_PORT=tcp://...
_SERVICE_LINK = re.compile(
    r"TOLLGATE_(?:[A-Z0-9_]+_)?(?:"
    r"(?:SERVICE_HOST|PORT_[0-9]+_(?:TCP|UDP|SCTP)_ADDR)=[0-9A-Fa-f.:]+"
    r"|(?:SERVICE_PORT(?:_[A-Z0-9_]+)?|PORT_[0-9]+_(?:TCP|UDP|SCTP)_PORT)=[0-9]+"
    r"|PORT(?:_[0-9]+_(?:TCP|UDP|SCTP))?=(?:tcp|udp|sctp)://[0-9A-Fa-f.:\[\]]+"
    r"|PORT_[0-9]+_(?:TCP|UDP|SCTP)_PROTO=(?:tcp|udp|sctp))"
)


class Source(StrEnum):
    """Where a value comes from. A name may be in one of the first two; the next ones are used where
    neither has it."""

    ENVIRONMENT = "environment"
    ENV_FILE = "env file"
    RUNNING_STACK = "running stack"
    DEFAULT = "default"


class Value(NamedTuple):
    """A setting as it is written."""

    text: str
    source: Source


class FromEnvironment(BaseModel):
    """Settings by the names of their fields; made by `read_settings`."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, hide_input_in_errors=True)

    empty_is_unset: ClassVar[bool] = False
    """Else an empty value is wrong: it is what is left of a variable that somebody forgot to set."""
    beside_stack: ClassVar[bool] = False
    """Of commands that ask or change what is running: a running stack is a source of their settings."""


S = TypeVar("S", bound=FromEnvironment)


def read_settings(kind: type[S], overrides: Mapping[str, object] | None, others: Collection[str]) -> S:
    """`overrides`, by field, win. `others`: fields of other classes of settings, which may be set too.

    Raises:
        ConfigError: one sentence that names every wrong setting and never shows a secret.
    """
    known = {variable(name) for name in {*kind.model_fields, *others}}
    values, wrong = read_sources(known, beside_stack=kind.beside_stack)
    given: dict[str, object] = {
        name: values[variable(name)].text for name in kind.model_fields if variable(name) in values
    }
    if kind.empty_is_unset:
        given = {name: value for name, value in given.items() if value}
    wrong += [f"{variable(name)}: is empty: unset it, or write a value" for name, value in given.items() if not value]
    try:
        settings = kind.model_validate({**given, **(overrides or {})})
    except ValidationError as invalid:
        relevant = (error for error in invalid.errors() if not error["loc"] or given.get(str(error["loc"][0])) != "")
        wrong += [_sentence(kind, error) for error in relevant]
    if wrong:
        raise ConfigError("; ".join(wrong))
    return settings


def read_sources(known: Collection[str], *, beside_stack: bool) -> tuple[dict[str, Value], list[str]]:
    """Every variable that a source has, from the first one that has it; and what is wrong with their names.

    Raises:
        ConfigError: the env file cannot be read.
    """
    environ = {name: value for name, value in os.environ.items() if not _SERVICE_LINK.fullmatch(f"{name}={value}")}
    file = env_file()
    filed = read_env_file(file) if file else {}
    wrong = [f"{name}: is set in the environment and in {file}: set it once" for name in filed if name in environ]
    wrong += _unknown_names({**environ, **filed}, known)
    stack = _stack_beside(environ, filed) if beside_stack else {}
    ordered = ((stack, Source.RUNNING_STACK), (filed, Source.ENV_FILE), (environ, Source.ENVIRONMENT))
    return {name: Value(text, source) for values, source in ordered for name, text in values.items()}, wrong


def _stack_beside(environ: Mapping[str, str], filed: Mapping[str, str]) -> Mapping[str, str]:
    return {} if _STORES & {*environ, *filed} else running_stack()


def policy_variables() -> Mapping[str, str]:
    """For `${NAME}` in the policy of commands beside a running stack."""
    file = env_file()
    return {**_stack_beside(os.environ, read_env_file(file) if file else {}), **os.environ}


def env_file() -> Path | None:
    """The file of settings beside the environment."""
    file = os.environ.get(ENV_FILE)
    if file == "":
        raise ConfigError(f"{ENV_FILE}: is empty: unset it, or write a value")
    return Path(file) if file else None


def read_env_file(path: Path) -> dict[str, str]:
    """Lines of NAME=VALUE, the value as it stands; empty lines and those that begin with # are left out.

    Raises:
        ConfigError: names the line that is wrong.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as failure:
        raise ConfigError(f"{path}: cannot be read ({getattr(failure, 'strerror', 'not UTF-8')})") from None
    values: dict[str, str] = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, equals, value = line.partition("=")
        if not equals or not name.startswith(PREFIX):
            raise ConfigError(f"{path}:{number}: write a setting as TOLLGATE_NAME=VALUE")
        if name in values:
            raise ConfigError(f"{path}:{number}: {name} is set a second time: keep one of them")
        if value[:1] in ("'", '"'):
            raise ConfigError(f"{path}:{number}: write the value without quotes")
        values[name] = value.rstrip()
    return values


def variable(field: str) -> str:
    return PREFIX + field.upper()


def _unknown_names(environ: Mapping[str, str], known: Collection[str]) -> Iterator[str]:
    """Also those that only just miss the prefix."""
    for name in sorted(environ.keys() - known):
        if name in _RENAMED:
            yield f"{name}: is now called {_RENAMED[name]}"
            continue
        if "TOLL" not in name.upper() and "GATE" not in name.upper():
            continue
        begins = name.upper().startswith(PREFIX)
        start = len(PREFIX) if begins else 0  # what all names begin with would make all of them similar
        whole = {each[start:]: each for each in known}
        near = difflib.get_close_matches(name.upper()[start:64], whole, n=1, cutoff=0.7 if begins else 0.9)
        if begins or near:
            hint = f"did you mean {whole[near[0]]}?" if near else "`tollgate settings` lists them"
            yield f"{name[:64]}: no setting has this name: {hint}"


def _sentence(kind: type[FromEnvironment], error: ErrorDetails) -> str:
    text = error["msg"].removeprefix("Value error, ")
    if not error["loc"]:
        return text
    field = str(error["loc"][0])
    if error["type"] == "missing":
        return f"{variable(field)}: is required: {kind.model_fields[field].description}"
    return f"{variable(field)}: {text[:1].lower()}{text[1:]}"
