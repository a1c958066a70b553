"""Who asks what when, against a store that answers, or stands still, as the test says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zraft.bench.load import ANSWER_SECONDS, KEY_BYTES, KEY_SPACE, Load, Outcome, Plan, key_of
from zraft.client.requests import Request
from zraft.errors import OutcomeUnknown

PLAN = Plan(("tcp://127.0.0.1:1",), 1.0, 4, 0.0, 100, True, 256, 2.0, 1.0, 0, 1, seed=1)
START = 100.0


class FakeStore:
    """Answers each operation when it is `served_at` its time; knows the time."""

    def __init__(self, served_at: Callable[[float], float]) -> None:
        self.now = START
        self.served_at = served_at
        self.open: list[tuple[float, Callable[[Any, Any], None]]] = []
        self.requests: list[Request] = []
        self.most_open = 0

    def submit(self, request: Request, deadline: float, on_done: Callable[[Any, Any], None]) -> None:
        assert deadline == self.now + ANSWER_SECONDS
        self.requests.append(request)
        self.open.append((self.served_at(self.now), on_done))
        self.most_open = max(self.most_open, len(self.open))

    def run(self, plan: Plan, error: Exception | None = None) -> Load:
        """To the end, in steps of a millisecond."""
        load = Load(plan, self, lambda: self.now)  # type: ignore[arg-type]
        load.begin(START)
        while not load.is_over(self.now):
            load.turn(self.now)
            self.now += 0.001
            due = [on_done for at, on_done in self.open if at <= self.now]
            self.open = [(at, on_done) for at, on_done in self.open if at > self.now]
            for on_done in due:
                on_done(1, error)
        return load


def stands_still(now: float) -> float:
    """From second 2 to second 2.5 of the run (1 to 1.5 of the measured time) nothing is answered; else in 1 ms."""
    return START + 2.5 if START + 2.0 <= now < START + 2.5 else now + 0.001


def ten_ms(now: float) -> float:
    return now + 0.0099


def test_a_closed_loop_keeps_so_many_in_flight() -> None:
    store = FakeStore(ten_ms)
    load = store.run(PLAN)
    assert store.most_open == PLAN.in_flight
    latencies = load.latencies["put"]
    assert latencies.count == load.completed
    assert abs(load.completed - PLAN.in_flight * PLAN.duration_s / 0.010) <= PLAN.in_flight
    assert 9_500 <= latencies.quantile_us(0.5) <= 10_500
    assert sorted(load.seconds) == [0, 1]
    assert not load.latencies["get"].count


def test_an_open_loop_begins_on_time_whatever_the_store_does() -> None:
    store = FakeStore(stands_still)
    load = store.run(PLAN._replace(rate=1000.0))
    assert len(store.requests) == 3000
    assert load.latencies["put"].count == 2000, "the warm-up is not counted"
    # A quarter of the operations were due while the store stood still, and waited for 250 ms on average.
    assert 62_000 < load.latencies["put"].mean_us() < 65_000
    assert 480_000 < load.latencies["put"].quantile_us(0.999) <= 500_000
    assert load.latencies["put"].quantile_us(0.7) < 5_000


def test_a_client_that_is_late_counts_from_when_it_was_due() -> None:
    """Coordinated omission: the client itself sleeps, too."""
    store = FakeStore(lambda now: now)
    load = Load(PLAN._replace(rate=1000.0, warm_up_s=0.0), store, lambda: store.now)  # type: ignore[arg-type]
    load.begin(START)
    store.now = START + 1.0
    load.turn(store.now)
    for _, on_done in store.open:
        on_done(1, None)
    assert 999 <= load.latencies["put"].count <= 1001
    assert abs(load.latencies["put"].mean_us() - 500_000) < 2_000


def test_clients_take_turns() -> None:
    stores = [FakeStore(ten_ms) for _ in range(2)]
    for number, store in enumerate(stores):
        store.run(PLAN._replace(rate=50.0, client=number, clients=2))
        assert len(store.requests) == 150
    assert stores[0].requests[0].arguments != stores[1].requests[0].arguments, "each draws keys of its own"


def test_what_failed_counts_with_its_time() -> None:
    outcome = Outcome()
    outcome.add(FakeStore(ten_ms).run(PLAN, OutcomeUnknown("set: no answer")).as_json() | {"cpu_s": 0.0})
    assert outcome.completed == 0
    assert sum(outcome.errors.values()) == outcome.latencies["put"].count > 0
    assert list(outcome.errors) == ["OutcomeUnknown: set: no answer"]


def test_a_mixed_load_draws_from_all_keys() -> None:
    store = FakeStore(ten_ms)
    load = store.run(PLAN._replace(put_share=0.25, in_flight=64))
    puts, gets = load.latencies["put"].count, load.latencies["get"].count
    assert 0.22 < puts / (puts + gets) < 0.28
    written = {request.arguments[0] for request in store.requests if request.name == "set"}
    assert written == {key_of(number) for number in range(PLAN.keys)}


def test_clients_fill_the_key_space_together() -> None:
    filled = set()
    for client in range(3):
        load = Load(PLAN._replace(client=client, clients=3), FakeStore(ten_ms), lambda: 0.0)  # type: ignore[arg-type]
        filled |= {request.arguments[0] for request in load.fill()}
    assert filled == {key_of(number) for number in range(PLAN.keys)}


def test_keys_have_one_size() -> None:
    assert {len(key_of(number)) for number in (0, KEY_SPACE - 1)} == {KEY_BYTES}
