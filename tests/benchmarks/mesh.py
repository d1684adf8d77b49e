"""`make bench-mesh`: what the check adds to a call through the gateway that istiod configured, as a table.

In the cluster of the mesh proof (docs/adr/0027), all of it on the same cores. Calls arrive as a Poisson process;
without the check means without the AuthorizationPolicy. Three turns; each row is their median.
"""

from __future__ import annotations

import statistics
import sys

import msgspec
import yaml

from tests.benchmarks.open_loop import ALLOWED, Generator
from tests.mesh.full.callers import token
from tests.mesh.world.network import unavailable, wait_until
from tests.mesh.world.world import World, running_world

_RATES, _SECONDS, _TURNS = (200, 1000), 6, 3
_PATH = "/v2/models/cancer/ready"
"""A call with a token and a right to a model; the gateway itself answers what is allowed."""

Row = tuple[float, float, float]
"""p50 and p99 of what was allowed, in microseconds, and the percentage of what was not: there was no room for it."""


def main() -> None:
    if reason := unavailable():
        raise SystemExit(f"make bench-mesh: {reason}")
    with running_world() as world:
        world.apply_rendered("--tls-secret", "")
        world.wait_ready()
        _answer_at_the_gateway(world)
        turns = [_turn(world) for _ in range(_TURNS)]
    lines = ["what | p50 us | p99 us | not served, %", "---|---|---|---"]
    for name in turns[0]:
        p50, p99, lost = (statistics.median(turn[name][column] for turn in turns) for column in range(3))
        lines.append(f"{name} | {p50:,.0f} | {p99:,.0f} | {lost:.1f}")
    sys.stdout.write("\n".join(lines) + "\n")


def _answer_at_the_gateway(world: World) -> None:
    (path,) = world.release.rendered.glob("*-virtualservice-*.yaml")
    service = yaml.safe_load(path.read_text())
    service["spec"]["http"].insert(0, {"match": [{"uri": {"exact": _PATH}}], "directResponse": {"status": 200}})
    world.control.apply(service)


def _turn(world: World) -> dict[str, Row]:
    _switch(world, on=False)
    without = {rate: _called(world, rate) for rate in _RATES}
    _switch(world, on=True)
    found: dict[str, Row] = {}
    for rate, plain in without.items():
        checked = _called(world, rate)
        added = [one - other for one, other in zip(checked, plain, strict=True)]
        found |= {f"without the check, at {rate:,}/s": plain, f"with it, at {rate:,}/s": checked}
        found[f"**added, at {rate:,}/s**"] = (added[0], added[1], added[2])
    return found


def _switch(world: World, *, on: bool) -> None:
    """Returns when the gateway follows: with the check, nobody is served without a token."""
    (policy,) = world.release.rendered.glob("*-authorizationpolicy-tollgate.yaml")
    world.control.kubectl("apply" if on else "delete", "-f", policy)
    write = ("--silent", "--output", "/dev/null", "--write-out", "%{http_code}")
    url = f"http://{world.gateway.network.address}{_PATH}"
    expected = "401" if on else "200"
    wait_until(f"a call gets {expected}", lambda: world.control.network.run("curl", *write, url) == expected)


def _called(world: World, rate: int) -> Row:
    """Beside the gateway, in its network."""
    command = (sys.executable, "-m", "tests.benchmarks.mesh", world.gateway.network.address, token(), str(rate))
    row: Row = msgspec.json.decode(world.control.network.run(*command), type=Row)
    return row


def call(host: str, bearer: str, rate: float) -> None:
    """Prints a row."""
    headers = {":method": "GET", ":path": _PATH, "authorization": f"Bearer {bearer}"}
    calls = Generator(80, b"", http=headers, host=host).open_loop(rate, _SECONDS)
    took = sorted(one.took * 1e6 for one in calls if one.outcome == ALLOWED)
    row = (took[len(took) // 2], took[int(len(took) * 0.99)], 100 - 100 * len(took) / len(calls))
    sys.stdout.write(msgspec.json.encode(row).decode())


if __name__ == "__main__":
    if sys.argv[1:]:
        call(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    else:
        main()
