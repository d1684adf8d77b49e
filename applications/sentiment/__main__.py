"""`python -m applications.sentiment`: serves it, writes feedback for training, deletes that of a person."""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from urllib.parse import urlsplit

import click
import uvicorn

from applications.sentiment.door import SECONDS, Door
from applications.sentiment.feedback import Feedback, as_csv
from applications.sentiment.frame import PREFIX, Frame
from applications.sentiment.pages import Pages
from applications.sentiment.sessions import Sessions
from applications.sentiment.settings import Settings, StoreSettings, loaded
from applications.sentiment.sign_in import SignIn
from ext_authz.clock import SystemClock
from ext_authz.db.postgres import Pool
from ext_authz.errors import TollgateError, Unavailable
from ext_authz.identity.fetch import http_client
from ext_authz.observability import log
from ext_authz.policy.issuers import Issuer
from ext_authz.web.bodies import configuration
from ext_authz.web.oidc import TIMEOUT, IdentityProvider
from ext_authz.web.pages import Site

logger = logging.getLogger(__name__)

_EXPIRES_EVERY = 3600.0
"""Seconds."""


@click.group()
def main() -> None:
    """The sentiment application."""


@main.command()
def serve() -> None:
    """Serve until SIGTERM."""
    log.configure("info")
    asyncio.run(_serve(loaded(Settings, os.environ)))


@main.command()
def export() -> None:
    """Write all feedback as CSV to standard output, for the training."""

    async def exported() -> None:
        async with _stored(loaded(StoreSettings, os.environ)) as feedback:
            for line in as_csv(await feedback.everything()):
                click.echo(line, nl=False)

    asyncio.run(exported())


@main.command()
@click.option("--issuer", required=True, help="The realm of the person: `iss` of their tokens.")
@click.option("--subject", required=True, help="The person: `sub` of their tokens.")
def delete(issuer: str, subject: str) -> None:
    """Delete the feedback of a person."""

    async def deleted() -> int:
        async with _stored(loaded(StoreSettings, os.environ)) as feedback:
            return await feedback.delete(issuer, subject)

    click.echo(f"deleted: {asyncio.run(deleted())}")


@asynccontextmanager
async def _stored(settings: StoreSettings) -> AsyncGenerator[Feedback]:
    pool = Pool(settings.database_url.get_secret_value(), timeout=5.0)
    await pool.open()
    try:
        feedback = Feedback(pool, settings.feedback_days)
        await feedback.prepare()
        yield feedback
    finally:
        await pool.close()


async def _serve(settings: Settings) -> None:
    clock, origin = SystemClock(), settings.public_url
    async with AsyncExitStack() as stack:
        feedback = await stack.enter_async_context(_stored(settings))
        http = await stack.enter_async_context(http_client(SECONDS))
        provider = _provider(settings, clock)
        stack.push_async_callback(provider.close)
        parts = urlsplit(settings.issuer)
        frame, sessions = Frame(Site(origin + PREFIX, f"{parts.scheme}://{parts.netloc}")), Sessions(clock)
        sign_in = SignIn(frame, sessions, provider, clock)
        door = Door(settings.models_url or origin, http)
        pages = Pages(frame, sign_in, sessions, door, feedback, settings.issuer)
        expiring = asyncio.create_task(_expire(feedback))
        stack.callback(expiring.cancel)
        await _listen(pages, settings.listen)


async def _expire(feedback: Feedback) -> None:
    while True:
        try:
            if deleted := await feedback.expire():
                logger.info("feedback expired", extra={"rows": deleted})
        except Unavailable as failure:
            logger.warning("feedback was not expired", extra={"detail": failure.detail})
        await asyncio.sleep(_EXPIRES_EVERY)


def _provider(settings: Settings, clock: SystemClock) -> IdentityProvider:
    """The keys and audiences of the issuer are those of the ID token: the access token is the door's business."""
    issuer = Issuer(name="people", issuer=settings.issuer, jwks_url="", audiences=frozenset({settings.client_id}))
    return IdentityProvider(
        issuer,
        settings.client_id,
        settings.client_secret.get_secret_value(),
        redirect_uri=f"{settings.public_url}{PREFIX}/callback",
        http=http_client(TIMEOUT),
        clock=clock,
    )


async def _listen(pages: Pages, where: str) -> None:
    host, _, port = where.rpartition(":")
    at = (
        {"uds": where.removeprefix("unix:")}
        if where.startswith("unix:")
        else {"host": host.strip("[]"), "port": int(port)}
    )
    await uvicorn.Server(configuration(pages.application(), **at)).serve()


if __name__ == "__main__":
    try:
        main()
    except TollgateError as failure:
        sys.exit(f"sentiment-app: {failure}")
