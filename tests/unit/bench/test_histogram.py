"""Quantiles from buckets are within 1 % of those of the durations themselves; sums and differences are exact."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from zraft.bench.histogram import Histogram, bucket_of, middle_us

durations = st.lists(st.integers(0, 10**8), min_size=1, max_size=200)
SHARES = (0.0, 0.5, 0.9, 0.99, 0.999, 1.0)


def histogram_of(values: list[int]) -> Histogram:
    histogram = Histogram()
    for value in values:
        histogram.record(value)
    return histogram


def figures(histogram: Histogram) -> tuple[object, ...]:
    return histogram.counts, histogram.count, histogram.total_us, histogram.max_us


@given(st.integers(0, 10**10))
def test_a_bucket_is_within_one_per_cent(value: int) -> None:
    assert abs(middle_us(bucket_of(value)) - value) <= value / 100
    assert bucket_of(value) <= bucket_of(value + 1) <= bucket_of(value) + 1


@given(durations)
def test_quantiles(values: list[int]) -> None:
    histogram = histogram_of(values)
    ordered = sorted(values)
    for share in SHARES:
        exact = next(value for rank, value in enumerate(ordered, 1) if rank >= share * len(values))
        assert abs(histogram.quantile_us(share) - exact) <= exact / 100
    assert histogram.quantile_us(1.0) <= histogram.max_us == max(values)


@given(durations, durations)
def test_added_or_taken_off_or_sent(one: list[int], other: list[int]) -> None:
    both = histogram_of(one)
    both.add(histogram_of(other))
    assert figures(both) == figures(histogram_of(one + other))
    rest = both.since(histogram_of(one))
    assert figures(rest)[:3] == figures(histogram_of(other))[:3]
    assert figures(Histogram.from_json(json.loads(json.dumps(both.as_json())))) == figures(both)


def test_of_nothing() -> None:
    assert (Histogram().quantile_us(0.99), Histogram().mean_us()) == (0, 0.0)
