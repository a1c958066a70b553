"""zraft-bench: what it refuses, and in which words, before it starts anything."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from zraft.cli.bench import cli


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="zraft-bench")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("put", "--plot", "x.pdf"), "expected a name that ends with .html or .png, got 'x.pdf'"),
        (("put", "--clients", "4", "-n", "3"), "4 clients have at least 4 operations in flight"),
        (("put", "--duration", "0"), "0.0 is not in the range x>=0.1"),
        (("mixed", "--reads", "101"), "101 is not in the range 0<=x<=100"),
        (("put", "--value-size", "2000000"), "2000000 is not in the range"),
        (("-e", "nonsense", "put"), "nonsense"),
        (("watch",), "No such command 'watch'"),
    ],
)
def test_mistakes(arguments: tuple[str, ...], words: str) -> None:
    result = invoke(*arguments)
    assert result.exit_code == 2
    assert words in result.stderr
    assert "Traceback" not in result.stderr


def test_a_plot_that_cannot_be_written_is_refused_before_the_run(tmp_path: Path) -> None:
    result = invoke("put", "--plot", str(tmp_path / "no" / "such" / "plot.html"))
    assert result.exit_code == 2
    assert "No such file or directory" in result.stderr


def test_nobody_answers() -> None:
    result = invoke("-e", "tcp://127.0.0.1:9", "get")
    assert result.exit_code == 3
    assert "no node answers" in result.stderr


@pytest.mark.parametrize("command", [[], ["put"], ["get"], ["mixed"], ["profile"]])
def test_help(command: list[str]) -> None:
    result = invoke(*command, "--help")
    assert result.exit_code == 0
    assert ("Example: zraft-bench" in result.output) is bool(command)
