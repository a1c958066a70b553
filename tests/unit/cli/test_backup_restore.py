"""zraft-cli restore and zraft-node --force-new-cluster: what they ask for, print and refuse."""

from __future__ import annotations

import json
import os
import sys
from functools import partial
from pathlib import Path
from types import ModuleType

import click
import pytest
from click.testing import CliRunner, Result

from zraft import offline
from zraft.cli.main import cli
from zraft.cli.node import cli as node_cli
from zraft.messages import Entry, EntryKind
from zraft.raft import Address, Membership
from zraft.statemachine.machine import StateMachine
from zraft.storage import Batch, HardState, RealDisk, SnapshotEncoder, SnapshotHeader, WriteAheadLog
from zraft.wire import pack_entries

N1, N2 = "n1=tcp://127.0.0.1:7101,tcp://127.0.0.1:7201", "n2=tcp://127.0.0.1:7102,tcp://127.0.0.1:7202"
CONFIG = """
node: {node}
data_dir: data
cluster:
  n1: {{client: 'tcp://127.0.0.1:7101', peer: 'tcp://127.0.0.1:7201'}}
  n2: {{client: 'tcp://127.0.0.1:7102', peer: 'tcp://127.0.0.1:7202'}}
"""


@pytest.fixture(autouse=True)
def _quick_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(WriteAheadLog, "open", partial(WriteAheadLog.open, segment_bytes=64 * 1024))


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Of 30 entries without a key."""
    machine = StateMachine()
    for index in range(1, 31):
        machine.skip(index, index)
    voters = {f"n{n}": Address(f"tcp://127.0.0.1:710{n}", f"tcp://127.0.0.1:720{n}") for n in (1, 2)}
    encoder = SnapshotEncoder(SnapshotHeader(30, 2, Membership(5, voters).encode()))
    frozen, parts = machine.freeze(), [encoder.begin()]
    while (chunk := frozen.next_chunk()) is not None:
        parts.append(encoder.add(chunk))
    file = tmp_path / "backup"
    file.write_bytes(b"".join((*parts, encoder.finish())))
    return file


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """Of n1, with its data in `data`."""
    path = tmp_path / "n1.yaml"
    path.write_text(CONFIG.format(node="n1"))
    return path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The nodes that would have been run."""
    nodes: list[str] = []
    module = ModuleType("zraft.node")
    module.run = lambda config, log_level: nodes.append(config.node) or 0  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zraft.node", module)
    return nodes


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments], prog_name="zraft-cli")


def force(*arguments: str | Path, stdin: str | None = None) -> Result:
    options = ["--force-new-cluster", *(str(argument) for argument in arguments)]
    return CliRunner().invoke(node_cli, options, input=stdin, prog_name="zraft-node")


# --- restore


def test_restore_by_options(tmp_path: Path, backup: Path) -> None:
    options = ("--data-dir", tmp_path / "new", "--node", "n1", "--cluster", N1, "--cluster", N2)
    result = run("restore", backup, *options)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith(f"{tmp_path / 'new'}: n1 of the new cluster ")
    assert result.stdout.endswith(" (n1, n2), 0 keys at revision 0\n")
    again = run("restore", backup, *options)
    assert (again.exit_code, again.stdout) == (1, "")
    assert again.stderr == (
        f"zraft-cli: {tmp_path / 'new'}: not empty: name a new directory, or move this one away first\n"
    )


def test_restore_by_the_nodes_configuration_is_the_same_cluster(tmp_path: Path, backup: Path, config: Path) -> None:
    made = json.loads(run("-c", config, "-o", "json", "restore", backup).stdout)
    options = ("--data-dir", tmp_path / "n2", "--node", "n2", "--cluster", N2, "--cluster", N1)
    other = json.loads(run("-o", "json", "restore", backup, *options).stdout)
    assert (made["node"], made["data_dir"], other["node"]) == ("n1", str(tmp_path / "data"), "n2")
    assert made["cluster_id"] == other["cluster_id"] and len(made["cluster_id"]) == 16
    assert (made["index"], made["term"], made["keys"]) == (30 + offline.INDEX_JUMP, 2, 0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ((), "missing --data-dir and --node and --cluster"),
        (("--data-dir", "x", "--node", "n1"), "missing --cluster"),
        (("--data-dir", "x", "--cluster", N1), "missing --node"),
        (("--data-dir", "x", "--node", "n1", "--cluster", N1, "--cluster", N1), "the member n1 is named twice"),
        (("--cluster", N1, "--cluster", N1.replace("n1", "n3")), "the address tcp://127.0.0.1:7101 is named twice"),
        (("--cluster", "n1=tcp://a:1,tcp://a:1"), "the address tcp://a:1 is named twice"),
        (("--cluster", "n1"), "expected like n1="),
        (("--cluster", "n1=tcp://a:1"), "expected like n1="),
        (("--cluster", "n1=tcp://a:1,a:2"), "expected an address like"),
        (("--cluster", "n1=tcp://*:1,tcp://a:2"), "expected an address like"),
        (("--cluster", "n 1=tcp://a:1,tcp://a:2"), "expected a node id"),
    ],
)
def test_restore_with_wrong_options(tmp_path: Path, backup: Path, options: tuple[str, ...], words: str) -> None:
    result = run("restore", backup, *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert words in result.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["backup"]


def test_restore_of_a_node_that_is_no_member(tmp_path: Path, backup: Path) -> None:
    result = run("restore", backup, "--data-dir", tmp_path / "new", "--node", "n3", "--cluster", N1)
    assert (result.exit_code, result.stderr) == (
        2,
        "zraft-cli: n3 is not among the members of the new cluster (n1)\n",
    )


def test_restore_of_what_is_no_backup(tmp_path: Path, backup: Path, config: Path) -> None:
    backup.write_bytes(backup.read_bytes()[:-1])
    for file, words in ((backup, "this is no whole backup"), (tmp_path / "none", "cannot read this backup")):
        result = run("-c", config, "restore", file)
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (1, "", 1)
        assert result.stderr.startswith(f"zraft-cli: {file}: {words}")
    assert not (tmp_path / "data").exists()


# --- --force-new-cluster


def test_it_says_what_can_be_lost_and_asks(tmp_path: Path, backup: Path, config: Path, started: list[str]) -> None:
    run("-c", config, "restore", backup)
    result = force(config, stdin="n1\n")
    assert result.exit_code == 0 and started == ["n1"]
    assert f"n1 holds 0 keys at revision 0, after log entry {30 + offline.INDEX_JUMP} of term 2" in result.stderr
    assert "members: n1, n2" in result.stderr and "are lost" in result.stderr and "take effect" in result.stderr
    assert result.stderr.endswith(f" of n1 alone; the old data is in {tmp_path / 'data.old-1'}\n")
    assert result.stdout == ""


@pytest.mark.parametrize("answer", ["", "\n", "y\n", "n2\n"])
def test_any_other_answer_changes_nothing(
    tmp_path: Path, backup: Path, config: Path, started: list[str], answer: str
) -> None:
    run("-c", config, "restore", backup)
    result = force(config, stdin=answer)
    assert (result.exit_code, started) == (1, [])
    assert result.stderr.endswith("zraft-node: nothing was changed\n")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "data", "n1.yaml"]


def test_it_is_done_once_only(tmp_path: Path, backup: Path, config: Path, started: list[str]) -> None:
    """So that it may stay in the command line of whatever restarts the node."""
    run("-c", config, "restore", backup)
    assert force(config, "--yes").exit_code == 0
    again = force(config, "--yes")
    assert (again.exit_code, again.stderr) == (0, "n1 is the only member of its cluster already: it starts as it is\n")
    assert started == ["n1", "n1"] and not (tmp_path / "data.old-2").exists()


def log_of(data_dir: Path, node: str, members: Membership) -> None:
    """A node's data: a log of its members alone."""
    log = WriteAheadLog.open(RealDisk(), str(data_dir), node, new_store_id=5)
    entry = Entry(1, 0, int(EntryKind.CONFIG), members.encode())
    log.append([Batch(1, 1, 1, pack_entries([entry]), True)], HardState(1, None))
    log.close()


def test_who_is_the_only_voter_of_a_change_that_the_lost_ones_decide_too_is_not_alone(
    tmp_path: Path, config: Path, started: list[str]
) -> None:
    """The majority was lost in the middle of `members set n1`: both halves of the joint configuration decide."""
    both = {f"n{n}": Address(f"tcp://127.0.0.1:710{n}", f"tcp://127.0.0.1:720{n}") for n in (1, 2)}
    alone = {"n1": both["n1"]}
    log_of(tmp_path / "data", "n1", Membership(5, alone, {}, both, ("n1",)))
    result = force(config, "--yes")
    assert result.exit_code == 0 and started == ["n1"]
    assert "members: n1; jointly with n1, n2" in result.stderr and "new cluster" in result.stderr


def test_who_has_only_learners_beside_it_needs_no_new_cluster(tmp_path: Path, config: Path, started: list[str]) -> None:
    at = Address("tcp://127.0.0.1:7101", "tcp://127.0.0.1:7201")
    log_of(tmp_path / "data", "n1", Membership(5, {"n1": at}, {"n4": Address("tcp://n4:1", "tcp://n4:2")}))
    result = force(config, "--yes")
    assert (result.exit_code, started) == (0, ["n1"])
    assert result.stderr == "n1 is the only voting member of its cluster already: it starts as it is\n"


def test_of_a_learner_the_address_is_known_too(tmp_path: Path, started: list[str]) -> None:
    path = tmp_path / "n4.yaml"
    bind = "bind: {client: 'tcp://127.0.0.1:7104', peer: 'tcp://127.0.0.1:7204'}\njoin: true\n"
    path.write_text(CONFIG.format(node="n4") + bind)
    voters = {f"n{n}": Address(f"tcp://127.0.0.1:710{n}", f"tcp://127.0.0.1:720{n}") for n in (1, 2)}
    log_of(tmp_path / "data", "n4", Membership(5, voters, {"n4": Address("tcp://n4:1", "tcp://n4:2")}))
    result = force(path, "--yes")
    assert result.exit_code == 0 and started == ["n4"] and "of n4 alone" in result.stderr


def test_it_completes_what_was_interrupted(tmp_path: Path, backup: Path, config: Path, started: list[str]) -> None:
    run("-c", config, "restore", backup)
    force(config, "--yes")
    os.rename(tmp_path / "data", tmp_path / "data.new-cluster")
    again = force(config, "--yes")
    assert again.exit_code == 0 and "it starts as it is" in again.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backup", "data", "data.old-1", "n1.yaml"]


def test_damaged_snapshots_are_named(tmp_path: Path, backup: Path, config: Path, started: list[str]) -> None:
    run("-c", config, "restore", backup)
    bad = tmp_path / "data" / "9999999999999999.snapshot"
    bad.write_bytes(b"x")
    assert f"{bad}: " in force(config, "--yes").stderr


def test_a_log_without_members_and_an_empty_directory(tmp_path: Path, config: Path, started: list[str]) -> None:
    result = force(config, "--yes")
    assert result.stderr == f"zraft-node: {tmp_path / 'data'}: there is no node's data here\n"
    log = WriteAheadLog.open(RealDisk(), str(tmp_path / "data"), "n1", new_store_id=5)
    log.append([], HardState(1, None))
    result = force(config, "--yes")
    assert f"in use by process {os.getpid()}" in result.stderr
    log.close()
    result = force(config, "--yes")
    assert (result.exit_code, started) == (1, [])
    assert "there is nothing to begin a cluster with: no entry was ever applied" in result.stderr


def test_yes_alone_is_a_mistake(config: Path, started: list[str]) -> None:
    result = CliRunner().invoke(node_cli, ["--yes", str(config)], prog_name="zraft-node")
    assert (result.exit_code, started) == (2, [])
    assert "--yes goes with --force-new-cluster" in result.stderr


def test_ctrl_c_at_the_question(
    tmp_path: Path, backup: Path, config: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_arguments: object, **_options: object) -> None:
        raise click.Abort

    run("-c", config, "restore", backup)
    monkeypatch.setattr(click, "prompt", interrupt)
    result = force(config)
    assert (result.exit_code, started) == (1, [])
    assert result.stderr.endswith("zraft-node: nothing was changed\n")
