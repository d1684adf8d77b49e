"""`cnf` and `act`: which keys go with a token, and who acts for its subject."""

from __future__ import annotations

from typing import Any

import pytest

from ext_authz.identity.bound import MAX_ACTORS
from ext_authz.identity.identity import Binding
from tests.dpop import Holder
from tests.unit.identity.world import ensure_refused, identify, minted

HOLDER = Holder()
CERTIFICATE = {"x5t#S256": HOLDER.thumbprint}


@pytest.mark.parametrize(
    ("cnf", "binding"),
    [
        (HOLDER.cnf, Binding(key=HOLDER.thumbprint)),
        (CERTIFICATE, Binding(certificate=HOLDER.thumbprint)),
        ({**HOLDER.cnf, "kc-jkt-type": "DPoP"}, Binding(key=HOLDER.thumbprint)),
        ({**HOLDER.cnf, **CERTIFICATE}, Binding(HOLDER.thumbprint, HOLDER.thumbprint)),
    ],
)
def test_what_is_verified(cnf: object, binding: Binding) -> None:
    assert identify(minted({"cnf": cnf}), cnf="verify").binding == binding


def test_a_plain_token_is_bound_to_nothing() -> None:
    assert identify(minted(), cnf="verify").binding is None
    assert identify(minted({"cnf": HOLDER.cnf}), cnf="ignore").binding is None
    ensure_refused(minted({"cnf": HOLDER.cnf}), "token_bound")


@pytest.mark.parametrize(
    ("cnf", "code"),
    [
        ({}, "claim_invalid"),
        ("x", "claim_invalid"),
        (False, "claim_invalid"),
        ([HOLDER.thumbprint], "claim_invalid"),
        ({"jkt": None}, "claim_invalid"),
        ({"jkt": 7}, "claim_invalid"),
        ({"jkt": HOLDER.thumbprint[:-1]}, "claim_invalid"),
        ({"jkt": HOLDER.thumbprint + "="}, "claim_invalid"),
        ({"jkt": HOLDER.thumbprint + "\n"}, "claim_invalid"),
        ({"jwk": HOLDER.jwk}, "token_bound"),
        ({"kid": "7"}, "token_bound"),
        ({"kc-jkt-type": "DPoP"}, "claim_invalid"),
        ({**HOLDER.cnf, "kc-jkt-type": "attestation"}, "token_bound"),
        ({"jku": "https://keys.example", **HOLDER.cnf}, "token_bound"),
        ({"x5t": HOLDER.thumbprint}, "token_bound"),
    ],
)
def test_what_cannot_be_verified_is_refused(cnf: object, code: str) -> None:
    ensure_refused(minted({"cnf": cnf}), code, cnf="verify")


def test_keycloaks_type_of_bound_tokens() -> None:
    """It writes `typ: DPoP` into them."""
    bound = {"typ": "DPoP", "cnf": HOLDER.cnf}
    assert identify(minted(bound), cnf="verify").binding == Binding(key=HOLDER.thumbprint)
    for cnf in ("refuse", "ignore"):
        ensure_refused(minted(bound), "token_type", cnf=cnf)
    for without in ({"typ": "DPoP"}, {"typ": "DPoP", "cnf": CERTIFICATE}):
        ensure_refused(minted(without), "claim_invalid", cnf="verify")


@pytest.mark.parametrize(
    ("act", "actors"),
    [
        ({"sub": "batch"}, ("batch",)),
        ({"sub": "b", "act": {"sub": "c", "iss": "https://x.example"}}, ("b", "c")),
        ({"client_id": "app"}, ("app",)),
        ({"azp": "app", "act": None}, ("app",)),
        ({"sub": None, "azp": "app"}, ("app",)),
        (None, ()),
    ],
)
def test_who_acts(act: object, actors: tuple[str, ...]) -> None:
    assert identify(minted({"act": act})).actor == actors


def chain(length: int) -> dict[str, Any]:
    act: dict[str, Any] = {"sub": f"actor-{length}"}
    return act if length == 1 else {**act, "act": chain(length - 1)}


def test_a_chain_of_actors_is_bounded() -> None:
    assert len(identify(minted({"act": chain(MAX_ACTORS)})).actor) == MAX_ACTORS
    assert "8" in ensure_refused(minted({"act": chain(MAX_ACTORS + 1)}), "claim_invalid")


@pytest.mark.parametrize(
    "act", ["batch", [], {}, {"sub": ""}, {"sub": 7}, {"sub": "a\nb"}, {"sub": "x" * 256}, {"sub": "a", "act": "b"}]
)
def test_an_actor_without_a_name_is_refused(act: object) -> None:
    """Nobody could be held to account."""
    ensure_refused(minted({"act": act}), "claim_invalid")
