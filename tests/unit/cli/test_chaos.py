"""zraft-chaos kill-actor: whom it asks, what it waits for, and how it refuses."""

from __future__ import annotations

import re
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_client import FakeClient, silent

from zraft.cli.chaos import cli
from zraft.errors import InvalidRequest, OutcomeUnknown


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, arguments, prog_name="zraft-chaos")


@pytest.fixture
def killing(client: type[FakeClient]) -> type[FakeClient]:
    """A cluster whose actor comes back with the next incarnation, the second time that one looks."""
    looks: list[int] = []

    def status(self: FakeClient) -> list[dict[str, Any]]:
        if self.faults:
            looks.append(1)
        if len(looks) == 2:
            client.reports[1]["actors"]["consensus"]["incarnation"] = 2
        return FakeClient.status(self)

    client.status = status  # type: ignore[method-assign]
    return client


def test_it_tells_the_node_and_waits_for_the_next_incarnation(killing: type[FakeClient]) -> None:
    result = run("kill-actor", "n2", "consensus")
    assert result.exit_code == 0
    assert re.fullmatch(r"killed consensus of n2; it was back after \d+ ms \(incarnation 1 -> 2\)\n", result.stdout), (
        result.stdout
    )
    fault = {"op": "kill-actor", "actor": "consensus", "boundary": 0}
    assert killing.faults == [("tcp://127.0.0.1:7102", fault)]


def test_mid_handler(killing: type[FakeClient]) -> None:
    assert run("kill-actor", "n2", "consensus", "--mid-handler").exit_code == 0
    assert killing.faults[0][1]["boundary"] == 1


def test_an_answer_that_died_with_the_actor_is_no_failure(killing: type[FakeClient]) -> None:
    killing.error = OutcomeUnknown("no answer")
    assert run("kill-actor", "n2", "consensus").exit_code == 0


def test_an_actor_that_does_not_come_back(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zraft.cli.chaos.RETURN_SECONDS", 0.05)
    result = run("kill-actor", "n2", "consensus")
    assert (result.exit_code, result.stdout) == (3, "")
    assert result.stderr == "zraft-chaos: consensus of n2 is not back after 0 s\n"


def test_a_node_that_takes_no_faults(client: type[FakeClient]) -> None:
    client.error = InvalidRequest("n2 takes no faults: its configuration does not say `chaos: true`")
    result = run("kill-actor", "n2", "consensus")
    assert result.exit_code == 1
    assert result.stderr == "zraft-chaos: n2 takes no faults: its configuration does not say `chaos: true`\n"


def test_nodes_and_actors_that_are_not_there(client: type[FakeClient]) -> None:
    result = run("kill-actor", "n9", "consensus")
    assert (result.exit_code, result.stderr) == (1, "zraft-chaos: there is no node 'n9'; there are: n1, n2\n")
    result = run("kill-actor", "n2", "json_gateway")
    assert (result.exit_code, result.stderr) == (
        1,
        "zraft-chaos: n2 does not run json_gateway; its actors: consensus\n",
    )
    client.reports[0] = silent(1)
    result = run("kill-actor", "n1", "consensus")
    assert (result.exit_code, result.stderr) == (3, "zraft-chaos: n1 does not answer; nodes that do: n2\n")
    assert client.faults == []


def test_an_unknown_actor_is_a_usage_error(client: type[FakeClient]) -> None:
    result = run("kill-actor", "n1", "consesus")
    assert result.exit_code == 2
    assert "election_timer" in result.stderr
    assert client.made_with == []
