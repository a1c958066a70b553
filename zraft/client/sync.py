"""The client for threads: any number may share one, and what they ask at the same time travels together."""

from __future__ import annotations

import random
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from math import ceil
from types import TracebackType
from typing import Any

import zmq

from zraft.client import requests
from zraft.client.core import ClientCore
from zraft.client.endpoints import resolve_endpoints
from zraft.client.requests import Data, KeyValue, Request, SavedSnapshot
from zraft.client.sockets import Sockets
from zraft.client.survey import STATUS_SECONDS, StatusSurvey, members_of
from zraft.errors import Unavailable, ZraftError

# How long closing may take to end the session on the nodes; it would expire there by itself.
CLOSE_SECONDS = 0.2

Action = Callable[[ClientCore], object]


class Client:
    """A client of a zraft cluster. Thread-safe; a context manager.

    `endpoints`: ``tcp://host:port`` of some nodes (one text with commas will do), asked in this order; None:
    ``ZRAFT_ENDPOINTS``, else ``tcp://127.0.0.1:7101`` to ``:7103``. `timeout`: seconds that a call may take; each
    method takes another one. Raises `ConfigError` where an endpoint is none.

    Keys and values are bytes, or str that is encoded as UTF-8. All methods raise, as `ZraftError`:

    - `Unavailable`: not answered in time, and surely not applied (a read never is);
    - `OutcomeUnknown`: not answered in time, and perhaps applied, now or later;
    - `InvalidRequest`: refused for what it is, for instance a value of more than 1 MiB.

    A write is applied at most once, however often the client had to send it.
    """

    def __init__(self, endpoints: str | Iterable[str] | None = None, timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._loop = _Loop(ClientCore(resolve_endpoints(endpoints), random.Random()))
        # The loop holds no reference to the client: a client that is dropped without being closed ends its thread.
        self._finalizer = weakref.finalize(self, self._loop.request_stop)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the session, the thread and the sockets. Calls of other threads fail. Closing again does nothing."""
        self._finalizer.detach()
        self._loop.stop()

    def set(self, key: Data, value: Data, *, timeout: float | None = None) -> int:
        """Set `key` to `value`. Returns the store's revision that did it."""
        return int(self._ask(requests.set_key(key, value), timeout))

    def get(self, key: Data, *, timeout: float | None = None) -> bytes | None:
        """Return the value of `key`, None if it is absent. Linearizable: it sees all writes that were answered."""
        value: bytes | None = self._ask(requests.get_value(key), timeout)
        return value

    def revision(self, *, timeout: float | None = None) -> int:
        """The store's revision, which counts all changes. Linearizable."""
        _, revision = self._ask(requests.get_at_revision(b""), timeout)
        return int(revision)

    def get_entry(self, key: Data, *, timeout: float | None = None) -> KeyValue | None:
        """Return `key` with its value and revisions, None if it is absent. Linearizable."""
        entry: KeyValue | None = self._ask(requests.get_entry(key), timeout)
        return entry

    def delete(self, key: Data, *, timeout: float | None = None) -> bool:
        """Delete `key`. Returns whether it was there."""
        return bool(self._ask(requests.delete_key(key), timeout))

    def cas(self, key: Data, expected: Data | None, new: Data, *, timeout: float | None = None) -> bool:
        """Set `key` to `new` if its value is `expected` (None: if it is absent). Returns whether it was."""
        return bool(self._ask(requests.compare_and_set(key, expected, new), timeout))

    def range(self, prefix: Data, *, timeout: float | None = None) -> list[KeyValue]:
        """Return all keys that begin with `prefix`, in order; `b""`: all keys.

        Read page by page (4,096 keys or 1 MiB): each page is linearizable, but writes in between may show in later
        pages and not in earlier ones. Up to one page it is one snapshot. `timeout` is for the whole.
        """
        deadline = self._deadline(timeout)
        pages = requests.range_pages(prefix)
        request = next(pages)
        while True:
            page = self._ask_until(request, deadline)
            try:
                request = pages.send(page)
            except StopIteration as end:
                entries: list[KeyValue] = end.value
                return entries

    def status(self, *, all_members: bool = False, timeout: float | None = None) -> list[dict[str, Any]]:
        """Ask the nodes at the given endpoints about themselves, all at once. Returns one dict per node.

        `all_members`: ask those as well that joined later. A node that does not answer within 1 s (or `timeout`, if
        shorter) has None in all fields, and an `error`.
        """
        deadline = min(self._deadline(timeout), time.monotonic() + STATUS_SECONDS)
        slot = _Slot()
        self._loop.act(lambda core: StatusSurvey(core, deadline, all_members, lambda reports: slot(reports, None)))
        reports: list[dict[str, Any]] = slot.wait()
        return reports

    def members(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """The members as the leader knows them or, without one, the node that is furthest.

        Of each: `id`, `client`, `peer`, `role` ("voter" or "learner"), `outgoing` (it leaves with the change that is
        under way) and, if the leader said so, `match_index` (up to where it holds the log) and `active`.
        """
        return members_of(self.status(all_members=True, timeout=timeout))

    def add_member(
        self, node: str, peer: str, client: str, *, learner: bool = False, timeout: float | None = None
    ) -> int:
        """Add `node`, which runs with `join: true` at these addresses and waits, to the cluster.

        It gets the log as a learner and becomes a voter when it has caught up; `learner`: not before it is promoted.
        Returns, as all changes of the members do, the index of the change's first log entry once that is committed. The
        rest goes on by itself, whoever leads: see `members`. One change at a time: a second one is refused.
        Raises `InvalidRequest` with the reason if it is not that node which answers at both addresses, if it holds
        data, belongs to another cluster or is a member already.
        """
        request = requests.add_member(node, peer, client, learner)
        return self._change_members(request, {node: {"client": client}}, timeout)

    def remove_member(self, node: str, *, timeout: float | None = None) -> int:
        """Take `node` out of the cluster; the leader, too, which then hands over. See `add_member`."""
        return int(self._ask(requests.remove_member(node), timeout))

    def promote_member(self, node: str, *, timeout: float | None = None) -> int:
        """Make a voter of the learner `node` when it has caught up. See `add_member`."""
        return int(self._ask(requests.promote_member(node), timeout))

    def set_members(
        self,
        voters: Iterable[str],
        nodes: Mapping[str, Mapping[str, str]] | None = None,
        *,
        timeout: float | None = None,
    ) -> int:
        """Have exactly these voters, from any set to any other in one step. `nodes`: the addresses of those that are no
        members yet, `{"n4": {"peer": "tcp://...", "client": "tcp://..."}}`. See `add_member`."""
        return self._change_members(requests.set_members(voters, nodes or {}), nodes or {}, timeout)

    def _change_members(self, request: Request, nodes: Mapping[str, Mapping[str, str]], timeout: float | None) -> int:
        """Ask for the change once each of the new nodes has said at its client address who it is."""
        deadline = self._deadline(timeout)
        for node, addresses in nodes.items():
            try:
                soon = min(deadline, time.monotonic() + requests.NEW_MEMBER_SECONDS)
                report = self._ask_until(requests.status(), soon, addresses["client"])
            except Unavailable:
                report = None
            requests.check_new_member(node, addresses["client"], report)
        return int(self._ask_until(request, deadline))

    def transfer_leadership(self, to: str | None = None, *, timeout: float | None = None) -> None:
        """Ask the leader to hand over to node `to`, or to the one that it finds best."""
        self._ask(requests.transfer_leadership(to), timeout)

    def inject_fault(self, endpoint: str, fault: Mapping[str, Any], *, timeout: float | None = None) -> None:
        """Ask the node at `endpoint` to do `fault` to itself, where its config allows that."""
        (address,) = resolve_endpoints([endpoint])
        self._ask_until(requests.inject_fault(fault), self._deadline(timeout), address)

    def compact(self, endpoint: str, revision: int = 0, *, timeout: float | None = None) -> SavedSnapshot:
        """Have the node at `endpoint` take a snapshot of its state, which lets it shorten its log; wait until it is
        durable. `revision`: the node first waits until its state is at least that new."""
        (address,) = resolve_endpoints([endpoint])
        saved: SavedSnapshot = self._ask_until(requests.compact(revision), self._deadline(timeout), address)
        return saved

    def read_snapshot(
        self, endpoint: str, index: int, offset: int, *, timeout: float | None = None
    ) -> tuple[bytes, int]:
        """Some bytes of the snapshot of `index` on the node at `endpoint`, from `offset` on, and its whole size."""
        (address,) = resolve_endpoints([endpoint])
        piece: tuple[bytes, int] = self._ask_until(
            requests.read_snapshot(index, offset), self._deadline(timeout), address
        )
        return piece

    def _deadline(self, timeout: float | None) -> float:
        return time.monotonic() + (self._timeout if timeout is None else timeout)

    def _ask(self, request: Request, timeout: float | None) -> Any:
        return self._ask_until(request, self._deadline(timeout))

    def _ask_until(self, request: Request, deadline: float, endpoint: str | None = None) -> Any:
        slot = _Slot()
        self._loop.act(lambda core: core.submit(request, deadline, slot, endpoint))
        return slot.wait()


class _Slot:
    """Where one thread waits for one answer: a `concurrent.futures.Future` reduced to what is needed."""

    __slots__ = ("_answered", "_error", "_value")

    def __init__(self) -> None:
        self._answered = threading.Lock()
        self._answered.acquire()
        self._value: Any = None
        self._error: ZraftError | None = None

    def __call__(self, value: Any, error: ZraftError | None) -> None:
        self._value = value
        self._error = error
        self._answered.release()

    def wait(self) -> Any:
        """The value; or raises the error."""
        self._answered.acquire()
        if self._error is not None:
            raise self._error
        return self._value


class _Loop:
    """The thread that owns the core and the sockets. Others hand it actions, to be done between two waits."""

    def __init__(self, core: ClientCore) -> None:
        self._core = core
        self._actions: deque[Action] = deque()
        self._gate = threading.Lock()  # between "no more actions" and one more action
        self._ended = False
        self._stopping = False
        self._closed = False
        self._asleep = False
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._thread = threading.Thread(target=self._run, name="zraft-client", daemon=True)
        self._thread.start()

    # ---- from any thread -----------------------------------------------------------------------------------------

    def act(self, action: Action) -> None:
        """Have `action(core)` done soon. Raises `Unavailable` once the client is closed."""
        with self._gate:
            if self._ended or self._stopping:
                raise Unavailable("this client is closed")
            self._actions.append(action)
            if self._asleep:
                self._asleep = False
                self._wake()

    def stop(self) -> None:
        """End the thread and wait for its end. May be called again, and by several threads."""
        with self._gate:
            self.request_stop()
        if threading.current_thread() is not self._thread:
            self._thread.join()
            with self._gate:
                self._bell.close()
                self._rope.close()

    def request_stop(self) -> None:
        """Have the thread end. Takes no lock, as the garbage collector may call it at any place."""
        if not self._stopping:
            self._stopping = True
            self._wake()

    def _wake(self) -> None:
        # A full pipe of wake-ups wakes as well, and a thread that is gone needs none.
        with suppress(OSError):
            self._rope.send(b"\0")

    # ---- the thread ----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        sockets = Sockets()
        poller = zmq.Poller()
        poller.register(self._bell.fileno(), zmq.POLLIN)
        try:
            while not self._stopping:
                self._turn(sockets, poller)
            self._core.close(time.monotonic() + CLOSE_SECONDS, self._on_closed)
            while not self._closed:
                self._turn(sockets, poller)
        finally:
            with self._gate:
                self._ended = True
            self._core.close(0.0, self._on_closed)
            self._act()
            sockets.close()

    def _on_closed(self) -> None:
        self._closed = True
        self._wake()  # this may be called just before the thread goes to sleep

    def _turn(self, sockets: Sockets, poller: zmq.Poller) -> None:
        """Do what was handed over and what is due, send what follows from it, and wait for answers."""
        core = self._core
        self._act()
        now = time.monotonic()
        core.tick(now)
        for endpoint in core.dropped_endpoints() & sockets.by_endpoint.keys():
            poller.unregister(sockets.by_endpoint[endpoint])
            sockets.drop(endpoint)
        for outgoing in core.frames_to_send(now):
            sockets.send(core, outgoing, now)
        refused = core.refused_endpoints()
        for endpoint, handle in sockets.by_endpoint.items():
            poller.register(handle, zmq.POLLIN | zmq.POLLOUT if endpoint in refused else zmq.POLLIN)
        ready = poller.poll(self._sleep_ms(now))
        self._asleep = False
        now = time.monotonic()
        for handle, events in ready:
            if isinstance(handle, int):
                self._bell.recv(4096)
                continue
            endpoint = sockets.endpoint_of[handle]
            if events & zmq.POLLOUT:
                core.on_writable(endpoint, now)
            if events & zmq.POLLIN:
                core.on_frame(endpoint, handle.recv(), now)

    def _sleep_ms(self, now: float) -> int | None:
        self._asleep = True  # before looking: who hands over an action after the look will wake
        if self._actions:
            return 0
        wakeup = self._core.next_wakeup(now)
        return None if wakeup is None else max(0, ceil((wakeup - time.monotonic()) * 1000))

    def _act(self) -> None:
        while self._actions:
            self._actions.popleft()(self._core)
