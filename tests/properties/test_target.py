"""Where the front tells a name, protobuf reads the same one in the same bytes, whatever they are."""

from __future__ import annotations

from google.protobuf.message import DecodeError
from hypothesis import given, settings
from hypothesis import strategies as st
from tritonclient.grpc import service_pb2

from tests.messages import TEXT, tag, varint
from tests.unit.render.target import named

_names = st.sampled_from([b"", b"a", b"b", b"1", b"ab", b"\0", b"\xff"])
_numbers = st.builds(varint, st.sampled_from([0, 1, 5, 127, 128, 2**32, 2**63]), st.integers(0, 3))
_tags = st.builds(
    tag, st.sampled_from([0, 1, 2, 3, 7, 16, 2**29 - 1]), st.integers(0, 7), st.sampled_from([0, 0, 0, 1])
)
_texts = st.builds(lambda field, value: tag(field, TEXT) + varint(len(value)) + value, st.integers(1, 8), _names)
_pieces = st.one_of(_texts, _texts, st.builds(bytes.__add__, _tags, _numbers), _tags, st.binary(max_size=9))


@settings(max_examples=1500)
@given(st.lists(_pieces, max_size=6).map(b"".join))
def test_where_a_name_is_told_protobuf_reads_the_same_or_nothing(message: bytes) -> None:
    found = named(message)
    if found is None:
        return
    try:
        read = service_pb2.ModelInferRequest.FromString(message)
    except DecodeError:
        return  # nobody serves it
    for reported, seen in zip(found, (read.model_name, read.model_version), strict=True):
        assert reported == seen or reported == "?"
