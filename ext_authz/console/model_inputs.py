"""What a model takes, as its own metadata and configuration say it, and what somebody typed for that.

A form is made of `Input`s; `read` makes tensors of what it sent. The model still judges them: only what cannot be sent
is refused here.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import msgspec
from msgspec import Struct

from ext_authz.identity.identity import is_text
from ext_authz.web.pages import Form

MOST_VALUES = 4096
"""In one input."""
_MOST_INPUTS = 16
_MOST_DIMENSIONS = 8
_MOST_FIELDS = 100
"""Values that have a field each; more are typed as a list."""
_MOST_FIELDS_OF_ALL = 900
"""A form that is sent has at most 1000 (`web/pages.py`)."""
_MOST_SIDE = 10
"""Fields in a row of an image: more would not fit on a phone."""
_LONGEST_TEXT = 20_000
_INTEGERS = {f"{sign}INT{bits}": (sign, bits) for sign in ("", "U") for bits in (8, 16, 32, 64)}
_FLOATS = {"FP32": 3.4028234663852886e38, "FP64": 1.7976931348623157e308}
_NUMBER = re.compile(r"[+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?", re.ASCII)
_WHOLE = re.compile(r"[+-]?[0-9]{1,20}", re.ASCII)
_BETWEEN = re.compile(r"[\s,;]+")
_IMAGE = re.compile(r"([0-9]{1,2})x([0-9]{1,2}) (-?[0-9]{1,6})\.\.(-?[0-9]{1,6})", re.ASCII)

Value = str | float | bool
Kind = Literal["text", "lines", "numbers", "list", "booleans", "image"]


class Unsuitable(Exception):
    """No form can be made for this model; says why."""


class Wrong(Exception):
    """What was typed is not what the input takes; says what to type."""

    def __init__(self, field: str, detail: str) -> None:
        super().__init__(detail)
        self.field = field
        self.detail = detail


class Tensor(Struct, frozen=True):
    """One input as it is sent."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    data: tuple[Value, ...]


class Image(Struct, frozen=True):
    """The values of an input are an image, by row from the top left."""

    width: int
    height: int
    least: int
    """Where nothing is drawn."""
    most: int


class Input(Struct, frozen=True, kw_only=True):
    """One input, as a form shows it."""

    field: str
    """Of the form: every value has one of this name, in their order."""
    name: str
    datatype: str
    shape: tuple[int, ...]
    """For one row. At most one dimension is -1: as many as are typed."""
    kind: Kind
    labels: tuple[str, ...] = ()
    """Of the values, where the model has them."""
    example: tuple[str, ...] = ()
    image: Image | None = None

    @property
    def count(self) -> int:
        """Of values; where that is open, of one step of it."""
        return abs(math.prod(self.shape))

    @property
    def is_open(self) -> bool:
        return -1 in self.shape

    @property
    def whole(self) -> bool:
        """Whether it takes whole numbers only."""
        return self.datatype in _INTEGERS

    def label(self, at: int) -> str:
        if at < len(self.labels):
            return self.labels[at]
        return self.name if self.count == 1 and not self.is_open else f"{self.name} {at + 1}"

    def typed(self, form: Form) -> Sequence[str]:
        """As it was sent; of a form that was not, the example."""
        return form.fields.get(self.field, self.example)


class _Described(Struct, frozen=True):
    name: str
    datatype: str
    shape: tuple[int, ...]


class Metadata(Struct, frozen=True):
    """Of the Open Inference Protocol, `GET /v2/models/NAME`."""

    name: str
    inputs: tuple[_Described, ...]
    versions: tuple[str, ...] = ()


class _Parameter(Struct, frozen=True):
    string_value: str = ""


class Config(Struct, frozen=True):
    """Of Triton, `GET /v2/models/NAME/config`: its `parameters` say what people want to know of inputs."""

    parameters: Mapping[str, _Parameter] = {}

    def names(self, what: str) -> tuple[str, ...]:
        """The labels of the values of an input or output."""
        return self._listed(f"labels.{what}")

    def example(self, what: str) -> tuple[str, ...]:
        """Values to begin with: of texts one for each line, else separated by commas."""
        return self._listed(f"example.{what}")

    def text(self, what: str) -> tuple[str, ...]:
        """The only value to begin with, as it is."""
        return tuple(filter(None, [self._said(f"example.{what}")]))

    def image(self, what: str) -> Image | None:
        """Written `WIDTHxHEIGHT LEAST..MOST`."""
        found = _IMAGE.fullmatch(self._said(f"image.{what}"))
        return Image(*map(int, found.groups())) if found else None

    def _said(self, key: str) -> str:
        return self.parameters.get(key, _Parameter()).string_value[:_LONGEST_TEXT]

    def _listed(self, key: str) -> tuple[str, ...]:
        said = self._said(key)
        parts = said.splitlines() if "\n" in said else said.split(",")
        return tuple(part.strip() for part in parts) if said else ()


def inputs_of(metadata: Metadata, config: Config) -> tuple[Input, ...]:
    """
    Raises:
        Unsuitable
    """
    if not 1 <= len(metadata.inputs) <= _MOST_INPUTS:
        raise Unsuitable(f"it takes {len(metadata.inputs)} inputs, and a form has 1 to {_MOST_INPUTS}")
    found = tuple(_input(f"in{at}", each, config) for at, each in enumerate(metadata.inputs))
    if sum(each.count for each in found if each.kind in ("numbers", "booleans", "image")) > _MOST_FIELDS_OF_ALL:
        raise Unsuitable("it takes more values than a form has: call it from a program")
    return found


def _input(field: str, said: _Described, config: Config) -> Input:
    name, datatype, shape = said.name, said.datatype, _of_one_row(said)
    known = datatype in _INTEGERS or datatype in _FLOATS or datatype in ("BOOL", "BYTES")
    if not is_text(name) or not known:
        raise Unsuitable(f"values of the type {datatype[:20]} cannot be typed: call it from a program")
    kind, image = _kind(datatype, shape), config.image(name)
    example = config.text(name) if kind == "text" else config.example(name)
    if image and kind in ("numbers", "list") and _fits(image, math.prod(shape)):
        kind = "image"
    return Input(
        field=field,
        name=name,
        datatype=datatype,
        shape=shape,
        kind=kind,
        labels=config.names(name),
        example=example,
        image=image if kind == "image" else None,
    )


def _of_one_row(said: _Described) -> tuple[int, ...]:
    """The first of several dimensions is that of the batch, if it is open."""
    shape = (1, *said.shape[1:]) if len(said.shape) > 1 and said.shape[0] == -1 else said.shape
    wrong = not 1 <= len(shape) <= _MOST_DIMENSIONS or any(size < 1 for size in shape if size != -1)
    if wrong or shape.count(-1) > 1 or abs(math.prod(shape)) > MOST_VALUES:
        raise Unsuitable(f"inputs of the shape {list(said.shape)[:8]} cannot be typed: call it from a program")
    return shape


def _kind(datatype: str, shape: tuple[int, ...]) -> Kind:
    count, is_open = abs(math.prod(shape)), -1 in shape
    if datatype == "BYTES":
        return "text" if count == 1 and not is_open else "lines"
    if is_open or count > _MOST_FIELDS:
        return "list"
    return "booleans" if datatype == "BOOL" else "numbers"


def _fits(image: Image, count: int) -> bool:
    sides = min(image.width, image.height) >= 1 and max(image.width, image.height) <= _MOST_SIDE
    return sides and image.width * image.height == count and image.least < image.most


def read(inputs: Sequence[Input], form: Form) -> tuple[Tensor, ...]:
    """
    Raises:
        Wrong: the first value that is not what its input takes.
    """
    return tuple(_tensor(each, form) for each in inputs)


def _tensor(wanted: Input, form: Form) -> Tensor:
    texts = _texts(wanted, form.fields.get(wanted.field, []))
    data = tuple(_value(wanted, at, text) for at, text in enumerate(texts))
    steps = len(data) // wanted.count
    if not data or len(data) > MOST_VALUES or len(data) != wanted.count * (steps if wanted.is_open else 1):
        most = f"a multiple of {wanted.count}, at most {MOST_VALUES}" if wanted.is_open else str(wanted.count)
        raise Wrong(wanted.field, f"{wanted.name} takes {most} values, and there are {len(data)}")
    shape = tuple(steps if size == -1 else size for size in wanted.shape)
    return Tensor(wanted.name, wanted.datatype, shape, data)


def _texts(wanted: Input, sent: Sequence[str]) -> Sequence[str]:
    if not sent:
        return []
    if wanted.kind in ("text", "lines"):
        # Browsers send every end of a line as two characters.
        text = sent[0].replace("\r\n", "\n")
        return [text] if wanted.kind == "text" else text.rstrip("\n").split("\n")
    if wanted.kind == "list":
        return [part for part in _BETWEEN.split(sent[0]) if part]
    if wanted.image:
        return [text.strip() or str(wanted.image.least) for text in sent]
    return [text.strip() for text in sent]


def _value(wanted: Input, at: int, text: str) -> Value:
    datatype = wanted.datatype
    if datatype == "BYTES":
        return text
    if datatype == "BOOL":
        if text not in ("true", "false", "1", "0"):
            raise Wrong(wanted.field, f"{wanted.label(at)}: write true or false")
        return text in ("true", "1")
    if datatype in _INTEGERS:
        return _integer(wanted, at, text)
    number = float(text) if len(text) <= 40 and _NUMBER.fullmatch(text) else math.nan
    if not abs(number) <= _FLOATS[datatype]:
        raise Wrong(wanted.field, f"{wanted.label(at)}: write a number, such as 2.5")
    return int(number) if number.is_integer() and abs(number) < 1e15 else number


def _integer(wanted: Input, at: int, text: str) -> int:
    sign, bits = _INTEGERS[wanted.datatype]
    least, most = (0, 2**bits - 1) if sign else (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    number = int(text) if _WHOLE.fullmatch(text) else None
    if number is None or not least <= number <= most:
        raise Wrong(wanted.field, f"{wanted.label(at)}: write a whole number from {least} to {most}")
    return number


def decoded(body: bytes, kind: type[Any]) -> Any:  # noqa: ANN401 - of that type
    """None: the body is something else."""
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, ValueError, RecursionError):
        return None
