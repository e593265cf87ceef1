from __future__ import annotations

import pytest

from docker_registry.registry.names import Digest, ImageId
from docker_registry.registry.v1.pending_pushes import MAX_PENDING, Pending, PendingPushes

ID = ImageId("0" * 64)


@pytest.fixture
def unfinished(driver):
    return PendingPushes(driver)


def pending(number):
    return Pending(b'{"number": %d}\n' % number, (str(ID), "below"))


class TestAPendingPush:
    def test_is_marked_as_by_0_7_1(self, unfinished, driver):
        assert not unfinished.is_marked(ID)
        unfinished.begin(ID, pending(1))
        assert unfinished.is_marked(ID)
        assert b"true" == driver.get_content(f"images/{ID}/_inprogress")

    def test_keeps_the_json_byte_for_byte(self, unfinished):
        unfinished.begin(ID, pending(1))
        assert [pending(1)] == unfinished.pending(ID)
        assert pending(1) == unfinished.find(ID, Digest.of(pending(1).payload))
        assert None is unfinished.find(ID, Digest.of(b"{}"))

    def test_is_listed_with_others_of_its_image_newest_first(self, unfinished):
        for number in (1, 2, 1):
            unfinished.begin(ID, pending(number))
        assert [pending(1), pending(2)] == unfinished.pending(ID)

    def test_is_dropped_if_too_many_newer_ones_exist(self, unfinished):
        for number in range(MAX_PENDING + 3):
            unfinished.begin(ID, pending(number))
        assert [pending(number) for number in range(MAX_PENDING + 2, 2, -1)] == unfinished.pending(ID)

    def test_leaves_no_file_after_its_end(self, unfinished, driver):
        unfinished.begin(ID, pending(1))
        unfinished.end(ID)
        unfinished.end(ID)
        assert [] == list(driver.walk())

    def test_is_not_read_from_a_foreign_file(self, unfinished, driver):
        driver.put_content(f"images/{ID}/_pending/x", b"not ours")
        assert [] == unfinished.pending(ID)
