"""Where a client looks for the cluster."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable

from zraft.errors import ConfigError

ENVIRONMENT_VARIABLE = "ZRAFT_ENDPOINTS"
DEFAULT_ENDPOINTS = ("tcp://127.0.0.1:7101", "tcp://127.0.0.1:7102", "tcp://127.0.0.1:7103")

# No more than ZeroMQ connects to: what a node tells is not checked by a user, and ZeroMQ raises where it is wrong.
_ENDPOINT = re.compile(r"tcp://(?:\[[0-9A-Fa-f:.%\w]+\]|[0-9A-Za-z][\w.;%-]*):(\d{1,5})", re.ASCII)


def is_endpoint(text: str) -> bool:
    """Whether `text` is ``tcp://host:port`` with a port from 1 to 65535 (an IPv6 address stands in brackets)."""
    match = _ENDPOINT.fullmatch(text)
    return match is not None and 1 <= int(match[1]) <= 65535


def resolve_endpoints(given: str | Iterable[str] | None) -> tuple[str, ...]:
    """The endpoints to use: `given`, else ``ZRAFT_ENDPOINTS`` (comma-separated), else three on loopback.

    Duplicates are dropped, the order is kept: it is the order in which a client asks. Raises `ConfigError`.
    """
    source = "endpoints"
    if given is None:
        from_environment = os.environ.get(ENVIRONMENT_VARIABLE, "").strip()
        if not from_environment:
            return DEFAULT_ENDPOINTS
        source, given = ENVIRONMENT_VARIABLE, from_environment
    parts = given.split(",") if isinstance(given, str) else given
    endpoints = tuple(dict.fromkeys(part.strip() for part in parts if part.strip()))
    if not endpoints:
        raise ConfigError(f"{source}: no endpoint given; expected at least one tcp://host:port")
    for endpoint in endpoints:
        if not is_endpoint(endpoint):
            raise ConfigError(f"{source}: {endpoint!r} is no endpoint; expected tcp://host:port")
    return endpoints
