"""Histories that are linearizable because they were made so: each operation takes effect at a moment of its own."""

from __future__ import annotations

import random
from typing import Any

from zraft.chaos.history import Operation, Value


def make_history(
    seed: int,
    clients: int = 5,
    operations: int = 100,
    keys: int = 1,
    values: int = 5,
    unknown: float = 0.1,
    kinds: tuple[str, ...] = ("get", "set", "delete", "cas", "append"),
) -> list[Operation]:
    """Each client calls one operation after the other; where its answer gets lost, another client takes its place.

    `values`: how many different ones there are, 0: every written value is another one.
    """
    draw = random.Random(seed)
    free_at = dict.fromkeys(range(clients), 0.0)
    planned: list[tuple[float, int, str, str, tuple[Value, ...], float, float, bool]] = []
    for number in range(operations):
        client = min(free_at, key=lambda client: free_at[client])
        call = free_at.pop(client) + draw.expovariate(3)
        took = draw.expovariate(1)
        lost = draw.random() < unknown
        # One of unknown outcome may take effect long after its call, or at no time at all.
        moments = [draw.random() * took, draw.expovariate(0.05), float("inf")] if lost else [took / 2]
        effect = call + draw.choice(moments)
        new = f"v{number if values == 0 else draw.randrange(values)}"
        kind = draw.choice(kinds)
        old: Value = draw.choice([None, f"v{draw.randrange(values or number + 1)}"])
        args = {"set": (new,), "cas": (old, new), "append": (new,)}.get(kind, ())
        planned.append((effect, client, kind, f"k{draw.randrange(keys)}", args, call, call + took, lost))
        free_at[max([client, *free_at]) + 1 if lost else client] = call + took
    state: dict[str, Value] = {}
    history = []
    for effect, client, kind, key, args, call, ret, lost in sorted(planned):
        result: Any = None
        if effect != float("inf"):
            result, state[key] = execute(kind, args, state.get(key))
        history.append(
            Operation(client, kind, key, args, None if lost else result, call, None if lost else ret,
                      "unknown" if lost else "ok")
        )  # fmt: skip
    return sorted(history, key=lambda operation: operation.call)


def execute(kind: str, args: tuple[Value, ...], value: Value) -> tuple[Any, Value]:
    """(result, new value) of one operation on a key that has `value`."""
    if kind == "get":
        return value, value
    if kind == "set":
        return None, args[0]
    if kind == "delete":
        return value is not None, None
    if kind == "cas":
        return value == args[0], args[1] if value == args[0] else value
    whole = f"{value or ''}{args[0]}"
    return whole, whole
