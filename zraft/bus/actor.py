"""What an actor is, and what it is given. No I/O here: the same actors run under `bus.host` and in a simulator."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from random import Random
from typing import Any, ClassVar, Protocol

from zraft.messages import StatusReply, StatusRequest


class ActorKilled(BaseException):
    """Raised at a boundary (a mailbox, a send, an I/O call) of an actor that was asked to die.

    A BaseException, so that no handler's ``except Exception`` survives it.
    """


class Context(Protocol):
    """An actor's way to the world, made anew for each of its lives.

    neighbours: name -> the life that this actor takes for the present one of each other."""

    name: str
    incarnation: int
    neighbours: dict[str, int]
    rng: Random
    ports: Mapping[str, Any]

    def send(self, to: str, message: Any) -> None:
        """Queue a message for a neighbour. Never blocks. A boundary."""

    def boundary(self) -> None:
        """A point at which a kill may strike. I/O calls pass through one before and after."""

    def now_ms(self) -> int:
        """Monotonic milliseconds. Only election_timer may decide by it what consensus does."""


class Actor:
    """Base of all actors: dispatches messages by type to the methods in `handlers`.

    A life: made by its factory with a Context, `on_start`, then any number of batches: messages (`receive`) and
    frames from outside (`receive_frames`), each batch closed by `end_batch`, which is where an actor sends one
    message per destination for all that the batch held. An exception ends the life; the supervisor begins another.
    """

    name: ClassVar[str]

    def __init__(self, context: Context) -> None:
        self.context = context
        self.wakeup_ms: int | None = None  # monotonic; on_wakeup is called at or after it
        self.handlers: dict[type, Callable[[str, Any], None]] = {StatusRequest: self._on_status_request}

    def on_start(self) -> None:
        """The life begins; neighbours can be spoken to."""

    def receive(self, sender: str, message: Any) -> None:
        """One message from a neighbour's present life."""
        self.handlers[type(message)](sender, message)

    def receive_frames(self, port: str, frames: list[Any]) -> None:
        """What came in at one of this actor's ports."""
        raise NotImplementedError(f"{self.name} has no port {port}")

    def end_batch(self) -> None:
        """All that was waiting has been handled: send what follows from it."""

    def on_wakeup(self, now_ms: int) -> None:
        """wakeup_ms has come; it is None again unless this sets it."""

    def on_neighbour_restarted(self, name: str) -> None:
        """What was sent to older lives of that neighbour, and not answered, is lost."""

    def on_stop(self) -> None:
        """The node ends: release what must be released."""

    def status(self) -> dict[str, Any]:
        """This actor's part of the node's status."""
        return {}

    def _on_status_request(self, sender: str, request: StatusRequest) -> None:
        self.context.send(sender, StatusReply(request.token, self.status()))
