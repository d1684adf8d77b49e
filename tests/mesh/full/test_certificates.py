"""Certificates are replaced while calls go on: of every workload by istiod, and of the gateway by its Secret."""

from __future__ import annotations

import json
import socket
import ssl

from tests.mesh.full.load import running_load
from tests.mesh.world.network import wait_until
from tests.mesh.world.pods import CERTIFICATE_SECONDS
from tests.mesh.world.world import World


def serial_numbers(world: World, pod: str) -> frozenset[str]:
    """Of the certificates that its Envoy shows."""
    found = json.loads(world.pods[pod].network.run("curl", "-fsS", "http://127.0.0.1:15000/certs"))
    return frozenset(chain["serial_number"] for one in found["certificates"] for chain in one["cert_chain"])


def test_certificates_of_gateway_authorizers_and_triton_are_replaced(world: World) -> None:
    pods = (world.gateway.name, *world.authorizers, world.triton.name)
    before = {pod: serial_numbers(world, pod) for pod in pods}
    with running_load(world) as load:
        seconds = 2 * CERTIFICATE_SECONDS
        wait_until("all have new ones", lambda: all(serial_numbers(world, pod) != before[pod] for pod in pods), seconds)
        load.go_on(100)
    assert (load.wrong, load.failed) == ([], {})


def seen(world: World) -> str:
    """The serial number of the certificate that a new caller gets, and verifies."""
    context = ssl.create_default_context(cafile=world.ca)
    with (
        socket.create_connection(("localhost", world.port), 10) as plain,
        context.wrap_socket(plain, server_hostname="localhost") as caller,
    ):
        return str((caller.getpeercert() or {})["serialNumber"])


def test_the_certificate_that_callers_see_is_replaced(world: World) -> None:
    before = seen(world)
    with running_load(world) as load:
        world.write_certificate()
        wait_until("new callers see it", lambda: seen(world) != before)
        load.go_on(100)
    assert (load.wrong, load.failed) == ([], {})
