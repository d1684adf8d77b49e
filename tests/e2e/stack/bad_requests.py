"""What the tables of docs/bad-input.md say that is sent, as bytes: each is a good request with one thing wrong."""

from __future__ import annotations

import gzip
import json
import struct
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from tritonclient.grpc.service_pb2 import InferParameter, ModelInferRequest

from tests.e2e.server.raw import frame
from tests.e2e.stack.test_models import TUMOUR

MB = 1_000_000
NAN = float("nan")


class Rest(NamedTuple):
    """One POST; a `body` that is a list goes in chunks, without its length."""

    body: bytes | list[bytes]
    headers: Mapping[str, str] = {}
    path: str = "/v2/models/cancer/infer"


class Call(NamedTuple):
    """One gRPC message; with `raw`, a whole body as it is."""

    message: bytes
    headers: Mapping[str, str] = {}
    raw: bytes | None = None
    method: str = "ModelInfer"


def rest(body: object, **headers: str) -> Rest:
    content = body if isinstance(body, bytes | list) else json.dumps(body).encode()
    return Rest(content, {name.replace("_", "-"): value for name, value in headers.items()})


def body(top: Mapping[str, object] | None = None, **features: Any) -> dict[str, Any]:  # noqa: ANN401  # JSON
    """A good one; None leaves a member out."""
    whole = {"name": "features", "shape": [1, 30], "datatype": "FP32", "data": TUMOUR, **features}
    return {"inputs": [{name: value for name, value in whole.items() if value is not None}], **(top or {})}


def text(**changes: Any) -> Rest:  # noqa: ANN401  # JSON
    whole = {"name": "text", "shape": [1, 1], "datatype": "BYTES", "data": ["fine"], **changes}
    return rest({"inputs": [whole]})._replace(path="/v2/models/sentiment/infer")


def binary(tensor: bytes, size: object = None, header: str = "", **features: Any) -> Rest:  # noqa: ANN401  # JSON
    """JSON, then tensors; `size`: what it says of the tensor, `header`: what it says of the JSON."""
    parameters = {"binary_data_size": len(tensor) if size is None else size}
    start = json.dumps(body(data=None, parameters=parameters, **features)).encode()
    return rest(start + tensor, inference_header_content_length=header or str(len(start)))


def binary_text(tensor: bytes, **changes: Any) -> Rest:  # noqa: ANN401  # JSON
    sent = binary(tensor, name="text", datatype="BYTES", **{"shape": [1, 1], **changes})
    return sent._replace(path="/v2/models/sentiment/infer")


def element(content: bytes, length: int | None = None) -> bytes:
    """A text as BYTES has it."""
    return struct.pack("<I", len(content) if length is None else length) + content


def version(number: str) -> Rest:
    return rest(body())._replace(path=f"/v2/models/cancer/versions/{number}/infer")


TENSOR = struct.pack("<30f", *TUMOUR)
GOOD = json.dumps(body()).encode()
OTHERS = [{"name": f"n{number}", "shape": [1, 1], "datatype": "FP32", "data": [0]} for number in range(10_000)]
DEEP = b"[" * 30_000 + b"]" * 30_000

REST: dict[str, Rest] = {
    "a wrong shape": rest(body(shape=[1, 29], data=TUMOUR[:29])),
    "no batch dimension": rest(body(shape=[30])),
    "a negative shape": rest(body(shape=[-1, 30])),
    "a shape beyond 64 bits": rest(body(shape=[2**64, 30])),
    "a shape whose size overflows": binary(TENSOR, shape=[2**62, 30]),
    "fewer values than the shape says": rest(body(data=TUMOUR[:29])),
    "more values than the shape says": rest(body(data=[*TUMOUR, 1])),
    "more rows than the model takes": rest(body(shape=[257, 30], data=TUMOUR * 257)),
    "a wrong type": rest(body(datatype="INT64", data=[1] * 30)),
    "a type that does not exist": rest(body(datatype="FLOAT")),
    "a wrong name": rest(body(name="nothing")),
    "a name that is not UTF-8": rest(GOOD.replace(b"features", b"\xff\xfe")),
    "no shape": rest(body(shape=None)),
    "no data": rest(body(data=None)),
    "no inputs": rest({}),
    "an input too few": rest({"inputs": []}),
    "an input twice": rest({"inputs": body()["inputs"] * 2}),
    "10,000 inputs": rest({"inputs": OTHERS}),
    "an output that does not exist": rest(body({"outputs": [{"name": "nothing"}]})),
    "an output as a classification": rest(
        body({"outputs": [{"name": "label", "parameters": {"classification": 3}}]})
    ),
    "a parameter that means nothing": rest(body({"parameters": {"nothing": 1}})),
    "parameters of a wrong type": rest(body({"parameters": [1]})),
    "a parameter of Triton's own": rest(body({"parameters": {"triton_x": True}})),
    "shared memory": rest(body(data=None, parameters={"shared_memory_region": "r", "shared_memory_byte_size": 120})),
    "NaN": rest(body(data=[NAN] * 30)),
    "a number beyond 32 bits": rest(body(data=[1e39, *TUMOUR[1:]])),
    "a number beyond 64 bits": rest(GOOD.replace(b"17.99", b"1e999")),
    "a text in place of a number": rest(body(data=["a"] * 30)),
    "null in place of a number": rest(body(data=[None] * 30)),
    "a number in place of a text": text(data=[1]),
    "a text that is too long": text(data=["x" * 10_001]),
    "a text that is half a surrogate pair": text(data=["\ud800"]),
    "no JSON": rest(b"no json"),
    "JSON that is cut off": rest(GOOD[:-20]),
    "JSON with something behind it": rest(GOOD + b"x"),
    "JSON in UTF-16": rest(GOOD.decode().encode("utf-16")),
    "an array in place of an object": rest(b"[]"),
    "30,000 brackets": rest(DEEP),
    "30,000 brackets, unclosed": rest(DEEP[:30_000]),
    "30,000 brackets as a parameter": rest(b'{"parameters":' + DEEP + b"," + GOOD[1:]),
    "an empty body": rest(b""),
    "an empty body in chunks": rest([]),
    "another content type": rest(GOOD, content_type="text/plain"),
    "a form": rest(b"a=b", content_type="application/x-www-form-urlencoded"),
    "a body in gzip": rest(gzip.compress(GOOD), content_encoding="gzip"),
    "a body in an encoding that does not exist": rest(GOOD, content_encoding="x"),
    "20 MB": rest(b"x" * (20 * MB)),
    "20 MB in chunks": rest([b"x" * MB] * 20),
    "100 MB": rest(b"x" * (100 * MB)),
    "JSON that is longer than the body": binary(TENSOR, header="99999"),
    "JSON of a negative length": binary(TENSOR, header="-1"),
    "JSON that ends too early": binary(TENSOR, header="20"),
    "tensors without the length of the JSON": rest(binary(TENSOR).body),
    "a tensor that is shorter than it says": binary(TENSOR[:60], size=120),
    "a tensor that is longer than it says": binary(TENSOR + b"xx", size=120),
    "a tensor of a negative size": binary(TENSOR, size=-1),
    "a tensor of a wrong size": binary(TENSOR[:116]),
    "NaN in a tensor": binary(struct.pack("<30f", *[NAN] * 30)),
    "BYTES longer than the tensor": binary_text(element(b"abc", 100)),
    "BYTES shorter than the tensor": binary_text(element(b"abc", 1)),
    "BYTES of 4 GiB": binary_text(element(b"abc", 2**32 - 1)),
    "BYTES without a length": binary_text(b"abc"),
    "fewer BYTES than the shape says": binary_text(element(b"a"), shape=[2, 1]),
    "BYTES that are not UTF-8": binary_text(element(b"\xff\xfe")),
    "version 01": version("01"),
    "version 1abc": version("1abc"),
    "a version that is not there": version("99"),
    "a model that is not there": rest(body())._replace(path="/v2/models/nothing/infer"),
}  # fmt: skip


def message(
    change: Callable[[Any], object] = bool,
    *,
    model: str = "cancer",
    version: str = "",
    tensor: bytes | None = TENSOR,
    **features: object,
) -> bytes:
    """A good one, with other features, or with a change of it all."""
    made: Any = ModelInferRequest(model_name=model, model_version=version)
    made.inputs.add(**{"name": "features", "datatype": "FP32", "shape": [1, 30], **features})
    if tensor is not None:
        made.raw_input_contents.append(tensor)
    change(made)
    return bytes(made.SerializeToString())


def text_message(tensor: bytes, *shape: int) -> bytes:
    return message(model="sentiment", tensor=tensor, name="text", datatype="BYTES", shape=shape or (1, 1))


def parameter(name: str, **value: Any) -> bytes:  # noqa: ANN401  # JSON
    return message(lambda made: made.parameters[name].CopyFrom(InferParameter(**value)))


def output(name: str, **parameters: int) -> bytes:
    def change(made: ModelInferRequest) -> None:
        asked = made.outputs.add(name=name)
        for key, value in parameters.items():
            asked.parameters[key].int64_param = value

    return message(change)


def shared_memory(made: ModelInferRequest) -> None:
    made.inputs[0].parameters["shared_memory_region"].string_param = "r"
    made.inputs[0].parameters["shared_memory_byte_size"].int64_param = 120


def more_inputs(count: int) -> bytes:
    return message(lambda made: [made.inputs.add(name=f"n{number}") for number in range(count)])


_GRPC: dict[str, bytes | Call] = {
    "a wrong shape": message(shape=[1, 29], tensor=TENSOR[:116]),
    "a negative shape": message(shape=[-1, 30]),
    "a shape whose size overflows": message(shape=[2**62, 30]),
    "a shape of 100,000 dimensions": message(shape=[1] * 100_000),
    "more rows than the model takes": message(shape=[257, 30], tensor=TENSOR * 257),
    "a wrong type": message(datatype="INT64", tensor=TENSOR * 2),
    "a type that does not exist": message(datatype="FLOAT"),
    "a wrong name": message(name="nothing"),
    "no data": message(tensor=None),
    "an input too few": ModelInferRequest(model_name="cancer").SerializeToString(),
    "an input twice": message(
        lambda made: (made.inputs.extend(made.inputs[:]), made.raw_input_contents.append(TENSOR))
    ),
    "1,000 inputs": more_inputs(1000),
    "10,000 inputs": more_inputs(10_000),
    "an output that does not exist": output("nothing"),
    "an output as a classification": output("label", classification=3),
    "a parameter that means nothing": parameter("nothing", int64_param=1),
    "a parameter of a wrong type": parameter("timeout", string_param="x"),
    "a parameter of Triton's own": parameter("triton_x", bool_param=True),
    "shared memory": message(shared_memory, tensor=None),
    "NaN": message(tensor=struct.pack("<30f", *[NAN] * 30)),
    "a tensor of a wrong size": message(tensor=TENSOR[:116]),
    "a tensor of another type": message(
        lambda made: made.inputs[0].contents.int64_contents.extend([1] * 30), tensor=None
    ),
    "a tensor in two forms": message(lambda made: made.inputs[0].contents.fp32_contents.extend(TUMOUR)),
    "a text that is too long": text_message(element(b"x" * 10_001)),
    "BYTES longer than the tensor": text_message(element(b"abc", 100)),
    "BYTES shorter than the tensor": text_message(element(b"abc", 1)),
    "BYTES without a length": text_message(b"abc"),
    "fewer BYTES than the shape says": text_message(element(b"a"), 2, 1),
    "BYTES that are not UTF-8": text_message(element(b"\xff\xfe")),
    "an empty message": b"",
    "bytes that are no message": b"\xff" * 50,
    "an input that cannot be read": ModelInferRequest(model_name="cancer").SerializeToString() + b"\x2a\x02\xff\xff",
    "no body": Call(b"", raw=b""),
    "a frame that is longer than it says": Call(b"", raw=frame(message(), size=20)),
    "a frame that is shorter than it says": Call(b"", raw=frame(message(), size=1000)),
    "two messages": Call(b"", raw=frame(message()) * 2),
    "a compressed frame": Call(b"", {"grpc-encoding": "gzip"}, frame(gzip.compress(message()), flag=1)),
    "a frame that says it is compressed": Call(b"", raw=frame(message(), flag=1)),
    "a compressed frame of nobody": Call(
        b"", {"grpc-encoding": "gzip"}, frame(gzip.compress(b""), flag=1), "ServerLive"
    ),
    "20 MB": message(tensor=bytes(20 * MB)),
    "100 MB": message(tensor=bytes(100 * MB)),
    "100 MB of nobody": Call(message(tensor=bytes(100 * MB)), method="ServerLive"),
    "two names of models": message(model="digits") + message(),
    "version 01": message(version="01"),
    "version 1abc": message(version="1abc"),
    "a version that is not there": message(version="99"),
    "a model that is not there": message(model="nothing"),
}
GRPC = {what: sent if isinstance(sent, Call) else Call(sent) for what, sent in _GRPC.items()}
STREAM = {
    "a wrong shape": Call(message(shape=[1, 29], tensor=TENSOR[:116])),
    "a shape whose size overflows": Call(message(shape=[2**62, 30])),
    "10,000 inputs": Call(more_inputs(10_000)),
    "an output as a classification": Call(output("label", classification=3)),
    "NaN": Call(message(tensor=struct.pack("<30f", *[NAN] * 30))),
    "BYTES longer than the tensor": Call(text_message(element(b"abc", 100))),
    "bytes that are no message": Call(b"\xff" * 50),
    "a compressed frame": Call(message(), {"grpc-encoding": "gzip"}),
    "100 MB": Call(message(tensor=bytes(100 * MB))),
    "version 01": Call(message(version="01")),
    "a version that is not there": Call(message(version="99")),
    "a model that is not there": Call(message(model="nothing")),
}
