"""Some Raft nodes, their disks and the network between them, all in the test's hands.

Nothing happens by itself: messages lie in `Cluster.network` until they are delivered, writes in `ModelDisk.queue` (of
snapshots in `ModelDisk.files`) until they are completed, and time is a number. `settle` and `run` do the usual thing
for tests that do not care. After every step of a node the cluster's invariants are checked (`cluster_invariants`).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Mapping
from random import Random
from typing import Any, NamedTuple

from cluster_invariants import Invariants
from model_disk import CompactLog, LogRead, ModelDisk, ReadPiece, SaveSnapshot, Snapshot, StorePiece

from zraft.errors import NodeMustStop
from zraft.messages import TO_WHO_ASKED, Entry, EntryKind
from zraft.raft import Address, Durable, Membership, Output, Raft, Role, Settings, Write

SETTINGS = Settings(election_timeout_ms=(150, 300), heartbeat_ms=50, snapshot_keep=0)
START_MS = 1_000_000  # the monotonic clock of a machine that has been up for a while


class Packet(NamedTuple):
    """A message on its way. store_id: of the sender's data directory; meant_for: of the one it takes the receiver's to
    be (0: not said)."""

    sender: str
    receiver: str
    message: Any
    store_id: int = 0
    meant_for: int = 0


class Node:
    """One node: `raft` is replaced at a restart, `disk` stays, `applied` is its state machine."""

    def __init__(self, node_id: str, voters: Iterable[str], rng: Random) -> None:
        self.id = node_id
        self.rng = rng
        self.founding = Membership(0, {voter: Address(f"tcp://{voter}:1", f"tcp://{voter}:2") for voter in voters})
        self.disk = ModelDisk()
        self.store_id = 0
        self.done: deque[Callable[[], Any]] = deque()  # answers of the log_writer that consensus has not seen yet
        self.filed: deque[Callable[[], Any]] = deque()  # and of the snapshot_writer
        self.stands: deque[Callable[[], Any]] = deque()  # and of an applier that is new, or has loaded a snapshot
        self.must_load = False  # the applier is told to load a snapshot, or begins its life with that
        self.applied: list[Entry] = []
        self.applying: deque[tuple[int, tuple[Entry, ...]]] = deque()
        self.answers: list[tuple[int, Any]] = []  # (read index, context)
        self.refused: list[Any] = []
        self.notes: list[str] = []
        self.running = True
        self.stop_reason = ""
        self.lives = 0
        self.begin()

    def begin(self, tail: int | None = None) -> None:
        """A new life of consensus, from what is on disk and what the state machine has applied."""
        disk = self.disk
        term, vote = disk.hard_state or (0, None)
        applied = None if disk.snapshots else len(self.applied)  # it has to load one first, or to be asked
        fresh = disk.hard_state is None
        log, store_id = disk.log(tail), self.store_id
        durable = Durable(term, vote, log, fresh, applied, disk.saved(), disk.configs(), store_id)
        self.done.clear()
        self.filed.clear()
        self.stands.clear()
        self.applying.clear()
        disk.files = deque(item for item in disk.files if isinstance(item, SaveSnapshot))  # the applier's go on
        self.lives += 1
        self.raft = Raft(self.id, self.founding, durable, SETTINGS, self.rng)
        if applied is None and not self.must_load:
            self.stand()

    def stand(self) -> None:
        """The applier says what it holds. Only the answer to what it was asked last counts."""
        applied, time_ms = len(self.applied), max((entry.time_ms for entry in self.applied), default=0)
        self.stands.clear()
        self.stands.append(lambda raft: raft.on_applier_restarted(applied, time_ms))

    def entry(self, index: int) -> Entry:
        """From memory or, if it was let go of, from disk; from a snapshot up to the log's base."""
        log = self.raft.log
        if index >= log.tail_first:
            return log.slice(index, index)[0]
        entry = self.disk.holds(index) if index <= log.base_index else self.disk.entries[index - 1]
        assert entry, f"{self.id}: entry {index} is neither in its log nor in a snapshot"
        return entry

    @property
    def log_terms(self) -> list[int]:
        """From entry 1 on, whether it is in the log or in a snapshot."""
        return [self.entry(index).term for index in range(1, self.raft.log.last_index + 1)]


class Cluster:
    """Nodes n1..nN, `cut` links (directed), and what is under way."""

    def __init__(self, size: int, seed: int = 0, check: bool = True) -> None:
        self.rng = Random(seed)
        self.now_ms = START_MS
        self.network: list[Packet] = []
        self.cut: set[tuple[str, str]] = set()
        self.drop: Callable[[Packet], bool] = lambda packet: False
        self.sent: list[Packet] = []  # everything that ever left a node
        names = [f"n{number}" for number in range(1, size + 1)]
        self.nodes = {name: Node(name, names, Random(f"{seed}/{name}")) for name in names}
        self.invariants = Invariants(self.nodes) if check else None
        for node in self.nodes.values():
            self.input(node, lambda raft: raft.tick(self.now_ms))

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def join(self, name: str, store_id: int) -> Node:
        """A node with an empty disk, which waits to be added; in the place of one of that name, if there is one."""
        node = self.nodes[name] = Node(name, [], Random(f"{store_id}/{name}"))
        node.store_id = store_id
        node.begin()
        self.tick(node)
        return node

    # --- one node

    def input(self, node: Node, *inputs: Callable[[Raft], Any]) -> Any:
        """Give a node a batch of inputs and do with its output what its actors would. Returns the last one's result."""
        if not node.running:
            return None
        result: Any = None
        try:
            for function in inputs:
                result = function(node.raft)
        except NodeMustStop as error:
            node.stop_reason = str(error)
            self.stop(node)
            return None
        self.carry_out(node, node.raft.take_output())
        if self.invariants:
            self.invariants.after_step(node)
        return result

    def carry_out(self, node: Node, output: Output) -> None:
        if output.write:
            node.disk.queue.append(output.write)
        self.send(node, output.messages)
        if output.restore:
            assert not output.apply, f"{node.id}: entries for a state that is about to be replaced"
            node.applying.clear()
            node.stands.clear()
            node.must_load = True
        node.applying.extend(output.apply)
        for read_index, contexts in output.reads_ready:
            node.answers += [(read_index, context) for context in contexts]
        node.refused += output.reads_refused
        node.disk.queue.extend(LogRead(*read) for read in output.log_reads)
        node.disk.files.extend(StorePiece(*piece) for piece in output.snapshot_pieces)
        node.disk.files.extend(ReadPiece(*read) for read in output.snapshot_reads)
        if output.compact:
            if self.invariants:
                self.invariants.on_compact(node, output.compact)
            node.disk.queue.append(CompactLog(output.compact))
        node.notes += output.notes

    def send(self, node: Node, messages: Iterable[tuple[str, Any]]) -> None:
        for peer, message in messages:
            configs = [config for config in node.raft.configs_in_doubt() if peer in config.members]
            meant_for = configs[-1].stores.get(peer, 0) if configs else 0  # as consensus tells transport
            if type(message) in TO_WHO_ASKED:
                meant_for = node.raft.strangers.get(peer, meant_for)
            packet = Packet(node.id, peer, message, node.store_id, meant_for)
            if self.invariants:
                self.invariants.on_send(packet)
            self.sent.append(packet)
            if (node.id, peer) not in self.cut and not self.drop(packet):
                self.network.append(packet)

    def deliver(self, *packets: Packet) -> None:
        """To one receiver, in one batch. A packet need not come from the network; cut links swallow it."""
        taken = {id(packet) for packet in packets}
        self.network[:] = [packet for packet in self.network if id(packet) not in taken]
        arrived = [packet for packet in packets if (packet.sender, packet.receiver) not in self.cut]
        if arrived:
            steps = [
                lambda raft, p=packet: raft.step(p.sender, p.message, p.store_id, p.meant_for) for packet in arrived
            ]
            self.input(self.nodes[arrived[0].receiver], *steps)

    def complete(self, node: Node, count: int | None = None) -> None:
        """The disk finishes the first `count` items of its queue (all by default); replies go out at once, consensus
        hears of it by `notify`."""
        sequence = 0
        for _ in range(len(node.disk.queue) if count is None else count):
            item = node.disk.queue.popleft()
            if isinstance(item, Write):
                node.disk.write(item)
                self.send(node, item.replies)
                sequence = item.sequence
                continue
            if isinstance(item, CompactLog):
                node.disk.compact(item.through)
                continue
            if sequence:
                node.done.append(lambda raft, done=sequence: raft.on_appended(done))
                sequence = 0
            entries = node.disk.read(item.first)
            node.done.append(lambda raft, i=item, found=entries: raft.on_log_read(i.reader, i.first, found))
        if sequence:
            node.done.append(lambda raft: raft.on_appended(sequence))

    def take_snapshot(self, node: Node) -> None:
        """The applier takes one of what it has applied; when it is durable is the snapshot_writer's affair."""
        node.disk.files.append(SaveSnapshot(Snapshot.of(node.applied)))

    def store(self, node: Node, count: int | None = None) -> None:
        """The snapshot_writer does the first `count` things that it was asked for (all by default)."""
        disk = node.disk
        for _ in range(len(disk.files) if count is None else count):
            item = disk.files.popleft()
            if isinstance(item, ReadPiece):
                index, data, size = disk.read_piece(item.index, item.offset)
                read = (item.peer, index, item.offset, data, size)
                node.filed.append(lambda raft, read=read: raft.on_snapshot_read(*read))
                continue
            if isinstance(item, StorePiece):
                held = disk.store(item.piece)
                if held is not None:
                    written = (item.leader, item.piece.last_included_index, held)
                    node.filed.append(lambda raft, written=written: raft.on_snapshot_written(*written))
                    continue
            else:
                disk.save(item.snapshot)
            if self.invariants:
                self.invariants.on_saved(node)
            self.say_saved(node)

    def load(self, node: Node) -> None:
        """The applier loads the newest snapshot, if it goes further than its state."""
        node.must_load = False
        node.applying.clear()
        newest = node.disk.snapshots[-1:]
        if newest and newest[0].index > len(node.applied):
            node.applied = list(newest[0].state)
        node.stand()

    def notify(self, node: Node) -> None:
        """Consensus takes in what the log_writer, the snapshot_writer and the applier have to say."""
        events = [*node.done, *node.filed, *node.stands]
        node.done.clear()
        node.filed.clear()
        node.stands.clear()
        if events:
            self.input(node, *events)

    def apply(self, node: Node) -> None:
        """The state machine takes the next run of committed entries."""
        first, entries = node.applying.popleft()
        if self.invariants:
            self.invariants.on_apply(node, first, entries)
        node.applied += entries
        last = first + len(entries) - 1
        self.input(node, lambda raft: raft.on_applied(last))

    def stop(self, node: Node, written: int = 0, torn_parts: int = 0, filed: int = 0) -> None:
        """The process ends (SIGKILL, power cut): what is not durable is lost, the state machine too."""
        node.running = False
        node.disk.lose_files(filed)
        node.disk.lose_queue(written, torn_parts)
        node.done.clear()
        node.filed.clear()
        node.stands.clear()
        node.applying.clear()
        node.applied = []

    def start(self, node: Node, tail: int | None = None) -> None:
        """The applier loads its snapshot when the test lets it (`load`)."""
        node.running = True
        node.must_load = bool(node.disk.snapshots)
        try:
            node.begin(tail)
        except NodeMustStop as error:
            node.stop_reason = str(error)
            self.stop(node)
        self.tick(node)

    def restart_consensus(self, node: Node, written: int = 0, torn_parts: int = 0, tail: int | None = None) -> None:
        """It alone begins a new life. What the log_writer has not written yet is discarded; the snapshot_writer has
        done what it was asked for before it answers."""
        node.disk.lose_queue(written, torn_parts)
        for item in node.disk.files:
            if isinstance(item, StorePiece):
                node.disk.store(item.piece)
        if self.invariants:
            self.invariants.on_saved(node)
        node.begin(tail)
        self.tick(node)

    def restart(self, name: str) -> None:
        self.stop(self.nodes[name])
        self.start(self.nodes[name])

    def restart_log_writer(self, node: Node, written: int = 0, torn_parts: int = 0) -> None:
        """Consensus knows at once that it is gone; what is on disk it hears by `notify`."""
        node.disk.lose_queue(written, torn_parts)
        node.done.clear()
        found = node.disk.log()
        self.input(node, lambda raft: raft.on_log_writer_lost())
        node.done.append(lambda raft: raft.on_log_writer_restarted(found))

    def restart_applier(self, node: Node) -> None:
        """The state is gone, but for a snapshot. Consensus hears by `notify` what the new life holds."""
        node.applying.clear()
        node.stands.clear()
        node.applied = []
        self.input(node, lambda raft: raft.on_applier_lost())
        self.load(node)

    def restart_snapshot_writer(self, node: Node, filed: int = 0) -> None:
        """What it was asked for is lost, the unfinished snapshot too; consensus hears by `notify` what it has."""
        node.disk.lose_files(filed)
        if self.invariants:
            self.invariants.on_saved(node)
        self.say_saved(node)

    def say_saved(self, node: Node) -> None:
        """The snapshot_writer says which is the newest."""
        saved = node.disk.saved()
        node.filed.append(lambda raft: raft.on_snapshot_saved(saved))

    def tick(self, *nodes: Node) -> None:
        for node in nodes or self.nodes.values():
            self.input(node, lambda raft: raft.tick(self.now_ms))

    # --- all of them

    def settle(self) -> None:
        """Complete, deliver and apply all that is under way, until nothing is."""
        for _ in range(10_000):
            busy = False
            for node in self.nodes.values():
                if node.running and node.disk.queue and not node.disk.stalled:
                    self.complete(node)
                if node.running and node.disk.files and not node.disk.stalled:
                    self.store(node)
                if node.running and node.must_load:
                    self.load(node)
                busy = busy or bool(node.done or node.filed or node.stands)
                self.notify(node)
                while node.running and node.applying:
                    self.apply(node)
            if self.network:
                self.deliver(self.network[0])
            elif not busy:
                return
        raise AssertionError("the cluster does not come to rest")

    def run(self, duration_ms: int, until: Callable[[], Any] | None = None, settle: bool = True) -> bool:
        """Let time pass, 10 ms at a step. Returns whether `until` came true."""
        end_ms = self.now_ms + duration_ms
        while self.now_ms < end_ms:
            self.now_ms += 10
            self.tick()
            if settle:
                self.settle()
            if until and until():
                return True
        return False

    def elect(self, name: str) -> Node:
        """Let this node's election timeout be the first to pass; no leader may be alive."""
        node = self.nodes[name]
        least, most = SETTINGS.election_timeout_ms
        for raft in (other.raft for other in self.nodes.values() if other.raft.role is not Role.LEADER):
            raft.election_deadline_ms = self.now_ms + least + 10 + (0 if raft is node.raft else 2 * most)
        self.run(least + 20)
        assert node.raft.role is Role.LEADER, f"{name} is {node.raft.role.value}: {node.notes}"
        return node

    def leaders(self) -> list[Node]:
        return [node for node in self.nodes.values() if node.running and node.raft.role is Role.LEADER]

    def leader(self) -> Node:
        """The one of the newest term."""
        return max(self.leaders(), key=lambda node: node.raft.current_term)

    def isolate(self, *names: str) -> None:
        """Cut these off from all others; among themselves they stay connected."""
        self.cut = {(a, b) for a in self.nodes for b in self.nodes if (a in names) != (b in names)}

    def connect_only(self, *links: tuple[str, str]) -> None:
        """Cut every link but these (both directions)."""
        kept = {*links, *((b, a) for a, b in links)}
        self.cut = {(a, b) for a in self.nodes for b in self.nodes if a != b and (a, b) not in kept}

    def heal(self) -> None:
        self.cut = set()

    def propose(self, node: Node, *commands: bytes) -> int | None:
        """Returns the index of the first, or None if refused. `settle` does the rest."""
        return self.input(node, lambda raft: raft.propose(commands))

    def read(self, node: Node, context: Any) -> bool:
        return self.input(node, lambda raft: raft.read([context]))

    def reconfigure(self, node: Node, voters: Mapping[str, Address]) -> None:
        """The leader appends a CONFIG entry."""

        def append(raft: Raft) -> None:
            members = raft.membership._replace(voters=voters)
            index = raft.append_as_leader(EntryKind.CONFIG, [members.encode()])
            raft.configs.append((index, members))

        self.input(node, append)

    def write_log(self, name: str, terms: Iterable[int], term: int, voted_for: str | None = None) -> None:
        """Give a node this history, as the paper's figures do: one letter a term, entry 1 founds the cluster."""
        node = self.nodes[name]
        node.disk.entries = log_of_terms(terms, node.founding)
        node.disk.hard_state = (term, voted_for)
        node.begin()
        self.tick(node)


def log_of_terms(terms: Iterable[int], founding: Membership) -> list[Entry]:
    """Entries of these terms, the same for the same index and term."""
    entries = []
    for index, term in enumerate(terms, 1):
        if index == 1:
            entries.append(Entry(term, 0, EntryKind.CONFIG, founding._replace(cluster_id=7).encode()))
        else:
            entries.append(Entry(term, 10 * term, EntryKind.COMMAND, f"{index}:{term}".encode()))
    return entries
