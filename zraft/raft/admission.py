"""The check of those who shall join, before anything is logged: an address at which nobody fitting answers would make
a member of nobody."""

from __future__ import annotations

from zraft.messages import NodeFound
from zraft.raft.change import Change, ChangeRefused

ADMISSION_MS = 3_000
ASK_EVERY_MS = 50


class Admission:
    """One change of the members that waits for answers. token: the client's; data: the change as it was sent."""

    def __init__(self, token: int, data: bytes, change: Change, now_ms: int) -> None:
        self.token = token
        self.data = data
        self.stores: dict[str, int] = {}  # of those who answered
        self._missing = {at.peer: (node, at.client) for node, at in change.joining.items()}
        self._deadline_ms = now_ms + ADMISSION_MS
        self._ask_at_ms = now_ms

    @property
    def is_complete(self) -> bool:
        """Whether all have answered, and fit."""
        return not self._missing

    def to_ask(self, now_ms: int) -> list[str]:
        """The peer addresses to ask again now. Raises ChangeRefused when it has taken too long."""
        if now_ms >= self._deadline_ms:
            address, (node, _) = next(iter(self._missing.items()))
            raise ChangeRefused(
                f"{node}: no node answers at {address} within {ADMISSION_MS // 1000} s: is it running, with this "
                "version, and is that its peer address?"
            )
        if now_ms < self._ask_at_ms:
            return []
        self._ask_at_ms = now_ms + ASK_EVERY_MS
        return list(self._missing)

    def on_found(self, cluster_id: int, found: NodeFound) -> None:
        """An answer. cluster_id: of this cluster. Raises ChangeRefused if the node does not fit."""
        if found.address not in self._missing:
            return
        node, client = self._missing[found.address]
        if found.node != node:
            raise ChangeRefused(f"{node}: the node at {found.address} is {found.node}, not {node}")
        if found.cluster_id and found.cluster_id != cluster_id:
            raise ChangeRefused(
                f"{node}: it belongs to another cluster ({found.cluster_id:016x}; this one is {cluster_id:016x}). To "
                "move it here, stop it, empty its data directory, and start it with `join: true`"
            )
        if not found.waiting:
            raise ChangeRefused(
                f"{node}: it does not wait to be added: it has data of an earlier life, or founds a cluster itself. "
                "Stop it, empty its data directory, and start it with `join: true`"
            )
        if found.client and found.client != client:
            raise ChangeRefused(f"{node}: its config says that clients reach it at {found.client}, not at {client}")
        del self._missing[found.address]
        self.stores[node] = found.store_id
