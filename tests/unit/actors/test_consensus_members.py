"""consensus: changes of the members, from a client's request to its answer, and who is told of them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from consensus_scene import BUSY, NOT_LEADER, OK, REFUSED, UNKNOWN, Scene, members, stored

from zraft.messages import (
    AppendEntries,
    AppendReply,
    ChangeMembers,
    Endpoints,
    Entry,
    EntryKind,
    FindNode,
    Heartbeat,
    Identity,
    NodeFound,
    Removed,
    RequestVote,
    SaveClusterId,
    TransferLeadership,
    VoteReply,
)
from zraft.raft import Address, Membership, Role
from zraft.raft.admission import ADMISSION_MS

ADD = {"op": "add", "id": "n4", "client": "client 4", "peer": "peer 4"}
FOUND = NodeFound("peer 4", "n4", 44, 0, True, "client 4")


def ask(scene: Scene, change: dict[str, Any], token: int = 1) -> None:
    scene.say("frontend", ChangeMembers(token, json.dumps(change).encode()))


def asked(scene: Scene) -> list[Any]:
    return [message for message in scene.context.taken_for("transport") if type(message) is FindNode]


def refusal(scene: Scene) -> str:
    [(token, status, body)] = scene.replies()
    assert (token, status) == (1, REFUSED)
    return body.decode()


def adding(scene: Scene) -> Scene:
    ask(scene, ADD)
    scene.tick()
    scene.taken()
    return scene


def test_who_shall_join_is_asked_who_he_is_before_anything_is_logged() -> None:
    scene = Scene().lead()
    last = scene.raft.log.last_index
    ask(scene, ADD)
    scene.tick()
    assert asked(scene) == [FindNode("peer 4")]
    scene.tick()
    assert asked(scene) == [], "not with every tick"
    for _ in range(5):
        scene.tick()
    assert asked(scene) == [FindNode("peer 4")], "but again: the link may not have been there"
    assert scene.raft.log.last_index == last
    scene.say("transport", FOUND)
    assert scene.raft.log.last_index == last + 1
    assert (list(scene.raft.membership.learners), scene.raft.membership.stores["n4"]) == (["n4"], 44)
    assert scene.replies() == []
    scene.commit_all()
    assert scene.replies() == [(1, OK, json.dumps({"index": last + 1}).encode())]


@pytest.mark.parametrize(
    ("found", "why"),
    [
        (FOUND._replace(node="n7"), "n4: the node at peer 4 is n7, not n4"),
        (FOUND._replace(cluster_id=5), "n4: it belongs to another cluster .0000000000000005; this one is"),
        (FOUND._replace(waiting=False), "n4: it does not wait to be added"),
        (FOUND._replace(client="client 9"), "reach it at client 9, not at client 4"),
    ],
)
def test_who_does_not_fit_is_refused_in_words(found: NodeFound, why: str) -> None:
    scene = adding(Scene().lead())
    last = scene.raft.log.last_index
    scene.say("transport", found)
    assert re.search(why, refusal(scene))
    scene.tick()
    assert scene.raft.log.last_index == last and asked(scene) == []


def test_an_address_at_which_nobody_answers_is_refused_after_a_while() -> None:
    scene = adding(Scene().lead())
    scene.peers_say(("n2", Heartbeat(0, 0, 0)))
    for _ in range(ADMISSION_MS // 100 + 1):
        scene.peers_say(("n2", AppendReply(1, True, 1, 0, 0)), ("n3", AppendReply(1, True, 1, 0, 0)))
        replies = scene.replies()
        if replies:
            break
        scene.tick(100)
    assert replies[0][1] == REFUSED and b"no node answers at peer 4" in replies[0][2]


def test_an_answer_that_nobody_waits_for_means_nothing() -> None:
    scene = Scene().lead()
    scene.say("transport", FOUND)
    assert scene.raft.log.last_index == 1 and scene.taken() == []


def test_what_makes_no_sense_is_refused_at_once() -> None:
    scene = Scene().lead()
    ask(scene, {"op": "remove", "id": "n9"})
    assert "n9 is not a member" in refusal(scene)


def test_two_at_a_time_the_second_is_refused() -> None:
    scene = Scene().lead()
    ask(scene, {"op": "remove", "id": "n3"})
    ask(scene, {"op": "remove", "id": "n2"}, token=2)
    scene.tick()
    replies = scene.replies()
    assert [(token, status) for token, status, _ in replies] == [(2, REFUSED)] and b"under way" in replies[0][2]


def test_a_follower_sends_them_to_the_leader_and_a_leader_that_has_just_begun_asks_for_patience() -> None:
    scene = Scene(recovered=stored(5))
    scene.peers_say(("n2", Heartbeat(5, 0, 0)))
    scene.taken()
    ask(scene, ADD)
    assert scene.replies() == [(1, NOT_LEADER, b"client 2")]
    scene = Scene().lead()
    scene.raft.term_start_index = 99
    ask(scene, ADD)
    assert scene.replies() == [(1, BUSY, b"")]


def depose(scene: Scene) -> None:
    scene.peers_say(("n2", Heartbeat(9, 0, 0)))
    assert scene.raft.role is Role.FOLLOWER


def test_a_leader_that_is_deposed_says_what_it_knows() -> None:
    """Before anything was logged: surely nothing changed. Afterwards: nobody can tell."""
    scene = adding(Scene().lead())
    depose(scene)
    assert scene.replies() == [(1, NOT_LEADER, b"client 2")]
    scene = adding(Scene().lead())
    scene.say("transport", FOUND)
    depose(scene)
    assert scene.replies() == [(1, UNKNOWN, b"")]


def test_and_sends_them_to_where_the_leader_is_reached_from_here() -> None:
    scene = adding(Scene().lead())
    scene.actor.overrides = {"n2": Address("proxy c", "proxy p")}
    depose(scene)
    assert scene.replies() == [(1, NOT_LEADER, b"proxy c")]


def test_a_new_frontend_waits_for_nothing_and_is_told_the_endpoints() -> None:
    scene = adding(Scene().lead())
    scene.restarted("frontend")
    assert scene.taken() == [("frontend", Endpoints(("client 1", "client 2", "client 3")))]
    scene.say("transport", FOUND)
    scene.tick()
    assert scene.raft.log.last_index == 1 and scene.replies() == []


def test_nor_is_it_told_of_a_change_that_its_predecessor_was_asked_for() -> None:
    scene = Scene().lead()
    ask(scene, {"op": "remove", "id": "n3"})
    scene.tick()
    assert len(scene.raft.membership.target) == 2, "it has begun"
    scene.restarted("frontend")
    scene.commit_all()
    assert scene.replies() == []


def test_no_change_while_leadership_is_handed_over() -> None:
    scene = Scene().lead()
    scene.say("frontend", TransferLeadership(7, "n2"))
    ask(scene, {"op": "remove", "id": "n3"})
    assert scene.replies() == [(1, BUSY, b"")]


def test_who_waits_to_be_added_learns_the_cluster_with_its_first_entry() -> None:
    """It founds none itself, so it need not wait until that is committed; from then on it does not wait any more."""
    scene = Scene(size=0)
    assert ("transport", Identity(0, 77, True, {})) in scene.taken()
    learning = Membership(9, {"n2": members(2)["n2"]}, {"n1": members(1)["n1"]}, stores={"n1": 77, "n2": 22})
    scene.peers_say(("n2", AppendEntries(5, 0, 0, 0, (Entry(5, 0, EntryKind.CONFIG, learning.encode()),))))
    taken = scene.taken()
    assert ("log_writer", SaveClusterId(9)) in taken
    assert ("transport", Identity(9, 77, False, {"n2": ("peer 2", 22)})) in taken
    assert ("frontend", Endpoints(("client 2", "client 1"))) in taken


def test_a_founder_keeps_the_clusters_id_once_that_is_certain() -> None:
    scene = Scene()
    config = Entry(5, 0, EntryKind.CONFIG, Membership(9, members(3)).encode())
    scene.peers_say(("n2", RequestVote(5, 0, 0, False, False)))
    scene.sync()
    scene.peers_say(("n2", AppendEntries(5, 0, 0, 0, (config,))))
    saves = [("log_writer", SaveClusterId(9))]
    assert not [item for item in scene.taken() if item in saves]
    scene.peers_say(("n2", Heartbeat(5, 1, 0)))
    assert [item for item in scene.taken() if item in saves] == saves


def test_transport_and_frontend_follow_the_members() -> None:
    scene = adding(Scene().lead())
    cluster_id = scene.raft.membership.cluster_id
    scene.say("transport", FOUND)
    stores = scene.raft.membership.stores
    peers = {f"n{n}": (f"peer {n}", stores[f"n{n}"]) for n in (2, 3, 4)}
    taken = scene.taken()
    assert ("transport", Identity(cluster_id, 77, False, peers)) in taken
    assert ("frontend", Endpoints(("client 1", "client 2", "client 3", "client 4"))) in taken


def test_addresses_in_the_config_go_before_those_in_the_log() -> None:
    """Where a node is reached another way from here: through a proxy, or address translation."""
    scene = Scene(recovered=stored(5))
    scene.actor.overrides = {"n2": Address("proxy c", "proxy p")}
    scene.taken()
    scene.restarted("transport")
    scene.restarted("frontend")
    taken = scene.taken()
    assert ("transport", Identity(9, 77, False, {"n2": ("proxy p", 0), "n3": ("peer 3", 0)})) in taken
    assert ("frontend", Endpoints(("client 1", "proxy c", "client 3"))) in taken


def test_answers_go_to_the_data_directory_that_asked_and_questions_to_the_members() -> None:
    scene = Scene(recovered=stored(5))
    scene.raft.strangers["n2"] = 99
    answer, question = VoteReply(5, False, False), RequestVote(5, 1, 1, True, False)
    packed = scene.actor.packed([("n2", answer), ("n2", Removed(4, 3)), ("n2", question), ("n3", answer)])
    assert [(peer, store_id) for peer, store_id, _ in packed] == [("n2", 99), ("n2", 99), ("n2", 0), ("n3", 0)]


def test_the_link_to_a_leader_that_leaves_stays_until_that_is_committed() -> None:
    """It waits for the acknowledgement of just this entry."""
    scene = Scene(recovered=stored(5))
    others = {name: at for name, at in members(3).items() if name != "n2"}
    entry = Entry(5, 0, EntryKind.CONFIG, scene.raft.membership._replace(voters=others).encode())
    scene.peers_say(("n2", AppendEntries(5, 5, 3, 0, (entry,))))
    scene.sync()
    assert "n2" not in scene.raft.membership.members and set(scene.actor.identity.peers) == {"n2", "n3"}
    scene.peers_say(("n2", AppendEntries(5, 6, 5, 6, ())))
    assert set(scene.actor.identity.peers) == {"n3"}
