"""The path grammar: every spelling that has been a bypass somewhere is refused here."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.policy.path import MAX_PATH, ensure_canonical

CANONICAL = [
    "/",
    "/v2/models/sentiment/infer",
    "/a.b/~c",
    "/v2/health/live/",
    "/inference.GRPCInferenceService/ModelInfer",
]

NOT_CANONICAL = [
    "",
    "*",
    "v2/models",
    "inference.GRPCInferenceService/ModelInfer",  # CVE-2026-33186
    "//v2/models",
    "/v2//models",
    "/v2/models//",
    "/v2/./models",
    "/v2/../admin",
    "/..",
    "/.",
    "/v2/models/..",
    "/v2/..;x/admin",
    "/v2/models;a=b/infer",
    "/v2/%2e%2e/admin",
    "/v2/models%2fsentiment",
    "/v2/models/%2561",
    "/v2\\models",
    "/v2/models#x",
    "/v2/mod els",
    "/v2/models\t",
    "/v2/models\n",
    "/v2/models\x00",
    "/v2/modèls",
    "/v2/models\u2215x",
    "http://host/v2/models",
    "/v2/{model}",
    '/v2/"x"',
    "/v2/<x>",
    "/v2/x|y",
    "/v2/x?y",
]


@pytest.mark.parametrize("path", CANONICAL)
def test_canonical_paths_pass(path: str) -> None:
    ensure_canonical("GET", path)


@pytest.mark.parametrize("path", NOT_CANONICAL)
def test_other_spellings_are_refused(path: str) -> None:
    with pytest.raises(Denied) as denied:
        ensure_canonical("GET", path)
    assert (denied.value.reason, denied.value.code) == (Reason.BAD_REQUEST, "path_not_canonical")


def test_connect_is_refused_whatever_its_path() -> None:
    with pytest.raises(Denied) as denied:
        ensure_canonical("CONNECT", "/v2/models")
    assert denied.value.code == "method_refused"


def test_length_is_bounded() -> None:
    ensure_canonical("GET", "/" + "a" * (MAX_PATH - 1))
    with pytest.raises(Denied) as denied:
        ensure_canonical("GET", "/" + "a" * MAX_PATH)
    assert denied.value.code == "path_too_long"


@given(st.text(max_size=60))
def test_whatever_passes_has_one_spelling(path: str) -> None:
    try:
        ensure_canonical("GET", path)
    except Denied:
        return
    assert path.startswith("/")
    assert path.isascii()
    assert path.isprintable()
    assert not set(path) & set("%\\;#? ")
    assert not {"", ".", ".."} & set(path[1:].split("/")[:-1])
