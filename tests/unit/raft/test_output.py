"""What consensus is told to do: a batch that changed nothing is told so without looking at every part of it."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest

from zraft.raft.state import NOTHING, Output

SOMETHING = {int: 1, list: ["something"], type(None): "a write"}


@pytest.mark.parametrize("name", [field.name for field in fields(Output)])
def test_no_part_of_an_output_is_overlooked(name: str) -> None:
    output = Output()
    something: Any = SOMETHING[type(getattr(output, name))]
    setattr(output, name, something)
    assert not output.is_empty()


def test_an_output_without_anything_is_empty() -> None:
    assert Output().is_empty()
    assert NOTHING.is_empty()
