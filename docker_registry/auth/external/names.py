"""Names of users for which another service vouches: workloads, and holders of client certificates."""

from __future__ import annotations

import re
from ipaddress import ip_network
from typing import Final

from docker_registry.auth.users.htpasswd import RESERVED
from docker_registry.auth.users.robots import PREFIX as ROBOT_PREFIX

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+:/-]{0,254}")


def is_identity(name: str) -> bool:
    """Return whether rules can contain a name, and neither a robot nor a network has it."""
    if not _NAME.fullmatch(name) or name in RESERVED or name.startswith(ROBOT_PREFIX):
        return False
    try:
        ip_network(name, strict=False)
    except ValueError:
        return True
    return False
