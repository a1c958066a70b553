"""A node's YAML configuration file -> a frozen, validated `Config` (keys and rules: docs and the files in configs/).

Everything that can be wrong with a file is found here, before a socket or a data directory is touched, and is said in
one line that names the file, the line, the key and what was expected.
"""

from __future__ import annotations

import difflib
import ipaddress
import os
import re
import reprlib
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import NamedTuple, NoReturn

import yaml

from zraft.errors import ConfigError

DEFAULT_THREADS: tuple[tuple[str, ...], ...] = (
    ("frontend", "transport", "consensus", "applier", "election_timer", "log_writer"),
    ("snapshot_writer",),
    ("json_gateway",),
)
"""Which actors share a thread unless the file says otherwise."""

ACTORS: tuple[str, ...] = tuple(actor for group in DEFAULT_THREADS for actor in group)
"""The names that `threads` may use, each exactly once."""

_REQUIRED = ("node", "data_dir", "cluster")
_OPTIONAL = (
    "join", "insecure", "json", "bind", "election_timeout_ms", "heartbeat_ms", "snapshot", "chaos", "profile",
    "threads",
)  # fmt: skip
_NODE_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_EXPECTED_NODE_ID = "a node id (1 to 64 letters, digits, `_`, `-`, `.`, the first a letter or digit)"
_ADDRESS = re.compile(r"tcp://(?P<host>\*|[A-Za-z0-9](?:[A-Za-z0-9_.-]*[A-Za-z0-9])?):(?P<port>[0-9]{1,5})")

_Key = tuple[str, ...]
"""Where a value stands: ("cluster", "n1", "peer") for `peer:` below `n1:` below `cluster:`."""


class Addresses(NamedTuple):
    """Where others reach a node, each as ``tcp://host:port``."""

    client: str
    peer: str


@dataclass(frozen=True)
class Config:
    """One node's settings, complete and consistent: every default filled in, every path absolute."""

    node: str
    """This node's id."""
    data_dir: Path
    """Absolute; it need not exist yet."""
    cluster: Mapping[str, Addresses]
    """The members at first start, by id, in the file's order; this node too, unless `join` is set."""
    join: bool
    """Start empty and wait to be added to a running cluster."""
    insecure: bool
    """Listen beyond loopback without keys."""
    json: str | None
    """Where to serve JSON lines, ``tcp://host:port``; None: nowhere."""
    bind_client: str
    """Where to listen for clients; the host may be ``*``."""
    bind_peer: str
    """Where to listen for other nodes; the host may be ``*``."""
    election_timeout_ms: tuple[int, int]
    """Bounds of the randomized election timeout: least, most."""
    heartbeat_ms: int
    """Time between a leader's heartbeats."""
    snapshot_entries: int
    """Take a snapshot after so many applied entries."""
    snapshot_bytes: int
    """Or after so many bytes of them."""
    snapshot_keep: int
    """Keep so many entries behind a snapshot for followers that lag."""
    chaos: bool
    """Accept injected faults."""
    profile: int
    """Time every so-manieth write on its way through this node; 0: none."""
    threads: tuple[tuple[str, ...], ...]
    """Which actors share a thread."""
    source: Path
    """The file that this was read from, absolute."""


def parse_address(text: str) -> str:
    """`text` if it is an address that others can reach, like tcp://127.0.0.1:7101. Raises ValueError in words."""
    match = _ADDRESS.fullmatch(text)
    if match is None or not 1 <= int(match["port"]) <= 65535 or match["host"] == "*":
        raise ValueError(f"expected an address like tcp://127.0.0.1:7101, got {_shown(text)}")
    return text


def parse_node_id(text: str) -> str:
    """`text` if it is a node's id. Raises ValueError in words."""
    if not _NODE_ID.fullmatch(text):
        raise ValueError(f"expected {_EXPECTED_NODE_ID}, got {_shown(text)}")
    return text


def load_config(path: str | os.PathLike[str]) -> Config:
    """Read and check the file at `path`.

    Raises ConfigError, with one line that names the file and, where there is one, the line and the key.
    """
    return _Reader(Path(path)).read()


class _Reader:
    """Turns one file into a Config; each method reads one key and knows its rules."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: dict[_Key, int] = {}
        self._values: Mapping[str, object] = {}

    def read(self) -> Config:
        self._values = self._mapping((), self._parse())
        self._only((), self._values, _REQUIRED + _OPTIONAL, required=_REQUIRED)
        node = self._node_id(("node",), self._values["node"])
        join = self._flag("join")
        cluster = self._cluster()
        if node not in cluster and not join:
            known = ", ".join(cluster)
            self._refuse(("node",), f"{node!r} is not in `cluster` ({known}): add it there, or set `join: true`")
        bind = self._bind(node, cluster)
        json = self._address(("json",), self._values["json"], listen=True) if "json" in self._values else None
        self._check_listeners(bind, json, cluster)
        heartbeat_ms = self._integer(("heartbeat_ms",), self._values.get("heartbeat_ms", 50), least=1)
        entries, size, keep = self._snapshot()
        return Config(
            node=node,
            data_dir=self._data_dir(),
            cluster=MappingProxyType(cluster),
            join=join,
            insecure=self._flag("insecure"),
            json=json,
            bind_client=bind.client,
            bind_peer=bind.peer,
            election_timeout_ms=self._election_timeout_ms(heartbeat_ms),
            heartbeat_ms=heartbeat_ms,
            snapshot_entries=entries,
            snapshot_bytes=size,
            snapshot_keep=keep,
            chaos=self._flag("chaos"),
            profile=self._integer(("profile",), self._values.get("profile", 0), least=0),
            threads=self._threads(),
            source=Path(os.path.abspath(self._path)),
        )

    # The file

    def _parse(self) -> object:
        try:
            text = self._path.read_text(encoding="utf-8")
        except OSError as error:
            raise ConfigError(f"{self._path}: cannot read this configuration file: {error.strerror}") from error
        except UnicodeDecodeError as error:
            raise ConfigError(f"{self._path}: expected UTF-8 text: {error.reason} at byte {error.start}") from error
        try:
            loader = yaml.SafeLoader(text)
            root = loader.get_single_node()
            if root is None:
                raise ConfigError(f"{self._path}: the file is empty; expected at least `node`, `data_dir`, `cluster`")
            self._note_lines((), root)
            values: object = loader.construct_document(root)
            return values
        except yaml.MarkedYAMLError as error:
            line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
            raise ConfigError(f"{self._path}{line}: not valid YAML: {error.problem or error.context}") from error
        except (yaml.YAMLError, ValueError, RecursionError) as error:
            words = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise ConfigError(f"{self._path}: not valid YAML: {words}") from error

    def _note_lines(self, key: _Key, node: yaml.Node) -> None:
        """Remember the line of every key down to the deepest that a configuration has; refuse a key given twice.

        YAML itself would silently let the last of two equal keys win.
        """
        if not isinstance(node, yaml.MappingNode) or len(key) == 3:
            return
        for name, value in node.value:
            if isinstance(name, yaml.ScalarNode):
                inner = (*key, str(name.value))
                if inner in self._lines:
                    first = self._lines[inner]
                    self._lines[inner] = name.start_mark.line + 1
                    self._refuse(inner, f"given twice (first on line {first})")
                self._lines[inner] = name.start_mark.line + 1
                self._note_lines(inner, value)

    def _refuse(self, key: _Key, words: str) -> NoReturn:
        """End with one line: file, line of the nearest key that the file has, key, `words`."""
        lines = (self._lines.get(key[:length]) for length in range(len(key), 0, -1))
        line = next((f":{line}" for line in lines if line is not None), "")
        name = f" {'.'.join(key)}:" if key else ""
        raise ConfigError(f"{self._path}{line}:{name} {words}")

    # Kinds of values

    def _mapping(self, key: _Key, value: object) -> Mapping[str, object]:
        if not isinstance(value, dict):
            self._refuse(key, f"expected `key: value` pairs, got {_shown(value)}")
        for name in value:
            if not isinstance(name, str):
                self._refuse(key, f"expected a text as key, got {_shown(name)} (write it in quotes if you mean it)")
        return value

    def _only(self, key: _Key, values: Mapping[str, object], known: Sequence[str], required: Sequence[str]) -> None:
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1)
                hint = f"did you mean `{near[0]}`? " if near else ""
                self._refuse((*key, name), f"unknown key; {hint}expected one of: {', '.join(known)}")
        for name in required:
            if name not in values:
                self._refuse(key, f"the key `{name}` is missing")

    def _text(self, key: _Key, value: object, expected: str) -> str:
        if not isinstance(value, str) or not value:
            self._refuse(key, f"expected {expected}, got {_shown(value)}")
        return value

    def _flag(self, name: str) -> bool:
        value = self._values.get(name, False)
        if not isinstance(value, bool):
            self._refuse((name,), f"expected true or false, got {_shown(value)}")
        return value

    def _integer(self, key: _Key, value: object, *, least: int) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            self._refuse(key, f"expected a whole number of at least {least}, got {_shown(value)}")
        return value

    def _node_id(self, key: _Key, value: object) -> str:
        try:
            return parse_node_id(self._text(key, value, _EXPECTED_NODE_ID))
        except ValueError as error:
            self._refuse(key, str(error))

    def _address(self, key: _Key, value: object, *, listen: bool) -> str:
        """A ``tcp://host:port``; only where a socket listens may the host be ``*``."""
        expected = "an address like tcp://127.0.0.1:7101 (a host name or IPv4 address, a port from 1 to 65535)"
        match = _ADDRESS.fullmatch(self._text(key, value, expected))
        if match is None or not 1 <= int(match["port"]) <= 65535:
            self._refuse(key, f"expected {expected}, got {_shown(value)}")
        host = "127.0.0.1" if match["host"] == "localhost" else match["host"]
        if host == "*" and not listen:
            self._refuse(key, "`*` is no address that others can reach; write it under `bind`")
        if host.replace(".", "").isdigit() and not _is_ipv4(host):
            self._refuse(key, f"expected {expected}, got {_shown(value)}")
        return f"tcp://{host}:{int(match['port'])}"

    # Keys

    def _data_dir(self) -> Path:
        value = self._text(("data_dir",), self._values["data_dir"], "the path of a directory")
        if "\0" in value:
            self._refuse(("data_dir",), f"expected the path of a directory, got {_shown(value)}")
        return Path(os.path.abspath(self._path.parent / value))

    def _cluster(self) -> dict[str, Addresses]:
        cluster: dict[str, Addresses] = {}
        users: dict[str, str] = {}
        members = self._mapping(("cluster",), self._values["cluster"])
        if not members:
            self._refuse(("cluster",), "expected at least one node, like `n1: {client: ..., peer: ...}`")
        for name, value in members.items():
            node, key = self._node_id(("cluster", name), name), ("cluster", name)
            member = self._mapping(key, value)
            self._only(key, member, Addresses._fields, required=Addresses._fields)
            addresses = Addresses(*(self._address((*key, use), member[use], listen=False) for use in Addresses._fields))
            for use, address in zip(Addresses._fields, addresses, strict=True):
                user = users.setdefault(address, f"cluster.{node}.{use}")
                if user != f"cluster.{node}.{use}":
                    self._refuse((*key, use), f"{address} is already the address of {user}")
            cluster[node] = addresses
        return cluster

    def _bind(self, node: str, cluster: Mapping[str, Addresses]) -> Addresses:
        """Where to listen: what `bind` says, and for what it leaves out, this node's own address in `cluster`."""
        given = self._mapping(("bind",), self._values.get("bind", {}))
        self._only(("bind",), given, Addresses._fields, required=() if node in cluster else Addresses._fields)
        found = []
        for use in Addresses._fields:
            if use in given:
                found.append(self._address(("bind", use), given[use], listen=True))
            else:
                found.append(self._address(("cluster", node, use), getattr(cluster[node], use), listen=True))
        return Addresses(*found)

    def _check_listeners(self, bind: Addresses, json: str | None, cluster: Mapping[str, Addresses]) -> None:
        """No two of this node's ports on one address, none beyond loopback unless the file says so in words."""
        listeners: dict[_Key, str] = {}
        for use, address in zip(Addresses._fields, bind, strict=True):
            own = ("bind", use) if ("bind", use) in self._lines else ("cluster", str(self._values["node"]), use)
            listeners[own] = address
        if json is not None:
            listeners[("json",)] = json
            for node, addresses in cluster.items():
                if json in addresses:
                    use = Addresses._fields[addresses.index(json)]
                    self._refuse(("json",), f"{json} is already the address of cluster.{node}.{use}")
        seen: list[tuple[str, _Key]] = []
        for key, address in listeners.items():
            for other, owner in seen:
                if _collide(address, other):
                    self._refuse(key, f"cannot listen on {address}: {'.'.join(owner)} already does, on {other}")
            seen.append((address, key))
            if not self._flag("insecure") and not _is_loopback(address):
                self._refuse(
                    key,
                    f"{address} is reachable beyond this machine and zraft has no authentication yet: "
                    "use a 127.0.0.1 address, or set `insecure: true` if the network is yours alone",
                )

    def _election_timeout_ms(self, heartbeat_ms: int) -> tuple[int, int]:
        key = ("election_timeout_ms",)
        value = self._values.get(key[0], [150, 300])
        if not isinstance(value, list) or len(value) != 2:
            self._refuse(key, f"expected two whole numbers like [150, 300], got {_shown(value)}")
        least, most = (self._integer(key, number, least=1) for number in value)
        if least >= most:
            self._refuse(key, f"expected the first number below the second, got {_shown(value)}")
        if least < 2 * heartbeat_ms:
            self._refuse(key, f"expected at least twice heartbeat_ms (2 * {heartbeat_ms}), got {_shown(value)}")
        return least, most

    def _snapshot(self) -> tuple[int, int, int]:
        given = self._mapping(("snapshot",), self._values.get("snapshot", {}))
        self._only(("snapshot",), given, ("entries", "bytes", "keep"), required=())
        entries = self._integer(("snapshot", "entries"), given.get("entries", 10000), least=1)
        size = self._integer(("snapshot", "bytes"), given.get("bytes", 64 * 1024 * 1024), least=1)
        keep = self._integer(("snapshot", "keep"), given.get("keep", 5000), least=0)
        return entries, size, keep

    def _threads(self) -> tuple[tuple[str, ...], ...]:
        key = ("threads",)
        value = self._values.get(key[0])
        if key[0] not in self._values:
            return DEFAULT_THREADS
        if not isinstance(value, list) or not all(isinstance(group, list) and group for group in value):
            self._refuse(key, f"expected a list of lists of actors, like [[applier], ...], got {_shown(value)}")
        seen: set[Hashable] = set()
        for actor in (actor for group in value for actor in group):
            if actor not in ACTORS:
                self._refuse(key, f"unknown actor {_shown(actor)}; expected: {', '.join(ACTORS)}")
            if actor in seen:
                self._refuse(key, f"the actor {actor} is named twice")
            seen.add(actor)
        missing = [actor for actor in ACTORS if actor not in seen]
        if missing:
            self._refuse(key, f"every actor needs a thread; missing: {', '.join(missing)}")
        return tuple(tuple(group) for group in value)


def _shown(value: object) -> str:
    return reprlib.repr(value)


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _host_and_port(address: str) -> tuple[str, str]:
    host, _, port = address.removeprefix("tcp://").rpartition(":")
    return host, port


def _is_loopback(address: str) -> bool:
    """Whether the file alone tells that `address` is this machine's only: a host name could mean anything."""
    host, _ = _host_and_port(address)
    return _is_ipv4(host) and ipaddress.IPv4Address(host).is_loopback


def _collide(one: str, other: str) -> bool:
    """Whether two listening addresses cannot both be bound on one machine."""
    (one_host, one_port), (other_host, other_port) = _host_and_port(one), _host_and_port(other)
    everywhere = {"*", "0.0.0.0"}
    return one_port == other_port and (one_host == other_host or bool({one_host, other_host} & everywhere))
