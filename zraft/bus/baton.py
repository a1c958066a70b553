"""Who runs the loop of a host: its own thread or, while that one waits for a disk, a stand-in.

To wake another thread for each write, and to be woken by it again, costs as much as a quick disk does. So the thread of
a host runs an actor that waits for a disk itself, and puts the baton down meanwhile. If that takes long, the stand-in
takes the baton up and runs the loop for the other actors, until the first is back: a disk that stalls holds up the one
actor that waits for it, and no heartbeat.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from contextlib import suppress

PATIENCE_NS = 20_000_000  # a baton that lies there for so long, or up to twice as long, is taken up
SLOW_NS = 3_000_000  # after a disk has taken longer than this,
HURRIES = 8  # so many more times it is taken up at once; then the disk is tried again


class Baton:
    """Who holds `lock` runs the loop. run_meanwhile: what the stand-in does with it; to return soon after `wanted` is
    set; `wake_descriptor` can be read from then, until `drain`."""

    def __init__(self, run_meanwhile: Callable[[], None]) -> None:
        self.lock = threading.Lock()
        self.wanted = False  # by the thread that put it down
        self._run_meanwhile = run_meanwhile
        self._summons = threading.Event()
        self._sleeps = True  # the stand-in, until it is summoned: nothing was put down for a while
        self._times = 0  # that the baton was put down
        self._down_since_ns = 0  # 0: it is not
        self._hurries = 0  # of HURRIES, that are left
        self._is_hurry = False
        self._is_taken_up = False
        self._ended = False
        self.wake_descriptor, self._wake_end = os.pipe()
        os.set_blocking(self.wake_descriptor, False)

    # --- for the thread of the host

    def put_down(self) -> None:
        """Before what may wait for a disk."""
        self._times += 1
        self._is_hurry = self._hurries > 0
        self._hurries -= self._is_hurry
        self._down_since_ns = time.monotonic_ns()
        self.lock.release()
        if self._sleeps or self._is_hurry:
            self._summons.set()

    def take_back(self) -> None:
        """After it. The stand-in finishes its turn first."""
        # While a stand-in was busy the disk can seem slow: then this thread waited for Python's lock as well.
        if not self._is_hurry and time.monotonic_ns() - self._down_since_ns > SLOW_NS:
            self._hurries = HURRIES
        self.wanted = True
        if self._is_taken_up:
            os.write(self._wake_end, b"!")
        self.lock.acquire()
        self.wanted = False
        self._down_since_ns = 0

    def drain(self) -> None:
        """Read what can be read from wake_descriptor."""
        with suppress(BlockingIOError):
            os.read(self.wake_descriptor, 4096)

    # --- for the stand-in

    def stand_in(self) -> None:
        """The stand-in's life, in a thread of its own, until `end`. While the baton is put down often it looks at the
        clock now and then: to be summoned costs more."""
        times = 0
        while not self._ended:
            self._summons.wait(None if self._sleeps else PATIENCE_NS / 1e9)
            self._summons.clear()
            if self._is_due() and self.lock.acquire(blocking=False):
                self._take_up()
            self._sleeps = True  # before this look: whoever puts it down later sees a sleeper
            if self._times != times or self._down_since_ns:
                times, self._sleeps = self._times, False

    def _is_due(self) -> bool:
        """Whether the baton has been lying there for long enough."""
        since_ns = self._down_since_ns
        if not since_ns or self.wanted:
            return False
        return self._is_hurry or time.monotonic_ns() - since_ns >= PATIENCE_NS

    def _take_up(self) -> None:
        self._is_taken_up = True  # before the look at wanted: whoever wants it either wakes this thread or is seen
        try:
            if self._down_since_ns and not self.wanted:
                self._run_meanwhile()
        finally:
            self._is_taken_up = False
            self.lock.release()

    def end(self) -> None:
        """The host's loop has ended, and is not begun again: so does `stand_in`."""
        self._ended = True
        self._summons.set()

    def close(self) -> None:
        """When both threads have ended."""
        os.close(self.wake_descriptor)
        os.close(self._wake_end)
