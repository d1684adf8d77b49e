"""The grammar of what a caller names: every spelling that has been a bypass somewhere is refused here."""

from __future__ import annotations

import re
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.decision import Reason
from ext_authz.errors import Denied
from ext_authz.policy.names import MAX_PATH, ensure_model, ensure_version, reading

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
def test_canonical_paths_pass_as_they_are(path: str) -> None:
    assert reading("GET", path) is path


ESCAPED = {
    "/a%20b": "/a b",
    "/%C3%A9t%C3%A9/": "/été/",
    "/a%3Apredict": "/a:predict",
    "/%F0%9F%98%80": "/😀",
    "/%22%23%3F%5B%5D%5E%60%7B%7C%7D": '/"#?[]^`{|}',
    "/..%20/.%C3%A9": "/.. /.é",
    "/%EF%BC%8F": "/\uff0f",
}
"""What an upstream that decodes reads."""


@pytest.mark.parametrize(("path", "read"), ESCAPED.items())
def test_escapes_of_utf8_are_decoded_once(path: str, read: str) -> None:
    assert reading("GET", path) == read


NOT_ESCAPED = {
    "unreserved": ["%41", "%7A", "%30", "%2D", "%2E", "%5F", "%7E"],
    "delimiters of paths": ["%2F", "%5C", "%3B", "%25", "%252F", "%25%32%46"],
    "controls": ["%00", "%0A", "%0D", "%1F", "%7F", "%C2%80", "%C2%9F"],
    "lower case": ["%3a", "%c3%a9", "%C3%a9", "%2f", "%5c"],
    "unfinished": ["%", "%2", "%G0", "%u0041", "%%20"],
    "no UTF-8": ["%C3", "%A9", "%C0%AF", "%E0%80%AF", "%F0%80%80%AF", "%ED%A0%80", "%F4%90%80%80", "%FF", "%C3a%A9"],
}


@pytest.mark.parametrize("escape", [escape for escapes in NOT_ESCAPED.values() for escape in escapes])
def test_other_escapes_are_refused(escape: str) -> None:
    for path in (f"/{escape}", f"/a{escape}b", f"/a/{escape}/", f"/a%20{escape}"):
        with pytest.raises(Denied) as denied:
            reading("GET", path)
        assert denied.value.code == "path_not_canonical"


@pytest.mark.parametrize("path", NOT_CANONICAL)
def test_other_spellings_are_refused(path: str) -> None:
    with pytest.raises(Denied) as denied:
        reading("GET", path)
    assert (denied.value.reason, denied.value.code) == (Reason.BAD_REQUEST, "path_not_canonical")


def test_connect_is_refused_whatever_its_path() -> None:
    with pytest.raises(Denied) as denied:
        reading("CONNECT", "/v2/models")
    assert denied.value.code == "method_refused"


def test_length_is_bounded() -> None:
    reading("GET", "/" + "a" * (MAX_PATH - 1))
    with pytest.raises(Denied) as denied:
        reading("GET", "/" + "a" * MAX_PATH)
    assert denied.value.code == "path_too_long"


_pieces = st.sampled_from([*"/.aB:;% é", "%20", "%3A", "%2F", "%C3%A9", "%C3", "%A9", "%c3", "%2E", "%41"])


@given(st.one_of(st.text(max_size=60), st.lists(_pieces, max_size=12).map(lambda found: "/" + "".join(found))))
def test_whatever_passes_has_one_spelling(path: str) -> None:
    try:
        read = reading("GET", path)
    except Denied:
        return
    assert path.startswith("/")
    assert path.isascii()
    assert path.isprintable()
    assert not set(path) & set("\\;#? ")
    assert not {"", ".", ".."} & set(path[1:].split("/")[:-1])
    # What a template may have, too, is the only thing that may be escaped or not.
    may_be_plain = re.sub("%(2[146-9A-C]|3[AD]|40)", lambda found: chr(int(found[1], 16)), path)
    assert quote(read, safe="/:@!$&'()*+,=") == may_be_plain
    assert not set(read) & set("\\;%")
    assert read.count("/") == path.count("/")


NO_MODEL = [
    "",
    "-",
    ".",
    "..",
    "a/b",
    "a%2fb",
    "a b",
    "a\n",
    "a\0b",
    "a\udcff",
    "é",
    "\u0441ancer",
    "a*",
    "*",
    "a:b",
    "a" * 129,
]
NO_VERSION = ["0", "01", "-1", "+1", "1abc", " 1", "1 ", "1.9", "1\0", "x", "*", "٣", "1" * 19]


@pytest.mark.parametrize("model", ["m", "a.b", "...", "--", "-a", "_", "1", "A" * 128])
def test_models_names(model: str) -> None:
    ensure_model(model)


@pytest.mark.parametrize("model", NO_MODEL)
def test_what_names_no_model_is_refused_and_not_repeated(model: str) -> None:
    with pytest.raises(Denied) as denied:
        ensure_model(model)
    assert (denied.value.reason, denied.value.code) == (Reason.BAD_REQUEST, "model_not_canonical")
    assert denied.value.detail == "a model's name is 1 to 128 letters, digits, _, . and -"


@pytest.mark.parametrize("version", ["", "1", "10", "9" * 18])
def test_versions(version: str) -> None:
    ensure_version(version)


@pytest.mark.parametrize("version", NO_VERSION)
def test_what_is_no_version_is_refused_and_not_repeated(version: str) -> None:
    """Triton serves some of these as version 1 (it reads them with stol)."""
    with pytest.raises(Denied) as denied:
        ensure_version(version)
    assert (denied.value.reason, denied.value.code) == (Reason.BAD_REQUEST, "version_not_canonical")
    assert "18 digits" in denied.value.detail
