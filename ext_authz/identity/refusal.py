"""Every cause for which a credential is refused, under the stable name that callers, logs and the ledger see."""

from __future__ import annotations

from typing import Literal

from ext_authz.decision import Reason
from ext_authz.errors import Denied

Code = Literal[
    "token_too_large",
    "token_malformed",
    "header_refused",
    "issuer_unknown",
    "algorithm_refused",
    "token_type",
    "key_unknown",
    "signature_invalid",
    "claim_missing",
    "claim_invalid",
    "token_expired",
    "token_not_yet_valid",
    "audience_mismatch",
    "client_refused",
    "token_bound",
    "token_lightweight",
]

NOT_REMEMBERED: frozenset[Code] = frozenset(
    {
        # The same token may be good a moment later.
        "key_unknown",
        "token_not_yet_valid",
        # Found out for less than remembering costs.
        "token_too_large",
        "token_malformed",
    }
)


def invalid(code: Code, detail: str) -> Denied:
    """A bad token (RFC 6750 section 3.1, invalid_token). The caller reads `detail`: plain ASCII, no quotes."""
    return Denied(Reason.INVALID_CREDENTIAL, code, detail)
