"""The page about the bills that somebody may read: lines, calls per day, what it will come to, and files."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from starlette.responses import Response
from starlette.routing import Route

from ext_authz.api.rest_billing import exported
from ext_authz.billing.export import plain, rows
from ext_authz.billing.forecast import forecast
from ext_authz.billing.formats import FORMATS
from ext_authz.billing.model import Bill, Invoice
from ext_authz.billing.service import CURRENT, BillingService
from ext_authz.billing.usage import Day
from ext_authz.console.frame import PREFIX, Frame, Visit
from ext_authz.console.guard import Guard
from ext_authz.console.plots import plot_of
from ext_authz.console.recorded import Calls
from ext_authz.tokens.model import NotDone, Why

_MOST_ACCOUNTS = 50
_MOST_INVOICES = 24
_DAY = timedelta(days=1)


class MyBills:
    """Handlers. An administrator sees no more here than anybody: `tollgate bill` is for operators."""

    def __init__(self, frame: Frame, guard: Guard, billing: BillingService) -> None:
        self._frame = frame
        self._guard = guard
        self._billing = billing

    def routes(self) -> list[Route]:
        page = self._guard.page
        return [
            page("/bill", self.accounts),
            page("/bill/{account}", self.bill),
            page("/bill/{account}/export", self.export),
        ]

    async def accounts(self, visit: Visit) -> Response:
        """To the bill, where there is one account."""
        found = await self._billing.accounts(visit.person, limit=_MOST_ACCOUNTS)
        if len(found) == 1:
            return self._frame.redirect(f"{PREFIX}/bill/{found[0].name}")
        return self._frame.render("bills.html", visit, accounts=found)

    async def bill(self, visit: Visit) -> Response:
        """`?of=`: the number of an invoice, or a day of the period."""
        invoice = await self._chosen(visit)
        bill = invoice.bill
        finals = await self._billing.invoices(visit.person, bill.account, limit=_MOST_INVOICES)
        by_day = calls_by_day(bill, await self._billing.days(visit.person, bill), self._billing.now)
        coming = None if invoice.number else forecast(bill, self._billing.now)
        return self._frame.render(
            "bill.html",
            visit,
            invoice=invoice,
            bill=bill,
            lines=rows(invoice),
            total=plain(bill.total),
            forecast=None if coming is None else plain(coming),
            budget=await self._billing.budget(visit.person, invoice),
            of=_named(invoice),
            finals=finals,
            by_day=by_day,
            plot=plot_of(by_day),
            formats=FORMATS,
        )

    async def export(self, visit: Visit) -> Response:
        """`?format=`, and `?of=` as above."""
        form = visit.request.query_params.get("format", "pdf")
        if form not in FORMATS:
            raise NotDone(Why.INVALID, f"choose one of {', '.join(FORMATS)} as format", "format")
        return self._frame.protected(await exported(self._billing, await self._chosen(visit), form))

    async def _chosen(self, visit: Visit) -> Invoice:
        of = visit.request.query_params.get("of", "") or CURRENT
        return await self._billing.bill(visit.person, visit.request.path_params["account"], of)


def calls_by_day(bill: Bill, days: Sequence[Day], now: datetime) -> list[Calls]:
    """Every day of the period up to today; at least the first."""
    known, last = {day.day: day for day in days}, min(bill.end - _DAY, now.astimezone(UTC))
    found, at = list[Calls](), bill.start
    while at <= last or not found:
        day = known.get(at.date(), Day(at.date(), 0, 0))
        found.append(Calls(at.date().isoformat(), day.billed, day.others))
        at += _DAY
    return found


def _named(invoice: Invoice) -> str:
    """As `?of=` takes it."""
    return str(invoice.number or invoice.bill.start.date())
