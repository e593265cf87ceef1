"""The originator of a change and its reason, for access policies, events and records of changes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

#: Why something changes: a request of a client (``push``, ``delete``), a task of the registry, or a command (``cli``).
Reason = Literal["push", "delete", "gc", "mirror", "cli"]


@dataclass(frozen=True, slots=True)
class Principal:
    """The user or robot on whose behalf a request is made."""

    name: str = "anonymous"


ANONYMOUS: Final = Principal()


@dataclass(frozen=True, slots=True)
class Actor:
    """
    The originator of a change; every method that changes something takes one as its keyword argument ``actor``.

    Attributes:
        client_address: network address of the client; empty for a task or command of the registry itself.
        request_id: identifies the request in logs; empty without a request.
    """

    reason: Reason
    principal: Principal = ANONYMOUS
    client_address: str = ""
    request_id: str = ""

    def __str__(self) -> str:
        where = f" at {self.client_address}" if self.client_address else ""
        return f"{self.principal.name}{where} ({self.reason}{self.request_id and f', request {self.request_id}'})"


#: The actor of changes for which the caller names none: an anonymous client.
ANONYMOUS_PUSH: Final = Actor("push")
ANONYMOUS_DELETE: Final = Actor("delete")

#: The actors of housekeeping and of commands.
GARBAGE_COLLECTION: Final = Actor("gc", Principal("docker-registry"))
COMMAND_LINE: Final = Actor("cli", Principal("docker-registry"))
