"""The MLflow server behind: which project something belongs to, and answers, passed on piece by piece."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from typing import Any
from urllib.parse import urlencode

import httpx
import msgspec

from ext_authz.bounded import BoundedCache
from ext_authz.clock import Clock
from ext_authz.filter.calls import Mention, ensure_file_path
from ext_authz.filter.endpoints import EXPERIMENTS, MODELS, Of
from ext_authz.filter.refusals import unavailable, unusable
from ext_authz.filter.rights import PROJECT
from ext_authz.identity.fetch import WrongBody, body_of

ANSWER_BYTES = 16 << 20
"""Of an answer that is read: a lookup, or a page of a search."""
SECONDS = 60.0
"""Between two parts of an answer, as Envoy waits."""
_KNOWN_BYTES = 4 << 20
_STAYS = 10.0
"""Seconds that the name of an experiment is believed: who has MLflow's own port can rename it."""

_EXPERIMENT_ID = re.compile(r"0|[1-9][0-9]{0,18}", re.ASCII)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", re.ASCII)
_NAMES = {
    separator: re.compile(rf"({PROJECT}){re.escape(separator)}[^\x00-\x1f\x7f]{{1,450}}", re.ASCII)
    for separator in (EXPERIMENTS, MODELS)
}
_SOURCE = re.compile(r"(models|runs|mlflow-artifacts):/([^/@][^/@]*)(?:[/@](.+))?", re.DOTALL)
_LOGGED = re.compile(r"m-[0-9a-f]{32}", re.ASCII)
_PASSED_ON = frozenset({"content-type", "content-disposition", "content-length", "x-content-type-options"})


class Mlflow:
    """One server."""

    def __init__(self, url: str, http: httpx.AsyncClient, clock: Clock) -> None:
        """`http`: follows no redirects, which would lead to the store of artifacts."""
        self._url = url
        self._http = http
        self._clock = clock
        self._experiments: BoundedCache[str, tuple[str, float]] = BoundedCache(_KNOWN_BYTES)
        """By id: the project, and until when that is believed."""
        self._holders: BoundedCache[Mention, str] = BoundedCache(_KNOWN_BYTES)
        """By run or logged model: the id of its experiment, which never changes."""

    async def project_of(self, mention: Mention) -> str:
        """Empty: it is in none, or there is no such thing.

        Raises:
            Refused: it cannot be the name or id of anything, or the server does not answer.
        """
        match mention.of:
            case Of.EXPERIMENT_NAME:
                return _named(mention.value, EXPERIMENTS)
            case Of.MODEL_NAME:
                return _named(mention.value, MODELS)
            case Of.SOURCE:
                return await self.project_of(_source(mention.value))
            case Of.ARTIFACT:
                return await self._of_experiment(_directory(mention.value))
            case Of.EXPERIMENT:
                return await self._of_experiment(mention.value)
        return await self._of_experiment(await self._holder(mention))

    async def _of_experiment(self, number: str) -> str:
        if not _EXPERIMENT_ID.fullmatch(number):
            return ""
        known = self._experiments.get(number)
        if known and known[1] > self._clock.monotonic():
            return known[0]
        found = await self._look_up("experiments/get", {"experiment_id": number}, "experiment")
        if found is None or found.get("experiment_id") != number:
            return ""
        if project := project_in(str(found.get("name")), EXPERIMENTS):
            self._experiments.put(number, (project, self._clock.monotonic() + _STAYS), len(number) + len(project))
        return project

    async def _holder(self, mention: Mention) -> str:
        """The id of the experiment of a run or a logged model; empty: there is none."""
        if not _ID.fullmatch(mention.value):
            return ""
        if known := self._holders.get(mention):
            return known
        if mention.of is Of.RUN:
            found = await self._look_up("runs/get", {"run_id": mention.value}, "run")
            key = "run_id"
        else:
            found = await self._look_up(f"logged-models/{mention.value}", {}, "model")
            key = "model_id"
        info = (found or {}).get("info")
        if not isinstance(info, dict) or info.get(key) != mention.value:
            return ""
        holder = str(info.get("experiment_id"))
        self._holders.put(mention, holder, len(mention.value) + len(holder))
        return holder

    async def _look_up(self, path: str, query: Mapping[str, str], key: str) -> dict[str, Any] | None:
        status, found = await self.ask("GET", f"/api/2.0/mlflow/{path}?{urlencode(query)}")
        if status == HTTPStatus.NOT_FOUND:
            return None
        inner = found.get(key)
        if status != HTTPStatus.OK or not isinstance(inner, dict):
            raise unavailable(f"MLflow did not say where this {key} belongs (status {status})")
        return inner

    async def ask(self, method: str, target: str, content: bytes | None = None) -> tuple[int, dict[str, Any]]:
        """The whole of an answer that is an object.

        Raises:
            Refused: it does not come, is too large, or is none.
        """
        try:
            async with asyncio.timeout(SECONDS), self.answer(method, target, content) as response:
                body = await body_of(response, ANSWER_BYTES)
        except TimeoutError:
            raise unavailable("MLflow does not answer in time") from None
        except WrongBody:
            raise unavailable(f"MLflow's answer has more than {ANSWER_BYTES >> 20} MB: ask for fewer") from None
        try:
            return response.status_code, msgspec.json.decode(body, type=dict[str, Any])
        except msgspec.DecodeError:
            raise unavailable(f"MLflow's answer is not what was asked for (status {response.status_code})") from None

    @asynccontextmanager
    async def answer(
        self,
        method: str,
        target: str,
        content: bytes | AsyncIterator[bytes] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncGenerator[httpx.Response]:
        """Its head has come; its body has to be read.

        Raises:
            Refused: nothing came.
        """
        sent = {"accept-encoding": "identity", **({"content-type": "application/json"} if content else {})}
        try:
            async with self._http.stream(
                method, self._url + target, content=content, headers={**sent, **(headers or {})}
            ) as response:
                yield response
        except (httpx.HTTPError, httpx.InvalidURL) as failure:
            raise unavailable(f"MLflow does not answer ({type(failure).__name__})") from None


def passed_on(response: httpx.Response) -> dict[str, str]:
    """Headers of an answer that callers get."""
    found = {name: value for name, value in response.headers.items() if name in _PASSED_ON}
    return {**found, "cache-control": "no-store", "x-content-type-options": "nosniff"}


def project_in(name: str, separator: str) -> str:
    """Empty: the name has none."""
    found = _NAMES[separator].fullmatch(name)
    return found[1] if found else ""


def _named(name: str, separator: str) -> str:
    if project := project_in(name, separator):
        return project
    what = "an experiment" if separator == EXPERIMENTS else "a registered model"
    raise unusable(f"the name of {what} begins with its project, in lower case: PROJECT{separator}NAME")


def _directory(path: str) -> str:
    """The id of the experiment whose directory a file is in."""
    ensure_file_path(path)
    number, _, rest = path.partition("/")
    if not rest:
        raise unusable("the path of an artifact is EXPERIMENT/RUN/artifacts/...")
    return number


def _source(uri: str) -> Mention:
    found = _SOURCE.fullmatch(uri)
    if found is None:
        raise unusable(
            "a version is made of models:/ID, models:/NAME/VERSION, runs:/RUN/PATH or mlflow-artifacts:/PATH"
        )
    scheme, first, rest = found.groups()
    if scheme == "mlflow-artifacts":
        return Mention(Of.ARTIFACT, uri.removeprefix("mlflow-artifacts:/"))
    if rest:
        ensure_file_path(rest)
    if scheme == "runs":
        return Mention(Of.RUN, first)
    return Mention(Of.LOGGED_MODEL if _LOGGED.fullmatch(first) else Of.MODEL_NAME, first)
