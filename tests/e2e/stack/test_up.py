"""`tollgate up`, `down` and `status` as programs: started, queried, stopped and killed."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from devstack.stack.directory import MARK, StateDirectory
from devstack.stack.probe import free_ports
from devstack.stack.settings import StackSettings
from devstack.stack.welcome import ASK, CALL, END
from ext_authz.running_stack import stacks_directory
from tests.services import wait_for

EXPECTED = (
    *("infer", "outcome   allowed", "alice", "in force on every replica", "to see it", "lifted on every replica"),
    *('"workers"', "usage-worker", "tollgate_check_duration_seconds", "cluster.authorizer"),
)
"""In what is printed by the lines that `up` prints, in their order."""
MODELS = Path(__file__).parents[3] / "model_servers"


class Operator:
    """Someone at a terminal behind a proxy, with ports of their own, whose paths hold a blank and an umlaut."""

    def __init__(self, directory: Path) -> None:
        self.state = StateDirectory(directory / "a place" / "zürich")
        self.models = directory / "mödels of mine"
        self.models.symlink_to(MODELS)
        names = [name for name in StackSettings.model_fields if name.endswith("_port")]
        self.ports = dict(zip(names, free_ports(len(names)), strict=True))

    def environment(self, **settings: object) -> dict[str, str]:
        ours = {"state_dir": self.state.root, "models": self.models, **self.ports, **settings}
        proxies = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY"), "http://127.0.0.1:9")  # nobody listens there
        return {**os.environ, **proxies, **{f"TOLLGATE_{name.upper()}": str(value) for name, value in ours.items()}}

    def run(self, *arguments: str, **settings: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "ext_authz", *arguments]
        environment = self.environment(**settings)
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=200)

    def marked(self) -> list[psutil.Process]:
        """Everything that belongs to this stack."""
        return [process for process in psutil.process_iter() if _mark(process) == self.state.mark]


def _mark(process: psutil.Process) -> str:
    try:
        return process.environ().get(MARK, "") if process.status() != psutil.STATUS_ZOMBIE else ""
    except psutil.Error:
        return ""


@pytest.fixture(scope="module")
def operator(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    operator = Operator(tmp_path_factory.mktemp("state"))
    yield operator
    operator.run("down")


def paste(lines: str, folder: Path, **variables: str) -> str:
    """Into a shell in another folder, without any setting."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")}
    command = ["bash", "-e", "-o", "pipefail", "-c", lines]
    done = subprocess.run(
        command, env=environment | variables, cwd=folder, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, f"{lines}\n{done.stdout}{done.stderr}"
    return done.stdout


def every_line_can_be_pasted(printed: str, folder: Path) -> None:
    calls, _, rest = printed.partition(f"{CALL}\n")[2].partition(f"{ASK}\n")
    *commands, set_all = rest.partition(f"\n{END}")[0].strip().splitlines()
    called = paste(f"{calls}\nprintf %s $TOKEN > token", folder)
    assert "HTTP/1.1 200 OK" in called
    assert "'label': b'positive'" in called
    token = (folder / "token").read_text()
    wait_for(lambda: "grpc-infer" in paste(commands[0], folder), 30)
    outputs = [paste(command, folder, TOKEN=token) for command in commands]
    for output, expected in zip(outputs, EXPECTED, strict=True):
        assert expected in output
    stored = paste(f'{set_all}; echo "$TOLLGATE_DATABASE_URL"', folder)
    assert stored.startswith("postgresql://tollgate:")


def test_a_taken_port_is_one_sentence_and_nothing_starts(operator: Operator) -> None:
    with socket.create_server(("127.0.0.1", 0)) as somebody:
        port = somebody.getsockname()[1]
        done = operator.run("up", envoy_port=port)
    assert done.returncode == 2
    said = f"port {port} is taken: free it, or set TOLLGATE_ENVOY_PORT to another one"
    assert done.stderr.splitlines() == [f"tollgate: {said}"]
    assert "starting" not in done.stdout


def test_a_server_that_a_setting_names_must_answer(operator: Operator) -> None:
    (port,) = free_ports(1)
    done = operator.run("up", database_url=f"postgresql://u:secret@127.0.0.1:{port}/d")
    assert done.returncode == 2
    said = f"tollgate: TOLLGATE_DATABASE_URL: nothing answers at postgresql://127.0.0.1:{port}"
    assert said in done.stderr
    assert "secret" not in done.stdout + done.stderr


def test_up_once_then_down_leaves_nothing(operator: Operator, tmp_path: Path) -> None:
    up = operator.run("up", "--detach")
    assert up.returncode == 0, up.stdout + up.stderr
    assert "everything answers after" in up.stdout
    every_line_can_be_pasted(up.stdout, tmp_path)
    second = operator.run("up")
    assert second.returncode == 2
    assert f"already runs (process {operator.state.holder()})" in second.stderr
    status = operator.run("status")
    assert status.returncode == 0
    answers = [line.split()[2] for line in status.stdout.splitlines()[1:]]
    assert len(answers) >= 9  # one more where version 2 of sentiment is trained
    assert set(answers) == {"yes"}
    assert len(operator.marked()) >= 9
    assert operator.state.shared_memory()
    paste(up.stdout.rpartition("\n\n")[2], tmp_path)
    assert operator.marked() == []
    assert operator.state.shared_memory() == []
    assert list(stacks_directory().iterdir()) == []
    assert operator.run("status").returncode == 3
    assert operator.run("down").stdout == "nothing runs here\n"


def test_after_a_kill_of_up_a_second_up_finds_the_data_and_a_dying_child_ends_it(operator: Operator) -> None:
    assert operator.run("up", "--detach").returncode == 0
    killed, variables = operator.state.holder(), operator.run("env").stdout
    os.kill(killed, signal.SIGKILL)
    status = operator.run("status")
    assert status.returncode == 3
    assert f"the last one (process {killed}) was killed: tollgate down removes what it left" in status.stdout
    # At once, while the children of the killed one are still on their way out; in a shell that has its addresses.
    sourced = f"{variables}exec {sys.executable} -m ext_authz up"
    with subprocess.Popen(
        ["sh", "-c", sourced],
        env=operator.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as up:
        wait_for(lambda: _is_ready(operator, up), 120)
        found = operator.state.record()
        assert found
        (redis,) = (part for part in found.parts if part.name == "redis")
        os.kill(redis.pid, signal.SIGKILL)
        said, _ = up.communicate(timeout=60)
    assert up.returncode == 1
    assert "redis was ended by SIGKILL" in said
    assert f"the end of {operator.state.log('redis')}:" in said
    assert operator.marked() == []
    assert operator.state.shared_memory() == []
    status = operator.run("status")
    assert status.returncode == 3
    assert "redis was ended by SIGKILL; its logs are in" in status.stdout


@pytest.mark.parametrize("part", ["postgres", "triton"])
def test_ctrl_c_in_the_first_start_ends_it_without_a_traceback(tmp_path: Path, part: str) -> None:
    operator = Operator(tmp_path)
    with subprocess.Popen(
        [sys.executable, "-u", "-m", "ext_authz", "up"],
        env=operator.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    ) as up:
        assert up.stdout
        said = ""
        while f"{part} " not in said:  # it is being made ready: initdb runs, or the models are trained
            said += up.stdout.read(1)
        os.killpg(up.pid, signal.SIGINT)
        os.killpg(up.pid, signal.SIGINT)
        said += up.communicate(timeout=60)[0]
    assert "Traceback" not in said
    assert up.returncode == 0
    assert operator.marked() == []
    assert "it was stopped" in operator.run("status").stdout


def _is_ready(operator: Operator, up: subprocess.Popen[str]) -> bool:
    assert up.poll() is None, up.stdout and up.stdout.read()
    found = operator.state.record()
    return found is not None and found.is_ready
