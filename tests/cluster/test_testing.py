"""zraft.testing as its users have it: the example of docs/CHAOS.md, and the context manager without pytest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from zraft.testing import Cluster, NotInTime
from zraft.testing.harness import eventually

ROOT = Path(__file__).parents[2]


def run_pytest(folder: Path, *files: tuple[str, str]) -> subprocess.CompletedProcess[str]:
    for name, text in files:
        (folder / name).write_text(text)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", str(folder), str(folder)]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=100)


def test_the_example_in_the_documentation(tmp_path: Path) -> None:
    section = (ROOT / "docs" / "CHAOS.md").read_text().split("## Your own tests")[1]
    conftest, test = re.findall(r"```python\n(.*?)```", section, re.DOTALL)
    done = run_pytest(tmp_path, ("conftest.py", conftest), ("test_mine.py", test))
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout


def test_a_node_that_ends_by_itself_fails_the_users_test(tmp_path: Path) -> None:
    test = "import os, signal\ndef test_mine(cluster):\n    os.kill(cluster.nodes['n2'].pid, signal.SIGKILL)\n"
    test += "    cluster.nodes['n2'].wait()\n"
    conftest = "from zraft.testing import cluster\n"
    done = run_pytest(tmp_path, ("conftest.py", conftest), ("test_mine.py", test))
    assert done.returncode == 1 and "n2 ended by itself" in done.stdout, done.stdout


def test_pytest_is_not_needed_without_the_fixture() -> None:
    code = "import sys, zraft.testing; zraft.testing.Cluster; assert not any('pytest' in name for name in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=30)


def test_without_pytest_and_with_every_fault() -> None:
    with Cluster(nodes=3) as cluster:
        cluster.start()
        with cluster.client(timeout=15.0) as client:
            client.set("k", "1")
            leader = cluster.wait_for_leader()
            others = [name for name in cluster.nodes if name != leader]
            cluster.partition([leader], others)
            client.set("k", "2")
            assert cluster.wait_for_leader() in others
            cluster.one_way(others[0], leader)
            assert set(cluster.statuses()[leader]["faults"]["links"]) == set(others)
            cluster.heal()
            cluster.delay(1, 5)
            cluster.drop(0.05)
            cluster.slow_disk(leader, 1, 5)
            cluster.full_disk(others[0])
            client.set("k", "3")
            faults = cluster.statuses()[others[0]]["faults"]
            assert faults["disk"] == {"full": True} and "links" in faults
            cluster.kill_node(others[1])
            cluster.pause(leader)
            cluster.heal()
            cluster.restart_node(others[0])
            client.set("k", "4")
            cluster.fail_fsync(others[1])
            client.set("k", "5")
            cluster.nodes[others[1]].wait()
            cluster.heal()
            assert client.get("k") == b"5"
        reports = cluster.wait_converged()
        assert all(not report["faults"] for report in reports.values())
        folder = cluster.folder
        with pytest.raises(NotInTime, match="leader"):
            for node in cluster.nodes.values():
                node.kill()
            cluster.wait_for_leader(0.1)
    assert not folder.exists()


def voters_of(cluster: Cluster) -> set[str]:
    """By what the leader says; nobody while they change."""
    report = cluster.statuses()[cluster.wait_for_leader()]
    return set() if report["change"] else {member["id"] for member in report["members"] if member["role"] == "voter"}


def test_faults_of_links_while_a_node_waits_to_be_added_and_after_one_was_removed() -> None:
    """Who is no member has no links, but for a removed one that asks for votes and is told; no node takes rules for
    links that it has not."""
    with Cluster(nodes=3) as cluster:
        cluster.start()
        joining = cluster.start_joining("n4")
        cluster.isolate("n4")
        cluster.delay(1, 5)
        assert set(cluster.statuses()["n1"]["faults"]["links"]) == {"n2", "n3"}
        cluster.heal()
        with cluster.client(timeout=15.0) as client:
            client.add_member("n4", joining.peer, joining.endpoint)
            eventually("n4 votes", lambda: voters_of(cluster) == {"n1", "n2", "n3", "n4"})
            client.remove_member("n2")
            eventually("n2 is out", lambda: voters_of(cluster) == {"n1", "n3", "n4"})
        cluster.isolate("n1")
        assert {"n3", "n4"} <= set(cluster.statuses()["n1"]["faults"]["links"]) <= {"n2", "n3", "n4"}
