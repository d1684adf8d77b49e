"""Warnings about whom a policy believes, and what it does while it cannot know."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from urllib.parse import urlsplit

from ext_authz.policy.documents import PolicyDocument
from ext_authz.policy.documents.base import seconds
from ext_authz.policy.documents.issuers import IssuerDocument
from ext_authz.policy.documents.routes import FailureDocument
from ext_authz.policy.faults import Step, shown
from ext_authz.policytool.warning import Warned

_LONG_LEEWAY = 30
_LOOPBACK = frozenset({"127.0.0.1", "::1", "localhost"})
_UNKNOWN = {
    "redis": "revocations and limits are not looked at",
    "postgres": "revocations may be overlooked",
    "jwks": "tokens are taken whose keys cannot be had",
}


def of(document: PolicyDocument) -> Iterator[Warned]:
    """All of them."""
    for index, issuer in enumerate(document.issuers):
        yield from _issuer(("issuers", index), issuer)
        yield from _spelling(("issuers", index, "issuer"), issuer, document.issuers[:index])
    yield from _failure(("failure",), document.failure)
    for index, route in enumerate(document.routes):
        if route.failure is not None:
            yield from _failure(("routes", index, "failure"), route.failure)


def _issuer(path: tuple[Step, ...], issuer: IssuerDocument) -> Iterator[Warned]:
    if issuer.cnf == "ignore":
        what = f"tokens of {shown(issuer.name)} that are bound to a key are taken from whoever presents them"
        yield Warned((*path, "cnf"), "bound_tokens_taken", what, "write cnf: refuse")
    url = urlsplit(issuer.issuer)
    if url.scheme == "http" and url.hostname not in _LOOPBACK:
        what = f"the issuer {shown(issuer.name)} is an http address: anyone on the way can log in as anyone"
        yield Warned((*path, "issuer"), "http_issuer", what, "use https")
    if seconds(issuer.leeway) > _LONG_LEEWAY:
        what = f"expired tokens of {shown(issuer.name)} are taken for {issuer.leeway} more"
        yield Warned((*path, "leeway"), "long_leeway", what, f"{_LONG_LEEWAY}s is enough for clocks that are kept")


def _spelling(path: tuple[Step, ...], issuer: IssuerDocument, before: Sequence[IssuerDocument]) -> Iterator[Warned]:
    """`iss` is compared byte by byte, and most issuers write theirs in one way."""
    written = issuer.issuer
    for what, usual in (("ends with a slash", written.rstrip("/")), ("has capitals in its host", _low_host(written))):
        if usual != written:
            hint = f"write it as its tokens do: most likely {shown(usual)}"
            yield Warned(path, "issuer_spelling", f"the issuer {shown(written)} {what}", hint)
    if alike := [other.name for other in before if _alike(other.issuer, written)]:
        what = f"the issuers {shown(alike[0])} and {shown(issuer.name)} differ in a slash or in capitals only"
        yield Warned(path, "issuers_alike", what, "keep the one that the tokens have as iss")


def _low_host(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}://{host.lower()}{slash}{path}"


def _alike(one: str, other: str) -> bool:
    return one.rstrip("/").lower() == other.rstrip("/").lower()


def _failure(path: tuple[Step, ...], failure: FailureDocument) -> Iterator[Warned]:
    for name, unknown in _UNKNOWN.items():
        if getattr(failure, name) == "allow" and name in failure.model_fields_set:
            what = f"while {name} does not answer, {unknown}"
            yield Warned((*path, name), "failure_allow", what, "write deny, or local, which ends by itself")
