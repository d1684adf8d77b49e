"""Why there is no answer, from the problem document of a refusal (RFC 9457) or from the trailers of gRPC."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from tollgate.client.steps import Reply

_LONGEST = 2000
"""Characters of a text that is no problem document."""
_CODE = re.compile(r"([a-z_]+): (.*)", re.DOTALL)
_DECISION = re.compile(r" \(decision ([0-9a-f-]{36})\)\Z")


class TollgateError(Exception):
    """Any of the errors here."""


class SignInFailed(TollgateError):
    """There is no token."""

    def __init__(self, code: str, detail: str) -> None:
        """`code`: as the token's endpoint says it (RFC 6749 section 5.2, RFC 8628 section 3.5), or our own."""
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code


class Unreachable(TollgateError):
    """No answer came."""


class Refused(TollgateError):
    """The call was answered with an error, by Tollgate, the proxy or the model."""

    def __init__(
        self, status: int | str, code: str, detail: str, reason: str, decision_id: str, retry_after: float | None
    ) -> None:
        where = f" (decision {decision_id})" if decision_id else ""
        super().__init__(f"{status} {code}: {detail}{where}")
        self.status = status
        """Of HTTP, or the name of the gRPC code (`PERMISSION_DENIED`)."""
        self.code = code
        """Stable: docs/errors.md has all of them. Empty where it is not Tollgate that answered."""
        self.detail = detail
        self.reason = reason
        """The class of the code (`forbidden`); empty over gRPC, where the status says it."""
        self.decision_id = decision_id
        """For the operator."""
        self.retry_after = retry_after
        """Seconds after which the same call may be made again; None: it must not be repeated by itself."""


def refused(response: httpx.Response) -> Refused:
    """Of a response with an error status."""
    said = _object(response.content)
    code, detail = _text(said, "code"), _text(said, "detail") or _text(said, "error")
    decision_id = response.headers.get("x-decision-id", "") or _text(said, "decision_id")
    reason = _text(said, "type").rpartition(":")[2].rpartition("/")[2] if code else ""
    detail = detail or response.text[:_LONGEST] or response.reason_phrase
    after = retry_after(response.headers.get("retry-after", ""), datetime.now(UTC))
    return Refused(response.status_code, code, _DECISION.sub("", detail), reason, decision_id, after)


def refused_over_grpc(reply: Reply) -> Refused:
    """Of a status that is not OK: Tollgate writes `code: detail (decision id)`."""
    named = _DECISION.search(reply.detail)
    decision_id = reply.metadata.get("x-decision-id") or (named[1] if named else "")
    detail = _DECISION.sub("", reply.detail)
    coded = _CODE.fullmatch(detail) if decision_id else None
    code, detail = coded.groups() if coded else ("", detail[:_LONGEST])
    return Refused(
        reply.status, code, detail, "", decision_id, pushback(reply.metadata.get("grpc-retry-pushback-ms", ""))
    )


def retry_after(value: str, now: datetime) -> float | None:
    """Seconds (RFC 9110 section 10.2.3). None without, and for what is neither a number nor a date."""
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        at = parsedate_to_datetime(value)
    except ValueError:
        return None
    return max(0.0, (at.replace(tzinfo=at.tzinfo or UTC) - now).total_seconds())


def pushback(value: str) -> float | None:
    """Seconds (gRFC A6). None without, and for what is no number or negative: not to be retried."""
    return int(value[:12]) / 1000 if value.isascii() and value.isdigit() else None


def _object(body: bytes) -> Mapping[str, object]:
    try:
        found = json.loads(body)
    except ValueError:
        return {}
    return found if isinstance(found, dict) else {}


def _text(said: Mapping[str, object], name: str) -> str:
    value = said.get(name, "")
    return value[:_LONGEST] if isinstance(value, str) else ""
