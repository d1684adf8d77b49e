"""The tour through a running stack, and what is printed of it."""

from __future__ import annotations

import signal
import tempfile
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from textwrap import indent
from types import FrameType

import click

from devstack.demo import bill, canary, sentiment_page
from devstack.demo.participants import Caller, Operator, Provider
from devstack.demo.steps import CALLS, CHANGES, Outcome, Step, Tour, every_model
from devstack.stack.addresses import MAIN
from devstack.stack.stack import Stack, running_stack

_ISSUER = "demo"
"""The demo policy's name for the realm."""


def take() -> int:
    """Start the stack on free ports, take the tour through it, stop it. How many steps differ."""
    signal.signal(signal.SIGINT, _interrupted)
    click.echo("starting PostgreSQL, Redis, the identity provider, Triton, the authorizer and Envoy ...")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="tollgate-demo-") as directory, running_stack(Path(directory)) as stack:
        click.echo(f"everything answers after {time.monotonic() - began:.1f} s, Envoy at {stack.addresses.envoy}\n")
        steps = _steps(stack)
        differing = sum(not _shown(step, outcome) for step, outcome in _tour(stack, steps))
    click.echo(f"\n{differing} of {len(steps)} steps differ" if differing else "\neverything as expected")
    return differing


def _interrupted(_number: int, _frame: FrameType | None) -> None:
    """Ignores a second Ctrl-C, which would leave half a stack behind."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise KeyboardInterrupt


def _steps(stack: Stack) -> list[Step]:
    """Without those of an experiment whose new version is not served here, or of an application that is not; and of
    what a Triton of one's own serves nothing is known."""
    children = {child.name: child for child in stack.children}
    if MAIN in children and (remark := children[MAIN].remark):
        click.echo(f"Triton: {remark}\n")
    pages = [sentiment_page.STEP] if sentiment_page.PART in children else []
    calls = [step for step in CALLS if step.run is not every_model or not stack.settings.triton]
    return [*calls, *(canary.STEPS if canary.PART in children else ()), *pages, *CHANGES, bill.STEP]


def _tour(stack: Stack, steps: Iterable[Step]) -> Iterator[tuple[Step, Outcome]]:
    to = stack.addresses
    with Caller(to.envoy, to.envoy_grpc) as caller:
        provider = Provider(to.issuer, stack.identity_admin_token)
        tour = Tour(caller, provider, Operator(to.database_url, to.redis_url, _ISSUER), stack)
        for step in steps:
            yield step, _outcome(step, tour)


def _outcome(step: Step, tour: Tour) -> Outcome:
    try:
        return step.run(tour)
    except Exception as failure:  # noqa: BLE001 - whatever breaks a step is what was seen instead
        return Outcome(f"{type(failure).__name__}: {failure}")


def _shown(step: Step, outcome: Outcome) -> bool:
    good = outcome.seen == step.expected
    seen = "the same" if good else outcome.seen
    note = f" ({outcome.note})" if outcome.note else ""
    click.echo(f"{'ok     ' if good else 'DIFFERS'} {step.title}: expected {step.expected}; seen {seen}{note}")
    if outcome.shown:
        click.echo(indent(outcome.shown, " " * 8))
    return good
