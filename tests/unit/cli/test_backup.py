"""zraft-cli compact and backup: what they print and ask for, and what is left of a backup that fails."""

from __future__ import annotations

import errno
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_client import FakeClient, report, silent

from zraft.cli import backup
from zraft.cli.main import cli
from zraft.client.requests import SavedSnapshot
from zraft.errors import InvalidRequest, OutcomeUnknown, Unavailable, ZraftError
from zraft.storage import SnapshotEncoder, SnapshotHeader

PIECE_BYTES = 1000


def snapshot(index: int) -> bytes:
    encoder = SnapshotEncoder(SnapshotHeader(index, 2, b"{}"))
    chunk = bytes(3000 - 100 * index)  # so that a later one is smaller
    return encoder.begin() + encoder.add(chunk) + encoder.add(b"%d" % index) + encoder.finish()


class Nodes:
    """What the nodes have, and how they behave. Tests set `on_compact` and `on_read`, which may raise."""

    def __init__(self) -> None:
        self.index = 12
        self.compacted: list[tuple[str, int]] = []
        self.reads = 0
        self.on_compact: Callable[[str], None] = lambda endpoint: None
        self.on_read: Callable[[int], bytes | None] = lambda offset: None

    def compact(self, endpoint: str, revision: int = 0, timeout: float | None = None) -> SavedSnapshot:
        self.compacted.append((endpoint[-4:], revision))
        self.on_compact(endpoint)
        return SavedSnapshot(self.index, len(snapshot(self.index)))

    def read_snapshot(self, endpoint: str, index: int, offset: int) -> tuple[bytes, int]:
        self.reads += 1
        changed = self.on_read(offset)
        data = snapshot(index)[offset : offset + PIECE_BYTES] if changed is None else changed
        return data, len(snapshot(index))


@pytest.fixture
def nodes(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> Nodes:
    made = Nodes()
    fake: Any = client
    fake.compact = staticmethod(made.compact)
    fake.read_snapshot = staticmethod(made.read_snapshot)
    fake.revision = lambda self: self._fail() or 7
    return made


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="zraft-cli")


def outcome(result: Result) -> tuple[int, str, str]:
    return result.exit_code, result.stdout, result.stderr


# --- compact


def test_compact_of_all_that_answer_or_of_those_named(client: type[FakeClient], nodes: Nodes) -> None:
    client.reports.append(silent(3))
    size = len(snapshot(12))
    assert outcome(run("compact")) == (0, f"NODE\tSNAPSHOT\tBYTES\nn1\t12\t{size}\nn2\t12\t{size}\n", "")
    assert json.loads(run("-o", "json", "compact", "n2", "n2").stdout) == [{"node": "n2", "index": 12, "bytes": size}]
    assert nodes.compacted == [("7101", 0), ("7102", 0), ("7102", 0)]


def test_compact_of_a_node_that_is_not_there(nodes: Nodes) -> None:
    assert outcome(run("compact", "n2", "n9")) == (
        3,
        "",
        "zraft-cli: n9 does not answer; nodes that do: n1, n2\n",
    )
    assert nodes.compacted == [], "the mistake is found before anything is done"


@pytest.mark.parametrize(
    ("error", "status"),
    [(InvalidRequest("no snapshot was taken: no space"), 1), (OutcomeUnknown("gone"), 3), (Unavailable("gone"), 3)],
)
def test_compact_that_one_node_refuses_goes_on_with_the_others(nodes: Nodes, error: ZraftError, status: int) -> None:
    def refuse(endpoint: str) -> None:
        if endpoint.endswith("7101"):
            raise error

    nodes.on_compact = refuse
    size = len(snapshot(12))
    assert outcome(run("compact")) == (status, f"NODE\tSNAPSHOT\tBYTES\nn2\t12\t{size}\n", f"zraft-cli: n1: {error}\n")


def test_nobody_answers(client: type[FakeClient], nodes: Nodes, tmp_path: Path) -> None:
    client.reports[:] = [silent(1)]
    for command in (("compact",), ("backup", str(tmp_path / "b")), ("backup", "--stale", str(tmp_path / "b"))):
        assert outcome(run(*command)) == (
            3,
            "",
            "zraft-cli: no node answers; are they running, and are these their endpoints?\n",
        )
    assert list(tmp_path.iterdir()) == []


# --- backup


def test_backup_is_a_followers_snapshot_of_at_least_the_present_revision(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "b"
    size = len(snapshot(12))
    assert outcome(run("backup", str(file))) == (0, f"{file}: {size} bytes, the state of n2 after log entry 12\n", "")
    assert file.read_bytes() == snapshot(12)
    assert nodes.compacted == [("7102", 7)]
    assert file.stat().st_mode & 0o777 == 0o600, "it holds everybody's values"
    answer = json.loads(run("-o", "json", "backup", str(tmp_path / "c")).stdout)
    assert answer == {"file": str(tmp_path / "c"), "node": "n2", "index": 12, "bytes": size}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b", "c"]


def test_the_node_that_is_furthest_is_asked_and_not_one_that_still_loads(
    client: type[FakeClient], nodes: Nodes, tmp_path: Path
) -> None:
    recovering = {"node": "n4", "role": "recovering", "endpoint": "tcp://127.0.0.1:7104"}
    client.reports[:] = [
        recovering,
        report("n5", 5, loading=True, last_applied=99),
        report("n1", 1, role="leader", last_applied=50),
        report("n2", 2, last_applied=40),
        report("n3", 3, last_applied=45),
    ]
    endpoints = [part for node in client.reports for part in ("-e", node["endpoint"])]
    run(*endpoints, "backup", str(tmp_path / "b"))
    client.reports[:] = [recovering, client.reports[1], client.reports[2]]
    run(*endpoints, "backup", str(tmp_path / "c"))
    assert [port for port, _ in nodes.compacted] == ["7103", "7101"]


def test_stale_asks_no_majority(client: type[FakeClient], nodes: Nodes, tmp_path: Path) -> None:
    client.error = Unavailable("no leader")
    assert outcome(run("backup", str(tmp_path / "b"))) == (3, "", "zraft-cli: no leader\n")
    assert list(tmp_path.iterdir()) == []
    assert run("backup", "--stale", str(tmp_path / "b")).exit_code == 0
    assert nodes.compacted == [("7102", 0)]


def test_a_file_that_exists_is_left_as_it_is(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "b"
    file.write_text("mine")
    words = f"zraft-cli: {file} exists; name another file, or remove it first\n"
    assert outcome(run("backup", str(file))) == (1, "", words)
    assert nodes.compacted == []
    file.unlink()

    def appear(offset: int) -> None:
        file.write_text("mine")

    nodes.on_read = appear
    assert outcome(run("backup", str(file))) == (1, "", words)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


def test_where_no_file_can_be(nodes: Nodes, tmp_path: Path) -> None:
    file = tmp_path / "none" / "b"
    assert outcome(run("backup", str(file))) == (
        1,
        "",
        f"zraft-cli: {file}: cannot write it: No such file or directory\n",
    )
    assert run("backup", str(tmp_path)).exit_code == 2
    assert nodes.compacted == [], "the mistake is found before anything is done"


@pytest.mark.parametrize("failure", [errno.ENOSPC, errno.EIO])
@pytest.mark.parametrize("function", ["fsync", "link"])
def test_a_disk_that_fails_at_the_end_leaves_nothing(
    nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, function: str, failure: int
) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(failure, os.strerror(failure))

    monkeypatch.setattr(os, function, fail)
    if function == "link":
        monkeypatch.setattr(os, "rename", fail)
    result = run("backup", str(tmp_path / "b"))
    assert outcome(result) == (1, "", f"zraft-cli: {tmp_path / 'b'}: cannot write it: {os.strerror(failure)}\n")
    assert list(tmp_path.iterdir()) == []


def test_a_file_system_without_links(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_arguments: object) -> None:
        raise OSError(errno.EPERM, "no links")

    monkeypatch.setattr(os, "link", fail)
    assert run("backup", str(tmp_path / "b")).exit_code == 0
    assert [path.read_bytes() for path in tmp_path.iterdir()] == [snapshot(12)]
    nodes.on_read = lambda offset: (tmp_path / "c").write_text("mine") and None
    assert "exists" in run("backup", str(tmp_path / "c")).stderr
    assert (tmp_path / "c").read_text() == "mine"


def test_it_begins_again_when_a_newer_snapshot_takes_the_place_or_an_actor_dies(nodes: Nodes, tmp_path: Path) -> None:
    troubles: list[ZraftError | None] = [None, InvalidRequest("gone"), None, OutcomeUnknown("restarted")]

    def read(offset: int) -> None:
        trouble = troubles.pop(0) if troubles else None
        if trouble is not None:
            nodes.index += 5
            raise trouble

    nodes.on_read = read
    assert run("backup", str(tmp_path / "b")).exit_code == 0
    assert (tmp_path / "b").read_bytes() == snapshot(22)
    assert len(nodes.compacted) == 3


def test_it_gives_up_after_some_tries(nodes: Nodes, tmp_path: Path) -> None:
    def gone(offset: int) -> None:
        raise InvalidRequest("no such snapshot")

    nodes.on_read = gone
    result = run("backup", str(tmp_path / "b"))
    assert (result.exit_code, "try again later" in result.stderr) == (3, True)
    assert (len(nodes.compacted), list(tmp_path.iterdir())) == (backup.TRIES, [])


def test_a_node_that_can_take_no_snapshot_is_not_asked_again(nodes: Nodes, tmp_path: Path) -> None:
    def full(endpoint: str) -> None:
        raise InvalidRequest("no snapshot was taken: no space")

    nodes.on_compact = full
    words = "zraft-cli: n2: no snapshot was taken: no space\n"
    assert outcome(run("backup", str(tmp_path / "b"))) == (1, "", words)
    assert (len(nodes.compacted), list(tmp_path.iterdir())) == (1, [])


@pytest.mark.parametrize("offset", [0, 1000])
def test_what_is_altered_or_missing_on_its_way_is_no_backup(nodes: Nodes, tmp_path: Path, offset: int) -> None:
    for changed in (b"", b"x" * PIECE_BYTES):
        nodes.on_read = lambda at, changed=changed: changed if at == offset else None  # type: ignore[misc]
        status, stdout, stderr = outcome(run("backup", str(tmp_path / "b")))
        assert (status, stdout, stderr.count("\n"), list(tmp_path.iterdir())) == (1, "", 1, [])
        assert stderr.startswith("zraft-cli: what n2 sent is no whole snapshot: ")


def test_ctrl_c_leaves_nothing(nodes: Nodes, tmp_path: Path) -> None:
    def interrupt(offset: int) -> None:
        if offset == 1000:
            raise KeyboardInterrupt

    nodes.on_read = interrupt
    assert outcome(run("backup", str(tmp_path / "b"))) == (130, "", "zraft-cli: interrupted\n")
    assert list(tmp_path.iterdir()) == []


def test_a_terminal_sees_the_progress() -> None:
    class Terminal:
        text = ""

        def isatty(self) -> bool:
            return True

        def write(self, text: str) -> int:
            self.text += text
            return len(text)

        def flush(self) -> None:
            return

    terminal = Terminal()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.stderr", terminal)
        with backup.progress_bar("n2 -> b") as show:
            show(1000, 4000)
            show(4000, 4000)
            show(500, 5000)  # begun again
            show(5000, 5000)
    assert "n2 -> b" in terminal.text and "25%" in terminal.text and "100%" in terminal.text
