"""Everything that can go wrong at once, by dice: messages lost, doubled, reordered and late, nodes and actors killed
with what was not durable, partitions, slow and full disks, pauses; snapshots taken, saved late, sent in pieces and
restored, logs compacted, members that change. The invariants are checked at every step; then the
faults end, and the cluster must elect a leader and commit."""

from __future__ import annotations

from random import Random

import pytest
from cluster_harness import Cluster, ModelDisk, Node, Packet
from model_disk import StorePiece

from zraft.messages import TimeoutNow
from zraft.raft import Address, Role

STEPS = 600


class Faults:
    """One seeded run. Each method with a weight is something that may happen next."""

    def __init__(self, seed: int, wiping: bool = False) -> None:
        self.rng = rng = Random(seed)
        self.cluster = Cluster(rng.choice([3, 5] if wiping else [1, 2, 3, 3, 3, 4, 5, 5]), seed)
        self.wiped: Node | None = None
        self.nodes = list(self.cluster.nodes.values())
        self.paused: set[str] = set()
        self.reads: dict[str, tuple[str, int]] = {}  # context -> (node, what was committed when it came)
        self.answered = self.proposed = 0
        self.reordering = rng.choice([[1], [1, 1, 1, 4], [1, 4, 100]])
        self.step_ms = rng.choice([[1, 5], [1, 5, 10], [5, 10, 40], [10, 10, 10, 70]])
        self.configured = 0
        for node in self.nodes:
            node.disk.segment = rng.choice([1, 1, 3])
        snapshots = rng.choice([0, 1, 1, 4])
        weights = {
            self.deliver: 40,
            self.pass_time: 30,
            self.complete_writes: 25,
            self.notify: 25,
            self.apply: 15,
            self.propose: 12,
            self.read: 4,
            self.let_run: 1,
            self.lose_patience: rng.choice([0, 1, 5, 10]),
            self.lose: rng.choice([0, 1, 8]),
            self.double: rng.choice([0, 1, 5]),
            self.crash_or_start: rng.choice([0, 0.5, 1.5]),
            self.kill_actor: rng.choice([0, 0.5, 1]),
            self.partition: rng.choice([0, 0.3, 1]),
            self.stall_disk: rng.choice([0, 0.3]),
            self.fill_disk: rng.choice([0, 0.2]),
            self.pause: rng.choice([0, 0.3]),
            self.transfer: rng.choice([0, 0.3]),
            self.coup: rng.choice([0, 1, 3]),
            self.wipe: 1 if wiping else 0,
            self.take_snapshot: 3 * snapshots,
            self.store: 25 if snapshots else 0,
            self.load: 15 if snapshots else 0,
            self.leave_behind: rng.choice([0, 2, 4]) if snapshots else 0,
            self.disturb_installing: rng.choice([0, 30]) if snapshots else 0,
            self.change_members: rng.choice([0, 0.5, 2]),
        }
        self.actions, self.weights = list(weights), list(weights.values())

    def run(self, steps: int) -> None:
        if self.rng.random() < 0.8:
            self.cluster.run(2_000, until=self.cluster.leaders)
        for action in self.rng.choices(self.actions, self.weights, k=steps):
            action()
            self.check_reads()

    def awake(self) -> list[Node]:
        return [node for node in self.nodes if node.running and node.id not in self.paused]

    def some(self) -> list[Node]:
        return [node for node in self.awake() if self.rng.random() < 0.6]

    def one(self) -> Node | None:
        awake = self.awake()
        return self.rng.choice(awake) if awake else None

    # --- what may happen

    def deliver(self) -> None:
        network = self.cluster.network
        for _ in range(self.rng.choice([1, 2, 6])):
            if not network:
                return
            front = min(len(network), self.rng.choice(self.reordering))
            packet = network[self.rng.randrange(front)]
            if packet.receiver in self.paused:
                continue
            batch = [packet]
            if self.rng.random() < 0.3:
                batch = [other for other in network if other.receiver == packet.receiver][:5]
            self.cluster.deliver(*batch)

    def pass_time(self) -> None:
        self.cluster.now_ms += self.rng.choice(self.step_ms)
        self.cluster.tick(*(self.awake() or self.nodes))

    def let_run(self) -> None:
        """Without new faults for a while; partitions, stalled disks and dead nodes stay."""
        if not self.paused:
            self.cluster.run(self.rng.choice([50, 200, 500]))

    def lose_patience(self) -> None:
        """Clocks may run as they like, safety does not depend on them: an election at an odd moment."""
        node = self.one()
        if node:
            for other in [node, *self.some()]:
                other.raft.last_leader_contact_ms = None
            node.raft.election_deadline_ms = self.cluster.now_ms
            if self.rng.random() < 0.5:
                self.cluster.deliver(*self.call_to_campaign(node))

    def call_to_campaign(self, node: Node) -> list[Packet]:
        """As from a leader of the node's term; that some node may have sent it is enough for safety."""
        if not node.raft.log.last_index:
            return []  # nobody leads a cluster of whose log a voter knows nothing, or that voter's disk was wiped
        message = TimeoutNow(node.raft.current_term)
        return [Packet(other.id, node.id, message) for other in self.nodes if other is not node]

    def complete_writes(self) -> None:
        for node in self.some():
            if node.disk.queue and not node.disk.stalled:
                self.cluster.complete(node, self.rng.randint(1, len(node.disk.queue)))

    def notify(self) -> None:
        for node in self.some():
            self.cluster.notify(node)

    def apply(self) -> None:
        for node in self.some():
            if node.applying:
                self.cluster.apply(node)

    def propose(self) -> None:
        for node in self.awake():
            if node.raft.role is Role.LEADER and self.proposed < 60:
                self.proposed += 1
                data = [b"%d.%d" % (self.proposed, number) for number in range(self.rng.choice([1, 1, 3]))]
                self.cluster.propose(node, *data)

    def read(self) -> None:
        for node in self.awake():
            context = f"read {len(self.reads)}"
            self.reads[context] = (node.id, len(self.cluster.invariants.committed))
            self.cluster.read(node, context)

    def lose(self) -> None:
        if self.cluster.network:
            self.cluster.network.pop(self.rng.randrange(len(self.cluster.network)))

    def double(self) -> None:
        if self.cluster.sent:
            self.cluster.network.append(self.rng.choice(self.cluster.sent[-200:]))

    def crash_or_start(self) -> None:
        dead = [node for node in self.nodes if not node.running]
        node = self.rng.choice(3 * dead + self.nodes + self.cluster.leaders())
        if node.running:
            self.cluster.stop(node, *self.reached_disk(node), self.reached_files(node))
        else:
            self.cluster.start(node, self.rng.choice([1, 3, None]))

    def kill_actor(self, node: Node | None = None) -> None:
        node = node or self.one()
        if node is None:
            return
        actor = self.rng.choice(["consensus", "log_writer", "applier", "snapshot_writer"])
        if actor == "consensus":
            self.cluster.restart_consensus(node, *self.reached_disk(node), self.rng.choice([1, 3, None]))
        elif actor == "log_writer":
            self.cluster.restart_log_writer(node, *self.reached_disk(node))
        elif actor == "snapshot_writer":
            self.cluster.restart_snapshot_writer(node, self.reached_files(node))
        else:
            self.cluster.restart_applier(node)

    def reached_disk(self, node: Node) -> tuple[int, int]:
        return self.rng.randint(0, len(node.disk.queue)), self.rng.randint(0, 3)

    def reached_files(self, node: Node) -> int:
        return self.rng.randint(0, len(node.disk.files))

    def take_snapshot(self) -> None:
        for node in self.some():
            if node.applied and not node.must_load:
                self.cluster.take_snapshot(node)

    def store(self) -> None:
        for node in self.some():
            if node.disk.files and not node.disk.stalled:
                self.cluster.store(node, self.rng.randint(1, len(node.disk.files)))

    def load(self) -> None:
        for node in self.some():
            if node.must_load:
                self.cluster.load(node)

    def leave_behind(self) -> None:
        """A node is away while the others go on, take snapshots and compact: it will need one."""
        cluster = self.cluster
        if self.paused or len(self.nodes) < 3 or not cluster.leaders():
            return
        node = self.rng.choice(self.nodes + cluster.leaders())
        cluster.isolate(node.id)
        if node in cluster.leaders():  # it goes on without them: their logs will conflict
            cluster.propose(node, *[b"%d alone" % number for number in range(self.rng.choice([0, 3, 12]))])
            if self.rng.random() < 0.5:
                cluster.complete(node)
        cluster.run(self.rng.choice([50, 400, 800]))
        for number in range(3):
            for leader in cluster.leaders():
                cluster.propose(leader, b"%d without one" % number)
            cluster.run(self.rng.choice([20, 150]))
            for other in self.nodes:
                if other is not node and other.running and other.applied and not other.must_load:
                    cluster.take_snapshot(other)
        cluster.run(50)
        if self.rng.random() < 0.7:
            cluster.heal()
            self.run_until_installing()

    def run_until_installing(self) -> None:
        """Until a node is given a snapshot, if one is; there what happens next is the dice's affair."""
        cluster = self.cluster
        last = self.rng.random() < 0.6
        for _ in range(60):
            cluster.now_ms += 10
            cluster.tick()
            for _ in range(6):
                for packet in list(cluster.network):
                    cluster.deliver(packet)
                if self.installing(last):
                    if self.rng.random() < 0.6:
                        self.disturb_installing()
                    return
                for node in self.awake():
                    if not node.disk.stalled:
                        cluster.complete(node)
                        cluster.store(node)
                    cluster.notify(node)
                    while node.running and node.applying:
                        cluster.apply(node)

    def installing(self, last: bool = False) -> list[Node]:
        """last: the last piece only."""
        pieces = {n.id: [i.piece for i in n.disk.files if type(i) is StorePiece] for n in self.awake()}
        if last:
            pieces = {name: [p for p in found if p.offset + len(p.data) == p.size] for name, found in pieces.items()}
        return [node for node in self.awake() if node.must_load or pieces[node.id]]

    def disturb_installing(self) -> None:
        """Something dies while a snapshot is on its way into a node, or is in it and was not told."""
        for node in self.installing():
            if self.rng.random() < 0.5 and not node.must_load:
                self.cluster.store(node, self.rng.randint(1, len(node.disk.files)))
                if self.rng.random() < 0.5:
                    self.cluster.notify(node)
            if self.rng.random() < 0.3:
                self.cluster.stop(node, *self.reached_disk(node), self.reached_files(node))
                self.cluster.start(node, self.rng.choice([1, None]))
            else:
                self.kill_actor(node)

    def change_members(self) -> None:
        """The same voters, at other addresses: for who is in force at which node, that is a change like any other."""
        for node in self.cluster.leaders():
            if node.id not in self.paused and self.configured < 12:
                self.configured += 1
                voters = node.raft.membership.voters
                moved = {name: Address(at.client, f"{at.peer}{self.configured}") for name, at in voters.items()}
                self.cluster.reconfigure(node, moved)

    def partition(self) -> None:
        names = [node.id for node in self.nodes]
        kind = self.rng.choice(["heal", "heal", "leader", "group", "links"])
        self.cluster.heal()
        leaders = [node.id for node in self.cluster.leaders()]
        if kind == "leader" and leaders:
            self.cluster.isolate(*leaders)
        if kind == "group":
            self.cluster.isolate(*self.rng.sample(names, self.rng.randint(1, len(names))))
        elif kind == "links":
            self.cluster.cut = {(a, b) for a in names for b in names if a != b and self.rng.random() < 0.3}

    def stall_disk(self) -> None:
        stalled = [node for node in self.nodes if node.disk.stalled]
        for node in stalled or [self.rng.choice(self.nodes)]:
            node.disk.stalled = not stalled

    def fill_disk(self) -> None:
        node = self.one()
        if node:
            full = not node.disk.stalled
            node.disk.stalled = full
            self.cluster.input(node, lambda raft: raft.on_disk_full(full))

    def pause(self) -> None:
        if self.paused:
            self.paused.clear()
        else:
            self.paused = {self.rng.choice(self.nodes).id}

    def transfer(self) -> None:
        target = self.rng.choice(["", *self.cluster.nodes])
        for node in self.awake():
            self.cluster.input(node, lambda raft: raft.transfer_leadership(target))

    def wipe(self) -> None:
        """One node's disk is lost, and it is started again with its old id (trap 22). So long after the first
        election no message of it is under way any more: to those an empty node would answer as a new one does."""
        if self.wiped is None and self.cluster.invariants.committed:
            for packets in (self.cluster.network, self.cluster.sent):
                packets[:] = [packet for packet in packets if getattr(packet.message, "last_log_index", 1)]
            self.wiped = node = self.rng.choice(self.nodes)
            self.cluster.stop(node)
            node.disk = ModelDisk()
            self.cluster.invariants.wiped = node.id
            self.cluster.start(node)

    def coup(self) -> None:
        """A leader that knows nothing of it is replaced: the figure 8 of the paper and stale reads begin so."""
        cluster = self.cluster
        size = len(self.nodes)
        deposed = {node.id for node in cluster.leaders()} if self.rng.random() < 0.7 else set()
        rest = [node for node in self.awake() if node.id not in deposed]
        if len(rest) < 2:
            return
        spare = max(0, (size - 1) // 2 - len(deposed))
        cut_off = self.rng.sample([node.id for node in rest[1:]], min(len(rest) - 1, spare))
        cluster.isolate(*deposed, *cut_off)
        for node in self.nodes:
            node.raft.last_leader_contact_ms = None
        leader = self.rng.choice([node for node in rest if node.id not in cut_off])
        cluster.deliver(*self.call_to_campaign(leader))
        if not self.paused and self.rng.random() < 0.8:
            cluster.run(self.rng.choice([10, 20, 60]))
        if self.rng.random() < 0.5:
            self.propose()
            self.read()

    # --- what must hold

    def check_reads(self) -> None:
        """A read sees everything that anybody knew as committed when it came (dissertation 6.4)."""
        for node in self.nodes:
            for read_index, context in node.answers:
                asked, committed = self.reads[context]
                assert asked == node.id and read_index >= committed, f"{context} at {read_index}, not {committed}"
                self.answered += 1
            node.answers.clear()
            node.refused.clear()

    def calm(self) -> None:
        """No more faults: it must elect, commit what is new, and bring everybody to the same state."""
        cluster = self.cluster
        self.paused.clear()
        cluster.heal()
        for node in self.nodes:
            node.disk.stalled = False
            if node.running:
                cluster.input(node, lambda raft: raft.on_disk_full(False))
            else:
                cluster.start(node)
        if not cluster.run(5_000, until=cluster.leaders):
            raise AssertionError(f"no leader: {[(n.id, n.raft.role, n.raft.current_term) for n in self.nodes]}")
        cluster.run(1_000)
        assert len(cluster.leaders()) == 1
        leader = cluster.leader()
        term = leader.raft.current_term
        last = cluster.propose(leader, b"after the faults")
        self.reads["last"] = (leader.id, len(cluster.invariants.committed))
        assert cluster.read(leader, "last")
        cluster.run(300)
        self.check_reads()
        for node in self.nodes:
            if node is self.wiped:
                assert not node.running and "Remove" in node.stop_reason
                continue
            assert (node.raft.commit_index, len(node.applied)) == (last, last), (node.id, node.raft.commit_index, last)
            assert node.applied == cluster.invariants.committed
        assert leader.raft.current_term == term and leader.raft.role is Role.LEADER, "no election without faults"


def play(seed: int, wiping: bool = False) -> Faults:
    faults = Faults(seed, wiping)
    faults.run(STEPS)
    faults.calm()
    return faults


@pytest.fixture(autouse=True)
def small_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let lagging peers and appliers be fed from disk, and messages and snapshots be split."""
    monkeypatch.setattr("zraft.raft.replication.KEEP_TAIL_BYTES", 600)
    monkeypatch.setattr("zraft.raft.log.MAX_RUN_BYTES", 350)
    monkeypatch.setattr("zraft.raft.progress.SNAPSHOT_PIECE_BYTES", 700)
    monkeypatch.setattr("zraft.raft.progress.SNAPSHOT_WINDOW_BYTES", 2_100)
    monkeypatch.setattr("zraft.raft.snapshots.MAX_HELD_ENTRIES", 20)


def play_all(seeds: range, wiping: bool = False) -> None:
    for seed in seeds:
        try:
            play(seed, wiping)
        except Exception as error:
            raise AssertionError(f"seed {seed}: {error}") from error


@pytest.mark.parametrize("hundred", range(3))
def test_all_faults_by_dice(hundred: int) -> None:
    play_all(range(100 * hundred, 100 * (hundred + 1)))


def test_all_faults_and_a_wiped_disk_by_dice() -> None:
    play_all(range(60), wiping=True)


@pytest.mark.long
def test_all_faults_by_dice_for_long() -> None:
    play_all(range(1_000, 4_000))
    play_all(range(1_000, 2_000), wiping=True)
