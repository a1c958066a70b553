"""The faults that a node can be told to have: what a client may ask for, and what is in force.

A node imports this only where its config says `chaos: true`. docs/PROTOCOL.md describes the JSON.
"""

from __future__ import annotations

import json
import reprlib
from collections.abc import Collection, Mapping
from typing import Any, NamedTuple

from zraft.errors import InvalidRequest
from zraft.messages import KillRequest, SetFaults

MAX_BOUNDARY = 1_000_000  # of an injected kill
MAX_DELAY_MS = 60_000
ANY_PEER = "*"
"""Stands for every peer that no rule names."""
DIRECTIONS = ("in", "out")
"""Of frames, as the node sees them that has the rule."""

NO_TOKEN = 0
"""In a request that `parse_fault` made: the frontend gives it the token of the client that waits."""


class LinkRule(NamedTuple):
    """What happens to frames of one peer in one direction. drop: the share that is lost; 1: the link is cut.

    delay_ms: least, most; each frame is held back for a time drawn from them."""

    drop: float
    delay_ms: tuple[float, float]


class DiskRule(NamedTuple):
    """What the log's disk does. slow_ms: least, most; each write and sync takes so much longer. full: writes find no
    space. fail_sync: syncs fail."""

    slow_ms: tuple[float, float]
    full: bool
    fail_sync: bool


HEALTHY_LINK = LinkRule(0.0, (0, 0))
HEALTHY_DISK = DiskRule((0, 0), False, False)


def parse_fault(body: bytes) -> KillRequest | SetFaults:
    """What a client's JSON asks for, checked, with nothing in it that has no effect.

    Raises InvalidRequest, with one line that names the field and what was expected."""
    try:
        fault = json.loads(body)
    except (ValueError, RecursionError):
        raise InvalidRequest("a fault is a JSON object in UTF-8") from None
    if not isinstance(fault, dict):
        raise InvalidRequest(f"a fault is a JSON object, not {_shown(fault)}")
    op = fault.get("op")
    if op == "kill-actor":
        return _kill(_only("a fault", fault, "op", "actor", "boundary"))
    if op == "links":
        return SetFaults(NO_TOKEN, {"links": _links(_only("a fault", fault, "op", "rules").get("rules"))})
    if op == "disk":
        return SetFaults(NO_TOKEN, {"disk": _disk(_only("a fault", fault, "op", "slow_ms", "full", "fail_sync"))})
    if op == "heal":
        _only("a fault", fault, "op")
        return SetFaults(NO_TOKEN, {"links": {}, "disk": {}})
    raise InvalidRequest(f"op: expected kill-actor, links, disk or heal, got {_shown(op)}")


def _kill(fault: Mapping[str, Any]) -> KillRequest:
    actor, boundary = fault.get("actor"), fault.get("boundary", 0)
    if type(boundary) is not int or not 0 <= boundary <= MAX_BOUNDARY:
        raise InvalidRequest(f"boundary: expected a whole number of 0 to {MAX_BOUNDARY}, got {_shown(boundary)}")
    return KillRequest(NO_TOKEN, _name("actor", actor), boundary)


def _links(rules: object) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for peer, directions in _object("rules", rules).items():
        where = f"rules.{_name('rules', peer)}"
        rule: dict[str, Any] = {}
        for direction, fields in _only(where, _object(where, directions), *DIRECTIONS).items():
            if effect := _link_rule(f"{where}.{direction}", fields):
                rule[direction] = effect
        found[peer] = rule
    if found.get(ANY_PEER):
        return found  # here a name without a rule has a meaning: ANY_PEER is not for this one
    return {peer: rule for peer, rule in found.items() if rule}


def _link_rule(where: str, rule: object) -> dict[str, Any]:
    fields = _only(where, _object(where, rule), "drop", "delay_ms")
    found: dict[str, Any] = {}
    drop = fields.get("drop", 0)
    if not _is_number(drop) or not 0 <= drop <= 1:
        raise InvalidRequest(f"{where}.drop: expected a number of 0 to 1, got {_shown(drop)}")
    if drop:
        found["drop"] = drop
    if (delay_ms := _span(f"{where}.delay_ms", fields.get("delay_ms", [0, 0]))) != [0, 0]:
        found["delay_ms"] = delay_ms
    return found


def _disk(fault: Mapping[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if (slow_ms := _span("slow_ms", fault.get("slow_ms", [0, 0]))) != [0, 0]:
        found["slow_ms"] = slow_ms
    for name in ("full", "fail_sync"):
        flag = fault.get(name, False)
        if type(flag) is not bool:
            raise InvalidRequest(f"{name}: expected true or false, got {_shown(flag)}")
        if flag:
            found[name] = True
    return found


def _only(where: str, fields: Mapping[str, Any], *known: str) -> Mapping[str, Any]:
    """Refuses what nobody would heed: a misspelt fault would seem to be in force."""
    for name in fields:
        if name not in known:
            raise InvalidRequest(f"{where}: unknown field {_shown(name)}; expected {', '.join(known)}")
    return fields


def _object(where: str, value: object) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InvalidRequest(f"{where}: expected a JSON object, got {_shown(value)}")
    return value


def _name(where: str, value: object) -> str:
    try:
        if isinstance(value, str) and 0 < len(value.encode()) <= 64:  # JSON can hold half of a surrogate pair
            return value
    except UnicodeEncodeError:
        pass
    raise InvalidRequest(f"{where}: expected a name, got {_shown(value)}")


def _span(where: str, value: object) -> list[float]:
    """[least, most] milliseconds."""
    if isinstance(value, list) and len(value) == 2 and all(map(_is_number, value)):
        least, most = value
        if 0 <= least <= most <= MAX_DELAY_MS:
            return [least, most]
    raise InvalidRequest(f"{where}: expected [least, most] milliseconds of 0 to {MAX_DELAY_MS}, got {_shown(value)}")


def _is_number(value: object) -> bool:
    return type(value) in (int, float)  # true and false are none here; NaN lies between no bounds


def _shown(value: object) -> str:
    text = reprlib.repr(value)
    return text.encode("utf-8", "backslashreplace").decode()


class Faults:
    """The faults in force in this node. They outlive every actor, as a cut cable and a full disk would.

    The supervisor's thread sets them, those of transport and log_writer look at them; each rule is replaced as a
    whole and never changed, so no lock is needed.
    """

    def __init__(self) -> None:
        self.disk = HEALTHY_DISK
        self.peers: Collection[str] = ()
        """Those that this node has links to; the port of transport keeps it."""
        self.any_link = False
        self._links: dict[tuple[str, str], LinkRule] = {}
        self._shown: dict[str, Any] = {}

    def set(self, faults: Mapping[str, Any]) -> str:
        """Put in force, instead of what was, what `parse_fault` made. Returns why not, or ""."""
        if "links" in faults:
            rules = faults["links"]
            # Of a peer that has left, a rule may be there; to keep it harms nobody.
            known_names = {ANY_PEER, *self.peers, *self._shown.get("links", ())}
            unknown = [peer for peer in rules if peer not in known_names]
            if unknown:
                known = ", ".join(sorted(self.peers)) or "none"
                return f"rules: this node has no peer {_shown(unknown[0])}; its peers: {known}"
            self._links = {
                (peer, direction): _to_rule(rule.get(direction, {}))
                for peer, rule in rules.items()
                for direction in DIRECTIONS
            }
            self.any_link = bool(rules)
        if "disk" in faults:
            rule = faults["disk"]
            slow_ms = tuple(rule.get("slow_ms", (0, 0)))
            self.disk = DiskRule(slow_ms, rule.get("full", False), rule.get("fail_sync", False))
        self._shown = {part: rules for part, rules in {**self._shown, **faults}.items() if rules}
        return ""

    def in_force(self) -> dict[str, Any]:
        """For `status`: links and disk as they were asked for, where there are any."""
        return self._shown

    def link(self, peer: str, direction: str) -> LinkRule:
        """The rule for frames in that direction: "in" from this peer, "out" to it."""
        links = self._links
        return links.get((peer, direction)) or links.get((ANY_PEER, direction)) or HEALTHY_LINK


def _to_rule(fields: Mapping[str, Any]) -> LinkRule:
    return LinkRule(fields.get("drop", 0.0), tuple(fields.get("delay_ms", (0, 0))))
