"""What may be published: what is wrong with a document is said, and what runs get agrees with its declaration."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from ext_authz.catalogue.parameters import Parameter, values_of
from ext_authz.catalogue.publication import Publication, id_of
from ext_authz.catalogue.published import Owned, maintains, owns
from ext_authz.identity.api_tokens import CATALOGUE
from ext_authz.identity.identity import Identity
from ext_authz.tokens.model import NotDone
from tests.unit.catalogue.world import identity

SIZE = {"name": "size", "type": "integer", "default": 256, "minimum": 16, "maximum": 4096}
GOOD: dict[str, Any] = {
    "collection": "processor",
    "name": "tiles",
    "version": "1.0",
    "accept_terms": "1",
    "parameters": [SIZE],
}
WRONG: dict[str, dict[str, Any]] = {
    "name: write": {"name": "Tiles"},
    "parameters: only a processor": {"collection": "dataset"},
    "two of them": {"parameters": [SIZE, SIZE]},
    "is more than 4096": {"parameters": [{**SIZE, "default": 9999}]},
    "is no integer": {"parameters": [{**SIZE, "default": "256"}]},
    "size: is no number of a usual size": {"parameters": [{"name": "size", "type": "integer", "default": 2**60}]},
    "the first not above": {"parameters": [{**SIZE, "minimum": 5000}]},
    "only numbers have": {"parameters": [{"name": "mode", "type": "string", "minimum": 1}]},
    "only a string has": {"parameters": [{"name": "size", "type": "integer", "max_length": 1}]},
    "required has no default": {"parameters": [{**SIZE, "required": True}]},
    "has a NUL": {"parameters": [{"name": "mode", "type": "string", "choices": ["a\0"]}]},
    "write a URL": {"assets": {"data": {"href": "javascript:alert(1)", "type": "text/html"}}},
    "without a password": {"sources": ["https://user:secret@data.example/x"]},
    "more than 32768 bytes": {"description": "\u00e9" * 16_384},
    "by which this version": {"collection": "ai-model", "version": "v1", "parameters": []},
    "as it is called": {"collection": "ai-model", "version": "1", "name": "..", "parameters": []},
    "Extra inputs": {"colour": "red"},
    "match pattern": {"description": "a\0b"},
    "should match": {"version": "../1"},
}


@pytest.mark.parametrize("said", WRONG)
def test_what_is_wrong_with_a_document_is_said(said: str) -> None:
    Publication.model_validate(GOOD)
    with pytest.raises(ValidationError, match=said):
        Publication.model_validate(GOOD | WRONG[said])


def test_what_is_kept_is_what_a_version_says() -> None:
    kept = Publication.model_validate(GOOD | {"title": "Tiles", "visibility": "public"}).content()
    assert kept == {"title": "Tiles", "parameters": [SIZE]}
    assert json.loads(json.dumps(kept)) == kept


def test_one_name_of_two_owners_is_two_entries() -> None:
    ids = {id_of("dataset", "reviews", issuer, owner) for issuer in ("a", "b") for owner in ("x", "y")}
    ids.add(id_of("processor", "reviews", "a", "x"))
    assert len(ids) == 5
    assert id_of("ai-model", "sentiment", "a", "x") == "sentiment"


VALUES = st.one_of(
    st.integers(-(2**70), 2**70), st.floats(), st.booleans(), st.text(max_size=8), st.just("x" * 5000), st.just("a\0")
)


TYPES: dict[str, tuple[type, ...]] = {"string": (str,), "integer": (int,), "number": (int, float), "boolean": (bool,)}


@given(st.sampled_from([*TYPES]), VALUES)
def test_what_a_run_gets_is_of_its_type_and_can_be_kept(kind: str, value: Any) -> None:  # noqa: ANN401 - of any type
    parameter = Parameter.model_validate({"name": "it", "type": kind})
    if parameter.complaint(value):
        with pytest.raises(NotDone) as refused:
            values_of([parameter], {"it": value})
        assert refused.value.field == "parameters.it"
        return
    found = values_of([parameter], {"it": value})["it"]
    assert isinstance(found, TYPES[kind])
    assert isinstance(found, bool) == (kind == "boolean")
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    assert "\0" not in str(found)


OWNED = Owned("kc", "alice", "alice", "/team", ("bob", "service:batch"))


def of(subject: str, *, token: bool = False, groups: tuple[str, ...] = (), scopes: tuple[str, ...] = ()) -> Identity:
    held = identity(subject=subject)
    fields = {name: getattr(held, name) for name in held.__struct_fields__}
    return Identity(
        **fields | {"groups": frozenset(groups), "scopes": frozenset(scopes), "grant": "g" if token else ""}
    )


def test_whose_an_entry_is() -> None:
    with_scope = (CATALOGUE,)
    for caller, expected in (
        (None, (False, False)),
        (of("alice"), (True, True)),
        (of("alice", token=True), (False, False)),
        (of("alice", token=True, scopes=with_scope), (True, True)),
        (of("bob"), (False, True)),
        (of("carol"), (False, False)),
        (of("carol", groups=("/team",)), (False, True)),
        (of("carol", groups=("/team/sub", "")), (False, False)),
        (of("carol", token=True, groups=("/team",), scopes=with_scope), (False, False)),
        (of("service:batch"), (False, False)),
        (of("service:batch", token=True, scopes=with_scope), (False, True)),
    ):
        assert (owns(caller, OWNED), maintains(caller, OWNED)) == expected, caller
    other = Owned("other", "alice", "alice", "/team", ())
    assert not maintains(of("alice", groups=("/team",)), other), "of another identity provider"
    assert not owns(of(""), Owned("kc", "", "", "", ())), "nobody's"
