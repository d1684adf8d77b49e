"""Hands alerts over: to a webhook, signed as Standard Webhooks are, and to a mail server. Bounded in time."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import smtplib
import ssl
import time
from base64 import b64encode
from email.message import EmailMessage

import httpx

from ext_authz.billing.alerts import Alert, event, mail
from ext_authz.billing.budgets import WEBHOOK
from ext_authz.budget_settings import BudgetSettings, MailServer

TIMEOUT = 10.0
"""Seconds: of each answer of a mail server, and of a webhook as a whole."""


class Delivery:
    """Where alerts go."""

    def __init__(self, settings: BudgetSettings) -> None:
        self._webhook = settings.webhook
        self._mail_server = settings.mail_server

    async def send(self, alert: Alert) -> str:
        """Why it was not taken, without anything secret; empty where it was."""
        if alert.target == WEBHOOK:
            return await self._to_webhook(alert)
        if self._mail_server is None:
            return "no mail server: set TOLLGATE_SMTP_URL and TOLLGATE_SMTP_FROM"
        return await asyncio.to_thread(_handed_over, self._mail_server, mail(alert, self._mail_server.sender))

    async def _to_webhook(self, alert: Alert) -> str:
        if self._webhook is None:
            return "no webhook: set TOLLGATE_BUDGET_WEBHOOK and TOLLGATE_BUDGET_WEBHOOK_KEY"
        (url, key), body = self._webhook, event(alert)
        headers = {"content-type": "application/cloudevents+json", **signature(key, str(alert.id), body, time.time())}
        try:
            async with (
                asyncio.timeout(TIMEOUT),
                httpx.AsyncClient(timeout=TIMEOUT) as client,
                client.stream("POST", url, content=body, headers=headers) as answer,
            ):
                return "" if answer.is_success else f"it answered {answer.status_code}"  # the body is not read
        except (httpx.HTTPError, httpx.InvalidURL, TimeoutError) as failure:
            return type(failure).__name__  # its text may hold the address, which may be a secret


def signature(key: bytes, message_id: str, body: bytes, now: float) -> dict[str, str]:
    """The headers of Standard Webhooks, version 1."""
    seconds = str(int(now))
    signed = hmac.new(key, b".".join((message_id.encode(), seconds.encode(), body)), hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": seconds,
        "webhook-signature": f"v1,{b64encode(signed).decode()}",
    }


def _handed_over(server: MailServer, message: EmailMessage) -> str:
    try:
        with _connected(server) as smtp:
            if server.user:
                smtp.login(server.user, server.password)
            smtp.send_message(message)
    except smtplib.SMTPResponseException as refusal:
        return f"the mail server answered {refusal.smtp_code}"
    except smtplib.SMTPRecipientsRefused:
        return "the mail server refused the address"
    except (smtplib.SMTPException, OSError) as failure:  # TLS too
        return f"the mail server: {type(failure).__name__}"
    return ""


def _connected(server: MailServer) -> smtplib.SMTP:
    """Encrypted, with the name of the server verified; on this machine as it comes."""
    context = ssl.create_default_context()
    if server.tls:
        return smtplib.SMTP_SSL(server.host, server.port, timeout=TIMEOUT, context=context)
    smtp = smtplib.SMTP(server.host, server.port, timeout=TIMEOUT)
    if not server.is_here:
        try:
            smtp.starttls(context=context)
        except BaseException:
            smtp.close()
            raise
    return smtp
