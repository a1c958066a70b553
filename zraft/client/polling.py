"""One turn of a client core's sockets, for whoever owns the thread: send what is due, wait, take in what came."""

from __future__ import annotations

import select
import time

import zmq

from zraft.client.core import ClientCore
from zraft.client.sockets import Sockets

_POLLIN, _POLLOUT = int(zmq.POLLIN), int(zmq.POLLOUT)  # to work with a zmq.PollEvent takes a microsecond


class Polling:
    """A core and its sockets. All calls come from one thread."""

    def __init__(self, core: ClientCore) -> None:
        self.core = core
        self.sockets = Sockets()
        self._poller = zmq.Poller()
        self._sent_at = time.monotonic()

    def send(self) -> None:
        """Do what is due, and send what follows from it."""
        core, sockets = self.core, self.sockets
        now = time.monotonic()
        core.tick(now)
        for endpoint in core.dropped_endpoints() & sockets.by_endpoint.keys():
            self._poller.unregister(sockets.by_endpoint[endpoint])
            sockets.drop(endpoint)
        for outgoing in core.frames_to_send(now):
            sockets.send(core, outgoing, now)
        self._sent_at = now

    def wait(self, until: float) -> None:
        """Wait for answers, and for what the core does by the clock, until then (monotonic seconds) at most; take in
        what came."""
        core, sockets = self.core, self.sockets
        refused = core.refused_endpoints()
        for endpoint, handle in sockets.by_endpoint.items():
            self._poller.register(handle, _POLLIN | _POLLOUT if endpoint in refused else _POLLIN)
        wakeup = core.next_wakeup(self._sent_at)
        seconds = (until if wakeup is None else min(until, wakeup)) - time.monotonic()
        ready = self._poller.poll(max(0, int(seconds * 1000)))
        if not ready and 0 < seconds < 0.001:
            # ZeroMQ's clock ticks in milliseconds. The descriptors tell of what comes after the look just taken.
            select.select([int(handle.getsockopt(zmq.FD)) for handle in sockets.endpoint_of], [], [], seconds)
            ready = self._poller.poll(0)
        now = time.monotonic()
        for handle, events in ready:
            endpoint = sockets.endpoint_of[handle]
            if events & _POLLOUT:
                core.on_writable(endpoint, now)
            if events & _POLLIN:
                core.on_frame(endpoint, handle.recv(), now)

    def close(self) -> None:
        """Close the sockets."""
        self.sockets.close()
