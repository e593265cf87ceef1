"""A repository has one set of tags, whichever API wrote them: the last push wins."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import (
    ImageRepositoryUnknown,
    ImageTagUnknown,
    ManifestUnknown,
    NameUnknown,
    StorageUnavailable,
    TagChanged,
    TagImmutable,
)
from docker_registry.registry import events, layout
from docker_registry.registry.actor import ANONYMOUS
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag
from tests.registry.bridge.both import NEW, OLD, V1, V2, config_of, layer, make_v2, push_v1, push_v2, v1_image
from tests.support.registries import Registry
from tests.support.v1_images import chain, make

OLD_FOO, FOO, LIBRARY_FOO = ImageRepositoryName.parse("foo"), RepositoryName("foo"), RepositoryName("library/foo")
DOCKER = "application/vnd.docker.distribution.manifest.v2+json"
OCI = "application/vnd.oci.image.manifest.v1+json"


def kind(registry, name=NEW, tag=V1):
    """The manifest of a tag for V2 clients, generated from an image of V1 if necessary."""
    return registry.manifests.get(name, tag).descriptor.media_type


class TestTheLastPush:
    def test_by_v2_hides_the_push_of_v1(self, registry):
        push_v1(registry, [make(1)])
        digest = push_v2(registry, layer(2), tag=V1)
        assert digest == registry.tags.get(NEW, V1)
        assert v1_image(registry, OLD, V1) != make(1).id
        assert {"v1": str(v1_image(registry, OLD, V1))} == registry.image_tags.list(OLD)

    def test_by_v1_replaces_the_push_of_v2(self, registry):
        push_v2(registry, layer(2), tag=V1)
        push_v1(registry, [make(1)])
        assert make(1).id == v1_image(registry, OLD, V1)
        assert DOCKER == kind(registry)

    def test_by_v1_tells_which_manifest_it_replaces(self, registry):
        push_v1(registry, [make(1)], tag=V2)
        digest = push_v2(registry, layer(2), tag=V1)
        assert digest == registry.image_tag_pushes.put(OLD, V1, make(1).id, {})
        push_v2(registry, layer(2), tag=V1)
        assert digest == registry.image_tags.delete(OLD, V1)

    def test_wins_again_and_again(self, registry):
        for number in range(3):
            push_v1(registry, [make(number)])
            assert make(number).id == v1_image(registry, OLD, V1)
            assert DOCKER == kind(registry)
            digest = push_v2(registry, layer(number), tag=V1)
            assert digest == registry.tags.get(NEW, V1)

    def test_of_both_is_in_both_lists(self, registry):
        push_v1(registry, [make(1)], tag=V1)
        push_v2(registry, layer(2), tag=V2)
        push_v2(registry, layer(3), tag=Tag("a"))
        assert [Tag("a"), V1, V2] == list(registry.tags.list(NEW))
        assert ["a", "v1"] == list(registry.tags.page(NEW, 2).names)
        assert ["v2"] == list(registry.tags.page(NEW, 2, "v1").names)
        assert {"a", "v1", "v2"} == registry.image_tags.list(OLD).keys()
        assert ["acme/web"] == list(registry.repositories.page(10).names)


class CountingDriver(MemoryDriver):
    """Counts the writes of each small file."""

    def __init__(self):
        super().__init__()
        self.writes = Counter()

    def put_content(self, path, content, *, if_match=None):
        self.writes[path] += 1
        super().put_content(path, content, if_match=if_match)


class Overtaking(MemoryDriver):
    """A store in which API V2 pushes a tag again whenever API V1 removes it."""

    def remove_if_match(self, path, version):
        link = self.get_content(path)
        super().remove_if_match(path, version)
        if path == layout.tag_link(NEW, V1):
            self.put_content(path, link)


class TestATagThatIsPushedWithoutEnd:
    def test_is_an_error_for_the_clients_that_it_overtakes(self):
        registry = Registry(Overtaking())
        push_v1(registry, [make(1)], tag=V2)
        digest = push_v2(registry, layer(2), tag=V1)
        told = []
        with (
            events.tag_created.connected_to(lambda *_, **event: told.append(event)),
            pytest.raises(StorageUnavailable, match="Too many pushes to one tag"),
        ):
            registry.image_tag_pushes.put(OLD, V1, make(1).id, {})
        with pytest.raises(StorageUnavailable, match="Too many pushes to one repository"):
            registry.image_tags.delete_repository(OLD)
        assert ([], digest) == (told, registry.tags.get(NEW, V1))


class TestATagOfV1OnAnImageOfV2:
    @pytest.fixture
    def driver(self):
        return CountingDriver()

    def test_points_at_the_same_manifest(self, registry):
        digest = push_v2(registry, layer(1), tag=V2)
        registry.image_tag_pushes.put(OLD, V1, v1_image(registry, OLD, V2), {"docker_version": "1.5.0"})
        assert digest == registry.tags.get(NEW, V1)
        assert "1.5.0" == registry.image_tags.get_json(OLD, V1)["docker_version"]

    def test_points_at_the_manifest_in_another_repository(self, registry):
        digest = push_v2(registry, layer(1), tag=V2)
        other, top = ImageRepositoryName.parse("acme/other"), v1_image(registry, OLD, V2)
        registry.image_tag_pushes.put(other, V1, top, {})
        manifest = registry.manifests.get(RepositoryName("acme/other"), V1)
        assert digest == manifest.descriptor.digest
        for each in (json.loads(manifest.payload)["config"], *json.loads(manifest.payload)["layers"]):
            assert registry.blobs.stat(RepositoryName("acme/other"), Digest.parse(each["digest"]))

    def test_keeps_an_index_that_contains_the_image(self, registry, driver):
        payload = make_v2(registry, layer(1))
        child = registry.manifest_pushes.put(NEW, Digest.of(payload), payload, None).descriptor
        index = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.index.v1+json",
            "manifests": [{"mediaType": OCI, "digest": str(child.digest), "size": child.size}],
        }
        digest = registry.manifest_pushes.put(NEW, V1, json.dumps(index).encode(), None).descriptor.digest
        registry.image_tag_pushes.put(OLD, V1, v1_image(registry, OLD, V1), {})
        assert digest == registry.tags.get(NEW, V1)
        assert 1 == driver.writes["repositories/acme/web/tag_v1"]
        registry.image_tag_pushes.put(OLD, V2, v1_image(registry, OLD, V1), {})
        assert child.digest == registry.tags.get(NEW, V2)

    def test_that_keeps_its_manifest_is_written_once(self, registry, driver):
        payload = json.loads(make_v2(registry, layer(1)))
        for number, tag in enumerate((V1, V2)):
            variant = json.dumps({**payload, "annotations": {"number": str(number)}}).encode()
            registry.manifest_pushes.put(NEW, tag, variant, None)
            assert v1_image(registry, OLD, V1) == v1_image(registry, OLD, tag)
        for tag in (V1, V2):
            kept = registry.tags.get(NEW, tag)
            driver.writes.clear()
            registry.image_tag_pushes.put(OLD, tag, v1_image(registry, OLD, V1), {})
            assert kept == registry.tags.get(NEW, tag)
            assert 1 == driver.writes[f"repositories/acme/web/tag_{tag}"]

    def test_may_be_on_an_image_within_a_chain(self, registry):
        push_v2(registry, layer(1), layer(2), tag=V2)
        below = registry.images.ancestry(v1_image(registry, OLD, V2))[1]
        registry.image_tag_pushes.put(OLD, V1, type(v1_image(registry, OLD, V2))(below), {})
        assert 1 == len(json.loads(config_of(registry, NEW, V1))["rootfs"]["diff_ids"])


class TestDeletion:
    @pytest.fixture(params=["v1", "v2", "v1 then v2", "v2 then v1"])
    def tagged(self, request, registry):
        for api in request.param.split(" then "):
            if api == "v1":
                push_v1(registry, [make(1)])
            else:
                push_v2(registry, layer(2), tag=V1)
        return registry

    @pytest.fixture(params=["v1", "v2"])
    def delete(self, request):
        if request.param == "v1":
            return lambda registry: registry.image_tags.delete(OLD, V1)
        return lambda registry: registry.removal.delete_manifest(NEW, V1)

    def test_of_a_tag_by_either_api_applies_to_both(self, tagged, delete):
        delete(tagged)
        with pytest.raises(ManifestUnknown):
            tagged.manifests.get(NEW, V1)
        with pytest.raises(ImageTagUnknown):
            tagged.image_tags.get(OLD, V1)
        assert () == tagged.tags.list(NEW)
        with pytest.raises((ManifestUnknown, ImageTagUnknown)):
            delete(tagged)

    def test_of_a_generated_manifest_deletes_the_tags_of_its_image(self, registry):
        push_v1(registry, [make(1)], tag=V1)
        push_v1(registry, [make(1)], tag=V2)
        push_v1(registry, [make(2)], tag=Tag("other"))
        registry.removal.delete_manifest(NEW, registry.manifests.get(NEW, V1).descriptor.digest)
        assert [Tag("other")] == list(registry.tags.list(NEW))
        assert {"other": make(2).text} == registry.image_tags.list(OLD)
        with pytest.raises(ManifestUnknown):
            registry.manifests.get(NEW, V1)

    def test_of_a_manifest_keeps_a_v1_tag_hidden_by_another_push(self, registry):
        push_v1(registry, [make(1)])
        made = registry.manifests.get(NEW, V1).descriptor.digest
        digest = push_v2(registry, layer(2), tag=V1)
        registry.removal.delete_manifest(NEW, made)
        assert digest == registry.tags.get(NEW, V1)

    def test_of_a_repository_by_v1_deletes_its_tags_in_both_apis(self, registry):
        push_v1(registry, [make(1)], tag=V1)
        digest = push_v2(registry, layer(2), tag=V2)
        registry.image_tags.delete_repository(OLD)
        assert () == registry.tags.list(NEW)
        with pytest.raises(ImageRepositoryUnknown):
            registry.image_tags.list(OLD)
        with pytest.raises(ImageRepositoryUnknown):
            registry.image_tags.delete_repository(OLD)
        assert OCI == registry.manifests.get(NEW, digest).descriptor.media_type  # until it is collected


class TestAnImmutableTag:
    @pytest.fixture
    def registry(self, driver):
        return Registry(driver, immutable_tags=["v*"])

    def test_of_v1_is_not_changed_by_v2(self, registry):
        push_v1(registry, [make(1)])
        with pytest.raises(TagImmutable):
            push_v2(registry, layer(2), tag=V1)
        with pytest.raises(TagImmutable):
            registry.removal.delete_manifest(NEW, V1)
        with pytest.raises(TagImmutable):
            registry.removal.delete_manifest(NEW, registry.tags.get(NEW, V1))

    def test_of_v1_without_a_manifest_is_not_changed_by_v2(self, registry):
        push_v1(registry, [make(1, layer=b"no tar")])
        with pytest.raises(TagImmutable):
            push_v2(registry, layer(2), tag=V1)

    @pytest.mark.parametrize("kinds", [[], ["application/vnd.example.thing"]], ids=["image", "no image"])
    def test_of_v2_is_not_changed_by_v1(self, registry, kinds):
        push_v2(registry, layer(2), tag=V1, media_types=kinds)
        with pytest.raises(TagImmutable):
            push_v1(registry, [make(1)])
        with pytest.raises(TagImmutable):
            registry.image_tags.delete(OLD, V1)
        with pytest.raises(TagImmutable):
            registry.image_tags.delete_repository(OLD)


class TestACondition:
    def test_of_v2_takes_tags_of_v1_into_account(self, registry):
        push_v1(registry, [make(1)])
        current = registry.tags.get(NEW, V1)
        payload = make_v2(registry, layer(2))
        with pytest.raises(TagChanged):
            registry.manifest_pushes.put(NEW, V1, payload, None, condition=lambda digest: digest is None)
        registry.manifest_pushes.put(NEW, V1, payload, None, condition=lambda digest: digest == current)
        assert OCI == kind(registry)


class TestNames:
    def test_without_a_slash_are_one_repository(self, registry):
        push_v1(registry, [make(1)], name=OLD_FOO)
        push_v2(registry, layer(2), name=FOO, tag=V2)
        assert ["foo"] == list(registry.repositories.page(10).names)
        assert {V1, V2} == set(registry.tags.list(FOO))
        assert {"v1", "v2"} == registry.image_tags.list(OLD_FOO).keys()

    def test_of_the_library_have_their_meaning_in_v1(self, registry):
        push_v1(registry, [make(1)], name=OLD_FOO)
        assert FOO == registry.repositories.resolve(LIBRARY_FOO)
        assert FOO == registry.repositories.resolve(FOO)

    def test_of_the_library_are_themselves_if_v2_has_the_repository(self, registry):
        push_v1(registry, [make(1)], name=OLD_FOO)
        push_v2(registry, layer(2), name=LIBRARY_FOO, tag=V1)
        assert LIBRARY_FOO == registry.repositories.resolve(LIBRARY_FOO)
        assert (DOCKER, OCI) == (kind(registry, FOO), kind(registry, LIBRARY_FOO))
        assert make(1).id == v1_image(registry, OLD_FOO, V1)

    def test_of_the_library_are_unknown_if_only_v2_has_the_short_name(self, registry):
        push_v2(registry, layer(2), name=FOO)
        assert LIBRARY_FOO == registry.repositories.resolve(LIBRARY_FOO)
        with pytest.raises(NameUnknown):
            registry.repositories.check(LIBRARY_FOO)

    def test_of_the_library_are_visible_in_v1_if_the_short_name_lacks_the_tag(self, registry):
        push_v2(registry, layer(1), name=FOO, tag=V1)
        push_v2(registry, layer(2), name=LIBRARY_FOO, tag=V1)
        push_v2(registry, layer(3), name=LIBRARY_FOO, tag=V2)
        tags = registry.image_tags.list(OLD_FOO)
        assert {"v1", "v2"} == tags.keys()
        assert str(registry.tags.get(FOO, V1)) != str(registry.tags.get(LIBRARY_FOO, V1))
        assert json.loads(registry.manifests.get(FOO, V1).payload)["config"]["digest"] == f"sha256:{tags['v1']}"

    def test_that_are_valid_in_v1_only_are_its_own(self, registry):
        capital = ImageRepositoryName.parse("Acme/Web")
        push_v1(registry, [make(1)], name=capital)
        assert {"v1": make(1).text} == registry.image_tags.list(capital)
        assert () == registry.repositories.page(10).names


class TestAPrivateRepository:
    def test_hides_pushes_of_v2_from_v1(self, registry):
        push_v2(registry, layer(1))
        top = v1_image(registry, OLD, V2)
        assert not registry.private_images.is_private_image(top)
        registry.private_images.set_private(OLD, private=True)
        assert registry.private_images.is_private_image(top)
        assert not registry.access.may_pull(ANONYMOUS, NEW)

    def test_does_not_hide_images_of_public_repositories(self, registry):
        push_v2(registry, layer(1))
        push_v2(registry, layer(1), name=RepositoryName("acme/public"))
        registry.private_images.set_private(OLD, private=True)
        assert registry.private_images.is_private_image(v1_image(registry, OLD, V2))
        top = v1_image(registry, ImageRepositoryName.parse("acme/public"), V2)
        assert not registry.private_images.is_private_image(top)


class Died(BaseException):
    """A crash, which no code catches."""


class Dying(MemoryDriver):
    """A store whose server dies before a given number of changes."""

    changes = -1

    def put_content(self, *arguments, **keywords):
        self._count()
        super().put_content(*arguments, **keywords)

    def remove(self, path):
        self._count()
        super().remove(path)

    def remove_if_match(self, path, version):
        self._count()
        super().remove_if_match(path, version)

    def _count(self):
        if self.changes == 0:
            raise Died
        self.changes -= 1


STEPS = {
    "v1 pushes": lambda registry: registry.image_tag_pushes.put(OLD, V1, make(9).id, {}),
    "v1 tags an image of v2": lambda registry: registry.image_tag_pushes.put(OLD, V1, v1_image(registry, OLD, V2), {}),
    "v2 pushes": lambda registry: push_v2(registry, layer(5), tag=V1),
    "v1 deletes": lambda registry: registry.image_tags.delete(OLD, V1),
    "v2 deletes": lambda registry: registry.removal.delete_manifest(NEW, V1),
    "v2 deletes the manifest": lambda registry: registry.removal.delete_manifest(NEW, registry.tags.get(NEW, V1)),
    "v1 deletes all": lambda registry: registry.image_tags.delete_repository(OLD),
    "v2 asks for an image of v1": lambda registry: registry.manifests.get(NEW, Tag("unseen")),
}


def wait_for_leases(driver):
    """Advance the time beyond all leases of a dead process."""
    if driver.exists("docker/registry/v2/_leases"):
        driver.remove("docker/registry/v2/_leases")


#: Each step, after every possible earlier push by either API; a missing tag cannot be deleted.
CRASHES = [
    (step, before)
    for step in STEPS
    for before in ((), ("v1",), ("v2",), ("v1", "v2"), ("v2", "v1"))
    if before or step not in ("v1 deletes", "v2 deletes", "v2 deletes the manifest")
]


class TestACrash:
    """Whenever a server dies, a tag has its old or its new target, the same for both APIs."""

    def prepare(self, before):
        driver = Dying()
        registry = Registry(driver)
        push_v1(registry, [make(9)], tag=Tag("nine"))
        push_v1(registry, chain(2, 20), tag=Tag("unseen"))
        push_v2(registry, layer(8), tag=V2)
        for api in before:
            if api == "v1":
                push_v1(registry, [make(1)])
            else:
                push_v2(registry, layer(2), tag=V1)
        return driver, registry

    def state(self, registry):
        """The target of a tag in V2, and in V1."""
        try:
            digest = registry.manifests.get(NEW, V1).descriptor.digest
        except ManifestUnknown:
            digest = None
        try:
            image_id = v1_image(registry, OLD, V1)
        except (ImageTagUnknown, ImageRepositoryUnknown):
            image_id = None
        return digest, image_id

    @pytest.mark.parametrize(
        ("step", "before"), CRASHES, ids=lambda value: value if value in STEPS else ",".join(value)
    )
    def test_leaves_the_old_tag_or_the_new_one(self, step, before):
        driver, registry = self.prepare(before)
        old = self.state(Registry(driver))
        STEPS[step](registry)
        new = self.state(Registry(driver))
        for changes in range(100):
            driver, registry = self.prepare(before)
            driver.changes = changes
            try:
                STEPS[step](registry)
            except Died:
                driver.changes = -1
                wait_for_leases(driver)
                assert self.state(Registry(driver)) in (old, new), changes
                self.nothing_is_named_that_is_not_there(Registry(driver))
            else:
                driver.changes = -1
                assert new == self.state(Registry(driver))
                return
        pytest.fail("it never ends")

    def nothing_is_named_that_is_not_there(self, registry):
        for tag in registry.tags.list(NEW):
            for each in json.loads(registry.manifests.get(NEW, tag).payload)["layers"]:
                assert registry.blobs.stat(NEW, Digest.parse(each["digest"]))
        try:
            named = registry.image_tags.list(OLD).values()
        except ImageRepositoryUnknown:
            return
        for text in named:
            for below in registry.images.ancestry(type(make(1).id)(text)):
                assert registry.images.find_layer(type(make(1).id)(below))
