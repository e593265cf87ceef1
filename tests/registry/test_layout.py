"""Storage paths of repositories of API V1, as in docker-registry 0.7.1, in both quotings."""

from __future__ import annotations

import pytest

from docker_registry.registry import layout
from docker_registry.registry.names import ImageRepositoryName
from tests.support.v1_trees import FIXTURES, NAMES


class TestARepositoryOfApiV1:
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


class TestTheEntryOfAPrivateRepository:
    def test_contains_the_repository_name(self):
        path = layout.private_entry(ImageRepositoryName.parse("a/b/c"))
        assert "a/b/c" == layout.read_private_entry(path.rpartition("/")[2])
