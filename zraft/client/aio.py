"""The client for asyncio: it lives in the caller's event loop, without a thread of its own."""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import Iterable, Mapping
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

# As long as the client for threads takes to end its session.
CLOSE_SECONDS = 0.2


class AsyncClient:
    """A client of a zraft cluster for one event loop. Task-safe; an async context manager.

    The parameters and the methods are those of `zraft.Client`, awaited, and so are the errors. What many tasks ask in
    the same turn of the loop travels in one frame. A call that is cancelled harms no other; it may still be applied.
    The event loop must be able to watch file descriptors (`add_reader`): on Windows that is the selector event loop.
    """

    def __init__(self, endpoints: str | Iterable[str] | None = None, timeout: float = 5.0) -> None:
        self._timeout = timeout
        self._core = ClientCore(resolve_endpoints(endpoints), random.Random())
        self._runner: _Runner | None = None
        self._finalizer: weakref.finalize[..., AsyncClient] | None = None
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """End the session and the sockets. Calls of other tasks fail. Closing again does nothing."""
        self._closed = True
        if self._finalizer is not None:
            self._finalizer.detach()
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.close()

    async def set(self, key: Data, value: Data, *, timeout: float | None = None) -> int:
        """Set `key` to `value`. Returns the store's revision that did it."""
        return int(await self._ask(requests.set_key(key, value), timeout))

    async def get(self, key: Data, *, timeout: float | None = None) -> bytes | None:
        """Return the value of `key`, None if it is absent. Linearizable: it sees all writes that were answered."""
        value: bytes | None = await self._ask(requests.get_value(key), timeout)
        return value

    async def revision(self, *, timeout: float | None = None) -> int:
        """The store's revision, which counts all changes. Linearizable."""
        _, revision = await self._ask(requests.get_at_revision(b""), timeout)
        return int(revision)

    async def get_entry(self, key: Data, *, timeout: float | None = None) -> KeyValue | None:
        """Return `key` with its value and revisions, None if it is absent. Linearizable."""
        entry: KeyValue | None = await self._ask(requests.get_entry(key), timeout)
        return entry

    async def delete(self, key: Data, *, timeout: float | None = None) -> bool:
        """Delete `key`. Returns whether it was there."""
        return bool(await self._ask(requests.delete_key(key), timeout))

    async def cas(self, key: Data, expected: Data | None, new: Data, *, timeout: float | None = None) -> bool:
        """Set `key` to `new` if its value is `expected` (None: if it is absent). Returns whether it was."""
        return bool(await self._ask(requests.compare_and_set(key, expected, new), timeout))

    async def range(self, prefix: Data, *, timeout: float | None = None) -> list[KeyValue]:
        """Return all keys that begin with `prefix`, in order. As `Client.range`: beyond a page not one snapshot."""
        runner = self._running()
        deadline = self._deadline(runner, timeout)
        pages = requests.range_pages(prefix)
        request = next(pages)
        while True:
            page = await runner.ask(request, deadline)
            try:
                request = pages.send(page)
            except StopIteration as end:
                entries: list[KeyValue] = end.value
                return entries

    async def status(self, *, all_members: bool = False, timeout: float | None = None) -> list[dict[str, Any]]:
        """Ask nodes about themselves, all at once. Returns one dict per node, as `Client.status`."""
        runner = self._running()
        deadline = min(self._deadline(runner, timeout), runner.loop.time() + STATUS_SECONDS)
        return await runner.survey(deadline, all_members)

    async def members(self, *, timeout: float | None = None) -> list[dict[str, Any]]:
        """As `Client.members`."""
        return members_of(await self.status(all_members=True, timeout=timeout))

    async def add_member(
        self, node: str, peer: str, client: str, *, learner: bool = False, timeout: float | None = None
    ) -> int:
        """As `Client.add_member`."""
        request = requests.add_member(node, peer, client, learner)
        return await self._change_members(request, {node: {"client": client}}, timeout)

    async def remove_member(self, node: str, *, timeout: float | None = None) -> int:
        """As `Client.remove_member`."""
        return int(await self._ask(requests.remove_member(node), timeout))

    async def promote_member(self, node: str, *, timeout: float | None = None) -> int:
        """As `Client.promote_member`."""
        return int(await self._ask(requests.promote_member(node), timeout))

    async def set_members(
        self,
        voters: Iterable[str],
        nodes: Mapping[str, Mapping[str, str]] | None = None,
        *,
        timeout: float | None = None,
    ) -> int:
        """As `Client.set_members`."""
        return await self._change_members(requests.set_members(voters, nodes or {}), nodes or {}, timeout)

    async def _change_members(
        self, request: Request, nodes: Mapping[str, Mapping[str, str]], timeout: float | None
    ) -> int:
        """Ask for the change once each of the new nodes has said at its client address who it is."""
        runner = self._running()
        deadline = self._deadline(runner, timeout)
        for node, addresses in nodes.items():
            try:
                soon = min(deadline, runner.loop.time() + requests.NEW_MEMBER_SECONDS)
                report = await runner.ask(requests.status(), soon, addresses["client"])
            except Unavailable:
                report = None
            requests.check_new_member(node, addresses["client"], report)
        return int(await runner.ask(request, deadline))

    async def transfer_leadership(self, to: str | None = None, *, timeout: float | None = None) -> None:
        """Ask the leader to hand over to node `to`, or to the one that it finds best."""
        await self._ask(requests.transfer_leadership(to), timeout)

    async def inject_fault(self, endpoint: str, fault: Mapping[str, Any], *, timeout: float | None = None) -> None:
        """Ask the node at `endpoint` to do `fault` to itself, where its config allows that."""
        (address,) = resolve_endpoints([endpoint])
        runner = self._running()
        await runner.ask(requests.inject_fault(fault), self._deadline(runner, timeout), address)

    async def compact(self, endpoint: str, revision: int = 0, *, timeout: float | None = None) -> SavedSnapshot:
        """As `Client.compact`."""
        (address,) = resolve_endpoints([endpoint])
        runner = self._running()
        saved: SavedSnapshot = await runner.ask(requests.compact(revision), self._deadline(runner, timeout), address)
        return saved

    async def read_snapshot(
        self, endpoint: str, index: int, offset: int, *, timeout: float | None = None
    ) -> tuple[bytes, int]:
        """As `Client.read_snapshot`."""
        (address,) = resolve_endpoints([endpoint])
        runner = self._running()
        piece: tuple[bytes, int] = await runner.ask(
            requests.read_snapshot(index, offset), self._deadline(runner, timeout), address
        )
        return piece

    async def _ask(self, request: Request, timeout: float | None) -> Any:
        runner = self._running()
        return await runner.ask(request, self._deadline(runner, timeout))

    def _deadline(self, runner: _Runner, timeout: float | None) -> float:
        return runner.loop.time() + (self._timeout if timeout is None else timeout)

    def _running(self) -> _Runner:
        if self._closed:
            raise Unavailable("this client is closed")
        if self._runner is None:
            self._runner = _Runner(self._core, asyncio.get_running_loop())
            # Of a client that is dropped without being closed; ZeroMQ's context would wait for its sockets for ever.
            self._finalizer = weakref.finalize(self, self._runner.abandon)
        return self._runner


class _Runner:
    """Runs a core in an event loop: reads and writes its sockets, and wakes it when its time has come."""

    def __init__(self, core: ClientCore, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._core = core
        self._sockets = Sockets()
        self._readers: dict[str, int] = {}
        self._soon: asyncio.Handle | None = None
        self._timer: asyncio.TimerHandle | None = None

    async def ask(self, request: Request, deadline: float, endpoint: str | None = None) -> Any:
        """The answer to one request. Raises what the core says."""
        future: asyncio.Future[Any] = self.loop.create_future()

        def on_done(value: Any, error: ZraftError | None) -> None:
            if future.done():
                return
            if error is None:
                future.set_result(value)
            else:
                future.set_exception(error)

        call = self._core.submit(request, deadline, on_done, endpoint)
        self._pump_soon()
        try:
            return await future
        except asyncio.CancelledError:
            self._core.cancel(call)
            raise

    async def survey(self, deadline: float, all_members: bool) -> list[dict[str, Any]]:
        """The status of all nodes."""
        future: asyncio.Future[list[dict[str, Any]]] = self.loop.create_future()

        def on_done(reports: list[dict[str, Any]]) -> None:
            if not future.done():
                future.set_result(reports)

        StatusSurvey(self._core, deadline, all_members, on_done)
        self._pump_soon()
        return await future

    async def close(self) -> None:
        """End the session, then the sockets."""
        closed = asyncio.Event()
        self._core.close(self.loop.time() + CLOSE_SECONDS, closed.set)
        self._pump_soon()
        try:
            await closed.wait()
        finally:
            self._release()

    def abandon(self) -> None:
        """Close the sockets and no more. The garbage collector may call this in any thread, and late."""
        if self.loop.is_closed():
            self._sockets.close()
        elif self.loop.is_running():
            self.loop.call_soon_threadsafe(self._release)
        else:
            self._release()

    def _release(self) -> None:
        for handle in (self._soon, self._timer):
            if handle is not None:
                handle.cancel()
        for descriptor in self._readers.values():
            self.loop.remove_reader(descriptor)
        self._sockets.close()

    def _pump_soon(self) -> None:
        # Not at once: what other tasks ask in this turn of the loop shall go in the same frame.
        if self._soon is None:
            self._soon = self.loop.call_soon(self._pump)

    def _pump(self) -> None:
        """Handle all that arrived, send all that may go, and see to it that this is called again."""
        if self._soon is not None:
            self._soon.cancel()
            self._soon = None
        core = self._core
        now = self.loop.time()
        try:
            # The descriptor of a ZeroMQ socket tells of changes, and each send or receive may swallow one: so look
            # again after every send, until there is nothing more to do.
            busy = True
            while busy:
                self._receive()
                now = self.loop.time()
                core.tick(now)
                for endpoint in core.dropped_endpoints() & self._sockets.by_endpoint.keys():
                    if endpoint in self._readers:  # not so if it was opened just now
                        self.loop.remove_reader(self._readers.pop(endpoint))
                    self._sockets.drop(endpoint)
                busy = False
                for outgoing in core.frames_to_send(now):
                    busy = True
                    self._sockets.send(core, outgoing, now)
        finally:
            self._watch()
            self._set_timer(now)

    def _receive(self) -> None:
        core = self._core
        refused = core.refused_endpoints()
        for endpoint, socket in self._sockets.by_endpoint.items():
            events = int(socket.getsockopt(zmq.EVENTS))
            if events & zmq.POLLOUT and endpoint in refused:
                core.on_writable(endpoint, self.loop.time())
            while events & zmq.POLLIN:
                core.on_frame(endpoint, socket.recv(zmq.NOBLOCK), self.loop.time())
                events = int(socket.getsockopt(zmq.EVENTS))

    def _watch(self) -> None:
        for endpoint, socket in self._sockets.by_endpoint.items():
            if endpoint not in self._readers:
                descriptor = int(socket.getsockopt(zmq.FD))
                self._readers[endpoint] = descriptor
                self.loop.add_reader(descriptor, self._pump)

    def _set_timer(self, now: float) -> None:
        wakeup = self._core.next_wakeup(now)
        timer = self._timer
        if timer is not None and not timer.cancelled() and timer.when() > self.loop.time():
            if wakeup is None or timer.when() <= wakeup:
                return  # early is harmless, and cheaper than a new timer for every frame
            timer.cancel()
        self._timer = None if wakeup is None else self.loop.call_at(wakeup, self._pump)
