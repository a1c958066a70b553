"""The search for an order that explains the history of one key.

It is Wing and Gong's (1993) in the form of Lowe's just-in-time linearization (2017). It walks through calls and
returns in the order of time with *configurations* that explain what it has passed: the value of the key, and which of
the operations under way have taken effect. Only when an operation returns must it have taken effect, and only then are
orders tried, those that end with it. Where no configuration gets past a return, the history up to it is the shortest
prefix that fails. What keeps the configurations few:

- One that allows all that another one allows makes the other superfluous (`Frontier`).
- What changes no value, such as a get, takes effect as soon as the value is right for it: nothing is lost by that.
- A set that was under way when another move overwrote the value may have come just before, seen by nobody.
- A move is left for later where no other one makes use of the value that it leaves (`Wanted`).

Depth first, a handful of configurations at a time: most histories are linearizable, and then one order is enough.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import NamedTuple

from zraft.chaos.history import Operation, Value
from zraft.chaos.moves import ILLEGAL, Move, make_moves

# More configurations than this would fill the memory before the time is up: some 200 bytes each.
MAX_CONFIGURATIONS = 2_000_000

# So many configurations go through a return together at first; after a dead end twice as many.
_WIDTH = 32

# So many steps of the search pass between two looks at the clock.
_STEPS_PER_LOOK = 256


class LimitReached(Exception):
    """The search had to end without a result; `str()` says why."""


class DeadEnd(NamedTuple):
    """No order gets past the return of `operation`.

    `order`: one that gets up to it; `since`: the last time before (None: the start) at which no operation of known
    outcome was under way; `values`: those that the key can have had then.
    """

    operation: Operation
    order: list[Operation]
    since: float | None
    values: tuple[Value, ...]


# The order in which moves took effect, last first: (what came before, move, whether it was hidden).
Path = tuple["Path | None", Move, bool] | None

# (value, done, bonus, path). Both masks have one bit for each move under way:
#   done: a move that changes the value has taken effect;
#   bonus: what is only ever good to have: a move that changes nothing has taken effect; an optional move has not been
#   used; a set is *free*: it may take effect, but need not, for it can have been overwritten at once.
Configuration = tuple[Value, int, int, Path]


class Frontier:
    """Configurations at one return, none of which allows all that another one allows."""

    def __init__(self) -> None:
        self._by_value: dict[Value, list[Configuration]] = {}
        self.size = 0

    def add(self, configuration: Configuration) -> bool:
        """Take a configuration in and superfluous ones out; False if it is superfluous itself."""
        value, done, bonus, _ = configuration
        kept = self._by_value.get(value)
        if kept is None:
            self._by_value[value] = [configuration]
            self.size += 1
            return True
        # One allows all that the other does if it has every bonus of the other, and they differ in nothing else than
        # in moves that are free in it: a free set can do what a pending and what a done one can.
        for _, other_done, other_bonus, _ in kept:
            if not bonus & ~other_bonus and not (done ^ other_done) & ~other_bonus:
                return False
        before = len(kept)
        kept[:] = [other for other in kept if other[2] & ~bonus or (done ^ other[1]) & ~bonus]
        kept.append(configuration)
        self.size += len(kept) - before
        return True

    def configurations(self) -> list[Configuration]:
        """All of them, those with the most left to choose from first."""
        found = [configuration for kept in self._by_value.values() for configuration in kept]
        found.sort(key=lambda configuration: -bin(configuration[2]).count("1"))
        return found


class Wanted:
    """Which values the moves under way can make use of: a set, or an optional move, to any other value is in vain.

    Such a move is needed at a return for nothing but the value that it leaves to the next one in the order, and what
    the next one asks of the value is known. It remains possible at the next return.
    """

    def __init__(self, moves: Iterable[Move]) -> None:
        self._values: set[Value] = set()
        self._unwanted: set[Value] = set()
        self._anything = self._presence = self._appends = False
        for move in moves:
            self._values.update(move.wants)
            self._unwanted.update(move.refuses)
            self._anything |= move.takes_anything and not move.optional
            self._presence |= move.wants_presence
            self._appends |= move.appends

    def needs(self, before: Value, after: Value) -> bool:
        """Whether changing the value so can be of use to some move."""
        if self._anything or after in self._values or before in self._unwanted or (self._presence and before is None):
            return True
        return (
            self._appends
            and isinstance(after, str)
            and any(isinstance(value, str) and value.startswith(after) for value in self._values)
        )


class _Round(NamedTuple):
    """What lies between two returns: the moves called, then the one that returns, and all that are under way then.

    `called_optional`: how many optional moves have been called by now; `sets`: mask of the sets under way;
    `quiet`: after the return nothing is under way but optional moves.
    """

    called: list[Move]
    returning: Move
    changers: list[Move]
    observers: list[Move]
    sets: int
    called_optional: int
    quiet: bool


class KeySearch:
    """The search through the history of one key, which begins absent."""

    def __init__(self, operations: Iterable[Operation], clock: Callable[[], float], deadline_s: float) -> None:
        self._clock, self._deadline_s = clock, deadline_s
        self._steps = 0
        self._optional: list[Move] = []
        self._optional_by_bit: dict[int, Move] = {}
        # Optional moves that do the same stand in for each other: the one that was called first is used first.
        self._optional_masks: dict[object, int] = {}
        self._rounds = self._plan(operations)

    def run(self) -> DeadEnd | None:
        """None if there is an order that explains all operations. Raises `LimitReached`."""
        start: Configuration = (None, 0, 0, None)
        reached: dict[int, Frontier] = {0: Frontier()}  # by the number of rounds passed
        reached[0].add(start)
        quiet: dict[int, set[Value]] = {0: {None}}
        stack: list[tuple[int, list[Configuration], int]] = [(0, [start], _WIDTH)]
        kept = deepest = lowest = 0
        while stack:
            passed, configurations, width = stack.pop()
            if len(configurations) > width:
                stack.append((passed, configurations[width:], 2 * width))
                configurations = configurations[:width]
            if passed == len(self._rounds):
                return None
            # No configuration comes to the rounds again that all have passed.
            while lowest < (stack[0][0] if stack else passed):
                kept -= reached.pop(lowest).size
                lowest += 1
            frontier = reached.setdefault(passed + 1, Frontier())
            before = frontier.size
            after = self._pass(self._rounds[passed], configurations, kept)
            fresh = [each for each in after.configurations() if frontier.add(each)]
            kept += frontier.size - before
            if fresh:
                deepest = max(deepest, passed + 1)
                stack.append((passed + 1, fresh, width if passed + 1 == deepest else 2 * width))
                if self._rounds[passed].quiet:
                    quiet.setdefault(passed + 1, set()).update(each[0] for each in fresh)
        return self._dead_end(deepest, reached[deepest].configurations(), quiet)

    def _dead_end(self, passed: int, configurations: list[Configuration], quiet: dict[int, set[Value]]) -> DeadEnd:
        last_quiet = max(number for number in quiet if number <= passed)
        since = self._rounds[last_quiet - 1].returning.operation.ret if last_quiet else None
        values = sorted(quiet[last_quiet], key=lambda value: (value is not None, str(value)))
        longest = max((order_of(path) for _, _, _, path in configurations), key=len)
        return DeadEnd(self._rounds[passed].returning.operation, longest, since, tuple(values))

    # ---- before the search: who is under way when ----------------------------------------------------------------

    def _plan(self, operations: Iterable[Operation]) -> list[_Round]:
        events: list[tuple[float, bool, Move]] = []
        for move in make_moves(operations):
            events.append((move.operation.call, False, move))
            if not move.optional and move.operation.ret is not None:
                events.append((move.operation.ret, True, move))
        # At one and the same time calls come first: then the two are concurrent, which the times do not exclude.
        events.sort(key=lambda event: event[:2])
        self._give_bits(events)
        rounds: list[_Round] = []
        called: list[Move] = []
        under_way: list[Move] = []
        for _, is_return, move in events:
            if not is_return:
                called.append(move)
                if move.optional:
                    self._optional.append(move)
                else:
                    under_way.append(move)
                continue
            changers = [each for each in under_way if not each.observes]
            observers = [each for each in under_way if each.observes]
            sets = sum(each.bit for each in under_way if each.hides)
            under_way.remove(move)
            rounds.append(_Round(called, move, changers, observers, sets, len(self._optional), not under_way))
            called = []
        return rounds

    def _give_bits(self, events: list[tuple[float, bool, Move]]) -> None:
        # A move that returns gives its bit back to the next one. Optional ones never return: theirs are above.
        free: list[int] = []
        used = 0
        for _, is_return, move in events:
            if is_return:
                free.append(move.bit)
            elif not move.optional:
                if not free:
                    free.append(1 << used)
                    used += 1
                move.bit = free.pop()
        for _, _, move in events:
            if move.optional:
                move.bit = 1 << used
                used += 1
                self._optional_by_bit[move.bit] = move
                self._optional_masks[move.effect] = self._optional_masks.get(move.effect, 0) | move.bit

    # ---- one round -----------------------------------------------------------------------------------------------

    def _pass(self, this: _Round, configurations: list[Configuration], kept: int) -> Frontier:
        """The configurations after a round: its returning move has taken effect, by orders that end with it."""
        move, keep = this.returning, ~this.returning.bit
        bit = move.bit
        after, tried = Frontier(), Frontier()
        queue: deque[Configuration] = deque()
        for value, done, bonus, path in configurations:
            bonus, path = _call(this.called, value, bonus, path)
            if done & bit or (bonus & bit and move.observes):
                after.add((value, done & keep, bonus & keep, path))
                continue
            if bonus & bit:  # a free set: it was overwritten at once, or it takes effect now, for others to see
                after.add((value, done, bonus & keep, (path, move, True)))
            if tried.add((value, done, bonus, path)):
                queue.append((value, done, bonus, path))
        if not queue:
            return after
        wanted = Wanted((*this.changers, *this.observers, *self._optional[: this.called_optional]))
        while queue:
            self._look_at_limits(kept + after.size + tried.size)
            value, done, bonus, path = queue.popleft()
            for candidate in self._candidates(this, done, bonus):
                new = candidate.step(value)
                if new is ILLEGAL:
                    continue
                if candidate is not move and candidate.may_wait and not wanted.needs(value, new):
                    continue
                new_done, new_bonus, new_path = _take(this, candidate, new, done, bonus, path)
                if new_done & bit or (new_bonus & bit and move.observes):
                    after.add((new, new_done & keep, new_bonus & keep, new_path))
                elif tried.add((new, new_done, new_bonus, new_path)):
                    queue.append((new, new_done, new_bonus, new_path))
        return after

    def _candidates(self, this: _Round, done: int, bonus: int) -> list[Move]:
        candidates = [move for move in this.changers if not done & move.bit]
        for mask in self._optional_masks.values():
            unused = mask & bonus
            if unused:
                candidates.append(self._optional_by_bit[unused & -unused])
        return candidates

    def _look_at_limits(self, configurations: int) -> None:
        self._steps += 1
        if self._steps % _STEPS_PER_LOOK == 1 and self._clock() > self._deadline_s:
            raise LimitReached("the time limit was reached")
        if configurations > MAX_CONFIGURATIONS:
            raise LimitReached(f"more than {MAX_CONFIGURATIONS} configurations")


def _call(called: list[Move], value: Value, bonus: int, path: Path) -> tuple[int, Path]:
    """Bonus and path of a configuration after these moves were called."""
    for move in called:
        if move.optional:
            bonus |= move.bit
        elif move.observes and move.step(value) is not ILLEGAL:
            bonus |= move.bit
            path = (path, move, False)
    return bonus, path


def _take(this: _Round, move: Move, value: Value, done: int, bonus: int, path: Path) -> tuple[int, int, Path]:
    """The masks and the path of a configuration after `move` made `value` of the key's value."""
    path = (path, move, False)
    bonus &= ~move.bit
    if not move.optional:
        done |= move.bit
    if move.overwrites:
        # Any set under way can have come just before, seen by nobody.
        bonus |= this.sets & ~done
    for observer in this.observers:
        if not bonus & observer.bit and observer.step(value) is not ILLEGAL:
            bonus |= observer.bit
            path = (path, observer, False)
    return done, bonus, path


def order_of(path: Path) -> list[Operation]:
    """The operations of a path, first one first; a hidden set stands before the one that overwrote it."""
    backwards: list[Operation] = []
    hidden: list[Operation] = []
    while path is not None:
        path, move, was_hidden = path
        if was_hidden:
            hidden.append(move.operation)
        else:
            backwards.append(move.operation)
            if move.overwrites:
                backwards += hidden
                hidden = []
    return backwards[::-1]
