"""The exceptions that users of zraft can meet. All are `ZraftError`."""

from __future__ import annotations


class ZraftError(Exception):
    """Base of every error that zraft raises on purpose. `str()` of one is a single clear line."""


class Unavailable(ZraftError):
    """No answer in time, and the request *surely was not applied*: it is safe to issue it again as a new one."""


class OutcomeUnknown(ZraftError):
    """No answer in time, and the request *may have been applied*, now or later: read before you issue it again."""


class InvalidRequest(ZraftError):
    """The request itself is wrong: too large, malformed, refused by the node. It was not applied; a retry is no use."""


class ConfigError(ZraftError):
    """A configuration file that cannot be used. The message names the file, the key and what was expected."""


class StorageError(ZraftError):
    """The data directory cannot be used. The message says what, where, and what to do. The node stops."""


class ImpossibleState(ZraftError):
    """An invariant does not hold: a bug or damaged memory. The message carries the numbers.

    Raised through `impossible`, never through `assert`, so that it also holds under ``python -O``.
    """


def impossible(what: str, **numbers: object) -> ImpossibleState:
    """Build the error for a state that must not exist: ``raise impossible("gap in the log", first=7, last=3)``."""
    shown = ", ".join(f"{name}={value!r}" for name, value in numbers.items())
    return ImpossibleState(f"impossible: {what} ({shown})")


class NodeMustStop(ZraftError):
    """Going on could give a wrong answer. The node stops with this reason; an operator repairs it."""
