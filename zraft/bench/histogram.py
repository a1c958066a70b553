"""Durations counted in buckets: quantiles to within 1 % of what any number of them were, in little memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

_EXACT = 128  # microseconds below which each has a bucket of its own; above, 64 buckets for each power of two


def bucket_of(duration_us: int) -> int:
    """The number of the bucket that counts this duration."""
    if duration_us < _EXACT:
        return max(duration_us, 0)
    shift = duration_us.bit_length() - 7
    return 64 * shift + (duration_us >> shift)


def middle_us(bucket: int) -> int:
    """The duration in the middle of a bucket."""
    if bucket < _EXACT:
        return bucket
    shift = bucket // 64 - 1
    return ((bucket - 64 * shift) << shift) + (1 << shift >> 1)


class Histogram:
    """counts: bucket -> how many. count, total_us, max_us: of all durations, exact."""

    def __init__(self) -> None:
        self.counts: dict[int, int] = {}
        self.count = 0
        self.total_us = 0
        self.max_us = 0

    def record(self, duration_us: int) -> None:
        """Count one."""
        bucket = bucket_of(duration_us)
        counts = self.counts
        counts[bucket] = counts.get(bucket, 0) + 1
        self.count += 1
        self.total_us += duration_us
        if duration_us > self.max_us:
            self.max_us = duration_us

    def add(self, other: Histogram) -> None:
        """Count all that another has counted."""
        for bucket, count in other.counts.items():
            self.counts[bucket] = self.counts.get(bucket, 0) + count
        self.count += other.count
        self.total_us += other.total_us
        self.max_us = max(self.max_us, other.max_us)

    def since(self, earlier: Histogram) -> Histogram:
        """What was counted after `earlier`, which is what this one was then. max_us is that of its last bucket."""
        later = Histogram()
        for bucket, count in self.counts.items():
            count -= earlier.counts.get(bucket, 0)
            if count:
                later.counts[bucket] = count
        later.count = self.count - earlier.count
        later.total_us = self.total_us - earlier.total_us
        later.max_us = min(self.max_us, middle_us(max(later.counts, default=0)))
        return later

    def quantile_us(self, share: float) -> int:
        """The duration that this share (0 to 1) of all does not exceed; 0 if there are none."""
        rank = share * self.count
        seen = 0
        for bucket in sorted(self.counts):
            seen += self.counts[bucket]
            if seen >= rank:
                return min(middle_us(bucket), self.max_us)
        return self.max_us

    def mean_us(self) -> float:
        """Their mean; 0 if there are none."""
        return self.total_us / self.count if self.count else 0.0

    def as_json(self) -> dict[str, object]:
        """For `from_json`, in another process."""
        counts = sorted(self.counts.copy().items())  # a copy is taken at once, whoever counts meanwhile
        return {"counts": counts, "total_us": self.total_us, "max_us": self.max_us}

    @classmethod
    def from_json(cls, fields: Mapping[str, object]) -> Histogram:
        """What `as_json` gave."""
        histogram = cls()
        counts, total_us, max_us = (fields[name] for name in ("counts", "total_us", "max_us"))
        assert isinstance(counts, Iterable) and isinstance(total_us, int) and isinstance(max_us, int)
        histogram.counts = dict(counts)
        histogram.count = sum(histogram.counts.values())
        histogram.total_us, histogram.max_us = total_us, max_us
        return histogram
