"""A store is handed over from the CNCF distribution registry to ours and back, unchanged."""

from __future__ import annotations

import pytest

from tests.support.clients.v2 import DOCKER_LIST, Client, Refused
from tests.support.images import make_image, make_index, pull, push
from tests.support.servers.registry import Server

OLD_IMAGE = make_image("old image")
OLD_INDEX = make_index("old index")
NEW_IMAGE = make_image("new image")
NEW_INDEX = make_index("new index")

#: The repositories that distribution writes, and their tags.
OLD = {"adopted": ["first", "second"], "adopted/deep/er": ["index"], "adopted/docker": ["list"]}


@pytest.fixture(scope="module")
def store(distribution, skopeo, layouts, tmp_path_factory):
    """A folder that distribution has filled through a real client."""
    store = tmp_path_factory.mktemp("adoption") / "store"
    with distribution(store) as old:

        def copy(image, reference, *options):
            target = f"docker://127.0.0.1:{old.port}/{reference}"
            skopeo("copy", "--all", *options, "--dest-tls-verify=false", f"oci:{layouts(image)}:v1", target)

        copy(OLD_IMAGE, "adopted:first")
        copy(OLD_IMAGE, "adopted:second")
        copy(OLD_INDEX, "adopted/deep/er:index")
        copy(OLD_INDEX, "adopted/docker:list", "--format=v2s2")
    return store


@pytest.fixture(scope="module")
def before(distribution, store):
    """The content that distribution serves, and an unfinished upload."""
    with distribution(store) as old, Client(old.url) as client:
        location, _ = client.append(client.start_upload("adopted"), b"unfinished")
        served = {(name, tag): pull(client, name, tag) for name, tags in OLD.items() for tag in tags}
        return {"served": served, "upload": location.removeprefix(old.url)}


@pytest.fixture(scope="module")
def ours(store, before):
    with Server(store, workers=2) as server, Client(server.url) as client:
        yield client


class TestContentOfDistribution:
    @pytest.mark.parametrize(("name", "tag"), [(name, tag) for name, tags in OLD.items() for tag in tags])
    def test_is_served_byte_for_byte(self, ours, before, name, tag):
        assert before["served"][name, tag] == pull(ours, name, tag)

    def test_has_the_pushed_media_types(self, ours):
        assert OLD_IMAGE.media_type == ours.get_manifest("adopted", "first").media_type
        assert OLD_INDEX.media_type == ours.get_manifest("adopted/deep/er", "index").media_type
        assert DOCKER_LIST == ours.get_manifest("adopted/docker", "list").media_type

    def test_is_served_by_digest(self, ours):
        assert OLD_IMAGE.manifest == ours.get_manifest("adopted", OLD_IMAGE.digest).payload

    def test_is_listed(self, ours):
        assert set(OLD) <= set(ours.repositories())
        assert OLD == {name: ours.tags(name) for name in OLD}

    def test_can_be_mounted(self, ours):
        (layer, *_) = OLD_IMAGE.blobs
        assert ours.mount("adopted/elsewhere", layer, "adopted")
        assert OLD_IMAGE.blobs[layer] == ours.get_blob("adopted/elsewhere", layer)

    def test_that_is_an_unfinished_upload_cannot_be_continued(self, ours, before):
        with pytest.raises(Refused) as refused:
            ours.append(before["upload"], b"more")
        assert (404, "BLOB_UPLOAD_UNKNOWN") == (refused.value.status, refused.value.code)


@pytest.fixture(scope="module")
def after(store, before):
    """Ours continues on the store of distribution: a new image, a new index, a moved tag, a deleted tag and image."""
    with Server(store, workers=2) as server, Client(server.url) as client:
        push(client, "adopted", "third", NEW_IMAGE)
        push(client, "adopted", "second", NEW_IMAGE, "ranged")
        push(client, "ours/alone", "index", NEW_INDEX, "put")
        push(client, "ours/gone", "v1", NEW_IMAGE, "posted")
        client.delete_manifest("ours/gone", NEW_IMAGE.digest)
        client.append(client.start_upload("ours/alone"), b"unfinished")


class TestAStoreSharedWithDistribution:
    def test_is_served_by_distribution_with_our_content(self, distribution, store, before, after):
        with distribution(store) as old, Client(old.url) as client:
            assert OLD_IMAGE.contents == pull(client, "adopted", "first")
            assert NEW_IMAGE.contents == pull(client, "adopted", "second")
            assert NEW_IMAGE.contents == pull(client, "adopted", "third")
            assert NEW_INDEX.contents == pull(client, "ours/alone", "index")
            assert before["served"]["adopted/docker", "list"] == pull(client, "adopted/docker", "list")
            assert ["first", "second", "third"] == sorted(client.tags("adopted"))
            assert {*OLD, "ours/alone"} <= set(client.repositories())
            assert not client.has_manifest("ours/gone", "v1")
            push(client, "ours/alone", "theirs", OLD_IMAGE)
            client.delete_manifest("adopted", NEW_IMAGE.digest)
        with Server(store) as server, Client(server.url) as client:
            assert OLD_IMAGE.contents == pull(client, "ours/alone", "theirs")
            assert ["first"] == client.tags("adopted")

    def test_survives_the_garbage_collection_of_distribution(self, distribution, store, before, after):
        with distribution(store) as old:
            pass
        old.collect_garbage()
        with Server(store) as server, Client(server.url) as client:
            assert NEW_INDEX.contents == pull(client, "ours/alone", "index")
            assert OLD_INDEX.contents == pull(client, "adopted/deep/er", "index")
