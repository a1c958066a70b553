"""Is a history of a key-value store linearizable? And if not, what cannot have happened.

Linearizable: every operation can be given one moment between its call and its return (one of unknown outcome: any
moment after its call, or none) so that, executed in that order, all give the results that they gave. Keys are
independent of each other, so each is searched alone (Herlihy and Wing 1990, theorem 1: locality).

The search is Wing and Gong's (1993) in the form of Lowe's just-in-time linearization (2017). It walks through calls
and returns in the order of time and keeps all *configurations* that explain what it has passed: the value of the key,
and which of the operations under way have taken effect. Only when an operation returns must it have taken effect, and
only then orders are tried that end with it. If no configuration is left, the prefix up to that return is the shortest
one that fails. Two things keep the number of configurations small:

- A configuration that allows all that another one allows makes the other superfluous (`_Frontier`).
- What changes no value, such as a get, takes effect as soon as the value is right for it: nothing is lost by that.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

from zraft.chaos.history import Operation, Value
from zraft.chaos.moves import ILLEGAL, Move, make_move

# More configurations than this at one return would fill the memory before the time is up.
MAX_CONFIGURATIONS = 500_000

# So many steps of the search pass between two looks at the clock.
_STEPS_PER_LOOK = 256


class Verdict(Enum):
    """What the checker found out. NONE: the limit of time or of memory was reached first."""

    LINEARIZABLE = "linearizable"
    NOT_LINEARIZABLE = "not linearizable"
    NONE = "no verdict"


@dataclass(frozen=True)
class Failure:
    """Why a key's history is not linearizable.

    - `operation`: the one that fits nowhere: all that returned before it can be explained, with it nothing can;
    - `prefix`: the shortest failing history, all operations of the key that were called before `operation` returned;
    - `since`, `values`: at that time (None: the start) nothing was under way, and the value can have been any of these;
    - `window`: the part of `prefix` that was called since then, or is of unknown outcome;
    - `order`: one order that explains all of `window` that had returned before `operation` did.
    """

    operation: Operation
    prefix: tuple[Operation, ...]
    since: float | None
    values: tuple[Value, ...]
    window: tuple[Operation, ...]
    order: tuple[Operation, ...]


@dataclass(frozen=True)
class Report:
    """The verdict on a whole history. `reason` says why there is none; `failure` is there if it is not linearizable."""

    verdict: Verdict
    operations: int
    keys: int
    reason: str = ""
    failure: Failure | None = None


class _LimitReached(Exception):
    """The search has to end without a verdict; `args[0]` says why."""


def check(operations: Iterable[Operation], clock: Callable[[], float], limit_s: float) -> Report:
    """Search every key's history, the shortest ones first, until one fails or all are explained.

    `clock` gives seconds, monotonic; after `limit_s` of them the search ends without a verdict.
    """
    by_key: dict[str, list[Operation]] = {}
    for operation in operations:
        by_key.setdefault(operation.key, []).append(operation)
    count = sum(map(len, by_key.values()))
    deadline_s = clock() + limit_s
    unsettled: list[str] = []
    for key in sorted(by_key, key=lambda key: (len(by_key[key]), key)):
        try:
            failure = _KeySearch(by_key[key], clock, deadline_s).run()
        except _LimitReached as limit:
            unsettled.append(f"key {key!r}: {limit.args[0]}")
            continue
        if failure is not None:
            return Report(Verdict.NOT_LINEARIZABLE, count, len(by_key), failure=failure)
    if unsettled:
        more = f" (and {len(unsettled) - 1} more keys)" if len(unsettled) > 1 else ""
        return Report(Verdict.NONE, count, len(by_key), reason=unsettled[0] + more)
    return Report(Verdict.LINEARIZABLE, count, len(by_key))


# The order in which operations took effect, last first: (what came before, move, whether it was hidden).
_Path = tuple["_Path | None", Move, bool] | None

# A configuration without its value: (done, bonus, path). Both masks have one bit for each move under way:
#   `done`: a move that changes the value has taken effect;
#   `bonus`: what is only ever good to have: a move that changes nothing has taken effect; an optional move has not
#   been used; a set is *free*: it may take effect, but need not, for it can have been overwritten at once.
_Configuration = tuple[int, int, _Path]


class _Frontier:
    """Configurations by value, none of which allows all that another one allows."""

    def __init__(self) -> None:
        self.by_value: dict[Value, list[_Configuration]] = {}
        self.size = 0

    def add(self, value: Value, done: int, bonus: int, path: _Path) -> bool:
        """Take a configuration in and superfluous ones out; False if it is superfluous itself."""
        kept = self.by_value.get(value)
        if kept is None:
            self.by_value[value] = [(done, bonus, path)]
            self.size += 1
            return True
        # One allows all that the other does if it has every bonus of the other, and they differ in nothing else than
        # in moves that are free in it: a free set can do what a pending and what a done one can.
        for other_done, other_bonus, _ in kept:
            if not bonus & ~other_bonus and not (done ^ other_done) & ~other_bonus:
                return False
        before = len(kept)
        kept[:] = [other for other in kept if other[1] & ~bonus or (done ^ other[0]) & ~bonus]
        kept.append((done, bonus, path))
        self.size += len(kept) - before
        return True


class _Wanted:
    """Which values the moves under way can make use of: a set, or an optional move, to any other value is in vain.

    Such a move is needed at a return for nothing but the value that it leaves to the next one in the order, and what
    the next one asks of the value is known. It remains possible at the next return.
    """

    def __init__(self, moves: Iterable[Move]) -> None:
        self.values: set[Value] = set()
        self.unwanted: set[Value] = set()
        self.anything = self.presence = self.appends = False
        for move in moves:
            self.values.update(move.wants)
            self.unwanted.update(move.refuses)
            self.anything |= move.takes_anything and not move.optional
            self.presence |= move.wants_presence
            self.appends |= move.appends

    def needs(self, before: Value, after: Value) -> bool:
        """Whether changing the value so can be of use to some move."""
        if self.anything or after in self.values or before in self.unwanted or (self.presence and before is None):
            return True
        return (
            self.appends
            and isinstance(after, str)
            and any(isinstance(value, str) and value.startswith(after) for value in self.values)
        )


class _KeySearch:
    """The search through the history of one key, which begins absent."""

    def __init__(self, operations: list[Operation], clock: Callable[[], float], deadline_s: float) -> None:
        self._operations = operations
        self._clock, self._deadline_s = clock, deadline_s
        self._steps = 0
        self._frontier = _Frontier()
        self._frontier.add(None, 0, 0, None)
        self._under_way: dict[int, Move] = {}  # by bit
        self._observers: list[Move] = []
        self._changers: list[Move] = []
        self._sets = 0  # mask of the sets that have to take effect
        self._optional: dict[object, int] = {}  # equal moves may stand in for each other: what they do -> mask of them
        self._cut: tuple[float | None, tuple[Value, ...]] = (None, (None,))

    def run(self) -> Failure | None:
        """None if all operations can be explained. Raises `_LimitReached`."""
        events: list[tuple[float, bool, Move]] = []
        for operation in self._operations:
            move = make_move(operation)
            if move is None:
                continue
            events.append((operation.call, False, move))
            if not move.optional and operation.ret is not None:
                events.append((operation.ret, True, move))
        # At one and the same time calls come first: then the two are concurrent, which the times do not exclude.
        events.sort(key=lambda event: event[:2])
        for time_s, is_return, move in events:
            if not is_return:
                self._call(move)
                continue
            frontier = self._return(move)
            if not frontier.by_value:
                return self._failure(move)
            self._frontier = frontier
            self._forget(move)
            if not self._observers and not self._changers:
                self._cut = (time_s, tuple(frontier.by_value))
        return None

    def _call(self, move: Move) -> None:
        bit = 1
        while bit in self._under_way:
            bit <<= 1
        move.bit = bit
        self._under_way[bit] = move
        if move.optional:
            self._optional[move.effect] = self._optional.get(move.effect, 0) | bit
        elif move.observes:
            self._observers.append(move)
        else:
            self._changers.append(move)
            self._sets |= bit if move.hides else 0
        if not move.optional and not move.observes:
            return
        frontier = _Frontier()
        for value, configurations in self._frontier.by_value.items():
            has_bonus = move.optional or move.step(value) is not ILLEGAL
            for done, bonus, path in configurations:
                if has_bonus:
                    bonus |= bit
                    path = path if move.optional else (path, move, False)
                frontier.add(value, done, bonus, path)
        self._frontier = frontier

    def _forget(self, move: Move) -> None:
        del self._under_way[move.bit]
        (self._observers if move.observes else self._changers).remove(move)
        self._sets &= ~move.bit

    def _return(self, move: Move) -> _Frontier:
        """All configurations in which `move` has taken effect, by orders that end with it."""
        bit, keep = move.bit, ~move.bit
        after, tried = _Frontier(), _Frontier()
        queue: deque[tuple[Value, int, int, _Path]] = deque()
        for value, configurations in self._frontier.by_value.items():
            for done, bonus, path in configurations:
                if done & bit or (bonus & bit and move.observes):
                    after.add(value, done & keep, bonus & keep, path)
                    continue
                if bonus & bit:  # a free set: it was overwritten at once, or it takes effect now, for others to see
                    after.add(value, done, bonus & keep, (path, move, True))
                tried.add(value, done, bonus, path)
                queue.append((value, done, bonus, path))
        if not queue:
            return after
        wanted = _Wanted(self._under_way.values())
        while queue:
            self._look_at_limits(after.size + tried.size)
            value, done, bonus, path = queue.popleft()
            for candidate in self._candidates(done, bonus):
                new = candidate.step(value)
                if new is ILLEGAL:
                    continue
                if candidate is not move and candidate.may_wait and not wanted.needs(value, new):
                    continue
                new_done, new_bonus, new_path = self._take(candidate, new, done, bonus, path, keep)
                if new_done & bit or (new_bonus & bit and move.observes):
                    after.add(new, new_done & keep, new_bonus & keep, new_path)
                elif tried.add(new, new_done, new_bonus, new_path):
                    queue.append((new, new_done, new_bonus, new_path))
        return after

    def _candidates(self, done: int, bonus: int) -> list[Move]:
        candidates = [move for move in self._changers if not done & move.bit]
        for mask in self._optional.values():
            unused = mask & bonus
            if unused:
                candidates.append(self._under_way[unused & -unused])
        return candidates

    def _take(
        self, move: Move, value: Value, done: int, bonus: int, path: _Path, keep: int
    ) -> tuple[int, int, _Path]:
        """The rest of the configuration after `move` made `value` of the key's value."""
        path = (path, move, False)
        bonus &= ~move.bit
        if not move.optional:
            done |= move.bit
        if move.overwrites:
            # Any set under way can have come just before, seen by nobody. Not the one that is about to return: that
            # order, shortened to end with it, is tried anyway.
            bonus |= self._sets & ~done & keep
        for observer in self._observers:
            if not bonus & observer.bit and observer.step(value) is not ILLEGAL:
                bonus |= observer.bit
                path = (path, observer, False)
        return done, bonus, path

    def _look_at_limits(self, configurations: int) -> None:
        self._steps += 1
        if self._steps % _STEPS_PER_LOOK == 1 and self._clock() > self._deadline_s:
            raise _LimitReached("the time limit was reached")
        if configurations > MAX_CONFIGURATIONS:
            raise _LimitReached(f"more than {MAX_CONFIGURATIONS} configurations at one time")

    def _failure(self, move: Move) -> Failure:
        end = move.operation.ret
        assert end is not None
        since, values = self._cut
        prefix = tuple(operation for operation in self._operations if operation.call <= end)
        window = tuple(
            operation
            for operation in prefix
            if since is None or operation.call > since or operation.outcome == "unknown"
        )
        longest = max(
            (_order(path) for kept in self._frontier.by_value.values() for _, _, path in kept),
            key=len,
        )
        # An order ends, at every return, with an operation that returned: so at the cut too.
        earlier = [place for place, operation in enumerate(longest) if _returned_by(operation, since)]
        order = tuple(longest[earlier[-1] + 1 :] if earlier else longest)
        return Failure(move.operation, prefix, since, values, window, order)


def _returned_by(operation: Operation, time_s: float | None) -> bool:
    return (
        time_s is not None
        and operation.outcome != "unknown"
        and operation.ret is not None
        and operation.ret <= time_s
    )


def _order(path: _Path) -> list[Operation]:
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
