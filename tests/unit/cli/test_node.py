"""zraft-node: what it makes of its file, and of how the node ended."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import pytest
from click.testing import CliRunner, Result

from zraft import __version__
from zraft.cli.node import cli
from zraft.config import Config
from zraft.errors import StorageError

FILE = "node: n1\ndata_dir: x\ncluster: {n1: {client: 'tcp://127.0.0.1:1', peer: 'tcp://127.0.0.1:2'}}\n"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="zraft-node")


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """What zraft.node.run was called with; it returns 4, or raises StorageError for the log level error."""
    calls: list[tuple[str, str]] = []

    def fake_run(config: Config, log_level: str) -> int:
        calls.append((config.node, log_level))
        if log_level == "error":
            raise StorageError("var/n1: in use by process 7")
        return 4

    module = ModuleType("zraft.node")
    module.run = fake_run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "zraft.node", module)
    return calls


def test_it_runs_the_node_and_ends_with_its_status(tmp_path: Path, started: list[tuple[str, str]]) -> None:
    (tmp_path / "n1.yaml").write_text(FILE)
    assert run(str(tmp_path / "n1.yaml")).exit_code == 4
    assert run(str(tmp_path / "n1.yaml"), "--log-level", "debug").exit_code == 4
    assert started == [("n1", "info"), ("n1", "debug")]


def test_what_stops_the_node_is_one_line(tmp_path: Path, started: list[tuple[str, str]]) -> None:
    (tmp_path / "n1.yaml").write_text(FILE)
    result = run(str(tmp_path / "n1.yaml"), "--log-level", "error")
    assert (result.exit_code, result.stderr) == (1, "zraft-node: var/n1: in use by process 7\n")


def test_a_bad_file_is_one_line_and_starts_nothing(tmp_path: Path, started: list[tuple[str, str]]) -> None:
    (tmp_path / "n1.yaml").write_text(FILE + "nod: n1\n")
    for name, words in (("n1.yaml", ":4: nod: unknown key"), ("none.yaml", ": cannot read")):
        result = run(str(tmp_path / name))
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (2, "", 1)
        assert result.stderr.startswith(f"zraft-node: {tmp_path / name}{words}")
    assert started == []


def test_usage_and_version() -> None:
    assert run().exit_code == 2
    assert run("n1.yaml", "--log-level", "loud").exit_code == 2
    assert run("--version").stdout == f"zraft-node {__version__}\n"
