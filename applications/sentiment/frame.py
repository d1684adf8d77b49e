"""The layout of the application's pages, and where they are."""

from __future__ import annotations

from pathlib import Path

from starlette.responses import Response

from applications.sentiment.door import NotAnswered
from applications.sentiment.sessions import Session
from ext_authz.web.pages import Responses, Site

PREFIX = "/sentiment"
COOKIE = "sentiment-app"
"""Named as the upstream in the policy: the door passes no others."""


class Frame(Responses):
    """Makes responses of templates."""

    def __init__(self, site: Site) -> None:
        super().__init__(site, PREFIX, Path(__file__).parent)
        self._templates.filters["percent"] = lambda share: f"{100 * share:.0f} %"
        self._templates.filters["signed"] = lambda score: f"{score:+.2f}".replace("-", "\N{MINUS SIGN}")

    def render(self, template: str, session: Session | None, status: int = 200, **values: object) -> Response:
        common = {"session": session, "notice": session.taken_notice() if session else "", "page": ""}
        return self.page(template, status, common | values)

    def problem(self, session: Session | None, why: NotAnswered) -> Response:
        """A page that says what is wrong and what to do."""
        return self.render("problem.html", session, why.status, why=why)
