"""The pages: two that ask the model, one with a prediction and what the person says of it."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from applications.sentiment.door import LABELS, Door, NotAnswered, Prediction, SignedOut
from applications.sentiment.feedback import Feedback
from applications.sentiment.frame import COOKIE, PREFIX, Frame
from applications.sentiment.sessions import Session, Sessions
from applications.sentiment.sign_in import SignIn
from ext_authz.errors import Unavailable
from ext_authz.web.bodies import BoundedBodies
from ext_authz.web.oidc import SignInRefused
from ext_authz.web.pages import Refused, ensure_same_origin, form_of

log = logging.getLogger(__name__)

LONGEST_TEXT, MOST_LINES = 2000, 20
"""Characters of a text, and texts of one call."""
_AWAY = {
    "issuer": "The identity provider does not answer. Try again in a minute.",
    "postgres": "What you said could not be kept. Try again in a minute.",
}
_OUT = NotAnswered(401, "You are signed out", "Your sign-in has ended. Sign in, and do it again.")
_NOT_HERE = NotAnswered(404, "There is no such page", "Check the address, or begin at the start page.")
_STRANGE = NotAnswered(500, "That went wrong", "The operators find the reason in the log. Try again later.")

Handler = Callable[[Request, Session], Awaitable[Response]]


class Pages:
    def __init__(
        self, frame: Frame, sign_in: SignIn, sessions: Sessions, door: Door, feedback: Feedback, issuer: str
    ) -> None:
        """`issuer`: of everybody who signs in here."""
        self._frame = frame
        self._sign_in = sign_in
        self._sessions = sessions
        self._door = door
        self._feedback = feedback
        self._issuer = issuer

    def application(self) -> Starlette:
        """Everything below `/sentiment/`."""
        routes = [
            self._route("GET", "", self._to_start),
            self._route("GET", "/", partial(self._form, "")),
            self._route("POST", "/", self._action(partial(self._ask, ""))),
            self._route("GET", "/v2/", partial(self._form, "v2")),
            self._route("POST", "/v2/", self._action(partial(self._ask, "v2"))),
            self._route("GET", "/predictions/{decision}", self._prediction),
            self._route("POST", "/predictions/{decision}", self._action(self._say)),
            self._route("GET", "/login", self._sign_in.login),
            self._route("GET", "/callback", self._sign_in.callback),
            self._route("POST", "/logout", self._action(self._logout)),
            self._route("GET", "/signed-out", self._signed_out),
            self._route("GET", "/static/{name}", self._static),
            Route(f"{PREFIX}/healthz", self._alive),
        ]
        application = Starlette(
            routes=routes,
            middleware=[Middleware(BoundedBodies)],
            exception_handlers={404: self._no_page, 405: self._no_page},
        )
        application.router.redirect_slashes = False  # it would redirect to whatever the header Host says
        return application

    def _route(self, method: str, path: str, work: Callable[[Request], Awaitable[Response]]) -> Route:
        return Route(PREFIX + path, partial(self._answered, work), methods=[method])

    async def _answered(self, work: Callable[[Request], Awaitable[Response]], request: Request) -> Response:
        """Whatever happens, it is a page."""
        try:
            return await work(request)
        except HTTPException:
            raise
        except SignedOut:
            self._sessions.end(request.cookies.get(self._frame.site.cookie(COOKIE), ""))
            return self._frame.problem(None, _OUT)
        except (Refused, SignInRefused, Unavailable) as failure:
            why = _why(failure)
        except Exception:
            log.exception("a page failed", extra={"route": request.url.path})
            why = _STRANGE
        return self._frame.problem(self._sign_in.session(request), why)

    def _action(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        """Something that a form of this session does."""

        async def done(request: Request) -> Response:
            ensure_same_origin(request, self._frame.site)
            session = self._sign_in.session(request)
            if session is None:
                raise SignedOut
            return await handler(request, session)

        return done

    async def _to_start(self, _: Request) -> Response:
        return self._frame.redirect(f"{PREFIX}/")

    async def _form(self, page: str, request: Request) -> Response:
        session = self._sign_in.session(request)
        if session is None:
            return self._frame.render("start.html", None, page=page)
        await self._ensure_accepted(session)
        return self._ask_page(page, session)

    async def _ensure_accepted(self, session: Session) -> None:
        """Whom the door does not accept any more has no session here either: it knows of every revocation at once."""
        await self._door.ensure_accepted(await self._sign_in.token(session))

    def _ask_page(self, page: str, session: Session, text: str = "", why: NotAnswered | None = None) -> Response:
        status, longest, most = why.status if why else 200, LONGEST_TEXT, MOST_LINES
        response = self._frame.render(
            "ask.html", session, status, page=page, text=text, why=why, longest=longest, most=most
        )
        if why and why.retry_after:
            response.headers["retry-after"] = str(why.retry_after)
        return response

    async def _ask(self, page: str, request: Request, session: Session) -> Response:
        """Asks the model as the person; a refusal is a sentence above the form, with the text still in it."""
        text = (await form_of(request, session.csrf)).one("text")
        try:
            texts = _lines(text) if page else _one(text)
            token = await self._sign_in.token(session)
            prediction = await (self._door.second if page else self._door.first)(token, texts)
        except NotAnswered as why:
            return self._ask_page(page, session, text, why)
        session.remember(prediction)
        return self._frame.redirect(f"{PREFIX}/predictions/{prediction.decision_id}")

    async def _prediction(self, request: Request) -> Response:
        session = self._sign_in.session(request)
        if session is None:
            raise SignedOut
        await self._ensure_accepted(session)
        prediction = _own(request, session)
        given = {row: label for (decision, row), label in session.given.items() if decision == prediction.decision_id}
        page = "v2" if prediction.second else ""
        return self._frame.render(
            "prediction.html", session, prediction=prediction, given=given, labels=LABELS, page=page
        )

    async def _say(self, request: Request, session: Session) -> Response:
        """What the person says of one row of a prediction that this session made."""
        form, prediction = await form_of(request, session.csrf), _own(request, session)
        row, label = form.one("row"), form.one("label")
        if not row.isdecimal() or int(row[:4]) >= len(prediction.rows) or label not in LABELS:
            raise NotAnswered(400, "That is no answer to the question", "Load the page again and choose a button.")
        await self._ensure_accepted(session)
        number = int(row[:4])
        if not await self._feedback.put(self._issuer, session.subject, prediction, number, label):
            raise NotAnswered(
                403, "You have said enough", "As much of one person is not kept. Thank you for all of it."
            )
        session.given[prediction.decision_id, number] = label
        session.notice = "Thank you. The next version can learn from it."
        return self._frame.redirect(f"{PREFIX}/predictions/{prediction.decision_id}")

    async def _logout(self, request: Request, session: Session) -> Response:
        await form_of(request, session.csrf)
        return await self._sign_in.logout(request, session)

    async def _signed_out(self, _: Request) -> Response:
        return self._frame.render("signed_out.html", None)

    async def _static(self, request: Request) -> Response:
        return self._frame.file(request.path_params["name"])

    async def _alive(self, _: Request) -> Response:
        return JSONResponse({"alive": True})

    async def _no_page(self, request: Request, error: Exception) -> Response:
        response = self._frame.problem(self._sign_in.session(request), _NOT_HERE)
        response.status_code = getattr(error, "status_code", 404)
        response.headers.update(getattr(error, "headers", None) or {})
        return response


def _own(request: Request, session: Session) -> Prediction:
    """Of others, and of what the session has forgotten, there is nothing."""
    found = session.predictions.get(request.path_params["decision"])
    if found is None:
        detail = "Only predictions that you asked for in this browser, not long ago, are shown here."
        raise NotAnswered(404, "There is no such prediction", detail)
    return found


def _one(text: str) -> list[str]:
    return _bounded([" ".join(text.split())])


def _lines(text: str) -> list[str]:
    """Each line that is not empty."""
    return _bounded([line.strip() for line in text.splitlines() if line.strip()] or [""])


def _bounded(texts: list[str]) -> list[str]:
    title = "That is no text for the model"
    if not texts[0]:
        raise NotAnswered(400, title, "Write something, such as: I love it.")
    if len(texts) > MOST_LINES:
        raise NotAnswered(400, title, f"Write at most {MOST_LINES} lines.")
    if any(len(text) > LONGEST_TEXT for text in texts):
        raise NotAnswered(400, title, f"Write at most {LONGEST_TEXT} characters for each text.")
    return texts


def _why(failure: Refused | SignInRefused | Unavailable) -> NotAnswered:
    match failure:
        case NotAnswered():
            return failure
        case Refused():
            return NotAnswered(failure.status, failure.title, failure.detail)
        case SignInRefused():
            return NotAnswered(403, "You are not signed in", "The identity provider did not sign you in. Try it again.")
        case Unavailable():
            log.warning("a page is not available", extra={"dependency": failure.dependency, "detail": failure.detail})
            return NotAnswered(503, "Not available now", _AWAY.get(failure.dependency, "Try again in a minute."))
