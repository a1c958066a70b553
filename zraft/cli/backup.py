"""zraft-cli compact, backup, restore: snapshots by hand, and out of the cluster and back."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import click

from zraft.cli import output
from zraft.cli.common import Command, ExitStatus, Failure, need_answer
from zraft.config import Config, load_config, parse_address, parse_node_id
from zraft.errors import InvalidRequest, OutcomeUnknown, StorageError, Unavailable

if TYPE_CHECKING:
    from zraft.cli.main import Session
    from zraft.client.requests import SavedSnapshot
    from zraft.client.sync import Client
    from zraft.offline import Survivor

SNAPSHOT_SECONDS = 600.0
"""How long a node may take over a snapshot."""
TRIES = 5
"""How often a backup begins again when the snapshot that it reads is replaced meanwhile."""

Show = Callable[[int, int], None]


@contextmanager
def progress_bar(label: str) -> Iterator[Show]:
    """A bar on stderr, for people: call what this yields with (bytes done, bytes in all)."""
    bar = None

    def show(done: int, total: int) -> None:
        nonlocal bar
        if bar is None:
            bar = click.progressbar(length=total, label=label, file=sys.stderr)
        bar.length = total
        bar.update(done - bar.pos)

    try:
        yield show if sys.stderr.isatty() else lambda done, total: None
    finally:
        if bar is not None:
            bar.render_finish()


def answering(status: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """The nodes that answered, first those whose state is loaded, followers before the leader: they have more time,
    and of those the one that is furthest. Ends the program if none did."""
    need_answer(status)
    nodes = [node for node in status if not node.get("error")]

    def rank(node: Mapping[str, Any]) -> tuple[bool, bool, int]:
        loading = bool(node.get("loading")) or node.get("last_applied") is None
        return loading, node.get("role") == "leader", -int(node.get("last_applied") or 0)

    return sorted(nodes, key=rank)


# --- compact


@click.command("compact", cls=Command)
@click.argument("nodes", nargs=-1, metavar="[NODE]...")
@click.pass_obj
def compact_command(session: Session, nodes: tuple[str, ...]) -> None:
    """Have each NODE (all that answer, if none is named) take a snapshot now, and let go of the log behind it.

    A node does so by itself, as its configuration's `snapshot` says. The log goes back to the snapshot before the last
    one, in case the last one is found damaged.
    """
    saved: dict[str, SavedSnapshot] = {}
    failures: list[Failure] = []
    with session.connect() as client:
        endpoints = {report["node"]: report["endpoint"] for report in answering(session.status_of(client))}
        for name in nodes:
            if name not in endpoints:
                names = ", ".join(sorted(endpoints))
                raise Failure(f"{name} does not answer; nodes that do: {names}", ExitStatus.NO_ANSWER)
        for name in dict.fromkeys(nodes or sorted(endpoints)):
            try:
                saved[name] = client.compact(endpoints[name], timeout=max(session.timeout, SNAPSHOT_SECONDS))
            except InvalidRequest as error:
                failures.append(Failure(f"{name}: {error}", ExitStatus.NO))
            except (OutcomeUnknown, Unavailable) as error:
                failures.append(Failure(f"{name}: {error}", ExitStatus.NO_ANSWER))
    if session.as_json:
        output.print_json([{"node": name, "index": index, "bytes": size} for name, (index, size) in saved.items()])
    elif saved:
        rows = [(name, str(index), str(size)) for name, (index, size) in saved.items()]
        output.print_table(("NODE", "SNAPSHOT", "BYTES"), rows)
    for failure in failures[:-1]:
        failure.show()
    if failures:
        raise failures[-1]


# --- backup


@click.command("backup", cls=Command)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, readable=False))
@click.option("--stale", is_flag=True, help="Take what one node has, without asking a majority: when that is lost.")
@click.pass_obj
def backup_command(session: Session, file: Path, stale: bool) -> None:
    """Write all keys, as they are at one moment, to the new file FILE.

    The backup holds every write that was acknowledged before the command began. It is a snapshot of one node, which
    goes on working meanwhile. `restore` makes a new cluster of it.
    """
    with _new_file(file) as target, session.connect() as client:
        revision = 0 if stale else client.revision()
        report = answering(session.status_of(client))[0]
        with progress_bar(f"{report['node']} -> {file.name}") as show:
            index, size = _copy(client, report, revision, target, show)
    if session.as_json:
        output.print_json({"file": str(file), "node": report["node"], "index": index, "bytes": size})
    else:
        click.echo(f"{file}: {size} bytes, the state of {report['node']} after log entry {index}")


@contextmanager
def _new_file(file: Path) -> Iterator[IO[bytes]]:
    """A file that gets its name, durably, when this is left without an error; else nothing is left of it. Only its
    owner may read it. Ends the program if there is one of that name already, or where it cannot be written."""
    if os.path.lexists(file):
        raise Failure(f"{file} exists; name another file, or remove it first", ExitStatus.NO)
    part: Path | None = None
    try:
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=f"{file.name}.", suffix=".part")
        part = Path(name)
        with open(handle, "wb") as target:
            yield target
            target.flush()
            os.fsync(target.fileno())
        _give_name(part, file)
    except FileExistsError:
        raise Failure(f"{file} exists; name another file, or remove it first", ExitStatus.NO) from None
    except OSError as error:
        raise Failure(f"{file}: cannot write it: {error.strerror}", ExitStatus.NO) from error
    finally:
        if part is not None:
            with suppress(OSError):
                part.unlink(missing_ok=True)


def _give_name(part: Path, file: Path) -> None:
    try:
        os.link(part, file)  # unlike a rename it replaces nothing that came there meanwhile
    except FileExistsError:
        raise
    except OSError:  # a file system without links
        if file.exists():
            raise FileExistsError from None
        os.rename(part, file)
    directory = os.open(file.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _copy(client: Client, report: Mapping[str, Any], revision: int, target: IO[bytes], show: Show) -> tuple[int, int]:
    """Have a snapshot taken and copy it. Returns its index and size."""
    node, endpoint = report["node"], report["endpoint"]
    for _ in range(TRIES):
        try:
            saved = client.compact(endpoint, revision, timeout=SNAPSHOT_SECONDS)
        except InvalidRequest as error:
            raise Failure(f"{node}: {error}", ExitStatus.NO) from error
        except OutcomeUnknown:
            continue  # an actor of the node was restarted
        target.seek(0)
        target.truncate()
        try:
            _copy_snapshot(client, endpoint, saved, target, show)
        except (InvalidRequest, OutcomeUnknown):
            continue  # a newer snapshot took its place
        except StorageError as error:
            raise Failure(f"what {node} sent is no whole snapshot: {error}", ExitStatus.NO) from error
        return saved
    raise Unavailable(f"{node} took a new snapshot each time before the last one was copied: try again later")


def _copy_snapshot(client: Client, endpoint: str, saved: SavedSnapshot, target: IO[bytes], show: Show) -> None:
    """Copy it, and check it on the way. Raises StorageError."""
    from zraft.storage import CorruptSnapshot, SnapshotParser

    parser, offset = SnapshotParser(), 0
    while offset < saved.size:
        data, _ = client.read_snapshot(endpoint, saved.index, offset)
        if not data:
            break
        parser.feed(data)
        target.write(data)
        offset += len(data)
        show(offset, saved.size)
    if not parser.complete:
        raise CorruptSnapshot(f"it stops after {offset} bytes, before its end")


# --- restore


class MemberType(click.ParamType):  # type: ignore[type-arg,unused-ignore]  # generic in some versions of click only
    """ID=CLIENT,PEER: a member of the new cluster."""

    name = "ID=CLIENT,PEER"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[str, str, str]:
        """(id, client address, peer address)."""
        node, equals, addresses = str(value).partition("=")
        client, comma, peer = addresses.partition(",")
        if not (node and equals and comma):
            self.fail(f"{value!r}: expected like n1=tcp://127.0.0.1:7101,tcp://127.0.0.1:7201", param, ctx)
        try:
            return parse_node_id(node), parse_address(client), parse_address(peer)
        except ValueError as error:
            self.fail(f"{value!r}: {error}", param, ctx)


def _check_members(members: Sequence[tuple[str, str, str]]) -> None:
    """No node and no address twice. Raises UsageError."""
    names = [name for name, *_ in members]
    addresses = [address for _, *pair in members for address in pair]
    for what, values in (("member", names), ("address", addresses)):
        for value in values:
            if values.count(value) > 1:
                raise click.UsageError(f"the {what} {value} is named twice")


@click.command("restore", cls=Command)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False, readable=False))
@click.option("--data-dir", type=click.Path(path_type=Path), help="The new data directory.")
@click.option("--node", help="The id of the node that will run on it.")
@click.option(
    "--cluster", "members", multiple=True, type=MemberType(), help="A member of the new cluster; once for each of them."
)
@click.pass_obj
def restore_command(
    session: Session, file: Path, data_dir: Path | None, node: str | None, members: tuple[tuple[str, str, str], ...]
) -> None:
    """Make the data directory of one node of a new cluster from the backup FILE. No node runs meanwhile.

    To be done for each node of the new cluster, with the same FILE and the same members, before any of them is
    started. With `zraft-cli -c CONFIG restore FILE` all three options are taken from the node's configuration.
    """
    _check_members(members)
    named: Mapping[str, tuple[str, str]] = {name: (client, peer) for name, client, peer in members}
    if session.config is not None:
        config = load_config(session.config)
        data_dir, node, named = data_dir or config.data_dir, node or config.node, named or config.cluster
    missing = [name for name, value in (("--data-dir", data_dir), ("--node", node), ("--cluster", named)) if not value]
    if data_dir is None or node is None or missing:
        raise click.UsageError(f"missing {' and '.join(missing)}; or let zraft-cli -c CONFIG restore FILE name them")
    # The state machine and msgpack are not for --help or a usage error.
    from zraft import offline
    from zraft.raft import Address

    addresses = {name: Address(*pair) for name, pair in named.items()}
    with progress_bar(f"{file.name} -> {data_dir}") as show:
        made = offline.restore(file, data_dir, node, addresses, show)
    if session.as_json:
        fields = {**made._asdict(), "cluster_id": f"{made.cluster_id:016x}"}
        output.print_json({"node": node, "data_dir": str(data_dir), **fields})
    else:
        click.echo(
            f"{data_dir}: {node} of the new cluster {made.cluster_id:016x} ({', '.join(addresses)}), "
            f"{made.keys} keys at revision {made.revision}"
        )


# --- a majority is lost


def confirm_new_cluster(config: Config, sure: bool) -> None:
    """zraft-node --force-new-cluster: say what is there and what can be lost, ask, do it. Ends the program on no.

    A node that is the only member already has nothing lost and nothing to ask: it just starts.
    """
    from zraft import offline
    from zraft.raft import Address

    offline.settle(config.data_dir)
    with offline.stopped_node(config.data_dir, config.node) as survivor:
        node, members = config.node, survivor.state.members
        for line in survivor.damaged:
            click.echo(line, err=True)
        if list(members.electorate) == [node]:  # learners decide nothing; who leaves by a joint configuration does
            words = "the only voting member" if members.learners else "the only member"
            click.echo(f"{node} is {words} of its cluster already: it starts as it is", err=True)
            return
        address = Address(*config.cluster[node]) if node in config.cluster else members.members.get(node)
        if address is None:
            raise Failure(f"{node} has no address: add it to `cluster` in {config.source}", ExitStatus.USAGE)
        _explain(survivor)
        if not sure and not _agrees(node):
            raise Failure("nothing was changed", ExitStatus.NO)
        made, old = offline.force_new_cluster(survivor, address)
    click.echo(f"new cluster {made.cluster_id:016x} of {node} alone; the old data is in {old}", err=True)


def _explain(survivor: Survivor) -> None:
    """What is there, and what can be lost."""
    node, (machine, term, members) = survivor.node, survivor.state
    click.echo(
        f"{node} holds {machine.key_count} keys at revision {machine.revision}, after log entry {machine.last_applied} "
        f"of term {term}; members: {members.describe()}.\n"
        f"It is about to become the only member of a new cluster that begins with exactly this.\n"
        f"- Writes that were acknowledged, but that {node} does not hold, are lost.\n"
        f"- Writes that {node} holds, but that were never acknowledged, take effect.\n"
        f"- The other members can never join with the data they have: empty their data directories first.\n"
        f"Do this only if a majority of the members is gone for good. The present data stays beside the new.",
        err=True,
    )


def _agrees(node: str) -> bool:
    try:
        answer = click.prompt("Type the id of this node to go on", err=True, default="", show_default=False)
    except click.Abort:  # Ctrl-C, or there is nobody to answer
        click.echo(err=True)
        return False
    return bool(answer == node)
