"""Recognizes clients whose support of API V2 is incomplete; shared by API V2 and the key of the response cache."""

from __future__ import annotations

import re
from typing import Final

#: User agents of Docker up to 1.11, which use API V2 if they see its version header. Without the header each of them
#: chooses the protocol that it supports best.
_OLD_CLIENTS: Final = re.compile(r"Go-http-client/|Go |docker/1\.(?:[0-9]|10|11)\.")


def is_old_client(user_agent: str) -> bool:
    """Return whether a User-Agent is that of a client which must not see the version header of API V2."""
    return _OLD_CLIENTS.match(user_agent) is not None
