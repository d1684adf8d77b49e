"""gRPC messages as bytes: what a good client sends, and what no client would, made to be read differently by two."""

from __future__ import annotations

from tritonclient.grpc import service_pb2

from tests.e2e.server.raw import frame

VARINT, FIXED64, TEXT, GROUP, END_GROUP, FIXED32 = range(6)
"""Wire types."""

_ROW = service_pb2.ModelInferRequest(raw_input_contents=[b"\0\0\x80\x3f"])
_ROW.inputs.add(name="x", datatype="FP32", shape=[1, 1])
ROW: bytes = _ROW.SerializeToString()
"""Of a ModelInferRequest everything but the model: one row of one number."""


def varint(number: int, padding: int = 0) -> bytes:
    """`padding`: how many bytes more than it takes."""
    digits: list[int] = []
    while not digits or number:
        digits.append(number & 127)
        number >>= 7
    digits += [0] * padding
    return bytes([*(digit | 128 for digit in digits[:-1]), digits[-1]])


def tag(field: int, kind: int = TEXT, padding: int = 0) -> bytes:
    return varint(field << 3 | kind, padding)


def text(field: int, value: bytes) -> bytes:
    return tag(field) + varint(len(value)) + value


def model(name: bytes) -> bytes:
    """As most messages name it."""
    return text(1, name)


def version(name: bytes) -> bytes:
    return text(2, name)


def plain(mine: bytes, other: bytes) -> dict[str, tuple[bytes, bytes, bytes]]:
    """Messages that say one thing to everybody, with the model and the version that they name."""
    unknown = text(1000, other) + tag(1001, VARINT) + varint(7) + tag(1002, FIXED64) + bytes(8)
    return {
        "a model": (model(mine) + ROW, mine, b""),
        "a model and a version": (model(mine) + version(b"1") + ROW, mine, b"1"),
        "the newest version, said": (model(mine) + version(b"") + ROW, mine, b""),
        "names at the end": (ROW + version(b"2") + model(mine), mine, b"2"),
        "fields that nobody knows": (model(mine) + unknown + tag(1003, FIXED32) + bytes(4) + ROW, mine, b""),
        "the last field there is": (model(mine) + text(2**29 - 1, other) + ROW, mine, b""),
        "a name inside a field": (model(mine) + text(3, model(other)) + ROW, mine, b""),
        "a length with zeros": (tag(1) + varint(len(mine), 3) + mine + ROW, mine, b""),
    }


def crafted(mine: bytes, other: bytes) -> dict[str, bytes]:
    """Messages of which somebody reads `mine`, and somebody else may read something else, or nothing."""
    good, theirs = model(mine) + ROW, model(other)
    hidden = bytes([len(mine)]) + mine
    return {
        "two models": good + theirs,
        "two models, mine last": theirs + good,
        "my model twice": good + model(mine),
        "a model and an empty one": good + model(b""),
        "an empty one and a model": model(b"") + good,
        "a padded tag": good + tag(1, TEXT, 1) + varint(len(other)) + other,
        "a tag of five bytes": good + tag(1, TEXT, 4) + varint(len(other)) + other,
        "a tag of six bytes": good + tag(1, TEXT, 5) + varint(len(other)) + other,
        "a tag of ten bytes": good + tag(1, TEXT, 9) + varint(len(other)) + other,
        "a tag over 32 bits": good + varint(10 + 2**32) + varint(len(other)) + other,
        "a tag over 64 bits": good + b"\x8a\x80\x80\x80\x80\x80\x80\x80\x80\x02" + varint(len(other)) + other,
        "a length of six bytes": good + tag(1) + varint(len(other), 5) + other,
        # Envoy's grpc_field_extraction takes these for text, whatever the tag says.
        "a number for a model": theirs + ROW + tag(1, VARINT) + hidden,
        "four bytes for a model": theirs + ROW + tag(1, FIXED32) + hidden,
        "eight bytes for a model": theirs + ROW + tag(1, FIXED64) + hidden.ljust(8, b"\0"),
        "a group for a model": good + tag(1, GROUP) + theirs + tag(1, END_GROUP),
        "a group that nobody knows": good + tag(99, GROUP) + theirs + tag(99, END_GROUP),
        "a group in a group": good + tag(99, GROUP) + tag(98, GROUP) + theirs + tag(98, END_GROUP) + tag(99, END_GROUP),
        "a group that another ends": good + tag(99, GROUP) + theirs + tag(98, END_GROUP),
        "a group without end": good + tag(99, GROUP) + theirs,
        "an end without group": model(mine) + tag(99, END_GROUP) + theirs + ROW,
        "a wire type that is none": good + tag(5, 6) + theirs,
        "another that is none": good + tag(1, 7) + theirs,
        "field zero": good + tag(0) + varint(1) + b"x" + theirs,
        "a zero": good + b"\0" + theirs,
        "a name that is cut off": good + tag(1) + varint(len(other)) + other[:-1],
        "a name without end": good + tag(1) + varint(2**31 - 1) + other,
        "a name of negative length": good + tag(1) + varint(2**64 - 1) + other,
        "a length over 32 bits": good + tag(1) + varint(2**32 + len(other)) + other,
        "a number of eleven bytes": good + tag(1001, VARINT) + b"\x80" * 10 + b"\x01" + theirs,
        "a tag that is cut off": good + b"\x8a",
        "a length that is cut off": good + tag(1),
        # The same without a second name: each alone is enough.
        "only a padded tag": tag(1, TEXT, 1) + varint(len(mine)) + mine + ROW,
        "only four bytes for a model": tag(1, FIXED32) + mine[:4] + ROW,
        "only a name that is cut off": ROW + tag(1) + varint(len(mine) + 1) + mine,
        "a group around nothing": good + tag(99, GROUP) + tag(99, END_GROUP),
        "only a wire type that is none": good + tag(5, 6) + bytes(4),
        "only field zero": good + tag(0) + varint(1) + b"x",
        "no model": ROW,
        "nothing": b"",
        "an empty model": model(b"") + ROW,
        "junk": b"\xff" * 12,
        "more fields than anybody needs": good + (tag(1001, VARINT) + b"\0") * 5000,
    }


def crafted_versions(mine: bytes) -> dict[str, bytes]:
    """Messages of which somebody reads version 1 of the model, and somebody else may read another one."""
    first, both = model(mine) + version(b"1") + ROW, model(mine) + version(b"2") + ROW
    return {
        "two versions": first + version(b"2"),
        "two versions, the first last": both + version(b"1"),
        "a version and an empty one": first + version(b""),
        "an empty one and a version": model(mine) + version(b"") + ROW + version(b"1"),
        "a version and a padded one": first + tag(2, TEXT, 1) + b"\x012",
        "a number for a version": both + tag(2, VARINT) + b"\x011",
        "four bytes for a version": both + tag(2, FIXED32) + b"\x011\0\0",
        "a group for a version": first + tag(2, GROUP) + version(b"2") + tag(2, END_GROUP),
        "a version in a group": first + tag(99, GROUP) + version(b"2") + tag(99, END_GROUP),
    }


def framed(mine: bytes, other: bytes) -> dict[str, bytes]:
    """Whole bodies that are no single plain message."""
    good, theirs = model(mine) + ROW, model(other) + ROW
    return {
        "two messages": frame(good) + frame(theirs),
        "two messages, mine last": frame(theirs) + frame(good),
        "an empty message first": frame(b"") + frame(good),
        "compressed, it says": frame(good, flag=1),
        "a flag that is none": frame(good, flag=2),
        "all flags": frame(good, flag=255),
        "bytes behind": frame(good) + b"\0\0\0",
        "junk behind": frame(good) + b"junkjunkjunk",
        "longer than it says": frame(good + theirs, size=len(good)),
        "shorter than it says": frame(good, size=500),
        "no message": b"",
        "half a frame": frame(good)[:3],
        "half a message": frame(good)[:9],
    }


NO_NAMES = {
    "a NUL": b"plain\0x",
    "only a NUL": b"\0",
    "no UTF-8": b"pl\xff",
    "a blank": b" plain",
    "a line": b"plain\n",
    "an escape": b"pl%61in",
    "a slash": b"plain/1",
    "a step up": b"..",
    "a path": b"../plain",
    "another alphabet": "\u0440lain".encode(),
    "a wide letter": "\uff50lain".encode(),
    "129 letters": b"a" * 129,
    "200 kB": b"a" * 200_000,
    "all models": b"*",
    "no model": b"-",
}
NO_VERSIONS = {
    "a NUL": b"1\0x",
    "no UTF-8": b"\xff",
    "a zero in front": b"01",
    "a sign": b"+1",
    "a blank": b" 1",
    "a letter behind": b"1x",
    "another digit": "\u0661".encode(),
    "19 digits": b"1" * 19,
    "200 kB": b"1" * 200_000,
    "all versions": b"*",
}
"""Triton takes most of them for version 1."""
