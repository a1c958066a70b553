"""The configuration file: what is accepted, with which defaults, and how each mistake is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from zraft.config import ACTORS, DEFAULT_THREADS, Addresses, Config, load_config
from zraft.errors import ConfigError

ROOT = Path(__file__).resolve().parents[2]
THREE = {f"n{i}": {"client": f"tcp://127.0.0.1:710{i}", "peer": f"tcp://127.0.0.1:720{i}"} for i in (1, 2, 3)}


def base(**changes: Any) -> dict[str, Any]:
    return {"node": "n1", "data_dir": "var/n1", "cluster": THREE, **changes}


def load(directory: Path, fields: object) -> Config:
    path = directory / "node.yaml"
    path.write_text(fields if isinstance(fields, str) else yaml.safe_dump(fields, sort_keys=False), encoding="utf-8")
    return load_config(path)


def refusal(directory: Path, fields: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(directory, fields)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(str(directory / "node.yaml"))
    return message.removeprefix(str(directory / "node.yaml"))


def test_the_least_file_gets_the_defaults(tmp_path: Path) -> None:
    config = load(tmp_path, base())
    assert config == Config(
        node="n1",
        data_dir=tmp_path / "var" / "n1",
        cluster={node: Addresses(**addresses) for node, addresses in THREE.items()},
        join=False,
        insecure=False,
        json=None,
        bind_client="tcp://127.0.0.1:7101",
        bind_peer="tcp://127.0.0.1:7201",
        election_timeout_ms=(150, 300),
        heartbeat_ms=50,
        snapshot_entries=10000,
        snapshot_bytes=64 * 1024 * 1024,
        snapshot_keep=5000,
        chaos=False,
        profile=0,
        threads=DEFAULT_THREADS,
        source=tmp_path / "node.yaml",
    )


def test_every_key_is_taken_from_the_file(tmp_path: Path) -> None:
    threads = [["frontend"], ["log_writer"], [actor for actor in ACTORS if actor not in ("frontend", "log_writer")]]
    config = load(
        tmp_path,
        base(
            join=True,
            insecure=True,
            json="tcp://*:7301",
            bind={"client": "tcp://*:8101", "peer": "tcp://10.0.0.1:8201"},
            election_timeout_ms=[400, 900],
            heartbeat_ms=200,
            snapshot={"entries": 10, "bytes": 20, "keep": 0},
            chaos=True,
            profile=64,
            threads=threads,
        ),
    )
    assert (config.join, config.insecure, config.chaos, config.profile) == (True, True, True, 64)
    assert (config.json, config.bind_client, config.bind_peer) == (
        "tcp://*:7301",
        "tcp://*:8101",
        "tcp://10.0.0.1:8201",
    )
    assert (config.election_timeout_ms, config.heartbeat_ms) == ((400, 900), 200)
    assert (config.snapshot_entries, config.snapshot_bytes, config.snapshot_keep) == (10, 20, 0)
    assert config.threads == tuple(map(tuple, threads))
    assert config.cluster["n1"].client == "tcp://127.0.0.1:7101"


def test_data_dir_is_seen_from_the_file_not_from_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "n1.yaml").write_text(yaml.safe_dump(base(data_dir="../var/n1")))
    monkeypatch.chdir(tmp_path)
    assert load_config("configs/n1.yaml").data_dir == tmp_path / "var" / "n1"
    assert load_config("configs/n1.yaml").source == tmp_path / "configs" / "n1.yaml"


def test_an_absolute_data_dir_stays(tmp_path: Path) -> None:
    assert load(tmp_path, base(data_dir="/srv/zraft")).data_dir == Path("/srv/zraft")


def test_bind_may_name_one_address_only(tmp_path: Path) -> None:
    config = load(tmp_path, base(bind={"peer": "tcp://127.0.0.1:9999"}))
    assert (config.bind_client, config.bind_peer) == ("tcp://127.0.0.1:7101", "tcp://127.0.0.1:9999")


def test_a_joining_node_outside_cluster_needs_bind(tmp_path: Path) -> None:
    fields = base(node="n9", join=True, bind={"client": "tcp://127.0.0.1:7109"})
    assert refusal(tmp_path, fields) == ":14: bind: the key `peer` is missing"
    assert "bind: the key `client` is missing" in refusal(tmp_path, base(node="n9", join=True))
    fields["bind"]["peer"] = "tcp://127.0.0.1:7209"
    assert load(tmp_path, fields).bind_peer == "tcp://127.0.0.1:7209"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"nodde": "n1"}, "nodde: unknown key; did you mean `node`? expected one of: node, data_dir, cluster, join"),
        ({"node": 1}, "node: expected a node id"),
        ({"node": "a/b"}, "node: expected a node id"),
        ({"node": "n4"}, "node: 'n4' is not in `cluster` (n1, n2, n3): add it there, or set `join: true`"),
        ({"data_dir": ""}, "data_dir: expected the path of a directory, got ''"),
        ({"data_dir": ["var"]}, "data_dir: expected the path of a directory, got ['var']"),
        ({"join": "maybe"}, "join: expected true or false, got 'maybe'"),
        ({"insecure": 1}, "insecure: expected true or false, got 1"),
        ({"chaos": None}, "chaos: expected true or false, got None"),
        ({"profile": True}, "profile: expected a whole number of at least 0, got True"),
        ({"heartbeat_ms": 0}, "heartbeat_ms: expected a whole number of at least 1, got 0"),
        ({"heartbeat_ms": True}, "heartbeat_ms: expected a whole number of at least 1, got True"),
        ({"heartbeat_ms": 2.5}, "heartbeat_ms: expected a whole number of at least 1, got 2.5"),
        ({"heartbeat_ms": 76}, "election_timeout_ms: expected at least twice heartbeat_ms (2 * 76), got [150, 300]"),
        ({"election_timeout_ms": 150}, "election_timeout_ms: expected two whole numbers like [150, 300], got 150"),
        ({"election_timeout_ms": [150]}, "election_timeout_ms: expected two whole numbers like [150, 300], got [150]"),
        ({"election_timeout_ms": [300, 300]}, "election_timeout_ms: expected the first number below the second"),
        ({"election_timeout_ms": [150, "x"]}, "election_timeout_ms: expected a whole number of at least 1, got 'x'"),
        ({"snapshot": 5}, "snapshot: expected `key: value` pairs, got 5"),
        ({"snapshot": {"every": 5}}, "snapshot.every: unknown key; expected one of: entries, bytes, keep"),
        ({"snapshot": {"entries": 0}}, "snapshot.entries: expected a whole number of at least 1, got 0"),
        ({"snapshot": {"bytes": 0}}, "snapshot.bytes: expected a whole number of at least 1, got 0"),
        ({"snapshot": {"keep": -1}}, "snapshot.keep: expected a whole number of at least 0, got -1"),
        ({"json": 7301}, "json: expected an address like tcp://127.0.0.1:7101"),
        ({"json": None}, "json: expected an address like tcp://127.0.0.1:7101"),
        ({"json": "tcp://127.0.0.1:7101"}, "json: tcp://127.0.0.1:7101 is already the address of cluster.n1.client"),
        ({"json": "tcp://127.0.0.1:7202"}, "json: tcp://127.0.0.1:7202 is already the address of cluster.n2.peer"),
        ({"bind": {"json": "tcp://127.0.0.1:1"}}, "bind.json: unknown key; expected one of: client, peer"),
        ({"bind": {"client": "tcp://127.0.0.1:7201"}}, "cannot listen on tcp://127.0.0.1:7201"),
        ({"cluster": {}}, "cluster: expected at least one node"),
        ({"cluster": ["n1"]}, "cluster: expected `key: value` pairs, got ['n1']"),
        ({"cluster": {1: THREE["n1"]}}, "cluster: expected a text as key, got 1"),
        ({"cluster": {"n 1": THREE["n1"]}}, "cluster.n 1: expected a node id"),
        ({"cluster": {"n1": "tcp://127.0.0.1:7101"}}, "cluster.n1: expected `key: value` pairs"),
        ({"cluster": {"n1": {"client": "tcp://127.0.0.1:7101"}}}, "cluster.n1: the key `peer` is missing"),
        ({"cluster": {"n1": {**THREE["n1"], "ip": "x"}}}, "cluster.n1.ip: unknown key; expected one of: client, peer"),
        (
            {"cluster": {**THREE, "n2": {"client": "tcp://localhost:7101", "peer": "tcp://127.0.0.1:7202"}}},
            "cluster.n2.client: tcp://127.0.0.1:7101 is already the address of cluster.n1.client",
        ),
        (
            {"cluster": {"n1": {"client": "tcp://*:7101", "peer": "tcp://127.0.0.1:7201"}}},
            "cluster.n1.client: `*` is no address that others can reach; write it under `bind`",
        ),
        ({"threads": "frontend"}, "threads: expected a list of lists of actors"),
        ({"threads": [[]]}, "threads: expected a list of lists of actors"),
        ({"threads": [["frontend", "frontend"]]}, "threads: the actor frontend is named twice"),
        ({"threads": [["frontent"]]}, "threads: unknown actor 'frontent'; expected: frontend, transport"),
        ({"threads": [[{"a": 1}]]}, "threads: unknown actor {'a': 1}"),
        ({"threads": [["log_writer"]]}, "threads: every actor needs a thread; missing: frontend, transport"),
    ],
)
def test_each_mistake_is_told_with_its_key(tmp_path: Path, changes: dict[str, Any], expected: str) -> None:
    assert expected in refusal(tmp_path, base(**changes))


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1:7101",
        "ipc://socket",
        "tcp://127.0.0.1",
        "tcp://127.0.0.1:0",
        "tcp://127.0.0.1:65536",
        "tcp://127.0.0.1:http",
        "tcp://:7101",
        "tcp://127.0.0:7101",
        "tcp://127.0.0.256:7101",
        "tcp://127.0.0.1:7101\n",
        "tcp://127.0.0.1:7101/x",
        "tcp://a b:7101",
        "",
    ],
)
def test_an_address_is_tcp_host_and_port(tmp_path: Path, address: str) -> None:
    fields = base(cluster={"n1": {"client": address, "peer": "tcp://127.0.0.1:7201"}})
    assert "cluster.n1.client: expected an address like tcp://127.0.0.1:7101" in refusal(tmp_path, fields)


@pytest.mark.parametrize("missing", ["node", "data_dir", "cluster"])
def test_what_must_be_there(tmp_path: Path, missing: str) -> None:
    fields = base()
    del fields[missing]
    assert refusal(tmp_path, fields) == f": the key `{missing}` is missing"


def test_the_line_of_a_mistake_is_told(tmp_path: Path) -> None:
    text = "node: n1\ndata_dir: x\n\ncluster:\n  n1:\n    client: tcp://127.0.0.1:7101\n    peer: nowhere\n"
    assert refusal(tmp_path, text).startswith(":7: cluster.n1.peer: expected an address")


@pytest.mark.parametrize(
    "change",
    [
        {"bind": {"client": "tcp://*:7101"}},
        {"bind": {"peer": "tcp://0.0.0.0:7201"}},
        {"bind": {"peer": "tcp://10.1.2.3:7201"}},
        {"bind": {"peer": "tcp://some-host:7201"}},
        {"json": "tcp://*:7301"},
        {"cluster": {"n1": {"client": "tcp://10.0.0.1:1", "peer": "tcp://127.0.0.1:2"}}},
    ],
)
def test_listening_beyond_loopback_must_be_allowed_in_words(tmp_path: Path, change: dict[str, Any]) -> None:
    assert "set `insecure: true`" in refusal(tmp_path, base(**change))
    load(tmp_path, base(**change, insecure=True))


def test_all_of_loopback_is_loopback(tmp_path: Path) -> None:
    config = load(tmp_path, base(bind={"client": "tcp://localhost:7101", "peer": "tcp://127.9.9.9:7201"}))
    assert (config.bind_client, config.bind_peer) == ("tcp://127.0.0.1:7101", "tcp://127.9.9.9:7201")


def test_one_port_on_all_interfaces_collides_with_the_same_port_on_one(tmp_path: Path) -> None:
    fields = base(json="tcp://127.0.0.1:7999", insecure=True, bind={"client": "tcp://*:7999"})
    assert "json: cannot listen on tcp://127.0.0.1:7999: bind.client already does, on tcp://*:7999" in refusal(
        tmp_path, fields
    )


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ": the file is empty"),
        ("# only a comment\n", ": the file is empty"),
        ("just words", ": expected `key: value` pairs, got 'just words'"),
        ("- n1\n- n2\n", ": expected `key: value` pairs, got ['n1', 'n2']"),
        ("node: [n1\n", ":2: not valid YAML: "),
        ("node: n1\n\tdata_dir: x\n", ":2: not valid YAML: "),
        ("node: n1\ndata_dir: x\nnode: n2\n", ":3: node: given twice (first on line 1)"),
        ("node: !!python/object:os.system {}\n", ":1: not valid YAML: could not determine a constructor"),
        ("node: 2024-99-99\n", ": not valid YAML: month must be in 1..12"),
        ("node: \x01\n", ": not valid YAML: "),
        ("{[a]: b}", ":1: not valid YAML: found unhashable key"),
        ("[" * 5000, ": not valid YAML: "),
        ("node: &a [*a]\n", ": the key `data_dir` is missing"),
        ("? *x\n: y\n", ":1: not valid YAML: found undefined alias"),
    ],
)
def test_what_is_no_configuration_at_all(tmp_path: Path, text: str, expected: str) -> None:
    assert refusal(tmp_path, text).startswith(expected)


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: cannot read this configuration file: No such file"):
        load_config(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match="cannot read this configuration file: Is a directory"):
        load_config(tmp_path)
    (tmp_path / "node.yaml").write_bytes(b"node: \xff\n")
    with pytest.raises(ConfigError, match="expected UTF-8 text: invalid start byte at byte 6"):
        load_config(tmp_path / "node.yaml")


def test_a_config_cannot_be_changed(tmp_path: Path) -> None:
    config = load(tmp_path, base())
    with pytest.raises(AttributeError):
        config.node = "n2"  # type: ignore[misc]
    with pytest.raises(TypeError):
        config.cluster["n4"] = config.cluster["n1"]  # type: ignore[index]


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.just("tcp://127.0.0.1:7101"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5) | st.integers(), inner, max_size=3),
    max_leaves=6,
)
_FIELDS = (
    "node data_dir cluster join insecure json bind election_timeout_ms heartbeat_ms snapshot chaos profile threads"
)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(key=st.sampled_from(_FIELDS.split()), value=_VALUES)
def test_any_value_is_taken_or_refused_in_one_line(
    tmp_path_factory: pytest.TempPathFactory, key: str, value: object
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.yaml"
    path.write_text(yaml.safe_dump(base(**{key: value}), allow_unicode=True), encoding="utf-8")
    try:
        config = load_config(path)
    except ConfigError as error:
        assert str(error).startswith(str(path))
        assert "\n" not in str(error)
    else:
        assert isinstance(config, Config)


@settings(deadline=None, derandomize=True, max_examples=200)
@given(data=st.binary(max_size=60) | st.text("{}[]:,-&*!?|> \n\tabn1'\"#%@", max_size=60).map(str.encode))
def test_any_bytes_are_refused_in_one_line(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any-bytes.yaml"
    path.write_bytes(data)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_the_shipped_files(number: int) -> None:
    config = load_config(ROOT / "configs" / f"n{number}.yaml")
    listed = (1, 2, 3) if number <= 3 else (number,)
    assert config.node == f"n{number}"
    assert config.cluster == {f"n{i}": Addresses(f"tcp://127.0.0.1:710{i}", f"tcp://127.0.0.1:720{i}") for i in listed}
    assert config.join is (number > 3)
    assert config.json == f"tcp://127.0.0.1:730{number}"
    assert config.data_dir == ROOT / "var" / f"n{number}"
    assert config.chaos is True
    assert config.insecure is False
    assert (config.election_timeout_ms, config.heartbeat_ms) == ((150, 300), 50)
