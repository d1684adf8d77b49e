"""The pages about service accounts: owners that are no persons, which the members of a group manage together."""

from __future__ import annotations

from starlette.responses import Response
from starlette.routing import Route

from ext_authz.console.frame import Frame, Visit
from ext_authz.console.guard import STATUS, Guard
from ext_authz.tokens.model import SERVICE, NotDone, Owner, Why
from ext_authz.tokens.service import TokenService

_ON_A_PAGE = 25


class ServiceAccounts:
    """Handlers."""

    def __init__(self, frame: Frame, guard: Guard, service: TokenService) -> None:
        self._frame = frame
        self._guard = guard
        self._service = service

    def routes(self) -> list[Route]:
        page, action = self._guard.page, self._guard.action
        return [
            page("/service-accounts", self.list),
            action("/service-accounts", self.create),
            page("/service-accounts/{name}", self.show),
        ]

    async def list(self, visit: Visit) -> Response:
        return await self._form(visit)

    async def create(self, visit: Visit) -> Response:
        form = visit.form
        try:
            owner = await self._service.create_service_account(
                visit.person, form.one("name"), form.one("group"), form.several("roles")
            )
        except NotDone as why:
            return await self._form(visit, why)
        name = owner.subject.removeprefix(SERVICE)
        return await self._guard.done(visit, f"/service-accounts/{name}", f"The service account {name} is made.")

    async def show(self, visit: Visit) -> Response:
        owner = await account(visit, self._service)
        page = await self._service.list(
            visit.person,
            issuer=owner.issuer,
            subject=owner.subject,
            cursor=visit.request.query_params.get("after", ""),
            limit=_ON_A_PAGE,
        )
        name = owner.subject.removeprefix(SERVICE)
        return self._frame.render(
            "service_account.html", visit, owner=owner, name=name, grants=page.grants, cursor=page.cursor
        )

    async def _form(self, visit: Visit, why: NotDone | None = None) -> Response:
        identity = visit.person.identity
        return self._frame.render(
            "service_accounts.html",
            visit,
            status=STATUS[why.why][0] if why else 200,
            owners=await self._service.service_accounts(visit.person),
            prefix=SERVICE,
            groups=sorted(identity.groups) if identity else [],
            roles=(await self._service.choices(visit.person)).roles,
            form=visit.form,
            problem=why,
        )


async def account(visit: Visit, service: TokenService) -> Owner:
    """That the path names; of one of their groups: others are not there."""
    subject = SERVICE + visit.request.path_params["name"]
    found = (owner for owner in await service.service_accounts(visit.person) if owner.subject == subject)
    owner = next(found, None)
    if owner is None:
        raise NotDone(Why.NOT_FOUND, "there is no such service account in your groups")
    return owner
