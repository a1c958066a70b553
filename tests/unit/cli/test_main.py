"""zraft-cli: what each command prints, and with which status it ends."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fake_client import FakeClient, report, silent

from zraft import __version__
from zraft.cli.main import cli
from zraft.errors import InvalidRequest, OutcomeUnknown, Unavailable

LOOPBACK = ("tcp://127.0.0.1:7101", "tcp://127.0.0.1:7102", "tcp://127.0.0.1:7103")


def run(*arguments: str | bytes, stdin: bytes | None = None) -> Result:
    return CliRunner().invoke(cli, arguments, input=stdin, prog_name="zraft-cli")  # type: ignore[arg-type]


def outcome(result: Result) -> tuple[int, str, str]:
    return result.exit_code, result.stdout, result.stderr


@pytest.fixture(autouse=True)
def _client(client: type[FakeClient]) -> None:
    """Every test here has the fake client."""


def test_set_prints_the_revision(client: type[FakeClient]) -> None:
    assert outcome(run("set", "k", "v")) == (0, "7\n", "")
    assert client.data == {b"k": b"v"}
    assert outcome(run("-o", "json", "set", "k", "v")) == (0, '{"revision": 7}\n', "")


def test_set_dash_reads_every_byte_of_stdin(client: type[FakeClient]) -> None:
    assert run("set", "k", "-", stdin=b"\x00\xff\r\n\n").exit_code == 0
    assert client.data == {b"k": b"\x00\xff\r\n\n"}


def test_arguments_that_are_not_utf8_are_taken_as_they_are(client: type[FakeClient]) -> None:
    assert run("set", "k\udcff", "v\udcfe").exit_code == 0
    assert client.data == {b"k\xff": b"v\xfe"}


def test_a_value_that_begins_with_a_dash(client: type[FakeClient]) -> None:
    assert run("set", "k", "-5").exit_code == 2
    assert run("set", "--", "k", "-5").exit_code == 0
    assert client.data == {b"k": b"-5"}


def test_get_prints_the_value_alone_and_raw(client: type[FakeClient]) -> None:
    client.data[b"k"] = b"\xff\x1b"
    result = run("get", "k")
    assert (result.exit_code, result.stdout_bytes, result.stderr) == (0, b"\xff\x1b\n", "")


def test_get_of_an_absent_key() -> None:
    assert outcome(run("get", "k")) == (1, "", "zraft-cli: 'k' is absent\n")
    assert outcome(run("-o", "json", "get", "k"))[:2] == (1, "null\n")


def test_get_json_has_the_revisions(client: type[FakeClient]) -> None:
    client.data[b"k"] = "vä".encode()
    result = run("-o", "json", "get", "k")
    expected = {"key": "k", "value": "vä", "create_revision": 5, "mod_revision": 6, "version": 2}
    assert json.loads(result.stdout) == expected


def test_json_of_what_is_not_utf8(client: type[FakeClient]) -> None:
    client.data[b"k"] = b"\xff\xfe"
    assert json.loads(run("-o", "json", "get", "k").stdout)["value"] == {"base64": "//4="}


def test_delete(client: type[FakeClient]) -> None:
    client.data[b"k"] = b"v"
    assert outcome(run("delete", "k")) == (0, "deleted\n", "")
    assert client.data == {}
    assert outcome(run("delete", "k")) == (1, "", "zraft-cli: 'k' is absent\n")
    assert outcome(run("-o", "json", "delete", "k"))[:2] == (1, '{"deleted": false}\n')


def test_cas(client: type[FakeClient]) -> None:
    client.data[b"k"] = b"1"
    assert outcome(run("cas", "k", "1", "2")) == (0, "swapped\n", "")
    assert outcome(run("cas", "k", "1", "3")) == (1, "", "zraft-cli: not swapped: 'k' has another value or none\n")
    assert outcome(run("-o", "json", "cas", "k", "1", "3"))[:2] == (1, '{"swapped": false}\n')
    assert client.data == {b"k": b"2"}


def test_cas_absent(client: type[FakeClient]) -> None:
    assert outcome(run("cas", "--absent", "k", "1")) == (0, "swapped\n", "")
    assert outcome(run("cas", "--absent", "k", "2")) == (1, "", "zraft-cli: not swapped: 'k' has a value\n")
    assert client.data == {b"k": b"1"}


@pytest.mark.parametrize("arguments", [("k", "1"), ("k", "1", "2", "3"), ("--absent", "k", "1", "2"), ("k",)])
def test_cas_with_too_few_or_too_many_values(client: type[FakeClient], arguments: tuple[str, ...]) -> None:
    assert run("cas", *arguments).exit_code == 2
    assert client.data == {}


def test_range_prints_key_tab_value(client: type[FakeClient]) -> None:
    client.data.update({b"a/2": b"y", b"a/1": b"\xff", b"b": b"z"})
    result = run("range", "a/")
    assert (result.exit_code, result.stdout_bytes) == (0, b"a/1\t\xff\na/2\ty\n")
    assert [entry["key"] for entry in json.loads(run("-o", "json", "range", "").stdout)] == ["a/1", "a/2", "b"]
    assert outcome(run("range", "none")) == (0, "", "")


def test_status_plainly_is_one_line_a_node_with_tabs(client: type[FakeClient]) -> None:
    client.reports.append(silent(3))
    result = run("status")
    lines = [line.split("\t") for line in result.stdout.splitlines()]
    assert result.exit_code == 0
    assert lines[0] == ["NODE", "ROLE", "TERM", "LEADER", "COMMIT", "APPLIED", "LAST", "REVISION", "STATE", "PID"]
    assert lines[1] == ["n1", "leader", "3", "n1", "12", "12", "12", "7", "00ff00ff00ff00ff", "101"]
    assert lines[3] == ["tcp://127.0.0.1:7103", "no answer", *["-"] * 8]


def test_status_json_is_what_the_nodes_said(client: type[FakeClient]) -> None:
    client.reports.append(silent(3))
    status = json.loads(run("-o", "json", "status").stdout)
    assert status == client.reports
    assert (status[2]["node"], status[2]["error"]) == (None, "tcp://127.0.0.1:7103: no answer")


def test_status_of_nobody_ends_with_3_but_prints(client: type[FakeClient]) -> None:
    client.reports[:] = [silent(1), silent(2)]
    status, stdout, stderr = outcome(run("-o", "json", "status"))
    assert (status, len(json.loads(stdout))) == (3, 2)
    assert stderr == "zraft-cli: no node answers; are they running, and are these their endpoints?\n"


class Electing:
    """Makes a fake cluster's next status, after a transfer, show another leader."""

    def __init__(self, client: type[FakeClient], winner: str) -> None:
        def transfer(_self: FakeClient, to: str | None) -> None:
            client.transfers.append(to)
            client.reports[:] = [report("n1", 1), report("n2", 2)]
            for node in client.reports:
                node["term"] = 4
                node["role"] = "leader" if node["node"] == winner else "follower"

        client.transfer_leadership = transfer  # type: ignore[method-assign]


def test_leader_transfer_prints_who_leads_then(client: type[FakeClient]) -> None:
    Electing(client, "n2")
    assert outcome(run("leader", "transfer")) == (0, "n2 leads, term 4\n", "")
    assert client.transfers == [None]


def test_leader_transfer_to_a_node(client: type[FakeClient]) -> None:
    Electing(client, "n2")
    assert json.loads(run("-o", "json", "leader", "transfer", "n2").stdout) == {"leader": "n2", "term": 4}
    assert client.transfers == ["n2"]


def test_leader_transfer_to_the_leader_itself(client: type[FakeClient]) -> None:
    assert outcome(run("leader", "transfer", "n1")) == (1, "", "zraft-cli: n1 is the leader already\n")
    assert client.transfers == []


def test_leader_transfer_that_does_not_come_about(client: type[FakeClient]) -> None:
    words = "zraft-cli: the leader was asked to hand over, but {} in time\n"
    assert outcome(run("--timeout", "0.1", "leader", "transfer")) == (3, "", words.format("no other node leads"))
    Electing(client, "n1")
    assert outcome(run("--timeout", "0.1", "leader", "transfer", "n2")) == (3, "", words.format("n2 does not lead"))


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (Unavailable("no leader; surely not applied"), 3, "zraft-cli: no leader; surely not applied\n"),
        (OutcomeUnknown("no answer"), 3, "zraft-cli: unknown outcome: no answer\n"),
        (InvalidRequest("key too large"), 1, "zraft-cli: key too large\n"),
    ],
)
def test_how_a_failed_write_ends(client: type[FakeClient], error: Exception, status: int, words: str) -> None:
    client.error = error
    for command in (("set", "k", "v"), ("delete", "k"), ("cas", "k", "1", "2"), ("leader", "transfer")):
        assert outcome(run(*command)) == (status, "", words)


def test_what_the_real_client_says_when_nobody_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        options = ("-e", f"tcp://127.0.0.1:{free.getsockname()[1]}", "--timeout", "0.1")
        write, read, status = (run(*options, *command) for command in (("set", "k", "v"), ("get", "k"), ("status",)))
    assert (write.exit_code, write.stdout, write.stderr.count("\n")) == (3, "", 1)
    assert "surely not applied" in write.stderr
    assert (read.exit_code, read.stdout, read.stderr.count("\n")) == (3, "", 1)
    assert "applied" not in read.stderr
    assert (status.exit_code, "no answer" in status.stdout) == (3, True)


def test_ctrl_c_ends_without_a_traceback(client: type[FakeClient]) -> None:
    client.error = KeyboardInterrupt()  # type: ignore[assignment]
    assert outcome(run("get", "k")) == (130, "", "zraft-cli: interrupted\n")


def test_endpoints_by_default_and_timeout(client: type[FakeClient]) -> None:
    run("get", "k")
    run("--timeout", "0.25", "get", "k")
    assert client.made_with == [(LOOPBACK, 5.0), (LOOPBACK, 0.25)]


def test_endpoints_from_the_environment(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZRAFT_ENDPOINTS", "tcp://a:1, tcp://b:2")
    run("get", "k")
    run("-e", "tcp://c:3", "get", "k")
    assert [endpoints for endpoints, _ in client.made_with] == [("tcp://a:1", "tcp://b:2"), ("tcp://c:3",)]


def test_endpoints_from_options_and_a_configuration_file(client: type[FakeClient], tmp_path: Path) -> None:
    path = tmp_path / "n1.yaml"
    path.write_text("node: n1\ndata_dir: x\ncluster: {n1: {client: 'tcp://10.0.0.1:1', peer: 'tcp://10.0.0.1:2'}}\n")
    assert run("-c", str(path), "get", "k").exit_code == 2, "it would listen beyond loopback"
    path.write_text(path.read_text() + "insecure: true\n")
    run("-c", str(path), "get", "k")
    run("-e", "tcp://b:2", "-e", "tcp://a:1", "-e", "tcp://b:2", "-c", str(path), "get", "k")
    endpoints = [endpoints for endpoints, _ in client.made_with]
    assert endpoints == [("tcp://10.0.0.1:1",), ("tcp://b:2", "tcp://a:1", "tcp://10.0.0.1:1")]


@pytest.mark.parametrize(
    "arguments",
    [
        ("-e", "127.0.0.1:7101", "get", "k"),
        ("-e", "tcp://127.0.0.1:99999", "get", "k"),
        ("-c", "nowhere.yaml", "get", "k"),
        ("--timeout", "0", "get", "k"),
        ("--timeout", "nan", "get", "k"),
        ("--timeout", "inf", "get", "k"),
        ("-o", "xml", "get", "k"),
        ("get",),
        ("get", "a", "b"),
        ("nonsense",),
        ("completion", "tcsh"),
    ],
)
def test_usage_errors_end_with_2(client: type[FakeClient], arguments: tuple[str, ...]) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Traceback" not in result.stderr
    assert client.made_with == []


def test_a_bad_endpoint_in_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZRAFT_ENDPOINTS", "nonsense")
    status, _, stderr = outcome(run("get", "k"))
    assert (status, stderr.count("\n")) == (2, 1)
    assert stderr.startswith("zraft-cli: ZRAFT_ENDPOINTS: 'nonsense'")


def test_version_and_help() -> None:
    assert outcome(run("--version")) == (0, f"zraft-cli {__version__}\n", "")
    assert run("-h").stdout.startswith("Usage: zraft-cli")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_line_names_clicks_own_variable(shell: str) -> None:
    line = run("completion", shell).stdout
    assert f"_ZRAFT_CLI_COMPLETE={shell}_source zraft-cli" in line


def test_completion_works_as_the_shell_asks_for_it() -> None:
    environment = {"_ZRAFT_CLI_COMPLETE": "bash_complete", "COMP_WORDS": "zraft-cli sta", "COMP_CWORD": "1"}
    command = [sys.executable, "-m", "zraft.cli.main"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=30)
    assert done.stdout == "plain,status\n"


def test_nothing_that_is_slow_to_import_before_it_is_needed() -> None:
    code = "import sys, zraft.cli.main, zraft.cli.cluster, zraft.cli.chaos, zraft.cli.node; print('zmq' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=30)
    assert done.stdout == "False\n"


def test_tables_are_aligned_on_a_terminal(client: type[FakeClient], monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal:
        @staticmethod
        def isatty() -> bool:
            return True

    class Sys:
        stdout: Any = Terminal

    monkeypatch.setattr("zraft.cli.output.sys", Sys)
    client.data.update({b"key": b"v\x1b[2J\n", b"longer key": b"\xff"})
    assert run("range", "").stdout == (
        "KEY         VALUE       REVISION  VERSION\n"
        "key         v\\x1b[2J\\n  6         2\n"
        "longer key  \\xff        6         2\n"
    )
    assert (
        run("members", "list").stdout.splitlines()[0] == "ID  ROLE    PEER                  CLIENT                MATCH"
    )
