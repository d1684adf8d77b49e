"""The author's text is what it looks like; everything else that YAML offers is a fault at its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from ext_authz.policy import includes, yaml_reader
from ext_authz.policy.faults import MAX_FAULTS
from ext_authz.policy.source import read_source
from tests.unit.policy.reading import fault, faults, read, written

_TEXTS = (
    *("no", "NO", "yes", "on", "off", "y", "=", "010", "0x1F", "0o17", "+1", "1_000", "1:30", "2026-01-01", "1.2.3"),
    *(".5", "1.", ".inf", ".nan", "a-", "v1", "1e", "é 😀", "a#b", "a$b", "/v2/{model}"),
)


@pytest.fixture(params=["CSafeLoader", "SafeLoader"], autouse=True)
def _either_parser(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    # PyYAML has a parser in C and, where that was not built, one in Python.
    monkeypatch.setattr(yaml_reader, "_LOADER", getattr(yaml, request.param))


@pytest.mark.parametrize(
    ("word", "value"),
    [
        *((word, word) for word in _TEXTS),
        *((word, True) for word in ("true", "True", "TRUE")),
        *((word, False) for word in ("false", "False", "FALSE")),
        *((word, None) for word in ("null", "Null", "NULL", "~", "")),
        *(("0", 0), ("12", 12), ("-3", -3), ("1.5", 1.5), ("-0.25", -0.25), ("1e3", 1000.0)),
        *(
            ('"12"', "12"),
            ("'true'", "true"),
            ('""', ""),
            ("'~'", "~"),
            ('"\\u202e\\t"', "\u202e\t"),
            ("|\n  12", "12\n"),
        ),
    ],
)
def test_an_unquoted_word_has_its_type_in_yaml_1_2(tmp_path: Path, word: str, value: object) -> None:
    found = read(tmp_path, f"a: {word}\n").data["a"]
    assert (found, type(found)) == (value, type(value))


def test_a_key_is_always_text(tmp_path: Path) -> None:
    keys = ["on", "no", "1", "010", "null", "~", "true", "2026-01-01", "=", "{x}"]
    text = "".join(f'"{key}": 1\n' if key == "{x}" else f"{key}: 1\n" for key in keys)
    assert list(read(tmp_path, text).data) == keys


def test_every_key_and_value_has_its_place(tmp_path: Path) -> None:
    source = read(tmp_path, "\ufeffversion: 1\r\nroutes:\r\n- name: é\r\n  limits: [a, 'b']\r\n")
    file = tmp_path / "policy.yaml"

    def place(*path: str | int) -> tuple[int, int]:
        at = source.position(path)
        assert at.file == file
        return at.line, at.column

    assert source.data == {"version": 1, "routes": [{"name": "é", "limits": ["a", "b"]}]}
    assert (place(), place("version"), place("routes")) == ((1, 1), (1, 10), (3, 1))
    assert (place("routes", 0), place("routes", 0, "name")) == ((3, 3), (3, 9))
    assert (place("routes", 0, "limits"), place("routes", 0, "limits", 1)) == ((4, 11), (4, 15))
    assert source.key_position(("routes", 0, "limits")).column == 3
    assert source.key_position(("routes", 0)) == source.position(("routes", 0))
    assert source.key_position(()) == source.position(())


@pytest.mark.parametrize("path", [("routes", 0, "x"), ("routes", 0, 3), ("routes", 0, "name", "x")])
def test_what_is_not_there_is_at_the_nearest_place_above(tmp_path: Path, path: tuple[str | int, ...]) -> None:
    source = read(tmp_path, "routes:\n  - name: a\n")
    assert source.position(path).line == 2
    assert source.key_position(path).line == 2
    for outside in (("routes", 7), ("routes", -1), ("routes", "name"), ("nowhere", 1)):
        assert source.position(outside).line <= 2


@pytest.mark.parametrize(
    ("text", "code", "line", "column", "path"),
    [
        ("a: 1\nb:\n\tc: 1\n", "wrong_character", 3, 1, ""),
        ("a: 1\tb\n", "wrong_character", 1, 5, ""),
        ("a: 1\rb: 2\n", "wrong_character", 1, 5, ""),
        ("a: \u202eevil\n", "wrong_character", 1, 4, ""),
        ("a: x\u2028b: 2\n", "wrong_character", 1, 5, ""),
        ("a: x\x85b: 2\n", "wrong_character", 1, 5, ""),
        ("a: x\x00\n", "wrong_character", 1, 5, ""),
        ("a: ad\u200bmin\n", "wrong_character", 1, 6, ""),
        (b"a: 1\nb: \xc3\xa9\xff\n", "not_utf8", 2, 5, ""),
        ("a: 1\n".encode("utf-16"), "not_utf8", 1, 1, ""),
        ("%YAML 1.1\n---\na: 1\n", "directive", 1, 1, ""),
        ("a: 1\n---\nb: 2\n", "several_documents", 2, 1, ""),
        ("--- {a: 1}\n---\n", "several_documents", 2, 1, ""),
        ("", "empty_file", 1, 1, ""),
        ("# nothing\n", "empty_file", 1, 1, ""),
        ("---\n", "empty_file", 1, 1, ""),
        ("just words\n", "not_a_mapping", 1, 1, ""),
        ("- a\n", "not_a_mapping", 1, 1, ""),
        ("a:\n  b: 1\n  b: 2\n", "duplicate_key", 3, 3, "a.b"),
        ("on: 1\n'on': 2\n", "duplicate_key", 2, 1, "on"),
        ("a: [x, *x]\n", "alias", 1, 8, "a.1"),
        ("{*x : 1}\n", "alias", 1, 2, ""),
        ("a: &x 1\n", "anchor", 1, 4, "a"),
        ("a: &x [1]\n", "anchor", 1, 4, "a"),
        ("a: !!python/object:os.system 1\n", "tag", 1, 4, "a"),
        ("a: ! 1\n", "tag", 1, 4, "a"),
        ("a: !!set {x}\n", "tag", 1, 4, "a"),
        ("a: {<<: {b: 1}}\n", "wrong_key", 1, 5, "a.'<<'"),
        ("a: {'': 1}\n", "wrong_key", 1, 5, "a.''"),
        ("'${HOME}': 1\n", "wrong_key", 1, 1, "'${HOME}'"),
        ("? [a, b]\n: 1\n", "key_not_text", 1, 3, ""),
        ("? {a: b}\n: 1\n", "key_not_text", 1, 3, ""),
        ("a: 1234567890123456789\n", "wrong_number", 1, 4, "a"),
        ("a: 1e999\n", "wrong_number", 1, 4, "a"),
        ("a: b: c\n", "syntax", 1, 5, ""),
        ("a: [1,\n", "syntax", 2, 1, ""),
        ("a: @x\n", "syntax", 1, 4, ""),
        ("a: 'x\n", "syntax", 1, 4, ""),
    ],
)
def test_a_fault_has_its_place(tmp_path: Path, text: str | bytes, code: str, line: int, column: int, path: str) -> None:
    error = fault(tmp_path, text)
    assert (error.code, error.line, error.column, error.path) == (code, line, column, path)
    assert error.file == str(tmp_path / "policy.yaml")
    assert error.what[:1] in "'not" or error.what[0].islower()
    assert error.hint


def test_faults_that_leave_the_tree_readable_are_told_together(tmp_path: Path) -> None:
    path = written(tmp_path, {"p.yaml": "a: 1\na: 2\nb: *x\nc: ${NOWHERE}\nd: !t 1\n"})
    assert [(error.line, error.code) for error in faults(path)] == [
        (2, "duplicate_key"),
        (3, "alias"),
        (4, "unset_variable"),
        (5, "tag"),
    ]


def test_unseen_characters_are_told_up_to_a_number(tmp_path: Path) -> None:
    assert len(faults(written(tmp_path, {"p.yaml": "a:\tb\n" * 50}))) == 20


def test_reading_stops_after_many_faults(tmp_path: Path) -> None:
    source, found = read_source(written(tmp_path, {"p.yaml": "a: [" + "*x, " * 900_000}), {})
    assert source is None
    assert [one.code for one in found].count("alias") == MAX_FAULTS
    assert [one.code for one in found].count("more_faults") == 1


def test_a_duplicate_names_the_first(tmp_path: Path) -> None:
    assert "line 1" in fault(tmp_path, "a: 1\nb: 2\na: 3\n").hint


@pytest.mark.parametrize(("depth", "code"), [(64, ""), (65, "too_deep")])
def test_the_nesting_has_a_bound(tmp_path: Path, depth: int, code: str) -> None:
    text = "a: " + "[" * (depth - 1) + "]" * (depth - 1) + "\n"
    path = written(tmp_path, {"p.yaml": text})
    assert [one.code for one in read_source(path, {})[1]] == [code] * bool(code)


def test_the_files_of_a_policy_have_a_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = written(tmp_path, {"p.yaml": "include: [q.yml]\n", "q.yml": "a: 1\n"})
    monkeypatch.setattr(includes, "MAX_BYTES", 22)
    assert read_source(path, {})[1] == ()
    monkeypatch.setattr(includes, "MAX_BYTES", 21)
    (error,) = faults(path)
    assert (error.code, error.file) == ("too_large", str(tmp_path / "q.yml"))


@pytest.mark.parametrize("bomb", ["[" * 1_000_000, "{a: " * 200_000, "- " * 500_000, "a: " + "[" * 900_000])
def test_nesting_neither_overflows_nor_takes_long(tmp_path: Path, bomb: str) -> None:
    assert fault(tmp_path, bomb).code == "too_deep"


def test_a_billion_laughs_are_none(tmp_path: Path) -> None:
    text = "a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n"
    assert {error.code for error in faults(written(tmp_path, {"p.yaml": text}))} == {"anchor", "alias"}


def test_many_directives_take_no_time(tmp_path: Path) -> None:
    text = "".join(f"%TAG !a{number}! b\n" for number in range(100_000)) + "---\na: 1\n"
    assert fault(tmp_path, text).code == "directive"
