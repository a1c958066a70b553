"""The cluster of the Raft core's tests (`cluster_harness`) that says, line by line, what happens in it.

Nothing happens by itself here either. Three things are made plain for readers: election timeouts are what the script
says, a message is told once (as it leaves, or as lost), and heartbeats are told only while the script asks for them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from random import Random
from typing import Any

from cluster_harness import Cluster, ModelDisk, Node, Packet
from model_disk import LogRead
from scenario_words import HEARTBEATS, is_told, said_entries, said_message, said_packet, said_write

from zraft.raft import Output, Raft, Write

TIMEOUT_MS = 300  # the randomized election timeout, for nodes of which the script says nothing else


class Timeouts(Random):
    """The core draws nothing else with `randint` than its election timeouts."""

    timeout_ms = TIMEOUT_MS

    def randint(self, a: int, b: int) -> int:
        return self.timeout_ms


class Scene(Cluster):
    """`lines`: what was said. `held`: messages that the script keeps back. `lost_kinds`: (sender, receiver, kinds)."""

    def __init__(self, size: int, check: bool = True) -> None:
        self.lines: list[str] = []
        self.quiet = True
        self.heartbeats = False
        self.settling = False
        self.held: list[Packet] = []
        self.lost_kinds: list[tuple[str, str, tuple[type, ...]]] = []
        self._commit: dict[str, tuple[Raft, int]] = {}
        super().__init__(size, check=check)
        self.drop = self.is_lost
        for name, node in self.nodes.items():
            node.rng = Timeouts(name)
            node.begin()
            self.tick(node)

    def join(self, name: str, store_id: int) -> Node:
        node = self.nodes[name] = Node(name, [], Timeouts(name))
        node.store_id = store_id
        node.begin()
        self.tick(node)
        return node

    def say(self, line: str) -> None:
        if not self.quiet:
            self.lines.append(line)

    # --- one node

    def input(self, node: Node, *inputs: Callable[[Raft], Any]) -> Any:
        was_running = node.running
        result = super().input(node, *inputs)
        if was_running and not node.running:
            self.say(f"{node.id}: stops: {node.stop_reason.removeprefix(f'{node.id}: ')}")
        return result

    def carry_out(self, node: Node, output: Output) -> None:
        for note in output.notes:
            if not note.startswith("members from entry 1 on"):  # the nodes that the script has named
                self.say(f"{node.id}: {note}")
        self.say_commit(node)
        for read_index, contexts in output.reads_ready:
            self.say(f"{node.id}: confirms read {', '.join(contexts)} at index {read_index}")
        if output.reads_refused:
            self.say(f"{node.id}: refuses read {', '.join(output.reads_refused)}")
        if output.write and is_told(output.write) and (node.disk.stalled or not self.settling):
            self.say(f"{node.id}: to disk: {said_write(output.write)}")
        super().carry_out(node, output)

    def say_commit(self, node: Node) -> None:
        raft, commit = self._commit.get(node.id, (node.raft, 0))
        if raft is not node.raft:
            commit = 0
        if node.raft.commit_index > commit:
            self.say(f"{node.id}: commits up to {node.raft.commit_index}")
        self._commit[node.id] = (node.raft, node.raft.commit_index)

    def send(self, node: Node, messages: Iterable[tuple[str, Any]]) -> None:
        for peer, message in messages:
            packet = Packet(node.id, peer, message)
            under_way = len(self.network)
            super().send(node, [(peer, message)])
            if not self.nodes[peer].running:
                del self.network[under_way:]
            lost = len(self.network) == under_way
            if self.heartbeats or type(message) not in HEARTBEATS:
                self.say(said_packet(packet) + ("  (lost)" if lost else ""))

    def is_lost(self, packet: Packet) -> bool:
        return any(
            packet.sender == sender and packet.receiver == receiver and isinstance(packet.message, kinds)
            for sender, receiver, kinds in self.lost_kinds
        )

    def deliver(self, *packets: Packet) -> None:
        if not self.settling:
            for packet in packets:
                gone = (packet.sender, packet.receiver) in self.cut or not self.nodes[packet.receiver].running
                end = "  (lost)" if gone else ""
                self.say(f"{packet.receiver} <- {packet.sender}  {said_message(packet.message)}{end}")
        super().deliver(*packets)

    def complete(self, node: Node, count: int | None = None) -> None:
        for item in list(node.disk.queue)[:count]:
            if is_told(item):
                done = "durable:" if isinstance(item, Write) else "has" if isinstance(item, LogRead) else "done:"
                self.say(f"{node.id}: {done} {said_write(item)}")
            super().complete(node, 1)

    def store(self, node: Node, count: int | None = None) -> None:
        for _ in range(len(node.disk.files) if count is None else count):
            before = node.disk.saved().index
            super().store(node, 1)
            if node.disk.saved().index > before:
                self.say(f"{node.id}: has the snapshot of {'{}/{}'.format(*node.disk.saved()[:2])}")

    def load(self, node: Node) -> None:
        super().load(node)
        self.say(f"{node.id}: loads the snapshot of {'{}/{}'.format(*node.disk.saved()[:2])}")

    def apply(self, node: Node) -> None:
        self.say(f"{node.id}: applies {said_entries(*node.applying[0])}")
        super().apply(node)

    def wipe(self, node: Node) -> None:
        """Its disk is replaced by an empty one while it is down."""
        node.disk = ModelDisk()
        if self.invariants:
            self.invariants.wiped = node.id

    # --- all of them

    def settle(self, *names: str) -> None:
        """These nodes (all by default), in turn, take in what they were sent, write, apply, until nothing is left."""
        chosen = names or tuple(self.nodes)
        self.settling = True
        try:
            for _ in range(1_000):
                busy = [name for name in chosen if self.turn(self.nodes[name], chosen)]
                if not busy:
                    return
            raise AssertionError("the cluster does not come to rest")
        finally:
            self.settling = False

    def turn(self, node: Node, senders: tuple[str, ...]) -> bool:
        """Returns whether there was anything to do."""
        packets = [packet for packet in self.network if packet.receiver == node.id and packet.sender in senders]
        if packets:
            self.deliver(*packets)
        writes = node.running and bool(node.disk.queue) and not node.disk.stalled
        if writes:
            self.complete(node)
        files = node.running and bool(node.disk.files) and not node.disk.stalled
        if files:
            self.store(node)
        return self.finish(node) or writes or files or bool(packets)

    def finish(self, node: Node) -> bool:
        """Consensus hears of its disk; the state machine loads or applies. Returns whether there was anything to do."""
        if node.running and node.must_load:
            self.load(node)
        busy = bool(node.done or node.filed or node.stands)
        self.notify(node)
        while node.running and node.applying:
            busy = True
            self.apply(node)
        return busy

    def advance(self, duration_ms: int, names: tuple[str, ...]) -> None:
        """Time passes, 10 ms at a step, in which these nodes (all by default) run; the others are paused."""
        for passed_ms in range(10, duration_ms + 10, 10):
            self.now_ms += 10
            said = len(self.lines)
            self.tick(*[self.nodes[name] for name in names])
            self.settle(*names)
            if len(self.lines) > said:
                self.lines.insert(said, f"[after {passed_ms} ms]")
