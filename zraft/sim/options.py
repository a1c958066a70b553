"""What a run may draw: one record, drawn from a seed (ranges in the spirit of TigerBeetle's simulator)."""

from __future__ import annotations

from random import Random
from typing import NamedTuple

FAULTS = (
    "kill-actor",
    "crash-process",
    "crash-power",
    "crash-all",
    "partition",
    "one-way",
    "isolate",
    "partial",
    "flap",
    "loss-burst",
    "pause-node",
    "pause-actor",
    "clock-drift",
    "slow-disk",
    "stalled-disk",
    "full-disk",
    "failing-sync",
    "bit-flip",
    "snapshot-flip",
    "wiped-disk",
    "crash-in-snapshot",
    "thread-death",
    "kill-in-write",
    "one-link",
    "lag",
    "stall-and-cut",
    "cut-with-tail",
    "clean-stop",
    "transfer",
    "members",
    "members-at-once",
    "unfit-joiner",
    "rejoin",
    "crash-in-change",
)
"""Every kind of fault that `faults` knows. clean-stop, transfer and changes of the members are no faults, but
moments worth crossing."""


LATE = ("isolate", "lag")
"""Brings out what late acknowledgements do to reads: to many, of leaders that are cut off again and again."""


COMBINATIONS = (
    ("isolate", "pause-actor", "pause-node"),
    ("kill-actor", "slow-disk"),
    ("isolate", "slow-disk", "crash-process"),
    ("partial",),
    ("stalled-disk",),
    ("bit-flip", "crash-process"),
    ("crash-power", "failing-sync"),
    ("crash-in-snapshot", "isolate"),
    ("crash-in-snapshot", "snapshot-flip", "crash-power"),
    LATE,
    ("one-link",),
    ("kill-in-write",),
    ("stall-and-cut", "slow-disk"),
    ("cut-with-tail",),
)
"""Kinds that bring out more together, or alone, than among many: each was chosen for a classic mistake."""


MEMBERS = (
    ("members",),
    ("members", "crash-in-change"),
    ("members-at-once", "partition"),
    ("members-at-once", "crash-in-change", "crash-power"),
    ("rejoin",),
    ("rejoin", "members", "isolate"),
    ("members", "unfit-joiner", "wiped-disk", "crash-process"),
    ("members", "isolate", "kill-actor"),
    ("crash-in-change", "crash-in-snapshot", "isolate"),
    ("crash-in-change",),
)
"""The same for changes of the members."""


TAIL = ("cut-with-tail",)
"""Needs a leader that is given much, and snapshots that are taken often."""

QUIET: tuple[tuple[str, ...], ...] = (("one-link",), ("partial",))
"""They depose no leader whose followers stick to it; what does shows only where logs are equal and frames arrive."""

MAX_LAG_US = 500_000
"""That the fault `lag` adds to the delay of a frame, at most."""

READ_PARTS = (0.2, 0.4, 1.0)
HARDLY_A_WRITE = (0.98,)


SHORT_MS = 20_000
"""Of faults. Longer runs ask less a second: what they are for is time, and more crossings of faults."""

NO_SNAPSHOTS = 1_000_000_000


class Options(NamedTuple):
    """One run. Times are virtual; `_us` microseconds, `_ms` milliseconds; probabilities are between 0 and 1."""

    nodes: int = 3  # that found the cluster
    spares: int = 3  # machines that may join it later
    clients: int = 4
    client_window: int = 2  # operations that a client has under way, or bursts of them
    burst: int = 1  # operations that a client begins at once; the writes among them go as one batch
    think_ms: int = 60  # mean pause of a client between two operations
    read_parts: tuple[float, ...] = READ_PARTS  # each client draws one: the part of its operations that are reads
    client_timeout_ms: tuple[int, int] = (1_000, 6_000)
    keys: int = 4
    faults_ms: int = 60_000  # how long faults are injected
    calm_ms: int = 10_000  # within which, without faults, the cluster must elect, commit and converge
    max_events: int = 0  # end the faults early after so many events; 0: no limit
    election_timeout_ms: tuple[int, int] = (150, 300)
    heartbeat_ms: int = 50
    # the network between nodes
    delay_us: tuple[int, int] = (50, 1_000)
    long_delay: float = 0.0  # probability that a frame takes up to 100 times as long
    loss: float = 0.0
    duplication: float = 0.0
    # inside a node
    actor_delay_us: int = 100  # at most, until an actor that has something to do runs
    segment_bytes: int = 64 * 1024
    sync_us: int = 300  # mean of an fsync
    snapshot_entries: int = NO_SNAPSHOTS  # a snapshot is due after so many entries
    snapshot_keep: int = 0  # entries that stay in the log behind one
    piece_bytes: int = 128 * 1024  # of a snapshot in one message
    faults: tuple[str, ...] = ()
    fault_interval_ms: int = 1_000  # mean


def nodes_of(seed: int) -> int:
    """Three and five nodes in turn, and now and then a single one."""
    if seed % 20 == 19:
        return 1
    return 3 if seed % 2 == 0 else 5


def draw_options(seed: int, nodes: int, faults_ms: int) -> Options:
    """The options of a seed. Some runs are lossy, some are calm but for one or two kinds of faults, some have all."""
    rng = Random(f"options {seed}")
    faults = _draw_faults(rng)
    is_quiet = faults in QUIET and rng.random() < 0.7
    is_noisy = not is_quiet and rng.random() < 0.6
    drawn = Options(
        nodes=nodes,
        clients=rng.randint(2, 6),
        client_window=rng.randint(1, 3),
        think_ms=rng.choice([20, 60, 120, 500] if faults_ms <= SHORT_MS else [60, 120, 250, 500]),
        read_parts=HARDLY_A_WRITE if rng.random() < (0.8 if is_quiet else 0.2) else READ_PARTS,
        client_timeout_ms=rng.choice([(300, 1_000), (1_000, 6_000), (5_000, 10_000)]),
        keys=rng.randint(1, 6),
        faults_ms=faults_ms,
        delay_us=rng.choice([(50, 300), (50, 1_000), (100, 5_000), (1_000, 20_000)]),
        long_delay=rng.choice([0.0, 0.01, 0.1]) if is_noisy else 0.0,
        loss=rng.choice([0.0, 0.01, 0.05, 0.3]) if is_noisy else 0.0,
        duplication=rng.choice([0.0, 0.02, 0.5]) if is_noisy else 0.0,
        actor_delay_us=rng.choice([50, 200, 2_000]),
        segment_bytes=rng.choice([16 * 1024, 32 * 1024, 128 * 1024, 512 * 1024]),
        sync_us=rng.choice([100, 500, 3_000]),
        snapshot_entries=rng.choice([2, 2, 5, 20, 100, NO_SNAPSHOTS]),
        snapshot_keep=rng.choice([0, 0, 3, 50]),
        piece_bytes=rng.choice([150, 1_000, 128 * 1024]),
        faults=faults,
        fault_interval_ms=rng.choice([800, 1_500, 3_000] if is_quiet else [150, 500, 1_500, 4_000]),
        spares=rng.choice([1, 2, 3]),
        burst=_draw_burst(seed),
    )
    if faults == LATE:
        return drawn._replace(
            clients=6, client_window=3, think_ms=60, read_parts=(0.9,), client_timeout_ms=(300, 1_000),
            delay_us=(50, 1_000), loss=0.0, duplication=0.0, long_delay=0.0, snapshot_entries=NO_SNAPSHOTS,
            fault_interval_ms=150,
        )  # fmt: skip
    if faults == TAIL:
        return drawn._replace(
            clients=6, client_window=3, think_ms=20, read_parts=READ_PARTS, client_timeout_ms=(300, 1_000),
            snapshot_entries=2, snapshot_keep=0,
        )  # fmt: skip
    return drawn


def _draw_burst(seed: int) -> int:
    # From a generator of its own, so that what the others draw stays what it was.
    rng = Random(f"burst {seed}")
    return rng.choice([2, 3, 5]) if rng.random() < 0.2 else 1


def _draw_faults(rng: Random) -> tuple[str, ...]:
    """Many kinds at once hide what one of them does for longer, and the other way round: so both."""
    if rng.random() < 0.3:
        return rng.choice(MEMBERS)
    dice = rng.random()
    if dice < 0.4:
        return rng.choice(COMBINATIONS)
    if dice < 0.5:
        return tuple(rng.sample(FAULTS, rng.randint(1, 3)))
    if dice < 0.6:
        return FAULTS
    kinds = [kind for kind in FAULTS if rng.random() < 0.5]
    if dice < 0.75:
        kinds += ["kill-actor"] * (1 + len(kinds))  # at least every other one
    return tuple(kinds) or ("kill-actor",)
