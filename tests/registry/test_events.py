from __future__ import annotations

import functools
import logging

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import Unsupported
from docker_registry.registry import events
from docker_registry.registry.actor import Actor, Principal
from docker_registry.registry.names import RepositoryName, Tag

NAME = RepositoryName.parse("acme/web")
LATEST = Tag.parse("latest")
ACTOR = Actor("push", Principal("mia"), "192.0.2.1", "f00")


class Listener:
    """Records the events it receives; raises an error if configured to."""

    def __init__(self, error=None):
        self.heard = []
        self._error = error

    def __call__(self, sender, **what):
        self.heard.append(what)
        if self._error:
            raise self._error


class TestAnEvent:
    def test_reaches_every_listener(self, driver):
        first, second = Listener(), Listener()
        with events.tag_created.connected_to(first), events.tag_created.connected_to(second):
            events.announce(events.tag_created, driver, ACTOR, name=NAME, tag=LATEST)

        assert [{"name": NAME, "tag": LATEST, "actor": ACTOR}] == first.heard == second.heard

    def test_does_not_reach_listeners_of_another_registry(self, driver):
        other = MemoryDriver()
        listener = Listener()
        with events.repository_created.connected_to(listener, sender=other):
            events.announce(events.repository_created, driver, ACTOR, name=NAME)

        assert [] == listener.heard

    def test_survives_a_listener_that_fails(self, driver, caplog):
        broken, listener = Listener(RuntimeError("out of order")), Listener()
        with events.tag_deleted.connected_to(broken), events.tag_deleted.connected_to(listener):
            events.announce(events.tag_deleted, driver, ACTOR, name=NAME, tag=LATEST)

        assert [{"name": NAME, "tag": LATEST, "actor": ACTOR}] == listener.heard == broken.heard
        assert [logging.WARNING] == [record.levelno for record in caplog.records]
        assert "out of order" in caplog.text


class TestAListener:
    def test_receives_the_actor_only_where_it_has_a_parameter_for_it(self, driver):
        heard = []

        def with_actor(sender, name, tag, *, actor):
            heard.append((str(tag), str(actor)))

        def without(sender, name, tag):
            heard.append(str(tag))

        class Part:
            def method(self, sender, name, tag):
                heard.append(str(name))

        part = Part()
        for listener in (with_actor, without, part.method, functools.partial(without)):
            with events.tag_created.connected_to(listener):
                events.announce(events.tag_created, driver, ACTOR, name=NAME, tag=LATEST)
        assert [("latest", "mia at 192.0.2.1 (push, request f00)"), "latest", "acme/web", "latest"] == heard


class TestAnEventBeforeAChange:
    def test_can_be_vetoed_by_a_listener(self, driver):
        listener = Listener(Unsupported("No images without a maintainer."))
        with events.before_put_image_json.connected_to(listener), pytest.raises(Unsupported):
            events.before_put_image_json.send(driver, image_id="00" * 32, image_json={"id": "00" * 32})
