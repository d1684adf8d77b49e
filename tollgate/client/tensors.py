"""Arrays to and from what Triton reads, by tritonclient."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx
import numpy as np
import tritonclient.grpc as over_grpc
import tritonclient.http as over_http
from numpy.typing import ArrayLike, NDArray
from tritonclient.utils import np_to_triton_dtype, serialize_byte_tensor

Arrays = Mapping[str, NDArray[Any]]


def array(value: ArrayLike) -> NDArray[Any]:
    """Text as objects, which tritonclient writes in UTF-8."""
    found = np.asarray(value)
    return found.astype(np.object_) if found.dtype.kind == "U" else found


def body(arrays: Arrays) -> tuple[bytes, int]:
    """Of an inference over REST, and how long its JSON part is."""
    inputs = []
    for name, values in arrays.items():
        each = over_http.InferInput(name, list(values.shape), _datatype(name, values))
        inputs.append(each.set_data_from_numpy(values))
    content, size = over_http.InferenceServerClient.generate_request_body(inputs)
    return content, len(content) if size is None else size


def message(model: str, version: str, arrays: Arrays) -> Any:  # noqa: ANN401 - tritonclient has no types
    """A ModelInferRequest."""
    request = over_grpc.service_pb2.ModelInferRequest(model_name=model, model_version=version)
    for name, values in arrays.items():
        datatype = _datatype(name, values)
        request.inputs.add(name=name, datatype=datatype, shape=values.shape)
        is_text = datatype == "BYTES" and values.size
        request.raw_input_contents.append(serialize_byte_tensor(values).item() if is_text else values.tobytes())
    return request


def outputs_of_message(response: Any) -> tuple[Arrays, str]:  # noqa: ANN401 - tritonclient has no types
    """Of a ModelInferResponse: arrays, and the version that answered."""
    result = over_grpc.InferResult(response)
    return {each.name: result.as_numpy(each.name) for each in response.outputs}, response.model_version


def outputs_of_body(response: httpx.Response) -> tuple[Arrays, str]:
    """Likewise, over REST."""
    length = response.headers.get("inference-header-content-length")
    result = over_http.InferenceServerClient.parse_response_body(
        response.content, header_length=None if length is None else int(length)
    )
    said = result.get_response()
    arrays = {each["name"]: result.as_numpy(each["name"]) for each in said.get("outputs", [])}
    return arrays, str(said.get("model_version", ""))


def _datatype(name: str, values: NDArray[Any]) -> str:
    datatype = np_to_triton_dtype(values.dtype)
    if datatype is None:
        raise ValueError(f"the input {name} is an array of {values.dtype}, which Triton does not take: convert it")
    return str(datatype)
