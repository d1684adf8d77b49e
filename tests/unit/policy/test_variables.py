"""`${NAME}` takes a value from the environment, never a structure, and the value never comes back in a message."""

from __future__ import annotations

from pathlib import Path

import pytest

from ext_authz.policy.source import read_source
from ext_authz.policy.variables import masked
from tests.unit.policy.reading import fault, read, written

ENVIRON = {"SECRET": "s3cr3t-value", "_x1": "]\n- admin: {a: b}", "NUMBER": "12", "EMPTY": "", "NEST": "${SECRET}"}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("${SECRET}", "s3cr3t-value"),
        ("'${SECRET}'", "s3cr3t-value"),
        ("redis://:${SECRET}@${NUMBER}/${NUMBER}", "redis://:s3cr3t-value@12/12"),
        ("${_x1}", "]\n- admin: {a: b}"),
        ("${NUMBER}", "12"),
        ("${EMPTY}", ""),
        ("${NEST}", "${SECRET}"),
        ("$${SECRET}", "${SECRET}"),
        ("$$${SECRET}", "$${SECRET}"),
        ("$SECRET $ {model}$", "$SECRET $ {model}$"),
        ("|\n   key ${NUMBER}", "key 12\n"),
    ],
)
def test_a_reference_is_replaced_by_text(tmp_path: Path, text: str, value: str) -> None:
    assert read(tmp_path, f"a:\n- {text}\n", ENVIRON).data == {"a": [value]}


@pytest.mark.parametrize(
    ("text", "code", "said"),
    [
        ("x${NOWHERE}", "unset_variable", "the environment variable NOWHERE is not set"),
        ("${SECRET:-x}", "wrong_reference", "'${SECRET:-x}'"),
        ("${1}", "wrong_reference", "'${1}'"),
        ("${}", "wrong_reference", "'${}'"),
        ("${SECRET ${SECRET}", "wrong_reference", "'${SECRET ${SECRET}'"),
        ("${SECRET", "wrong_reference", "'${SECRET'"),
    ],
)
def test_a_reference_that_cannot_be_replaced_is_told(tmp_path: Path, text: str, code: str, said: str) -> None:
    error = fault(tmp_path, f"a:\n  b: [1, '{text}']\n", ENVIRON)
    assert (error.code, error.line, error.column, error.path) == (code, 2, 10, "a.b.1")
    assert said in error.what
    assert ENVIRON["SECRET"] not in str(error)


def test_a_reference_brings_no_structure(tmp_path: Path) -> None:
    assert read(tmp_path, "a: ${X}\n", {"X": "1\nb: 2"}).data == {"a": "1\nb: 2"}


def test_the_places_are_kept_and_the_values_not_shown(tmp_path: Path) -> None:
    source = read(tmp_path, "a: [1, '${SECRET}${NUMBER}${SECRET}']\nb: '$${x}'\n", ENVIRON)
    assert source.substituted == {("a", 1): ("SECRET", "NUMBER")}
    assert "s3cr3t" not in repr(source)
    assert source.digest in repr(source)


def test_what_others_say_about_a_place_is_masked(tmp_path: Path) -> None:
    source = read(tmp_path, "a: {b: '${SECRET}', c: '${NUMBER}'}\nd: {e: 1}\n", ENVIRON)
    assert source.masked("bad s3cr3t-value 12", ("a",)) == "bad *** ***"
    assert source.masked("bad s3cr3t-value 12", ("a", "b", 0)) == "bad *** 12"
    assert source.masked("bad s3cr3t-value 12", ("d", "e")) == "bad s3cr3t-value 12"
    assert source.masked("bad s3cr3t-value 12", ()) == "bad *** ***"


@pytest.mark.parametrize(
    ("text", "secrets", "shown"),
    [
        ("is S3CR3T, s3cr... or t-val", ["s3cr3t-value"], "is ***, ***... or ***"),
        ("port 12 of 312", ["12"], "port *** of 312"),
        ("port 12", [""], "port 12"),
        ("use https, not HTTP://id.example", ["http://id.example"], "use https, not HTTP://***"),
        ("ab", ["abcdef"], "ab"),
        ("İİabcd", ["abcd"], "İİ***"),
        ("nothing near", ["s3cr3t-value"], "nothing near"),
    ],
)
def test_a_mask_hides_what_quotes_cuts_or_lowers(text: str, secrets: list[str], shown: str) -> None:
    assert masked(text, secrets) == shown


def test_a_substitution_bomb_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, {"p.yaml": "a: '" + "${X}" * 10_000 + "'\n"})
    (error,) = read_source(path, {"X": "x" * 1000})[1]
    assert error.code == "too_large"
    assert "xxx" not in str(error)
