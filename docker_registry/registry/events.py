"""
Events of the registry, as blinker signals.

::

    from docker_registry.registry import events

    def on_push(sender, name, tag):
        print(f"{name}:{tag} was pushed")

    events.tag_created.connect(on_push)

The sender is the storage driver of the registry, so a listener can select one of several registries. All other
arguments are keywords with the value types of :mod:`docker_registry.registry.names`. Signals hold listeners by weak
references: after connecting a bound method, keep a reference to its instance.
"""

from __future__ import annotations

import logging
from typing import Final

from blinker import Signal

logger = logging.getLogger(__name__)

repository_created: Final = Signal("A repository is there that was not: ``name``.")
repository_updated: Final = Signal("A repository's list of images or its properties changed: ``name``.")
repository_deleted: Final = Signal("A repository is gone: ``name``.")

tag_created: Final = Signal("A tag was put, new or moved: ``name``, ``tag``.")
tag_deleted: Final = Signal("A tag is gone: ``name``, ``tag``.")

before_put_image_json: Final = Signal(
    """
    An image of API V1 is about to be stored: ``image_id`` (text), ``image_json`` (a dict, as parsed).

    The only signal of something that has not happened yet: it is sent as it is, not announced, so that a listener can
    refuse the push by raising a :class:`~docker_registry.errors.RegistryError`.
    """
)


def announce(signal: Signal, sender: object, **what: object) -> None:
    """
    Call every listener of a signal, after the change was stored.

    A listener cannot make the request fail: an exception is logged, and the next listener is called.
    """
    for listener in signal.receivers_for(sender):
        try:
            listener(sender, **what)
        except Exception:
            logger.warning("the listener %r failed", listener, exc_info=True)
