"""Budgets: each threshold is told once, by whoever of several workers sees it; clients over one are refused."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from email import message_from_bytes
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, ClassVar

import pytest
from aiosmtpd.smtp import SMTP, AuthResult, LoginPassword
from pydantic import SecretStr

from ext_authz.billing.budgets import NEEDS
from ext_authz.billing.delivery import Delivery, signature
from ext_authz.billing.watch import BudgetAlerts, BudgetWatch
from ext_authz.budget_settings import BudgetSettings
from ext_authz.db.postgres import connect
from ext_authz.db.redis import connected
from ext_authz.policy.model import OVER_BUDGET
from ext_authz.quotas.store import PATIENCE, QuotaStore
from ext_authz.settlement.model import Outcome, QuotaRequest, counter_key
from tests.e2e.billing.world import ISS, Books
from tests.e2e.server.certificates import Authority
from tests.e2e.settlement.redis_world import RedisWorld
from tests.fakes import FakeClock
from tests.http_server import running_http_server
from tests.postgres_roles import role
from tests.unit.billing.test_budgets import KEY
from tests.unit.settlement.world import settle
from tests.waiting import running, until

LIMIT = OVER_BUDGET.of("")


class Mailbox:
    """Of a mail server on loopback, which asks for a password, and refuses the first of its messages at will."""

    def __init__(self, *, refusals: int = 0) -> None:
        self.messages: list[Any] = []
        self.users: list[bytes] = []
        self._refusals = refusals

    async def handle_DATA(self, server: object, session: object, envelope: Any) -> str:  # noqa: ANN401, N802 - aiosmtpd's
        if self._refusals:
            self._refusals -= 1
            return "451 try later"
        self.messages.append(message_from_bytes(envelope.content))
        return "250 OK"

    def authenticate(self, server: object, session: object, envelope: object, way: str, data: object) -> AuthResult:
        assert isinstance(data, LoginPassword)
        self.users.append(data.login)
        good = data.password == b"pass@word"
        return AuthResult(success=good, handled=good)

    @asynccontextmanager
    async def served(self, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1") -> AsyncIterator[str]:
        def connection() -> SMTP:
            return SMTP(self, authenticator=self.authenticate, auth_require_tls=False)

        server = await asyncio.get_running_loop().create_server(connection, host, 0, ssl=tls)
        async with server:
            port = server.sockets[0].getsockname()[1]
            yield f"{'smtps' if tls else 'smtp'}://tollgate:pass%40word@{host}:{port}"


class Hook(BaseHTTPRequestHandler):
    taken: ClassVar[list[tuple[dict[str, str], bytes]]] = []
    answers: ClassVar[list[int]] = []

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        self.taken.append(({name.lower(): value for name, value in self.headers.items()}, body))
        self.send_response(self.answers.pop() if self.answers else 204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Quiet."""


@asynccontextmanager
async def hook() -> AsyncIterator[int]:
    """Its port."""
    with running_http_server(Hook) as port:
        yield port


class World:
    """An account `acme` with the client `shop`, whose fee is 10, and 0.50 a call from the fourth on; now."""

    def __init__(self, books: Books, redis: RedisWorld, store: QuotaStore) -> None:
        self.books = books
        self.redis = redis
        self.store = store
        self.clock = FakeClock()
        self.now = datetime.now(UTC)
        self.clock.set_wall(self.now.timestamp())

    async def set(self, amount: str, *options: str) -> None:
        await self.run("budgets", "set", "acme", amount, *options)

    async def run(self, *arguments: str) -> str:
        """`tollgate bill ...`, beside this loop."""
        return await asyncio.to_thread(self.books.tollgate, *arguments)

    def watch(self, *, webhook: bool = False, every: float = 1, url: str = "") -> BudgetWatch:
        where = SecretStr(url or self.books.database_url)
        return BudgetWatch(where, self.store, lambda: {ISS: "demo"}, self.clock, every=every, webhook=webhook)

    def alerts(self, **settings: object) -> BudgetAlerts:
        whole = {"budget_webhook_key": KEY} if "budget_webhook" in settings else {}
        mail = {"smtp_from": "tollgate@models.example"} if "smtp_url" in settings else {}
        delivery = Delivery(BudgetSettings.model_validate({**whole, **mail, **settings}))
        return BudgetAlerts(SecretStr(self.books.database_url), delivery)

    def call(self, number: int) -> None:
        self.books.call(f"{self.now:%Y-%m}-01", number)

    async def look(self, watch: BudgetWatch | None = None) -> None:
        """Now, whenever somebody looked before."""
        self.books.sql("UPDATE billing_budgets SET looked_at = '-infinity'")
        async with await connect(self.books.database_url) as connection:
            await (watch or self.watch()).round(connection, asyncio.Event())

    async def tell(self, alerts: BudgetAlerts) -> None:
        """Now, whatever failed before."""
        self.books.sql("UPDATE billing_alerts SET try_at = now()")
        async with await connect(self.books.database_url) as connection:
            await alerts.round(connection, asyncio.Event())

    async def refused(self, client: str = "shop") -> bool:
        key = counter_key(LIMIT.name, [f"demo:{client}"])
        answer = await settle(self.redis, QuotaRequest(key, LIMIT.algorithm, LIMIT.limit, LIMIT.window * 1000, 0, 0))
        return answer.outcome is Outcome.LIMITED

    def told(self) -> list[tuple[int, str]]:
        rows = self.books.sql("SELECT threshold, target FROM billing_alerts WHERE sent_at IS NOT NULL ORDER BY 1, 2")
        return [(threshold, target) for threshold, target in rows]


@pytest.fixture
def acme(books: Books) -> Books:
    books.account("acme", "shop")
    return books


@pytest.fixture
async def world(acme: Books, redis_url: str) -> AsyncIterator[World]:
    async with RedisWorld(redis_url) as redis, connected(redis_url, shards=1, seconds=PATIENCE) as clients:
        yield World(acme, redis, QuotaStore(clients))


async def test_each_threshold_is_told_once_though_two_workers_look(world: World) -> None:
    mailbox, Hook.taken[:] = Mailbox(), []
    await world.set("20", "--alert", "50", "--alert", "80", "--alert", "100", "--mail", "pay@acme.example")
    async with mailbox.served() as smtp_url, hook() as port:
        tellers = [world.alerts(budget_webhook=f"http://127.0.0.1:{port}/x", smtp_url=smtp_url) for _ in range(2)]
        watches = [world.watch(webhook=True) for _ in range(2)]
        await asyncio.gather(*(world.look(each) for each in watches))
        await asyncio.gather(*(world.tell(each) for each in tellers))
        assert world.told() == [(50, "log"), (50, "pay@acme.example"), (50, "webhook")], "the fee alone is half of it"
        world.call(3 + 12)  # 10 + 12 * 0.50 = 16
        for _ in range(2):
            await asyncio.gather(*(world.look(each) for each in watches))
            await asyncio.gather(*(world.tell(each) for each in tellers))
    assert [threshold for threshold, _ in world.told()] == [50] * 3 + [80] * 3
    assert len(mailbox.messages) == len(Hook.taken) == 2
    assert [message["Subject"].split(": ")[1][:4] for message in mailbox.messages] == ["50 %", "80 %"]
    assert mailbox.messages[1]["To"] == "pay@acme.example"
    assert "has used 16.00 EUR of its budget of 20 EUR" in mailbox.messages[1].get_payload()
    assert set(mailbox.users) == {b"tollgate"}
    headers, body = Hook.taken[1]
    settings = BudgetSettings.model_validate({"budget_webhook": "https://x.example", "budget_webhook_key": KEY})
    assert settings.webhook
    sent = signature(settings.webhook[1], headers["webhook-id"], body, int(headers["webhook-timestamp"]))
    assert headers["webhook-signature"] == sent["webhook-signature"]
    assert json.loads(body)["data"]["total"] == "16.00"


async def test_what_was_not_taken_is_sent_again_with_the_same_id(world: World) -> None:
    mailbox, Hook.taken[:], Hook.answers[:] = Mailbox(refusals=1), [], [500]
    await world.set("20", "--alert", "50", "--mail", "pay@acme.example")
    async with mailbox.served() as smtp_url, hook() as port:
        alerts = world.alerts(budget_webhook=f"http://127.0.0.1:{port}", smtp_url=smtp_url)
        await world.look(world.watch(webhook=True))
        await world.tell(alerts)
        assert world.told() == [(50, "log")]
        listed = json.loads(await world.run("budgets", "alerts", "acme", "--format", "json"))
        assert {(each["target"], each["error"], each["tries"]) for each in listed} == {
            ("log", "", 0), ("webhook", "it answered 500", 1), ("pay@acme.example", "the mail server answered 451", 1),
        }  # fmt: skip
        await world.tell(alerts)
        await world.tell(alerts)
    assert len(world.told()) == 3
    assert len(mailbox.messages) == 1
    assert len({headers["webhook-id"] for headers, _ in Hook.taken}) == 1
    assert len(Hook.taken) == 2


async def test_a_wrong_password_and_a_server_that_is_not_there_are_said_without_secrets(world: World) -> None:
    await world.set("20", "--alert", "50", "--mail", "pay@acme.example")
    await world.look()
    async with Mailbox().served() as smtp_url:
        await world.tell(world.alerts(smtp_url=smtp_url.replace("word", "wrong")))
    ((error,),) = world.books.sql("SELECT error FROM billing_alerts WHERE target <> 'log'")
    assert error == "the mail server answered 535"
    await world.tell(world.alerts(smtp_url=smtp_url))
    ((error,),) = world.books.sql("SELECT error FROM billing_alerts WHERE target <> 'log'")
    assert error == "the mail server: ConnectionRefusedError"


async def test_mail_leaves_this_machine_encrypted_to_a_server_that_is_verified(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mailbox, authority = Mailbox(), Authority(tmp_path, "authority")
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*authority.issue("mail"))
    await world.set("20", "--alert", "50", "--mail", "pay@acme.example")
    await world.look()
    async with mailbox.served(tls) as smtp_url:
        await world.tell(world.alerts(smtp_url=smtp_url))
        ((error,),) = world.books.sql("SELECT error FROM billing_alerts WHERE target <> 'log'")
        assert error == "the mail server: SSLCertVerificationError"
        monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        await world.tell(world.alerts(smtp_url=smtp_url))
    assert len(mailbox.messages) == 1
    world.books.sql("UPDATE billing_alerts SET sent_at = NULL WHERE target <> 'log'")
    async with mailbox.served(host="127.0.0.2") as smtp_url:  # which is no name of this machine
        await world.tell(world.alerts(smtp_url=smtp_url))
    ((error,),) = world.books.sql("SELECT error FROM billing_alerts WHERE target <> 'log'")
    assert error == "the mail server: SMTPNotSupportedError"
    assert len(mailbox.messages) == 1


async def test_another_amount_and_another_period_are_told_anew(world: World) -> None:
    await world.set("20", "--alert", "50")
    await world.look()
    await world.set("19", "--alert", "50")
    await world.look()
    world.clock.advance(31 * 86_400)
    await world.look()
    assert world.told() == [(50, "log")] * 3


async def test_clients_over_budget_are_refused_until_there_is_room_again(world: World) -> None:
    await world.set("12", "--stop")
    await world.look()
    assert not await world.refused()
    world.call(3 + 4)  # 10 + 4 * 0.50 = 12
    await world.look()
    assert [await world.refused(each) for each in ("shop", "tollgate:shop", "other")] == [True, True, False]

    await world.redis.client.flushall()
    await world.redis.set_complete(complete=True)
    await world.look()
    assert await world.refused(), "what Redis lost is written again"

    await world.set("50", "--stop")
    await world.look()
    assert not await world.refused()
    await world.set("12", "--stop")
    await world.look()
    assert await world.refused()
    await world.run("budgets", "remove", "acme")
    await world.look()
    assert not await world.refused()
    assert world.books.sql("SELECT FROM billing_stops") == []
    await world.set("12")
    await world.look()
    assert not await world.refused(), "a budget that does not stop"


async def test_refusals_begin_within_the_time_of_a_look_and_by_itself(world: World) -> None:
    await world.set("5", "--stop")
    with role(
        world.books.database_url,
        *(f"GRANT {', '.join(rights)} ON {table} TO {{role}}" for table, rights in NEEDS.items()),
    ) as worker:
        async with running(world.watch(every=1, url=worker)):
            await until(world.refused)
            await world.set("5", "--no-stop")

            async def let_through() -> bool:
                return not await world.refused()

            await until(let_through)


async def test_an_account_without_a_plan_stops_nobody_else(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.run("accounts", "create", "aaa", "--title", "A", "--anchor", "2026-01-01")
    await world.run("budgets", "set", "aaa", "5")
    await world.set("20", "--alert", "50")
    await world.look()
    assert world.told() == [(50, "log")]
    assert "aaa has no plan" in str([vars(record).get("detail") for record in caplog.records])


def test_budgets_are_listed_and_written_into_the_audit_log(books: Books) -> None:
    books.account("acme")
    books.tollgate(
        "budgets", "set", "acme", "99.50", "--alert", "80", "--mail", "a@b.example", "--stop", "--by", "root"
    )
    ((amount, stops),) = [
        (each["amount"], each["stops"]) for each in json.loads(books.tollgate("budgets", "list", "--format", "json"))
    ]
    assert (amount, stops) == ("99.50", True)
    books.tollgate("budgets", "remove", "acme")
    assert json.loads(books.tollgate("budgets", "list", "--format", "json")) == []
    assert "acme has no budget" in str(books.run("budgets", "remove", "acme").exception)
    assert "no billing account 'nobody'" in str(books.run("budgets", "set", "nobody", "5").exception)
    logged = books.sql("SELECT details FROM audit_log WHERE action = 'account.budget' ORDER BY position")
    assert [details["amount"] for (details,) in logged] == ["99.50", None]
