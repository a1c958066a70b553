"""A client of one node's port for JSON lines."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from zraft.errors import OutcomeUnknown, Unavailable

TIMEOUT_SECONDS = 2.0


class JsonLines:
    """Asks one line after the other. What went wrong closes the connection; the next call opens another one.

    Raises Unavailable (surely not applied) and OutcomeUnknown.
    """

    def __init__(self, host: str, port: int) -> None:
        self._address = (host, port)
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def get(self, key: str) -> bytes | None:
        """The value of `key`."""
        try:
            value = (await self._ask({"op": "get", "key": key}))["value"]
        except OutcomeUnknown as error:
            raise Unavailable(str(error)) from None  # a read has no effect
        return None if value is None else str(value).encode()

    async def set(self, key: str, value: str) -> int:
        """Set `key`; returns the revision."""
        return int((await self._ask({"op": "set", "key": key, "value": value}))["revision"])

    def close(self) -> None:
        """Close the connection."""
        if self._streams is not None:
            self._streams[1].close()
            self._streams = None

    async def _ask(self, fields: dict[str, str]) -> dict[str, Any]:
        host, port = self._address
        try:
            if self._streams is None:
                self._streams = await asyncio.wait_for(asyncio.open_connection(host, port), TIMEOUT_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            raise Unavailable(f"{host}:{port}: {error}") from error
        reader, writer = self._streams
        try:
            writer.write(json.dumps(fields).encode() + b"\n")
            line = await asyncio.wait_for(reader.readline(), TIMEOUT_SECONDS)
        except (OSError, asyncio.TimeoutError) as error:
            self.close()
            raise OutcomeUnknown(f"{host}:{port}: {error}") from error
        except asyncio.CancelledError:
            self.close()
            raise
        if not line.endswith(b"\n"):
            self.close()
            raise OutcomeUnknown(f"{host}:{port}: the connection was closed")
        answer: dict[str, Any] = json.loads(line)
        if answer["ok"]:
            return answer
        text = str(answer.get("error"))
        raise OutcomeUnknown(text) if answer.get("outcome") == "unknown" else Unavailable(text)
