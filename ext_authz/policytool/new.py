"""`tollgate policy new`: a commented policy to start from, its tests, and the schema for editors."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from string import Template
from typing import Any

import click
from click.core import ParameterSource
from pydantic import TypeAdapter, ValidationError

from ext_authz.errors import ConfigError
from ext_authz.policy.documents.base import PERIODS, HttpUrl, Rate, Text, rate, shape
from ext_authz.policy.documents.models import ModelName
from ext_authz.policy.documents.schema import policy_schema
from ext_authz.policy.validation import flow

_STARTER = Path(__file__).with_name("starter")
_SCHEMA = "policy.schema.json"


class _Form(click.ParamType[str]):
    """A value as the policy takes it."""

    def __init__(self, name: str, form: Any) -> None:  # noqa: ANN401 - a type hint is any object
        self.name = name
        self._form = form

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        if "$" in value:
            self.fail("write the value itself: ${NAME} can be put into the policy afterwards", param, ctx)
        try:
            return str(TypeAdapter(self._form).validate_python(value))
        except ValidationError as wrong:
            error = wrong.errors()[0]
            by_validator = error["type"] == "value_error"
            text = f"{value!r} does not have the right form: write {shape(self._form).text}"
            self.fail(error["msg"].removeprefix("Value error, ") if by_validator else text, param, ctx)


_TEXT, _MODEL = _Form("text", Text), _Form("name", ModelName)


_ASKED = "ext_authz.policytool.new"
"""In the `meta` of a context in which a question was asked: then there is one for each option."""


def _asked(question: str, example: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback of click that asks for what is missing, on a terminal."""

    def value(context: click.Context, parameter: click.Parameter, given: Any) -> Any:  # noqa: ANN401 - click's
        if given or context.resilient_parsing:
            return given
        if not sys.stdin.isatty():
            raise click.MissingParameter(f"For example {example}.", context, parameter)
        context.meta[_ASKED] = True
        kind = partial(_each, context, parameter) if parameter.multiple else parameter.type
        return click.prompt(f"{question}, for example {example}", value_proc=kind, err=True)

    return value


def _proposed(question: str) -> Callable[[click.Context, click.Parameter, Any], Any]:
    """A callback that asks for what has a default, but only who is asked for something anyway."""

    def value(context: click.Context, parameter: click.Parameter, given: Any) -> Any:  # noqa: ANN401 - click's
        by_default = context.get_parameter_source(str(parameter.name)) is ParameterSource.DEFAULT
        if not (by_default and _ASKED in context.meta):
            return given
        if isinstance(given, bool):
            return click.confirm(question, default=given, err=True)
        return click.prompt(question, default=given, type=parameter.type, err=True)

    return value


def _each(context: click.Context, parameter: click.Parameter, text: str) -> tuple[str, ...]:
    return tuple(_MODEL.convert(word, parameter, context) for word in text.replace(",", " ").split())


def _new_file(context: click.Context, parameter: click.Parameter, path: Path | None) -> Path | None:
    """Before anything is asked."""
    if path:
        _ensure_new(path, _tests_of(path))
        folder = path.parent if path.parent.exists() else path.parent.parent
        if not folder.is_dir():
            raise ConfigError(f"cannot write {path}: there is no folder {folder}, create it first")
        if not os.access(folder, os.W_OK):
            raise ConfigError(f"cannot write {path}: this user may not write to the folder {folder}")
    return path


def _tests_of(policy: Path) -> Path:
    return policy.parent / "tests" / policy.name


@click.command(short_help="Write a commented policy to start from.")
@click.option(
    "--issuer",
    type=_Form("url", HttpUrl),
    callback=_asked("Issuer (the claim iss of the tokens)", "https://id.example/realms/ml"),
    help="The claim iss of the tokens.",
)
@click.option(
    "--audience",
    type=_TEXT,
    callback=_asked("Audience (in the claim aud of the tokens)", "triton-gateway"),
    help="A value in the claim aud of the tokens.",
)
@click.option(
    "--model",
    "models",
    type=_MODEL,
    multiple=True,
    callback=_asked("Models, separated by blanks", "sentiment"),
    help="The name of a model, or a pattern with *. Several times: several.",
)
@click.option(
    "--role",
    type=_TEXT,
    default="infer",
    show_default=True,
    callback=_proposed("Role of callers who may call them"),
    help="Callers who have it may call the models.",
)
@click.option(
    "--limit",
    type=_Form("rate", Rate),
    default="10/minute",
    show_default=True,
    callback=_proposed("How often each user may call"),
    help="How often each user may call.",
)
@click.option(
    "--usernames",
    is_flag=True,
    callback=_proposed("Store the names of users, so that operators find their calls by name?"),
    help="Store the names of users with their calls, so that operators find them by name.",
)
@click.option(
    "--out",
    "output",
    type=click.Path(dir_okay=False, path_type=Path),
    is_eager=True,
    callback=_new_file,
    help="Write to this file.",
)
def new(
    *, issuer: str, audience: str, models: Sequence[str], role: str, limit: str, usernames: bool, output: Path | None
) -> None:
    """Write a commented policy to start from.

    What is missing is asked for on a terminal. The policy is printed; with --out FILE it is written, with tests in
    tests/FILE, and policy.schema.json for editors. No file is overwritten.
    """
    number, period = rate(limit)
    file = (output or Path("policy.yaml")).name
    values = {
        "file": file,
        "schema": _SCHEMA,
        "issuer": flow(issuer),
        "audiences": flow([audience]),
        "roles": flow([role]),
        "rate": limit if period in PERIODS else f"{limit}, algorithm: calendar",
        "models": "\n".join(f"  {flow(model)}: {flow({'roles': [role]})}" for model in dict.fromkeys(models)),
        "usernames": "" if usernames else "# ",
        "model": models[0].replace("*", "x"),
        "name": flow(models[0].replace("*", "x")),
        "number": str(number),
    }
    policy, tests = (_filled(name, values) for name in ("policy.yaml", "tests.yaml"))
    if output is None:
        click.echo(policy, nl=False)
        return
    _write({output: policy, _tests_of(output): tests})
    if not (schema := output.with_name(_SCHEMA)).exists():
        _write({schema: json.dumps(policy_schema(), indent=2) + "\n"})
    click.echo(f"next: tollgate policy check {output} && tollgate policy test {_tests_of(output)}")


def _filled(name: str, values: Mapping[str, str]) -> str:
    return Template((_STARTER / name).read_text()).substitute(values)


def _ensure_new(*paths: Path) -> None:
    if taken := [path for path in paths if path.exists()]:
        raise ConfigError(f"{taken[0]} exists already: write to another file, or remove it")


def _write(files: Mapping[Path, str]) -> None:
    """All of them, or none if one is there already."""
    _ensure_new(*files)
    for path, text in files.items():
        try:
            path.parent.mkdir(exist_ok=True)
            with path.open("x") as file:
                file.write(text)
        except OSError as error:
            raise ConfigError(f"cannot write {path}: {error.strerror}") from None
