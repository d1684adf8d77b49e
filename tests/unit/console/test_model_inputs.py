"""Forms follow from what a model says of itself; what was typed is sent, or said to be wrong in one sentence."""

from __future__ import annotations

import math

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ext_authz.console.model_inputs import (
    MOST_VALUES,
    Config,
    Image,
    Input,
    Metadata,
    Tensor,
    Unsuitable,
    Wrong,
    decoded,
    inputs_of,
    read,
)
from ext_authz.web.pages import Form


def config(**parameters: str) -> Config:
    said = {name.replace("_", ".", 1): {"string_value": value} for name, value in parameters.items()}
    return msgspec.convert({"parameters": said, "name": "m"}, Config)


def inputs(*described: tuple[str, str, list[int]], said: Config | None = None) -> tuple[Input, ...]:
    each = [{"name": name, "datatype": datatype, "shape": shape} for name, datatype, shape in described]
    return inputs_of(msgspec.convert({"name": "m", "inputs": each}, Metadata), said or Config())


def one(datatype: str, shape: list[int], said: Config | None = None) -> Input:
    (found,) = inputs(("x", datatype, shape), said=said)
    return found


@pytest.mark.parametrize(
    ("datatype", "shape", "kind", "sent"),
    [
        ("BYTES", [-1, 1], "text", (1, 1)),
        ("BYTES", [1], "text", (1,)),
        ("BYTES", [-1, 3], "lines", (1, 3)),
        ("BYTES", [-1], "lines", (-1,)),
        ("FP32", [-1, 30], "numbers", (1, 30)),
        ("FP32", [-1, 200], "list", (1, 200)),
        ("INT64", [-1, -1], "list", (1, -1)),
        ("BOOL", [2], "booleans", (2,)),
    ],
)
def test_the_form_goes_by_type_and_shape(datatype: str, shape: list[int], kind: str, sent: tuple[int, ...]) -> None:
    found = one(datatype, shape)
    assert (found.kind, found.shape) == (kind, sent)


@pytest.mark.parametrize(
    ("said", "image"),
    [
        ("8x8 0..16", Image(8, 8, 0, 16)),
        ("4x16 0..1", None),
        ("8x9 0..16", None),
        ("8x8 16..0", None),
        ("8x8", None),
        ("", None),
    ],
)
def test_an_image_is_one_where_the_model_says_so(said: str, image: Image | None) -> None:
    found = one("FP32", [-1, 64], config(image_x=said))
    assert (found.kind, found.image) == ("image" if image else "numbers", image)
    assert one("BYTES", [-1, 64], config(image_x="8x8 0..16")).kind == "lines"


def test_labels_and_examples_are_the_models() -> None:
    found = one("FP32", [-1, 3], config(labels_x="a, b", example_x="1,2, 3"))
    assert [found.label(at) for at in range(3)] == ["a", "b", "x 3"]
    assert found.typed(Form()) == ("1", "2", "3")
    assert found.typed(Form({"in0": ["7"]})) == ["7"]
    assert one("BYTES", [-1, 1], config(example_x="Hello,you\nall")).typed(Form()) == ("Hello,you\nall",)
    assert one("BYTES", [-1, 2], config(example_x="a, b\nc")).typed(Form()) == ("a, b", "c")
    assert one("FP32", [-1, 1]).label(0) == "x"


@pytest.mark.parametrize(
    ("described", "why"),
    [
        ([], "0 inputs"),
        ([("x", "FP32", [1])] * 17, "17 inputs"),
        ([("x", "FP16", [1])], "of the type FP16"),
        ([("x", "FP32", [100])] * 10, "more values than a form has"),
        ([("x\n", "FP32", [1])], "cannot be typed"),
        ([("x", "FP32", [])], r"of the shape \[\]"),
        ([("x", "FP32", [1] * 9)], "of the shape"),
        ([("x", "FP32", [1, 0])], "of the shape"),
        ([("x", "FP32", [-1, -1, -1])], "of the shape"),
        ([("x", "FP32", [3, 224, 224])], "of the shape"),
    ],
)
def test_what_cannot_be_typed_has_no_form(described: list[tuple[str, str, list[int]]], why: str) -> None:
    with pytest.raises(Unsuitable, match=why):
        inputs(*described)


def test_what_was_typed_is_sent() -> None:
    wanted = inputs(("text", "BYTES", [-1, 1]), ("n", "FP32", [-1, 2]), ("list", "INT8", [-1, -1]), ("b", "BOOL", [1]))
    typed = {"in0": [" a\r\nb "], "in1": ["1e1", " -.5 "], "in2": ["1, 2;3\n4"], "in3": ["true"]}
    assert read(wanted, Form(typed)) == (
        Tensor("text", "BYTES", (1, 1), (" a\nb ",)),
        Tensor("n", "FP32", (1, 2), (10, -0.5)),
        Tensor("list", "INT8", (1, 4), (1, 2, 3, 4)),
        Tensor("b", "BOOL", (1,), (True,)),
    )
    lines = read([one("BYTES", [-1])], Form({"in0": ["a\r\n\r\nb\r\n"]}))
    assert lines == (Tensor("x", "BYTES", (3,), ("a", "", "b")),)


def test_what_is_not_drawn_is_white() -> None:
    wanted = one("FP32", [4], config(image_x="2x2 -1..1"))
    assert read([wanted], Form({"in0": ["", "1", " ", "0.5"]}))[0].data == (-1, 1, -1, 0.5)


@pytest.mark.parametrize(
    ("datatype", "shape", "typed", "why"),
    [
        ("FP32", [1], ["nan"], "x: write a number, such as 2.5"),
        ("FP32", [2], ["1", "2,5"], "x 2: write a number"),
        ("FP32", [1], ["1e39"], "write a number"),
        ("FP64", [1], ["1e999"], "write a number"),
        ("FP32", [1], ["\u0661"], "write a number"),
        ("FP32", [1], ["1" * 41], "write a number"),
        ("FP32", [1], [""], "write a number"),
        ("FP32", [2], ["1"], "x takes 2 values, and there are 1"),
        ("FP32", [1], [], "x takes 1 values, and there are 0"),
        ("BYTES", [1], [], "x takes 1 values, and there are 0"),
        ("BYTES", [2], ["a\nb\nc"], "x takes 2 values, and there are 3"),
        ("FP32", [-1, -1, 2], ["1 2 3"], "x takes a multiple of 2, at most 4096 values, and there are 3"),
        ("FP32", [-1], [""], "there are 0"),
        ("FP32", [-1], ["1 " * (MOST_VALUES + 1)], "there are 4097"),
        ("INT8", [1], ["128"], "a whole number from -128 to 127"),
        ("UINT8", [1], ["-1"], "a whole number from 0 to 255"),
        ("INT64", [1], ["2.0"], "a whole number"),
        ("BOOL", [1], ["yes"], "true or false"),
    ],
)
def test_what_cannot_be_sent_is_said(datatype: str, shape: list[int], typed: list[str], why: str) -> None:
    with pytest.raises(Wrong, match=why) as wrong:
        read([one(datatype, shape)], Form({"in0": typed}))
    assert wrong.value.field == "in0"


_VALUES = st.lists(st.text(max_size=30) | st.floats().map(str) | st.integers().map(str), max_size=6)


@given(
    st.sampled_from(["BYTES", "BOOL", "FP32", "FP64", "INT8", "UINT64"]),
    st.lists(st.sampled_from([-1, 1, 2, 3]), min_size=1, max_size=3),
    _VALUES,
)
def test_whatever_is_typed_is_sent_or_refused(datatype: str, shape: list[int], typed: list[str]) -> None:
    try:
        wanted = one(datatype, shape)
        (tensor,) = read([wanted], Form({"in0": typed}))
    except (Unsuitable, Wrong):
        return
    assert math.prod(tensor.shape) == len(tensor.data) > 0
    assert msgspec.json.decode(msgspec.json.encode(tensor.data)) == [*tensor.data]


@given(st.binary(max_size=40) | st.recursive(st.integers() | st.text(), st.lists).map(msgspec.json.encode))
def test_whatever_a_model_server_says_breaks_nothing(body: bytes) -> None:
    for kind in (Metadata, Config):
        found = decoded(body, kind)
        assert found is None or isinstance(found, kind)
    assert decoded(b"[" * 100_000, Metadata) is None
