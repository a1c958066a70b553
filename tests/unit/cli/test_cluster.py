"""zraft-cluster: which nodes it runs, what it shows of them, and how it ends them."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_client import FakeClient, report

from zraft.cli import processes
from zraft.cli.cluster import Row, Screen, cli
from zraft.cli.processes import NodeProcess, Signals, stop_all
from zraft.cli.templates import NODES, render
from zraft.config import load_config

ROOT = Path(__file__).resolve().parents[3]

SLEEPS = "import time; print('up', flush=True); time.sleep(60)"
FAILS = "import sys; print('log line', flush=True); sys.exit('zraft-node: port 7101 is in use')"
IGNORES_SIGTERM = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); " + SLEEPS


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="zraft-cluster")


@pytest.fixture
def configs(tmp_path: Path) -> Path:
    """A folder with the files of n1 to n3."""
    assert run("--init", str(tmp_path / "configs")).exit_code == 0
    return tmp_path / "configs"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Python code that plays each node; sleeps unless a test says otherwise."""
    codes: dict[str, str] = {}
    monkeypatch.setattr(
        processes, "node_command", lambda path: [sys.executable, "-S", "-c", codes.get(path.stem, SLEEPS)]
    )
    return codes


@pytest.fixture
def nodes(configs: Path, scripts: dict[str, str]) -> Iterator[list[NodeProcess]]:
    """The three nodes, not started yet; killed after the test."""
    made = [NodeProcess(load_config(path)) for path in sorted(configs.iterdir())]
    yield made
    for node in made:
        node.kill()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, "it did not come about within 10 s"
        time.sleep(0.01)


def test_init_writes_three_files_that_are_good_and_keeps_what_is_there(tmp_path: Path) -> None:
    result = run("--init", str(tmp_path / "a"))
    assert result.exit_code == 0
    assert f"next: zraft-cluster --configs {tmp_path / 'a'}\n" in result.stdout
    configs = [load_config(tmp_path / "a" / f"{node}.yaml") for node in NODES]
    assert [config.node for config in configs] == ["n1", "n2", "n3"]
    assert configs[1].data_dir == tmp_path / "a" / "var" / "n2"
    (tmp_path / "a" / "n1.yaml").unlink()
    (tmp_path / "a" / "n2.yaml").write_text("mine")
    result = run("--init", str(tmp_path / "a"))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"zraft-cluster: {tmp_path / 'a' / 'n2.yaml'} exists already")
    assert not (tmp_path / "a" / "n1.yaml").exists()


@pytest.mark.parametrize("node", NODES)
def test_init_and_the_checkout_have_the_same_files(node: str) -> None:
    assert (ROOT / "configs" / f"{node}.yaml").read_text() == render(node, "../var", "bin/")


def test_no_configs_tell_how_to_make_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zraft.cli.cluster.CHECKOUT", tmp_path)
    monkeypatch.chdir(tmp_path)
    result = run()
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == (
        "zraft-cluster: no configuration files in configs; make some with: zraft-cluster --init configs\n"
    )


def test_bad_configs_start_nothing(configs: Path, tmp_path: Path) -> None:
    (configs / "n2.yaml").write_text("node: 5\n")
    result = run("--configs", str(configs))
    assert result.exit_code == 2
    assert result.stderr.startswith(f"zraft-cluster: {configs / 'n2.yaml'}: the key `data_dir` is missing")
    result = run("--configs", str(tmp_path / "none"))
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    result = run("--configs", str(configs / "n1.yaml"), "--configs", str(configs / "n1.yaml"))
    assert result.exit_code == 2
    assert "are both of the node n1" in result.stderr


class Running:
    """Makes the fake client see the children as a healthy cluster and, after some looks, press Ctrl-C."""

    def __init__(self, client: type[FakeClient], looks: int, on_look: Callable[[int], None] = lambda _look: None):
        self.started: list[NodeProcess] = []
        self.looks = 0
        running = self

        def status(_self: FakeClient) -> list[dict[str, Any]]:
            running.looks += 1
            on_look(running.looks)
            if running.looks == looks:
                os.kill(os.getpid(), signal.SIGINT)
            return [
                report(node.name, number, role="leader" if number == 1 else "follower", pid=node.pid)
                for number, node in enumerate(running.started, 1)
                if node.is_running
            ]

        client.status = status  # type: ignore[method-assign]

    def watch(self, monkeypatch: pytest.MonkeyPatch) -> None:
        start = NodeProcess.start

        def and_remember(node: NodeProcess) -> None:
            start(node)
            self.started.append(node)

        monkeypatch.setattr(NodeProcess, "start", and_remember)
        monkeypatch.setattr("zraft.cli.cluster._POLL_SECONDS", 0.05)


def test_it_shows_the_nodes_says_what_to_try_and_ends_all_with_ctrl_c(
    configs: Path, scripts: dict[str, str], client: type[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    joins = (configs / "n1.yaml").read_text().replace("node: n1", "node: n4\njoin: true\nbind: {}")
    (configs / "n4.yaml").write_text(joins.replace("  n1: {client", "  n4: {client"))
    running = Running(client, looks=3)
    running.watch(monkeypatch)
    result = run("--configs", str(configs))
    assert result.exit_code == 0, result.output
    assert f"n1: role leader, term 3, commit 12, pid {running.started[0].pid}\n" in result.stdout
    assert "zraft-cli -c " in result.stdout
    assert " set greeting hello\n" in result.stdout
    assert f"    kill -9 {running.started[0].pid} " in result.stdout
    assert result.stdout.endswith("zraft-cluster: ending n1, n2, n3\nzraft-cluster: ended\n")
    assert [node.how_it_ended() for node in running.started] == ["killed by SIGTERM"] * 3
    assert client.made_with[0][0] == ("tcp://127.0.0.1:7101", "tcp://127.0.0.1:7102", "tcp://127.0.0.1:7103")
    assert (configs / "var" / "n1.log").read_text() == "up\n"


def test_a_node_that_dies_is_shown_and_not_started_again(
    configs: Path, scripts: dict[str, str], client: type[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_look(look: int) -> None:
        if look == 3:
            running.started[1].kill()
            wait_until(lambda: not running.started[1].is_running)

    running = Running(client, looks=5, on_look=on_look)
    running.watch(monkeypatch)
    result = run("--configs", str(configs))
    assert result.exit_code == 0, result.output
    assert result.stdout.count("n2 killed by SIGKILL\n    to start it again: ") == 1
    assert len(running.started) == 3
    assert "zraft-cluster: ending n1, n3\n" in result.stdout


def test_nodes_that_cannot_start_show_their_one_line(
    configs: Path, scripts: dict[str, str], client: type[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts.update(dict.fromkeys(NODES, FAILS))
    (configs / "var").mkdir()
    (configs / "var" / "n1.log").write_text("from an earlier run\n")
    client.reports[:] = []
    monkeypatch.setattr("zraft.cli.cluster._POLL_SECONDS", 0.05)
    result = run("--configs", str(configs))
    assert result.exit_code == 1
    assert "n1 ended with status 1: zraft-node: port 7101 is in use\n" in result.stdout
    assert result.stderr == "zraft-cluster: no node could run\n"
    assert (configs / "var" / "n1.log").read_text().startswith("from an earlier run\n")


def test_a_node_that_was_started_by_hand_is_shown_and_left_alone(
    configs: Path, scripts: dict[str, str], client: type[FakeClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts["n1"] = FAILS
    stranger = report("n1", 1, role="leader", pid=1)

    def status(_self: FakeClient) -> list[dict[str, Any]]:
        looks.append(1)
        if len(looks) == 4:
            os.kill(os.getpid(), signal.SIGTERM)
        return [stranger]

    looks: list[int] = []
    client.status = status  # type: ignore[method-assign]
    monkeypatch.setattr("zraft.cli.cluster._POLL_SECONDS", 0.05)
    result = run("--configs", str(configs))
    assert result.exit_code == 0
    assert "n1: role leader, term 3, commit 12, pid 1, started elsewhere\n" in result.stdout
    assert "zraft-cluster: n1 (pid 1) was started elsewhere and goes on\n" in result.stdout
    assert "kill -9" not in result.stdout, "it proposes to kill its own nodes only"


def test_a_log_that_cannot_be_written(configs: Path, client: type[FakeClient]) -> None:
    (configs / "var").write_text("a file where a folder should be")
    result = run("--configs", str(configs))
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("zraft-cluster: cannot start n1: ")


def test_children_do_not_get_the_terminals_ctrl_c(nodes: list[NodeProcess]) -> None:
    nodes[0].start()
    assert nodes[0].pid is not None
    assert os.getsid(nodes[0].pid) == nodes[0].pid != os.getsid(0)


def test_how_it_ended(nodes: list[NodeProcess], scripts: dict[str, str]) -> None:
    scripts.update(n1="", n2="import sys; sys.exit(3)", n3="import os; os.kill(os.getpid(), 9)")
    assert [(node.pid, node.how_it_ended(), node.is_running) for node in nodes] == [(None, "", False)] * 3
    nodes[1].log_path.parent.mkdir()
    nodes[1].log_path.write_text("words of an earlier run\n")
    for node in nodes:
        node.start()
    wait_until(lambda: not any(node.is_running for node in nodes))
    assert nodes[0].how_it_ended() == "ended cleanly"
    assert nodes[1].how_it_ended() == f"ended with status 3: see {nodes[1].log_path}"
    assert nodes[2].how_it_ended() == "killed by SIGKILL"


def test_stop_kills_what_does_not_end_in_time(
    nodes: list[NodeProcess], scripts: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scripts["n2"] = IGNORES_SIGTERM
    for node in nodes:
        node.start()
    wait_until(lambda: all(node.log_path.read_text() == "up\n" for node in nodes))
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.2)
    with Signals() as signals:
        assert stop_all(nodes, signals) == ["n2"]
    wait_until(lambda: not any(node.is_running for node in nodes))


def test_a_second_ctrl_c_waits_no_longer(nodes: list[NodeProcess], scripts: dict[str, str]) -> None:
    scripts["n1"] = IGNORES_SIGTERM
    nodes[0].start()
    wait_until(lambda: nodes[0].log_path.read_text() == "up\n")
    started = time.monotonic()
    with Signals() as signals:
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        signal.signal(signal.SIGALRM, lambda *_: os.kill(os.getpid(), signal.SIGINT))
        try:
            assert stop_all(nodes, signals) == ["n1"]
        finally:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
    assert time.monotonic() - started < processes.STOP_SECONDS / 2


def test_signals_are_put_back() -> None:
    before = signal.getsignal(signal.SIGINT)
    with Signals() as signals:
        os.kill(os.getpid(), signal.SIGHUP)
        started = time.monotonic()
        signals.wait(10)
        assert time.monotonic() - started < 5
        assert signals.stops == 1
    assert signal.getsignal(signal.SIGINT) is before


def test_the_table_is_redrawn_in_place_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "40")
    screen = Screen()
    rows = [Row("n1", "leader", "3", "12", "101", "")]
    screen.show(rows)
    screen.show([rows[0]._replace(commit="13", note="started elsewhere" * 3)])
    screen.say("text")
    screen.show(rows)
    drawn = capsys.readouterr().out.split("\n")
    assert drawn[0] == "NODE  ROLE    TERM  COMMIT  PID  NOTE\x1b[K"
    assert drawn[2].startswith("\x1b[2ANODE")
    assert drawn[3] == "n1    leader  3     13      101  starte\x1b[K"
    assert drawn[4] == "text"
    assert drawn[5].startswith("NODE"), "below the text the table is drawn anew"


def test_without_a_terminal_only_changes_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen()
    row = Row("n1", "leader", "3", "12", "101", "")
    for shown in (row, row._replace(commit="13"), row._replace(term="4"), row._replace(role="-", note="no answer")):
        screen.show([shown])
    lines = [line[9:] for line in capsys.readouterr().out.splitlines()]
    assert lines == [
        "n1: role leader, term 3, commit 12, pid 101",
        "n1: role leader, term 4, commit 12, pid 101",
        "n1: term 3, commit 12, pid 101, no answer",
    ]
