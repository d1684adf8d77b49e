"""The pages about one's own calls: how many, what is left, why some were refused, which models there are and how."""

from __future__ import annotations

from uuid import UUID

from starlette.responses import Response
from starlette.routing import Route

from ext_authz.console.frame import PREFIX, Frame, Visit
from ext_authz.console.guard import Guard
from ext_authz.console.plots import plot_of
from ext_authz.console.quotas import Left, Quotas
from ext_authz.console.reasons import facts, words
from ext_authz.console.recorded import Recorded
from ext_authz.console.service_accounts import account
from ext_authz.policy.model import Policy
from ext_authz.tokens.model import SERVICE, NotDone, Owner, Why
from ext_authz.tokens.service import TokenService

_PERIODS = {"7": "7 days", "30": "30 days", "90": "90 days"}
_MOST_REFUSALS = 50


class MyUsage:
    """Handlers."""

    def __init__(
        self, frame: Frame, guard: Guard, service: TokenService, recorded: Recorded, quotas: Quotas, policy: Policy
    ) -> None:
        self._frame = frame
        self._guard = guard
        self._service = service
        self._recorded = recorded
        self._quotas = quotas
        self._policy = policy

    def routes(self) -> list[Route]:
        page = self._guard.page
        return [
            page("/usage", self.usage),
            page("/service-accounts/{name}/usage", self.usage_of_account),
            page("/refusals", self.refusals),
            page("/refusals/{decision:uuid}", self.refusal),
            page("/models", self.models),
        ]

    async def usage(self, visit: Visit) -> Response:
        identity = visit.actor.identity
        left = Left() if identity is None else await self._quotas.of_person(identity, visit.actor.address)
        return await self._usage(visit, _owner(visit), left, name="")

    async def usage_of_account(self, visit: Visit) -> Response:
        owner = await account(visit, self._service)
        left = await self._quotas.of_account(owner)
        return await self._usage(visit, owner, left, name=owner.subject.removeprefix(SERVICE))

    async def _usage(self, visit: Visit, owner: Owner, left: Left, *, name: str) -> Response:
        """`name`: of a service account."""
        chosen = visit.request.query_params.get("days", "")
        days = int(chosen) if chosen in _PERIODS else 30
        by_day = await self._recorded.by_day(owner, days)
        return self._frame.render(
            "usage.html",
            visit,
            name=name,
            periods=_PERIODS,
            days=days,
            by_day=by_day,
            by_model=await self._recorded.by_model(owner, days),
            plot=plot_of(by_day),
            left=left,
        )

    async def refusals(self, visit: Visit) -> Response:
        """`?id=`: of this decision."""
        wanted = visit.request.query_params.get("id", "").strip()
        if wanted:
            return self._frame.redirect(f"{PREFIX}/refusals/{_decision(wanted)}")
        events = await self._recorded.refusals(_owner(visit), _MOST_REFUSALS)
        return self._frame.render("refusals.html", visit, events=events, words=words, most=_MOST_REFUSALS)

    async def refusal(self, visit: Visit) -> Response:
        event = await self._recorded.decision(_owner(visit), visit.request.path_params["decision"])
        return self._frame.render(
            "refusal.html", visit, event=event, words=words(event), facts=[*facts(event, self._policy)]
        )

    async def models(self, visit: Visit) -> Response:
        """With lines to paste, for one of them."""
        choices = await self._service.choices(visit.person)
        wanted = visit.request.query_params.get("model", "")
        names = [model for model in choices.models if "*" not in model]
        model = wanted if wanted in names else next(iter(names), "")
        door = self._frame.site.models
        return self._frame.render("models.html", visit, models=choices.models, names=names, model=model, door=door)


def _owner(visit: Visit) -> Owner:
    """Whoever is signed in, and nobody else."""
    return Owner(issuer=visit.actor.issuer, subject=visit.actor.subject)


def _decision(text: str) -> UUID:
    try:
        return UUID(text.removeprefix("urn:uuid:"))
    except ValueError:
        detail = (
            "this is not a decision id: it has 36 characters and is in every refusal, and in the header x-decision-id"
        )
        raise NotDone(Why.INVALID, detail, "id") from None
