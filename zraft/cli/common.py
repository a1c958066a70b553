"""What the programs share: exit statuses, errors as one line, and how a cluster is named on the command line."""

from __future__ import annotations

import math
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from enum import IntEnum
from pathlib import Path
from typing import Any, TypeVar

import click

from zraft._version import __version__
from zraft.client.endpoints import resolve_endpoints
from zraft.config import load_config
from zraft.errors import ConfigError, OutcomeUnknown, Unavailable, ZraftError

Function = TypeVar("Function", bound=Callable[..., Any])


class ExitStatus(IntEnum):
    """The exit statuses of every program (DESIGN section 7)."""

    DONE = 0
    NO = 1
    """Absent, false, or refused."""
    USAGE = 2
    NO_ANSWER = 3
    """No answer in time, or no quorum."""
    INTERRUPTED = 130
    """Ended by Ctrl-C; what shells make of SIGINT."""


class Failure(click.ClickException):
    """Ends the program with one line on stderr and an exit status."""

    exit_code: int  # type: ignore[misc]  # one for each class to click, one for each failure here

    def __init__(self, message: str, status: ExitStatus) -> None:
        super().__init__(message)
        self.exit_code = int(status)
        # Asked here, where the command still runs: when it is shown, click has left the command.
        context = click.get_current_context(silent=True)
        self._program = context.find_root().info_name if context else "zraft"

    def show(self, file: Any = None) -> None:
        """Print it (click calls this)."""
        click.echo(f"{self._program}: {self.format_message()}", err=True, file=file)


class Command(click.Command):
    """A command whose errors of zraft's own become one line and the right exit status."""

    def invoke(self, ctx: click.Context) -> Any:
        """Run the command (click calls this)."""
        try:
            return super().invoke(ctx)
        except ZraftError as error:
            raise _failure(error) from error
        except KeyboardInterrupt:
            raise Failure("interrupted", ExitStatus.INTERRUPTED) from None


def _failure(error: ZraftError) -> Failure:
    if isinstance(error, OutcomeUnknown):
        return Failure(f"unknown outcome: {error}", ExitStatus.NO_ANSWER)
    if isinstance(error, Unavailable):
        return Failure(str(error), ExitStatus.NO_ANSWER)  # of a write it says that it was surely not applied
    return Failure(str(error), ExitStatus.USAGE if isinstance(error, ConfigError) else ExitStatus.NO)


class Group(click.Group):
    """A group whose commands are `Command` and whose subgroups are `Group`."""

    command_class = Command
    group_class = type


def version_option(program: str) -> Callable[[Function], Function]:
    """`--version`: prints the program and zraft's version."""
    return click.version_option(__version__, prog_name=program, message="%(prog)s %(version)s")


def cluster_options(function: Function) -> Function:
    """`-e ENDPOINT` and `-c CONFIG`: which cluster is meant. `endpoints_of` makes sense of them."""
    function = click.option(
        "-c",
        "--config",
        type=click.Path(path_type=Path),
        metavar="CONFIG",
        help="Take the endpoints from this node's configuration file.",
    )(function)
    return click.option(
        "-e",
        "--endpoint",
        multiple=True,
        metavar="ENDPOINT",
        help="A node to ask, like tcp://127.0.0.1:7101; may be repeated. "
        "Else: ZRAFT_ENDPOINTS (comma-separated), else the cluster of three on this machine.",
    )(function)


def timeout_option(default: float) -> Callable[[Function], Function]:
    """`--timeout S`, a number of seconds above 0."""
    return click.option(
        "--timeout",
        type=float,
        default=default,
        show_default=True,
        callback=_positive,
        metavar="S",
        help="Seconds to wait for an answer.",
    )


def _positive(_context: click.Context, _parameter: click.Parameter, value: float) -> float:
    if not (math.isfinite(value) and value > 0):
        raise click.BadParameter(f"expected a number of seconds above 0, got {value}")
    return value


def endpoints_of(endpoint: Sequence[str], config: Path | None) -> tuple[str, ...]:
    """The endpoints that `-e` and `-c` name together, else those in ZRAFT_ENDPOINTS, else the default ones.

    Raises ConfigError for a bad file and for what is no endpoint.
    """
    found = list(endpoint)
    if config is not None:
        found += [addresses.client for addresses in load_config(config).cluster.values()]
    return resolve_endpoints(found or None)


def leader_in(status: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """The entry of the leader in what `Client.status()` returned; of two that believe they lead, the later's."""
    leaders = [node for node in status if node.get("role") == "leader"]
    return max(leaders, key=lambda node: int(node["term"]), default=None)


def need_answer(status: Sequence[Mapping[str, Any]]) -> None:
    """End the program if no node answered."""
    if all(node.get("error") for node in status):
        raise Failure("no node answers; are they running, and are these their endpoints?", ExitStatus.NO_ANSWER)


@contextmanager
def terminable() -> Iterator[None]:
    """SIGTERM and SIGHUP end what runs as Ctrl-C does: with everything undone that it did, all it started ended."""

    def interrupt(_number: int, _frame: object) -> None:
        signal.raise_signal(signal.SIGINT)

    old = {number: signal.signal(number, interrupt) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        yield
    finally:
        for number, handler in old.items():
            signal.signal(number, handler)
