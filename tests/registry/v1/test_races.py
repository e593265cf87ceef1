"""Concurrent and interrupted pushes of one image: they result in one valid image, and never in an invalid one."""

from __future__ import annotations

import gzip
import random

import gevent
import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import (
    ChecksumMismatch,
    ChecksumUnexpected,
    ImageExists,
    ImageUnfinished,
    ImageUnknown,
)
from docker_registry.registry.ingest import Content
from tests.support.registries import Registry
from tests.support.v1_images import make, pulled, push, store_raw

#: Possible errors for a client whose push was overtaken.
OVERTAKEN = (ImageExists, ChecksumUnexpected, ChecksumMismatch)


class Shuffled(MemoryDriver):
    """A store that switches between clients before every call, in an order determined by a seed."""

    def __init__(self, seed):
        super().__init__()
        self.dice = random.Random(seed)

    def _pause(self):
        for _ in range(self.dice.randrange(4)):
            gevent.sleep(0)

    def get_content(self, path):
        self._pause()
        return super().get_content(path)

    def put_content(self, path, content, *, if_match=None):
        self._pause()
        super().put_content(path, content, if_match=if_match)

    def move(self, source, target):
        self._pause()
        super().move(source, target)

    def remove(self, path):
        self._pause()
        super().remove(path)

    def stat(self, path):
        self._pause()
        return super().stat(path)


class Death(BaseException):
    """The process has died."""


class Mortal:
    """The behavior of a driver in a process that dies before one of its changes."""

    @property
    def changes_left(self):
        return self._left[0]

    @changes_left.setter
    def changes_left(self, count):
        self._left[0] = count

    def _count_change(self):
        if self.changes_left is not None:
            if not self.changes_left:
                raise Death
            self.changes_left -= 1

    def put_content(self, path, content, *, if_match=None):
        self._count_change()
        super().put_content(path, content, if_match=if_match)

    def stream_write(self, path, blocks):
        self._count_change()
        return super().stream_write(path, blocks)

    def move(self, source, target):
        self._count_change()
        super().move(source, target)

    def link(self, source, target):
        self._count_change()
        return super().link(source, target)

    def remove(self, path):
        self._count_change()
        super().remove(path)


def dying(driver_class):
    """Return a driver that lets the process die before one of its changes."""
    # One count for all instances: the scratch driver is another instance.
    return type("Dying", (Mortal, driver_class), {"_left": [None]})


def served(registry, image):
    """JSON and layer that a client receives; None if the request is rejected."""
    try:
        found = registry.images.get(image.id)
        layer = pulled(registry, image)
    except (ImageUnknown, ImageUnfinished):
        return None
    return found.payload, layer


class TestConcurrentPushesOfOneImage:
    #: The same files, packed by two clients; and the same image as two clients write it.
    FIRST = make(1)
    OTHER_LAYER = make(1, compress=lambda content: gzip.compress(content, 1, mtime=1))
    OTHER_JSON = make(1, comment="written by another client")

    @pytest.mark.parametrize("other", [FIRST, OTHER_LAYER, OTHER_JSON], ids=["equal", "other layer", "other JSON"])
    @pytest.mark.parametrize("seed", range(60))
    def test_result_in_one_intact_image(self, seed, other):
        driver = Shuffled(seed)
        registry = Registry(driver)
        good = {(image.payload, image.layer) for image in (self.FIRST, other)}
        succeeded, seen = [], set()

        def push_one(image):
            try:
                push(registry, image)
            except OVERTAKEN:
                return
            succeeded.append(image)

        def look():
            while len(pushes) != sum(push.ready() for push in pushes):
                seen.add(served(registry, self.FIRST))
                gevent.sleep(0)

        pushes = [gevent.spawn(push_one, image) for image in (self.FIRST, other, self.FIRST)]
        reader = gevent.spawn(look)
        gevent.joinall([*pushes, reader], raise_error=True)

        if not succeeded:  # both were overtaken; the next one is not
            push(registry, self.FIRST)
        assert served(registry, self.FIRST) in good
        assert seen - {None} <= good
        assert len(seen - {None}) <= 1

    @pytest.mark.parametrize("seed", range(30))
    def test_succeed_if_equal_and_neither_finds_a_complete_image(self, seed):
        registry = Registry(Shuffled(seed))
        image = self.FIRST
        for _ in range(2):
            registry.image_pushes.put_json(image.id, image.payload)
        for _ in range(2):
            registry.image_pushes.put_layer(image.id, Content(image.layer))
        ends = [gevent.spawn(registry.image_pushes.put_checksum, image.id, image.checksum) for _ in range(2)]
        gevent.joinall(ends, raise_error=True)
        assert (image.payload, image.layer) == served(registry, image)


class TestAnInterruptedPush:
    @pytest.fixture(params=["memory", "file"])
    def make_driver(self, request, tmp_path):
        if request.param == "memory":
            return dying(MemoryDriver)
        return lambda: dying(FileDriver)(str(tmp_path))

    #: A push makes fewer changes than this.
    CHANGES = range(20)

    @pytest.mark.parametrize("changes", CHANGES)
    def test_publishes_nothing_unverified_and_can_be_repeated_at_once(self, make_driver, changes):
        driver = make_driver()
        registry = Registry(driver)
        image = make(1)
        driver.changes_left = changes
        try:
            push(registry, image)
        except Death:
            died = True
        else:
            died = False
        driver.changes_left = None

        registry = Registry(driver)
        assert served(registry, image) in {None, (image.payload, image.layer)}
        if died:
            try:
                push(registry, image)
            except ImageExists:  # it was already complete
                pass
        assert (image.payload, image.layer) == served(registry, image)

    @pytest.mark.parametrize("changes", CHANGES)
    def test_can_be_repeated_with_another_layer_and_another_json(self, make_driver, changes):
        driver = make_driver()
        first, second = make(1), make(1, comment="again", compress=lambda content: gzip.compress(content, mtime=7))
        driver.changes_left = changes
        try:
            push(Registry(driver), first)
        except Death:
            pass
        driver.changes_left = None
        try:
            push(Registry(driver), second)
        except ImageExists:
            assert (first.payload, first.layer) == served(Registry(driver), first)
        else:
            assert (second.payload, second.layer) == served(Registry(driver), second)

    @pytest.mark.parametrize("changes", CHANGES)
    def test_over_one_of_an_old_server_loses_no_data(self, make_driver, changes):
        driver = make_driver()
        image = make(1)
        store_raw(driver, image, layer=image.layer[:100], in_progress=True)
        driver.changes_left = changes
        try:
            push(Registry(driver), image)
        except Death:
            pass
        driver.changes_left = None
        assert served(Registry(driver), image) in {None, (image.payload, image.layer)}
        try:
            push(Registry(driver), image)
        except ImageExists:
            pass
        assert (image.payload, image.layer) == served(Registry(driver), image)
