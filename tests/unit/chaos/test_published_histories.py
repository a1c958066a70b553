"""The checker agrees with the published verdict on every history of the collection beside the repository."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from published_histories import FOLDER, read_jepsen, read_kv

from zraft.chaos.linearizability import Verdict, check, explain

LINEARIZABLE = {"002", "018", "038", "048", "056", "076", "080", "092", "098", "100", "102"}
FILES = sorted(FOLDER.glob("*/*.log")) + sorted(FOLDER.glob("*/*.txt"))
TIME_LIMIT_S = 60.0

pytestmark = pytest.mark.skipif(not FILES, reason="no published histories in ../shared/histories")


def test_the_collection_is_complete() -> None:
    assert len(FILES) == 56
    assert {path.stem[-3:] for path in FILES if path.suffix == ".log"} >= LINEARIZABLE


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_published_verdict(path: Path) -> None:
    lines = path.read_text().splitlines()
    if path.suffix == ".log":
        history, expected = read_jepsen(lines), path.stem[-3:] in LINEARIZABLE
    else:
        history, expected = read_kv(lines), path.stem.endswith("-ok")
    assert len(history) > 30
    report = check(history, time.monotonic, TIME_LIMIT_S)
    assert report.verdict is (Verdict.LINEARIZABLE if expected else Verdict.NOT_LINEARIZABLE), explain(report)
    assert (report.failure is None) == expected
