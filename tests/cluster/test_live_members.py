"""Real clusters that grow, shrink and are replaced while they serve; slips of the keyboard; nodes that were removed."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from cluster import READ, WRITE, Cluster, Node, eventually
from probe import Prober, fill
from recorded_load import RecordedLoad
from workload import Workload

from zraft import Client, InvalidRequest
from zraft.wire import ReplyStatus

SETTINGS = {"snapshot": {"entries": 400, "keep": 100}}
NOT_LEADER = ReplyStatus.NOT_LEADER
REFUSED_SECONDS = 5.0
STEP_GAP_SECONDS = 1.0
TRANSFERS = 10
TRANSFER_GAP_SECONDS = 0.1


def cli(endpoints: list[str], *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run zraft-cli to its end."""
    return subprocess.run(command(endpoints, *arguments), capture_output=True, text=True, timeout=60)


def command(endpoints: list[str], *arguments: str) -> list[str]:
    options = [part for endpoint in endpoints for part in ("-e", endpoint)]
    return [sys.executable, "-m", "zraft.cli.main", *options, *arguments]


def add_options(node: Node) -> list[str]:
    return ["--peer", node.peer, "--client", node.endpoint]


def votes_alone(cluster: Cluster, *names: str) -> bool:
    """Whether these are the voters, and no change is under way."""
    for report in cluster.statuses().values():
        if report["role"] == "leader" and report["change"] is None:
            return {member["id"] for member in report["members"] if member["role"] == "voter"} == set(names)
    return False


def change(cluster: Cluster, begin: Callable[[Client], Any], *names: str) -> None:
    """Begin a change, and wait until these are the voters."""
    with Client(cluster.endpoints, timeout=10.0) as client:
        begin(client)
    eventually(f"{', '.join(names)} vote", lambda: votes_alone(cluster, *names))


def add(cluster: Cluster, name: str, *others: str) -> Node:
    node = cluster.nodes[name]
    change(cluster, lambda client: client.add_member(name, node.peer, node.endpoint), *others, name)
    return node


def remove(cluster: Cluster, name: str, *others: str) -> None:
    change(cluster, lambda client: client.remove_member(name), *others)


# ---- grow, shrink, replace ---------------------------------------------------------------------------------------


class Steps:
    """Changes one after the other under load; how long none of the writes was acknowledged in each."""

    def __init__(self, cluster: Cluster, load: RecordedLoad) -> None:
        self.cluster = cluster
        self.load = load
        self.members = list(cluster.nodes)
        self.gaps: dict[str, float] = {}

    def step(self, what: str, do: Callable[[], None]) -> None:
        since = time.monotonic()
        do()
        self.load.wait_for(20)
        self.gaps[f"{what}: {len(self.members)} members"] = self.load.longest_gap_seconds(since)

    def add(self, name: str) -> None:
        self.cluster.start_joining(name)

        def do() -> None:
            add(self.cluster, name, *self.members)
            self.members.append(name)

        self.step(f"add {name}", do)

    def remove_and_stop(self, name: str) -> None:
        role = "the leader" if self.cluster.leader().name == name else "a follower"

        def do() -> None:
            self.members.remove(name)
            remove(self.cluster, name, *self.members)
            assert self.cluster.nodes[name].stop() == 0

        self.step(f"remove {name}, {role}", do)

    def table(self) -> str:
        return "\n".join(f"{gap * 1000:5.0f} ms  {what}" for what, gap in self.gaps.items())


def cut_all_logs(cluster: Cluster) -> None:
    """Write until no log begins at its first entry: then whoever joins gets a snapshot, whoever leads."""
    for _ in range(20):
        fill(cluster.endpoints, 1000)
        if all(node.status()["compacted_index"] for node in cluster.nodes.values()):
            return
    raise AssertionError("a log is never cut")


@pytest.mark.timeout(240)
def test_every_node_is_replaced_under_load(make_cluster: Callable[..., Cluster]) -> None:
    """3 -> 5 -> 4 -> 3 and on, until none of the first is left; clients that were told only of those go on."""
    cluster = make_cluster(**SETTINGS)
    founders = list(cluster.nodes)
    cut_all_logs(cluster)
    with RecordedLoad(cluster.endpoints) as load:
        steps = Steps(cluster, load)
        steps.add("n4")
        steps.add("n5")
        steps.remove_and_stop(cluster.leader().name)
        founders_left = [name for name in founders if name in steps.members]
        steps.remove_and_stop(founders_left[0])
        steps.add("n6")
        if cluster.leader().name != founders_left[1]:
            with Client(cluster.endpoints) as client:
                client.transfer_leadership(founders_left[1])
            eventually("the last founder leads", lambda: cluster.leader().name == founders_left[1])
        steps.remove_and_stop(founders_left[1])
        assert steps.members == ["n4", "n5", "n6"]
        load.wait_for(200)
    print(f"\nlongest time without an acknowledged write\n{steps.table()}\n{load.check()}")
    cluster.wait_converged()
    assert max(steps.gaps.values()) < STEP_GAP_SECONDS, steps.table()
    assert "loaded the snapshot of the first" in cluster.nodes["n6"].log()


def test_any_set_to_any_other_in_one_step(make_cluster: Callable[..., Cluster]) -> None:
    """All three are replaced at once, while they serve."""
    cluster = make_cluster(**SETTINGS)
    with RecordedLoad(cluster.endpoints, clients=3) as load:
        new = [cluster.start_joining(name) for name in ("n4", "n5", "n6")]
        since = time.monotonic()
        nodes = {node.name: {"peer": node.peer, "client": node.endpoint} for node in new}
        change(cluster, lambda client: client.set_members(nodes, nodes), *nodes)
        load.wait_for(50)
        gap = load.longest_gap_seconds(since)
    print(f"\nlongest time without an acknowledged write {gap * 1000:.0f} ms; {load.check()}")
    assert gap < STEP_GAP_SECONDS
    for name in ("n1", "n2", "n3"):
        eventually(f"{name} knows", lambda name=name: cluster.nodes[name].status()["role"] == "removed")


# ---- what is refused ---------------------------------------------------------------------------------------------


def composition(cluster: Cluster) -> list[Any]:
    """Who the members are, as the leader has it, since which log entry."""
    report = cluster.leader().status()
    return [
        report["members_index"],
        report["term"],
        *((one["id"], one["role"], one["peer"]) for one in report["members"]),
    ]


def refused(cluster: Cluster, node: str, peer: str, client: str) -> str:
    """The words with which adding is refused; the cluster is as it was, and it did not take long."""
    endpoints = [one.endpoint for one in cluster.nodes.values()][:3]
    before = composition(cluster)
    start = time.monotonic()
    done = cli(endpoints, "members", "add", node, "--peer", peer, "--client", client)
    took = time.monotonic() - start
    assert (done.returncode, done.stdout) == (1, ""), done
    assert took < REFUSED_SECONDS, f"{took:.1f} s: {done.stderr}"
    assert composition(cluster) == before
    (line,) = done.stderr.splitlines()
    return line


@pytest.fixture
def free_address() -> Iterator[str]:
    """Where nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield f"tcp://127.0.0.1:{holder.getsockname()[1]}"


def test_slips_of_the_keyboard_change_nothing(cluster: Cluster, free_address: str) -> None:
    n2, n4 = cluster.nodes["n2"], cluster.start_joining("n4")
    assert f"no node answers at {free_address}" in refused(cluster, "n4", n4.peer, free_address)
    assert f"no node answers at {free_address}" in refused(cluster, "n4", free_address, n4.endpoint)
    assert f"the node at {n2.endpoint} is n2, not n4" in refused(cluster, "n4", n4.peer, n2.endpoint)
    assert n2.peer in refused(cluster, "n4", n2.peer, n4.endpoint)
    assert n4.endpoint in refused(cluster, "n4", n4.endpoint, n4.endpoint)
    assert "no node answers at" in refused(cluster, "n4", n4.endpoint, n4.peer), "the two were mixed up"
    assert "n2 is a voting member already" in refused(cluster, "n2", n2.peer, n2.endpoint)
    assert "is n4, not n2" in refused(cluster, "n2", n4.peer, n4.endpoint)
    assert "is n4, not n5" in refused(cluster, "n5", n4.peer, n4.endpoint)
    assert cli([n2.endpoint], "members", "remove", "n7").returncode == 1
    assert cli([n2.endpoint], "members", "promote", "n2").returncode == 1
    assert cli([n2.endpoint], "members", "set", "n1,n7").returncode == 1
    assert n4.status()["role"] == "joining"
    add(cluster, "n4", "n1", "n2", "n3")


def test_nodes_that_hold_data_are_refused(make_cluster: Callable[..., Cluster]) -> None:
    cluster, other = make_cluster(), make_cluster(size=1)
    with Client(other.endpoints) as client:
        client.set("k", "of the other cluster")
    theirs = other.start_joining("n9")
    add(other, "n9", "n1")
    assert "it belongs to another cluster" in refused(cluster, "n9", theirs.peer, theirs.endpoint)
    assert theirs.status()["role"] in ("follower", "leader")

    cluster.start_joining("n4")
    node = add(cluster, "n4", "n1", "n2", "n3")
    remove(cluster, "n4", "n1", "n2", "n3")
    for _ in range(2):
        assert "it has data of an earlier life" in refused(cluster, "n4", node.peer, node.endpoint)
        node.kill()
        node.start()
        eventually("it answers", lambda: cluster.statuses([node]))
    node.kill()
    shutil.rmtree(node.config["data_dir"])
    node.start()
    eventually("it waits", lambda: cluster.statuses([node]).get("n4", {}).get("role") == "joining")
    add(cluster, "n4", "n1", "n2", "n3")


def test_a_node_that_was_wiped_after_it_was_added_is_refused(make_cluster: Callable[..., Cluster]) -> None:
    """Its votes are lost with its data. Removed and added again, it is a new member."""
    cluster = make_cluster(**SETTINGS)
    fill(cluster.endpoints, 200)
    cluster.start_joining("n4")
    node = add(cluster, "n4", "n1", "n2", "n3")
    node.kill()
    shutil.rmtree(node.config["data_dir"])
    node.start()
    eventually("it says so", lambda: "by another data directory than this one" in node.log())
    assert "remove n4 from the cluster and add it again" in node.log()
    with Workload(cluster.endpoints[:3], threads=4, clients=1) as work:
        work.wait_for(100)
        report = node.status()
        assert (report["role"], report["last_index"], report["last_applied"]) == ("joining", 0, 0)
        remove(cluster, "n4", "n1", "n2", "n3")
        add(cluster, "n4", "n1", "n2", "n3")
        work.wait_for(100)
    work.check(cluster)


def test_a_node_whose_disk_is_lost_is_replaced_by_a_new_one_of_its_name(cluster: Cluster) -> None:
    lost = cluster.followers()[0]
    others = [name for name in cluster.nodes if name != lost.name]
    with Workload([cluster.nodes[name].endpoint for name in others], threads=4, clients=2) as work:
        work.wait_for(50)
        lost.kill()
        shutil.rmtree(lost.config["data_dir"])
        lost.start()
        assert lost.wait() == 1
        cluster.expected_complaints.append("its data directory is empty")
        assert f"Remove {lost.name} from the cluster and add it again as a new node" in lost.log()
        remove(cluster, lost.name, *others)
        lost.config_path.write_text(yaml.safe_dump({**lost.config, "join": True}), encoding="utf-8")
        lost.start()
        eventually("it waits", lambda: cluster.statuses([lost]).get(lost.name, {}).get("role") == "joining")
        add(cluster, lost.name, *others)
        work.wait_for(50)
    work.check(cluster)


# ---- who was removed ---------------------------------------------------------------------------------------------


def leave_running(cluster: Cluster, seconds: float) -> None:
    """One follower knows that it was removed, one slept when it was: both run on, and nobody minds."""
    told, asleep = cluster.followers()
    leader = cluster.leader()
    for name in ("n4", "n5"):
        cluster.start_joining(name)
    add(cluster, "n4", "n1", "n2", "n3")
    add(cluster, "n5", "n1", "n2", "n3", "n4")
    term = leader.status()["term"]
    remove(cluster, told.name, leader.name, asleep.name, "n4", "n5")
    asleep.pause()
    remove(cluster, asleep.name, leader.name, "n4", "n5")
    asleep.resume()
    with Workload([leader.endpoint], threads=4, clients=2, pause_seconds=0.002) as work:
        for node in (told, asleep):
            eventually(f"{node.name} knows", lambda node=node: node.status()["role"] == "removed")
        until = time.monotonic() + seconds
        while time.monotonic() < until:
            for node in (told, asleep):
                assert node.status()["role"] == "removed"
            time.sleep(0.5)
        for node in (told, asleep):
            for kind in (WRITE, READ):
                assert node.ask(kind, b"")[0] == NOT_LEADER
            with Client(node.endpoint) as client:
                assert client.set("k", "v") > 0, "but it knows who the members are"
    work.check(cluster)
    reports = cluster.statuses()
    assert {report["term"] for report in reports.values()} == {term}
    assert leader.status()["role"] == "leader"


def test_removed_nodes_left_running_harm_nobody(cluster: Cluster) -> None:
    leave_running(cluster, 10.0)


@pytest.mark.long
@pytest.mark.timeout(180)
def test_removed_nodes_left_running_for_a_minute_harm_nobody(cluster: Cluster) -> None:
    leave_running(cluster, 60.0)


# ---- a leader hands over; every node is restarted ----------------------------------------------------------------


def test_leadership_is_handed_over_under_load(cluster: Cluster) -> None:
    """The longest pause of writes is under 100 ms, median of 10.

    A leader takes a successor that has not all it needs within an election timeout for unfit, says so and leads on. On
    machines whose disk stalls for longer now and then that must happen, and its pause counts as all others do."""
    fill(cluster.endpoints, 1000)
    gaps, refusals = [], 0
    with Client(cluster.endpoints) as client, Prober(cluster.endpoints) as prober:
        for _ in range(TRANSFERS):
            before = cluster.leader().name
            prober.wait_steady()
            since = time.monotonic()
            try:
                client.transfer_leadership()
                is_over = True
            except InvalidRequest as error:
                assert "did not take over in time; this node leads on" in str(error)
                is_over = False
                refusals += 1
            prober.wait_steady()
            gaps.append(prober.longest_gap_seconds(since))
            assert (cluster.leader().name != before) is is_over
    assert refusals <= 2, f"{refusals} of {TRANSFERS} were given up"
    ordered = ", ".join(f"{gap * 1000:.0f}" for gap in sorted(gaps))
    print(f"\nlongest pause of writes while leadership is handed over, ms: {ordered}")
    assert statistics.median(gaps) < TRANSFER_GAP_SECONDS, ordered


def test_a_rolling_restart_loses_nothing(make_cluster: Callable[..., Cluster]) -> None:
    """One node at a time, the next when `status` shows that the last one has caught up; one of them joined later."""
    cluster = make_cluster(**SETTINGS)
    cluster.start_joining("n4")
    add(cluster, "n4", "n1", "n2", "n3")
    gaps = {}
    with RecordedLoad(cluster.endpoints) as load:
        for node in cluster.nodes.values():
            since = time.monotonic()
            assert node.stop() == 0
            node.start()

            def is_caught_up(node: Node = node) -> bool:
                reports = cluster.statuses()
                most = max(int(report.get("commit_index") or 0) for report in reports.values())
                return node.name in reports and int(reports[node.name].get("last_applied") or 0) >= most - 50

            eventually(f"{node.name} has caught up", is_caught_up)
            load.wait_for(20)
            gaps[node.name] = load.longest_gap_seconds(since)
    shown = ", ".join(f"{name} {gap * 1000:.0f} ms" for name, gap in gaps.items())
    print(f"\nlongest time without an acknowledged write: {shown}\n{load.check()}")
    cluster.wait_converged()
    assert max(gaps.values()) < STEP_GAP_SECONDS, shown


# ---- as a user types it ------------------------------------------------------------------------------------------


def on_a_terminal(line: list[str], interrupt_at: bytes = b"") -> tuple[int, str, str]:
    """Run a program whose stderr is a terminal: exit status, stdout, stderr. interrupt_at: then Ctrl-C is pressed."""
    master, slave = os.openpty()
    process = subprocess.Popen(line, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    shown = b""
    while True:
        try:
            shown += os.read(master, 4096)
        except OSError:  # it ended
            break
        if interrupt_at and interrupt_at in shown:
            interrupt_at = b""
            process.send_signal(signal.SIGINT)
    os.close(master)
    stdout, _ = process.communicate(timeout=30)
    return process.returncode, stdout.decode(), shown.decode()


def json_lines(node: Node, *lines: dict[str, Any]) -> list[Any]:
    """What a node's port for JSON lines answers."""
    with socket.create_connection(("127.0.0.1", node.json_port), timeout=10.0) as connection:
        connection.sendall(b"".join(json.dumps(line).encode() + b"\n" for line in lines))
        file = connection.makefile()
        return [json.loads(file.readline()) for _ in lines]


def test_as_a_user_types_it(make_cluster: Callable[..., Cluster], tmp_path: Path) -> None:
    cluster = make_cluster()
    endpoints = cluster.endpoints
    fill(endpoints, 4000)
    node = cluster.start_joining("n4")
    listed = cli(endpoints[:1], "members", "list")
    assert [line.split("\t")[:2] for line in listed.stdout.splitlines()][0] == ["ID", "ROLE"]
    assert "n4" not in listed.stdout

    # So slow a disk that there is something to see.
    cluster.slow_disk("n4", 150, 200)
    line = command(endpoints, "members", "add", "n4", *add_options(node))
    status, stdout, stderr = on_a_terminal(line, interrupt_at=b"n4 [")
    assert (status, stdout) == (130, ""), (status, stdout, stderr)
    assert "interrupted; the change goes on without this program: see `members list`" in stderr
    listed = cli(endpoints, "members", "list")
    # "learner", or as slow as it is "learner, silent"
    assert any(row.startswith("n4\tlearner") for row in listed.stdout.splitlines()), listed.stdout
    assert "a change is under way, to voters n1, n2, n3, n4" in listed.stderr
    second = cli(endpoints, "members", "remove", "n3")
    assert second.returncode == 1 and "another change is under way" in second.stderr
    assert cli(endpoints, "members", "remove", "n4").stdout == "n4 is no member any more\n"

    node.kill()
    shutil.rmtree(node.config["data_dir"])
    node.start()
    eventually("it waits", lambda: cluster.statuses([node]).get("n4", {}).get("role") == "joining")
    cluster.slow_disk("n4", 40, 60)
    status, stdout, stderr = on_a_terminal(line)
    assert (status, stdout) == (0, "n4 is a voting member\n"), (status, stdout, stderr)
    assert "n4 [#" in stderr and "%" in stderr
    cluster.heal()
    assert json_lines(node, {"op": "set", "key": "json", "value": "v"})[0]["ok"]
    assert json_lines(node, {"op": "get", "key": "json"})[0]["value"] == "v"

    answer = json.loads(cli(endpoints, "-o", "json", "members", "remove", "n4").stdout)
    assert [member["id"] for member in answer["members"]] == ["n1", "n2", "n3"] and answer["index"] > 20
    handed = cli(endpoints, "leader", "transfer")
    assert handed.returncode == 0 and " leads, term " in handed.stdout
    refused_there = cli([node.endpoint], "--timeout", "1", "set", "k", "v")
    assert refused_there.returncode in (0, 3), refused_there
