"""A token that is bound to keys: on every request the caller proves to have them, once per proof."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from ext_authz.decision import Reason, Request
from ext_authz.errors import Denied, Unavailable
from ext_authz.identity.authenticator import TokenAuthenticator
from ext_authz.identity.identity import Identity, RefusedToken
from ext_authz.identity.possession import MAX_CERTIFICATE, thumbprint
from ext_authz.policy.issuers import Issuer, Proofs
from tests.dpop import Holder
from tests.fakes import FakeClock, FakeJwks, FakeReplays
from tests.tokens import ALICE, EC256, ED25519, b64
from tests.unit.identity.world import NOW, an_issuer, checked, metric, minted

HOST, PATH = "models.example", "/v2/models/sentiment/infer"
URL = f"https://{HOST}{PATH}"
HOLDER = Holder()
BOUND = minted({"cnf": HOLDER.cnf, "typ": "DPoP"})


class World:
    def __init__(self, issuer: Issuer, endpoint: FakeJwks, clock: FakeClock, origin: str = "") -> None:
        self.clock = clock
        self.replays = FakeReplays(clock)
        self.authenticator = TokenAuthenticator(
            [issuer], fetch=endpoint, clock=clock, cache_size=10, replays=self.replays, origin=origin
        )

    async def call(self, proof: str | None = None, *, by: str = "DPoP", token: str = BOUND, **more: str) -> Identity:
        if proof is None:
            proof = self.proof(token=token)
        request = replaced(**more, headers={"dpop": proof})
        return await self.authenticator.authenticate((f"{by} {token}",), 0, request)

    async def refusal(self, proof: str | None = None, *, by: str = "DPoP", token: str = BOUND, **more: str) -> Denied:
        with pytest.raises(Denied) as refused:
            await self.call(proof, by=by, token=token, **more)
        return refused.value

    def proof(self, claims: Mapping[str, object] | None = None, *, token: str = BOUND, holder: Holder = HOLDER) -> str:
        return holder.proof("POST", URL, token, claims, now=self.clock.now())


def replaced(**fields: object) -> Request:
    usual: dict[str, object] = {"method": "POST", "host": HOST, "path": PATH, "scheme": "https"}
    return Request(**{**usual, **fields})  # type: ignore[arg-type]


@pytest.fixture
async def world(clock: FakeClock, endpoint: FakeJwks) -> AsyncIterator[World]:
    world = World(an_issuer(cnf="verify"), endpoint, clock)
    await world.authenticator.start()
    yield world
    await world.authenticator.stop()


async def test_a_proof_for_each_call(world: World) -> None:
    one, other = await world.call(), await world.call()
    assert one is other, "the token is verified once"
    assert one.principal.subject == ALICE


async def test_a_proof_is_used_once(world: World) -> None:
    proof = world.proof()
    await world.call(proof)
    refused = await world.refusal(proof)
    assert "jti" in checked(refused, "proof_replayed")
    assert isinstance(refused, RefusedToken)
    assert refused.identity.principal.subject == ALICE


async def test_a_used_proof_is_known_for_as_long_as_a_replica_may_accept_it(world: World) -> None:
    """Made ahead by the leeway, seen by one whose clock is behind by the leeway."""
    proof = world.proof({"iat": int(NOW) + 30})
    await world.call(proof)
    world.clock.advance(60 + 30 + 30 + 30)
    assert world.replays.knows()
    world.clock.advance(2)
    assert not world.replays.knows()
    checked(await world.refusal(proof), "proof_expired")


async def test_wrong_proofs_are_not_kept(world: World) -> None:
    """Nobody can fill the store without a key, and a client may mend its proof under the same jti."""
    checked(await world.refusal(world.proof({"jti": "7", "htm": "GET"})), "proof_mismatch")
    assert not world.replays.knows()
    await world.call(world.proof({"jti": "7"}))


async def test_the_cache_never_answers_for_a_bound_token(world: World) -> None:
    await world.call()
    for scheme in ("DPoP", "dpop", "Bearer"):
        assert world.authenticator.cached(f"{scheme} {BOUND}") is None
    checked(await world.refusal(""), "proof_missing")
    checked(await world.refusal("x"), "proof_malformed")
    await world.call()


async def test_a_refused_proof_does_not_refuse_the_next(world: World) -> None:
    checked(await world.refusal(world.proof({"ath": "x"})), "proof_mismatch")
    await world.call()


async def test_two_proofs_are_ambiguous(world: World) -> None:
    """Envoy joins repeated headers with a comma."""
    for joined in (f"{world.proof()},{world.proof()}", f"{world.proof()}, {world.proof()}", f"{world.proof()},"):
        checked(await world.refusal(joined), "proof_repeated")


async def test_a_bound_token_is_no_bearer_token(world: World) -> None:
    refused = await world.refusal(by="Bearer")
    assert "Authorization: DPoP" in checked(refused, "token_bound")
    assert isinstance(refused, RefusedToken)
    before = metric("tollgate_tokens_refused_total", code="token_bound")
    checked(await world.refusal(by="bearer"), "token_bound")
    world.authenticator._count()
    assert metric("tollgate_tokens_refused_total", code="token_bound") > before


async def test_a_bearer_token_is_no_bound_token(world: World) -> None:
    plain = minted()
    for _ in range(2):
        assert "Bearer" in checked(await world.refusal(token=plain), "token_unbound")
    assert (await world.call("", token=plain, by="Bearer")).binding is None
    assert world.authenticator.cached(f"Bearer {plain}")
    checked(await world.refusal(token=plain), "token_unbound")


async def test_the_scheme_is_unknown_where_no_proof_is_verified(authenticator: TokenAuthenticator) -> None:
    with pytest.raises(Denied) as refused:
        await authenticator.authenticate((f"DPoP {BOUND}",), 0, replaced())
    assert (refused.value.code, refused.value.reason) == ("scheme_unsupported", Reason.NO_CREDENTIAL)


async def test_another_key_than_the_tokens(world: World) -> None:
    thief = Holder(ED25519)
    checked(await world.refusal(world.proof(holder=thief)), "proof_key")
    others = minted({"cnf": thief.cnf})
    checked(await world.refusal(token=others), "proof_key")
    await world.call(world.proof(token=others, holder=thief), token=others)


async def test_without_a_request_there_is_no_proof(world: World) -> None:
    """Where tokens are accepted outside of a check."""
    with pytest.raises(Denied) as refused:
        await world.authenticator.authenticate((f"DPoP {BOUND}",))
    checked(refused.value, "token_bound")


async def test_without_a_store_no_proof_is_accepted(clock: FakeClock, endpoint: FakeJwks) -> None:
    """Whoever builds an authenticator without one must not accept a proof twice."""
    authenticator = TokenAuthenticator([an_issuer(cnf="verify")], fetch=endpoint, clock=clock, cache_size=1)
    await authenticator.start()
    proof = HOLDER.proof("POST", URL, BOUND, now=NOW)
    with pytest.raises(Denied) as refused:
        await authenticator.authenticate((f"DPoP {BOUND}",), 0, replaced(headers={"dpop": proof}))
    checked(refused.value, "token_bound")
    mine, mark = certificate("batch")
    token = minted({"cnf": {"x5t#S256": mark}})
    await authenticator.authenticate((f"Bearer {token}",), 0, replaced(certificate=mine))
    await authenticator.stop()


@pytest.mark.parametrize(
    "elsewhere",
    [
        {"method": "GET"},
        {"path": "/v2/models/cancer/infer"},
        {"host": "evil.example"},
        {"scheme": "http"},
        {"host": ""},
    ],
)
async def test_a_proof_is_about_one_request(world: World, elsewhere: dict[str, str]) -> None:
    checked(await world.refusal(**elsewhere), "proof_mismatch")


async def test_the_address_that_callers_use(clock: FakeClock, endpoint: FakeJwks) -> None:
    """Where the policy names it, no request can name another."""
    world = World(an_issuer(cnf="verify"), endpoint, clock, "https://models.example")
    await world.authenticator.start()
    await world.call(host="10.0.0.7:8080", scheme="http")
    evil = HOLDER.proof("POST", f"https://evil.example{PATH}", BOUND, now=NOW)
    assert URL.removesuffix(PATH) in checked(await world.refusal(evil, host="evil.example"), "proof_mismatch")
    await world.authenticator.stop()


async def test_grpc(world: World) -> None:
    method = "/inference.GRPCInferenceService/ModelInfer"
    proof = HOLDER.proof("POST", f"https://{HOST}{method}", BOUND, now=NOW)
    await world.call(proof, path=method)


async def test_redis_is_away(world: World) -> None:
    world.replays.down = True
    with pytest.raises(Unavailable) as outage:
        await world.call()
    assert outage.value.dependency == "redis"
    checked(await world.refusal(world.proof({"htm": "GET"})), "proof_mismatch")
    assert (await world.call("", token=minted(), by="Bearer")).binding is None


async def test_a_candidate_uses_no_proof_up(clock: FakeClock, endpoint: FakeJwks) -> None:
    """The policy in force has, of each."""
    issuer = an_issuer(cnf="verify", proofs=Proofs(nonce=True))
    candidate = TokenAuthenticator([issuer], fetch=endpoint, clock=clock, cache_size=1, whose="candidate:")
    await candidate.start()
    proof = HOLDER.proof("POST", URL, BOUND, now=NOW)
    for _ in range(2):
        await candidate.authenticate((f"DPoP {BOUND}",), 0, replaced(headers={"dpop": proof}))
    await candidate.stop()


async def test_nonces(clock: FakeClock, endpoint: FakeJwks) -> None:
    world = World(an_issuer(cnf="verify", proofs=Proofs(nonce=True)), endpoint, clock)
    await world.authenticator.start()
    first = await world.refusal()
    checked(first, "proof_nonce")
    assert first.nonce == "nonce-1"
    for wrong in ("nonce-2", "", "\u00e9\ud800"):
        refused = await world.refusal(world.proof({"nonce": wrong}))
        assert (refused.code, refused.nonce) == ("proof_nonce", "nonce-1")
    assert not world.replays.knows()
    await world.call(world.proof({"nonce": "nonce-1"}))
    world.replays.present = ["nonce-2", "nonce-1"]
    await world.call(world.proof({"nonce": "nonce-1"}))
    world.replays.present = ["nonce-3", "nonce-2"]
    assert (await world.refusal(world.proof({"nonce": "nonce-1"}))).nonce == "nonce-3"
    await world.authenticator.stop()


def certificate(name: str) -> tuple[str, str]:
    """As Envoy passes it on, and its `x5t#S256`."""
    key = EC256.private
    assert isinstance(key, EllipticCurvePrivateKey)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    begin = datetime.fromtimestamp(NOW, UTC)
    made = x509.CertificateBuilder(subject, subject, key.public_key(), 7, begin, begin + timedelta(1))
    signed = made.sign(key, hashes.SHA256())
    return quote(signed.public_bytes(Encoding.PEM).decode()), b64(signed.fingerprint(hashes.SHA256()))


async def test_a_client_certificate(world: World) -> None:
    mine, mark = certificate("batch")
    token = minted({"cnf": {"x5t#S256": mark}})
    identity = await world.call("", token=token, by="Bearer", certificate=mine)
    assert identity.principal.subject == ALICE
    assert world.authenticator.cached(f"Bearer {token}") is None
    theirs, _ = certificate("somebody")
    bare = {"token": token, "by": "Bearer"}
    checked(await world.refusal("", **bare, certificate=theirs), "certificate_mismatch")
    for none in ("", "-----BEGIN CERTIFICATE-----", mine[1:], "x" * (MAX_CERTIFICATE + 1)):
        checked(await world.refusal("", **bare, certificate=none), "certificate_missing")
    checked(await world.refusal("", token=token, certificate=mine), "token_unbound")


async def test_both_keys(world: World) -> None:
    mine, mark = certificate("batch")
    token = minted({"cnf": {"x5t#S256": mark, **HOLDER.cnf}})
    await world.call(token=token, certificate=mine)
    checked(await world.refusal(token=token), "certificate_missing")
    checked(await world.refusal("", token=token, certificate=mine), "proof_missing")


def test_what_is_no_certificate() -> None:
    assert thumbprint("é") == ""
