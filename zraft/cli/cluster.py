"""zraft-cluster: all nodes of a cluster in one terminal."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from zraft.cli.common import Command, ExitStatus, Failure, leader_in, version_option
from zraft.cli.output import align, shown
from zraft.cli.processes import NodeProcess, Signals, stop_all
from zraft.cli.templates import write_configs
from zraft.config import Config, load_config

if TYPE_CHECKING:
    from zraft.client.sync import Client

PROGRAM = "zraft-cluster"
CHECKOUT = Path(__file__).resolve().parents[2]
"""The folder of the checkout, if the program runs from one."""

_POLL_SECONDS = 0.5


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--configs",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A node's configuration file, or a folder of them (those with `join: true` are left out); may be repeated. "
    "Default: the folder configs/.",
)
@click.option(
    "--init",
    type=click.Path(path_type=Path, file_okay=False),
    metavar="DIR",
    help="Write the configuration files of a cluster of three on this machine to DIR, and start nothing.",
)
@version_option(PROGRAM)
def cli(configs: tuple[Path, ...], init: Path | None) -> None:
    """Run all nodes of a cluster in this terminal, and show how they are, until Ctrl-C.

    A node that dies is shown, not started again: do that yourself, with zraft-node and its configuration file. What
    a node logs goes to NODE.log, beside its data directory.
    """
    if init is not None:
        paths = write_configs(init)
        click.echo(f"wrote {', '.join(map(str, paths))}; next: {PROGRAM} --configs {shlex.quote(str(init))}")
        return
    settings = _load(configs)
    with Signals() as signals:
        status = Cluster(settings, signals).run()
    sys.exit(status)


def _load(given: Sequence[Path]) -> list[Config]:
    """The nodes to run: of a folder, those that do not join; by default those of the first folder configs/ there is.

    Raises ConfigError for a bad file, and Failure if there is none or two are of one node.
    """
    places = given or [folder for folder in (CHECKOUT / "configs", Path("configs")) if folder.is_dir()][:1]
    settings: list[Config] = []
    for place in places:
        if place.is_dir():
            settings += [config for config in map(load_config, sorted(place.glob("*.yaml"))) if not config.join]
        else:
            settings.append(load_config(place))
    if not settings:
        where = ", ".join(map(str, given)) or "configs"
        raise Failure(f"no configuration files in {where}; make some with: {PROGRAM} --init configs", ExitStatus.USAGE)
    seen: dict[str, Config] = {}
    for config in settings:
        other = seen.setdefault(config.node, config)
        if other is not config:
            raise Failure(f"{other.source} and {config.source} are both of the node {config.node}", ExitStatus.USAGE)
    return settings


class Row(NamedTuple):
    """What is shown of one node."""

    node: str
    role: str
    term: str
    commit: str
    pid: str
    note: str


class Cluster:
    """The nodes, what is known of them, and what of that stands on the screen."""

    def __init__(self, settings: Sequence[Config], signals: Signals) -> None:
        self._settings = settings
        self._signals = signals
        self._nodes = [NodeProcess(config) for config in settings]
        self._status: dict[str, Mapping[str, Any]] = {}
        self._had_leader = False
        self._ended: set[str] = set()
        self._screen = Screen()

    def run(self) -> ExitStatus:
        """Start the nodes, show them until the user asks to stop, end them. Raises ZraftError if one cannot start."""
        # pyzmq takes a while to import: not for --help, --version or bad files.
        from zraft.client.sync import Client

        endpoints = [config.cluster[config.node].client for config in self._settings if config.node in config.cluster]
        logs = ", ".join(_relative(node.log_path) for node in self._nodes)
        click.echo(f"{PROGRAM}: starting {', '.join(node.name for node in self._nodes)} (logs: {logs})")
        try:
            for node in self._nodes:
                node.start()
            with Client(endpoints) as client:
                return self._watch(client)
        finally:
            self._stop()

    def _watch(self, client: Client) -> ExitStatus:
        """Until the user asks to stop: DONE. Until every node has ended before there was a leader: NO."""
        while self._signals.stops == 0:
            self._status = {node["node"]: node for node in client.status() if not node.get("error")}
            self._tell_ends()
            self._screen.show([self._row(node) for node in self._nodes])
            leader = leader_in(list(self._status.values()))
            if leader is not None and not self._had_leader and leader["pid"] in self._pids():
                self._had_leader = True
                self._screen.say(self._what_next(leader))
            if not self._had_leader and not any(node.is_running for node in self._nodes):
                click.echo(f"{PROGRAM}: no node could run", err=True)
                return ExitStatus.NO
            self._signals.wait(_POLL_SECONDS if self._had_leader else _POLL_SECONDS / 5)
        return ExitStatus.DONE

    def _pids(self) -> list[int | None]:
        return [node.pid for node in self._nodes]

    def _tell_ends(self) -> None:
        """Say once of each node that ended how it did, and how to start it again."""
        for node in self._nodes:
            end = node.how_it_ended()
            if end and node.name not in self._ended:
                self._ended.add(node.name)
                again = f"{_program('zraft-node')} {_relative(node.config_path)}"
                self._screen.say(f"{node.name} {end}\n    to start it again: {again}")

    def _row(self, node: NodeProcess) -> Row:
        status = self._status.get(node.name)
        if status is not None:
            note = "" if status["pid"] == node.pid else "started elsewhere"
            role, term, commit, pid = (shown(status.get(field)) for field in ("role", "term", "commit_index", "pid"))
            return Row(node.name, role, term, commit, pid, note)
        if node.is_running:
            return Row(node.name, "-", "-", "-", shown(node.pid), "no answer")
        return Row(node.name, "-", "-", "-", "-", "ended")

    def _what_next(self, leader: Mapping[str, Any]) -> str:
        client = _program("zraft-cli")
        if any(config.source.parent != CHECKOUT / "configs" for config in self._settings):
            client += f" -c {_relative(self._settings[0].source)}"
        config = next(node.config_path for node in self._nodes if node.name == leader["node"])
        return "\n".join(
            (
                "",
                f"The cluster serves; {leader['node']} leads. In another terminal, try:",
                f"    {client} set greeting hello",
                f"    {client} get greeting",
                f"    {client} status",
                f"    kill -9 {leader['pid']}    # the leader; then `get` again: another one leads",
                f"    {_program('zraft-node')} {_relative(config)}    # and it is back",
                "Ctrl-C here ends all nodes.",
                "",
            )
        )

    def _stop(self) -> None:
        running = [node.name for node in self._nodes if node.is_running]
        if running:
            click.echo(f"{PROGRAM}: ending {', '.join(running)}")
        late = stop_all(self._nodes, self._signals)
        if late:
            click.echo(f"{PROGRAM}: killed {', '.join(late)}, which did not end in time", err=True)
        for name, status in self._status.items():
            if status["pid"] not in self._pids():
                click.echo(f"{PROGRAM}: {name} (pid {status['pid']}) was started elsewhere and goes on")
        if running:
            click.echo(f"{PROGRAM}: ended")


class Screen:
    """The table of nodes: redrawn in place on a terminal, else a line for each change of what matters."""

    def __init__(self) -> None:
        self._in_place = sys.stdout.isatty()
        self._height = 0
        self._shown: dict[str, Row] = {}

    def show(self, rows: Sequence[Row]) -> None:
        """Show the rows, if they tell anything new."""
        if self._in_place:
            self._redraw(rows)
            return
        for row in rows:
            without_commit = row._replace(commit="")
            if self._shown.get(row.node) != without_commit:
                self._shown[row.node] = without_commit
                cells = [f"{name} {value}" for name, value in row._asdict().items() if name not in ("node", "note")]
                parts = [cell for cell in cells if not cell.endswith(" -")] + [row.note] * bool(row.note)
                click.echo(f"{time.strftime('%H:%M:%S')} {row.node}: {', '.join(parts)}")

    def say(self, text: str) -> None:
        """Print `text` below the table; the next table comes below `text`."""
        click.echo(text)
        self._height = 0

    def _redraw(self, rows: Sequence[Row]) -> None:
        width = shutil.get_terminal_size().columns
        up = f"\x1b[{self._height}A" if self._height else ""
        lines = align([[name.upper() for name in Row._fields], *rows])
        # A line that wraps would make the table higher than it counts.
        click.echo(up + "\n".join(f"{line[: width - 1]}\x1b[K" for line in lines))
        self._height = len(lines)


def _program(name: str) -> str:
    """How the user runs the program `name`: from the checkout's bin/ if there is one."""
    script = CHECKOUT / "bin" / name
    return _relative(script) if script.is_file() else name


def _relative(path: Path) -> str:
    """`path` as the user would type it: seen from the current folder if that is no detour."""
    near = os.path.relpath(path)
    return shlex.quote(str(path) if near.startswith("../..") else near)


def main() -> None:
    """Run zraft-cluster with this process's arguments; never returns."""
    sys.exit(cli.main(prog_name=PROGRAM))


if __name__ == "__main__":
    main()
