"""A token that is bound to keys, and the caller's proof that he has them: checked on every request, never cached.

DPoP (RFC 9449)    the DPoP header, about this request and this token, used once
mTLS (RFC 8705)    the client certificate of the connection to Envoy, as Envoy itself reports it
"""

from __future__ import annotations

import ssl
from functools import lru_cache
from hashlib import sha256
from hmac import compare_digest
from urllib.parse import unquote

from ext_authz.clock import Clock
from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied
from ext_authz.identity.identity import Binding, Identity, RefusedToken, invalid
from ext_authz.identity.proof import Presented, Proof, normalised, verify
from ext_authz.identity.replays import Replays
from ext_authz.identity.strict_json import encode_base64url
from ext_authz.identity.tokens import BEARER, DPOP
from ext_authz.policy.issuers import Issuer

HEADER = "dpop"
MAX_CERTIFICATE = 16_384
"""Characters, URL-encoded. One of RSA 4096 has some 3000."""


class Possession:
    """The proofs of one authenticator."""

    def __init__(self, clock: Clock, replays: Replays | None, origin: str = "", *, in_force: bool = True) -> None:
        """`replays`: without it no proof is accepted, except for a policy that is not `in_force`: the one in force has
        used each proof already. `origin`: where callers reach the models (`resource.url`); empty: whatever address a
        request names."""
        self._clock = clock
        self._replays = replays
        self._in_force = in_force
        self._origin = origin.rstrip("/")

    async def ensure(
        self, identity: Identity, binding: Binding, issuer: Issuer, token: str, request: Request | None
    ) -> None:
        """The caller has every key that the token is bound to.

        Raises:
            Denied: he has not shown it. As RefusedToken: the token itself is valid.
            Unavailable: "redis", for which a proof might have been used before.
        """
        try:
            await self._ensure(binding, issuer, token, request)
        except Denied as refusal:
            raise RefusedToken(refusal, identity) from None

    async def _ensure(self, binding: Binding, issuer: Issuer, token: str, request: Request | None) -> None:
        if request is None or (binding.key and self._replays is None and self._in_force):
            raise invalid("token_bound", "the token is bound to a key, and cannot be presented here")
        if binding.certificate:
            _ensure_certificate(binding.certificate, request.certificate)
        if binding.key:
            url = normalised(f"{self._origin or f'{request.scheme}://{request.host}'}{request.path}")
            what = Presented(request.method, url, token, binding.key)
            proof = verify(_single(request), what, issuer.proofs, issuer.leeway, self._clock.now())
            await self._ensure_new(proof, issuer)

    async def _ensure_new(self, proof: Proof, issuer: Issuer) -> None:
        if self._replays is None:  # not in force
            return
        if issuer.proofs.nonce:
            nonces = await self._replays.nonces(self._clock.now())
            if not any(compare_digest(nonce.encode(), proof.nonce.encode(errors="replace")) for nonce in nonces):
                raise _nonce_needed(nonces[0])
        # For as long as any replica may accept it: the leeway before and after, and once more between two of them.
        if not await self._replays.first_use(proof.id, issuer.proofs.max_age + 3 * issuer.leeway + 1):
            raise invalid(
                "proof_replayed", "the DPoP proof was used before: make a new one, with its own jti, each time"
            )


def ensure_scheme(identity: Identity, scheme: str) -> None:
    """RFC 9449 section 7.1: a token that is bound to a key comes as DPoP, every other one as Bearer.

    Raises:
        RefusedToken: it comes as the other.
    """
    by_key = identity.binding is not None and bool(identity.binding.key)
    if by_key and scheme == BEARER:
        wanted = "the token is bound to a key: send Authorization: DPoP <token>, and a proof in the header DPoP"
        raise RefusedToken(invalid("token_bound", wanted), identity)
    if scheme == DPOP and not by_key:
        wanted = "the token is not bound to a key: send it as Authorization: Bearer <token>"
        raise RefusedToken(invalid("token_unbound", wanted), identity)


def _single(request: Request) -> str:
    """The one DPoP header; several come joined with commas, which no proof contains."""
    proof = request.headers.get(HEADER, "")
    if not proof:
        raise invalid("proof_missing", "the token is bound to a key: send a proof of it in the header DPoP")
    if "," in proof:
        raise invalid("proof_repeated", "more than one DPoP header: send one proof")
    return proof


def _nonce_needed(nonce: str) -> Denied:
    detail = "the DPoP proof must have the nonce that the header DPoP-Nonce of this answer names"
    return Denied(Reason.INVALID_CREDENTIAL, "proof_nonce", detail, nonce=nonce)


def _ensure_certificate(expected: str, certificate: str) -> None:
    presented = thumbprint(certificate) if len(certificate) <= MAX_CERTIFICATE else ""
    if not presented:
        raise invalid("certificate_missing", "the token is bound to a client certificate: connect with it (mutual TLS)")
    if not compare_digest(presented, expected):
        raise invalid("certificate_mismatch", "the token is bound to another client certificate than the one in use")


@lru_cache(maxsize=256)
def thumbprint(certificate: str) -> str:
    """`x5t#S256` of a certificate in URL-encoded PEM (RFC 8705 section 3.1); empty for anything else."""
    try:
        return encode_base64url(sha256(ssl.PEM_cert_to_DER_cert(unquote(certificate))).digest())
    except ValueError:
        return ""
