"""Scenario files: what a script of verbs does to a few nodes, told line by line (docs/TESTING.md lists the verbs).

A file is made of comments (`#`), blank lines and blocks: commands, a line `----`, and what happened, up to the next
blank line. `run_scenario` carries out the commands of a file and gives back the file with what happened now.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from unittest.mock import patch

from cluster_harness import Node, Packet
from scenario_cluster import Scene
from scenario_words import KINDS, said_entries, said_members, said_packet, said_progress, said_status, said_write

from zraft.errors import ImpossibleState
from zraft.messages import Entry
from zraft.raft import Raft
from zraft.raft.change import ChangeRefused, parse_change

LIMITS = {
    "inflight": "zraft.raft.progress.MAX_INFLIGHT_MESSAGES",
    "run-bytes": "zraft.raft.log.MAX_RUN_BYTES",
    "piece-bytes": "zraft.raft.progress.SNAPSHOT_PIECE_BYTES",
    "window-bytes": "zraft.raft.progress.SNAPSHOT_WINDOW_BYTES",
}


class ScriptError(Exception):
    """A command that cannot be carried out: the script is wrong, or the cluster not where the script expects it."""


def run_scenario(text: str, check: bool = True) -> str:
    """The scenario with what its commands do now. check: whether the invariants of `cluster_invariants` must hold.

    Raises ScriptError, or AssertionError where an invariant is broken, with the line's number."""
    result: list[str] = []
    lines = text.splitlines()
    with ExitStack() as undo:
        script = Script(undo, check)
        position = 0
        while position < len(lines):
            line = lines[position]
            position += 1
            if line == "----":
                while position < len(lines) and lines[position]:
                    position += 1
                result += ["----", *(script.take_lines() or ["(nothing)"])]
                continue
            result.append(line)
            if line and not line.startswith("#"):
                try:
                    script.command(line)
                except ScriptError as error:
                    raise ScriptError(f"line {position}, {line!r}: {error}") from None
                except (AssertionError, ImpossibleState) as error:
                    told = "\n".join(script.take_lines())
                    raise AssertionError(f"line {position}, {line!r}: {error}\n{told}") from error
    if script.take_lines():
        raise ScriptError("the last commands have no ---- under them")
    return "\n".join(result) + "\n"


class Script:
    """Each method `do_...` is a verb; its arguments are the words after it."""

    def __init__(self, undo: ExitStack, check: bool) -> None:
        self.undo = undo
        self.check = check
        self.scene: Scene | None = None
        self.lives: dict[str, int] = {}  # of machines that joined: how often each began with an empty disk

    def command(self, line: str) -> None:
        words = line.split()
        quiet = words[0] == "quiet"
        verb, *arguments = words[1:] if quiet else words
        do: Callable[..., None] | None = getattr(self, "do_" + verb.replace("-", "_"), None)
        if do is None:
            raise ScriptError("there is no such verb")
        if self.scene:
            self.scene.quiet = quiet
        try:
            do(*arguments)
        except TypeError as error:
            if "positional argument" in str(error):
                raise ScriptError("wrong number of arguments") from None
            raise

    def take_lines(self) -> list[str]:
        if self.scene is None:
            return []
        lines, self.scene.lines = self.scene.lines, []
        return lines

    @property
    def cluster(self) -> Scene:
        if self.scene is None:
            raise ScriptError("a script begins with `nodes n1 n2 ...`")
        return self.scene

    def node(self, name: str) -> Node:
        if name not in self.cluster.nodes:
            raise ScriptError(f"there is no node {name}")
        return self.cluster[name]

    def names(self, words: Iterable[str]) -> tuple[str, ...]:
        return tuple(self.node(word).id for word in words)

    # --- the cluster and its clocks

    def do_nodes(self, *names: str) -> None:
        if list(names) != [f"n{number}" for number in range(1, len(names) + 1)]:
            raise ScriptError("nodes are named n1, n2, ...")
        self.scene = Scene(len(names), self.check)

    def do_given(self, name: str, *fields: str) -> None:
        """given n1 log=1,1,2 term=3 vote=n2"""
        values = dict(field.split("=") for field in fields)
        terms = [int(term) for term in values.get("log", "").split(",") if term]
        self.cluster.write_log(self.node(name).id, terms, int(values["term"]), values.get("vote"))

    def do_limit(self, what: str, value: str) -> None:
        if what not in LIMITS:
            raise ScriptError(f"there is no limit {what}, only {', '.join(LIMITS)}")
        self.undo.enter_context(patch(LIMITS[what], int(value)))

    def do_timeout(self, name: str, milliseconds: str) -> None:
        least, most = self.node(name).raft.settings.election_timeout_ms
        if not least <= _ms(milliseconds) <= most:
            raise ScriptError(f"election timeouts are {least} to {most} ms")
        self.node(name).rng.timeout_ms = _ms(milliseconds)
        self.node(name).raft.arm_election()

    def do_heartbeats(self, on_or_off: str) -> None:
        self.cluster.heartbeats = on_or_off == "on"

    def do_advance(self, milliseconds: str, *names: str) -> None:
        self.cluster.advance(_ms(milliseconds), self.names(names))

    def do_tick(self, milliseconds: str, *names: str) -> None:
        self.cluster.now_ms += _ms(milliseconds)
        self.cluster.tick(*[self.node(name) for name in names])

    def do_stabilize(self, *names: str) -> None:
        self.cluster.settle(*self.names(names))

    # --- members

    def do_join(self, name: str) -> None:
        """A machine with an empty disk waits to be added; in the place of one of that name, if there is one."""
        lives = self.lives[name] = self.lives.get(name, 0) + 1
        self.cluster.join(name, 100 * lives + int(name[1:]))

    def do_change(self, name: str, op: str, *nodes: str) -> None:
        """change n1 add n4, add-learner n4, remove n2, promote n4, set n1 n3 n4: asked of n1"""
        self.names(nodes)
        raft = self.node(name).raft
        new = [node for node in nodes if node not in raft.membership.members]
        at = {node: {"client": f"client {node}", "peer": f"peer {node}"} for node in new}
        fields: dict[str, object] = {"op": op.removesuffix("-learner")}
        if op == "set":
            fields |= {"voters": nodes, "nodes": at}
        else:
            fields |= {"id": nodes[0], **at.get(nodes[0], {}), "learner": op == "add-learner"}

        def begin(raft: Raft) -> str:
            try:
                change = parse_change(raft.membership, json.dumps(fields).encode())
                raft.change_members(change, {node: self.cluster[node].store_id for node in change.joining})
            except ChangeRefused as refusal:
                return str(refusal)
            return ""

        refusal = self.cluster.input(self.node(name), begin)
        if refusal:
            self.cluster.say(f"{name}: refuses, {refusal}")

    # --- one node

    def do_campaign(self, name: str) -> None:
        node = self.node(name)
        self.cluster.tick(node)  # if it was paused, it notices that first
        node.raft.election_deadline_ms = self.cluster.now_ms
        self.cluster.tick(node)

    def do_elect(self, name: str) -> None:
        """campaign, and all that follows until everybody knows of the leader and its first commit."""
        self.do_campaign(name)
        self.cluster.settle()
        self.cluster.advance(60, ())

    def do_propose(self, name: str, *commands: str) -> None:
        if self.cluster.propose(self.node(name), *[command.encode() for command in commands]) is None:
            self.cluster.say(f"{name}: refuses {', '.join(commands)}")

    def do_read(self, name: str, context: str) -> None:
        if not self.cluster.read(self.node(name), context):
            self.cluster.say(f"{name}: refuses read {context}")

    def do_transfer(self, name: str, target: str = "") -> None:
        refusal = self.cluster.input(self.node(name), lambda raft: raft.transfer_leadership(target))
        if refusal:
            self.cluster.say(f"{name}: refuses, {refusal}")

    def do_crash(self, name: str) -> None:
        """The process ends; what is queued for its disk is lost."""
        self.node(name).disk.queue.clear()
        self.node(name).disk.files.clear()
        self.cluster.stop(self.node(name))

    def do_restart(self, name: str, tail: str = "") -> None:
        node = self.node(name)
        if node.running:
            self.do_crash(name)
        self.cluster.start(node, int(tail) if tail else None)

    def do_restart_log_writer(self, name: str) -> None:
        """The actor that owns the disk dies with its queue; its successor says what is durable."""
        node = self.node(name)
        node.disk.queue.clear()
        self.cluster.restart_log_writer(node)
        self.cluster.finish(node)

    def do_snapshot(self, name: str) -> None:
        """Its state machine takes one, which is durable when its disk has finished it."""
        if not self.node(name).applied:
            raise ScriptError("it has applied nothing")
        self.cluster.take_snapshot(self.node(name))

    def do_files(self, name: str) -> None:
        """The owner of the snapshots does what it was asked for: writes and reads."""
        self.cluster.store(self.node(name))
        self.cluster.notify(self.node(name))

    def do_restart_snapshot_writer(self, name: str) -> None:
        """What it was asked for is lost, an unfinished snapshot too."""
        self.cluster.restart_snapshot_writer(self.node(name))
        self.cluster.finish(self.node(name))

    def do_wipe(self, name: str) -> None:
        node = self.node(name)
        if node.running:
            raise ScriptError("it runs")
        self.cluster.wipe(node)

    def do_disk(self, name: str, what: str = "all") -> None:
        """disk n1 (all that is queued), disk n1 2 (the next two), disk n1 stall | resume | full | space"""
        node = self.node(name)
        if what in ("stall", "resume"):
            node.disk.stalled = what == "stall"
        elif what in ("full", "space"):
            node.disk.stalled = what == "full"
            self.cluster.input(node, lambda raft: raft.on_disk_full(what == "full"))
        else:
            count = len(node.disk.queue) if what == "all" else int(what)
            if not 0 < count <= len(node.disk.queue):
                raise ScriptError(f"{len(node.disk.queue)} writes are queued")
            self.cluster.complete(node, count)
            self.cluster.finish(node)

    def do_disks(self) -> None:
        """Every disk finishes all that is queued."""
        for node in self.cluster.nodes.values():
            self.cluster.complete(node)
            self.cluster.finish(node)

    # --- the network

    def chosen(self, packets: list[Packet], words: tuple[str, ...]) -> list[Packet]:
        """[SENDER RECEIVER] [KIND ...] [#NUMBER]; * is any node. Raises ScriptError for none."""
        rest = list(words)
        found = list(packets)
        if rest and (rest[0] == "*" or rest[0] in self.cluster.nodes):
            ends = (rest.pop(0), rest.pop(0))
            found = [p for p in found if all(end in ("*", own) for end, own in zip(ends, p[:2], strict=True))]
        kinds = _kinds(word for word in rest if not word.startswith("#"))
        if kinds:
            found = [packet for packet in found if isinstance(packet.message, kinds)]
        for number in (int(word[1:]) for word in rest if word.startswith("#")):
            found = found[number - 1 : number]
        if not found:
            raise ScriptError("no such message is under way")
        return found

    def do_deliver(self, *words: str) -> None:
        packets = self.chosen(self.cluster.network, words)
        for name in dict.fromkeys(packet.receiver for packet in packets):
            self.cluster.deliver(*[packet for packet in packets if packet.receiver == name])

    def do_drop(self, *words: str) -> None:
        for packet in self.take(words):
            self.cluster.say(f"{said_packet(packet)}  (lost)")

    def take(self, words: tuple[str, ...]) -> list[Packet]:
        packets = self.chosen(self.cluster.network, words)
        taken = {id(packet) for packet in packets}
        self.cluster.network[:] = [packet for packet in self.cluster.network if id(packet) not in taken]
        return packets

    def do_double(self, *words: str) -> None:
        self.cluster.network += [Packet(*packet) for packet in self.chosen(self.cluster.network, words)]

    def do_hold(self, *words: str) -> None:
        for packet in self.take(words):
            self.cluster.say(f"{said_packet(packet)}  (held back)")
            self.cluster.held.append(packet)

    def do_release(self, *words: str) -> None:
        packets = self.chosen(self.cluster.held, words)
        self.cluster.held = [packet for packet in self.cluster.held if packet not in packets]
        self.cluster.network += packets

    def do_cut(self, sender: str, receiver: str) -> None:
        """Both ways."""
        a, b = self.names((sender, receiver))
        self.cluster.cut |= {(a, b), (b, a)}

    def do_cut_one_way(self, sender: str, receiver: str) -> None:
        self.cluster.cut.add((self.node(sender).id, self.node(receiver).id))

    def do_isolate(self, *names: str) -> None:
        self.cluster.isolate(*self.names(names))

    def do_lose(self, sender: str, receivers: str, *kinds: str) -> None:
        """From now on."""
        for receiver in tuple(self.cluster.nodes) if receivers == "*" else (receivers,):
            names = self.names((sender, receiver))
            self.cluster.lost_kinds.append((*names, _kinds(kinds)))

    def do_heal(self) -> None:
        self.cluster.heal()
        self.cluster.lost_kinds.clear()

    # --- to look at

    def do_status(self, *names: str) -> None:
        for name in self.names(names) or tuple(self.cluster.nodes):
            self.cluster.say(said_status(self.cluster[name]))

    def do_members(self, *names: str) -> None:
        for name in self.names(names) or tuple(self.cluster.nodes):
            self.cluster.say(said_members(self.cluster[name]))

    def do_progress(self, name: str) -> None:
        for peer, progress in self.node(name).raft.progress.items():
            self.cluster.say(said_progress(peer, progress))

    def do_log(self, *names: str) -> None:
        """The entries in memory and on disk."""
        for name in self.names(names) or tuple(self.cluster.nodes):
            node = self.cluster[name]
            base = node.raft.log.base_index
            entries = [node.entry(index) for index in range(base + 1, node.raft.log.last_index + 1)]
            after = f"after {base}/{node.raft.log.term(base)}: " if base else ""
            disk = node.disk.entries[base:]
            self.cluster.say(f"{name}  {after}{said_entries(base + 1, entries)}{_on_disk(base + 1, entries, disk)}")

    def do_terms(self, *names: str) -> None:
        """The logs as the paper draws them."""
        for name in self.names(names) or tuple(self.cluster.nodes):
            self.cluster.say(f"{name}  {' '.join(map(str, self.cluster[name].log_terms))}".rstrip())

    def do_under_way(self) -> None:
        """Messages and writes."""
        for packet in self.cluster.network:
            self.cluster.say(said_packet(packet))
        for node in self.cluster.nodes.values():
            for item in node.disk.queue:
                self.cluster.say(f"{node.id}: to disk: {said_write(item)}")


def _on_disk(first: int, entries: list[Entry], disk: list[Entry]) -> str:
    return "" if entries == disk else f"  (on disk: {said_entries(first, disk)})"


def _kinds(words: Iterable[str]) -> tuple[type, ...]:
    chosen = tuple(words)
    for word in chosen:
        if word not in KINDS:
            raise ScriptError(f"there is no kind of message {word}")
    return tuple(KINDS[word] for word in chosen)


def _ms(text: str) -> int:
    if not text.endswith("ms"):
        raise ScriptError(f"{text}: times end in ms")
    return int(text[:-2])
