"""Another policy without a restart, over the real server: every way to start it, and all that must not happen."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ext_authz.report import utc
from tests.e2e.reload.world import OTHER_ISSUER, Caller, Serving, policy, serving, swap, token
from tests.services import wait_for

FAILURES = 'tollgate_policy_reload_failures_total{role="policy"}'
REJECTED = 'tollgate_policy_change_rejected{role="policy"}'


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory, stores: tuple[str, str]) -> Iterator[Serving]:
    with serving(tmp_path_factory.mktemp("reload"), *stores, workers=2) as started:
        yield started


@pytest.fixture
def server(running: Serving) -> Serving:
    """Two workers, on the usual policy."""
    running.write()
    running.reload().raise_for_status()
    return running


class TestTheFileChanges:
    def test_the_new_rule_is_in_force_and_no_check_failed(self, server: Serving) -> None:
        before = server.status()["hash"]
        with Caller(server, token()) as caller:
            wait_for(lambda: caller.codes[0] > 50)
            server.write(roles="admin")
            wait_for(lambda: caller.codes[7] > 50)
            wait_for(lambda: " " not in server.status()["hash"])  # one worker after the other
        assert not caller.failed
        assert set(caller.codes) == {0, 7}
        assert list(caller.policies) == [before, server.status()["hash"]]
        assert caller.policies[before] == caller.codes[0]

    def test_it_is_told(self, server: Serving) -> None:
        before = server.status()
        server.write(roles="admin")
        wait_for(lambda: server.status()["since"] > before["since"])
        wait_for(lambda: " " not in server.status()["hash"])  # one worker after the other
        now = server.status()
        assert now["hash"] != before["hash"]
        assert now["workers"] == [now["hash"]] * 2
        assert server.get("/readyz").json()["policy"] == {"hash": now["hash"]}
        assert server.metric(f'tollgate_policy_info{{hash="{now["hash"]}",role="policy"}}') == 2
        assert server.metric(f'tollgate_policy_info{{hash="{before["hash"]}",role="policy"}}') == 0
        reloaded = server.metric('tollgate_policy_last_reload_timestamp_seconds{role="policy"}')
        assert utc(datetime.fromtimestamp(reloaded, UTC)) == now["since"]

    def test_a_config_map_is_swapped(self, tmp_path: Path, stores: tuple[str, str]) -> None:
        mounted = tmp_path / "mounted"
        mounted.mkdir()

        def mount(jwks: str) -> None:
            swap(mounted, "..2026_1", {"a.yaml": policy(jwks)})

        with serving(tmp_path, *stores, "mounted", mount) as server:
            before = server.status()["hash"]
            swap(mounted, "..2026_2", {"a.yaml": policy(server.jwks, roles="admin")})
            wait_for(lambda: server.status()["hash"] != before)
            assert "rejected" not in server.status()

    def test_what_is_being_written_is_left_alone(self, server: Serving) -> None:
        """Half a policy may be a valid policy."""
        whole, before = policy(server.jwks, roles="admin"), server.status()["hash"]
        end = time.monotonic() + 3
        while time.monotonic() < end:
            (server.directory / "policy.yaml").write_text(f"{whole}# {time.monotonic()}\n")
            assert server.status()["hash"] == before
        wait_for(lambda: server.status()["hash"] != before)


class TestABadPolicy:
    def test_the_good_one_stays_and_all_is_told(self, server: Serving) -> None:
        before, failures = server.status(), server.metric(FAILURES)
        (server.directory / "policy.yaml").write_text("version: 1\nrouts: []\n")
        wait_for(lambda: "rejected" in server.status())
        assert server.status()["hash"] == before["hash"]
        assert server.check(token()).status.code == 0
        ready = server.get("/readyz")
        assert ready.status_code == 200
        assert ready.json()["policy"]["hash"] == before["hash"]
        assert "policy.yaml" not in ready.text, "whoever may ask for readiness need not read what stands in a policy"
        assert "tollgate policy status" in ready.json()["policy"]["rejected"]
        assert server.metric(FAILURES) == failures + 1
        assert server.metric(REJECTED) == 1
        *_, line = [line for line in server.log if line["event"] == "rejected, what is in force stays"]
        assert line["policy"] == before["hash"]
        assert "policy.yaml" in line["error"]

    def test_mended_by_what_was_there_before(self, server: Serving) -> None:
        before = server.status()
        good = (server.directory / "policy.yaml").read_text()
        (server.directory / "policy.yaml").write_text("nonsense")
        wait_for(lambda: "rejected" in server.status())
        (server.directory / "policy.yaml").write_text(good)
        wait_for(lambda: "rejected" not in server.status())
        assert server.metric(REJECTED) == 0
        assert server.status()["since"] == before["since"]

    def test_a_file_that_is_gone(self, server: Serving) -> None:
        (server.directory / "policy.yaml").unlink()
        wait_for(lambda: "rejected" in server.status())
        assert server.check(token()).status.code == 0


class TestOnDemand:
    def test_hangup(self, server: Serving) -> None:
        before = server.status()["hash"]
        server.write(roles="admin")
        server.hangup()
        wait_for(lambda: server.status()["hash"] != before)

    def test_the_call_answers_with_the_new_hash(self, server: Serving) -> None:
        def reloaded(roles: str) -> dict[str, object]:
            server.write(roles=roles)
            answer: dict[str, object] = server.reload().json()["policy"]
            return answer

        # On a busy machine the watch may put a policy in force before the call does: then the next one.
        answer = next(answer for answer in map(reloaded, ("admin", "auditor", "owner")) if answer["changed"])
        assert answer == {"hash": server.status()["hash"], "changed": True}
        assert server.check(token()).status.code == 7

    def test_nothing_new_changes_nothing(self, server: Serving) -> None:
        before = server.status()
        assert server.reload().json() == {"policy": {"hash": before["hash"], "changed": False}}
        assert server.status() == before

    def test_the_call_answers_with_the_faults(self, server: Serving) -> None:
        (server.directory / "policy.yaml").write_text("version: 1\nrouts: []\n")
        answer = server.reload()
        assert (answer.status_code, answer.headers["content-type"]) == (422, "application/problem+json")
        assert answer.json()["faults"]["policy"][0] == answer.json()["detail"]
        assert len(answer.json()["faults"]["policy"]) > 1

    def test_only_by_post(self, server: Serving) -> None:
        assert server.control("/policy/reload").status_code == 405


class TestSettings:
    def test_an_env_file_changes_what_workers_go_by(self, tmp_path: Path, stores: tuple[str, str]) -> None:
        env_file = tmp_path / "env"
        env_file.write_text("# decisions\nTOLLGATE_LOG_DECISIONS=false\n")

        with serving(tmp_path, *stores, env_file=env_file) as server:
            assert server.check(token()).status.code == 0
            env_file.write_text("TOLLGATE_LOG_DECISIONS=true\n")
            answer = server.reload().json()
            assert answer["settings"] == {"changed": True}
            assert "allowed" not in {line["event"] for line in server.log}
            assert server.check(token()).status.code == 0
            wait_for(lambda: "allowed" in {line["event"] for line in server.log})
            env_file.write_text("TOLLGATE_WORKERS=2\n")
            assert "TOLLGATE_WORKERS: cannot change" in server.reload().json()["detail"]
            assert server.check(token()).status.code == 0


class TestCallers:
    def test_of_an_issuer_that_is_gone_are_refused_at_once(self, server: Serving) -> None:
        server.replace(issuers=("https://kc.example/realms/ml", OTHER_ISSUER))
        theirs, ours = token(iss=OTHER_ISSUER), token()
        for _ in range(20):
            assert server.check(theirs).status.code == 0
        server.replace(issuers=("https://kc.example/realms/ml",))
        assert {server.check(theirs).status.code for _ in range(20)} == {16}
        assert server.check(ours).status.code == 0

    def test_of_an_issuer_that_is_defined_otherwise_are_verified_again(self, server: Serving) -> None:
        late = token(exp=int(time.time()) - 10)
        assert {server.check(late).status.code for _ in range(20)} == {0}
        server.replace(leeway=0)
        assert {server.check(late).status.code for _ in range(20)} == {16}

    def test_quotas_go_on(self, server: Serving) -> None:
        someone = token(sub="counted")
        first = server.check(someone)
        server.replace(rate=999_999)
        assert _remaining(first) == 1_000_000 - 1
        assert _remaining(server.check(someone)) == 999_999 - 2


def _remaining(answer: object) -> int:
    headers = {each.header.key: each.header.value for each in answer.ok_response.response_headers_to_add}  # type: ignore[attr-defined]
    return int(headers["ratelimit"].partition("r=")[2].partition(";")[0])


class TestAnIssuerThatIsDown:
    def test_no_policy_may_cost_the_keys_that_are_there(self, server: Serving) -> None:
        """And once they can be fetched again the policy comes into force by itself."""
        known, before = token(), server.status()["hash"]
        assert server.check(known).status.code == 0
        (server.directory / "keys" / "jwks.json").rename(server.directory / "away")
        server.write(leeway=20)
        answer = server.reload()
        assert answer.status_code == 422
        assert "a new worker cannot use jwks:i0 yet" in answer.json()["detail"]
        assert server.status()["hash"] == before
        assert server.check(token()).status.code == 0
        (server.directory / "away").rename(server.directory / "keys" / "jwks.json")
        wait_for(lambda: server.status()["hash"] != before, 30)
        wait_for(lambda: "rejected" not in server.status())
