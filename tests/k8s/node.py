"""A node, as far as Helm's hooks need one: Jobs and Pods of the API server run in a plain folder, and get their status.

There is no kubelet: no probes, no limits, no volumes but ConfigMaps.
"""

from __future__ import annotations

import base64
import json
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from threading import Event, Thread

from tests.k8s.api_server import ApiServer
from tests.k8s.plain_root import Image, start
from tests.k8s.programs import Object
from tests.mesh.world.network import run


class Node:
    """All its pods share one network, where each Service has the address of loopback."""

    def __init__(self, server: ApiServer, image: Image, directory: Path, network: str) -> None:
        self._server = server
        self._image = replace(image, network=network)
        self._enter = ["ip", "netns", "exec", network]
        self._directory = directory
        self._seen: set[str] = set()
        self._ended = Event()
        self._thread = Thread(target=self._follow, daemon=True)
        self._thread.start()

    def start(self, kind: str, name: str, namespace: str) -> subprocess.Popen[bytes]:
        """The first container of its pod."""
        [item] = self._get(kind, "-n", namespace, "--field-selector", f"metadata.name={name}")
        return self._container(item, item["spec"]["template"]["spec"], 0)

    def add_service(self, name: str) -> None:
        with (self._image.root / "etc" / "hosts").open("a") as hosts:
            hosts.write(f"127.0.0.1 {name}\n")

    def log(self, name: str, container: str) -> str:
        """Also of pods before, by the same name."""
        return (self._directory / f"{name}-{container}.log").read_text()

    def run(self, *command: str | Path) -> str:
        return run(*self._enter, *command)

    def popen(self, *command: str | Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*self._enter, *map(str, command)])

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(0.2):
            with suppress(AssertionError):  # Helm removes what has ended
                for item in self._get("jobs", "-A") + self._get("pods", "-A"):
                    if item["metadata"]["uid"] not in self._seen:
                        self._seen.add(item["metadata"]["uid"])
                        self._run(item)

    def _run(self, item: Object) -> None:
        pod = item["spec"]["template"]["spec"] if item["kind"] == "Job" else item["spec"]
        works = all(self._container(item, pod, index).wait(60) == 0 for index in range(len(pod["containers"])))
        status = _ended_job(works=works) if item["kind"] == "Job" else {"phase": "Succeeded" if works else "Failed"}
        where = (item["kind"], item["metadata"]["name"], "-n", item["metadata"]["namespace"])
        self._server.kubectl(
            "patch", *where, "--subresource=status", "--type=merge", "-p", json.dumps({"status": status})
        )

    def _container(self, item: Object, pod: Object, index: int) -> subprocess.Popen[bytes]:
        container, metadata = pod["containers"][index], item["metadata"]
        volumes = {volume["name"]: volume for volume in pod.get("volumes", [])}
        for mount in container.get("volumeMounts", []):
            if "configMap" in volumes[mount["name"]]:
                self._mount(mount["mountPath"], volumes[mount["name"]]["configMap"]["name"], metadata["namespace"])
        environment = {each["name"]: self._value(each, metadata) for each in container.get("env", [])}
        command = [*container.get("command", self._image.entrypoint), *container["args"]]
        return start(
            self._image, command, self._directory / f"{metadata['name']}-{container['name']}.log", **environment
        )

    def _mount(self, place: str, config_map: str, namespace: str) -> None:
        directory = self._image.root / place.lstrip("/")
        directory.mkdir(parents=True, exist_ok=True)
        [found] = self._get("configmaps", "-n", namespace, "--field-selector", f"metadata.name={config_map}")
        for name, text in found["data"].items():
            (directory / name).write_text(text)

    def _value(self, variable: Object, metadata: Object) -> str:
        match variable:
            case {"value": str(value)}:
                return value
            case {"valueFrom": {"secretKeyRef": {"name": name, "key": key}}}:
                [secret] = self._get(
                    "secrets", "-n", metadata["namespace"], "--field-selector", f"metadata.name={name}"
                )
                return base64.b64decode(secret["data"][key]).decode()
            case {"valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}:
                return str(metadata["name"])
        raise AssertionError(f"{variable} is not known here")

    def _get(self, kind: str, *options: str) -> list[Object]:
        found: list[Object] = json.loads(self._server.kubectl("get", kind, *options, "-o", "json"))["items"]
        return found


def _ended_job(*, works: bool) -> Object:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    kinds = ("SuccessCriteriaMet", "Complete") if works else ("FailureTarget", "Failed")
    conditions = [{"type": kind, "status": "True", "lastTransitionTime": now, "reason": "Ended"} for kind in kinds]
    counted = {"succeeded": 1, "completionTime": now} if works else {"failed": 1}
    return {"startTime": now, "conditions": conditions, "uncountedTerminatedPods": {}, **counted}


@contextmanager
def running_node(server: ApiServer, image: Image, directory: Path, network: str) -> Iterator[Node]:
    run("ip", "netns", "add", network)
    try:
        run("ip", "-n", network, "link", "set", "lo", "up")
        node = Node(server, image, directory, network)
        try:
            yield node
        finally:
            node.stop()
    finally:
        run("ip", "netns", "delete", network)
