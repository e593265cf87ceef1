"""
Events of the registry, as blinker signals.

::

    from docker_registry.registry import events

    def on_push(sender, name, tag):
        print(f"{name}:{tag} was pushed")

    events.tag_created.connect(on_push)

The sender is the storage driver of the registry, so a listener can select one of several registries. All other
arguments are keywords with the value types of :mod:`docker_registry.registry.names`. A listener with a parameter
``actor``, or with ``**``, also receives the :class:`~docker_registry.registry.actor.Actor` of the change. Signals
hold listeners by weak references: after connecting a bound method, keep a reference to its instance.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from typing import Any, Final

from blinker import Signal

from docker_registry.registry.actor import Actor

logger = logging.getLogger(__name__)

repository_created: Final = Signal("A repository was created: ``name``.")
repository_updated: Final = Signal("A repository's list of images or its properties changed: ``name``.")
repository_deleted: Final = Signal("A repository was deleted: ``name``.")

tag_created: Final = Signal("A tag was created or moved: ``name``, ``tag``.")
tag_deleted: Final = Signal("A tag was deleted: ``name``, ``tag``.")

before_put_image_json: Final = Signal(
    """
    An image of API V1 is about to be stored: ``image_id`` (text), ``image_json`` (a dict, as parsed).

    The only signal that is sent before a change, and without :func:`announce`: a listener can refuse the push by
    raising a :class:`~docker_registry.errors.RegistryError`.
    """
)


def announce(signal: Signal, sender: object, actor: Actor, **what: object) -> None:
    """
    Call every listener of a signal, after the change was stored.

    A listener cannot make the request fail: an exception is logged, and the next listener is called.

    Args:
        actor: the originator of the change.
    """
    for listener in signal.receivers_for(sender):
        try:
            if _has_parameter_actor(listener):
                listener(sender, actor=actor, **what)
            else:
                listener(sender, **what)
        except Exception:
            logger.warning("the listener %r failed", listener, exc_info=True)


def _has_parameter_actor(listener: Callable[..., Any]) -> bool:
    code = getattr(getattr(listener, "__func__", listener), "__code__", None)
    if code is None:  # not a function: an instance or a partial
        parameters = inspect.signature(listener).parameters.values()
        return any(each.name == "actor" or each.kind is each.VAR_KEYWORD for each in parameters)
    # inspect.signature takes several times as long, and this runs once for each listener of each push.
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return bool(code.co_flags & inspect.CO_VARKEYWORDS) or "actor" in names
