"""Where the own HTTP server of an engine is, for those who hand a client's request on to it whole."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from pydantic import Field

from memory.types import Record

ADAPTER_HEADER = "x-evomesh-adapter"
"""Hash of the adapter a request speaks with; absent: the base model."""
CHAT_PATH = "/v1/chat/completions"


class HttpAddress(Record):
    """A server that lives as long as its engine's process, and whoever knows the secret may use it."""

    url: str = Field(description="e.g. 'http://127.0.0.1:34567', without a path")
    secret: str = Field(repr=False, description="goes as a bearer token; another one at every start")
    model: str = Field(description="name of the base model there; an adapter's name is its hash")


@runtime_checkable
class HttpHost(Protocol):
    """An engine, or the client of one, that may have a server of its own."""

    async def http_address(self, host: str = "127.0.0.1") -> HttpAddress | None:
        """The server's address, started at the first call; None: this kind of engine has none.

        `host`: address of this machine to listen on; a client of an engine elsewhere leaves it to the engine's node.

        Raises:
            EngineError: the engine is gone or not running.
        """
        ...
