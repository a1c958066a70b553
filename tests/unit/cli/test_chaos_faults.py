"""The commands that put faults in force: what each tells which node, on top of what, and what it says."""

from __future__ import annotations

import json
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from fake_client import FakeClient, member, report, silent

from zraft.cli import chaos_faults, chaos_processes
from zraft.cli.chaos import cli, kill_actor_command
from zraft.cli.chaos_faults import parse_groups
from zraft.errors import InvalidRequest, OutcomeUnknown

CUT = {"drop": 1}
BOTH = {"in": CUT, "out": CUT}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="zraft-chaos")


@pytest.fixture
def three(client: type[FakeClient]) -> type[FakeClient]:
    """Three nodes, n1 leading."""
    members = [member(number) for number in (1, 2, 3)]
    client.reports = [report(f"n{number}", number, members=members) for number in (1, 2, 3)]
    return client


def told(client: type[FakeClient]) -> dict[str, Any]:
    """The last fault that each node was told."""
    names = {one["endpoint"]: f"n{one['endpoint'][-1]}" for one in client.reports}
    return {names[endpoint]: fault for endpoint, fault in client.faults}


def links(client: type[FakeClient]) -> dict[str, Any]:
    found = told(client)
    assert all(fault["op"] == "links" for fault in found.values())
    return {name: fault["rules"] for name, fault in found.items()}


# ---- partition -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["n1 | n2,n3", "n1/n2,n3", "n1 / n2, n3", " n1|n2 n3 ", "n1 /n2 ,n3"], ids=lambda text: text.strip()
)
def test_groups(text: str) -> None:
    assert parse_groups(text) == [["n1"], ["n2", "n3"]]
    assert parse_groups(f"{text} / n4") == [["n1"], ["n2", "n3"], ["n4"]]


@pytest.mark.parametrize("text", ["n1", "n1,n2", "n1 /", "/ n1", "n1 | | n2", "n1 / n1", "n1 / n2,n2", ""])
def test_what_is_no_partition(text: str) -> None:
    with pytest.raises(click.UsageError):
        parse_groups(text)


@pytest.mark.parametrize("words", [["n1", "/", "n2,n3"], ["n1 | n2,n3"], ["n1", "|", "n2,", "n3"]])
def test_partition(three: type[FakeClient], words: list[str]) -> None:
    result = run("partition", *words)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout == "no link between n1 and n2,n3 works; take it back: zraft-chaos heal\n"
    assert links(three) == {"n1": {"n2": BOTH, "n3": BOTH}, "n2": {"n1": BOTH}, "n3": {"n1": BOTH}}


def test_a_partition_of_some_leaves_the_others_alone(three: type[FakeClient]) -> None:
    assert run("partition", "n1/n2").exit_code == 0
    assert links(three) == {"n1": {"n2": BOTH}, "n2": {"n1": BOTH}}


def test_what_the_shell_makes_of_a_bar_is_explained(client: type[FakeClient]) -> None:
    result = run("partition", "n1")
    assert result.exit_code == 2
    assert "has to be quoted" in result.stderr
    assert client.made_with == []


# ---- the others ----------------------------------------------------------------------------------------------------


def test_isolate(three: type[FakeClient]) -> None:
    assert run("isolate", "n2").stdout == "no link of n2 works; take it back: zraft-chaos heal n2\n"
    assert links(three) == {"n2": {"*": BOTH}}


def test_one_way(three: type[FakeClient]) -> None:
    assert run("one-way", "n1", "n3").stdout == "what n1 sends to n3 is lost; take it back: zraft-chaos heal n1\n"
    assert links(three) == {"n1": {"n3": {"out": CUT}}}
    assert run("one-way", "n1", "n1").exit_code == 2
    result = run("one-way", "n1", "n9")
    assert (result.exit_code, result.stderr) == (1, "zraft-chaos: there is no node 'n9'; there are: n1, n2, n3\n")


def test_what_is_sent_to_a_node_that_is_down_can_be_cut(three: type[FakeClient]) -> None:
    three.reports[2] = silent(3)
    assert run("one-way", "n1", "n3").exit_code == 0


def test_delay(three: type[FakeClient]) -> None:
    result = run("delay", "n1", "30", "--jitter", "40")
    assert result.stdout == "the links of n1 take 0 to 70 ms longer, each way; take it back: zraft-chaos heal n1\n"
    assert links(three) == {"n1": {"*": {"in": {"delay_ms": [0, 70]}, "out": {"delay_ms": [0, 70]}}}}


def test_delay_of_all_is_once_on_each_link(three: type[FakeClient]) -> None:
    result = run("delay", "all", "30")
    assert result.stdout == "all links take 30 ms longer, each way; take it back: zraft-chaos heal\n"
    assert links(three) == dict.fromkeys(("n1", "n2", "n3"), {"*": {"out": {"delay_ms": [30, 30]}}})


def test_drop(three: type[FakeClient]) -> None:
    result = run("drop", "n1", "20")
    assert result.stdout == ("the links of n1 lose 20 % of the messages, each way; take it back: zraft-chaos heal n1\n")
    assert links(three) == {"n1": {"*": {"in": {"drop": 0.2}, "out": {"drop": 0.2}}}}
    assert run("drop", "all", "2.5").stdout.startswith("all links lose 2.5 %")
    assert told(three)["n3"]["rules"] == {"*": {"out": {"drop": 0.025}}}


def test_disks(three: type[FakeClient]) -> None:
    assert run("slow-disk", "n1", "50").stdout == (
        "each write and fsync of n1 takes 50 ms longer; take it back: zraft-chaos heal n1\n"
    )
    assert told(three) == {"n1": {"op": "disk", "slow_ms": [50, 50]}}
    assert run("full-disk", "n2").stdout == "the disk of n2 is full; take it back: zraft-chaos heal n2\n"
    assert told(three)["n2"] == {"op": "disk", "full": True}
    assert run("fail-fsync", "n3").stdout == (
        "n3 stops at its next fsync, which fails; before that, take it back: zraft-chaos heal n3; "
        "after it, start it again\n"
    )
    assert told(three)["n3"] == {"op": "disk", "fail_sync": True}


@pytest.mark.parametrize(
    "words",
    [
        ["delay", "n1", "-1"],
        ["delay", "n1", "60001"],
        ["delay", "n1", "nan"],
        ["delay", "n1", "59999", "--jitter", "2"],
        ["delay", "n1", "5", "--jitter", "inf"],
        ["delay", "n1", "much"],
        ["drop", "n1", "101"],
        ["drop", "n1", "NaN"],
        ["drop", "n1"],
        ["slow-disk", "n1", "inf"],
        ["pause", "n1"],
        ["pause", "n1", "--for", "0"],
        ["pause", "n1", "--for", "nan"],
    ],
    ids=" ".join,
)
def test_numbers_out_of_range_are_usage_errors(client: type[FakeClient], words: list[str]) -> None:
    result = run(words[0], "--", *words[1:]) if "-1" in words else run(*words)
    assert result.exit_code == 2, result.output
    assert client.made_with == []


# ---- combining -----------------------------------------------------------------------------------------------------


def test_what_is_in_force_stays_in_force(three: type[FakeClient]) -> None:
    three.reports[0]["faults"] = {"links": {"n2": BOTH}, "disk": {"full": True}}
    run("delay", "n1", "30")
    late = {"delay_ms": [30, 30]}
    assert links(three) == {
        "n1": {"n2": {"in": {**CUT, **late}, "out": {**CUT, **late}}, "*": {"in": late, "out": late}}
    }
    run("slow-disk", "n1", "5")
    assert told(three) == {"n1": {"op": "disk", "full": True, "slow_ms": [5, 5]}}


def test_a_number_of_zero_takes_its_own_back(three: type[FakeClient]) -> None:
    three.reports[0]["faults"] = {"links": {"*": {"in": {"drop": 0.5, "delay_ms": [5, 5]}}}, "disk": {"full": True}}
    assert run("delay", "n1", "0").stdout == "the links of n1 take no longer than usual\n"
    assert links(three)["n1"]["*"]["in"] == {"drop": 0.5, "delay_ms": [0, 0]}
    assert run("drop", "n1", "0").stdout == "the links of n1 lose nothing, unless they are cut\n"
    assert run("slow-disk", "n1", "0").stdout == "writes and fsyncs of n1 take no longer than usual\n"
    assert told(three)["n1"] == {"op": "disk", "full": True, "slow_ms": [0, 0]}


# ---- who answers ---------------------------------------------------------------------------------------------------


def test_members_that_no_endpoint_names_are_asked_too(three: type[FakeClient]) -> None:
    assert run("-e", "tcp://127.0.0.1:7101", "isolate", "n3").exit_code == 0
    assert links(three) == {"n3": {"*": BOTH}}


@pytest.mark.parametrize("words", [["partition", "n1 / n2,n3"], ["delay", "all", "5"], ["full-disk", "n3"]])
def test_where_one_is_silent_nothing_is_done(three: type[FakeClient], words: list[str]) -> None:
    three.reports[2] = silent(3)
    result = run(*words)
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "zraft-chaos: n3 does not answer; nodes that do: n1, n2\n"
    assert three.faults == []


def test_nobody_answers(three: type[FakeClient]) -> None:
    three.reports = [silent(number) for number in (1, 2, 3)]
    for words in (["heal"], ["faults"], ["isolate", "n1"], ["kill-node", "n1"]):
        result = run(*words)
        assert result.exit_code == 3
        assert "no node answers" in result.stderr


def test_a_refusal_ends_with_status_1(three: type[FakeClient]) -> None:
    three.error = InvalidRequest("n1 accepts no injected faults: its config does not say 'chaos: true'")
    result = run("isolate", "n1")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == "zraft-chaos: n1 accepts no injected faults: its config does not say 'chaos: true'\n"


def test_who_has_done_it_already_is_said(three: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    def inject_fault(self: FakeClient, endpoint: str, fault: dict[str, Any], *, timeout: float | None = None) -> None:
        if endpoint.endswith("3"):
            raise OutcomeUnknown("n3 died")

    monkeypatch.setattr(three, "inject_fault", inject_fault)
    monkeypatch.setattr("zraft.chaos.inject.send.__defaults__", (0.0,))
    result = run("partition", "n1 / n2,n3")
    assert (result.exit_code, result.stderr) == (3, "zraft-chaos: n3 died (n1, n2: done already)\n")


# ---- heal, faults --------------------------------------------------------------------------------------------------


def test_heal_tells_those_that_have_faults(three: type[FakeClient]) -> None:
    assert run("heal").stdout == "no faults were in force\n"
    assert three.faults == []
    three.reports[0]["faults"] = {"disk": {"full": True}}
    three.reports[2]["faults"] = {"links": {"*": BOTH}}
    assert run("heal").stdout == "healed n1, n3\n"
    assert told(three) == {"n1": {"op": "heal"}, "n3": {"op": "heal"}}
    three.faults.clear()
    assert run("heal", "n3").stdout == "healed n3\n"
    assert told(three) == {"n3": {"op": "heal"}}


def test_heal_heals_whom_it_reaches(three: type[FakeClient]) -> None:
    three.reports[0]["faults"] = {"disk": {"full": True}}
    three.reports[2] = silent(3)
    result = run("heal")
    assert (result.exit_code, result.stdout) == (3, "healed n1\n")
    assert result.stderr == "zraft-chaos: n3: no answer, so faults there stay in force\n"


IN_FORCE = {
    "links": {"n2": {"in": CUT, "out": {"drop": 0.25, "delay_ms": [10, 30]}}, "*": {"out": {"delay_ms": [5, 5]}}},
    "disk": {"slow_ms": [50, 50], "full": True, "fail_sync": True},
}


def test_faults_are_shown(three: type[FakeClient]) -> None:
    assert run("faults").stdout == "no faults in force\n"
    three.reports[0]["faults"] = IN_FORCE
    three.reports[1]["faults"] = {"links": {"*": BOTH}}
    rows = [line.split("\t") for line in run("faults").stdout.splitlines()]
    assert rows == [
        ["NODE", "WHERE", "FAULT"],
        ["n1", "to other peers", "5 ms later"],
        ["n1", "to n2", "25 % lost, 10 to 30 ms later"],
        ["n1", "from n2", "cut"],
        ["n1", "disk", "50 ms slower, full, next fsync fails"],
        ["n2", "to all peers", "cut"],
        ["n2", "from all peers", "cut"],
    ]


@pytest.mark.parametrize("words", [["--json"], ["-o", "json"]])
def test_faults_as_json(three: type[FakeClient], words: list[str]) -> None:
    three.reports[0]["faults"] = IN_FORCE
    three.reports[2] = silent(3)
    result = run("faults", *words)
    assert json.loads(result.stdout) == {"n1": IN_FORCE, "n2": {}, "n3": None}
    assert (result.exit_code, result.stderr) == (3, "zraft-chaos: n3: no answer\n")


def test_every_command_has_an_example() -> None:
    for command in (*chaos_faults.COMMANDS, *chaos_processes.COMMANDS, kill_actor_command):
        assert f"Example: zraft-chaos {command.name}" in (command.help or ""), command.name
