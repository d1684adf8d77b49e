"""Everything this service raises on purpose.

TollgateError
├── ConfigError     a setting, policy or file is wrong: one sentence, exit code 2
├── Denied          a decision: the caller is refused, and may see the reason
├── Overloaded      no verdict: we cannot do it in time; refused whatever the failure policy says
└── Unavailable     no verdict: a dependency did not answer; the failure policy decides (deny by default)

Any other exception on the request path is a bug; `authorizer.py` answers it with a refusal and logs it.
"""

from __future__ import annotations

from ext_authz.decision import Quota, Reason


class TollgateError(Exception):
    """Base of all errors raised on purpose."""


class ConfigError(TollgateError):
    """One sentence that names the setting or the place in the file, what is wrong and what would be right."""


class Denied(TollgateError):
    """The caller is refused. `detail` reaches the caller: never put a secret or another user's data into it.

    `code` is the stable machine name of the cause (snake_case, e.g. "token_expired"); it goes into the answer,
    the log and the ledger. `scope` names the role that was missing (RFC 6750 section 3.1, insufficient_scope).
    `quotas` and `retry_after` (seconds) go with OVER_LIMIT, `revoked_by` (as in `decision.Deny`) with REVOKED,
    `nonce` with the refusal of a proof that lacks it (RFC 9449 section 9).
    """

    def __init__(
        self,
        reason: Reason,
        code: str,
        detail: str,
        *,
        scope: str = "",
        quotas: tuple[Quota, ...] = (),
        retry_after: int = 0,
        revoked_by: str = "",
        nonce: str = "",
    ) -> None:
        super().__init__(code)
        self.reason = reason
        self.code = code
        self.detail = detail
        self.scope = scope
        self.quotas = quotas
        self.retry_after = retry_after
        self.revoked_by = revoked_by
        self.nonce = nonce


class Unavailable(TollgateError):
    """A dependency ("redis", "postgres", "jwks", "ledger") gave no answer; `detail` goes to the log only.

    `answers`: it did, and cannot be used as it is.
    """

    def __init__(self, dependency: str, detail: str = "", *, answers: bool = False) -> None:
        super().__init__(f"{dependency}: {detail}")
        self.dependency = dependency
        self.detail = detail
        self.answers = answers


class Overloaded(TollgateError):
    """More to do than this process, or Redis behind it, can do in time. Not an outage: no failure mode applies.

    `settled`: Redis may have settled the check all the same, so the ledger must record the answer.
    """

    def __init__(self, detail: str, *, settled: bool = False) -> None:
        super().__init__(detail)
        self.settled = settled


def escaped(text: str) -> str:
    """Text of others as it may be printed: escaped where it could control a terminal or begin a line."""
    return text if text.isprintable() else "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
