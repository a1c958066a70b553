"""zraft-bench: how fast a cluster is, and where the time and the CPU go."""

from __future__ import annotations

import functools
import ipaddress
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar
from urllib.parse import urlsplit

import click

from zraft.cli.common import ExitStatus, Failure, Group, cluster_options, endpoints_of, terminable, version_option
from zraft.cli.output import print_json
from zraft.statemachine.codec import MAX_VALUE_BYTES

if TYPE_CHECKING:
    from zraft.bench.run import Measured, Workload
    from zraft.client.sync import Client

PROGRAM = "zraft-bench"
SAMPLE_EVERY = 16
MAX_KEYS = 10_000_000

Function = TypeVar("Function", bound=Callable[..., Any])
Which = tuple[tuple[str, ...], Path | None]


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"]})
@cluster_options
@version_option(PROGRAM)
@click.pass_context
def cli(context: click.Context, endpoint: tuple[str, ...], config: Path | None) -> None:
    """Measure a cluster: operations a second, latencies, and the CPU that they cost, by thread.

    Starts three nodes of its own on this machine, in a temporary folder, and ends them. With -e or -c it loads a
    cluster that runs already, and leaves the keys that it writes there, all below `bench/`.

    Exit status: 0 done; 1 operations failed; 2 usage; 3 no answer.
    """
    context.obj = (endpoint, config)


class Options(NamedTuple):
    """What all commands share."""

    concurrency: int
    clients: int
    rate: float
    keys: int
    value_size: int
    duration: float
    warm_up: float
    as_json: bool
    plot: Path | None


def _picture(_context: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None and value.suffix not in (".html", ".png"):
        raise click.BadParameter(f"expected a name that ends with .html or .png, got {str(value)!r}")
    return value


def load_options(function: Function) -> Function:
    """The options of every command, handed to it as one `Options`."""

    @functools.wraps(function)
    def command(*arguments: Any, **named: Any) -> Any:
        options = Options(*(named.pop(name) for name in Options._fields))
        if options.concurrency < options.clients:
            raise click.UsageError(f"{options.clients} clients have at least {options.clients} operations in flight")
        return function(*arguments, options, **named)

    decorators = (
        click.option("-n", "--concurrency", type=click.IntRange(1, 100_000), default=64, show_default=True, metavar="N",
                     help="Operations at a time, over all clients (closed loop)."),
        click.option("--clients", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N",
                     help="Processes, each with one connection and one session."),
        click.option("--rate", type=click.FloatRange(min=0), default=0.0, metavar="OPS",
                     help="Open loop: begin so many operations a second, whatever became of those before, and count "
                     "the time of each from when it was due."),
        click.option("--keys", type=click.IntRange(1, MAX_KEYS), default=10_000, show_default=True, metavar="N",
                     help="Key space; all keys are written once before anything is measured."),
        click.option("--value-size", type=click.IntRange(0, MAX_VALUE_BYTES), default=256, show_default=True,
                     metavar="BYTES", help="Size of a value. Keys have 16 bytes."),
        click.option("--duration", type=click.FloatRange(min=0.1), default=10.0, show_default=True, metavar="S",
                     help="Measured seconds."),
        click.option("--warm-up", type=click.FloatRange(min=0), default=1.0, show_default=True, metavar="S",
                     help="Seconds of load before that."),
        click.option("--json", "as_json", is_flag=True, help="Print JSON."),
        click.option("--plot", type=click.Path(path_type=Path, dir_okay=False), callback=_picture,
                     metavar="FILE.html|FILE.png", help="Draw latency and throughput over time."),
    )  # fmt: skip
    for decorator in reversed(decorators):
        command = decorator(command)
    return command  # type: ignore[return-value]  # click's decorators return what they are given


@cli.command("put")
@load_options
@click.pass_obj
def put_command(which: Which, options: Options) -> None:
    """Set random keys: durable writes, through the log.

    Example: zraft-bench put -n 256 --duration 30 --plot put.html
    """
    _run(which, _workload("put", 1.0, options), options)


@cli.command("get")
@load_options
@click.pass_obj
def get_command(which: Which, options: Options) -> None:
    """Get random keys: linearizable reads.

    Example: zraft-bench get -n 1
    """
    _run(which, _workload("get", 0.0, options), options)


@cli.command("mixed")
@click.option("--reads", type=click.IntRange(0, 100), default=90, show_default=True, metavar="PERCENT",
              help="Share of gets; the others are puts.")  # fmt: skip
@load_options
@click.pass_obj
def mixed_command(which: Which, options: Options, reads: int) -> None:
    """Get and set random keys at the same time.

    Example: zraft-bench mixed --reads 50 --rate 2000
    """
    _run(which, _workload("mixed", 1 - reads / 100, options), options)


@cli.command("profile")
@load_options
@click.pass_obj
def profile_command(which: Which, options: Options) -> None:
    """Set random keys, and show where a write's time goes, stage by stage.

    The nodes time some of the writes on their way from the client's frame to the answer. With -e or -c their
    configuration must say `profile: N` (every Nth write).

    Example: zraft-bench profile -n 1
    """
    _run(which, _workload("put", 1.0, options), options, with_stages=True)


def _workload(name: str, put_share: float, options: Options) -> Workload:
    # Not before it is known that there is no usage error: ZeroMQ takes a while to import.
    from zraft.bench.run import Workload

    return Workload(
        name, put_share, options.concurrency, options.clients, options.rate, options.keys, options.value_size,
        options.duration, options.warm_up,
    )  # fmt: skip


# --- the cluster


@contextmanager
def _cluster(which: Which, profile: int) -> Iterator[Client]:
    """A client of the cluster that is meant, which is started, and ended in the end, if none is."""
    from zraft.client.sync import Client

    if any(which):
        with Client(endpoints_of(*which)) as client:
            yield client
        return
    from zraft.testing import Cluster

    with Cluster(3, chaos=False, profile=profile) as cluster:
        _say(f"starts three nodes in {cluster.folder}")
        cluster.start()
        with cluster.client() as client:
            yield client


def _say(text: str) -> None:
    click.echo(text, err=True)


def _reports(client: Client) -> dict[str, dict[str, Any]]:
    reports = {report["node"]: report for report in client.status() if not report.get("error")}
    if not reports:
        raise Failure("no node answers; are they running, and are these their endpoints?", ExitStatus.NO_ANSWER)
    return reports


def _local_pids(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, int]:
    """Node -> process id, of those that run on this machine; the leader is marked."""
    from zraft.bench.run import LEADER

    return {
        node + LEADER * (report["role"] == "leader"): report["pid"]
        for node, report in reports.items()
        if _is_local(report["endpoint"])
    }


def _is_local(endpoint: str) -> bool:
    host = urlsplit(endpoint).hostname or ""
    try:
        return ipaddress.ip_address(socket.gethostbyname(host)).is_loopback
    except OSError:
        return False


def _threads(reports: Mapping[str, Mapping[str, Any]]) -> dict[str, str]:
    """What threads are called -> the actors in them."""
    from zraft.node import short_name

    groups = [group for report in reports.values() for group in report["threads"]]
    return {short_name(group): ", ".join(group) for group in groups}


# --- the run


def _run(which: Which, workload: Workload, options: Options, with_stages: bool = False) -> None:
    from zraft.bench.run import measure

    _check_plot(options.plot)
    with terminable(), _cluster(which, SAMPLE_EVERY if with_stages else 0) as client:
        reports = _reports(client)
        if with_stages:
            _check_profiled(reports)
        endpoints = [report["endpoint"] for report in reports.values()]

        def look() -> dict[str, Any]:
            return {node: report["profile"] for node, report in _reports(client).items()} if with_stages else {}

        measured = measure(workload, endpoints, _local_pids(reports), _say, look)
    _show(measured, _threads(reports), options, with_stages)
    if measured.outcome.errors or not measured.outcome.completed:
        raise Failure(f"{sum(measured.outcome.errors.values()):,} operations failed", ExitStatus.NO)


def _check_profiled(reports: Mapping[str, Mapping[str, Any]]) -> None:
    without = [node for node, report in reports.items() if "profile" not in report]
    if without:
        text = f"{', '.join(without)} times no writes: its configuration must say, for instance, `profile: 16`"
        raise Failure(text, ExitStatus.USAGE)


def _check_plot(plot: Path | None) -> None:
    """Now, and not when the run is over."""
    if plot is None:
        return
    if plot.suffix == ".png":
        from zraft.bench.page import find_browser

        find_browser()
    try:
        plot.touch()
    except OSError as error:
        raise Failure(f"{plot}: {error.strerror}", ExitStatus.USAGE) from error


def _show(measured: Measured, threads: Mapping[str, str], options: Options, with_stages: bool) -> None:
    from zraft.bench import page, report, stage_report

    times = stage_report.StageTimes(*measured.seen) if with_stages else None
    if options.plot is not None:
        page.write(measured, threads, options.plot)
    if options.as_json:
        stages = {} if times is None else {"profile": stage_report.as_json(times)}
        print_json({**report.as_json(measured, threads), **stages})
        return
    _echo(report.lines_of(measured, threads))
    if times is not None:
        _echo(["", f"{times.samples:,} writes were timed on their way:", ""])
        _echo(stage_report.lines_of(times, measured))


def _echo(lines: Sequence[str]) -> None:
    for line in lines:
        click.echo(line)


def main() -> None:
    """Run zraft-bench with this process's arguments; never returns."""
    sys.exit(cli.main(prog_name=PROGRAM))


if __name__ == "__main__":
    main()
