"""The page of messages is complete: each class is on exactly one list, says who sends it to whom, and is plain data."""

from __future__ import annotations

import inspect
import re

import pytest

from zraft import messages
from zraft.messages import BUS_MESSAGES, PEER_MESSAGES

CLASSES = [
    value
    for value in vars(messages).values()
    if inspect.isclass(value) and value.__module__ == messages.__name__ and hasattr(value, "_fields")
]
ACTORS = "log_writer|snapshot_writer|applier|election_timer|transport|consensus|frontend|supervisor|every actor|host"
NODES = "Candidate|Voter|Leader|Follower"
PROGRAM = "the program|a host's thread"


def test_every_message_is_listed_once() -> None:
    listed = [*PEER_MESSAGES, *BUS_MESSAGES]
    assert len(set(listed)) == len(listed)
    assert set(listed) == set(CLASSES) - {messages.Entry}


@pytest.mark.parametrize("cls", [*PEER_MESSAGES, *BUS_MESSAGES], ids=lambda cls: cls.__name__)
def test_every_message_says_who_sends_it_to_whom(cls: type) -> None:
    said = inspect.getdoc(cls) or ""
    assert re.match(rf"({ACTORS}|{NODES}|{PROGRAM})\b.*->", said, re.DOTALL), said
