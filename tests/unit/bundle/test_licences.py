"""Every part has a licence and its text, or there is no archive."""

from __future__ import annotations

import json
import sys
import tomllib
from contextlib import suppress
from email import message_from_string
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path

import pytest

from bundle.licences import PARTS, bill_of_materials, folder, is_text, licence_of, listed, parts
from bundle.locked import FRAMEWORKS, SERVICE, CannotBundle, locked
from tests.unit.bundle.made import LICENSED, digest, wheel

_OURS = "tollgate-models"


@pytest.fixture
def declared(tmp_path: Path) -> Path:
    """Of nothing."""
    file = tmp_path / "parts.toml"
    file.touch()
    return file


@pytest.mark.parametrize(
    ("metadata", "licence"),
    [
        ("License-Expression: Apache-2.0 AND MIT\nLicense: something else\n", "Apache-2.0 AND MIT"),
        ("License: BSD-3-Clause\nClassifier: License :: OSI Approved :: BSD License\n", "BSD-3-Clause"),
        ("License: Copyright of all\n  Permission is hereby\nClassifier: License :: OSI Approved :: Y\n", "Y"),
        ("Classifier: Typing :: Typed\nClassifier: License :: OSI Approved :: BSD License\n", "BSD License"),
    ],
)
def test_the_licence_is_what_the_metadata_says(tmp_path: Path, declared: Path, metadata: str, licence: str) -> None:
    [part] = parts([wheel(tmp_path, "some", LICENSED, metadata=metadata)], declared)
    assert (part.name, part.version, part.licence) == ("some", "1.0", licence)


@pytest.mark.parametrize(
    ("name", "is_text"),
    [
        ("{}.dist-info/licenses/AUTHORS.rst", True),
        ("{}.dist-info/COPYING", True),
        ("some/vendored/LICENCE.txt", True),
        ("some/ThirdPartyNotices.txt", True),
        ("some/license.py", False),
        ("some/text.txt", False),
    ],
)
def test_what_counts_as_a_text(tmp_path: Path, declared: Path, name: str, *, is_text: bool) -> None:
    made = wheel(tmp_path, "some", {name: "do as you like"})
    if is_text:
        assert [*parts([made], declared)[0].texts.values()] == [b"do as you like"]
    else:
        with pytest.raises(CannotBundle, match=r"some-1.0-py3-none-any.whl has no text of its licence: find out"):
            parts([made], declared)


def test_a_part_without_licence_is_named(tmp_path: Path, declared: Path) -> None:
    with pytest.raises(CannotBundle, match=r"some-1.0-py3-none-any.whl has no licence in its metadata: find out"):
        parts([wheel(tmp_path, "some", LICENSED, metadata="")], declared)


def test_a_text_may_be_declared_and_a_program_named(tmp_path: Path, declared: Path) -> None:
    declared.write_text("""
[[text]]
wheel = "some==1.0"
file = "LICENSE"
[[program]]
name = "Program"
wheel = "some==1.0"
licence = "BSD-3-Clause"
file = "bundle/licences/valkey.txt"
""")
    program, some = parts([wheel(tmp_path, "some", {})], declared)
    assert (program.name, program.version, program.licence) == ("Program", "in some 1.0", "BSD-3-Clause")
    assert b"Salvatore" in program.texts["valkey.txt"]
    assert b"Apache License" in some.texts["LICENSE"]


def test_a_declaration_is_for_one_version(tmp_path: Path, declared: Path) -> None:
    declared.write_text('[[text]]\nwheel = "some==2.0"\nfile = "LICENSE"\n')
    with pytest.raises(CannotBundle, match=r"parts.toml describes some==2.0, which is not what is locked: look"):
        parts([wheel(tmp_path, "some", LICENSED)], declared)


def test_the_lists_have_all_parts(tmp_path: Path, declared: Path) -> None:
    one = wheel(tmp_path, "one", {**LICENSED, "one.libs/libcurl-75.so.4": ""})
    two = wheel(tmp_path, "two", LICENSED)
    found = parts([two, one], declared)
    table = listed(found)
    assert "| one | 1.0 | MIT | [1](licences/one-1.0/) | libcurl-75.so.4 |\n| two | 1.0 |" in table
    assert [folder(part) for part in found] == ["one-1.0", "two-1.0"]
    bill = json.loads(bill_of_materials(found, "0.1.0"))
    assert [component["purl"] for component in bill["components"]] == ["pkg:pypi/one@1.0", "pkg:pypi/two@1.0"]
    assert bill["components"][0]["hashes"] == [{"alg": "SHA-256", "content": digest(one)}]
    assert [library["name"] for library in bill["components"][0]["components"]] == ["libcurl-75.so.4"]


def test_what_is_declared_is_what_is_locked() -> None:
    """Who changes the lock looks again what these wheels bring."""
    said = tomllib.loads(PARTS.read_text())
    pins = {each["wheel"] for each in (*said["text"], *said["program"])}
    known = {line.partition(" ")[0] for name in (SERVICE, *FRAMEWORKS) for line in locked(name, "3.11")}
    assert {pin for pin in pins if not pin.startswith(_OURS)} <= known
    assert all((PARTS.parents[1] / each["file"]).is_file() for each in (*said["text"], *said["program"]))


def test_what_is_installed_has_a_licence_and_a_text() -> None:
    """Before `make bundle` says so. What another Python needs is not installed here, and what models need never is."""
    declared = {each["wheel"] for each in tomllib.loads(PARTS.read_text())["text"]}
    without = []
    for line in locked(SERVICE, f"{sys.version_info[0]}.{sys.version_info[1]}"):
        pin = line.partition(" ")[0]
        with suppress(PackageNotFoundError):
            found = distribution(pin.partition("==")[0])
            texts = pin in declared or any(is_text(str(file)) for file in found.files or ())
            if not texts or not licence_of(message_from_string(found.read_text("METADATA") or "")):
                without.append(pin)
    assert without == [], "bundle/parts.toml describes what has none"
