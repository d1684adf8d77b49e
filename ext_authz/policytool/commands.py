"""`tollgate policy` and `tollgate explain`: what an operator does with a policy besides serving it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import click
from msgspec import to_builtins

from ext_authz.errors import ConfigError
from ext_authz.policy.documents import policy_schema
from ext_authz.policy.faults import Fault, rendered, rendered_json
from ext_authz.policy.load import examine, load_policy
from ext_authz.policy.model import Policy
from ext_authz.policytool import control
from ext_authz.policytool.case_files import CaseFile, read_cases
from ext_authz.policytool.cases import CasesDocument
from ext_authz.policytool.comparison import Comparison, compare
from ext_authz.policytool.comparison_text import lines as comparison_lines
from ext_authz.policytool.explain_text import lines as account_lines
from ext_authz.policytool.explanation import explained
from ext_authz.policytool.question import Question, asked, headers, written
from ext_authz.policytool.recorded import LedgerFile, ledger_of_postgres
from ext_authz.policytool.report import lines, write_junit
from ext_authz.policytool.runner import run
from ext_authz.policytool.structure import structural_differences
from ext_authz.policytool.structure_text import lines as structure_lines
from ext_authz.policytool.structure_text import substituted
from ext_authz.policytool.warnings import warnings_of
from ext_authz.render.commands import render
from ext_authz.revocation.target import StandardInput, bare

_FAULTY = 2

_POSTGRESQL = "postgresql"

_TIME = click.DateTime(["%Y-%m-%dT%H:%M:%SZ", "%Y-%m-%d"])
_file = click.Path(exists=True, path_type=Path)


@click.group()
def policy() -> None:
    """Check, test, explain and compare policies."""


for command in (render, control.status, control.differences, control.reload):
    policy.add_command(command)


@policy.command()
@click.argument("path", type=_file)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
@click.option("--strict", is_flag=True, help="Exit with 1 where there are warnings.")
@click.pass_context
def check(context: click.Context, path: Path, form: str, *, strict: bool) -> None:
    """Tell all that is wrong with a policy, and what is right but dangerous.

    Exit code 0: it can be served. 1: it has warnings, with --strict. 2: it has faults.
    """
    loaded = examine(path, os.environ)
    warnings = warnings_of(loaded)
    _tell((*loaded.faults, *warnings), form, good=loaded.policy is not None)
    if loaded.policy is None:
        context.exit(_FAULTY)
    context.exit(1 if strict and warnings else 0)


def _tell(faults: Sequence[Fault], form: str, *, good: bool) -> None:
    if form == "json":
        click.echo(rendered_json(faults))
        return
    for fault in faults:
        click.echo(rendered(fault))
    if good:
        click.echo(f"good, with {_counted(len(faults), 'warning')}" if faults else "good")
    else:
        click.echo(_counted(len(faults), "fault"))


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


@policy.command()
@click.option("--tests", is_flag=True, help="Of files of policy tests instead.")
def schema(*, tests: bool) -> None:
    """Print the JSON Schema of policy.yaml, for editors: they complete and check what is written."""
    click.echo(json.dumps(CasesDocument.model_json_schema() if tests else policy_schema(), indent=2))


@policy.command()
@click.argument("paths", type=_file, nargs=-1, required=True)
@click.option("--policy", "instead", type=_file, help="Test this policy, not those that the files name.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Also write the outcome as JUnit XML.")
@click.pass_context
def test(context: click.Context, paths: Sequence[Path], instead: Path | None, junit: Path | None) -> None:
    """Run tests of a policy: files of YAML, or directories of them.

    Exit code 0: all passed. 1: some failed. 2: the tests or the policy have faults.
    """
    cases = read_cases(paths)
    if cases.faults:
        _tell(cases.faults, "text", good=False)
        context.exit(_FAULTY)
    outcomes = [outcome for file in cases.files for outcome in asyncio.run(run(file, _policy_of(file, instead)))]
    for line in lines(outcomes):
        click.echo(line)
    if junit:
        write_junit(junit, outcomes)
    context.exit(0 if all(outcome.passed for outcome in outcomes) else 1)


def _policy_of(file: CaseFile, instead: Path | None) -> Policy:
    path = instead or file.policy
    if path is None:
        raise ConfigError(f"{file.path}: say which policy this tests: policy: ../policy.yaml, or --policy")
    return load_policy(path, os.environ | file.document.environment)


@policy.command()
@click.argument("method")
@click.argument("path")
@click.option("--policy", "file", type=_file, envvar="TOLLGATE_POLICY", required=True, help="Or TOLLGATE_POLICY.")
@click.option("--host", default="models.example", show_default=True)
@click.option("--header", "-H", "given", multiple=True, metavar="NAME:VALUE")
@click.option("--claims", default="", metavar="JSON|@FILE", help="A caller in a few words, or a token's payload.")
@click.option("--token", type=StandardInput(), help="Read a token from standard input; it is never printed.")
@click.option("--verify", is_flag=True, help="Verify the token with the keys of its issuer.")
@click.option("--grpc", is_flag=True, help="The caller speaks gRPC.")
@click.option("--model", help="With --grpc: model_name in the message.")
@click.option("--version", help="With --grpc: model_version in the message.")
@click.option("--source", default="192.0.2.1", show_default=True, help="Address of the TCP peer.")
@click.option("--time", type=_TIME, help="When it is; default: now.")
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(
    method: str,
    path: str,
    file: Path,
    host: str,
    given: Sequence[str],
    claims: str,
    token: str | None,
    model: str | None,
    version: str | None,
    source: str,
    time: datetime | None,
    form: str,
    *,
    verify: bool,
    grpc: bool,
) -> None:
    """Account for what a policy does with a request, phase by phase.

    No store is asked: counters start at zero, and nothing is revoked. Exit code 0, whatever the decision is.
    """
    if (verify and not token) or (token and claims):
        raise ConfigError("--verify goes with --token, and --token without --claims")
    request = written(method, path, host, headers(given), source, model, version, grpc=grpc)
    question = Question(request, claims, bare(token or ""), verify=verify)
    now = (time.replace(tzinfo=UTC) if time else datetime.now(UTC)).timestamp()
    account = explained(asyncio.run(asked(question, load_policy(file, os.environ), now)))
    if token and not verify:
        click.echo("the token was read UNVERIFIED: nobody checked who made it (--verify does)", err=True)
    if form == "json":
        click.echo(json.dumps(to_builtins(account), indent=2))
        return
    for line in account_lines(account):
        click.echo(line)
    click.echo("no store was asked: counters start at zero, and nothing is revoked")


@policy.command()
@click.argument("old", type=_file)
@click.argument("new", type=_file)
@click.option("--replay", metavar="LEDGER", help="A file of `tollgate usage export`; or the word postgresql.")
@click.option("--since", type=_TIME, metavar="TIME", help="With postgresql: from here on; default: a day ago.")
@click.option("--until", type=_TIME, metavar="TIME", help="With postgresql: up to here; default: now.")
@click.pass_context
def diff(
    context: click.Context, old: Path, new: Path, replay: str | None, since: datetime | None, until: datetime | None
) -> None:
    """Tell what a new policy says otherwise than an old one, and which recorded decisions it would change.

    Exit code 0: nothing; with --replay: no decision. 1: something. 2: one of the policies has faults.
    """
    before, after = examine(old, os.environ), examine(new, os.environ)
    if before.policy is None or after.policy is None:
        _tell((*before.faults, *after.faults), "text", good=False)
        context.exit(_FAULTY)
    differences = structural_differences(before.policy, after.policy)
    sources = [loaded.source for loaded in (before, after) if loaded.source]
    for line in structure_lines(differences, substituted(sources, os.environ)):
        click.echo(line)
    if not differences:
        click.echo("no difference")
    if replay is None:
        context.exit(1 if differences else 0)
    found = asyncio.run(_replayed(before.policy, after.policy, replay, since, until))
    for line in comparison_lines(found):
        click.echo(line)
    context.exit(1 if found.changed else 0)


async def _replayed(
    old: Policy, new: Policy, replay: str, since: datetime | None, until: datetime | None
) -> Comparison:
    if replay != _POSTGRESQL:
        return await _compared(old, new, LedgerFile(_existing(replay)))
    end = until.replace(tzinfo=UTC) if until else datetime.now(UTC)
    start = since.replace(tzinfo=UTC) if since else end - timedelta(days=1)
    async with ledger_of_postgres(start, end) as ledger:
        return await _compared(old, new, ledger)


def _existing(replay: str) -> Path:
    path = Path(replay)
    if not path.is_file():
        raise ConfigError(f"--replay: there is no file {replay!r}: write one of tollgate usage export, or postgresql")
    return path


async def _compared(old: Policy, new: Policy, ledger: LedgerFile) -> Comparison:
    hidden = not sys.stderr.isatty()
    with click.progressbar(length=len(ledger), label="replaying", file=sys.stderr, hidden=hidden) as bar:
        return await compare(old, new, ledger.decisions(), bar.update)
