"""`tollgate explain DECISION_ID`."""

from __future__ import annotations

import asyncio
import json
import os
from datetime import UTC, datetime
from pathlib import Path
from uuid import UUID

import click
from msgspec import to_builtins

from ext_authz.policy.load import load_policy
from ext_authz.policytool.past import past
from ext_authz.policytool.past_text import lines
from ext_authz.settings import load_store_settings


@click.command()
@click.argument("decision_id", type=click.UUID)
@click.option(
    "--policy",
    "file",
    type=click.Path(exists=True, path_type=Path),
    envvar="TOLLGATE_POLICY",
    required=True,
    help="The present policy; or TOLLGATE_POLICY.",
)
@click.option("--format", "form", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(decision_id: UUID, file: Path, form: str) -> None:
    """Account for a decision that was taken, by its id.

    Exit code 1: nobody knows it, or it is no longer kept.
    """
    policy, now = load_policy(file, os.environ), datetime.now(UTC)
    found = asyncio.run(past(decision_id, policy, load_store_settings(), now))
    if form == "json":
        click.echo(json.dumps(to_builtins(found), indent=2))
        return
    for line in lines(found):
        click.echo(line)
