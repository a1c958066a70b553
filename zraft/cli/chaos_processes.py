"""The commands of zraft-chaos that act on a node's process. They signal a process that is that node's, or none."""

from __future__ import annotations

import os
import shlex
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple, NoReturn
from urllib.parse import urlsplit

import click

from zraft.cli.chaos_nodes import Number, Which, find, survey
from zraft.cli.common import Command, ExitStatus, Failure
from zraft.config import load_config
from zraft.errors import ConfigError

GONE_SECONDS = 5.0
"""How long a killed process may take to be gone."""

SECONDS = Number(0, 86_400, min_open=True)

PROC = Path("/proc")

_POLL_SECONDS = 0.01


class NodeOnThisMachine(NamedTuple):
    """A running node. pid: of its process. config: the file that it was started with."""

    pid: int
    config: Path


@click.command("kill-node", cls=Command)
@click.argument("node")
@click.pass_obj
def kill_node_command(which: Which, node: str) -> None:
    """Kill the process of NODE.

    At once, by SIGKILL, if it runs on this machine.

    Example: zraft-chaos kill-node n1
    """
    found = process_of(find(survey(which), node))
    _signal(node, found.pid, signal.SIGKILL)
    deadline = time.monotonic() + GONE_SECONDS
    while _config_of(node, found.pid) is not None:
        if time.monotonic() > deadline:
            raise Failure(f"{node} (process {found.pid}) is still there after {GONE_SECONDS:g} s", ExitStatus.NO_ANSWER)
        time.sleep(_POLL_SECONDS)
    click.echo(f"killed {node} (process {found.pid}); start it again: zraft-node {shlex.quote(str(found.config))}")


@click.command("pause", cls=Command)
@click.argument("node")
@click.option("--for", "seconds", type=SECONDS, required=True, metavar="S", help="Seconds.")
@click.pass_obj
def pause_command(which: Which, node: str, seconds: float) -> None:
    """Stop the process of NODE for S seconds.

    By SIGSTOP, then SIGCONT, if it runs on this machine. It goes on when the time is over, and as well when this
    command is ended by Ctrl-C, SIGTERM or SIGHUP.

    Example: zraft-chaos pause n1 --for 2.5
    """
    found = process_of(find(survey(which), node))
    with _ended_by_signals():
        started = time.monotonic()
        try:
            _signal(node, found.pid, signal.SIGSTOP)
            click.echo(f"{node} (process {found.pid}) stands still for {seconds:g} s; it goes on at once after Ctrl-C")
            time.sleep(seconds)
        finally:
            _signal(node, found.pid, signal.SIGCONT)
            click.echo(f"{node} goes on after {time.monotonic() - started:.1f} s")


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end what is inside as Ctrl-C does: by an exception, so that it is undone."""

    def interrupt(number: int, frame: Any) -> NoReturn:
        raise KeyboardInterrupt

    former = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in former.items():
            signal.signal(number, handler)


def _signal(node: str, pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise Failure(f"{node} (process {pid}) has ended", ExitStatus.NO) from None
    except PermissionError:
        raise Failure(f"{node} (process {pid}) belongs to another user, who has to do this", ExitStatus.NO) from None


# --- which process


def process_of(report: Mapping[str, Any]) -> NodeOnThisMachine:
    """The process of the node that said this of itself.

    Ends the program if it is none of this machine: the pid of a node elsewhere, or in a container, can be that of
    anything here."""
    node, pid = report["node"], int(report["pid"])
    host = urlsplit(report["endpoint"]).hostname or ""
    if not _is_this_machine(host):
        raise Failure(f"{node} runs at {host}, which is not this machine: do this there", ExitStatus.NO)
    config = _config_of(node, pid)
    if config is None:
        raise Failure(
            f"process {pid} of this machine is no zraft-node of {node}: "
            "it runs elsewhere, in a container or inside another program, so do this there",
            ExitStatus.NO,
        )
    return NodeOnThisMachine(pid, config)


def _is_this_machine(host: str) -> bool:
    """Whether one can listen at that host: that takes an address of one's own."""
    with socket.socket() as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _config_of(node: str, pid: int) -> Path | None:
    """The configuration file that process `pid` was started with; None if it is no zraft-node of that node."""
    command, folder = _command_of(pid)
    for position, argument in enumerate(command):
        if argument == "zraft.cli.node" or Path(argument).name == "zraft-node":
            return next((path for path in _paths(command[position + 1 :], folder) if _is_config_of(node, path)), None)
    return None


def _paths(arguments: list[str], folder: Path) -> Iterator[Path]:
    return (folder / argument for argument in arguments if not argument.startswith("-"))


def _is_config_of(node: str, path: Path) -> bool:
    try:
        return load_config(path).node == node
    except ConfigError:
        return False


def _command_of(pid: int) -> tuple[list[str], Path]:
    """The arguments of a process, program first, and the folder that it runs in; none if there is no such process."""
    process = PROC / str(pid)
    if (PROC / "self" / "cmdline").exists():
        try:
            command = (process / "cmdline").read_bytes().split(b"\0")[:-1]
            return [os.fsdecode(argument) for argument in command], Path(os.readlink(process / "cwd"))
        except OSError:
            return [], Path()
    # Elsewhere ps tells the arguments, not where one ends; a relative path is taken from here.
    shown = subprocess.run(["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False)
    return shown.stdout.split(), Path()


COMMANDS = (kill_node_command, pause_command)
