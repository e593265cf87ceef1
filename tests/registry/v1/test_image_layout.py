"""Storage paths of API V1, as in docker-registry 0.7.1."""

from __future__ import annotations

import pytest

from docker_registry.registry.names import ImageId, Tag
from docker_registry.registry.v1 import image_layout

ID = ImageId("0" * 64)


class TestAnImage:
    def test_is_stored_where_0_7_1_stores_it(self):
        folder = "images/" + "0" * 64
        assert folder == image_layout.image(ID)
        assert [f"{folder}/{name}" for name in ("json", "ancestry", "layer", "_checksum", "_inprogress")] == [
            image_layout.image_json(ID),
            image_layout.ancestry(ID),
            image_layout.layer(ID),
            image_layout.checksum(ID),
            image_layout.in_progress(ID),
        ]

    def test_has_separate_caches_beside_those_of_0_7_1(self):
        assert not {"_files", "_diff"} & {
            path(ID).rpartition("/")[2] for path in (image_layout.file_list, image_layout.changes)
        }


class TestATag:
    def test_is_read_from_its_file(self):
        assert Tag("v1.0") == image_layout.read_tag(image_layout.tag("repositories/a/b", Tag("v1.0")))

    @pytest.mark.parametrize("name", ["tagv1_json", "json", "_index_images", "tag_", "tag_.x", "_private"])
    def test_is_not_read_from_another_file(self, name):
        assert None is image_layout.read_tag(f"repositories/a/b/{name}")

    def test_has_no_json_file_if_another_tag_has_its_name(self):
        folder = "repositories/a/b"
        assert f"{folder}/tagv1_json" == image_layout.tag_json(folder, Tag("v1"))
        assert None is image_layout.tag_json(folder, Tag("_v1"))
