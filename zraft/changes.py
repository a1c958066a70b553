"""Changes of the members that clients of this node asked for: from the request to its answer. Consensus owns it."""

from __future__ import annotations

import json
from typing import NamedTuple

from zraft.messages import NodeFound
from zraft.raft import Raft, Role
from zraft.raft.admission import Admission
from zraft.raft.change import ChangeRefused, first_step, parse_change
from zraft.wire import ReplyStatus


class Begun(NamedTuple):
    """A change whose first entry, at index, was appended by the leader of this term. token: the client's."""

    index: int  # type: ignore[assignment]  # hides tuple.index, which nobody needs here
    term: int
    token: int


class Changes:
    """For consensus to take: `replies`, (token, ReplyStatus, body) for the frontend; `misdirected`, the tokens of those
    whom the last `advance` could but send to the leader; `to_ask`, the peer addresses at which transport shall ask who
    is there."""

    def __init__(self) -> None:
        self._admissions: list[Admission] = []  # wait for those who shall join
        self._begun: list[Begun] = []  # wait for their commit
        self.replies: list[tuple[int, int, bytes]] = []
        self.misdirected: list[int] = []
        self.to_ask: list[str] = []
        self.is_busy = False  # whether anybody waits, or is to be answered; looked at in every batch

    def request(self, raft: Raft, token: int, data: bytes) -> None:
        """To the leader. Those who shall join are looked up first; what must be refused anyway is refused at once."""
        self.is_busy = True
        try:
            change = parse_change(raft.membership, data)
            first_step(raft.membership, change, {})
        except ChangeRefused as refusal:
            self._refuse(token, refusal)
        else:
            self._admissions.append(Admission(token, data, change, raft.now_ms))

    def on_found(self, cluster_id: int, found: NodeFound) -> None:
        """Somebody answers at an address at which a node shall join. cluster_id: of this cluster."""
        for admission in list(self._admissions):
            try:
                admission.on_found(cluster_id, found)
            except ChangeRefused as refusal:
                self._admissions.remove(admission)
                self._refuse(admission.token, refusal)

    def forget(self) -> None:
        """The frontend began a new life: nobody waits any more."""
        self._admissions.clear()
        self._begun.clear()
        self.is_busy = bool(self.replies)

    def advance(self, raft: Raft) -> None:
        """Before raft's output is taken: begin the changes for which everybody has answered, ask the others again."""
        self.misdirected.clear()
        for admission in list(self._admissions):
            try:
                if raft.role is not Role.LEADER:
                    self.misdirected.append(admission.token)
                elif not admission.is_complete:
                    self.to_ask += admission.to_ask(raft.now_ms)
                    continue
                else:
                    index = raft.change_members(parse_change(raft.membership, admission.data), admission.stores)
                    self._begun.append(Begun(index, raft.current_term, admission.token))
            except ChangeRefused as refusal:
                self._refuse(admission.token, refusal)
            self._admissions.remove(admission)

    def finish(self, raft: Raft) -> None:
        """After it: answer those whose change is certain to come, or of whose change nobody knows."""
        for begun in list(self._begun):
            if raft.role is not Role.LEADER or raft.current_term != begun.term:
                self.replies.append((begun.token, ReplyStatus.UNKNOWN, b""))
            elif raft.commit_index >= begun.index:
                self.replies.append((begun.token, ReplyStatus.OK, json.dumps({"index": begun.index}).encode()))
            else:
                continue
            self._begun.remove(begun)
        self.is_busy = bool(self._admissions or self._begun)

    def _refuse(self, token: int, refusal: ChangeRefused) -> None:
        self.replies.append((token, ReplyStatus.REFUSED, str(refusal).encode()))
