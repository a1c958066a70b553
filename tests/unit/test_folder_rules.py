"""One rule a folder: what each part of zraft may import, and how large a file and a function may grow."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = {path.relative_to(ROOT).as_posix(): path for path in sorted((ROOT / "zraft").rglob("*.py"))}

MAX_FILE_LINES = 500
MAX_MESSAGES_LINES = 600  # `zraft/messages.py` is the one page on which every message stands
MAX_FUNCTION_LINES = 70

# Randomness is handed in: its type may be named, its global functions may not.
PURE = tuple(
    """
    __future__ abc array bisect collections copy dataclasses enum functools hashlib heapq itertools json math operator
    random.Random re reprlib sortedcontainers string struct types typing zlib
    """.split()  # noqa: SIM905 (as a list it would be a page)
)
"""What does no I/O, starts no thread and knows no time."""


class Allowed(NamedTuple):
    """Files below `folders` import nothing but `modules` and what is inside them."""

    folders: tuple[str, ...]
    modules: tuple[str, ...]


class Reserved(NamedTuple):
    """Nothing but files below `folders` imports `modules`."""

    modules: tuple[str, ...]
    folders: tuple[str, ...]


class Forbidden(NamedTuple):
    """Files below `folders` do not import `modules`."""

    folders: tuple[str, ...]
    modules: tuple[str, ...]


RULES = {
    "raft is pure": Allowed(("zraft/raft/",), (*PURE, "zraft.raft", "zraft.messages", "zraft.errors", "zraft.enums")),
    "statemachine is pure": Allowed(
        ("zraft/statemachine/",), (*PURE, "msgpack", "zraft.statemachine", "zraft.errors", "zraft.enums")
    ),
    "what raft and statemachine stand on is pure": Allowed(
        ("zraft/messages.py", "zraft/errors.py", "zraft/enums.py"), (*PURE, "zraft.errors", "zraft.enums")
    ),
    "storage knows bytes alone": Forbidden(
        ("zraft/storage/",), ("zmq", "msgpack", "zraft.raft", "zraft.messages", "zraft.wire", "zraft.bus")
    ),
    "ZeroMQ stays at the edges": Reserved(("zmq",), ("zraft/bus/", "zraft/client/", "zraft/node.py")),
    "two places encode": Reserved(("msgpack",), ("zraft/wire.py", "zraft/statemachine/codec.py")),
    "nobody pickles": Reserved(("pickle", "marshal", "shelve"), ()),
    "actors know no actors": Forbidden(("zraft/actors/",), ("zraft.actors",)),
    "threads have their places": Reserved(
        ("threading", "_thread", "concurrent.futures", "multiprocessing"),
        ("zraft/bus/", "zraft/node.py", "zraft/client/sync.py", "zraft/cli/sim.py"),
    ),
    "the simulator has no world but its own": Forbidden(
        ("zraft/sim/",), ("zmq", "time", "os.urandom", "secrets", "threading", "socket", "zraft.bus.host", "zraft.node")
    ),
}


def imports(path: str, source: str) -> Iterator[tuple[int, str]]:
    """Line and full dotted name of everything that `source` imports; `from a import b` is a.b."""
    package = path.removesuffix(".py").split("/")[:-1]
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((node.lineno, f"{module}.{alias.name}") for alias in node.names)


def is_inside(name: str, modules: tuple[str, ...]) -> bool:
    return any(name == module or name.startswith(module + ".") for module in modules)


def offends(rule: Allowed | Reserved | Forbidden, path: str, name: str) -> bool:
    below = path.startswith(rule.folders)
    listed = is_inside(name, rule.modules)
    if isinstance(rule, Allowed):
        return below and not listed
    return listed and below is isinstance(rule, Forbidden)


def offenders(rule: Allowed | Reserved | Forbidden, path: str, source: str) -> list[str]:
    return [f"{path}:{line} imports {name}" for line, name in imports(path, source) if offends(rule, path, name)]


def long_functions(path: str, source: str) -> list[str]:
    return [
        f"{path}:{node.lineno} {node.name} has {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno is not None
        and node.end_lineno - node.lineno + 1 > MAX_FUNCTION_LINES
    ]


def builtin_io(path: str, source: str) -> list[str]:
    return [
        f"{path}:{node.lineno} calls {node.func.id}"
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in ("open", "print", "input", "__import__", "hash", "id")
    ]


@pytest.mark.parametrize("name", RULES)
def test_imports_keep_to_their_folder(name: str) -> None:
    found = [line for path, file in SOURCES.items() for line in offenders(RULES[name], path, file.read_text("utf-8"))]
    assert found == []


def test_the_pure_folders_call_nothing_that_differs_between_runs() -> None:
    pure = [path for path in SOURCES if path.startswith(("zraft/raft/", "zraft/statemachine/"))]
    assert pure
    assert [line for path in pure for line in builtin_io(path, SOURCES[path].read_text("utf-8"))] == []


def test_files_fit_in_a_head() -> None:
    lengths = {path: len(file.read_text("utf-8").splitlines()) for path, file in SOURCES.items()}
    assert lengths.pop("zraft/messages.py") <= MAX_MESSAGES_LINES
    assert {path: length for path, length in lengths.items() if length > MAX_FILE_LINES} == {}


def test_functions_fit_on_a_page() -> None:
    assert [line for path, file in SOURCES.items() for line in long_functions(path, file.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("name", "path", "source", "is_caught"),
    [
        ("raft is pure", "zraft/raft/log.py", "import time", True),
        ("raft is pure", "zraft/raft/log.py", "def f():\n    from os import path", True),
        ("raft is pure", "zraft/raft/log.py", "import random", True),
        ("raft is pure", "zraft/raft/log.py", "from random import random", True),
        ("raft is pure", "zraft/raft/log.py", "from random import Random", False),
        ("raft is pure", "zraft/raft/log.py", "from .progress import Progress", False),
        ("raft is pure", "zraft/raft/log.py", "from ..wire import pack_bus", True),
        ("raft is pure", "zraft/raft/log.py", "from zraft import messages", False),
        ("raft is pure", "zraft/raft/log.py", "from zraft import wire", True),
        ("raft is pure", "zraft/config.py", "import os", False),
        ("statemachine is pure", "zraft/statemachine/machine.py", "import zraft.raft.log", True),
        ("storage knows bytes alone", "zraft/storage/wal.py", "from zraft.raft import log", True),
        ("storage knows bytes alone", "zraft/storage/wal.py", "import os, msgpack", True),
        ("storage knows bytes alone", "zraft/storage/wal.py", "import os", False),
        ("ZeroMQ stays at the edges", "zraft/actors/frontend.py", "import zmq", True),
        ("ZeroMQ stays at the edges", "zraft/cli/main.py", "import zmq.asyncio", True),
        ("ZeroMQ stays at the edges", "zraft/node.py", "import zmq", False),
        ("two places encode", "zraft/actors/applier.py", "from msgpack import packb", True),
        ("nobody pickles", "zraft/wire.py", "import pickle", True),
        ("actors know no actors", "zraft/actors/applier.py", "from zraft.actors.frontend import Frontend", True),
        ("actors know no actors", "zraft/actors/applier.py", "from . import frontend", True),
        ("actors know no actors", "zraft/node.py", "from zraft.actors.frontend import Frontend", False),
        ("threads have their places", "zraft/client/aio.py", "from threading import Thread", True),
        ("threads have their places", "zraft/client/sync.py", "from threading import Thread", False),
    ],
)
def test_the_rules_catch_what_they_should(name: str, path: str, source: str, is_caught: bool) -> None:
    assert bool(offenders(RULES[name], path, source)) is is_caught


def test_the_limits_catch_what_they_should() -> None:
    fits, too_long = (f"async def f():\n{'    pass' + chr(10):s}" + "    pass\n" * count for count in (68, 69))
    assert (long_functions("a.py", fits), long_functions("a.py", too_long)) == ([], ["a.py:1 f has 71 lines"])
    assert builtin_io("a.py", "x = open('f')") == ["a.py:1 calls open"]
