"""Storage paths of API V1, as in docker-registry 0.7.1, in both quotings."""

from __future__ import annotations

import pytest

from docker_registry.registry import layout
from docker_registry.registry.names import ImageId, ImageRepositoryName, Tag
from docker_registry.registry.v1 import image_layout
from tests.support.v1_trees import FIXTURES, NAMES

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


class TestARepository:
    @pytest.mark.parametrize(
        ("text", "folders"),
        [
            ("foo", ("repositories/library/foo",)),
            ("acme/web", ("repositories/acme/web",)),
            ("a/b/c", ("repositories/a/b%2Fc", "repositories/a/b%252Fc")),
            ("a/b/c/d", ("repositories/a/b%2Fc%2Fd", "repositories/a/b%252Fc%252Fd")),
        ],
    )
    def test_is_stored_in_the_folder_of_0_7_1_or_of_0_8(self, text, folders):
        assert folders == layout.image_repository_folders(ImageRepositoryName.parse(text))

    @pytest.mark.parametrize("text", ["foo", "acme/web", "a/b/c", "Team/UPPER", "a/b/c/d"])
    def test_is_read_from_each_of_its_folders(self, text):
        name = ImageRepositoryName.parse(text)
        for folder in layout.image_repository_folders(name):
            assert name == layout.read_image_repository_folder(folder)

    @pytest.mark.parametrize(
        "folder", ["repositories/a", "repositories/a/b%", "repositories/a/%2E%2E", "repositories/"]
    )
    def test_is_not_read_from_another_folder(self, folder):
        assert None is layout.read_image_repository_folder(folder)

    def test_is_found_in_the_trees_of_old_servers(self):
        found = {
            str(layout.read_image_repository_folder(str(path.relative_to(FIXTURES / tree))))
            for tree in NAMES
            for path in (FIXTURES / tree / "repositories").glob("*/*")
        }
        assert {"deep/er/name", "a/b/c", "acme/secret"} <= found
        assert "None" not in found


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


class TestTheEntryOfAPrivateRepository:
    def test_contains_the_repository_name(self):
        path = layout.private_entry(ImageRepositoryName.parse("a/b/c"))
        assert "a/b/c" == layout.read_private_entry(path.rpartition("/")[2])
