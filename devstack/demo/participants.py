"""Who takes part in the tour: a caller of models through Envoy, the identity provider, and an operator who revokes."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Iterable
from datetime import timedelta
from threading import Lock
from typing import Any, Self

import grpc
import httpx
import jwt
from msgspec import Struct
from tritonclient.grpc import InferResult, service_pb2, service_pb2_grpc

from ext_authz.decision import Reason
from ext_authz.errors import Unavailable
from ext_authz.revocation.entry import Kind, Target
from ext_authz.revocation.operations import opened
from ext_authz.settings import StoreSettings

_TIMEOUT = 10.0
_REVOKED_FOR = timedelta(hours=1)
"""Longer than any token of the demo realm lives."""


class Token(Struct, frozen=True):
    """An access token with what the tour needs to know of it."""

    text: str
    client: str
    """Empty if its signature is not valid: then no decision can name a client."""
    id_token: str = ""
    refresh_token: str = ""


class Seen(Struct, frozen=True):
    """One answer, whichever protocol it came by."""

    status: str
    """`200`, `429`, or the name of a gRPC status."""
    code: str
    """Machine-readable cause; empty when the call was allowed. gRPC callers get a sentence instead."""
    headers: dict[str, str]
    outputs: dict[str, str]
    version: str = ""
    """Of the model, by the answer's body; empty where there is no answer of a model."""

    @property
    def versions(self) -> set[str]:
        """That the body and the header name: one, if both are right."""
        return {self.version, self.headers.get("x-model-version", "")}

    def __str__(self) -> str:
        return f"{self.status} {self.code}".strip()


class Caller:
    """Calls models, and counts every call by (client, reason) as the caller expects it to be decided, and answers of
    models."""

    def __init__(self, rest: str, grpc_address: str) -> None:
        self._http = httpx.Client(base_url=rest, timeout=_TIMEOUT)
        self._channel = grpc.insecure_channel(grpc_address)
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)
        self._counting = Lock()
        self.sent: Counter[tuple[str, str]] = Counter()
        self.answered: Counter[str] = Counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._http.close()
        self._channel.close()

    def rest(
        self, model: str, token: Token | None, expect: Reason = Reason.ALLOWED, *, text: str = "", **headers: str
    ) -> Seen:
        """POST /v2/models/{model}/infer; `text` in place of the example's."""
        self._count(token, expect)
        names = {name.replace("_", "-"): value for name, value in headers.items()} | _bearer(token)
        answer = self._http.post(f"/v2/models/{model}/infer", json=rest_body(model, text), headers=names)
        body = answer.json()
        outputs = {output["name"]: str(output["data"][0]) for output in body.get("outputs", [])}
        self.answered[model] += bool(outputs)
        return Seen(
            str(answer.status_code), body.get("code", ""), dict(answer.headers), outputs, body.get("model_version", "")
        )

    def ready(self, model: str, token: Token) -> int:
        """GET /v2/models/{model}/ready: permitted like a call of the model, but not limited."""
        self._count(token, Reason.ALLOWED)
        return self._http.get(f"/v2/models/{model}/ready", headers=_bearer(token)).status_code

    def grpc(
        self, model: str, token: Token | None, expect: Reason = Reason.ALLOWED, *, text: str = "", **headers: str
    ) -> Seen:
        """inference.GRPCInferenceService/ModelInfer."""
        self._count(token, expect)
        metadata = (*_bearer(token).items(), *((name.replace("_", "-"), value) for name, value in headers.items()))
        message = grpc_body(model, text)
        try:
            answer, call = self._stub.ModelInfer.with_call(message, timeout=_TIMEOUT, metadata=metadata)
        except grpc.RpcError as refused:
            return Seen(refused.code().name, "", _headers(refused.trailing_metadata()), {})
        self.answered[model] += 1
        result = InferResult(answer)
        outputs = {each.name: _printed(result.as_numpy(each.name).item()) for each in answer.outputs}
        seen = _headers(call.initial_metadata())
        return Seen(call.code().name, "", seen, outputs | {"model_name": answer.model_name}, answer.model_version)

    def _count(self, token: Token | None, reason: Reason) -> None:
        client = token.client if token else ""
        with self._counting:
            self.sent[client, reason.value] += 1


def _printed(value: object) -> str:
    return value.decode() if isinstance(value, bytes) else f"{value:.4g}"


def _headers(metadata: Iterable[Any] | None) -> dict[str, str]:
    """`grpc`'s metadata: pairs, for which its stubs have a type of their own."""
    return {name: value for name, value in metadata or () if isinstance(value, str)}


def _bearer(token: Token | None) -> dict[str, str]:
    return {"authorization": f"Bearer {token.text}"} if token else {}


_TUMOUR = [14.1, 19.3, 92.0, 655.0, 0.096, 0.104, 0.089, 0.049, 0.181, 0.063, 0.405, 1.217, 2.866, 40.3, 0.007]
_TUMOUR += [0.025, 0.032, 0.012, 0.021, 0.004, 16.3, 25.7, 107.3, 881.0, 0.132, 0.254, 0.272, 0.115, 0.290, 0.084]
_SEVEN = [0, 0, 7, 8, 13, 16, 15, 1, 0, 0, 7, 7, 4, 11, 12, 0, 0, 0, 0, 0, 8, 13, 1, 0, 0, 4, 8, 8, 15, 15, 6, 0]
_SEVEN += [0, 2, 11, 15, 15, 4, 0, 0, 0, 0, 0, 16, 5, 0, 0, 0, 0, 0, 9, 15, 1, 0, 0, 0, 0, 0, 13, 5, 0, 0, 0, 0]

EXAMPLES: dict[str, dict[str, list[Any]]] = {
    "sentiment": {"text": ["What a wonderful day, I love it!"]},
    "cancer": {"features": _TUMOUR},
    "digits": {"pixels": _SEVEN},
    "digits-torch": {"pixels": _SEVEN},
    "digits-tensorflow": {"pixels": _SEVEN},
    "cars": {"weight": [2.62], "horsepower": [110]},
}
"""A row for every model that the demo policy names, by input: texts or numbers."""


def rest_body(model: str, text: str = "") -> dict[str, object]:
    """`text`: in place of the example's."""
    inputs = [
        {"name": name, "datatype": _datatype(values), "shape": [1, len(values)], "data": values}
        for name, values in _row(model, text).items()
    ]
    return {"inputs": inputs}


def grpc_body(model: str, text: str = "") -> service_pb2.ModelInferRequest:
    request = service_pb2.ModelInferRequest(model_name=model)
    for name, values in _row(model, text).items():
        tensor = request.inputs.add(name=name, datatype=_datatype(values), shape=[1, len(values)])
        if tensor.datatype == "BYTES":
            tensor.contents.bytes_contents.extend(each.encode() for each in values)
        else:
            tensor.contents.fp32_contents.extend(values)
    return request


def _row(model: str, text: str) -> dict[str, list[Any]]:
    return {"text": [text]} if text else EXAMPLES[model]


def _datatype(values: list[Any]) -> str:
    return "BYTES" if isinstance(values[0], str) else "FP32"


class Provider:
    """Token and session calls against one realm; users' passwords equal their names in the demo realm."""

    def __init__(self, issuer: str, admin_token: str) -> None:
        self._endpoint = f"{issuer}/protocol/openid-connect"
        self._admin = issuer.replace("/realms/", "/admin/realms/")
        self._admin_token = admin_token

    def login(self, user: str, client: str = "web-app") -> Token:
        """A new session of a user."""
        return self._token(client, grant_type="password", username=user, password=user, scope="openid")

    def service(self, client: str) -> Token:
        """A service account: no user, no session. The demo realm's secrets are the client's name and `-secret`."""
        return self._token(client, grant_type="client_credentials", client_secret=f"{client}-secret")

    def refresh(self, token: Token) -> Token:
        """Another access token of the same session."""
        return self._token(token.client, grant_type="refresh_token", refresh_token=token.refresh_token)

    def logout(self, token: Token) -> int:
        """End the session at the provider, as a client does that knows the refresh token; the HTTP status."""
        data = {"client_id": token.client, "refresh_token": token.refresh_token}
        return httpx.post(f"{self._endpoint}/logout", data=data, timeout=_TIMEOUT).status_code

    def rotate_keys(self) -> None:
        """A new signing key; the old one stays published."""
        headers = {"authorization": f"Bearer {self._admin_token}"}
        httpx.post(f"{self._admin}/keys/rotate", headers=headers, timeout=_TIMEOUT).raise_for_status()

    def wait_until_expired(self, token: Token) -> None:
        """Seconds, by the token's own `exp`."""
        time.sleep(max(0.0, _claims(token)["exp"] - time.time()) + 0.1)

    def subject(self, token: Token) -> str:
        """`sub`: the user's id at the provider."""
        return str(_claims(token)["sub"])

    def session_of(self, token: Token) -> str:
        """`sid`."""
        return str(_claims(token)["sid"])

    def _token(self, client: str, **form: str) -> Token:
        answer = httpx.post(f"{self._endpoint}/token", data={"client_id": client, **form}, timeout=_TIMEOUT)
        answer.raise_for_status()
        body = answer.json()
        return Token(body["access_token"], client, body.get("id_token", ""), body.get("refresh_token", ""))


def _claims(token: Token) -> dict[str, Any]:
    """Unverified: the provider itself has just issued this token."""
    return jwt.decode(token.text, options={"verify_signature": False})


class Operator(Struct, frozen=True):
    """Revokes in this process, as `tollgate revoke user ...` and `session ...` do."""

    database_url: str
    redis_url: str
    issuer: str
    """The policy's name for it."""

    def revoke_user(self, subject: str) -> None:
        """Every token of a user issued until now."""
        asyncio.run(self._revoke(Target(Kind.USER, self.issuer, subject)))

    def revoke_session(self, sid: str) -> None:
        """Every token of a session."""
        asyncio.run(self._revoke(Target(Kind.SESSION, self.issuer, sid)))

    async def _revoke(self, target: Target) -> None:
        stores = StoreSettings.model_validate({"database_url": self.database_url, "redis_url": self.redis_url})
        async with opened(stores, ()) as operations:
            receipt = (await operations.revoke(target, actor="demo", reason="", lifetime=_REVOKED_FOR)).receipt
        if not receipt.everywhere:
            raise Unavailable("redis" if receipt.postgres else "postgres", receipt.sentence)
