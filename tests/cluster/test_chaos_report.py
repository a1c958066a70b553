"""The report in a real browser: it shows what it is to show, its script runs, and it asks nothing of a network."""

from __future__ import annotations

import io
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from zraft.chaos.history import Operation
from zraft.chaos.injector import Injected
from zraft.chaos.linearizability import check
from zraft.chaos.recorder import Recorder
from zraft.chaos.report import render
from zraft.chaos.result import Result, make_result
from zraft.chaos.runner import Plan, Seen
from zraft.chaos.schedule import KINDS
from zraft.chaos.watch import Sample

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND",
    "--virtual-time-budget=2000",
    "--window-size=1180,2000",
)
WHAT_IT_FETCHED = """<script>
document.documentElement.dataset.fetched =
  performance.getEntriesByType("resource").map((entry) => entry.name).join(" ") || "nothing";
</script>"""
IDS = ("verdict", "timeline", "leaders", "throughput", "latency", "operations", "faults")


class Elements(HTMLParser):
    """By id: what is inside, as (tag, attributes), and its text."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.root: dict[str, str | None] = {}
        self.tags: dict[str, list[str]] = {}
        self.text: dict[str, str] = {}
        self._section = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        if tag == "html":
            self.root = attributes
        if tag == "section":
            self._section = attributes.get("id") or ""
            self.tags[self._section], self.text[self._section] = [], ""
        elif self._section:
            self.tags[self._section].append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag == "section":
            self._section = ""

    def handle_data(self, data: str) -> None:
        if self._section:
            self.text[self._section] += data


def made_up(is_lost: bool) -> Result:
    """A run of ten seconds with a fault of each kind; `is_lost`: the last read does not see the last write."""
    recorder = Recorder(lambda: 0.0, io.StringIO())
    for number in range(200):
        call = number * 0.05
        recorder.operations.append(Operation(1, "set", "</script>k", (f"v{number}",), None, call, call + 0.01, "ok"))
    recorder.operations.append(Operation(2, "set", "</script>k", ("w",), None, 5.01, None, "unknown"))
    last = "v7" if is_lost else "v199"
    recorder.operations.append(Operation("end", "get", "</script>k", (), last, 10.2, 10.3, "ok"))
    faults = [Injected(kind, f"what-{kind}", ("n1", "n2"), at + 0.5, at + 1.5) for at, kind in enumerate(KINDS)]
    samples = [Sample(0.0, node, "follower", 1) for node in ("n1", "n2", "n3")]
    samples += [Sample(0.5, "n1", "leader", 1), Sample(4.0, "n1", "away", 0), Sample(4.5, "n2", "leader", 2)]
    seen = Seen(recorder, faults, sorted(samples), healed_s=10.0, served_after_s=0.1, was_read=True)
    seen.deaths = {node: {} for node in ("n1", "n2", "n3")}
    plan = Plan(10.0, 1, KINDS, 2, 1)
    return make_result(plan, (), seen, check(recorder.operations, lambda: 0.0, 10.0), [])


@pytest.mark.parametrize("is_lost", [False, True])
def test_it_needs_no_other_file_and_no_network(is_lost: bool) -> None:
    html = render(made_up(is_lost))
    without_names = html.replace("http://www.w3.org/2000/svg", "")
    assert not re.search(r"https?:|//[a-z]|@import|url\(|<(img|iframe|object)|src=", without_names)
    (link,) = re.findall(r"<link[^>]*>", html)
    assert 'href="data:,"' in link
    assert html.count("</script>") == 2, "a key must not end the script element"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium here to open the report in")
@pytest.mark.parametrize("is_lost", [False, True])
def test_in_a_browser(tmp_path: Path, is_lost: bool) -> None:
    result = made_up(is_lost)
    path = tmp_path / "report.html"
    path.write_text(render(result).replace("</body>", WHAT_IT_FETCHED + "</body>"), encoding="utf-8")
    assert CHROMIUM is not None
    command = [CHROMIUM, *OPTIONS, f"--user-data-dir={tmp_path / 'profile'}"]
    done = subprocess.run([*command, "--dump-dom", path.as_uri()], capture_output=True, text=True, timeout=60)
    found = Elements(done.stdout)
    assert (found.root.get("data-ready"), found.root.get("data-error")) == ("yes", None), done.stderr[-2000:]
    for name in IDS:
        assert found.text[name].strip(), name
    for name in ("timeline", "leaders", "throughput", "latency"):
        assert "svg" in found.tags[name], name
    for kind in KINDS:
        assert kind in found.text["timeline"] and f"what-{kind}" in found.text["timeline"]
    assert "n1 leads in term 1" in found.text["leaders"] and "n2 leads in term 2" in found.text["leaders"]
    assert found.tags["latency"].count("polyline") == 3
    assert found.tags["throughput"].count("rect") >= 10
    assert ("failing-history" in found.tags) is is_lost
    assert ("violated" in found.text["verdict"]) is is_lost
    if is_lost:
        assert found.tags["failing-history"].count("rect") >= 10
        assert "no order of its operations explains" in found.text["failing-history"]
    assert found.root["data-fetched"] == "nothing"


def test_figures_for_machines() -> None:
    figures = json.loads(json.dumps(made_up(True).as_json()))
    assert figures["verdict"] == "violated"
    assert figures["outcomes"] == {"ok": 201, "unknown": 1, "fail": 0}
    assert figures["faults"]["disk"] == {"what-disk": 1}
    assert figures["longest_write_gap_s"] == pytest.approx(0.05, abs=0.001)
    assert sum(second["ok"] for second in figures["seconds"]) == 201
