"""Accounts, prices and a ledger in a real Postgres, and the command over them."""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, LiteralString

import psycopg
import yaml
from click.testing import CliRunner, Result
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from ext_authz.billing.commands import bill
from ext_authz.billing.documents import PriceListDocument
from ext_authz.billing.prices import canonical

ISS = "https://id.example/realms/ml"
PRICES = """
version: 1
name: standard
currency: EUR
valid_from: 2026-01-01
plans:
  default:
    fee: 10
    items:
      - {name: Sentiment, per: request, models: [sentiment], included: 3, price: "0.5"}
      - {name: Other calls, per: request, price: "0.25"}
"""
PRICE_LIST = canonical(
    PriceListDocument.model_validate(yaml.safe_load(PRICES) | {"valid_from": "2026-01-01"}).model_dump()
)
_PUBLISHED: LiteralString = """
INSERT INTO price_lists (name, valid_from, digest, document, published_by)
VALUES ('standard', '2026-01-01', '', %s, 'test') ON CONFLICT DO NOTHING
"""
_EVENT: LiteralString = """
INSERT INTO usage_events (decision_id, occurred_at, issuer, subject, client, token_id, route, model, model_version,
    method, path, reason, code, policy) VALUES (%s, %s, %s, %s, %s, '', 'infer', %s, '1', 'POST', '/', %s, '', '')
"""
_OUTCOME: LiteralString = """
INSERT INTO call_outcomes (decision_id, status, grpc_status, flags, details, duration_ms, bytes_in, bytes_out, upstream,
    upstream_address, attempts, upstream_ms) VALUES (%s, %s, NULL, '', '', 1.5, 100, 200, '', '', 1, 1.5)
"""


def pay(database_url: str, account: str, reader: str, *clients: str, issuer: str = ISS) -> None:
    """An account with these clients that `reader` of issuer `demo` may read, by the list `standard`; the anchor is the
    first of this month."""
    anchor = datetime.now(UTC).date().replace(day=1)
    statements: list[tuple[LiteralString, tuple[object, ...]]] = [
        (_PUBLISHED, (PRICE_LIST,)),
        (
            "INSERT INTO billing_accounts (name, title, anchor) VALUES (%s, %s, %s)",
            (account, f"{account} Ltd.", anchor),
        ),
        ("INSERT INTO billing_subscriptions VALUES (%s, %s, 'default', 'standard')", (account, anchor)),
        ("INSERT INTO billing_readers VALUES (%s, 'demo', %s)", (account, reader)),
        *(("INSERT INTO billing_clients VALUES (%s, %s, %s, %s)", (issuer, each, anchor, account)) for each in clients),
    ]
    with psycopg.connect(database_url) as connection:
        for statement, values in statements:
            connection.execute(statement, values)


@contextmanager
def copied(postgres_server: str, template: str = "") -> Iterator[str]:
    """The URL of a database of its own: empty, or as that of `template` is, to which nobody is connected."""
    name = f"t{uuid.uuid4().hex}"
    source = conninfo_to_dict(template)["dbname"] if template else "template1"
    with psycopg.connect(postgres_server, autocommit=True) as admin:
        identifiers = sql.Identifier(name), sql.Identifier(str(source))
        admin.execute(sql.SQL("CREATE DATABASE {} TEMPLATE {}").format(*identifiers))
        try:
            yield postgres_server.replace("/postgres?", f"/{name}?")
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(sql.Identifier(name)))


class Books:
    """What is billed to whom; commands run in this process."""

    def __init__(self, database_url: str, directory: Path) -> None:
        self.database_url = database_url
        self._directory = directory

    def sql(self, query: LiteralString, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with psycopg.connect(self.database_url, autocommit=True) as connection:
            cursor = connection.execute(query, values)
            return cursor.fetchall() if cursor.description else []

    def call(
        self, at: str, number: int = 1, *, client: str = "shop", model: str = "sentiment", status: int | None = 200,
        reason: str = "allowed", issuer: str = ISS, subject: str = "sub",
    ) -> list[str]:  # fmt: skip
        """Calls at this time, with ids of it; `status` None: no access log has come."""
        when = datetime.fromisoformat(at).replace(tzinfo=UTC)
        ids = [_decision_id(when) for _ in range(number)]
        with psycopg.connect(self.database_url) as connection, connection.cursor() as cursor:
            cursor.executemany(_EVENT, [(each, when, issuer, subject, client, model, reason) for each in ids])
            if status is not None:
                cursor.executemany(_OUTCOME, [(each, status) for each in ids])
        return ids

    def settle(self, ids: Sequence[str], status: int = 200) -> None:
        with psycopg.connect(self.database_url) as connection, connection.cursor() as cursor:
            cursor.executemany(_OUTCOME, [(each, status) for each in ids])

    def run(self, *arguments: str, environ: Mapping[str, str] | None = None) -> Result:
        """`tollgate bill ...`."""
        return CliRunner().invoke(bill, arguments, env={"TOLLGATE_DATABASE_URL": self.database_url, **(environ or {})})

    def tollgate(self, *arguments: str) -> str:
        """As `run`, which must go well."""
        result = self.run(*arguments)
        assert result.exit_code == 0, result.output + str(result.exception)
        return result.stdout

    def document(self, which: str, at: str = "") -> dict[str, Any]:
        """An invoice or a draft."""
        found: dict[str, Any] = json.loads(self.tollgate("export", which, *(["--at", at] if at else [])))
        return found

    def lines(self, which: str, at: str = "") -> list[tuple[str, str, str, str]]:
        lines = self.document(which, at)["bill"]["lines"]
        return [(line["kind"], line["name"], line["quantity"], line["amount"]) for line in lines]

    def publish(self, text: str = PRICES) -> str:
        path = self._directory / "prices.yaml"
        path.write_text(text)
        return self.tollgate("prices", "publish", str(path))

    def account(self, name: str = "acme", *clients: str, anchor: str = "2026-01-01") -> None:
        """With a plan and these clients."""
        self.tollgate("accounts", "create", name, "--title", f"{name.title()} Ltd.", "--anchor", anchor)
        self.tollgate("accounts", "subscribe", name, "default", "--prices", "standard", "--since", anchor)
        for client in clients:
            self.tollgate("accounts", "add-client", name, client, "--issuer", ISS, "--since", anchor)


def _decision_id(when: datetime) -> str:
    """UUID version 7."""
    return str(
        uuid.UUID(int=int(when.timestamp() * 1000) << 80 | 0x7 << 76 | 0x2 << 62 | uuid.uuid4().int & (1 << 62) - 1)
    )
