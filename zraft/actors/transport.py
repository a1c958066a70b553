"""The links to the other nodes. What it loses, with its life or on the way, is packet loss to Raft."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from zraft.bus.actor import Actor, Context
from zraft.messages import FindNode, IAm, Identity, Inbound, NodeFound, Outbound, WhoAreYou
from zraft.raft import Address
from zraft.raft.change import MAX_MEMBERS
from zraft.wire import (
    EntriesCache,
    PeerFrame,
    WireError,
    pack_peer,
    pack_peer_frame,
    unpack_peer,
    unpack_peer_frame,
)

if TYPE_CHECKING:  # what runs these actors without sockets does not load ZeroMQ
    from zraft.bus.ports import PeerPort

MAX_GUESTS = MAX_MEMBERS
"""So many nodes can be asked at once who they are, as a change that adds as many does: a link to each has to stay until
the next question, for the first one goes before it is there."""

log = logging.getLogger(__name__)


class Transport(Actor):
    """node: this node's id, written on every frame and demanded as the receiver of what comes in. own: where others
    reach it, as it is told; "": not known."""

    name = "transport"

    def __init__(self, context: Context, node: str, own: Address) -> None:
        super().__init__(context)
        self.node = node
        self.own = own
        self.port: PeerPort = context.ports["peers"]
        self.identity = Identity(0, 0, False, {})
        # Links beside those to the peers, by id or (where somebody asks, or is asked, who he is) by address: to answer
        # members that this node has not heard of yet. The oldest goes first.
        self.guests: dict[str, str] = {}
        # Where peers are that are heard with another data directory, and so maybe from elsewhere, than the members say.
        # Answers to them go to both.
        self.elsewhere: dict[str, str] = {}
        self.outbound: dict[tuple[str, int], list[bytes]] = {}  # by (peer, its store id: see Outbound)
        self.inbound: list[tuple[str, int, int, tuple[bytes, ...]]] = []
        self.counts = {"peer_frames_in": 0, "peer_frames_out": 0, "peer_dropped_in": 0, "peer_dropped_out": 0}
        self.refused: set[str] = set()  # reasons that were logged once
        self.handlers |= {Outbound: self.on_outbound, Identity: self.on_identity, FindNode: self.on_find_node}

    def on_identity(self, sender: str, message: Identity) -> None:
        """Who we are, and who the others are."""
        self.identity = message
        self.elsewhere.clear()
        known = {address for address, _ in message.peers.values()}
        self.guests = {
            guest: address
            for guest, address in self.guests.items()
            if guest not in message.peers and address not in known
        }
        self.connect()

    def connect(self) -> None:
        """Have the links that are wanted, and no others."""
        peers = {node: address for node, (address, _) in self.identity.peers.items()}
        self.port.set_peers({**self.guests, **peers})

    def welcome(self, guest: str, address: str) -> None:
        """Have a link to somebody who is no peer."""
        if self.guests.get(guest) == address or not address:
            return
        self.guests.pop(guest, None)
        while len(self.guests) >= MAX_GUESTS:
            del self.guests[next(iter(self.guests))]
        self.guests[guest] = address
        self.connect()

    def on_outbound(self, sender: str, message: Outbound) -> None:
        """Gather by peer; end_batch sends one frame to each."""
        for peer, store_id, body in message.messages:
            self.outbound.setdefault((peer, store_id), []).append(body)

    def receive_frames(self, port: str, frames: list[bytes]) -> None:
        """From peers, or from anybody who found the port."""
        if not self.identity.store_id:
            return  # this node does not know itself yet: to the others it is still down
        for data in frames:
            try:
                frame = unpack_peer_frame(data)
            except WireError as error:
                self.refuse("an unknown sender", str(error))
                continue
            identity = self.identity
            peer = identity.peers.get(frame.sender)
            if peer is None or frame.receiver != self.node or frame.cluster_id != identity.cluster_id:
                if not frame.receiver:
                    self.on_introduction(frame)
                    continue
                why = self.why_refused(frame)
                if why:
                    self.refuse(frame.sender, why)
                    continue
            if peer is None:
                self.welcome(frame.sender, frame.address)
            elif frame.store_id != peer[1]:
                self.elsewhere[frame.sender] = frame.address
                if frame.address != peer[0]:
                    self.welcome(frame.address, frame.address)
            self.counts["peer_frames_in"] += 1
            self.inbound.append((frame.sender, frame.store_id, frame.receiver_store_id, frame.bodies))

    def why_refused(self, frame: PeerFrame) -> str:
        """ "" for a frame of this cluster that is meant for this node."""
        identity = self.identity
        if frame.receiver != self.node:
            return f"it takes this node ({self.node}) for {frame.receiver}: check the addresses"
        if frame.sender == self.node:
            return "it goes by the name of this node: check the configs"
        if frame.cluster_id != identity.cluster_id and frame.cluster_id and identity.cluster_id:
            return f"it belongs to cluster {frame.cluster_id:016x}, this node to {identity.cluster_id:016x}"
        if frame.sender in identity.peers:
            return ""
        if identity.waiting:  # whoever adds a node has asked it who it is
            if frame.receiver_store_id and frame.receiver_store_id != identity.store_id:
                return (
                    f"it knows {self.node} by another data directory than this one, which is no member. If the data of "
                    f"{self.node} was lost, remove {self.node} from the cluster and add it again"
                )
            return "" if frame.receiver_store_id else "it has not asked who this node is"
        # Of this cluster, but unknown: added by an entry that is not here yet, or removed by one that is not there. Who
        # knows this data directory has that from the log of this cluster, whose id may not be certain here yet.
        is_ours = frame.cluster_id == identity.cluster_id or frame.receiver_store_id == identity.store_id
        return "" if is_ours else "it is no member of this cluster"

    def refuse(self, sender: str, why: str) -> None:
        """Drop and count; say each reason once."""
        self.counts["peer_dropped_in"] += 1
        text = f"a frame from {sender[:80]!r} was dropped: {why}"
        if text not in self.refused and len(self.refused) < 100:
            self.refused.add(text)
            log.warning("%s", text)

    # --- who is there?

    def on_find_node(self, sender: str, message: FindNode) -> None:
        """Ask at an address."""
        self.introduce(message.address, WhoAreYou(message.address))

    def introduce(self, address: str, message: WhoAreYou | IAm) -> None:
        """Say it to whoever listens there. Lost unless the link is there already: the other asks again."""
        self.welcome(address, address)
        identity = self.identity
        body = pack_peer(message, EntriesCache())
        frame = PeerFrame(identity.cluster_id, self.node, identity.store_id, self.own.peer, "", 0, (body,))
        self.port.send(address, pack_peer_frame(frame))

    def on_introduction(self, frame: PeerFrame) -> None:
        """Somebody asks who this node is, or answers."""
        for body in frame.bodies:
            try:
                message = unpack_peer(body)
            except WireError as error:
                self.refuse(frame.sender, str(error))
                continue
            if type(message) is WhoAreYou:
                self.introduce(frame.address, IAm(message.address, self.identity.waiting, self.own.client))
            elif type(message) is IAm:
                address, waiting, client = message
                found = NodeFound(address, frame.sender, frame.store_id, frame.cluster_id, waiting, client)
                self.context.send("consensus", found)

    # --- the end of a batch

    def end_batch(self) -> None:
        """One message inwards, one frame to each peer outwards."""
        if self.inbound:
            inbound, self.inbound = tuple(self.inbound), []
            self.context.send("consensus", Inbound(inbound))
        if self.outbound:
            outbound, self.outbound = self.outbound, {}
            for (peer, store_id), bodies in outbound.items():
                self.context.boundary()
                self.send(peer, store_id, bodies)

    def send(self, peer: str, store_id: int, bodies: list[bytes]) -> None:
        """A frame of all bodies; of each alone where together they could be too large. store_id: see Outbound."""
        if len(bodies) > 1 and sum(map(len, bodies)) > 1_000_000:
            for body in bodies:
                self.send(peer, store_id, [body])
            return
        identity = self.identity
        if not identity.store_id:  # this node does not know itself yet: see receive_frames
            self.counts["peer_dropped_out"] += 1
            return
        elsewhere = self.elsewhere.get(peer) if store_id else None
        store_id = store_id or identity.peers.get(peer, ("", 0))[1]
        frame = PeerFrame(
            identity.cluster_id, self.node, identity.store_id, self.own.peer, peer, store_id, tuple(bodies)
        )
        data = pack_peer_frame(frame)
        sent = self.port.send(peer, data)
        if elsewhere in self.guests:  # which may lead nowhere from here: the config says how such a node is reached
            sent = self.port.send(elsewhere, data) or sent
        self.counts["peer_frames_out" if sent else "peer_dropped_out"] += 1

    def status(self) -> dict[str, Any]:
        """Frames taken, sent and dropped."""
        counts = dict(self.counts)
        counts["peer_dropped_in"] += self.port.surplus_parts
        return counts
