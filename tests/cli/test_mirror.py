"""``docker-registry mirror``: what is known of mirrored registries, and filling the mirror."""

from __future__ import annotations

import json

import pytest

from docker_registry.cli import main
from docker_registry.cli.command import load_config
from docker_registry.cli.mirror import MAX_LIST_BYTES
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.registry.mirror.status import Reachability, StatusRecords
from docker_registry.registry.names import Digest, ImageRepositoryName, RepositoryName, Tag
from docker_registry.services import build
from tests.support import v1_images
from tests.support.clients.v2 import OCI_INDEX, digest_of, encoded
from tests.support.images import descriptor, make_image, make_index
from tests.support.servers.upstream import Answer, Upstream
from tests.support.servers.v1_source import PING, serve_image, serve_repository

INDEX, IMAGE = make_index("warm"), make_image("single")
BASE = v1_images.make(1)


@pytest.fixture(scope="module")
def upstream():
    with Upstream() as upstream:
        upstream.contents[""] = Answer(b"{}", headers={"Docker-Distribution-Api-Version": "registry/2.0"})
        for image in (*INDEX.images, IMAGE):
            upstream.add("library/app", image.digest, image)
        upstream.add("library/app", "single", IMAGE)
        upstream.put_manifest("library/app", "latest", INDEX.manifest, INDEX.media_type)
        yield upstream


@pytest.fixture
def store(tmp_path, monkeypatch, upstream):
    """The folder of a store that mirrors the upstream, which a configuration names."""

    def configure(platforms=(), **upstreams):
        section = {
            "storage": "file",
            "storage_path": str(tmp_path / "store"),
            "mirroring": {
                "upstreams": [{"name": name, "url": url, "platforms": platforms} for name, url in upstreams.items()]
            },
        }
        (tmp_path / "config.yml").write_text(json.dumps({"dev": section}))  # JSON is YAML

    configure(up=upstream.url)
    monkeypatch.setenv("DOCKER_REGISTRY_CONFIG", str(tmp_path / "config.yml"))
    monkeypatch.delenv("SETTINGS_FLAVOR", raising=False)
    upstream.requests.clear()
    store = tmp_path / "store"
    monkeypatch.chdir(tmp_path)
    return store, configure


def run(capsys, *arguments):
    """Run an action, and return its status and output."""
    status = main(["mirror", *arguments])
    return status, capsys.readouterr().out


def blobs(store):
    return {f"sha256:{path.parent.name}" for path in store.glob("docker/registry/v2/blobs/sha256/*/*/data")}


class TestTheMirrorCommand:
    def test_fetches_images_for_one_platform(self, store, upstream, capsys):
        child = INDEX.images[1]
        status, out = run(capsys, "warm", "up/library/app", "--platform", "linux/arm64")
        size = sum(map(len, child.blobs.values()))
        assert (0, f"up/library/app  {INDEX.digest}  2 manifests, 3 blobs, {size} bytes\n") == (status, out)
        assert {INDEX.digest, *child.contents} == blobs(store[0])
        asked = len(upstream.requests)
        same_platform = "linux/arm64/v8"
        assert (status, out) == run(capsys, "warm", "up/library/app", "--platform", same_platform)
        assert asked == len(upstream.requests), "what is here is not fetched again"
        assert 2 == main(["mirror", "warm", "up/library/app", "--platform", "arm64"])

    def test_fetches_images_for_the_platforms_of_the_upstream(self, store, upstream, capsys):
        store[1](up=upstream.url, platforms=["linux/arm64"])
        assert 0 == run(capsys, "warm", "up/library/app")[0]
        assert {INDEX.digest, *INDEX.images[1].contents} == blobs(store[0])
        without = [descriptor(INDEX.manifest, INDEX.media_type), descriptor(IMAGE.manifest, IMAGE.media_type)]
        outer = digest_of(serve_index(upstream, "without", without))
        assert 0 == run(capsys, "warm", "up/library/app:without")[0], "entries without a platform are for all"
        assert {outer, INDEX.digest, *INDEX.images[1].contents, *IMAGE.contents} == blobs(store[0])

    def test_fetches_the_images_in_a_list(self, store, capsys, tmp_path):
        (tmp_path / "list.txt").write_text(f"# two images\n\nup/library/app:single\nup/library/app@{INDEX.digest}\n")
        status, out = run(capsys, "warm", "list.txt", "--json")
        rows = json.loads(out)["images"]
        assert (0, [IMAGE.digest, INDEX.digest]) == (status, [row["digest"] for row in rows])
        assert {None} == {row["error"] for row in rows}
        assert {*INDEX.contents, *IMAGE.contents} == blobs(store[0])

    def test_fetches_a_manifest_that_an_index_names_for_several_platforms(self, store, upstream, capsys):
        platforms = [{"os": "linux", "architecture": "arm", "variant": variant} for variant in ("v6", "v7")]
        entries = [descriptor(IMAGE.manifest, IMAGE.media_type, platform=platform) for platform in platforms]
        serve_index(upstream, "arm", entries)
        for variant in ("v6", "v7"):
            status, out = run(capsys, "warm", "up/library/app:arm", "--platform", f"linux/arm/{variant}")
            assert (0, True) == (status, "  2 manifests, 3 blobs" in out), out

    def test_refuses_indexes_that_are_nested_too_deeply(self, store, upstream, capsys):
        child = descriptor(IMAGE.manifest, IMAGE.media_type)
        for depth in range(1, 5):
            child = descriptor(serve_index(upstream, f"depth-{depth}", [child]), OCI_INDEX)
        assert 0 == run(capsys, "warm", "up/library/app:depth-3")[0]
        status, out = run(capsys, "warm", "up/library/app:depth-4")
        assert (1, True) == (status, "nested too deeply" in out), out

    def test_says_which_images_it_cannot_fetch(self, store, upstream, capsys, tmp_path):
        reasons = {
            "up/library/app:none": "has no such",
            "up/library/app:latest": "has no image for these platforms",
            "up/library/app:nested": "has no image for these platforms",
            "library/app:latest": "must begin with that of an upstream: up",
            "up/../app": "name is invalid",
            "x" * 300: "must begin with that of an upstream: up",
            "Images.txt": "This is not a file",
            "up/library/app@sha256:1": "digest is invalid",
        }
        serve_index(upstream, "nested", [descriptor(INDEX.manifest, INDEX.media_type)])
        images = [*reasons, "up/library/app:single"]
        status, out = run(capsys, "warm", *images, "--platform", "linux/s390x", "--json")
        *failed, fetched = json.loads(out)["images"]
        assert (1, None) == (status, fetched["error"])
        for row in failed:
            assert reasons[row["image"]] in row["error"]
        (tmp_path / "list").write_text("x" * (MAX_LIST_BYTES + 1))
        asked = len(upstream.requests)
        assert 2 == main(["mirror", "warm", "up/library/app:latest", "list"])
        assert asked == len(upstream.requests)

    def test_removes_what_was_fetched(self, store, capsys, upstream):
        images = ("up/library/app:single", "up/library/app:latest")
        assert 0 == run(capsys, "warm", *images)[0]
        with build(load_config()) as built:  # a repository to which clients push has one of the layers
            registry, layer = built.registry, IMAGE.layers[0]
            registry.blobs.link(RepositoryName("mine"), Digest.of(layer))
        assert 2 == main(["mirror", "purge", "mine"])
        everything = {*INDEX.contents, *IMAGE.contents}
        assert everything == blobs(store[0])
        status, out = run(capsys, "purge", "up/library", "--json")
        (row,) = json.loads(out)["repositories"]
        assert (0, "up/library/app", len(everything)) == (status, row["repository"], row["removed"])
        size = sum(map(len, (INDEX.contents | IMAGE.contents).values()))
        assert size - len(layer) == row["bytes"]
        asked = len(upstream.requests)
        assert 0 == run(capsys, "warm", images[0])[0]
        assert asked + len(IMAGE.blobs) + 1 <= len(upstream.requests)

    def test_removes_images_that_were_fetched_by_api_v1(self, store, capsys, tmp_path):
        one, two, shared = v1_images.make(2, BASE), v1_images.make(3, BASE), v1_images.make(4)
        with Upstream() as source:
            source.contents[PING] = Answer(b"true")
            for image in (BASE, one, two, shared):
                serve_image(source, image)
            serve_repository(source, "acme/one", {"latest": one.text}, json.dumps([{"id": shared.text}]).encode())
            serve_repository(source, "acme/two", {"latest": two.text}, b"[]")
            section = {"storage": "file", "storage_path": str(store[0]), "mirroring": {"source": source.url}}
            (tmp_path / "config.yml").write_text(json.dumps({"dev": section}))
            with build(load_config()) as built:
                pulls = built.require_legacy().image_pulls
                for name in ("acme/one", "acme/two"):
                    repository = ImageRepositoryName.parse(name)
                    pulls.tags(repository)
                    pulls.list_images(repository)
                for image in (BASE, one, two, shared):
                    assert image.layer == b"".join(pulls.layer(image.id).value.read(0, len(image.layer)))
                name = ImageRepositoryName("mine", "app")
                built.require_legacy().image_tag_pushes.put(name, Tag("v1"), shared.id, {})
            host = f"127.0.0.1-{source.port}"
            status, out = run(capsys, "purge", f"{host}/acme/one", "--json")
            removed = {"repository": f"{host}/acme/one", "removed": 1, "bytes": len(one.layer)}
            assert (0, [removed]) == (status, json.loads(out)["repositories"])
            assert {BASE.text, two.text, shared.text} == {path.parent.name for path in store[0].glob("images/*/json")}
            size = len(BASE.layer + two.layer)
            line = f"{host}/acme/two  2 manifests, blobs and images, {size} bytes\n"
            assert (0, line) == run(capsys, "purge", host)
            assert 2 == main(["mirror", "purge", host])

    def test_asks_each_upstream(self, store, capsys, upstream):
        configure = store[1]
        configure(up=upstream.url, away="http://127.0.0.1:1")
        status, out = run(capsys, "check", "--json")
        up, away = json.loads(out)["upstreams"]
        assert (1, None, upstream.url) == (status, up["error"], up["url"])
        assert away["error"] == "The upstream registry cannot be reached. (connection refused)"
        configure(up=upstream.url)
        assert (0, f"up  {upstream.url}  ok\n") == run(capsys, "check")

    def test_shows_what_workers_have_published(self, store, capsys, upstream):
        assert (0, True) == (run(capsys, "status")[0], "up  " in run(capsys, "status")[1])
        upstream.contents["library/app/manifests/limited"] = Answer(
            IMAGE.manifest,
            headers={
                "Content-Type": IMAGE.media_type,
                "Docker-Content-Digest": digest_of(IMAGE.manifest),
                "ratelimit-limit": "100;w=21600",
                "ratelimit-remaining": "87;w=21600",
            },
        )
        counts = {("requests", "blob", "up"): 3, ("hits", "blob", "up"): 2, ("misses", "manifest", "up"): 1}
        counts["pushed_bytes", "blob", "up"] = 10_000
        for _ in range(2):  # two workers
            with build(load_config()) as built:
                built.registry.manifests.get(*parse("up/library/app", "limited"))
                built.mirror.publish_status(counts)
                built.mirror.publish_status(counts)  # nothing new
        (row,) = json.loads(run(capsys, "status", "--json")[1])["upstreams"]
        known = {"name": "up", "url": upstream.url, "is_reachable": True, "limit": 100, "remaining": 87, "reason": ""}
        known |= {"refused": 0.0, "refusal": ""}
        sums = {"requests": 6, "hits": 4, "misses": 2, "pushed_bytes": 20_000, "pulled_bytes": len(IMAGE.manifest)}
        expected = known | sums | {"saved_bytes": 20_000 - len(IMAGE.manifest)}
        assert expected == {name: value for name, value in row.items() if name not in ("since", "asked")}
        line = run(capsys, "status")[1]
        assert f"up  {upstream.url}  reachable since 20" in line
        assert line.endswith(f"87 of 100 pulls left  4 hits, 2 misses, {expected['saved_bytes']} bytes saved\n")

    def test_changes_nothing_while_the_registry_is_read_only(self, store, upstream):
        with build(load_config()) as built:
            built.read_only.switch_on("moving")
        for arguments in (["warm", "up/library/app"], ["purge", "up"]):
            assert 2 == main(["mirror", *arguments])
        assert [] == upstream.requests

    def test_needs_an_upstream(self, store, capsys):
        store[1]()
        for action in (["status"], ["check"], ["warm", "x"]):
            assert 2 == main(["mirror", *action])

    @pytest.mark.parametrize("arguments", [[], ["warm"], ["status", "x"], ["fill"]])
    def test_rejects_wrong_usage(self, store, arguments):
        with pytest.raises(SystemExit) as stopped:
            main(["mirror", *arguments])
        assert 2 == stopped.value.code


class TestTheStateOfAnUpstream:
    """Two workers publish what they know, at 10, 20, … seconds."""

    @pytest.fixture
    def records(self):
        return StatusRecords(MemoryDriver())

    def test_lasts_since_the_last_change_that_any_worker_has_seen(self, records):
        for state in (
            Reachability(is_reachable=True, since=10, asked=10),  # of one worker
            Reachability(is_reachable=False, since=20, asked=20, reason="away"),  # of another one
            Reachability(is_reachable=True, since=10, asked=30),
        ):
            records.add("up", state, {})
        assert (True, 20) == (records.find("up").is_reachable, records.find("up").since)
        records.add("up", Reachability(is_reachable=True, since=10, asked=40), {})
        assert 20 == records.find("up").since
        records.add("up", Reachability(is_reachable=True, since=50, asked=50), {})
        assert 20 == records.find("up").since, "a worker that has just started"

    def test_has_the_last_refusal_of_any_worker(self, records):
        records.add("up", Reachability(is_reachable=True, since=10, asked=30), {})
        records.add("up", Reachability(is_reachable=True, since=10, asked=20, refused=20, refusal="denied"), {})
        records.add("up", Reachability(is_reachable=True, since=10, asked=40), {})
        found = records.find("up")
        assert (40, 20, "denied") == (found.asked, found.refused, found.refusal)


def serve_index(upstream, tag, entries):
    """Have an index under a tag, and return it."""
    index = encoded({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries})
    upstream.put_manifest("library/app", tag, index, OCI_INDEX)
    return index


def parse(name, tag):
    return RepositoryName.parse(name), Tag.parse(tag)
