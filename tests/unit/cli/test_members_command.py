"""zraft-cli members: the list, and changes that are begun, watched, and told in words when they come to nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest
from click.testing import CliRunner
from fake_client import FakeClient, member, report, silent
from test_main import outcome, run

from zraft.cli import members as module
from zraft.cli.main import cli
from zraft.errors import InvalidRequest, OutcomeUnknown, Unavailable

ADD = ("members", "add", "n4", "--peer", "tcp://127.0.0.1:7204", "--client", "tcp://127.0.0.1:7104")
TARGET = ["n1", "n2", "n4"]


@pytest.fixture(autouse=True)
def _client(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    """Every test here has the fake client, and does not wait between two looks."""
    monkeypatch.setattr(module, "POLL_SECONDS", 0.0)


def view(*members: dict[str, Any], target: list[str] | None = None, joint: bool = False, **more: Any) -> list[Any]:
    """What a leader n1 says, which knows of log entry 20, where every change here begins."""
    change = {"target": target, "joint": joint} if target else None
    fields = {"role": "leader", "commit_index": 20, "last_index": 100, "change": change, "members_index": 20, **more}
    return [report("n1", 1, members=list(members), **fields)]


def one(number: int, role: str = "voter", **more: Any) -> dict[str, Any]:
    return {**member(number), "role": role, **more}


TWO = (one(1), one(2))


def test_members_list(client: type[FakeClient]) -> None:
    expected = (
        "ID\tROLE\tPEER\tCLIENT\tMATCH\n"
        "n1\tleader\ttcp://127.0.0.1:7201\ttcp://127.0.0.1:7101\t-\n"
        "n2\tvoter\ttcp://127.0.0.1:7202\ttcp://127.0.0.1:7102\t-\n"
    )
    assert outcome(run("members", "list")) == (0, expected, "")
    members = json.loads(run("-o", "json", "members", "list").stdout)
    assert members[1] == {
        "id": "n2",
        "role": "voter",
        "peer": "tcp://127.0.0.1:7202",
        "client": "tcp://127.0.0.1:7102",
    }


def test_members_list_believes_the_leader_of_the_latest_term(client: type[FakeClient]) -> None:
    client.reports[:] = [
        report("n1", 1, role="leader", members=[member(1)]),
        report("n2", 2, role="leader", term=4, leader="n2"),
        report("n3", 3, term=9, leader=None, members=[]),
    ]
    members = json.loads(run("-o", "json", "members", "list").stdout)
    assert [(one["id"], one["role"]) for one in members] == [("n1", "voter"), ("n2", "leader")]


def test_members_list_without_a_leader_believes_who_is_furthest(client: type[FakeClient]) -> None:
    furthest = report("n3", 3, leader=None, term=4, members=[member(3)])
    client.reports[:] = [silent(1), report("n2", 2, leader=None), furthest]
    assert [one["id"] for one in json.loads(run("-o", "json", "members", "list").stdout)] == ["n3"]
    client.reports[:] = [silent(1)]
    assert run("members", "list").exit_code == 3


def test_members_list_of_nodes_that_still_read_their_log(client: type[FakeClient]) -> None:
    client.reports[:] = [{"node": "n1", "role": "recovering", "pid": 5, "endpoint": "tcp://127.0.0.1:7101"}]
    result = run("members", "list")
    assert (result.exit_code, result.stderr) == (3, "zraft-cli: no node that answers knows the members yet\n")
    assert run("status").stdout.splitlines()[1].split("\t")[:3] == ["n1", "recovering", "-"]


def test_members_list_tells_of_a_change_and_of_those_who_are_silent(client: type[FakeClient]) -> None:
    client.reports[:] = view(
        one(1, active=True, match_index=100),
        one(2, outgoing=True, active=False, match_index=7),
        one(4, "learner", active=True, match_index=50),
        target=["n1", "n4"],
    )
    status, stdout, stderr = outcome(run("members", "list"))
    assert (status, stderr) == (0, "a change is under way, to voters n1, n4\n")
    rows = [line.split("\t") for line in stdout.splitlines()[1:]]
    assert [(row[0], row[1], row[4]) for row in rows] == [
        ("n1", "leader", "100"),
        ("n2", "voter, leaves, silent", "7"),
        ("n4", "learner", "50"),
    ]


def test_status_asks_all_members_unless_endpoints_are_given(client: type[FakeClient]) -> None:
    run("status")
    run("-e", "tcp://127.0.0.1:7101", "status")
    run("-e", "tcp://127.0.0.1:7101", "members", "list")
    assert client.asked_all == [True, False, True]


# ---- changes -----------------------------------------------------------------------------------------------------


def test_a_node_is_added_and_watched_until_it_votes(client: type[FakeClient]) -> None:
    client.script += [
        view(*TWO, commit_index=19),  # a leader that does not know of the change yet
        view(*TWO, one(4, "learner", match_index=0), target=TARGET),
        view(*TWO, one(4, "learner", match_index=50), target=TARGET),
        [silent(1)],
        view(*TWO, one(4), target=TARGET, joint=True),
        view(*TWO, one(4)),
    ]
    status, stdout, stderr = outcome(run(*ADD))
    assert (status, stdout) == (0, "n4 is a voting member\n")
    assert stderr == "n4: catching up with 100 log entries\nswitching to voters n1, n2, n4\n"
    assert client.changes == [("add", "n4", "tcp://127.0.0.1:7204", "tcp://127.0.0.1:7104", False)]
    assert client.script == []


def test_a_learner_is_added(client: type[FakeClient]) -> None:
    client.reports[:] = view(*TWO, one(4, "learner"))
    assert outcome(run(*ADD, "--learner")) == (0, "n4 is a learner\n", "")
    assert client.changes[0][-1] is True


def test_a_member_is_removed(client: type[FakeClient]) -> None:
    client.script += [view(*TWO, target=["n1"]), view(one(1), one(2, outgoing=True), target=["n1"], joint=True)]
    client.script += [view(one(1))]
    assert outcome(run("members", "remove", "n2"))[:2] == (0, "n2 is no member any more\n")
    assert client.changes == [("remove", "n2")] and client.script == []


def test_a_learner_is_promoted(client: type[FakeClient]) -> None:
    client.script += [view(one(1), one(2, "learner", match_index=3), target=["n1", "n2"]), view(*TWO)]
    assert outcome(run("members", "promote", "n2"))[:2] == (0, "n2 is a voting member\n")
    assert client.changes == [("promote", "n2")]


def test_any_set_of_voters_in_one_step(client: type[FakeClient]) -> None:
    client.script += [view(*TWO, one(3), target=["n1", "n3"]), view(one(1), one(3))]
    new = ("--node", "n3", "tcp://127.0.0.1:7203", "tcp://127.0.0.1:7103")
    assert outcome(run("members", "set", "n1,n3", *new))[:2] == (0, "the voting members are n1, n3\n")
    addresses = {"n3": {"peer": "tcp://127.0.0.1:7203", "client": "tcp://127.0.0.1:7103"}}
    assert client.changes == [("set", ("n1", "n3"), addresses)]


def test_as_json(client: type[FakeClient]) -> None:
    client.reports[:] = view(one(1), one(3))
    answer = json.loads(run("-o", "json", "members", "remove", "n2").stdout)
    assert answer == {"index": 20, "members": [{**one(1), "role": "leader"}, one(3)]}


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (InvalidRequest("members add: n4 is a member already"), 1, "members add: n4 is a member already"),
        (Unavailable("members add: it was surely not applied"), 3, "members add: it was surely not applied"),
        (OutcomeUnknown("members add: lost"), 3, "unknown outcome: members add: lost"),
    ],
)
def test_what_is_not_granted_is_told_in_one_line(
    client: type[FakeClient], error: Exception, status: int, words: str
) -> None:
    client.error = error
    assert outcome(run(*ADD)) == (status, "", f"zraft-cli: {words}\n")
    assert client.asked_all == [], "there is nothing to watch"


@pytest.mark.parametrize(
    "arguments",
    [
        ("members", "add", "n4"),
        ("members", "add", "n4", "--peer", "tcp://127.0.0.1:7204"),
        ("members", "add", "n 4", "--peer", "tcp://127.0.0.1:7204", "--client", "tcp://127.0.0.1:7104"),
        ("members", "add", "n4", "--peer", "127.0.0.1:7204", "--client", "tcp://127.0.0.1:7104"),
        ("members", "add", "n4", "--peer", "tcp://127.0.0.1:7204", "--client", "tcp://*:7104"),
        ("members", "remove"),
        ("members", "remove", "-"),
        ("members", "set", ""),
        ("members", "set", "n1,,n2"),
        ("members", "set", "n1", "--node", "n2", "x", "y"),
    ],
)
def test_slips_of_the_keyboard_are_usage_errors(client: type[FakeClient], arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert result.exit_code == 2 and "Traceback" not in result.output
    assert client.changes == []


def test_without_progress_it_gives_up_after_the_timeout_and_says_what_to_do(client: type[FakeClient]) -> None:
    client.reports[:] = view(*TWO, one(4, "learner", match_index=0, active=False), target=TARGET)
    status, _, stderr = outcome(run("--timeout", "0.05", *ADD))
    assert status == 3
    assert stderr.splitlines()[-1] == (
        "zraft-cli: nothing moved for 0.05 s: n4 does not answer the leader. The change waits for it; "
        "`members remove n4` cancels it"
    )
    client.reports[:] = view(one(1), one(2, active=False), target=["n2"])
    status, _, stderr = outcome(run("--timeout", "0.05", "members", "remove", "n1"))
    assert status == 3 and "n2 does not answer the leader. Start it, or give the change up: `members set`" in stderr
    client.reports[:] = [silent(1)]
    status, _, stderr = outcome(run("--timeout", "0.05", *ADD))
    assert status == 3 and "there is no leader that answers" in stderr


@pytest.mark.parametrize("sign", ["match", "snapshot", "load"])
def test_as_long_as_something_moves_it_waits(
    client: type[FakeClient], monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    monkeypatch.setattr(module, "POLL_SECONDS", 0.03)
    for step in range(10):
        match = step if sign == "match" else 0
        receiving = {"n1": {"index": 90, "bytes": step}} if sign == "snapshot" else {}
        joining = report(
            "n4", 4, role="learner", members=[], snapshots_unfinished=receiving, loading=step * (sign == "load")
        )
        client.script.append([*view(*TWO, one(4, "learner", match_index=match), target=TARGET), joining])
    client.script.append(view(*TWO, one(4)))
    assert run("--timeout", "0.1", *ADD).exit_code == 0


def test_who_joins_may_be_started_again_meanwhile(client: type[FakeClient]) -> None:
    starting = {"node": "n4", "role": "recovering", "pid": 5, "endpoint": "tcp://127.0.0.1:7104"}
    client.script += [[*view(*TWO, one(4, "learner"), target=TARGET), starting], view(*TWO, one(4))]
    assert outcome(run(*ADD))[:2] == (0, "n4 is a voting member\n")


def test_a_change_that_somebody_else_ended(client: type[FakeClient]) -> None:
    client.script += [view(*TWO, one(4, "learner"), target=TARGET), view(*TWO)]
    status, _, stderr = outcome(run(*ADD))
    assert (status, stderr.splitlines()[-1]) == (1, "zraft-cli: the change ended without that: n1 (voter), n2 (voter)")


def test_ctrl_c_leaves_the_change_going_on(client: type[FakeClient]) -> None:
    client.script += [view(*TWO, one(4, "learner"), target=TARGET), KeyboardInterrupt()]
    status, _, stderr = outcome(run(*ADD))
    assert status == 130
    assert stderr.splitlines()[-1] == (
        "zraft-cli: interrupted; the change goes on without this program: see `members list`"
    )
    client.error = KeyboardInterrupt()  # type: ignore[assignment]
    assert "the change may have begun: see `members list`" in run(*ADD).stderr


def test_on_a_terminal_there_is_a_bar(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_terminal", lambda: True)
    client.script += [
        view(*TWO, one(4, "learner", match_index=0), target=TARGET),
        view(*TWO, one(4, "learner", match_index=50), target=TARGET),
        view(*TWO, one(4)),
    ]
    shown = CliRunner().invoke(cli, ADD).stderr
    assert shown.split("\r")[1:] == [
        f"n4 [{'-' * 36}]   0%  0 of 100 entries",
        f"n4 [{'#' * 18}{'-' * 18}]  50%  50 of 100 entries",
        "",  # the line is cleared; click leaves the escapes for that to terminals
    ]
