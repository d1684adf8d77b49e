"""A Postgres is restored below a running service, as docs/operations.md says: what is lost, and how it is found."""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
from msgspec import Struct
from redis import Redis

from ext_authz.db import redis_keys
from tests.e2e.failure.mover import moving
from tests.e2e.reload.world import Caller, Serving, serving, token
from tests.postgres import PostgresServer, running_postgres
from tests.services import RedisServer, running_redis, wait_for

pytestmark = pytest.mark.alone

DOCS = Path(__file__).parents[3] / "docs/operations.md"
OK, REFUSED = 0, 16
ROW = "INSERT INTO revocations (kind, issuer, value) VALUES ('user', 'i0', %s)"
LIFT = "UPDATE revocations SET lifted_at = now() WHERE value = %s"


class Deployment(Struct):
    server: Serving
    redis: RedisServer
    postgres: PostgresServer

    def sql(self, query: str, *values: object) -> list[tuple[object, ...]]:
        with psycopg.connect(self.postgres.url) as connection:
            cursor = connection.execute(query.encode(), values)
            return cursor.fetchall() if cursor.description else []

    def refused(self, user: str) -> bool:
        code = self.server.check(credential(user)).status.code
        assert code in (OK, REFUSED)
        return code == REFUSED

    def calls(self, times: int) -> set[str]:
        """Their decisions, once they are rows."""
        answers = [self.server.check(credential("good")) for _ in range(times)]
        ids = {answer.dynamic_metadata.fields["decision_id"].string_value for answer in answers}
        wait_for(lambda: ids <= self.rows())
        return ids

    def rows(self) -> set[str]:
        return {str(decision) for (decision,) in self.sql("SELECT decision_id FROM usage_events")}

    def held(self) -> set[str]:
        """What Redis holds as in force."""
        prefix = redis_keys.revocation("")
        with Redis.from_url(self.redis.url) as client:
            keys = list(client.scan_iter(f"{prefix}*"))
            return {key.decode().removeprefix(prefix) for key in keys if not client.get(key).startswith(b"-")}


def credential(user: str) -> str:
    """Older than any revocation of the test."""
    return token(sub=user, sid=f"of-{user}", jti=f"onrtac:{user}", iat=int(time.time()) - 300)


def restored(backup: Path, url: str, programs: Path) -> bool:
    """As docs/operations.md says it."""
    (script,) = re.findall(r"```sh\n(pg_restore.*?)tollgate migrate.*?```", DOCS.read_text(), re.DOTALL)
    script = script.replace("tollgate.dump", str(backup)).replace("tollgate.sql", f"{backup}.sql")
    here = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "TOLLGATE_DATABASE_URL": url}
    return subprocess.run(["bash", "-c", script], env=here, check=False).returncode == 0


@pytest.fixture
def deployment(tmp_path: Path) -> Iterator[Deployment]:
    with (
        running_redis(tmp_path) as redis,
        running_postgres() as postgres,
        serving(tmp_path, redis.url, postgres.url, revocation_poll=0.2) as server,
        moving(redis.url, postgres.url),
    ):
        yield Deployment(server, redis, postgres)


def test_a_restore_that_fails_changes_nothing(deployment: Deployment, tmp_path: Path) -> None:
    url, programs, backup = deployment.postgres.url, deployment.postgres.programs, tmp_path / "tollgate.dump"
    subprocess.run([str(programs / "pg_dump"), "--format=custom", f"--file={backup}", url], check=True)
    since = deployment.calls(5)
    whole = backup.read_bytes()
    backup.write_bytes(whole[: len(whole) * 3 // 4])
    assert not restored(backup, url, programs)
    backup.write_bytes(whole)
    deployment.sql("CREATE VIEW of_somebody AS SELECT * FROM revocations")
    assert not restored(backup, url, programs), "what others made is not dropped"
    assert since == deployment.rows()


def test_a_restore_forgets_what_came_after_the_backup_and_redis_still_knows_it(
    deployment: Deployment, tmp_path: Path
) -> None:
    for user in ("earlier", "lifted-later"):
        deployment.sql(ROW, user)
        assert not deployment.refused("good")
        wait_for(lambda u=user: deployment.refused(u))
    before, backup = deployment.calls(20), tmp_path / "tollgate.dump"
    url, programs = deployment.postgres.url, deployment.postgres.programs
    subprocess.run([str(programs / "pg_dump"), "--format=custom", f"--file={backup}", url], check=True)
    deployment.sql(ROW, "later")
    deployment.sql(LIFT, "lifted-later")
    wait_for(lambda: deployment.refused("later") and not deployment.refused("lifted-later"))
    since = deployment.calls(20)
    with Caller(deployment.server, credential("good")) as good, Caller(deployment.server, credential("later")) as later:
        assert restored(backup, url, programs)
        assert deployment.sql("SELECT value FROM revocations ORDER BY 1") == [("earlier",), ("lifted-later",)]
        after = deployment.calls(20)
    assert set(good.codes) == {OK}, "nobody notices"
    assert set(later.codes) == {REFUSED}, "Redis refuses what Postgres has forgotten"

    rows = deployment.rows()
    assert before | after <= rows
    assert not since & rows, "usage since the backup is lost"
    assert deployment.sql("SELECT count(*) - count(DISTINCT decision_id) FROM usage_events") == [(0,)]
    assert deployment.sql("SELECT reason FROM usage_rejects") == []

    in_force = {str(entry) for (entry,) in deployment.sql("SELECT id FROM revocations WHERE lifted_at IS NULL")}
    assert deployment.held() - in_force == {"u:i0:later"}
    deployment.sql(ROW, "later")  # found by what Redis holds
    with Redis.from_url(deployment.redis.url) as client:
        client.flushall()
    assert [deployment.refused(user) for user in ("earlier", "later")] == [True, True]
    wait_for(lambda: "u:i0:later" in deployment.held())
    assert deployment.refused("lifted-later"), "lift it again"
