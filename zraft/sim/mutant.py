"""A deliberate bug, and how it is planted: patched in from outside, for as long as a `with` block lasts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

Plant = Callable[[Callable[[Any, str, Any], None]], None]


class Mutant(NamedTuple):
    """trap: its number in the list of traps; mistake: what it does; plant: does it, through the patcher it is given."""

    trap: str
    mistake: str
    plant: Plant


MUTANTS: dict[str, Mutant] = {}


def mutant(name: str, trap: str, mistake: str) -> Callable[[Plant], Plant]:
    """Register a mutant."""

    def register(plant: Plant) -> Plant:
        MUTANTS[name] = Mutant(trap, mistake, plant)
        return plant

    return register


@contextmanager
def planted(name: str) -> Iterator[None]:
    """Within the block the mutant lives; name "": none does. Raises KeyError for a name that is none."""
    undo: list[tuple[Any, str, Any]] = []

    def patch(owner: Any, attribute: str, value: Any) -> None:
        undo.append((owner, attribute, vars(owner)[attribute]))
        setattr(owner, attribute, value)

    if name:
        MUTANTS[name].plant(patch)
    try:
        yield
    finally:
        for owner, attribute, value in reversed(undo):
            setattr(owner, attribute, value)
