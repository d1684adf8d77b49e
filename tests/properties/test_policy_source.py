"""Whatever stands in a file: it is read or told about, by both parsers alike, and nothing else happens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from ext_authz.policy import yaml_reader
from ext_authz.policy.faults import Fault, Faults, rendered, rendered_json
from ext_authz.policy.includes import PolicyFile, PolicyFiles
from ext_authz.policy.source import Source, read_source
from ext_authz.policy.tree import Node
from ext_authz.policy.validation import faults_of
from tests.unit.policy.test_validation import Document

FILE = Path("p.yaml")
SECRET = "Tr0ub4dor-and-3"
ENVIRON = {"S": SECRET}

_VISIBLE = st.characters(min_codepoint=0x20, max_codepoint=0xFFFF, categories=("L", "N", "P", "S", "Zs"))
_PIECES = [
    *(
        "a",
        "b: ",
        "- ",
        "? ",
        ": ",
        ":",
        "\n",
        "\n  ",
        "\n    ",
        " ",
        "[",
        "]",
        "{",
        "}",
        ", ",
        ",",
        '"',
        "'",
        "|",
        ">",
    ),
    *(
        "&x",
        "*x",
        "!t",
        "#",
        "%",
        "@",
        "`",
        "---",
        "...",
        "\\",
        "\\n",
        "~",
        "12",
        "-0",
        "1e9",
        "true",
        "no",
        "<<",
        "=",
        "\r\n",
    ),
    *("${S}", "$${", "${", "}", "\t", "\ufeff", "é", "😀", "include: ", "|-", ">+2", "|0", "-", "\u2028"),
]
yaml_like = st.lists(st.sampled_from(_PIECES), max_size=30).map("".join)
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**17) + 1, 10**17)
    | st.text(_VISIBLE, max_size=9).filter(lambda text: "$" not in text),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.text(_VISIBLE, min_size=1, max_size=9).filter(lambda key: "$" not in key and key != "<<"),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


def parsed(
    text: str, loader: str = "CSafeLoader", environ: Mapping[str, str] = ENVIRON
) -> tuple[Node | None, list[Fault]]:
    faults = Faults()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(yaml_reader, "_LOADER", getattr(yaml, loader))
        tree = yaml_reader.read_yaml(text, FILE, environ, faults)
    return tree, faults.found


def keys(node: Node) -> dict[str, object]:
    """The positions of all keys."""
    return {key: (below.key, keys(below)) for key, below in node.entries.items()}


def ensure_well_told(faults: list[Fault], text: str) -> None:
    lines = text.count("\n") + 1
    for fault in faults:
        assert 1 <= fault.line <= lines + 1
        assert fault.column >= 1
        assert rendered(fault).isprintable()
        assert fault.code.isidentifier()
        assert fault.what
    json.loads(rendered_json(faults))


@given(yaml_like | st.text(max_size=40))
@settings(max_examples=60)
@example("a: |\n")
@example("? a\n? b")
def test_text_is_read_or_told_about(text: str) -> None:
    tree, faults = parsed(text)
    assert tree is not None or faults
    ensure_well_told(faults, text)


@given(yaml_like)
@settings(max_examples=50)
def test_both_parsers_read_the_same(text: str) -> None:
    (tree, faults), (other, other_faults) = parsed(text), parsed(text, "SafeLoader")
    if tree is not None and other is not None and not faults and not other_faults:
        assert tree.plain() == other.plain()
        assert keys(tree) == keys(other)  # the place of an empty value is each parser's own choice


@given(st.binary(max_size=60))
@settings(max_examples=50)
def test_bytes_are_read_or_told_about(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzzed.yaml"
    path.write_bytes(content)
    source, found = read_source(path, ENVIRON)
    assert source is not None or found
    ensure_well_told(list(found), content.decode("utf-8", "replace"))


@given(st.dictionaries(st.sampled_from("abc"), values, min_size=1), st.sampled_from([None, 2]))
@settings(max_examples=50)
def test_data_comes_back_and_its_places_are_right(data: dict[str, object], indent: int | None) -> None:
    text = json.dumps(data, ensure_ascii=False, indent=indent)
    tree, faults = parsed(text, environ={})
    assert tree is not None
    assert not faults
    assert tree.plain() == data
    source = Source(tree, files_of(text, tree), {})
    ensure_places(source, text.split("\n"), (), data)


def files_of(text: str, tree: Node) -> PolicyFiles:
    files = PolicyFiles({})
    files.read.append(PolicyFile(FILE, text.encode(), tree))
    return files


def ensure_places(source: Source, lines: list[str], path: tuple[str | int, ...], value: object) -> None:
    at = source.position(path)
    written = json.dumps(value, ensure_ascii=False)
    written = written[0] if isinstance(value, dict | list) else written
    assert lines[at.line - 1][at.column - 1 :].startswith(written)
    steps = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for step, below in steps:
        if isinstance(step, str):
            key = source.key_position((*path, step))
            assert lines[key.line - 1][key.column - 1 :].startswith(json.dumps(step, ensure_ascii=False))
        ensure_places(source, lines, (*path, step), below)


# Mappings with the model's own keys, so that validation goes deep, and with a secret here and there.
_KEYS = st.sampled_from(["kind", "rate", "burst", "any", "roles", "deep", "a", "A", "fixed", "zzz"])
_TEXTS = st.sampled_from(["${S}", "x${S}", "a", "A1", "fixed", "flat", "burst", "1,2", "all", "red", "assert"])
_PARTS = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 12) | _TEXTS,
    lambda part: st.lists(part, max_size=3) | st.dictionaries(_KEYS, part, max_size=4),
    max_leaves=12,
)
document_like = st.dictionaries(st.sampled_from([*Document.model_fields, "otherwise", "x"]), _PARTS, max_size=6)


@given(document_like)
@settings(max_examples=25)
def test_every_mistake_is_told_and_no_secret(data: dict[str, object]) -> None:
    text = json.dumps(data, indent=1)
    tree, faults = parsed(text)
    assert tree is not None
    source = Source(tree, files_of(text, tree), ENVIRON)
    try:
        Document.model_validate(source.data)
    except ValidationError as wrong:
        faults = faults_of(wrong, source, Document)
        assert faults
    ensure_well_told(faults, text)
    for fault in faults:
        line = rendered(fault).lower()
        assert not any(SECRET[start : start + 4].lower() in line for start in range(len(SECRET) - 3))
