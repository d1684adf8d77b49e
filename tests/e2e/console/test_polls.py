"""The console asks its identity provider what happens there."""

from __future__ import annotations

import psycopg

from tests.e2e.console.world import Console
from tests.realm_admin import RealmAdmin
from tests.services import wait_for


def test_a_password_that_is_reset_ends_tokens(console: Console) -> None:
    with RealmAdmin(console.realm.issuer.partition("/realms/")[0]) as admin:
        name = admin.user("infer")
        subject = admin.user_id(name)
        admin.reset_password(name, "another")

    def is_revoked() -> bool:
        with psycopg.connect(console.database_url) as connection:
            found = connection.execute("SELECT 1 FROM revocations WHERE kind = 'user' AND value = %s", (subject,))
            return found.fetchone() is not None

    wait_for(is_revoked, seconds=30)
