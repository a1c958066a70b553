"""The links to the other nodes. What it loses, with its life or on the way, is packet loss to Raft."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from zraft.bus.actor import Actor, Context
from zraft.messages import Identity, Inbound, Outbound
from zraft.wire import WireError, pack_peer_frame, unpack_peer_frame

if TYPE_CHECKING:  # what runs these actors without sockets does not load ZeroMQ
    from zraft.bus.ports import PeerPort

log = logging.getLogger(__name__)


class Transport(Actor):
    """node: this node's id, written on every frame and demanded as the receiver of what comes in."""

    name = "transport"

    def __init__(self, context: Context, node: str) -> None:
        super().__init__(context)
        self.node = node
        self.port: PeerPort = context.ports["peers"]
        self.identity = Identity(0, 0, {})
        self.outbound: dict[str, list[bytes]] = {}
        self.inbound: list[tuple[str, bytes]] = []
        self.counts = {"peer_frames_in": 0, "peer_frames_out": 0, "peer_dropped_in": 0, "peer_dropped_out": 0}
        self.refused: set[str] = set()  # reasons that were logged once
        self.handlers |= {Outbound: self.on_outbound, Identity: self.on_identity}

    def on_identity(self, sender: str, message: Identity) -> None:
        """Who we are, and who the others are."""
        self.identity = message
        self.port.set_peers(message.peers)

    def on_outbound(self, sender: str, message: Outbound) -> None:
        """Gather by peer; end_batch sends one frame to each."""
        for peer, body in message.messages:
            self.outbound.setdefault(peer, []).append(body)

    def receive_frames(self, port: str, frames: list[bytes]) -> None:
        """From peers, or from anybody who found the port."""
        if not self.identity.store_id:
            return  # this node does not know itself yet: to the others it is still down
        for frame in frames:
            try:
                cluster_id, sender, _, receiver, bodies = unpack_peer_frame(frame)
            except WireError as error:
                self.refuse("an unknown sender", str(error))
                continue
            ours = self.identity.cluster_id
            if receiver != self.node:
                self.refuse(sender, f"it takes this node ({self.node}) for {receiver}: check the addresses")
            elif cluster_id and ours and cluster_id != ours:
                self.refuse(sender, f"it belongs to cluster {cluster_id:x}, this node to {ours:x}")
            elif sender not in self.identity.peers:
                self.refuse(sender, "it is no member of this cluster")
            else:
                self.counts["peer_frames_in"] += 1
                self.inbound += [(sender, body) for body in bodies]

    def refuse(self, sender: str, why: str) -> None:
        """Drop and count; say each reason once."""
        self.counts["peer_dropped_in"] += 1
        text = f"a frame from {sender[:80]!r} was dropped: {why}"
        if text not in self.refused and len(self.refused) < 100:
            self.refused.add(text)
            log.warning("%s", text)

    def end_batch(self) -> None:
        """One message inwards, one frame to each peer outwards."""
        if self.inbound:
            inbound, self.inbound = tuple(self.inbound), []
            self.context.send("consensus", Inbound(inbound))
        if self.outbound:
            outbound, self.outbound = self.outbound, {}
            for peer, bodies in outbound.items():
                self.context.boundary()
                self.send(peer, bodies)

    def send(self, peer: str, bodies: list[bytes]) -> None:
        """A frame of all bodies; of each alone where together they could be too large."""
        identity = self.identity
        if len(bodies) > 1 and sum(map(len, bodies)) > 1_000_000:
            for body in bodies:
                self.send(peer, [body])
            return
        frame = pack_peer_frame(identity.cluster_id, self.node, identity.store_id, peer, bodies)
        sent = self.port.send(peer, frame)
        self.counts["peer_frames_out" if sent else "peer_dropped_out"] += 1

    def status(self) -> dict[str, Any]:
        """Frames taken, sent and dropped."""
        counts = dict(self.counts)
        counts["peer_dropped_in"] += self.port.surplus_parts
        return counts
