"""Hypothesis strategies for the messages of `zraft.messages`, made from their field types."""

from __future__ import annotations

from typing import Any, get_args, get_origin, get_type_hints

from hypothesis import strategies as st

from zraft.messages import Entry

NUMBERS = st.integers(0, (1 << 64) - 1)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)  # half of a surrogate pair is no text

_SIMPLE: dict[Any, st.SearchStrategy[Any]] = {
    int: NUMBERS,
    bool: st.booleans(),
    str: TEXTS,
    bytes: st.binary(max_size=12),
    Any: NUMBERS | TEXTS | st.none() | st.booleans(),
}
ENTRIES = st.builds(Entry, NUMBERS, NUMBERS, NUMBERS, st.binary(max_size=20))


def of_type(hint: Any) -> st.SearchStrategy[Any]:
    """Values of a field's type."""
    if hint in _SIMPLE:
        return _SIMPLE[hint]
    if hint is Entry:
        return ENTRIES
    parts = get_args(hint)
    if get_origin(hint) is dict:
        return st.dictionaries(of_type(parts[0]), of_type(parts[1]), max_size=3)
    if get_origin(hint) is tuple and parts[-1] is Ellipsis:
        return st.lists(of_type(parts[0]), max_size=3).map(tuple)
    if get_origin(hint) is tuple:
        return st.tuples(*map(of_type, parts))
    raise NotImplementedError(f"no strategy for {hint}")


def of_class(cls: type[Any]) -> st.SearchStrategy[Any]:
    """Messages of one class."""
    hints = get_type_hints(cls)
    return st.builds(cls, *(of_type(hints[name]) for name in cls._fields))
