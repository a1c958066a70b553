"""What can be asked of a cluster, as values: built here, carried by the core, converted here when answered.

Keys and values are checked when a request is built, so that a request that no node would take is refused before
anything is sent, in the thread of the caller.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Mapping
from operator import itemgetter
from typing import Any, NamedTuple

from zraft.client.endpoints import is_endpoint
from zraft.errors import InvalidRequest
from zraft.statemachine.codec import (
    MAX_KEY_BYTES,
    MAX_VALUE_BYTES,
    CodecError,
    Op,
    Query,
    check_key,
    check_value,
    encode_query,
    prefix_end,
)
from zraft.wire import RequestKind, unpack_piece

PAGE_ENTRIES = 4096
PAGE_BYTES = 1024 * 1024

Data = bytes | str


class KeyValue(tuple[bytes, bytes]):
    """One key with its value: a pair that unpacks as ``for key, value in client.range(b"")``.

    Beyond the pair it knows the store-wide revision that created the key (`create_revision`), the one that last
    changed it (`mod_revision`), and how often it was written since its creation (`version`, 1 at creation).
    Two are equal if key and value are.
    """

    create_revision: int
    mod_revision: int
    version: int

    def __new__(cls, key: bytes, value: bytes, create_revision: int, mod_revision: int, version: int) -> KeyValue:
        self = super().__new__(cls, (key, value))
        self.create_revision = create_revision
        self.mod_revision = mod_revision
        self.version = version
        return self

    def __getnewargs__(self) -> tuple[bytes, bytes, int, int, int]:
        return (self.key, self.value, self.create_revision, self.mod_revision, self.version)

    @property
    def key(self) -> bytes:
        """The key."""
        return self[0]

    @property
    def value(self) -> bytes:
        """The value."""
        return self[1]

    def __repr__(self) -> str:
        return (
            f"KeyValue(key={self.key!r}, value={self.value!r}, create_revision={self.create_revision}, "
            f"mod_revision={self.mod_revision}, version={self.version})"
        )


class Request(NamedTuple):
    """One thing to ask.

    `name`: what it is called in error texts. `body`: what is sent, but for a WRITE, which the core encodes from `op`
    and `arguments` once it has a session and a number. `convert`: makes the caller's answer from (0, *values): the
    values of the result for WRITE and READ, the one body of the reply for the others.
    `repeatable`: may be sent again while an earlier copy may still take effect.
    """

    name: str
    kind: int
    convert: Callable[[tuple[Any, ...]], Any]
    body: bytes = b""
    op: int = 0
    arguments: tuple[bytes | None, ...] = ()
    repeatable: bool = True


WRITE = int(RequestKind.WRITE)
READ = int(RequestKind.READ)
_SET, _DELETE, _CAS = int(Op.SET), int(Op.DELETE), int(Op.CAS)  # of an enum's member the hash is a call

_first = itemgetter(1)


def _nothing(result: tuple[Any, ...]) -> None:
    return None


def _key(data: Data) -> bytes:
    if type(data) is bytes and len(data) <= MAX_KEY_BYTES:
        return data
    return _checked("key", data, check_key)


def _value(data: Data) -> bytes:
    if type(data) is bytes and len(data) <= MAX_VALUE_BYTES:
        return data
    return _checked("value", data, check_value)


def _checked(what: str, data: Data, check: Callable[[object], None]) -> bytes:
    if isinstance(data, str):
        try:
            data = data.encode()
        except UnicodeEncodeError as error:
            raise InvalidRequest(f"{what}: not encodable as UTF-8 ({error.reason}); pass bytes instead") from None
    elif not isinstance(data, bytes):
        raise TypeError(f"a {what} is bytes or str, not {type(data).__name__}")
    try:
        check(data)
    except CodecError as error:
        raise InvalidRequest(str(error)) from None
    return data


# ---- writes ------------------------------------------------------------------------------------------------------

OPEN_SESSION = Request("open session", WRITE, _first, op=int(Op.OPEN_SESSION))
CLOSE_SESSION = Request("close session", WRITE, _nothing, op=int(Op.CLOSE_SESSION))


def set_key(key: Data, value: Data) -> Request:
    """Set `key`; answered by the new revision. Raises `InvalidRequest` where key or value is too large."""
    return Request("set", WRITE, _first, op=_SET, arguments=(_key(key), _value(value)))


def delete_key(key: Data) -> Request:
    """Delete `key`; answered by whether it was there. Raises `InvalidRequest`."""
    return Request("delete", WRITE, _first, op=_DELETE, arguments=(_key(key),))


def compare_and_set(key: Data, expected: Data | None, new: Data) -> Request:
    """Set `key` to `new` if its value is `expected` (None: if it is absent); answered by whether it was.

    Raises `InvalidRequest`.
    """
    compared = None if expected is None else _value(expected)
    return Request("cas", WRITE, _first, op=_CAS, arguments=(_key(key), compared, _value(new)))


# ---- reads -------------------------------------------------------------------------------------------------------


def get_value(key: Data) -> Request:
    """Read `key`; answered by its value, or None if it is absent. Raises `InvalidRequest`."""
    return Request("get", READ, _to_value, encode_query(Query.GET, _key(key)))


def get_entry(key: Data) -> Request:
    """Read `key`; answered by its `KeyValue`, or None if it is absent. Raises `InvalidRequest`."""
    return get_value(key)._replace(convert=_to_entry)


def get_at_revision(key: Data) -> Request:
    """Read `key`; answered by (value or None, the store's revision at that read). Raises `InvalidRequest`."""
    return get_value(key)._replace(convert=_to_value_and_revision)


def _to_value(result: tuple[Any, ...]) -> bytes | None:
    entry = result[1]
    return None if entry is None else entry[1]


def _to_entry(result: tuple[Any, ...]) -> KeyValue | None:
    entry = result[1]
    return None if entry is None else KeyValue(*entry)


def _to_value_and_revision(result: tuple[Any, ...]) -> tuple[bytes | None, int]:
    return _to_value(result), result[2]


class Page(NamedTuple):
    """One page of a range: its entries, and whether there are more behind them."""

    entries: list[KeyValue]
    more: bool


def _to_page(result: tuple[Any, ...]) -> Page:
    return Page([KeyValue(*entry) for entry in result[1]], result[2])


def range_pages(prefix: Data) -> Generator[Request, Page, list[KeyValue]]:
    """All keys that begin with `prefix`, as a plan: yields the request for a page, is sent that `Page`, and returns
    all entries in the end. Raises `InvalidRequest`.

    A reader is bound to a page, not to a store's size: 4,096 entries or 1 MiB at a time.
    """
    start = _key(prefix)
    end = prefix_end(start)
    entries: list[KeyValue] = []
    while True:
        page = yield Request("range", READ, _to_page, encode_query(Query.RANGE, start, end, PAGE_ENTRIES, PAGE_BYTES))
        entries += page.entries
        if not page.more or not page.entries:
            return entries
        start = page.entries[-1].key + b"\0"


# ---- about the cluster -------------------------------------------------------------------------------------------


def status() -> Request:
    """Ask one node about itself; answered by a dict."""
    return Request("status", int(RequestKind.STATUS), _to_status)


def _to_status(result: tuple[Any, ...]) -> dict[str, Any]:
    report = json.loads(result[1])
    if not isinstance(report, dict):
        raise ValueError("a status that is no JSON object")
    return report


def transfer_leadership(to: str | None) -> Request:
    """Ask the leader to hand over to node `to` (None: to whom it likes); answered by None.

    Not repeated while a copy may still take effect: the next leader would hand over once more.
    """
    return Request(
        "leader transfer", int(RequestKind.TRANSFER), _nothing, (to or "").encode(errors="replace"), repeatable=False
    )


# How long a node that is to be added may take to say who it is.
NEW_MEMBER_SECONDS = 2.0


def add_member(node: str, peer: str, client: str, learner: bool) -> Request:
    """Ask the leader to have `node` as a member too, first as a learner and, unless it shall stay one (`learner`), as a
    voter once it has caught up; answered by the index of the change's first log entry. Raises `InvalidRequest`."""
    change = {"op": "add", "id": node, **_addresses(node, {"peer": peer, "client": client}), "learner": learner}
    return _change_members("members add", change)


def remove_member(node: str) -> Request:
    """Ask the leader to have `node` as a member no more; answered as `add_member`."""
    return _change_members("members remove", {"op": "remove", "id": node})


def promote_member(node: str) -> Request:
    """Ask the leader to make a voter of the learner `node`; answered as `add_member`."""
    return _change_members("members promote", {"op": "promote", "id": node})


def set_members(voters: Iterable[str], nodes: Mapping[str, Mapping[str, str]]) -> Request:
    """Ask the leader to have exactly these `voters`, in one step; `nodes`: the addresses (`peer`, `client`) of those
    among them that are no members yet; answered as `add_member`. Raises `InvalidRequest`."""
    addresses = {node: _addresses(node, given) for node, given in nodes.items()}
    return _change_members("members set", {"op": "set", "voters": list(voters), "nodes": addresses})


def check_new_member(node: str, client: str, report: Mapping[str, Any] | None) -> None:
    """Raise `InvalidRequest` unless it is `node` that answered at its client address; `report`: the status that the
    node there told, None: there was no answer. Nothing was asked of the cluster yet: a slip of the keyboard ends here.
    """
    if report is None:
        raise InvalidRequest(
            f"members: no node answers at {client}: start {node} there first (its configuration says `join: true`), "
            "or mend the address; nothing was changed"
        )
    if report.get("node") != node:
        raise InvalidRequest(f"members: the node at {client} is {report.get('node')}, not {node}; nothing was changed")


def _change_members(name: str, change: Mapping[str, Any]) -> Request:
    # Not repeated while a copy may still take effect: the change may be over, and others may have been made since.
    return Request(name, int(RequestKind.MEMBERS), _to_index, json.dumps(change).encode(), repeatable=False)


def _addresses(node: str, given: Mapping[str, str]) -> dict[str, str]:
    for use in ("peer", "client"):
        if not is_endpoint(given.get(use, "")):
            raise InvalidRequest(f"{node}: expected tcp://host:port as its {use} address, got {given.get(use)!r}")
    return {"peer": given["peer"], "client": given["client"]}


def _to_index(result: tuple[Any, ...]) -> int:
    return int(json.loads(result[1])["index"])


def inject_fault(fault: Mapping[str, Any]) -> Request:
    """Ask one node to inject `fault` into itself; answered by None."""
    return Request("chaos", int(RequestKind.CHAOS), _nothing, json.dumps(fault).encode(), repeatable=False)


class SavedSnapshot(NamedTuple):
    """A node's snapshot on its disk: the log index that it reaches to, and its size in bytes."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    size: int


def compact(revision: int) -> Request:
    """Ask one node for a snapshot, not older than `revision`; answered by its `SavedSnapshot`, once it is durable."""
    body = json.dumps({"revision": revision}).encode()
    return Request("compact", int(RequestKind.COMPACT), _to_saved_snapshot, body)


def _to_saved_snapshot(result: tuple[Any, ...]) -> SavedSnapshot:
    fields = json.loads(result[1])
    return SavedSnapshot(int(fields["index"]), int(fields["bytes"]))


def read_snapshot(index: int, offset: int) -> Request:
    """Ask one node for some bytes of its snapshot of `index`, from `offset` on; answered by (those bytes, its size)."""
    body = json.dumps({"index": index, "offset": offset}).encode()
    return Request("backup", int(RequestKind.SNAPSHOT), _to_piece, body)


def _to_piece(result: tuple[Any, ...]) -> tuple[bytes, int]:
    _, _, size, data = unpack_piece(result[1])
    return data, size
