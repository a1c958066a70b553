"""What one operation can do to the value of its key, as the linearizability search needs to know it."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Final

from zraft.chaos.history import Operation, Value


class _Illegal:
    def __repr__(self) -> str:
        return "ILLEGAL"


ILLEGAL: Final[Any] = _Illegal()
"""What `Move.step` gives where the operation cannot have had its result."""


UNASKED: Final = "\0 a value that no operation asks for"
"""Stands for every value that no operation of the history tells from others."""


class Move:
    """An operation that has to be placed in an order, or may be.

    - `step`: value before -> value after, or `ILLEGAL` if it cannot have taken effect there with the result it gave;
    - `effect`: equal for optional moves that do the same;
    - `optional`: of unknown outcome, it may take effect at any time or never;
    - `observes`: it never changes the value, so that it can take effect as soon as `step` allows it;
    - `overwrites`: the value afterwards does not depend on the one before, nor, after a set, whether it is legal;
    - `hides`: a set, which is legal everywhere, so that it may come just before a move that overwrites;
    - `wants`, `refuses`, `wants_presence`, `takes_anything`: the values before it that it is legal on, that it is not
      legal on, whether it is legal on all but absence, and whether it carries every value on into the one after;
    - `appends`: it makes longer values of the beginnings of them.
    """

    __slots__ = (
        "appends", "bit", "effect", "hides", "observes", "operation", "optional", "overwrites", "refuses", "step",
        "takes_anything", "wants", "wants_presence",
    )  # fmt: skip

    def __init__(self, operation: Operation, step: Callable[[Value], Any], *effect: Value) -> None:
        self.operation = operation
        self.step = step
        self.effect = (operation.op, *effect)
        self.bit = 0
        self.optional = operation.outcome == "unknown"
        self.observes = self.overwrites = self.hides = self.appends = False
        self.wants: tuple[Value, ...] = ()
        self.refuses: tuple[Value, ...] = ()
        self.wants_presence = self.takes_anything = False

    @property
    def may_wait(self) -> bool:
        """Nothing is lost by leaving this move out of an order in which no other one makes use of its value."""
        return self.optional or self.hides


def make_moves(operations: Iterable[Operation]) -> list[Move]:
    """The moves of a key's history. What constrains nothing has none: it failed, or nobody knows what it read."""
    telling = [each for each in operations if each.outcome == "ok" or (each.outcome == "unknown" and each.op != "get")]
    label = _Labels(telling).label
    return [_MAKERS[operation.op](operation, label) for operation in telling]


class _Labels:
    """Makes one value, `UNASKED`, of all those that no operation of the history asks for: the search need not tell
    them apart, and what is of unknown outcome and wrote one of them stands in for any other that did."""

    def __init__(self, operations: Iterable[Operation]) -> None:
        self._asked: set[Value] = set()
        self._beginnings = False
        for operation in operations:
            if operation.op == "cas":
                self._asked.add(operation.args[0])
            elif operation.op == "append":
                self._beginnings = True
            if operation.op in ("get", "append") and operation.outcome == "ok":
                self._asked.add(operation.result)
        self._labels: dict[Value, Value] = {}

    def label(self, value: Value) -> Value:
        """The value itself, if any operation can tell it from others, or what appends make of it; else `UNASKED`."""
        label = self._labels.get(value)
        if label is None and value is not None:
            label = self._labels[value] = value if self._is_asked(value) else UNASKED
        return label

    def _is_asked(self, value: Value) -> bool:
        if value in self._asked:
            return True
        return (
            self._beginnings
            and isinstance(value, str)
            and any(isinstance(asked, str) and asked.startswith(value) for asked in self._asked)
        )


_Label = Callable[[Value], Value]


def _get(operation: Operation, _: _Label) -> Move:
    return _observer_of(operation, operation.result)


def _observer_of(operation: Operation, held: Value) -> Move:
    move = Move(operation, lambda value: value if value == held else ILLEGAL)
    move.observes, move.wants = True, (held,)
    return move


def _set(operation: Operation, label: _Label) -> Move:
    new = label(operation.args[0])
    move = Move(operation, lambda value: new, new)
    move.overwrites = move.hides = True
    return move


def _delete(operation: Operation, _: _Label) -> Move:
    if operation.outcome == "ok" and not operation.result:
        return _observer_of(operation, None)
    if operation.outcome == "ok":
        move = Move(operation, lambda value: ILLEGAL if value is None else None)
        move.wants_presence = True
    else:
        move = Move(operation, lambda value: None)
    move.overwrites = True
    return move


def _cas(operation: Operation, label: _Label) -> Move:
    expected, new = operation.args[0], label(operation.args[1])
    if operation.outcome == "ok" and not operation.result:
        move = Move(operation, lambda value: value if value != expected else ILLEGAL)
        move.observes, move.refuses = True, (expected,)
    else:
        move = Move(operation, lambda value: new if value == expected else ILLEGAL, expected, new)
        move.wants = (expected,)
    return move


def _append(operation: Operation, label: _Label) -> Move:
    suffix = str(operation.args[0])
    whole = operation.result if operation.outcome == "ok" else None

    def step(value: Value) -> Any:
        if isinstance(value, int):
            return ILLEGAL
        longer = (value or "") + suffix
        return label(longer) if whole is None or longer == whole else ILLEGAL

    move = Move(operation, step, suffix)
    move.appends = True
    if whole is None:
        move.takes_anything = True
    else:
        before = str(whole).removesuffix(suffix)
        move.wants = (before,) if before else ("", None)
    return move


_MAKERS: dict[str, Callable[[Operation, _Label], Move]] = {
    "get": _get,
    "set": _set,
    "delete": _delete,
    "cas": _cas,
    "append": _append,
}
