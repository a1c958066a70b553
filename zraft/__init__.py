"""zraft: a key-value store replicated by Raft.

What users import. The names are loaded when they are first used, so that a part of zraft that needs no ZeroMQ
(``import zraft.raft``) does not load it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from zraft._version import __version__
from zraft.errors import InvalidRequest, OutcomeUnknown, Unavailable, ZraftError

if TYPE_CHECKING:
    from zraft.client.aio import AsyncClient
    from zraft.client.requests import KeyValue
    from zraft.client.sync import Client

__all__ = [
    "AsyncClient",
    "Client",
    "InvalidRequest",
    "KeyValue",
    "OutcomeUnknown",
    "Unavailable",
    "ZraftError",
    "__version__",
]

_LAZY = {"AsyncClient": "zraft.client.aio", "Client": "zraft.client.sync", "KeyValue": "zraft.client.requests"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module 'zraft' has no attribute {name!r}")
    value = getattr(import_module(_LAZY[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(set(globals()) | set(__all__))
