"""
What a setting is: one row with a name, a type, a default, a unit and a help text.

The registry's own rows are in :mod:`docker_registry.config`, a driver's in its class: ``settings = (Setting(…), …)``.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Setting:
    """
    One thing that an operator may set.

    Attributes:
        name: its key in the configuration file; ``cache.host`` is the key ``host`` in the section ``cache``.
        type: ``str``, ``bool``, ``int``, ``float`` or ``list`` (of texts).
        default: what counts when nobody sets it; None means that it is off or unknown.
        help: one sentence for the documentation.
        unit: ``seconds``, ``bytes`` …, where the type is a number.
        secret: whether ``docker-registry config`` and every log must mask it.
        choices: the only values it takes, where there are few.
    """

    name: str
    type: type = str
    default: Any = None
    help: str = ""
    unit: str = ""
    secret: bool = False
    choices: tuple[str, ...] = field(default=())
