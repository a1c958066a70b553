"""Enumerations whose members cost no more to look up than any other attribute of a class."""

from __future__ import annotations

from enum import Enum
from typing import TypeVar

E = TypeVar("E", bound=Enum)


def direct_members(kind: type[E]) -> type[E]:
    """Decorates an enumeration that is named on hot paths.

    CPython 3.11 finds a member through a descriptor written in Python, which takes ten times as long as an attribute
    does. Later versions keep the members in the class itself, as is done here.
    """
    for name, member in kind.__members__.items():
        type.__setattr__(kind, name, member)
    return kind
