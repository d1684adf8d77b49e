"""What Envoy's access log says becomes one row per decision, whatever comes twice, broken, late or too fast."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from uuid import UUID

import grpc
import pytest
from pydantic import SecretStr

from ext_authz.db.postgres import connect
from ext_authz.errors import ConfigError
from ext_authz.ledger.access_log import AccessLog
from ext_authz.ledger.metrics import LEDGER_OUTCOMES
from ext_authz.ledger.outcome import insert, outcomes_of
from ext_authz.ledger.queries import find_in_postgres
from ext_authz.settings import load_settings
from ext_authz.tls import TlsSettings
from tests.e2e.ledger.access_logs import entry, ids, message, send
from tests.e2e.ledger.world import World, event, process
from tests.e2e.server.certificates import Authority
from tests.postgres_roles import role
from tests.services import free_port
from tests.waiting import running, until

PLAIN = load_settings(TlsSettings, {})


def counted(result: str) -> float:
    return float(LEDGER_OUTCOMES.labels(result)._value.get())


@asynccontextmanager
async def listening(log: AccessLog, address: str, tls: TlsSettings = PLAIN) -> AsyncIterator[None]:
    """Until the end of the block; what it took is written then."""
    await log.listen(address, tls)
    async with running(log):
        yield


@pytest.fixture
def address(tmp_path: Path) -> str:
    return f"unix:{tmp_path}/log.sock"


@pytest.fixture
def log(world: World) -> AccessLog:
    return AccessLog(SecretStr(world.database_url), batch=1000)


async def answered(world: World) -> dict[str, str]:
    return {str(one): text for one, text in await world.sql("SELECT decision_id, answered FROM call_outcomes")}


async def test_an_outcome_waits_for_its_decision_and_is_read_with_it(
    world: World, log: AccessLog, address: str
) -> None:
    late = event()
    async with listening(log, address):
        await send(address, [message(entry(late.decision_id, 504))])
        await until(lambda: answered(world))
    async with await connect(world.database_url) as connection:
        await world.record(late)
        with process(world):
            await until(world.moved)
        found = await find_in_postgres(connection, UUID(late.decision_id))
    assert found is not None
    assert found.outcome is not None
    assert (found.outcome.answered, found.outcome.bytes_in, found.outcome.bytes_out) == ("504", 120, 300)
    assert (found.outcome.upstream, found.outcome.upstream_address) == ("triton_http", "10.0.0.7:8000")
    assert (found.outcome.duration_ms, found.outcome.details) == (12, "via_upstream")


async def test_ten_thousand_entries_on_four_streams_are_ten_thousand_rows(
    world: World, log: AccessLog, address: str
) -> None:
    decisions = ids(10_000)
    messages = [message(*(entry(one) for one in decisions[at : at + 20])) for at in range(0, len(decisions), 20)]
    async with listening(log, address):
        await asyncio.gather(*(send(address, messages[part::4]) for part in range(4)))
    assert (await answered(world)).keys() == set(decisions)


async def test_the_first_outcome_of_a_decision_stays(world: World, log: AccessLog, address: str) -> None:
    before, (one, other) = counted("duplicate"), ids(2)
    async with listening(log, address):
        await send(address, [message(entry(one, 200))])
        await until(lambda: answered(world))
        await send(address, [message(entry(one, 500), entry(other, 503), entry(other, 200))])
    assert await answered(world) == {one: "200", other: "503"}
    assert counted("duplicate") == before + 2


async def test_what_cannot_be_read_is_counted_and_ends_no_stream(world: World, log: AccessLog, address: str) -> None:
    before, (good, refused, odd) = counted("broken"), ids(3)
    going_on = entry(odd)
    going_on.common_properties.intermediate_log_entry = True
    nothing = entry(good)
    nothing.Clear()
    wild = entry(odd, 2**32 - 1)
    entries = [entry("no-uuid"), entry(""), entry(refused, 401, code="token_expired"), nothing, wild]
    async with listening(log, address):
        await send(address, [b"\xff\xff\xff", b"", message(*entries), message(going_on, entry(good))])
    assert await answered(world) == {good: "200"}
    assert counted("broken") == before + 6


async def test_values_out_of_any_bound_are_stored_within_them(world: World, log: AccessLog, address: str) -> None:
    (one,) = ids(1)
    wild = entry(one)
    wild.request.request_body_bytes = 2**64 - 1
    wild.common_properties.upstream_cluster = "c\0" * 10_000
    wild.response.response_trailers["grpc-status"] = "9" * 400
    wild.common_properties.duration.seconds = -5
    async with listening(log, address):
        await send(address, [message(wild)])
    query = "SELECT bytes_in, length(upstream), answered, duration_ms FROM call_outcomes"
    assert await world.sql(query) == [(2**63 - 1, 128, "200", 0)]


async def test_a_duration_of_centuries_costs_no_other_entry(world: World, log: AccessLog, address: str) -> None:
    endless, good = ids(2)
    wild = entry(endless)
    wild.common_properties.duration.seconds = 2**63 - 1
    async with listening(log, address):
        await send(address, [message(wild, entry(good))])
    assert (await answered(world)).keys() == {endless, good}


async def test_a_model_that_answers_over_rest_cannot_pass_a_failure_off_as_a_success(
    world: World, log: AccessLog, address: str
) -> None:
    (one,) = ids(1)
    failed = entry(one, 500)
    failed.response.response_headers["grpc-status"] = "0"
    async with listening(log, address):
        await send(address, [message(failed)])
    assert await answered(world) == {one: "500"}


async def test_a_caller_who_hung_up_and_a_status_of_grpc_have_their_own_words(
    world: World, log: AccessLog, address: str
) -> None:
    gone, failed = ids(2)
    hung_up, grpc_call = entry(gone), entry(failed)
    hung_up.response.ClearField("response_code")
    hung_up.common_properties.response_flags.downstream_connection_termination = True
    grpc_call.response.response_trailers["grpc-status"] = "14"
    async with listening(log, address):
        await send(address, [message(hung_up, grpc_call)])
    assert await answered(world) == {gone: "none", failed: "grpc 14"}
    assert await world.sql("SELECT flags FROM call_outcomes WHERE status = 0") == [
        ("downstream_connection_termination",)
    ]


async def test_more_than_may_wait_is_dropped_and_counted(world: World, address: str) -> None:
    before, decisions = counted("dropped"), ids(30)
    log = AccessLog(SecretStr(world.database_url), batch=1000, most=10)
    log.take(message(*map(entry, decisions)))
    assert counted("dropped") == before + 20
    async with listening(log, address):
        await until(lambda: answered(world))
    assert (await answered(world)).keys() == set(decisions[:10])


async def test_while_postgres_refuses_outcomes_wait_for_it(
    world: World, address: str, caplog: pytest.LogCaptureFixture
) -> None:
    (one,) = ids(1)
    with role(world.database_url) as url:
        log = AccessLog(SecretStr(url), batch=1000)
        async with listening(log, address):
            await send(address, [message(entry(one))])
            await until(lambda: _said(caplog, "the role may not INSERT in call_outcomes"))
            async with await connect(world.database_url) as admin:
                await admin.execute(f"GRANT INSERT ON call_outcomes TO {url.split('//')[1].split('@')[0]}".encode())
            await until(lambda: answered(world))
    assert await answered(world) == {one: "200"}


async def _said(caplog: pytest.LogCaptureFixture, text: str) -> bool:
    return any(text in getattr(record, "error", "") for record in caplog.records)


async def test_what_postgres_never_takes_is_dropped_and_the_rest_goes_on(world: World, address: str) -> None:
    before, (poison, good) = counted("broken"), ids(2)
    async with await connect(world.database_url) as admin:
        await admin.execute("ALTER TABLE call_outcomes ADD CHECK (status <> 418)")
    log = AccessLog(SecretStr(world.database_url), batch=1)
    async with listening(log, address):
        await send(address, [message(entry(poison, 418), entry(good))])
    assert await answered(world) == {good: "200"}
    assert counted("broken") == before + 1


async def test_a_message_beyond_the_limit_ends_its_stream_only(world: World, log: AccessLog, address: str) -> None:
    (one,) = ids(1)
    huge = entry(one)
    huge.common_properties.upstream_cluster = "x" * 300_000
    async with listening(log, address):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await send(address, [message(huge)])
        await send(address, [message(entry(one))])
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert await answered(world) == {one: "200"}


async def test_two_writers_of_the_same_outcomes_never_wait_for_each_other(world: World) -> None:
    rows = [one for one in outcomes_of(message(*map(entry, ids(500)))) if one]

    async def write(order: int) -> int:
        async with await connect(world.database_url) as connection:
            return sum([await insert(connection, rows[::order]) for _ in range(5)])

    assert sum(await asyncio.gather(*(write(order) for order in (1, -1, 1, -1)))) == len(rows)


async def test_only_certificates_of_the_authority_may_send_and_are_read_anew(
    world: World, log: AccessLog, tmp_path: Path
) -> None:
    authority, stranger = Authority(tmp_path, "ours"), Authority(tmp_path, "theirs")
    cert, key = authority.issue("server")
    files = load_settings(TlsSettings, {"tls_cert": cert, "tls_key": key, "tls_client_ca": authority.certificate})
    address, (one, other) = f"127.0.0.1:{free_port()}", ids(2)

    def credentials(of: Authority, trusted: Authority) -> grpc.ChannelCredentials:
        client, client_key = of.issue("client")
        return grpc.ssl_channel_credentials(
            trusted.certificate.read_bytes(), client_key.read_bytes(), client.read_bytes()
        )

    async with listening(log, address, files):
        for of in (None, credentials(stranger, authority)):
            with pytest.raises(grpc.aio.AioRpcError):
                await send(address, [message(entry(one))], of)
        await send(address, [message(entry(one))], credentials(authority, authority))
        for file, new in zip((cert, key), stranger.issue("next"), strict=True):
            shutil.copy(new, file)
        await send(address, [message(entry(other))], credentials(authority, stranger))
    assert (await answered(world)).keys() == {one, other}


async def test_a_worker_that_stops_writes_what_it_has_and_the_next_one_goes_on(world: World, address: str) -> None:
    one, other = ids(2)
    for decision in (one, other):
        with process(world, TOLLGATE_ACCESS_LOG_LISTEN=address) as worker:
            await until(partial(_taken, address, decision))
            assert worker.stop() == 0
        assert decision in await answered(world)


async def _taken(address: str, decision_id: str) -> bool:
    try:
        await send(address, [message(entry(decision_id))])
    except grpc.aio.AioRpcError:
        return False  # it does not listen yet
    return True


async def test_a_port_in_use_is_said(log: AccessLog) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        address = f"127.0.0.1:{held.getsockname()[1]}"
        with pytest.raises(ConfigError, match=f"TOLLGATE_ACCESS_LOG_LISTEN: cannot listen on {address}"):
            await log.listen(address, PLAIN)
