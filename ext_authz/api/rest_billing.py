"""REST: bills, for those who may read them."""

from __future__ import annotations

from datetime import date, datetime
from typing import Annotated, Any
from uuid import UUID

from fastapi import APIRouter, Depends, Path, Query, Request
from starlette.responses import Response

from ext_authz.api.documents import Body
from ext_authz.api.rest import NO_STORE, caller, interfaces
from ext_authz.billing.export import plain, rows
from ext_authz.billing.formats import FORMATS, FormatName, file_name
from ext_authz.billing.model import Invoice
from ext_authz.billing.service import BillingService
from ext_authz.identity.api_tokens import BILLING
from ext_authz.tokens.model import Actor

router = APIRouter(tags=["billing"])


class AccountOut(Body):
    """Who pays."""

    account: str
    title: str
    anchor: date
    """The first day of the first period."""


class AccountsOut(Body):
    """A page, by name."""

    accounts: list[AccountOut]
    cursor: str


class LineOut(Body):
    """One line; amounts are text, so that no reader makes binary fractions of them."""

    line: int
    kind: str
    """`fee`, `usage` or `adjustment`."""
    name: str
    per: str
    tier: str
    period: str
    quantity: str
    unit_price: str
    amount: str
    currency: str


class BillOut(Body):
    """A bill without its lines."""

    status: str
    """`draft` or `final`."""
    number: int
    """0 of a draft."""
    account: str
    title: str
    start: datetime
    end: datetime
    """Exclusive."""
    total: str
    currency: str
    prices: str
    plan: str
    finalized_at: datetime | None
    hash: str
    """Empty of a draft."""


class BudgetOut(Body):
    """What the account wants to pay at most in the period."""

    amount: str
    """In the currency of the bill."""
    used: int
    """Percent of it that the total is, rounded down."""
    stops: bool
    """Whether calls are refused from 100 % on, if the policy says so too."""


class WholeBillOut(BillOut):
    """A bill."""

    lines: list[LineOut]
    budget: BudgetOut | None
    """Of the current period, where the account has one."""


class BillsOut(Body):
    """A page, the latest first."""

    bills: list[BillOut]
    cursor: str


class CallOut(Body):
    """One call that a line counts."""

    decision_id: UUID
    occurred_at: datetime
    client: str
    model: str
    model_version: str
    route: str
    outcome: str
    billed: bool
    units: int


class CallsOut(Body):
    """Some calls, in the order of their ids."""

    calls: list[CallOut]
    cursor: str
    """For the next page; empty: there is none. A page may have no calls and a cursor."""


Account = Annotated[str, Path(pattern=r"^[a-z][a-z0-9-]{0,31}$")]
Which = Annotated[str, Path(pattern=r"^(current|[1-9][0-9]{0,17}|[0-9]{4}-[0-9]{2}-[0-9]{2})$")]
"""The number of an invoice, a day of the period, or `current`."""
Limit = Annotated[int, Query(ge=1, le=200)]


async def _caller(request: Request) -> Actor:
    return await caller(request, BILLING)


def _billing(request: Request) -> BillingService:
    return interfaces(request).billing


Caller = Annotated[Actor, Depends(_caller)]
Bills = Annotated[BillingService, Depends(_billing)]


@router.get("/billing/accounts")
async def list_accounts(
    caller: Caller, billing: Bills, cursor: Annotated[str, Query(pattern=r"^[a-z0-9-]{0,32}$")] = "", limit: Limit = 50
) -> AccountsOut:
    """Whose bills the caller may read: of an administrator all."""
    found = await billing.accounts(caller, after=cursor, limit=limit + 1)
    page = [AccountOut(account=each.name, title=each.title, anchor=each.anchor) for each in found[:limit]]
    return AccountsOut(accounts=page, cursor=page[-1].account if len(found) > limit else "")


@router.get("/billing/accounts/{account}/bills")
async def list_bills(
    caller: Caller,
    billing: Bills,
    account: Account,
    cursor: Annotated[str, Query(pattern=r"^([1-9][0-9]{0,17})?$")] = "",
    limit: Limit = 50,
) -> BillsOut:
    """Final invoices, the latest first."""
    found = await billing.invoices(caller, account, before=int(cursor) if cursor else None, limit=limit + 1)
    page = [BillOut(**_head(each)) for each in found[:limit]]
    return BillsOut(bills=page, cursor=str(page[-1].number) if len(found) > limit else "")


@router.get("/billing/accounts/{account}/bills/{bill}")
async def get_bill(caller: Caller, billing: Bills, account: Account, bill: Which) -> WholeBillOut:
    """A final invoice, or a draft of a period that has none: as the ledger is now."""
    found = await billing.bill(caller, account, bill)
    used = await billing.budget(caller, found)
    budget = BudgetOut(amount=plain(used.amount), used=used.percent, stops=used.stops) if used else None
    return WholeBillOut(**_head(found), lines=[LineOut.model_validate(row) for row in rows(found)], budget=budget)


@router.get(
    "/billing/accounts/{account}/bills/{bill}/export",
    response_class=Response,
    responses={200: {"content": {each.media_type: {} for each in FORMATS.values()}, "description": "The bill."}},
)
async def export_bill(
    caller: Caller,
    billing: Bills,
    account: Account,
    bill: Which,
    format: FormatName = "json",  # noqa: A002 - in the query
) -> Response:
    """The same invoice is always the same bytes. `focus`: CSV with columns of FOCUS."""
    return await exported(billing, await billing.bill(caller, account, bill), format)


async def exported(billing: BillingService, invoice: Invoice, form: str) -> Response:
    """As a file. Raises NotDone."""
    content = await billing.written(invoice, form)
    disposition = {"content-disposition": f'attachment; filename="{file_name(invoice, form)}"'}
    return Response(content, media_type=FORMATS[form].media_type, headers=NO_STORE | disposition)


@router.get("/billing/accounts/{account}/bills/{bill}/lines/{line}/calls")
async def list_calls(
    caller: Caller,
    billing: Bills,
    account: Account,
    bill: Which,
    line: Annotated[int, Path(ge=1, le=100_000)],
    cursor: UUID | None = None,
    limit: Limit = 50,
) -> CallsOut:
    """The calls that a line counts."""
    found, last = await billing.calls(caller, account, bill, line, after=cursor, limit=limit)
    return CallsOut(calls=[CallOut.model_validate(call) for call in found], cursor=str(last or ""))


def _head(invoice: Invoice) -> dict[str, Any]:
    bill = invoice.bill
    return {
        "status": invoice.status,
        "number": invoice.number,
        "account": bill.account,
        "title": bill.title,
        "start": bill.start,
        "end": bill.end,
        "total": plain(bill.total),
        "currency": bill.terms.currency,
        "prices": bill.terms.prices,
        "plan": bill.terms.plan,
        "finalized_at": invoice.finalized_at,
        "hash": invoice.hash,
    }
