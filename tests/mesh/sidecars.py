"""Sidecars of pods that call others, in stock Envoys that Istio's agent starts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path

from ext_authz.render.endpoints import Json
from ext_authz.render.istio.manifest import Manifest
from tests.mesh.gateway import (
    LOOPBACK,
    Identities,
    agent_command,
    agent_environment,
    is_listening,
    running_discovery,
    running_process,
)
from tests.mesh.kubernetes import Pod
from tests.services import wait_for


@contextmanager
def running_sidecars(
    callers: Mapping[int, Pod], provider: Manifest, objects: Sequence[Json], directory: Path
) -> Iterator[int]:
    """Of pods that call others: each takes all calls at a port, because nothing redirects them here.

    The port of their discovery server.
    """
    listeners = [_takes_calls(pod, port) for port, pod in callers.items()]
    manifests = [provider, *(Manifest("", "of a test", content) for content in (*objects, *listeners))]
    identities = Identities(directory)
    with ExitStack() as stack:
        discovery = stack.enter_context(running_discovery(manifests, list(callers.values()), directory))
        for port, pod in callers.items():
            home, log = directory / pod.name, directory / f"{pod.name}.log"
            identities.give(pod.service, home)
            environment = agent_environment(pod, home, discovery, provider) | {"ISTIO_META_INTERCEPTION_MODE": "NONE"}
            agent = stack.enter_context(running_process(agent_command("sidecar"), home, log, environment))
            wait_for(partial(is_listening, LOOPBACK, port, agent, log))
        yield discovery


def _takes_calls(pod: Pod, port: int) -> Json:
    listener = {"number": port, "name": "http", "protocol": "HTTP_PROXY"}
    return {
        "apiVersion": "networking.istio.io/v1",
        "kind": "Sidecar",
        "metadata": {"name": pod.name, "namespace": pod.service.partition("/")[0]},
        "spec": {
            "workloadSelector": {"labels": dict(pod.labels)},
            "egress": [{"port": listener, "bind": LOOPBACK, "hosts": ["./*"]}],
        },
    }
