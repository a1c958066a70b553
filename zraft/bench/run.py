"""A run: clients as processes, their load at the same time, and the CPU that everybody used meanwhile."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from types import TracebackType
from typing import Any, NamedTuple

from zraft.bench import cpu
from zraft.bench.load import Outcome, Plan
from zraft.errors import ZraftError

CLIENT_BOUND = 0.9
"""Of a core, used by one client: from here on it, rather than the cluster, may have set the pace."""
DISTURBED = 0.25
"""Of a core, used by others on the machine: from here on figures are disturbed."""
LEADER = "*"
"""Behind the name of the node that led when the run began."""
LEAD_SECONDS = 0.2
"""From telling the clients when to begin to that moment."""
END_SECONDS = 5.0


class Workload(NamedTuple):
    """What all clients together do; the fields as in `load.Plan`. name: put, get or mixed."""

    name: str
    put_share: float
    in_flight: int
    clients: int
    rate: float
    keys: int
    value_bytes: int
    duration_s: float
    warm_up_s: float

    def plans(self, endpoints: Sequence[str], seed: int, fill: bool = True) -> list[Plan]:
        """One for each client. fill: all keys are written first."""
        share, more = divmod(self.in_flight, self.clients)
        return [
            Plan(
                tuple(endpoints), self.put_share, share + (client < more), self.rate / self.clients, self.keys, fill,
                self.value_bytes, self.duration_s, self.warm_up_s, client, self.clients, seed,
            )
            for client in range(self.clients)
        ]  # fmt: skip


class Measured(NamedTuple):
    """What a run found. Times in CPU seconds within the measured time; {} for nodes that run elsewhere."""

    workload: Workload
    outcome: Outcome
    wall_s: float
    """Of the measured time, from one look at the CPU clocks to the other."""
    nodes: dict[str, cpu.Times]
    clients: list[float]
    others: float
    """Of processes that do not belong to the run."""
    seen: tuple[Any, Any]
    """What `look` returned at the beginning and at the end of the measured time."""

    @property
    def ops_per_s(self) -> float:
        """Operations that were answered within the measured time, per second of it."""
        return self.outcome.completed / self.workload.duration_s

    def client_bound(self) -> list[str]:
        """What to say of clients that used up their core."""
        return [
            f"client {number} used {seconds / self.wall_s:.0%} of a core: it may have set the pace, not the cluster"
            for number, seconds in enumerate(self.clients, 1)
            if seconds / self.wall_s >= CLIENT_BOUND
        ]

    def disturbance(self) -> float:
        """Cores used by others."""
        return max(0.0, self.others / self.wall_s)


class Clients:
    """The processes of the clients, ready to begin. A context manager: at its end there are none.

    Raises ZraftError if they reach nobody."""

    def __init__(self, plans: Sequence[Plan]) -> None:
        self._processes = [
            subprocess.Popen(
                [sys.executable, "-m", "zraft.bench.worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,  # a terminal's Ctrl-C reaches the parent alone, which ends them
            )
            for _ in plans
        ]
        try:
            self._prepare(plans)
        except BaseException:
            self._end(at_once=True)
            raise

    def _prepare(self, plans: Sequence[Plan]) -> None:
        for process, plan in zip(self._processes, plans, strict=True):
            _tell(process, plan._asdict())
        for process in self._processes:
            answer = _hear(process)
            if "error" in answer:
                raise ZraftError(f"the clients cannot begin: {answer['error']}")

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._end(at_once=kind is not None)

    def _end(self, at_once: bool) -> None:
        for process in self._processes:
            if at_once:
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(END_SECONDS)
            process.kill()
            process.wait()
            for stream in (process.stdin, process.stdout):
                if stream is not None:
                    with suppress(OSError):
                        stream.close()

    @property
    def pids(self) -> list[int]:
        """Of the processes."""
        return [process.pid for process in self._processes]

    def begin(self, start: float) -> None:
        """Have all begin then."""
        for process in self._processes:
            _tell(process, {"start": start})

    def results(self) -> Outcome:
        """When all have ended: what they measured."""
        outcome = Outcome()
        for process in self._processes:
            outcome.add(_hear(process))
        return outcome


def _tell(process: subprocess.Popen[str], value: Mapping[str, Any]) -> None:
    assert process.stdin is not None
    with suppress(BrokenPipeError):  # that it is gone is noticed when it is heard
        process.stdin.write(json.dumps(value) + "\n")
        process.stdin.flush()


def _hear(process: subprocess.Popen[str]) -> dict[str, Any]:
    assert process.stdout is not None
    line = process.stdout.readline()
    if not line:
        raise ZraftError(f"a client ended by itself (status {process.wait()}): its last words are above")
    answer: dict[str, Any] = json.loads(line)
    return answer


class _Clocks(NamedTuple):
    at: float
    nodes: dict[str, cpu.Times]
    clients: list[float]
    machine: float


def _look(nodes: Mapping[str, int], clients: Sequence[int]) -> _Clocks:
    if not cpu.can_measure():
        return _Clocks(time.monotonic(), {}, [0.0] * len(clients), 0.0)
    return _Clocks(
        time.monotonic(),
        {name: cpu.of_process(pid) for name, pid in nodes.items()},
        [sum(cpu.of_process(pid).values()) for pid in clients],
        cpu.of_machine(),
    )


def measure(
    workload: Workload,
    endpoints: Sequence[str],
    nodes: Mapping[str, int],
    say: Callable[[str], None],
    look: Callable[[], Any] = lambda: None,
    seed: int = 1,
) -> Measured:
    """Run it. nodes: name -> process id of those that run on this machine. say: is told what goes on.

    Raises ZraftError if the clients reach nobody, and if one of them ends by itself.
    """
    say(f"{workload.clients} client{'s' * (workload.clients > 1)}; fills {workload.keys:,} keys")
    with Clients(workload.plans(endpoints, seed)) as clients:
        start = time.monotonic() + LEAD_SECONDS
        clients.begin(start)
        say(f"{workload.name}: {workload.warm_up_s:g} s of warm-up, then {workload.duration_s:g} s")
        begin = start + workload.warm_up_s
        time.sleep(max(0.0, begin - time.monotonic()))
        before, seen_before = _look(nodes, clients.pids), look()
        time.sleep(max(0.0, begin + workload.duration_s - time.monotonic()))
        after, seen_after = _look(nodes, clients.pids), look()
        outcome = clients.results()
    used = {name: cpu.difference(before.nodes[name], after.nodes.get(name, {})) for name in before.nodes}
    by_client = [late - early for early, late in zip(before.clients, after.clients, strict=True)]
    own = sum(by_client) + sum(seconds for times in used.values() for seconds in times.values())
    wall_s = after.at - before.at
    others = after.machine - before.machine - own
    return Measured(workload, outcome, wall_s, used, by_client, others, (seen_before, seen_after))
