"""The page on which people try a model: a form of its inputs, and what came of it.

A call is not repeated and not kept: it is answered with the page itself, in the status that the call had.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

from msgspec import Struct
from starlette.responses import Response
from starlette.routing import Route

from ext_authz.console.door import Answer, Door
from ext_authz.console.equivalents import Call, curl, grpc, python
from ext_authz.console.frame import Frame, Visit
from ext_authz.console.guard import Guard
from ext_authz.console.model_inputs import Config, Input, Metadata, Unsuitable, Wrong, decoded, inputs_of, read
from ext_authz.console.reasons import Words
from ext_authz.identity.identity import MAX_TEXT, printable
from ext_authz.policy.names import MODEL, VERSION
from ext_authz.web.pages import Form, Refused

_MOST_OUTPUTS = 32
_MOST_SHOWN = 100
"""Values of one output."""
_MOST_VERSIONS = 100
_LONGEST_SHOWN = 2000
"""Characters of one value."""
_LABEL = "label"
"""The output that says what the model found, in the models of this repository and many others."""

_WORDS: Mapping[int, Words] = {
    400: Words("The model does not take this input.", "Correct it: the same one is refused again."),
    401: Words("Your sign-in is not accepted any more.", "Sign out, and sign in again."),
    403: Words("You may not do this with this model.", "Ask the operators for it, with the decision id."),
    404: Words("This is not served.", "Ask the operators whether the model is loaded."),
    413: Words("This is too much for one call.", "Send less at once."),
    429: Words("A limit is used up.", "Wait, and try again."),
    504: Words("No answer came in time.", "Try again later, or send less at once."),
}
_FAILED = Words("There is no answer now.", "Try again after a short wait. If it stays so, tell the operators.")


class Failed(Struct, frozen=True):
    """Why there is no prediction."""

    status: int
    words: Words
    answer: Answer


class Shown(Struct, frozen=True):
    """One output."""

    name: str
    rows: Sequence[tuple[str, str]]
    """Label and value."""
    more: int
    """Values that are not shown."""


class Found(Struct, frozen=True):
    """A prediction."""

    headline: str
    outputs: Sequence[Shown]
    more: int
    """Outputs that are not shown."""
    answer: Answer


class _Output(Struct, frozen=True):
    name: str
    data: tuple[Any, ...] = ()


class _Outputs(Struct, frozen=True):
    outputs: tuple[_Output, ...]


class Model(Struct, frozen=True):
    """What is known of it."""

    name: str
    versions: Sequence[str] = ()
    inputs: Sequence[Input] = ()
    config: Config = Config()
    unsuitable: str = ""
    """Why there is no form."""


class Playground:
    """Handlers."""

    def __init__(self, frame: Frame, guard: Guard, door: Door) -> None:
        self._frame = frame
        self._guard = guard
        self._door = door

    def routes(self) -> list[Route]:
        path = "/models/{model}/try"
        return [self._guard.page(path, self.form), self._guard.action(path, self.call)]

    async def form(self, visit: Visit) -> Response:
        known = await self._described(visit, await self._door.token(visit, _name(visit)))
        return self._page(visit, known)

    async def call(self, visit: Visit) -> Response:
        token = await self._door.token(visit, _name(visit))
        known = await self._described(visit, token)
        if isinstance(known, Failed) or known.unsuitable:
            return self._page(visit, known)
        try:
            call = _call(known, visit.form)
        except Wrong as wrong:
            return self._page(visit, known, wrong=wrong)
        answer = await self._door.infer(visit, token, call.path, call.body())
        return self._page(visit, known, result=_result(answer, known.config), call=call)

    async def _described(self, visit: Visit, token: str) -> Model | Failed:
        name = _name(visit)
        metadata, config = await self._door.describe(token, name)
        if not metadata.allowed:
            return _failed(metadata)
        said = decoded(metadata.body, Metadata)
        more = (decoded(config.body, Config) if config.allowed else None) or Config()
        if said is None:
            return Model(name, unsuitable="the model server does not say what it takes")
        written = said.versions[:_MOST_VERSIONS]
        versions = [version for version in written if re.fullmatch(VERSION, version, re.ASCII)]
        try:
            return Model(name, versions, inputs_of(said, more), more)
        except Unsuitable as why:
            return Model(name, versions, config=more, unsuitable=str(why))

    def _page(
        self,
        visit: Visit,
        known: Model | Failed,
        *,
        result: Found | Failed | None = None,
        call: Call | None = None,
        wrong: Wrong | None = None,
    ) -> Response:
        failed = known if isinstance(known, Failed) else result if isinstance(result, Failed) else None
        model = Model(_name(visit)) if isinstance(known, Failed) else known
        status = HTTPStatus.BAD_REQUEST if wrong else failed.status if failed else HTTPStatus.OK
        response = self._frame.render(
            "try.html",
            visit,
            status=status,
            model=model,
            hidden=isinstance(known, Failed),
            failed=failed,
            found=result if isinstance(result, Found) else None,
            wrong=wrong,
            form=visit.form,
            lines=self._lines(call) if call else (),
            script="pad.js" if any(each.image for each in model.inputs) else "",
        )
        if failed and failed.answer.retry_after:
            response.headers["retry-after"] = str(failed.answer.retry_after)
        return response

    def _lines(self, call: Call) -> Sequence[tuple[str, str]]:
        door = self._frame.site.models
        return ("curl", curl(door, call)), ("Python", python(door, call)), ("gRPC", grpc(door, call))


def _name(visit: Visit) -> str:
    name: str = visit.request.path_params["model"]
    if not re.fullmatch(MODEL, name, re.ASCII):
        raise Refused(404, "There is no such page", "Check the address, or begin at the page of the models.")
    return name


def _call(model: Model, form: Form) -> Call:
    """Raises Wrong."""
    version = form.one("version")
    if version not in ("", *model.versions):
        raise Wrong("version", "choose one of the versions")
    return Call(model.name, version, read(model.inputs, form))


def _result(answer: Answer, config: Config) -> Found | Failed:
    said = decoded(answer.body, _Outputs) if answer.allowed else None
    if said is None:
        return _failed(answer)
    shown = [_shown(each, config.names(each.name)) for each in said.outputs[:_MOST_OUTPUTS]]
    headline = next((each.rows[0][1] for each in shown if each.name == _LABEL and len(each.rows) == 1), "")
    return Found(headline, shown, len(said.outputs) - len(shown), answer)


def _shown(output: _Output, labels: Sequence[str]) -> Shown:
    values = output.data[:_MOST_SHOWN]
    rows = [(labels[at] if at < len(labels) else "", _text(value)) for at, value in enumerate(values)]
    return Shown(printable(output.name, MAX_TEXT), rows, len(output.data) - len(values))


def _text(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    text = f"{value:.6g}" if isinstance(value, float) else str(value)
    return text if len(text) <= _LONGEST_SHOWN else f"{text[:_LONGEST_SHOWN]}..."


def _failed(answer: Answer) -> Failed:
    """401 is about the console's token, and no challenge to the browser. A success that cannot be read is a failure of
    the server behind us, and so is what HTTP has no status for."""
    status = answer.status if HTTPStatus.BAD_REQUEST <= answer.status < 600 else HTTPStatus.BAD_GATEWAY
    shown = HTTPStatus.FORBIDDEN if status == HTTPStatus.UNAUTHORIZED else status
    return Failed(shown, _WORDS.get(status, _FAILED), answer)
