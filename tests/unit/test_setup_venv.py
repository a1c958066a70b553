"""Which Python the set-up takes."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

SOURCE = Path(__file__).resolve().parents[2] / "bin" / "setup_venv.py"
NAME = f"python{sys.version_info[0]}.{sys.version_info[1]}"


@pytest.fixture
def set_up() -> Any:
    spec = importlib.util.spec_from_file_location("setup_venv", SOURCE)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Another build of this Python, the only one that is found."""
    program = tmp_path / NAME
    program.touch(mode=0o755)
    monkeypatch.setattr("shutil.which", lambda name, path: str(program) if (name, path) == (NAME, "/usr/bin") else None)
    return str(program)


@pytest.mark.parametrize(
    ("here", "there", "takes_the_other"),
    [(1.0, 0.8, True), (1.0, 0.95, False), (1.0, 2.0, False), (1.0, None, False), (None, 2.0, True)],
)
def test_another_build_is_taken_if_it_is_faster_by_a_tenth(
    set_up: Any,
    other: str,
    monkeypatch: pytest.MonkeyPatch,
    here: float | None,
    there: float | None,
    takes_the_other: bool,
) -> None:
    monkeypatch.setattr(set_up, "_seconds_of", {sys.executable: here, other: there}.get)
    assert set_up._fastest_python() == (other if takes_the_other else sys.executable)


def test_where_none_can_make_virtualenvs_it_says_what_to_install(
    set_up: Any, other: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(set_up, "_seconds_of", lambda python: None)
    with pytest.raises(set_up.SetUpFailed, match=f"apt install {NAME}-venv"):
        set_up._fastest_python()


def test_how_fast_one_is_is_measured(set_up: Any) -> None:
    assert 0 < set_up._seconds_of(sys.executable) < 1
    assert set_up._seconds_of("/nowhere/python") is None
