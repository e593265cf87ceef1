"""A private repository, and the images that only it has, are hidden from every request."""

from __future__ import annotations

import json

import pytest

from docker_registry.drivers.file import FileDriver
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import BlobUnknown
from docker_registry.registry import events, layout
from docker_registry.registry.actor import ANONYMOUS
from docker_registry.registry.ingest import Content
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from tests.support import v1_trees
from tests.support.registries import Registry
from tests.support.v1_images import chain, make, push, store_raw

PUBLIC = ImageRepositoryName.parse("acme/web")
SECRET = ImageRepositoryName.parse("acme/secret")
DEEP = ImageRepositoryName.parse("a/b/c")
NEW = RepositoryName.parse("acme/new")

#: The base is shared; each repository has its own image on it.
BASE, OWN, OPEN = make(1), make(2, make(1)), make(3, make(1))


@pytest.fixture(params=["memory", "file"])
def driver(request, tmp_path):
    return MemoryDriver() if request.param == "memory" else FileDriver(str(tmp_path))


def listed(*images):
    return json.dumps([{"id": image.text} for image in images]).encode()


def store_tree(driver):
    """A tree of an old server: a private and a public repository with a common base image."""
    for image in (BASE, OWN, OPEN):
        store_raw(driver, image)
    driver.put_content("repositories/acme/secret/_index_images", listed(BASE, OWN))
    driver.put_content("repositories/acme/secret/_private", b"")
    driver.put_content("repositories/acme/web/_index_images", listed(BASE, OPEN))


def is_hidden(registry, subject):
    if isinstance(subject, ImageId):
        return registry.private_images.hide_unless_visible(subject).is_hidden
    return not registry.access.may_pull(ANONYMOUS, subject)


def hidden(registry, *images):
    return [image for image in images if is_hidden(registry, image.id)]


class TestATreeOf07WithAPrivateRepository:
    @pytest.fixture
    def registry(self, driver):
        store_tree(driver)
        return Registry(driver)

    def test_hides_the_repository_and_the_images_that_only_it_has(self, registry):
        assert is_hidden(registry, SECRET)
        assert not is_hidden(registry, PUBLIC)
        assert [OWN] == hidden(registry, BASE, OWN, OPEN)
        assert ["acme/secret"] == list(registry.private_repositories.names())

    def test_hides_its_images_from_the_first_request(self, registry):
        assert [OWN] == hidden(registry, OWN)

    def test_shows_everything_with_serve_private(self, driver, registry):
        everything = Registry(driver, serve_private=True)
        assert not is_hidden(everything, SECRET)
        assert [] == hidden(everything, BASE, OWN, OPEN)
        assert everything.private_images.is_private_image(OWN.id)

    def test_hides_the_repository_of_api_v2_with_that_name(self, registry):
        assert is_hidden(registry, RepositoryName.parse("acme/secret"))
        assert not is_hidden(registry, RepositoryName.parse("acme/web"))

    def test_hides_tagged_images_that_are_in_no_list(self, driver):
        for image in chain(2, first=10):
            store_raw(driver, image)
        base, top = chain(2, first=10)
        driver.put_content("repositories/acme/hidden/_private", b"")
        driver.put_content("repositories/acme/hidden/tag_v1", top.text.encode())
        assert [base, top] == hidden(Registry(driver), base, top)

    def test_of_0_7_1_is_hidden(self, tmp_path):
        driver = FileDriver(str(v1_trees.copy("registry-0.7.1", tmp_path / "tree")))
        registry = Registry(driver)
        assert [v1_trees.SECRET] == list(registry.private_repositories.names())
        shown = {image.name for image in (tmp_path / "tree" / "images").iterdir()} - v1_trees.SECRET_IMAGES
        for text in shown | v1_trees.SECRET_IMAGES:
            assert (text in v1_trees.SECRET_IMAGES) == is_hidden(registry, ImageId(text))


class TestANameOfApiV2:
    @pytest.mark.parametrize("text", ["foo", "library/foo"])
    def test_is_hidden_with_its_private_counterpart_in_api_v1(self, driver, text):
        driver.put_content("repositories/library/foo/_private", b"")
        assert is_hidden(Registry(driver), RepositoryName.parse(text))

    def test_that_is_invalid_in_api_v1_is_visible(self, registry):
        assert not is_hidden(registry, RepositoryName.parse("a" * 255))
        assert not is_hidden(registry, RepositoryName.parse("/".join("abcdefghij" * 12)))

    def test_is_not_in_the_catalog_while_hidden(self, registry):
        for text in ("acme/secret", "acme/web"):
            registry.blobs.link(RepositoryName.parse(text), Digest.of(b""))
        registry.private_images.set_private(SECRET, private=True)
        assert ("acme/web",) == registry.repositories.page(10).names
        assert ("acme/secret", "acme/web") == registry.repositories.page(10, with_hidden=True).names

    def test_cannot_be_mounted_from_while_hidden(self, registry):
        content, digest = b"secret", Digest.of(b"secret")
        registry.uploads.put(RepositoryName.parse("acme/secret"), digest, Content(content))
        registry.private_images.set_private(SECRET, private=True)
        with pytest.raises(BlobUnknown):
            registry.blobs.mount(RepositoryName.parse("acme/web"), digest, RepositoryName.parse("acme/secret"))


class TestARepositoryThatBecomesPrivate:
    @pytest.fixture
    def registry(self, registry):
        push(registry, BASE, OWN, OPEN)
        registry.image_repositories.put_images(SECRET, listed(BASE, OWN))
        registry.image_repositories.put_images(PUBLIC, listed(BASE, OPEN))
        registry.private_images.set_private(SECRET, private=True)
        return registry

    def test_is_hidden_by_every_worker_at_once(self, registry, driver):
        for each in (registry, Registry(driver)):
            assert is_hidden(each, SECRET)
            assert [OWN] == hidden(each, BASE, OWN, OPEN)

    def test_is_marked_as_by_0_7_1(self, driver, registry):
        assert b"" == driver.get_content("repositories/acme/secret/_private")

    def test_becomes_visible_with_its_images_when_made_public(self, registry, driver):
        registry.private_images.set_private(SECRET, private=False)
        for each in (registry, Registry(driver)):
            assert not is_hidden(each, SECRET)
            assert [] == hidden(each, BASE, OWN, OPEN)
        assert not driver.exists("repositories/acme/secret/_private")

    def test_hides_nothing_after_its_deletion(self, registry, driver):
        registry.image_repositories.delete(SECRET)
        assert not is_hidden(Registry(driver), SECRET)

    def test_does_not_hide_an_image_that_a_public_one_has_too(self, driver, registry):
        everything = Registry(driver, serve_private=True)
        everything.image_tag_pushes.put(PUBLIC, Tag("v1"), OWN.id, {})
        everything.private_images.publish_tagged(PUBLIC, OWN.id)
        assert [] == hidden(Registry(driver), BASE, OWN, OPEN)

    def test_stays_hidden_if_it_is_tagged(self, driver, registry):
        registry.private_images.publish_tagged(SECRET, OWN.id)
        assert [OWN] == hidden(registry, BASE, OWN, OPEN)

    def test_hides_images_pushed_to_it_later(self, driver, registry):
        everything = Registry(driver, serve_private=True)
        late = make(4, BASE)
        everything.image_repositories.put_images(SECRET, listed(BASE, late))
        everything.private_images.mark_listed(SECRET)
        push(everything, late)
        assert [OWN, late] == hidden(Registry(driver), BASE, OWN, OPEN, late)
        with pytest.raises(BlobUnknown):
            Registry(driver).blobs.mount(RepositoryName.parse("acme/web"), Digest.of(late.layer))
        assert Digest.of(OPEN.layer) == Registry(driver).blobs.mount(NEW, Digest.of(OPEN.layer)).digest

    def test_hides_no_image_while_public(self, driver, registry):
        late = make(4, BASE)
        registry.image_repositories.put_images(PUBLIC, listed(BASE, late))
        registry.private_images.mark_listed(PUBLIC)
        assert [] == hidden(registry, late)

    def test_sends_an_event(self, driver, registry):
        heard = []

        def hear(sender, name):
            heard.append(name)

        with events.repository_updated.connected_to(hear):
            registry.private_images.set_private(PUBLIC, private=True)
        assert [PUBLIC, RepositoryName("acme/web")] == heard


class TestARepositoryWithoutANameInApiV2:
    def test_hides_its_images_and_their_layers_when_it_becomes_private(self, driver, registry):
        name = ImageRepositoryName.parse("acme/Secret")
        push(registry, BASE, OWN, OPEN)
        registry.image_repositories.put_images(name, listed(BASE, OWN))
        registry.image_repositories.put_images(PUBLIC, listed(BASE, OPEN))
        registry.private_images.set_private(name, private=True)
        for each in (registry, Registry(driver)):
            assert [OWN] == hidden(each, BASE, OWN, OPEN)
            with pytest.raises(BlobUnknown):
                each.blobs.mount(NEW, Digest.of(OWN.layer))
            assert Digest.of(OPEN.layer) == each.blobs.mount(NEW, Digest.of(OPEN.layer)).digest


class TestARepositoryInTwoFolders:
    @pytest.mark.parametrize("folder", ["b%2Fc", "b%252Fc"])
    def test_is_private_if_either_folder_is(self, driver, folder):
        driver.put_content("repositories/a/b%2Fc/_index_images", b"[]")
        driver.put_content("repositories/a/b%252Fc/_index_images", b"[]")
        driver.put_content(f"repositories/a/{folder}/_private", b"")
        registry = Registry(driver)
        assert is_hidden(registry, DEEP)
        registry.private_images.set_private(DEEP, private=False)
        assert not is_hidden(Registry(driver), DEEP)
        assert 0 == Registry(driver).private_repositories.adopt()


class TestAdoption:
    def test_finds_later_changes_of_an_old_server(self, driver):
        store_tree(driver)
        registry = Registry(driver)
        assert 1 == registry.private_repositories.adopt()
        driver.remove("repositories/acme/secret/_private")
        driver.put_content("repositories/acme/web/_private", b"")
        assert 1 == registry.private_repositories.adopt()
        assert ["acme/web"] == list(registry.private_repositories.names())

    def test_ignores_files_outside_repositories(self, driver):
        store_tree(driver)
        driver.put_content(f"{layout.PRIVATE_REPOSITORIES}/No Name", b"")
        registry = Registry(driver)
        assert 1 == registry.private_repositories.adopt()
        assert ["acme/secret"] == registry.private_repositories.canonical_names()

    def test_needs_one_lookup_if_nothing_is_private(self, driver):
        registry = Registry(driver)
        assert [] == hidden(registry, BASE)
        assert not registry.private_images.is_private_image(BASE.id)
