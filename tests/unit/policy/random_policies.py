"""Hypothesis' policies, callers and calls: small worlds, so that they meet."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from ext_authz.decision import Principal
from ext_authz.identity.identity import Identity

ROLES, GROUPS, SCOPES = ["infer", "admin", "tester"], ["/a", "/b"], ["s", "t"]
MODELS = ["cancer", "cat", "sentiment", "other"]
_SEGMENTS = ["a", "b", "{x}"]
_TAILS = ["", "/{rest=**}", "/", "/{y}:go"]
HOSTS = ["h.example", "a.h.example", "b.a.h.example", "other"]
HEADERS = ["x-a", "x-b"]

_leaves: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from(ROLES).map(lambda name: {"role": name}),
    st.sampled_from(GROUPS).map(lambda name: {"group": name}),
    st.sampled_from(SCOPES).map(lambda name: {"scope": name}),
    st.sampled_from(["alice", "bob"]).map(lambda name: {"principal": name}),
    st.sampled_from(["web", "batch"]).map(lambda name: {"client": name}),
)
permissions: st.SearchStrategy[dict[str, Any]] = st.recursive(
    _leaves,
    lambda trees: st.one_of(
        st.lists(trees, min_size=1, max_size=3).map(lambda parts: {"any": parts}),
        st.lists(trees, min_size=1, max_size=3).map(lambda parts: {"all": parts}),
        trees.map(lambda part: {"not": part}),
    ),
    max_leaves=5,
)


def _said(**fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Each field is there or not."""
    return st.fixed_dictionaries({}, optional=fields)


_narrowings = st.fixed_dictionaries({"call": permissions}, optional={"see": permissions, "administer": permissions})
_private = _said(
    call=permissions,
    see=permissions,
    administer=permissions,
    versions=st.dictionaries(st.sampled_from(["1", "2"]), _narrowings, max_size=2),
)
_public = _said(call=permissions, administer=permissions).map(lambda entry: {**entry, "visibility": "public"})
models = st.dictionaries(st.sampled_from([*MODELS, "c*", "ca*", "*"]), st.one_of(_private, _public), max_size=5)

_paths = st.builds(
    lambda segments, tail: "/" + "/".join(segments) + tail,
    st.lists(st.sampled_from(_SEGMENTS), min_size=1, max_size=3, unique=True),
    st.sampled_from(_TAILS),
)
_targets: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.builds(
        lambda path, methods: {"path": path, "methods": sorted(methods)},
        st.one_of(
            _paths, st.sampled_from(["/v2/models/{model}/infer", "/v2/models/{model}", "/{rest=**}", "/m/{model}"])
        ),
        st.sets(st.sampled_from(["GET", "POST"]), min_size=1),
    ),
    st.sampled_from(["infer", "metadata", "health", "repository"]).map(lambda kind: {"operation": kind}),
)
_extras = _said(
    hosts=st.lists(st.sampled_from([*HOSTS[:2], "*.h.example", "*.a.h.example"]), max_size=2, unique=True),
    headers=st.lists(st.sampled_from(HEADERS), max_size=2, unique=True),
    permission=permissions,
)
routes = st.lists(st.builds(lambda target, extra: {**target, **extra}, _targets, _extras), min_size=1, max_size=6).map(
    lambda found: [{**route, "name": f"r{number}"} for number, route in enumerate(found)]
)

policies: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {
        "version": st.just(1),
        "issuers": st.just([{"name": "kc", "issuer": "https://id.example", "audiences": ["g"]}]),
        "models": models,
        "routes": routes,
    }
)

identities: st.SearchStrategy[Identity] = st.builds(
    lambda subject, client, roles, groups, scopes: Identity(
        Principal("https://id.example", subject, client, tuple(sorted(roles)), "t"),
        "kc",
        "",
        1,
        2.0,
        ("g",),
        frozenset(scopes),
        frozenset(roles),
        frozenset(groups),
    ),
    st.sampled_from(["alice", "bob"]),
    st.sampled_from(["web", "batch"]),
    st.sets(st.sampled_from(ROLES)),
    st.sets(st.sampled_from(GROUPS)),
    st.sets(st.sampled_from(SCOPES)),
)

calls = st.tuples(
    st.sampled_from(["GET", "POST"]),
    st.one_of(
        st.builds(
            lambda parts, tail: "/" + "/".join(parts) + tail,
            st.lists(st.sampled_from(["a", "b", "c", "c:go"]), min_size=1, max_size=4),
            st.sampled_from(["", "/"]),
        ),
        st.sampled_from(
            ["/", "/v2", "/v2/repository/index", "/v2/models/cat/nothing", "/v2/health/live", "/m/cat"]
            + [f"/v2/models/{name}{rest}" for name in MODELS for rest in ("", "/infer", "/versions/2/infer")]
        ),
    ),
    st.sampled_from(HOSTS),
    st.sets(st.sampled_from(HEADERS)).map(lambda names: dict.fromkeys(names, "1")),
)
