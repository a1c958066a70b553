"""Paper, section 5.3: log replication."""

from __future__ import annotations

import pytest
from cluster_harness import Cluster, Packet, log_of_terms

from zraft.messages import AppendEntries, AppendReply, Entry, EntryKind, Heartbeat
from zraft.raft.progress import MAX_INFLIGHT_MESSAGES, ProgressState


def led(size: int = 3) -> Cluster:
    """n1 leads, all hold the same."""
    cluster = Cluster(size)
    cluster.elect("n1")
    cluster.run(200)
    return cluster


def appends(cluster: Cluster, to: str) -> list[AppendEntries]:
    return [p.message for p in cluster.network if p.receiver == to and type(p.message) is AppendEntries]


def test_the_leader_appends_a_command_and_replicates_it_in_parallel() -> None:
    cluster = led()
    leader = cluster["n1"]
    index = cluster.propose(leader, b"x")
    entry = leader.entry(index)
    assert (entry.term, entry.kind, entry.data) == (leader.raft.current_term, EntryKind.COMMAND, b"x")
    for peer in ("n2", "n3"):
        assert appends(cluster, peer) == [AppendEntries(entry.term, index - 1, entry.term, index - 1, (entry,))]


def test_an_entry_is_committed_once_it_is_on_a_majority_and_only_then_applied() -> None:
    cluster = led()
    leader = cluster["n1"]
    index = cluster.propose(leader, b"x")
    cluster.complete(leader)
    cluster.notify(leader)
    assert leader.raft.commit_index == index - 1 and not leader.applying
    cluster.deliver(*[p for p in cluster.network if p.receiver == "n2"])
    cluster.complete(cluster["n2"])
    cluster.deliver(*[p for p in cluster.network if p.receiver == "n1"])
    assert leader.raft.commit_index == index
    assert leader.applying[0][1][0].data == b"x"


def test_a_follower_learns_of_the_commit_and_applies_in_log_order() -> None:
    cluster = led()
    for number in range(20):
        cluster.propose(cluster["n1"], b"%d" % number)
    cluster.run(100)
    for node in cluster.nodes.values():
        assert [entry.data for entry in node.applied[1:]] == [b"%d" % number for number in range(20)]


def test_what_one_input_batch_proposes_goes_out_in_one_message_and_one_write() -> None:
    cluster = led()
    cluster.input(cluster["n1"], lambda raft: raft.propose([b"a", b"b"]), lambda raft: raft.propose([b"c"]))
    assert [len(message.entries) for message in appends(cluster, "n2")] == [3]
    assert len(cluster["n1"].disk.queue) == 1


def test_appends_are_pipelined_without_waiting_for_answers_up_to_a_bounded_window() -> None:
    cluster = led()
    for number in range(MAX_INFLIGHT_MESSAGES + 30):
        cluster.propose(cluster["n1"], b"%d" % number)
    assert len(appends(cluster, "n2")) == MAX_INFLIGHT_MESSAGES
    cluster.settle()
    cluster.run(200)
    assert cluster["n2"].raft.log.last_index == cluster["n1"].raft.log.last_index


def test_the_window_is_bounded_in_bytes_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zraft.raft.progress.MAX_INFLIGHT_BYTES", 1_000)
    cluster = led()
    for _ in range(10):
        cluster.propose(cluster["n1"], bytes(300))
    assert len(appends(cluster, "n2")) == 3


def test_the_consistency_check_refuses_entries_whose_predecessor_is_missing() -> None:
    cluster = led()
    entry = Entry(1, 0, EntryKind.COMMAND, b"x")
    cluster.deliver(Packet("n1", "n2", AppendEntries(1, 7, 1, 0, (entry,))))
    assert cluster["n2"].raft.log.last_index == 1
    assert cluster.network[-1].message == AppendReply(1, False, 7, 0, 2)


def test_a_refusal_names_the_conflicting_term_and_its_first_index() -> None:
    cluster = Cluster(2)
    cluster.write_log("n2", [1, 2, 2, 2, 3], term=3)
    cluster.deliver(Packet("n1", "n2", AppendEntries(3, 4, 3, 0, ())))
    assert cluster.network[-1].message == AppendReply(3, False, 4, 2, 2)


FIGURE_7 = {  # the leader of term 8, and the followers (a) to (f)
    "leader": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6],
    "a": [1, 1, 1, 4, 4, 5, 5, 6, 6],
    "b": [1, 1, 1, 4],
    "c": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 6],
    "d": [1, 1, 1, 4, 4, 5, 5, 6, 6, 6, 7, 7],
    "e": [1, 1, 1, 4, 4, 4, 4],
    "f": [1, 1, 1, 2, 2, 2, 3, 3, 3, 3, 3],
}


@pytest.mark.parametrize("scenario", "abcdef")
def test_figure_7_the_leader_brings_every_such_follower_to_its_own_log(scenario: str) -> None:
    """The follower's extra entries go, the missing ones come, in few round trips: one a term, not one an entry."""
    cluster = Cluster(3)
    cluster.write_log("n1", FIGURE_7["leader"], term=7)
    cluster.write_log("n3", FIGURE_7["leader"], term=7)
    cluster.write_log("n2", FIGURE_7[scenario], term=7)
    cluster.isolate("n2")
    leader = cluster.elect("n1")
    assert leader.raft.current_term == 8
    cluster.heal()
    before = len(cluster.sent)
    cluster.run(300)
    assert cluster["n2"].log_terms == [*FIGURE_7["leader"], 8]
    assert cluster["n2"].disk.entries == leader.disk.entries
    refusals = [p for p in cluster.sent[before:] if type(p.message) is AppendReply and not p.message.success]
    assert len(refusals) <= 3, "fast back-up by term"


def test_figure_7_all_at_once() -> None:
    cluster = Cluster(7)
    for name, log in zip(cluster.nodes, FIGURE_7.values(), strict=True):
        cluster.write_log(name, log, term=7)
    leader = cluster.elect("n1")  # with the votes of (a), (b), (e), (f)
    cluster.run(500)
    for node in cluster.nodes.values():
        assert node.log_terms == [*FIGURE_7["leader"], 8]
        assert node.raft.commit_index == leader.raft.commit_index == 11


def test_back_up_goes_to_the_leaders_last_entry_of_the_conflicting_term() -> None:
    """Where the leader has that term too it need not send what both may share."""
    cluster = Cluster(3)
    cluster.write_log("n1", [1, 2, 2, 5, 5], term=5)
    cluster.write_log("n3", [1, 2, 2, 5, 5], term=5)
    cluster.write_log("n2", [1, 2, 2, 2, 2], term=5)
    cluster.isolate("n2")
    cluster.elect("n1")
    cluster.heal()
    before = len(cluster.sent)
    cluster.run(100)
    to_n2 = [p.message for p in cluster.sent[before:] if p.receiver == "n2" and type(p.message) is AppendEntries]
    assert [message.prev_log_index for message in to_n2 if message.entries][-1] == 3


def test_a_leader_never_overwrites_or_deletes_entries_in_its_own_log() -> None:
    """Leader append-only: a log longer than those of the others stays."""
    cluster = Cluster(3)
    cluster.write_log("n1", [1, 1, 1, 1], term=1)
    cluster.write_log("n2", [1], term=1)
    cluster.write_log("n3", [1], term=1)
    leader = cluster.elect("n1")
    cluster.run(200)
    assert leader.log_terms == [1, 1, 1, 1, 2] == cluster["n2"].log_terms


def test_lost_messages_are_sent_again_until_all_followers_store_all_entries() -> None:
    cluster = led()
    cluster.drop = lambda packet: packet.receiver == "n2" and type(packet.message) is AppendEntries
    last = cluster.propose(cluster["n1"], b"x")
    cluster.run(400)
    assert cluster["n2"].raft.log.last_index == 1 and cluster["n1"].raft.commit_index == last
    assert cluster["n1"].raft.progress["n2"].state is ProgressState.PROBE
    cluster.drop = lambda packet: False
    cluster.run(150)
    assert cluster["n2"].raft.commit_index == last
    assert cluster["n1"].raft.progress["n2"].state is ProgressState.REPLICATE


def test_a_gap_in_the_pipeline_is_noticed_at_the_next_message_not_by_a_time_out() -> None:
    cluster = led()
    cluster.drop = lambda packet: packet.receiver == "n2" and type(packet.message) is AppendEntries
    cluster.propose(cluster["n1"], b"lost")
    cluster.drop = lambda packet: False
    last = cluster.propose(cluster["n1"], b"after it")
    cluster.settle()
    assert cluster["n2"].raft.log.last_index == last


def test_a_message_that_arrives_twice_changes_nothing() -> None:
    cluster = led()
    cluster.propose(cluster["n1"], b"x")
    packet = next(p for p in cluster.network if p.receiver == "n2")
    cluster.settle()
    node = cluster["n2"]
    before = (node.log_terms, node.raft.commit_index, list(node.disk.entries))
    cluster.deliver(packet, packet)
    cluster.settle()
    assert before == (node.log_terms, node.raft.commit_index, list(node.disk.entries))


def test_a_follower_that_lags_is_fed_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the leader has let go of from memory is read, in order, while new entries keep coming."""
    monkeypatch.setattr("zraft.raft.replication.KEEP_TAIL_BYTES", 500)
    cluster = led()
    cluster.isolate("n3")
    leader = cluster["n1"]
    for number in range(50):
        cluster.propose(leader, b"%d" % number)
        cluster.settle()
    assert leader.raft.log.tail_first > 40
    cluster.heal()
    assert cluster.run(2_000, until=lambda: len(cluster["n3"].applied) == 51)
    cluster.propose(leader, b"new")
    cluster.run(100)
    assert cluster["n3"].applied == leader.applied


def test_a_new_state_machine_is_fed_from_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zraft.raft.replication.KEEP_TAIL_BYTES", 500)
    cluster = led()
    for number in range(50):
        cluster.propose(cluster["n1"], b"%d" % number)
        cluster.settle()
    node = cluster["n1"]
    before = list(node.applied)
    cluster.restart_applier(node)
    cluster.settle()
    assert node.applied == before and len(before) == 51


def test_what_was_read_from_disk_is_applied_only_as_far_as_it_is_committed(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = led()
    node = cluster["n1"]
    entries = [Entry(1, 9_999, EntryKind.COMMAND, b"%d" % number) for number in range(4)]
    monkeypatch.setattr("zraft.raft.replication.KEEP_TAIL_BYTES", 0)
    cluster.propose(node, *[entry.data for entry in entries[:2]])
    cluster.settle()
    assert node.raft.log.tail_first == 4 and len(node.applied) == 3
    committed = node.disk.entries[1:]
    node.applied = node.applied[:1]
    cluster.input(node, lambda raft: raft.on_applier_restarted(1, 0))
    cluster.input(node, lambda raft: raft.on_log_read("", 2, [*committed, *entries[2:]]))
    assert [(first, list(run)) for first, run in node.applying] == [(2, committed)]


def test_what_was_read_from_disk_for_a_peer_is_not_sent_if_it_was_replaced_meanwhile() -> None:
    cluster = led()
    cluster.network.clear()
    node = cluster["n1"]
    progress = node.raft.progress["n2"]
    progress.reading, progress.next_index = True, 1
    cluster.input(node, lambda raft: raft.on_log_read("n2", 1, [Entry(0, 0, EntryKind.COMMAND, b"replaced")]))
    assert all(entry.data != b"replaced" for message in appends(cluster, "n2") for entry in message.entries)
    assert not progress.reading


def test_a_new_state_machine_gets_everything_though_its_predecessor_died_with_a_full_queue(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zraft.raft.log.MAX_RUN_BYTES", 1)
    monkeypatch.setattr("zraft.raft.replication.MAX_APPLYING_RUNS", 4)
    cluster = led(1)
    node = cluster["n1"]
    cluster.propose(node, *[b"%d" % number for number in range(9)])
    cluster.complete(node)
    cluster.notify(node)
    assert len(node.applying) == 4, "no more runs under way than that"
    cluster.restart_applier(node)
    assert not node.applying, "nothing is handed on before it has said what it holds"
    cluster.settle()
    assert len(node.applied) == 10


def test_at_a_start_the_latest_members_in_the_log_are_in_force_however_long_its_tail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("zraft.raft.log.MAX_RUN_BYTES", 1)
    cluster = Cluster(3)
    cluster.write_log("n1", [1, 1, 1], term=1)
    node = cluster["n1"]
    fewer = node.founding._replace(cluster_id=7, voters={name: node.founding.voters[name] for name in ("n1", "n2")})
    node.disk.entries[2] = Entry(1, 10, EntryKind.CONFIG, fewer.encode())
    node.begin()
    assert list(node.raft.membership.voters) == ["n1", "n2"]


def test_5_5_a_follower_that_crashed_after_writing_and_before_answering_ignores_what_it_has() -> None:
    cluster = led()
    cluster.propose(cluster["n1"], b"x")
    cluster.deliver(next(p for p in cluster.network if p.receiver == "n2"))
    node = cluster["n2"]
    cluster.stop(node, written=1)
    cluster.start(node)
    cluster.run(300)
    assert node.disk.entries == cluster["n1"].disk.entries and node.raft.log.last_index == 2


def test_the_logs_clock_never_goes_back_and_stands_still_without_a_leader() -> None:
    cluster = led()
    cluster.propose(cluster["n1"], b"a")
    cluster.run(500)
    cluster.propose(cluster["n1"], b"b")
    cluster.settle()
    first, second = (cluster["n1"].entry(index).time_ms for index in (2, 3))
    assert second - first == 500
    for name in cluster.nodes:
        cluster.stop(cluster[name])
    cluster.now_ms += 3_600_000
    for name in cluster.nodes:
        cluster.start(cluster[name])
    leader = cluster.elect("n2")
    assert leader.entry(4).time_ms == second


def test_a_leader_takes_no_commands_while_its_memory_is_full(monkeypatch: pytest.MonkeyPatch) -> None:
    cluster = led()
    cluster["n1"].disk.stalled = True
    monkeypatch.setattr("zraft.raft.raft.MAX_TAIL_BYTES", 1_000)
    while cluster.propose(cluster["n1"], bytes(200)):
        pass
    assert cluster["n1"].raft.log.last_index < 10
    cluster["n1"].disk.stalled = False


def test_a_follower_whose_memory_is_full_takes_no_more_and_still_answers_heartbeats(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = led()
    monkeypatch.setattr("zraft.raft.replication.MAX_TAIL_BYTES", 100)
    before = cluster["n2"].raft.log.last_index
    entry = log_of_terms([1, 1], cluster["n1"].founding)[1]
    cluster.deliver(Packet("n1", "n2", AppendEntries(1, 1, 1, 1, (entry,))))
    assert cluster["n2"].raft.log.last_index == before and not cluster.network
    cluster.deliver(Packet("n1", "n2", Heartbeat(1, 1, 0)))
    assert cluster.network
