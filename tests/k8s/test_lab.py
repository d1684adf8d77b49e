"""k8s/lab: what Ansible says of it, and its tasks, run twice, on a plain directory and a real API server.

No machine is made here: what needs a kubelet, packages or a hypervisor does not run.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.k8s.api_server import ApiServer, running_api_server
from tests.k8s.programs import ROOT, TOOLS, for_any_version, pods
from tests.mesh.world.api_server import module_directory
from tests.mesh.world.network import run

LAB = ROOT / "k8s" / "lab"
_BIN = LAB / ".venv" / "bin"
_LOCAL = {"ansible_connection": "local", "ansible_become": False, "ansible_python_interpreter": str(_BIN / "python")}
_ADDRESSES = {"controller1": "192.168.56.10", "worker1": "192.168.56.11", "worker2": "192.168.56.12"}


class Lab:
    """The playbook for a controller that is a directory and an API server."""

    def __init__(self, directory: Path, kubeconfig: Path = Path("admin.conf")) -> None:
        self.directory = directory
        self.root = directory / "root"
        hosts = {name: {"lab_address": address} for name, address in _ADDRESSES.items()}
        self.inventory: dict[str, Any] = {
            "all": {"vars": _LOCAL},
            "controller": {"hosts": {"controller1": hosts.pop("controller1")}},
            "node": {"hosts": hosts},
        }
        self.variables: dict[str, Any] = {
            "lab_root": str(self.root),
            "lab_state": str(directory / "state"),
            "lab_kubeconfig": str(kubeconfig),
            "lab_wait": False,
            "lab_helm_options": ["--no-hooks", "--take-ownership"],
        }

    def play(self, *options: str) -> list[str]:
        """The names of the tasks that changed something on the controller."""
        output = self.run("ansible-playbook", "playbook.yaml", "--limit", "controller1", *options)
        tasks = re.split(r"(?m)^TASK \[", output)
        return [task.partition("]")[0] for task in tasks if re.search(r"(?m)^changed:", task)]

    def run(self, program: str, *options: str, programs: Path = TOOLS) -> str:
        inventory, variables = self.directory / "inventory.yaml", self.directory / "variables.json"
        inventory.write_text(yaml.safe_dump(self.inventory))
        variables.write_text(json.dumps(self.variables))
        return _ansible(program, *options, "-i", inventory, "-e", f"@{variables}", programs=programs)


def _ansible(program: str, *arguments: str | Path, programs: Path = TOOLS) -> str:
    path = f"{programs}:{_BIN}:{os.environ['PATH']}"
    return run("env", "-C", LAB, f"PATH={path}", "ANSIBLE_NOCOLOR=1", _BIN / program, *arguments)


@pytest.fixture(scope="module", autouse=True)
def ansible() -> None:
    if not _BIN.exists():
        pytest.skip("Ansible is not installed (make k8s)")


@pytest.fixture(scope="module")
def cluster() -> Iterator[ApiServer]:
    """Of its own, because the lab has its own namespaces."""
    with running_api_server() as server:
        yield server


@pytest.fixture(scope="module")
def lab(cluster: ApiServer, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    lab = Lab(tmp_path_factory.mktemp("lab"), cluster.kubeconfig)
    charts = module_directory("istio.io/istio") / "manifests" / "charts"
    here = {"base": charts / "base", "cni": charts / "istio-cni", "gateway": charts / "gateway"}
    here["istiod"] = charts / "istio-control" / "istio-discovery"
    mesh = yaml.safe_load((LAB / "group_vars" / "all.yaml").read_text())["lab_mesh_releases"]
    lab.variables |= {
        "lab_releases": [],
        "lab_mesh_releases": [
            {"name": item["name"], "namespace": item["namespace"], "chart": str(here[item.get("chart", item["name"])])}
            for item in mesh
            if item["name"].startswith("istio")
        ],
        "finalization_chart": str(for_any_version(lab.directory)),
    }
    lab.play()
    return lab


def test_it_passes_the_linter_for_production() -> None:
    _ansible("ansible-lint", "--offline", "--strict")  # which checks the syntax too


@pytest.mark.timeout(600)
def test_a_second_run_changes_nothing(lab: Lab) -> None:
    assert lab.play() == []


def test_every_pod_that_it_asks_for_is_admitted(cluster: ApiServer, lab: Lab) -> None:
    """Of a Deployment whose pods would be refused, the API server only warns."""
    cluster.kubectl("delete", "mutatingwebhookconfigurations", "--all")  # nobody answers for istiod
    deployments = json.loads(cluster.kubectl("get", "deployments", "--all-namespaces", "-o", "json"))["items"]
    asked = pods(deployments)
    assert {pod["metadata"]["name"] for pod in asked} >= {"istio-ingress", "keycloak", "postgres", "tollgate", "valkey"}
    assert cluster.apply(asked, "--dry-run=server").count("serverside-applied") == len(asked)


def test_networks_of_a_cluster_stay_as_they_are(lab: Lab) -> None:
    (lab.root / "etc" / "kubernetes" / "admin.conf").touch()
    with pytest.raises(AssertionError, match=r"The cluster was made with other values of .*lab_pod_network"):
        lab.play("-e", "lab_pod_network=10.9.0.0/16")


def test_a_machine_needs_an_address(tmp_path: Path) -> None:
    lab = Lab(tmp_path)
    lab.inventory["controller"]["hosts"]["controller1"] = {}
    with pytest.raises(AssertionError, match="controller1 has no lab_address, or the inventory has not exactly one"):
        lab.play()


def _in_place_of_programs(programs: Path, texts: dict[str, str]) -> None:
    """Shell scripts, which write down in `done` what is asked of them."""
    programs.mkdir()
    for name, text in texts.items():
        (programs / name).write_text("#!/bin/sh\n" + text.replace("$DIRECTORY", str(programs)))
        (programs / name).chmod(0o755)
    (programs / "done").touch()


_BUILD = """echo ${0##*/} $1 $2 >>$DIRECTORY/done
case $1 in inspect) echo sha256:d ;; push) echo image >../new.tar ;; esac
"""


@pytest.mark.parametrize("skopeo", ["works", "fails"])
def test_an_image_is_built_and_imported(tmp_path: Path, skopeo: str) -> None:
    programs, lab, tag = tmp_path / "programs", Lab(tmp_path), tmp_path.name
    _in_place_of_programs(
        programs, {"skopeo": _BUILD + f"[ {skopeo} = works ]", "buildah": _BUILD, "ctr": _BUILD.partition("\n")[0]}
    )
    (tmp_path / "source").mkdir()
    lab.variables |= {"images_name": "triton", "lab_image_tag": tag}
    lab.variables |= {"lab_directory": str(tmp_path), "lab_source": str(tmp_path / "source")}
    role = ("-m", "ansible.builtin.include_role", "-a", "name=images tasks_from=import", "--playbook-dir", ".")
    asked = ["ctr --namespace k8s.io", "skopeo inspect --format"]
    if skopeo == "fails":
        with pytest.raises(AssertionError, match="non-zero return code"):
            lab.run("ansible", "controller1", *role, programs=programs)
    else:
        lab.run("ansible", "controller1", *role, programs=programs)
        asked += ["buildah build --layers", f"buildah push lab.local/tollgate-triton:{tag}", "ctr --namespace k8s.io"]
        assert (tmp_path / "state" / f"triton-{tag}.tar").read_text() == "image\n"
    assert (programs / "done").read_text().splitlines() == asked


_JOIN = "kubeadm join 192.168.56.10:6443 --token t --discovery-token-ca-cert-hash sha256:h"
_KUBECTL = """case "$*" in *"get node"*) cat $DIRECTORY/known ;; *) echo "kubectl $3 $4 $5" >>$DIRECTORY/done ;; esac
"""
_KUBEADM = f"""case "$1" in token) echo {_JOIN} ;; *) echo "kubeadm $*" >>$DIRECTORY/done ;; esac
"""


@pytest.mark.parametrize(
    ("known", "has_credentials", "done"),
    [
        pytest.param(False, False, [_JOIN], id="new"),
        pytest.param(True, True, [], id="joined"),
        pytest.param(True, False, ["kubectl delete node worker1", _JOIN], id="built anew"),
        pytest.param(False, True, ["kubeadm reset --force", _JOIN], id="of an earlier cluster"),
    ],
)
def test_a_worker_joins(tmp_path: Path, *, known: bool, has_credentials: bool, done: list[str]) -> None:
    programs, lab = tmp_path / "programs", Lab(tmp_path)
    _in_place_of_programs(programs, {"kubectl": _KUBECTL, "kubeadm": _KUBEADM})
    (programs / "known").write_text("node/worker1" if known else "")
    if has_credentials:
        (lab.root / "etc" / "kubernetes").mkdir(parents=True)
        (lab.root / "etc" / "kubernetes" / "kubelet.conf").touch()
    role = ("-m", "ansible.builtin.include_role", "-a", "name=node", "--playbook-dir", ".")
    lab.run("ansible", "worker1", *role, programs=programs)
    assert (programs / "done").read_text().splitlines() == done
