"""kill-node and pause: they signal a process that is the node's, and no other."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_client import FakeClient

from zraft.cli import chaos_processes
from zraft.cli.chaos import cli

CONFIG = """
node: n2
data_dir: var
cluster:
  n1: {client: "tcp://127.0.0.1:7101", peer: "tcp://127.0.0.1:7201"}
  n2: {client: "tcp://127.0.0.1:7102", peer: "tcp://127.0.0.1:7202"}
"""
SLEEPER = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
"""What follows is of no meaning to it: the arguments of a node, for one who looks at the process."""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="zraft-chaos")


class Sleepers:
    """Processes that do nothing. `start(arguments)` in the folder with n2.yaml."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.processes: list[subprocess.Popen[bytes]] = []
        (folder / "n2.yaml").write_text(CONFIG)

    def start(self, *arguments: str) -> subprocess.Popen[bytes]:
        process = subprocess.Popen([*SLEEPER, *arguments], cwd=self.folder, stdout=subprocess.PIPE)
        self.processes.append(process)
        assert process.stdout is not None
        process.stdout.readline()  # right after its start, the system does not know its arguments yet
        process.stdout.close()
        return process


@pytest.fixture
def sleepers(tmp_path: Path) -> Iterator[Sleepers]:
    sleepers = Sleepers(tmp_path)
    yield sleepers
    for process in sleepers.processes:
        process.kill()
        process.wait()


def stands_for_n2(client: type[FakeClient], process: subprocess.Popen[bytes]) -> None:
    client.reports[1]["pid"] = process.pid


def state(process: subprocess.Popen[bytes]) -> str:
    """One letter: T is stopped."""
    shown = subprocess.check_output(["ps", "-o", "state=", "-p", str(process.pid)], text=True)
    return shown.strip()[:1]


@pytest.mark.parametrize(
    "arguments", [["zraft.cli.node", "n2.yaml"], ["bin/zraft-node", "--log-level", "debug", "n2.yaml"]], ids=" ".join
)
def test_kill_node(client: type[FakeClient], sleepers: Sleepers, arguments: list[str]) -> None:
    process = sleepers.start(*arguments)
    stands_for_n2(client, process)
    result = run("kill-node", "n2")
    assert result.exit_code == 0, result.stderr
    config = sleepers.folder / "n2.yaml"
    assert result.stdout == f"killed n2 (process {process.pid}); start it again: zraft-node {config}\n"
    assert process.wait(5) == -signal.SIGKILL


def test_pause(client: type[FakeClient], sleepers: Sleepers, monkeypatch: pytest.MonkeyPatch) -> None:
    process = sleepers.start("zraft.cli.node", "n2.yaml")
    stands_for_n2(client, process)
    states: list[str] = []
    monkeypatch.setattr(chaos_processes.time, "sleep", lambda seconds: states.append(f"{state(process)} {seconds}"))
    result = run("pause", "n2", "--for", "2.5")
    assert result.exit_code == 0, result.stderr
    assert re.fullmatch(
        rf"n2 \(process {process.pid}\) stands still for 2.5 s; it goes on at once after Ctrl-C\n"
        r"n2 goes on after \d\.\d s\n",
        result.stdout,
    )
    assert states == ["T 2.5"]
    assert state(process) != "T"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_pause_that_is_interrupted_leaves_nobody_stopped(
    client: type[FakeClient], sleepers: Sleepers, number: signal.Signals
) -> None:
    process = sleepers.start("zraft.cli.node", "n2.yaml")
    stands_for_n2(client, process)
    handlers = [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)]
    slept = time.sleep

    def interrupted(seconds: float) -> None:
        assert state(process) == "T"
        os.kill(os.getpid(), number)
        slept(seconds)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chaos_processes.time, "sleep", interrupted)
        result = run("pause", "n2", "--for", "60")
    assert (result.exit_code, result.stderr) == (130, "zraft-chaos: interrupted\n")
    assert state(process) != "T"
    assert [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGHUP)] == handlers


def test_a_node_that_ends_while_it_is_paused(
    client: type[FakeClient], sleepers: Sleepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = sleepers.start("zraft.cli.node", "n2.yaml")
    stands_for_n2(client, process)

    def end(seconds: float) -> None:
        process.kill()
        process.wait()

    monkeypatch.setattr(chaos_processes.time, "sleep", end)
    result = run("pause", "n2", "--for", "1")
    assert (result.exit_code, result.stderr) == (1, f"zraft-chaos: n2 (process {process.pid}) has ended\n")


@pytest.mark.parametrize("words", [["kill-node", "n2"], ["pause", "n2", "--for", "1"]], ids=" ".join)
@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["n2.yaml"],
        ["zraft.cli.node"],
        ["zraft.cli.node", "n1.yaml"],
        ["zraft.cli.node", "missing.yaml"],
        ["zraft.cli.main", "n2.yaml"],
    ],
    ids=" ".join,
)
def test_a_process_that_is_not_the_nodes_is_left_alone(
    client: type[FakeClient], sleepers: Sleepers, arguments: list[str], words: list[str]
) -> None:
    (sleepers.folder / "n1.yaml").write_text(CONFIG.replace("node: n2", "node: n1"))
    process = sleepers.start(*arguments)
    stands_for_n2(client, process)
    result = run(*words)
    assert (result.exit_code, result.stdout) == (1, "")
    assert f"process {process.pid} of this machine is no zraft-node of n2" in result.stderr
    assert process.poll() is None and state(process) != "T"


def test_a_process_that_is_not_there(client: type[FakeClient], sleepers: Sleepers) -> None:
    process = sleepers.start()
    process.kill()
    process.wait()
    stands_for_n2(client, process)
    assert "is no zraft-node of n2" in run("kill-node", "n2").stderr


def test_a_node_of_another_machine(client: type[FakeClient], sleepers: Sleepers) -> None:
    """Its pid is that of something else here, even if that happens to be a node of the same name."""
    process = sleepers.start("zraft.cli.node", "n2.yaml")
    there: dict[str, Any] = {"client": "tcp://192.0.2.7:7102", "peer": "tcp://192.0.2.7:7202", "id": "n2"}
    client.reports[1] |= {"endpoint": there["client"], "pid": process.pid}
    for one in client.reports:
        one["members"] = [client.reports[0]["members"][0], there]
    result = run("kill-node", "n2")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "zraft-chaos: n2 runs at 192.0.2.7, which is not this machine: do this there\n"
    assert process.poll() is None


def test_where_there_is_no_proc_ps_is_asked(
    client: type[FakeClient], sleepers: Sleepers, monkeypatch: pytest.MonkeyPatch
) -> None:
    process = sleepers.start("zraft.cli.node", str(sleepers.folder / "n2.yaml"))
    stands_for_n2(client, process)
    monkeypatch.setattr(chaos_processes, "PROC", Path("/there is no such folder"))
    assert run("kill-node", "n2").exit_code == 0
    assert process.wait(5) == -signal.SIGKILL
    assert "is no zraft-node of n2" in run("kill-node", "n2").stderr
