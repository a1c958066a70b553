"""The present of a run on a terminal, or as a line every few seconds where there is none."""

from __future__ import annotations

import shutil
import sys
import time

import click

from zraft.chaos.runner import Now

LINE_SECONDS = 5.0
BAR = 30


class LiveView:
    """Shown on stderr, so that stdout holds the verdict alone. `end` leaves the cursor on a line of its own."""

    def __init__(self, duration_s: float) -> None:
        self._duration_s = duration_s
        self._in_place = sys.stderr.isatty()
        self._last = (time.monotonic(), 0)
        self._per_s = 0.0
        self._said_s = -LINE_SECONDS
        self._said_phase = ""
        self._height = 0

    def show(self, now: Now) -> None:
        """Show it, if it is time to."""
        at, count = self._last
        if time.monotonic() - at >= 1.0:
            ended = sum(now.outcomes.values())
            self._per_s = (ended - count) / (time.monotonic() - at)
            self._last = (time.monotonic(), ended)
        if self._in_place:
            self._redraw(now)
        elif now.at_s - self._said_s >= LINE_SECONDS or now.phase != self._said_phase:
            self._said_s, self._said_phase = now.at_s, now.phase
            click.echo("  ".join(self._parts(now)), err=True)

    def end(self) -> None:
        """Nothing more will be shown."""
        self._height = 0

    def _parts(self, now: Now) -> list[str]:
        leader = f"{now.leader[0]} leads in term {now.leader[1]}" if now.leader else "nobody leads"
        faults = "; ".join(map(str, now.faults)) or "none"
        return [
            f"{min(now.at_s, self._duration_s):5.1f}/{self._duration_s:g} s {now.phase}",
            leader,
            f"{self._per_s:,.0f} ops/s ({now.outcomes.get('ok', 0):,} ok, {now.outcomes.get('unknown', 0):,} unknown)",
            f"{now.injected} faults so far, in force: {faults}",
        ]

    def _redraw(self, now: Now) -> None:
        width = shutil.get_terminal_size().columns
        done = min(BAR, int(BAR * now.at_s / self._duration_s))
        lines = [f"[{'#' * done:<{BAR}}]", *self._parts(now)]
        up = f"\x1b[{self._height}A" if self._height else ""
        # A line that wraps would make the view higher than it counts.
        click.echo(up + "\n".join(f"{line[: width - 1]}\x1b[K" for line in lines), err=True)
        self._height = len(lines)
