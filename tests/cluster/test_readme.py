"""The README's tour, typed as it stands there, prints what stands there; and no command is missing from the README."""

from __future__ import annotations

import os
import re
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import click
import pytest
from cluster import HOST, Cluster, Node

from zraft.cli import bench, chaos, main

README = (Path(__file__).parents[2] / "README.md").read_text()


def tour() -> list[tuple[str, str]]:
    """(command, output shown) of each `$` line of the section "Five minutes"."""
    section = README.split("## Five minutes")[1].split("\n## ")[0]
    block = [line[4:] for line in section.splitlines() if line.startswith("    ")]
    steps: list[tuple[str, str]] = []
    for line in block:
        if line.startswith("$ "):
            steps.append((line[2:], ""))
        else:
            command, shown = steps[-1]
            steps[-1] = (command, shown + line + "\n")
    return steps


def typed(cluster: Cluster, command: str) -> str:
    """What a `bin/...` command prints, against this cluster."""
    program, *arguments = shlex.split(command)
    module = {"bin/zraft-cli": "zraft.cli.main", "bin/zraft-chaos": "zraft.cli.chaos"}[program]
    environment = {**os.environ, "ZRAFT_ENDPOINTS": ",".join(cluster.endpoints)}
    done = subprocess.run(
        [sys.executable, "-m", module, *arguments], env=environment, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def netcat(node: Node, printf_argument: str) -> str:
    """What `printf ARGUMENT | nc -q1` prints: it sends, says that it has no more, and reads to the end."""
    with socket.create_connection((HOST, node.json_port), timeout=10) as connection:
        connection.sendall(printf_argument.replace("\\n", "\n").encode())
        connection.shutdown(socket.SHUT_WR)
        with connection.makefile() as answers:
            return answers.read()


def test_the_tour(cluster: Cluster) -> None:
    seen = []
    for command, shown in tour():
        seen.append(command.split()[0])
        if command.startswith("kill -9"):
            victim = cluster.leader()
            victim.kill()
        elif command.startswith("bin/zraft-node"):
            victim.start()
            cluster.wait_converged()
        elif command.startswith("printf"):
            assert netcat(cluster.nodes["n1"], shlex.split(command)[1]) == shown
        elif command != "bin/zraft-cluster":
            printed = typed(cluster, command)
            assert printed == shown or not shown, command
    assert {"kill", "printf", "bin/zraft-cli", "bin/zraft-chaos", "bin/zraft-node"} <= set(seen)


def command_names(group: click.Command, prefix: str) -> list[str]:
    if not isinstance(group, click.Group):
        return [prefix]
    return [name for key, sub in group.commands.items() for name in command_names(sub, f"{prefix} {key}")]


PROGRAMS = {"zraft-cli": main.cli, "zraft-chaos": chaos.cli, "zraft-bench": bench.cli}


@pytest.mark.parametrize("name", [name for prefix, cli in PROGRAMS.items() for name in command_names(cli, prefix)])
def test_every_command_is_in_the_readme(name: str) -> None:
    words = name.split()[1:]
    assert re.search(rf"`[^`\n]*\b{' '.join(words)}\b", README), name
