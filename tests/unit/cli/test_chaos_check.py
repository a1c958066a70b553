"""zraft-chaos check, and what zraft-chaos run refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from zraft.cli.chaos import cli


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin, prog_name="zraft-chaos")


def line(client: int, op: str, args: list[str], result: object, call: float, ret: float | None, outcome: str) -> str:
    fields = {"client": client, "op": op, "key": "k", "args": args, "result": result, "call": call, "ret": ret}
    return json.dumps({**fields, "outcome": outcome}) + "\n"


GOOD = line(1, "set", ["1"], None, 0, 1, "ok") + line(2, "get", [], "1", 2, 3, "ok")
STALE = GOOD + line(2, "get", [], None, 4, 5, "ok")


@pytest.fixture
def history(tmp_path: Path) -> Path:
    return tmp_path / "history.jsonl"


def test_a_linearizable_history(history: Path) -> None:
    history.write_text(GOOD)
    result = run("check", str(history))
    assert (result.exit_code, result.stdout) == (0, "linearizable: 2 operations on 1 keys\n")
    assert run("check", "-", stdin=GOOD).exit_code == 0


def test_one_that_is_not(history: Path) -> None:
    history.write_text(STALE)
    result = run("check", str(history))
    assert result.exit_code == 1
    assert "line 3: client 2 get -> null  [4 .. 5]" in result.stdout
    figures = json.loads(run("check", "--json", str(history)).stdout)
    assert (figures["verdict"], figures["key"], figures["operations"]) == ("not linearizable", "k", 3)
    assert 3 in figures["lines"]


def test_no_verdict_in_time(history: Path) -> None:
    history.write_text(GOOD)
    result = run("check", str(history), "--timeout", "1e-9")
    assert result.exit_code == 2 and result.stdout.startswith("no verdict: ")


@pytest.mark.parametrize("text", ["{", "[]\n", '{"op":"steal"}\n'])
def test_what_is_no_history(history: Path, text: str) -> None:
    history.write_text(GOOD + text)
    result = run("check", str(history))
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith(f"zraft-chaos: {history}: line 3: ") and len(result.stderr.splitlines()) == 1


def test_files_that_cannot_be_read(history: Path) -> None:
    assert run("check", str(history)).exit_code == 2
    history.write_bytes(b"\xff")
    result = run("check", str(history))
    assert result.exit_code == 2 and "not UTF-8" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [("--faults", "actors,meteors"), ("--faults", ","), ("--duration", "0"), ("--nodes", "4"), ("--clients", "0")],
)
def test_runs_that_are_none(arguments: tuple[str, str]) -> None:
    result = run("run", *arguments)
    assert result.exit_code == 2
    if "meteors" in arguments[1]:
        assert "'meteors'" in result.stderr and "partitions" in result.stderr


def test_a_place_for_the_history_that_is_none(tmp_path: Path) -> None:
    for option in ("--history", "--report"):
        result = run("run", "--duration", "1", option, str(tmp_path / "missing" / "file"))
        assert result.exit_code == 2 and "missing" in result.stderr and "Traceback" not in result.stderr
