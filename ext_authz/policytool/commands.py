"""`tollgate policy`: what an operator does with a policy besides serving it."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ext_authz.command_line import POLICY_FILE, STANDARD_INPUT, Lazy, LazyGroup, policy_or_setting
from ext_authz.errors import ConfigError, TollgateError
from ext_authz.report import Time

if TYPE_CHECKING:
    import httpx

    from ext_authz.policy.faults import Fault
    from ext_authz.policy.model import Policy
    from ext_authz.policytool.cases import CaseFile
    from ext_authz.policytool.comparison import Comparison
    from ext_authz.policytool.replay import LedgerFile

_FAULTY = 2
_SECONDS = 60.0
"""A reload compiles a policy and waits until every worker holds it."""

_POSTGRESQL = "postgresql"

_file = click.Path(exists=True, path_type=Path)


_ELSEWHERE = {
    "explain": Lazy(
        "ext_authz.policytool.explain_commands:explain_request",
        "Explain what a policy does with a request, phase by phase.",
    ),
    "new": Lazy("ext_authz.policytool.new:new", "Write a commented policy to start from."),
    "render": Lazy("ext_authz.render.commands:render", "Write the configuration of Envoy or Istio for a policy."),
}


@click.group(cls=LazyGroup, lazy=_ELSEWHERE)
def policy() -> None:
    """Check, test, explain and compare policies."""


def _policies_or_setting(
    context: click.Context, parameter: click.Parameter, paths: Sequence[Path]
) -> Sequence[Path | None]:
    if paths.count(STANDARD_INPUT) > 1:
        raise ConfigError("- is standard input, which can be read only once")
    return paths or [policy_or_setting(context, parameter, None)]


@policy.command()
@click.argument("policies", type=POLICY_FILE, nargs=-1, callback=_policies_or_setting)
@click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output format."
)
@click.option("--strict", is_flag=True, help="Exit with status 1 if there are warnings.")
@click.pass_context
def check(context: click.Context, policies: Sequence[Path], form: str, *, strict: bool) -> None:
    """Find what is wrong with policies, and what is dangerous.

    POLICIES are files, directories, or - for standard input; each is a policy. Default: TOLLGATE_POLICY.

    Exit code 0: it can be served. 1: it has warnings, with --strict. 2: it has errors.
    """
    from ext_authz.policy.load import examine
    from ext_authz.policytool.warnings import warnings_of

    loaded = [examine(path, os.environ) for path in policies]
    warnings = [warning for one in loaded for warning in warnings_of(one)]
    _print([*(fault for one in loaded for fault in one.faults), *warnings], form)
    if any(one.policy is None for one in loaded):
        context.exit(_FAULTY)
    context.exit(1 if strict and warnings else 0)


def _print(faults: Sequence[Fault], form: str) -> None:
    from ext_authz.policy.faults import counted, excerpt, rendered, rendered_json

    if form == "json":
        click.echo(rendered_json(faults))
        return
    for fault in faults:
        for line in (rendered(fault), *excerpt(fault)):
            click.echo(line)
    click.echo(counted(faults))


@policy.command(short_help="Print the JSON Schema of policies, for editors.")
@click.option("--included", is_flag=True, help="Print the schema of files that a policy includes instead.")
@click.option("--tests", is_flag=True, help="Print the schema of files with policy tests instead.")
def schema(*, included: bool, tests: bool) -> None:
    """Print the JSON Schema of policy.yaml, for editors: they complete and check what is written."""
    import json

    from ext_authz.policy.documents.schema import policy_schema
    from ext_authz.policytool.cases import CasesDocument

    click.echo(json.dumps(CasesDocument.model_json_schema() if tests else policy_schema(included=included), indent=2))


@policy.command()
@click.argument("paths", type=_file, nargs=-1, required=True)
@click.option("--policy", "instead", type=_file, help="Test this policy instead of those that the files name.")
@click.option("--junit", type=click.Path(dir_okay=False, path_type=Path), help="Also write the results as JUnit XML.")
@click.pass_context
def test(context: click.Context, paths: Sequence[Path], instead: Path | None, junit: Path | None) -> None:
    """Run tests of a policy: YAML files, or directories of them.

    Exit code 0: all passed. 1: some failed. 2: the tests or the policy have faults.
    """
    import asyncio

    from ext_authz.policytool.cases import read_cases
    from ext_authz.policytool.runner import lines, run, write_junit

    files, faults = read_cases(paths)
    if faults:
        _print(faults, "text")
        context.exit(_FAULTY)
    outcomes = [outcome for file in files for outcome in asyncio.run(run(file, _policy_of(file, instead)))]
    for line in lines(outcomes):
        click.echo(line)
    if junit:
        write_junit(junit, outcomes)
    context.exit(0 if all(outcome.passed for outcome in outcomes) else 1)


def _policy_of(file: CaseFile, instead: Path | None) -> Policy:
    from ext_authz.policy.load import load_policy

    path = instead or file.policy
    if path is None:
        raise ConfigError(f"{file.path}: say which policy this tests: policy: ../policy.yaml, or --policy")
    return load_policy(path, os.environ | file.document.environment)


@policy.command()
@click.argument("old", type=POLICY_FILE)
@click.argument("new", type=POLICY_FILE)
@click.option(
    "--replay",
    metavar="LEDGER",
    help="A file written by `tollgate usage export`, a directory by `tollgate ledger export`, or `postgresql`.",
)
@click.option("--since", type=Time(), metavar="TIME", help="Not with a file: start of the period. Default: 1d, or all.")
@click.option("--until", type=Time(), metavar="TIME", help="Not with a file: end of the period. Default: now, or all.")
@click.pass_context
def diff(
    context: click.Context, old: Path, new: Path, replay: str | None, since: datetime | None, until: datetime | None
) -> None:
    """List what a new policy changes, also in recorded decisions.

    One of OLD and NEW may be - for standard input.

    Exit code 0: nothing; with --replay: no decision. 1: something. 2: one of the policies has faults.
    """
    import asyncio

    from ext_authz.policy.load import examine
    from ext_authz.policytool import diff as structure

    if old == new == STANDARD_INPUT:
        raise ConfigError("OLD and NEW are both -: write one of them into a file")
    before, after = examine(old, os.environ), examine(new, os.environ)
    if before.policy is None or after.policy is None:
        _print((*before.faults, *after.faults), "text")
        context.exit(_FAULTY)
    changes = structure.differences(before.policy, after.policy)
    sources = [loaded.source for loaded in (before, after) if loaded.source]
    for line in structure.lines(changes, structure.substituted(sources, os.environ)):
        click.echo(line)
    if not changes:
        click.echo("no difference")
    if replay is None:
        context.exit(1 if changes else 0)
    from ext_authz.policytool.comparison import lines

    found = asyncio.run(_replayed(before.policy, after.policy, replay, since, until))
    for line in lines(found):
        click.echo(line)
    context.exit(1 if found.changed else 0)


async def _replayed(
    old: Policy, new: Policy, replay: str, since: datetime | None, until: datetime | None
) -> Comparison:
    from ext_authz.policytool.replay import LedgerFile, ledger_of_postgres

    if replay != _POSTGRESQL:
        path = _existing(replay)
        is_directory = path.is_dir()
        return await (_grouped(old, new, path, since, until) if is_directory else _compared(old, new, LedgerFile(path)))
    end = until or datetime.now(UTC)
    async with ledger_of_postgres(since or end - timedelta(days=1), end) as ledger:
        return await _compared(old, new, ledger)


def _existing(replay: str) -> Path:
    path = Path(replay)
    if not (path.is_file() or path.is_dir()):
        known = "a file of tollgate usage export, a directory of tollgate ledger export, or postgresql"
        raise ConfigError(f"--replay: there is no file {replay!r}: write {known}")
    return path


async def _grouped(
    old: Policy, new: Policy, directory: Path, since: datetime | None, until: datetime | None
) -> Comparison:
    from ext_authz.policytool.parquet_replay import opened

    with opened(directory, since, until) as ledger:
        hidden = not sys.stderr.isatty()
        with click.progressbar(length=len(ledger), label="replaying", file=sys.stderr, hidden=hidden) as bar:
            return await ledger.compare(old, new, bar.update)


async def _compared(old: Policy, new: Policy, ledger: LedgerFile) -> Comparison:
    from ext_authz.policytool.replay import compare

    hidden = not sys.stderr.isatty()
    with click.progressbar(length=len(ledger), label="replaying", file=sys.stderr, hidden=hidden) as bar:
        return await compare(old, new, ledger.decisions(), bar.update)


@policy.command()
def status() -> None:
    """Show the policy of a running service, and faults of the files."""
    _show(_request("GET", "/policy"))


@policy.command()
def differences() -> None:
    """List what the candidate policy would decide otherwise."""
    _show(_request("GET", "/policy/candidate"))


@policy.command()
def reload() -> None:
    """Have a running service read its policy files now.

    Exit code 1: a file has faults.
    """
    _show(_request("POST", "/policy/reload"))


def _request(method: str, path: str) -> httpx.Response:
    import httpx

    from ext_authz.settings import AdminSettings, load_settings

    where = load_settings(AdminSettings).control_socket
    transport = httpx.HTTPTransport(uds=str(where), verify=False)
    try:
        with httpx.Client(transport=transport, base_url="http://tollgate", timeout=_SECONDS) as service:
            return service.request(method, path)
    except httpx.TransportError as failure:
        hint = "is tollgate serve running, as this user? TOLLGATE_ADMIN_SOCKET and TOLLGATE_ADMIN_PORT say where"
        raise TollgateError(f"nothing answers at {where} ({failure}): {hint}") from None


def _show(response: httpx.Response) -> None:
    import json

    found: dict[str, Any] = response.json()
    click.echo(json.dumps(found, indent=2))
    sys.exit(0 if response.is_success else 1)
