"""zraft-cli members: who belongs to the cluster, and changes of that, watched until they are complete."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from zraft.cli import output
from zraft.cli.common import ExitStatus, Failure, Group, need_answer
from zraft.config import parse_address, parse_node_id

if TYPE_CHECKING:
    from zraft.cli.main import Session
    from zraft.client.sync import Client

POLL_SECONDS = 0.1
STATUS_SECONDS = 0.5
"""How long a node may take to say where it is, while a change is watched."""
BAR_WIDTH = 36

Report = Mapping[str, Any]
Fields = Mapping[str, Any]


class Addresses(NamedTuple):
    """What `--node ID PEER CLIENT` says."""

    node: str
    peer: str
    client: str


def _node_id(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return parse_node_id(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _node_ids(_context: click.Context, _parameter: click.Parameter, value: str) -> tuple[str, ...]:
    try:
        return tuple(dict.fromkeys(parse_node_id(part.strip()) for part in value.split(",")))
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _address(_context: click.Context, _parameter: click.Parameter, value: str) -> str:
    try:
        return parse_address(value)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def _new_nodes(
    _context: click.Context, _parameter: click.Parameter, values: Sequence[tuple[str, str, str]]
) -> list[Addresses]:
    try:
        return [Addresses(parse_node_id(node), parse_address(peer), parse_address(at)) for node, peer, at in values]
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


@click.group("members", cls=Group)
def members_group() -> None:
    """The members of the cluster, and changes of them while it serves.

    A change is made by the leader, step by step, and goes on if this program ends or another node becomes the leader.
    One change at a time. A new node is first a learner, which receives the log; it votes once it has caught up.
    """


@members_group.command("list")
@click.pass_obj
def list_command(session: Session) -> None:
    """Print the members as the leader knows them, or without a leader, the node that is furthest.

    MATCH is the log entry up to which a member holds the log. A change that is under way is told on stderr.
    """
    with session.connect() as client:
        best = _best(client.status(all_members=True), must=True)
    members = _with_leader(best)
    if session.as_json:
        output.print_json(members)
    else:
        rows = [
            (
                member["id"],
                _role(member),
                *(output.shown(member.get(name)) for name in ("peer", "client", "match_index")),
            )
            for member in members
        ]
        output.print_table(("ID", "ROLE", "PEER", "CLIENT", "MATCH"), rows)
    if best.get("change"):
        click.echo(f"a change is under way, to voters {_listed(best['change']['target'])}", err=True)


@members_group.command("add")
@click.argument("node", metavar="ID", callback=_node_id)
@click.option("--peer", required=True, metavar="ADDR", callback=_address, help="Where other nodes reach it.")
@click.option("--client", required=True, metavar="ADDR", callback=_address, help="Where clients reach it.")
@click.option("--learner", is_flag=True, help="Leave it a learner, without a vote, until `members promote`.")
@click.pass_obj
def add_command(session: Session, node: str, peer: str, client: str, learner: bool) -> None:
    """Add the node ID, which runs with `join: true` and waits, and show how it catches up until it votes.

    It is refused, and nothing is changed, unless it is that node which answers at both addresses, and it is empty.
    """
    learners = [node] if learner else []
    goal = Goal(f"{node} is {'a learner' if learner else 'a voting member'}", [] if learner else [node], learners, [])
    _change(session, goal, lambda cluster: cluster.add_member(node, peer, client, learner=learner))


@members_group.command("remove")
@click.argument("node", metavar="ID", callback=_node_id)
@click.pass_obj
def remove_command(session: Session, node: str) -> None:
    """Take the node ID out of the cluster; a leader hands over first. Then stop it: it has no part in anything more.

    Of a node that is still catching up, this cancels the adding.
    """
    goal = Goal(f"{node} is no member any more", [], [], [node])
    _change(session, goal, lambda cluster: cluster.remove_member(node))


@members_group.command("promote")
@click.argument("node", metavar="ID", callback=_node_id)
@click.pass_obj
def promote_command(session: Session, node: str) -> None:
    """Make a voting member of the learner ID, once it has caught up."""
    goal = Goal(f"{node} is a voting member", [node], [], [])
    _change(session, goal, lambda cluster: cluster.promote_member(node))


@members_group.command("set")
@click.argument("nodes", metavar="ID,ID,...", callback=_node_ids)
@click.option(
    "--node",
    "new",
    nargs=3,
    multiple=True,
    metavar="ID PEER CLIENT",
    callback=_new_nodes,
    help="The addresses of one that is no member yet; may be repeated.",
)
@click.pass_obj
def set_command(session: Session, nodes: tuple[str, ...], new: list[Addresses]) -> None:
    """Have exactly these voting members, from whichever there are, in one step."""
    goal = Goal(f"the voting members are {_listed(nodes)}", list(nodes), [], [], exactly=True)
    added = {node: {"peer": peer, "client": at} for node, peer, at in new}
    _change(session, goal, lambda cluster: cluster.set_members(nodes, added))


# ---- watching a change --------------------------------------------------------------------------------------------


class Goal(NamedTuple):
    """When a change is complete: these vote (`exactly`: and no others), these are learners, these no members."""

    words: str
    voters: Sequence[str]
    learners: Sequence[str]
    gone: Sequence[str]
    exactly: bool = False

    def is_reached(self, best: Report) -> bool:
        """By what the leader says."""
        roles = {member["id"]: member["role"] for member in best["members"]}
        voters = {node for node, role in roles.items() if role == "voter"}
        return (
            not best.get("change")
            and (voters == set(self.voters) if self.exactly else voters >= set(self.voters))
            and all(roles.get(node) == "learner" for node in self.learners)
            and not any(node in roles for node in self.gone)
        )


def _change(session: Session, goal: Goal, begin: Callable[[Client], int]) -> None:
    """Begin a change, watch it, and say how it ended."""
    fate = "may have begun"
    try:
        with session.connect() as client:
            index = begin(client)
            fate = "goes on without this program"
            best = _watch(client, goal, index, session.timeout)
    except KeyboardInterrupt:
        raise Failure(f"interrupted; the change {fate}: see `members list`", ExitStatus.INTERRUPTED) from None
    if session.as_json:
        output.print_json({"index": index, "members": _with_leader(best)})
    else:
        click.echo(goal.words)


def _watch(client: Client, goal: Goal, index: int, timeout: float) -> Any:
    """Show how a change, whose first entry is `index`, comes on; returns the leader's status once it is complete.

    Ends the program when for `timeout` seconds nothing moved, or if somebody else ended the change another way.
    """
    seen: object = None
    deadline = 0.0
    with _Display() as display:
        while True:
            reports = client.status(all_members=True, timeout=STATUS_SECONDS)
            best = _best(reports)
            if best is not None and best["role"] == "leader" and best["commit_index"] >= index:
                if goal.is_reached(best):
                    return best
                if not best.get("change"):
                    raise Failure(f"the change ended without that: {_members_in_words(best)}", ExitStatus.NO)
                display.show(best)
            now = time.monotonic()
            moved = _signs_of_progress(best, reports)
            if moved != seen or not deadline:
                seen, deadline = moved, now + timeout
            elif now >= deadline:
                raise Failure(_why_stuck(best, timeout), ExitStatus.NO_ANSWER)
            time.sleep(POLL_SECONDS)


def _signs_of_progress(best: Report | None, reports: Sequence[Report]) -> object:
    """What changes as long as a change comes on: its steps, and how much of the log or of a snapshot who joins has."""
    if best is None or not best.get("change"):
        return None
    joining = {member["id"] for member in best["members"] if member["role"] == "learner"}
    matches = [member.get("match_index") for member in best["members"] if member["id"] in joining]
    received = [
        tuple(report.get(name) for name in ("role", "last_index", "snapshots_unfinished", "loading"))
        for report in reports
        if report.get("node") in joining
    ]
    return best["change"], best.get("members_index"), matches, received


def _why_stuck(best: Report | None, timeout: float) -> str:
    """For people."""
    what = f"nothing moved for {timeout:g} s"
    if best is None or best["role"] != "leader":
        return f"{what}: there is no leader that answers; the change may go on: see `members list`"
    late = [member["id"] for member in best["members"] if member["role"] == "learner" and not member.get("active")]
    if late:
        it = _listed(late)
        return (
            f"{what}: {it} does not answer the leader. The change waits for it; `members remove {late[0]}` cancels it"
        )
    silent = [member["id"] for member in best["members"] if member.get("active") is False]
    if silent:
        return (
            f"{what}: {_listed(silent)} does not answer the leader. Start it, or give the change up: `members set` "
            "with the present voters"
        )
    return f"{what}; the change goes on: see `members list`"


def is_terminal() -> bool:
    """Whether somebody looks."""
    return sys.stderr.isatty()


class _Display:
    """A bar of how far who joins is, redrawn on a terminal; elsewhere one line for each step. On stderr."""

    def __init__(self) -> None:
        self._is_terminal = is_terminal()
        self._line = ""

    def __enter__(self) -> _Display:
        return self

    def __exit__(self, *_error: object) -> None:
        if self._is_terminal and self._line:
            click.echo("\r\x1b[K", err=True, nl=False)

    def show(self, best: Report) -> None:
        """The leader's view."""
        change, last_index = best["change"], best["last_index"]
        late = [one for one in best["members"] if one["role"] == "learner" and one["id"] in change["target"]]
        if change["joint"] or not late:
            line = f"switching to voters {_listed(change['target'])}"
        elif self._is_terminal:
            parts = [f"{one['id']} {_bar(one.get('match_index') or 0, last_index)}" for one in late]
            line = "  ".join(parts)
        else:
            line = f"{_listed([one['id'] for one in late])}: catching up with {last_index} log entries"
            if self._line.endswith("log entries"):
                return  # one such line is enough where lines stay
        if line != self._line:
            self._line = line
            click.echo(f"\r{line}\x1b[K" if self._is_terminal else line, err=True, nl=not self._is_terminal)


def _bar(match_index: int, last_index: int) -> str:
    share = min(1.0, match_index / last_index) if last_index else 1.0
    full = int(share * BAR_WIDTH)
    return f"[{'#' * full}{'-' * (BAR_WIDTH - full)}] {share:4.0%}  {match_index} of {last_index} entries"


# ---- words --------------------------------------------------------------------------------------------------------


def _best(reports: Sequence[Report], must: bool = False) -> Any:
    """The report to believe about the members, or None (`must`: ends the program where there is none)."""
    from zraft.client.survey import who_knows_best

    best = who_knows_best(reports)
    if must and best is None:
        need_answer(reports)
        raise Failure("no node that answers knows the members yet", ExitStatus.NO_ANSWER)
    return best


def _with_leader(best: Report) -> list[dict[str, Any]]:
    """The members as JSON: who leads has the role "leader"."""
    return [
        {**member, "role": "leader" if member["id"] == best["leader"] else member["role"]} for member in best["members"]
    ]


def _role(member: Fields) -> str:
    words = str(member["role"])
    if member.get("outgoing"):
        words += ", leaves"
    if member.get("active") is False:
        words += ", silent"
    return words


def _members_in_words(best: Report) -> str:
    return ", ".join(f"{member['id']} ({member['role']})" for member in best["members"])


def _listed(nodes: Sequence[str]) -> str:
    return ", ".join(nodes)
