"""The scenario files tell what happens, line by line, and each can fail: a fitting mistake changes what it tells.

`ZRAFT_REWRITE_SCENARIOS=1` rewrites what the files expect; `git diff` then shows what changed."""

from __future__ import annotations

import os
import re
from difflib import unified_diff
from pathlib import Path
from typing import Any

import pytest
from scenario import Script, ScriptError, run_scenario

from zraft.raft.election import Elections
from zraft.raft.log import RaftLog
from zraft.raft.progress import Progress, ProgressState
from zraft.raft.raft import Raft
from zraft.raft.reconfiguration import Reconfiguration
from zraft.raft.replication import Replication
from zraft.raft.snapshots import Snapshots
from zraft.raft.state import State
from zraft.sim.mutants import planted

FOLDER = Path(__file__).parent / "scenarios"
FILES = sorted(FOLDER.glob("*.txt"))
TESTING = Path(__file__).resolve().parents[2] / "docs" / "TESTING.md"

MUTANTS = {
    "commit-old-term": "figure_8_overwritten",
    "read-before-noop": "read_index_needs_no_op",
    "read-without-round": "read_index_deposed_leader",
    "any-round-acks": "read_index",
    "join-running-round": "read_index",
    "minority-commits": "campaign",
    "double-counted-votes": "double_vote_reply",
    "truncate-always": "late_append_removes_nothing",
    "aba-ack": "async_storage_writes_append_aba_race",
    "ack-before-durable": "async_storage_writes",
    "vote-before-durable": "vote",
    "candidacy-before-durable": "single_node",
    "leader-counts-unsynced": "single_node",
    "apply-undurable": "async_storage_writes_apply_nonlocally_committed",
    "commit-past-append": "lagging_commit",
    "no-check-quorum": "checkquorum",
    "no-stickiness": "prevote_checkquorum",
    "leads-on-stalled-disk": "stalled_disk",
    "no-pre-vote": "prevote",
    "wiped-takes-part": "wiped_disk",
    "first-election-by-majority": "first_election_is_unanimous",
    "writes-not-repeated": "log_writer_dies",
    "two-changes-at-once": "confchange_disable_validation",
    "members-outlive-truncation": "confchange_disable_validation",
    "snapshot-without-members": "snapshot_names_members",
    "members-when-committed": "joint_consensus_next_leader",
    "without-joint": "confchange_v2_add_double_implicit",
    "joint-by-new-voters": "joint_consensus_next_leader",
    "joint-by-old-voters": "confchange_v1_remove_leader",
    "learners-counted": "learner_promotion",
    "removed-leader-counts-itself": "removed_leader_is_needed",
    "former-life-acks": "added_again",
    "removed-campaigns": "confchange_v2_replace_leader",
    "removed-leader-leads-on": "confchange_v2_replace_leader",
    "silent-learner": "learner_votes",
    "promotes-at-once": "learner_promotion",
}

# Of the scenarios that no mutant is made for: what else can be wrong there.
MISTAKES: dict[str, tuple[type, str, Any]] = {
    "candidate_waits_for_its_disk": (State, "hard_state_durable", property(lambda self: True)),
    "figure_7": (RaftLog, "first_index_of_run", lambda self, index: index),
    "figure_8_committed": (Replication, "maybe_commit", lambda self: None),
    "full_disk": (Raft, "on_disk_full", lambda self, full: None),
    "heartbeat_resp_recovers_from_probing": (Progress, "retry_if_overdue", lambda self, now_ms, heartbeat_ms: None),
    "leadership_transfer": (
        Elections,
        "maybe_send_timeout_now",
        lambda self: self.give_up_leadership("at once") if self.transferee else None,
    ),
    "leadership_transfer_aborted": (Elections, "reachability", lambda self, peer: (True, 0)),
    "message_loss_and_reorder": (RaftLog, "has", lambda self, index, term: True),
    "one_way_link": (Elections, "check_quorum", lambda self: None),
    "partial_partition": (Elections, "is_sticky", lambda self: False),
    "probe_and_replicate": (Progress, "probe", lambda self: None),
    "removed_node_is_told": (Reconfiguration, "tell_if_removed", lambda self, candidate, request: False),
    "replicate_after_snapshot": (
        Snapshots,
        "compact",
        lambda self: self.log.compact(self.snapshot.older_index) if self.snapshot.older_index > 4 else None,
    ),
    "replicate_pause": (Progress, "may_send", lambda self: not self.probe_sent),
    "slow_follower": (Replication, "on_log_read", lambda self, reader, first, entries: None),
    "slow_follower_after_compaction": (Snapshots, "compact", lambda self: None),
    "snapshot_and_recovery": (State, "adopt_snapshot", lambda self: None),
    "snapshot_ignored": (
        Snapshots,
        "on_install_snapshot",
        lambda self, leader, message: self.output.snapshot_pieces.append((leader, message)),
    ),
    "snapshot_pieces_lost": (Progress, "snapshot_taken", lambda self, offset, now_ms: None),
    "snapshot_succeed_via_app_resp": (
        Progress,
        "matched",
        lambda self, index, now_ms, matched=Progress.matched: (
            None if self.state is ProgressState.SNAPSHOT else matched(self, index, now_ms)
        ),
    ),
    "split_vote": (State, "arm_election", lambda self: setattr(self, "election_deadline_ms", self.now_ms + 300)),
    "vote_for_the_better_log": (RaftLog, "last_term", property(lambda self: 1)),
}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_scenario(file: Path) -> None:
    expected = file.read_text()
    found = run_scenario(expected)
    if os.environ.get("ZRAFT_REWRITE_SCENARIOS"):
        file.write_text(found)
    elif found != expected:
        diff = unified_diff(expected.splitlines(), found.splitlines(), "expected", "happened", lineterm="")
        pytest.fail("\n".join([f"{file.name} tells something else now:", *diff]), pytrace=False)


def tells_the_same(name: str) -> bool:
    """Without the harness's invariants: the transcript alone has to show it, or the script cannot go on."""
    text = (FOLDER / f"{name}.txt").read_text()
    try:
        return run_scenario(text, check=False) == text
    except (ScriptError, AssertionError):
        return False


@pytest.mark.parametrize(("mutant", "scenario"), MUTANTS.items())
def test_a_mutant_changes_the_scenario(mutant: str, scenario: str) -> None:
    assert tells_the_same(scenario)
    with planted(mutant):
        assert not tells_the_same(scenario)


@pytest.mark.parametrize("scenario", MISTAKES)
def test_a_mistake_changes_the_scenario(scenario: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert tells_the_same(scenario)
    monkeypatch.setattr(*MISTAKES[scenario])
    assert not tells_the_same(scenario)


def test_every_scenario_has_a_mistake_that_changes_it() -> None:
    assert {file.stem for file in FILES} == {*MUTANTS.values(), *MISTAKES}


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_a_scenario_begins_with_what_it_shows_and_why(file: Path) -> None:
    introduction = file.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in introduction.splitlines())
    words = introduction.replace("\n# ", " ")
    assert re.search(r"traps? \d|paper|dissertation \d|DESIGN section \d", words, re.IGNORECASE), "it names no source"


def test_every_verb_is_in_the_document() -> None:
    documented = set(re.findall(r"^ {4}(?:quiet )?([a-z-]+)", TESTING.read_text().split("### Verbs")[1], re.MULTILINE))
    verbs = {name.removeprefix("do_").replace("_", "-") for name in vars(Script) if name.startswith("do_")}
    assert verbs <= documented, verbs - documented


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("campaign n1\n----\n", "a script begins with `nodes n1 n2 ...`"),
        ("nodes n1 n2\nfly n1\n----\n", "line 2, 'fly n1': there is no such verb"),
        ("nodes n1 n2\ncampaign n3\n----\n", "there is no node n3"),
        ("nodes n1 n2\ncampaign\n----\n", "wrong number of arguments"),
        ("nodes n1 n2\ndeliver n1 n2\n----\n", "no such message is under way"),
        ("nodes n1 n2\ndisk n1\n----\n", "0 writes are queued"),
        ("nodes n1 n2\nadvance 10\n----\n", "times end in ms"),
        ("nodes n1 n2\ntimeout n1 20ms\n----\n", "election timeouts are 150 to 300 ms"),
        ("nodes n1 n2\nlose n1 n2 Append\n----\n", "there is no kind of message Append"),
        (
            "nodes n1 n2\nlimit speed 3\n----\n",
            "there is no limit speed, only inflight, run-bytes, piece-bytes, window-bytes",
        ),
        ("nodes n1 n2\ncampaign n1\n", "the last commands have no ----"),
    ],
)
def test_a_script_that_is_wrong_is_refused_in_words(text: str, complaint: str) -> None:
    with pytest.raises(ScriptError, match=re.escape(complaint)):
        run_scenario(text)
