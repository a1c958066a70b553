"""A run as an HTML page with its latency over time, in the style of the report of zraft-chaos; or a picture of it."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from zraft.bench import report
from zraft.bench.run import Measured
from zraft.chaos import charts
from zraft.chaos.page import legend, page, section, tiles
from zraft.errors import ZraftError

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER_SECONDS = 60
PICTURE = "1180,1500"


def render(measured: Measured, threads: Mapping[str, str]) -> str:
    """The page."""
    seconds, end_s = report.seconds_of(measured), measured.workload.duration_s
    # A second that was only measured in part would look slow.
    whole = seconds[: max(1, int(end_s))]
    found = report.kinds(measured)
    figures = [(f"{measured.ops_per_s:,.0f}/s", "operations")]
    for kind, histogram in found.items():
        named = f" of a {kind}" if len(found) > 1 else ""
        figures += [
            (report.shown_us(histogram.quantile_us(share)), f"{name}{named}")
            for name, share in report.QUANTILES.items()
            if name in ("p50", "p99", "p99.9")
        ]
        figures.append((report.shown_us(histogram.max_us), f"longest{named}"))
    notes = "".join(f'<p class="note">{escape(text)}</p>' for text in report.remarks(measured))
    words = "Of operations that ended in each second; logarithmic."
    body = [
        f"<header><h1>zraft-bench</h1><p>{escape(report.about(measured.workload))}</p></header>",
        tiles(figures),
        notes,
        section("latency", "Latency", words, legend([("p50", "median"), ("p99", "99 %"), ("max", "longest")]),
                charts.latency(seconds, end_s)),
        section("throughput", "Throughput", "Operations that ended in each second.", charts.throughput(whole, end_s)),
        _cpu(report.cpu_table(measured, threads)),
    ]  # fmt: skip
    data = {**report.as_json(measured, threads), "timeline": [], "end_s": end_s}
    return page(f"zraft-bench {measured.workload.name}", body, data)


def _cpu(table: Sequence[Sequence[str]]) -> str:
    if not table:
        return ""
    head, *rows = table
    header = f"<th>{escape(head[0])}</th>" + "".join(f'<th class="number">{escape(cell)}</th>' for cell in head[1:])
    lines = "".join(
        f"<tr><td>{escape(row[0])}</td>" + "".join(f'<td class="number">{cell}</td>' for cell in row[1:]) + "</tr>"
        for row in rows
    )
    return section("cpu", "CPU", "By thread, each named by its actors.", f"<table><tr>{header}</tr>{lines}</table>")


def write(measured: Measured, threads: Mapping[str, str], path: Path) -> None:
    """As .html, or as .png, for which a Chromium takes the picture. Raises ZraftError, OSError."""
    html = render(measured, threads)
    if path.suffix != ".png":
        path.write_text(html, encoding="utf-8")
        return
    browser = find_browser()
    with tempfile.TemporaryDirectory(prefix="zraft-bench-") as folder:
        source = Path(folder) / "plot.html"
        source.write_text(html, encoding="utf-8")
        command = [
            browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run",
            "--hide-scrollbars", f"--user-data-dir={folder}/user",
            "--host-resolver-rules=MAP * ~NOTFOUND", f"--window-size={PICTURE}", f"--screenshot={path.absolute()}",
            source.as_uri(),
        ]  # fmt: skip
        try:
            subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=BROWSER_SECONDS, check=True)
        except subprocess.SubprocessError as error:
            raise ZraftError(f"{path}: {browser} did not draw it ({type(error).__name__}): write an .html") from None


def find_browser() -> str:
    """The program that draws pictures. Raises ZraftError if there is none."""
    found = next(filter(None, map(shutil.which, BROWSERS)), None)
    if found is None:
        raise ZraftError(f"a .png needs one of {', '.join(BROWSERS)} to draw it, and there is none: write an .html")
    return found
