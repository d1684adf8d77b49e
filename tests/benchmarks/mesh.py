"""`make bench-mesh`: what the check adds to a call through the gateway that istiod configured, as a table.

In the cluster of the mesh proof (docs/adr/0027), all of it on the same cores. Calls arrive as a Poisson process;
without the check means without the AuthorizationPolicy. Three turns; each row is their median.
"""

from __future__ import annotations

import statistics
import sys
from collections import Counter

import msgspec

from tests.benchmarks.open_loop import ALLOWED, Generator
from tests.mesh.full.callers import token
from tests.mesh.world.network import unavailable, wait_until
from tests.mesh.world.world import World, running_world

_RATES, _SECONDS, _TURNS = (200, 1000), 6, 3
_PATH = "/v2/models/cancer/ready"
"""Of Triton: a call with a token and a right to a model, answered without a body and without quota."""

Latencies = dict[str, tuple[float, float]]
"""Name of a row to p50 and p99 in microseconds."""


def main() -> None:
    if reason := unavailable():
        raise SystemExit(f"make bench-mesh: {reason}")
    with running_world() as world:
        world.apply_rendered("--tls-secret", "")
        world.wait_ready()
        turns = [_turn(world) for _ in range(_TURNS)]
    lines = ["what | p50 us | p99 us", "---|---|---"]
    for name in turns[0]:
        p50, p99 = (statistics.median(turn[name][column] for turn in turns) for column in (0, 1))
        lines.append(f"{name} | {p50:,.0f} | {p99:,.0f}")
    sys.stdout.write("\n".join(lines) + "\n")


def _turn(world: World) -> Latencies:
    _switch(world, on=False)
    without = {rate: _called(world, rate) for rate in _RATES}
    _switch(world, on=True)
    found: Latencies = {}
    for rate, (p50, p99) in without.items():
        checked = _called(world, rate)
        found |= {
            f"without the check, at {rate:,}/s": (p50, p99),
            f"with it, at {rate:,}/s": checked,
            f"**added, at {rate:,}/s**": (checked[0] - p50, checked[1] - p99),
        }
    return found


def _switch(world: World, *, on: bool) -> None:
    """Returns when the gateway follows: with the check, nobody is served without a token."""
    (policy,) = world.release.rendered.glob("*-authorizationpolicy-tollgate.yaml")
    world.control.kubectl("apply" if on else "delete", "-f", policy)
    write = ("--silent", "--output", "/dev/null", "--write-out", "%{http_code}")
    url = f"http://{world.gateway.network.address}{_PATH}"
    expected = "401" if on else "200"
    wait_until(f"a call gets {expected}", lambda: world.control.network.run("curl", *write, url) == expected)


def _called(world: World, rate: int) -> tuple[float, float]:
    """Beside the gateway, in its network."""
    command = (sys.executable, "-m", "tests.benchmarks.mesh", world.gateway.network.address, token(), str(rate))
    p50, p99 = msgspec.json.decode(world.control.network.run(*command), type=tuple[float, float])
    return p50, p99


def call(host: str, bearer: str, rate: float) -> None:
    """Prints p50 and p99."""
    headers = {":method": "GET", ":path": _PATH, "authorization": f"Bearer {bearer}"}
    calls = Generator(80, b"", http=headers, host=host).open_loop(rate, _SECONDS)
    assert all(one.outcome == ALLOWED for one in calls), Counter(one.outcome for one in calls)
    took = sorted(one.took * 1e6 for one in calls)
    sys.stdout.write(msgspec.json.encode((took[len(took) // 2], took[int(len(took) * 0.99)])).decode())


if __name__ == "__main__":
    if sys.argv[1:]:
        call(sys.argv[1], sys.argv[2], float(sys.argv[3]))
    else:
        main()
