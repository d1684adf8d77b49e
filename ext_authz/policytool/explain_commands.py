"""The command lines of `tollgate explain` and `tollgate policy explain`. `--help` imports this and no more."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import click

from ext_authz.command_line import STANDARD_INPUT, StandardInput, policy_argument
from ext_authz.errors import ConfigError
from ext_authz.report import Time

_format = click.option(
    "--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True, help="Output format."
)


@click.command("explain")
@click.argument("decision_id", type=click.UUID)
@policy_argument
@_format
def explain_recorded(decision_id: UUID, policy: Path, form: str) -> None:
    """Explain a recorded decision, by its id.

    POLICY is the present policy: a file, a directory, or - for standard input. Default: TOLLGATE_POLICY.

    Exit code 1: the decision is not found.
    """
    from ext_authz.policytool.explain_recorded import print_recorded

    print_recorded(decision_id, policy, form)


@click.command("explain")
@click.argument("method")
@click.argument("path")
@policy_argument
@click.option("--host", default="models.example", show_default=True, help="Host of the request.")
@click.option("--header", "-H", "pairs", multiple=True, metavar="NAME:VALUE", help="Header of the request.")
@click.option("--claims", default="", metavar="JSON|@FILE", help="Claims of the caller, or a token's payload.")
@click.option("--jwt", type=StandardInput(), help="Read a token from standard input; it is never printed.")
@click.option("--verify", is_flag=True, help="Verify the token with the keys of its issuer.")
@click.option("--grpc", is_flag=True, help="The caller speaks gRPC.")
@click.option("--model", help="With --grpc: model_name in the message.")
@click.option("--version", help="With --grpc: model_version in the message.")
@click.option("--source", default="192.0.2.1", show_default=True, help="Address of the TCP peer.")
@click.option(
    "--time", type=Time(), metavar="TIME", help="Time of the request: 10:30, 2026-11-01 or ISO 8601. Default: now."
)
@_format
def explain_request(
    policy: Path,
    claims: str,
    jwt: str | None,
    time: datetime | None,
    form: str,
    *,
    verify: bool,
    **request: Any,  # noqa: ANN401 - click's
) -> None:
    """Explain what a policy does with a request, phase by phase.

    POLICY is a file, a directory, or - for standard input. Default: TOLLGATE_POLICY.

    No store is used: counters start at zero, and nothing is revoked. Exit code 0, whatever the decision is.
    """
    if (verify and not jwt) or (jwt and claims):
        raise ConfigError("--verify goes with --jwt, and --jwt without --claims")
    if jwt and policy == STANDARD_INPUT:
        raise ConfigError("--jwt and the policy are both -: write the policy into a file")
    from ext_authz.policytool.explain_request import print_explanation, request_of

    now = time or datetime.now(UTC)
    print_explanation(request_of(**request), policy, now, claims=claims, jwt=jwt or "", verify=verify, form=form)
