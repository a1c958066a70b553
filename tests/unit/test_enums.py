"""`direct_members`: an enumeration stays one."""

from __future__ import annotations

from enum import Enum, IntEnum

import pytest

from zraft.enums import direct_members


@direct_members
class Colour(Enum):
    RED = "red"
    BLUE = "blue"


@direct_members
class Size(IntEnum):
    SMALL = 1
    LARGE = 2


def test_a_member_is_what_it_was() -> None:
    assert Colour.RED is Colour("red") is Colour["RED"]
    assert list(Colour) == [Colour.RED, Colour.BLUE]
    assert (Colour.BLUE.name, Colour.BLUE.value) == ("BLUE", "blue")
    assert Size.LARGE == 2
    assert Size.SMALL < Size.LARGE


def test_a_member_is_an_attribute_of_its_class() -> None:
    assert vars(Colour)["RED"] is Colour.RED
    assert vars(Size)["LARGE"] is Size.LARGE


def test_no_member_can_be_replaced() -> None:
    with pytest.raises(AttributeError):
        Colour.RED = Colour.BLUE  # type: ignore[misc]
