"""What a run shows: figures with units, CPU by thread, and what makes figures worth less."""

from __future__ import annotations

import json
import os
from collections import Counter
from pathlib import Path

import pytest

from zraft.bench import cpu, page, report
from zraft.bench.load import Outcome
from zraft.bench.run import Measured, Workload
from zraft.errors import ZraftError

WORKLOAD = Workload("mixed", 0.5, 64, 2, 0.0, 1000, 256, 2.0, 1.0)
THREADS = {"frontend+3": "frontend, transport, consensus, election_timer", "log_writer": "log_writer"}
NODES = {
    "n1*": {"main": 0.0, "frontend+3": 2.0, "log_writer": 0.5, cpu.ZMQ: 0.25},
    "n2": {"main": 0.0, "frontend+3": 1.0, "log_writer": 0.25, cpu.ZMQ: 0.0},
}


def measured(clients: tuple[float, ...] = (0.5, 0.5), others: float = 0.0) -> Measured:
    outcome = Outcome()
    for number in range(1000):
        kind, second = ("put", "get")[number % 2], number // 500
        for histograms in (outcome.latencies, outcome.seconds.setdefault(second, _empty())):
            histograms[kind].record(1000 + number)
    outcome.completed = 1000
    return Measured(WORKLOAD, outcome, 2.0, NODES, list(clients), others, (None, None))


def _empty() -> dict[str, object]:
    return Outcome().latencies  # type: ignore[return-value]


@pytest.mark.parametrize(
    ("duration_us", "shown"),
    [(0, "0 us"), (999, "999 us"), (1_000, "1.00 ms"), (12_340, "12.3 ms"), (999_400, "999 ms"), (1_500_000, "1.50 s")],
)
def test_durations(duration_us: int, shown: str) -> None:
    assert report.shown_us(duration_us) == shown


def test_lines() -> None:
    lines = report.lines_of(measured(), THREADS)
    assert lines[0] == (
        "mixed, 50% gets: 64 in flight, 2 clients; 1,000 keys of 16 bytes, values of 256 bytes; 2 s after 1 s of "
        "warm-up"
    )
    cells = [line.split() for line in lines]
    assert ["ops/s", "p50", "p90", "p99", "p99.9", "max"] in cells
    assert ["put", "250", "1.50", "ms", "1.90", "ms", "1.99", "ms", "1.99", "ms", "2.00", "ms"] in cells
    assert [*["frontend,", "transport,", "consensus,", "election_timer"], "2.0000", "1.0000", "3.0000"] in cells
    assert ["all", "threads", "2.7500", "1.2500", "4.0000"] in cells
    assert ["client", "2", "0.5000"] in cells
    assert not any("client-bound" in line or "disturbed" in line for line in lines)


def test_what_makes_figures_worth_less() -> None:
    run = measured(clients=(0.5, 1.9), others=1.0)
    run.outcome.errors = Counter({"OutcomeUnknown: set": 3})
    assert report.remarks(run) == [
        "client-bound: client 2 used 95% of a core: it may have set the pace, not the cluster",
        "disturbed: other programs used 0.50 cores meanwhile; a quiet machine would show other figures",
        "failed: 3 x OutcomeUnknown: set",
    ]
    figures = json.loads(json.dumps(report.as_json(run, THREADS)))
    assert figures["client_bound"] is True and figures["others_cores"] == 0.5
    assert figures["cpu_s_per_1000_ops"]["nodes"]["n1"]["log_writer"] == 0.5 and figures["leader"] == "n1"
    assert figures["latency_us"]["put"]["count"] == 500
    assert [second["ok"] for second in figures["seconds"]] == [500, 500]


def test_nothing_answered() -> None:
    run = measured()
    run = run._replace(outcome=Outcome())
    assert "nothing was answered in the measured time" in report.lines_of(run, THREADS)
    assert page.render(run, THREADS)


def test_a_page_needs_no_other_file(tmp_path: Path) -> None:
    path = tmp_path / "plot.html"
    page.write(measured(), THREADS, path)
    html = path.read_text()
    assert "src=" not in html and "@import" not in html
    assert html.count("polyline") == 3 and "<td>log_writer</td>" in html


def test_a_picture_without_a_browser_is_refused_in_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(page, "BROWSERS", ("no-such-browser",))
    with pytest.raises(ZraftError, match=r"a \.png needs one of no-such-browser .* write an \.html"):
        page.write(measured(), THREADS, tmp_path / "plot.png")


@pytest.mark.skipif(not cpu.can_measure(), reason="no /proc here")
def test_cpu_of_this_process_by_thread() -> None:
    before = cpu.of_process(os.getpid())
    while cpu.difference(before, cpu.of_process(os.getpid()))[cpu.MAIN] < 0.01:
        pass
    assert cpu.of_machine() > 0
    assert cpu.of_process(2**22 + 1) == {}
