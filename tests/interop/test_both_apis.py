"""One image, two protocols: pushes of old Docker are pulled by current clients, and vice versa."""

from __future__ import annotations

import bz2
import gzip
import io
import itertools
import json
import lzma
import tarfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from tests.interop.unions import read_files, union, unpack
from tests.support import v1_trees
from tests.support.clients.programs import require
from tests.support.clients.v1 import Docker as OldDocker
from tests.support.clients.v1 import done
from tests.support.clients.v2 import Client, digest_of
from tests.support.images import Image, make_image, make_index, make_tar, pull, push
from tests.support.servers.registry import Server
from tests.support.v1_images import make

INSECURE = "--tls-verify=false"
FROM, TO = "--src-tls-verify=false", "--dest-tls-verify=false"

#: Layers as old Docker pushed them, including uncompressed ones and those that no current client can read.
FILES = (
    {"etc/motd": b"hello\n", "etc/conf": b"one\n", "srv/data/a": b"a" * 5000, "srv/data/b": b"b" * 5000},
    {"etc/conf": b"two\n", "etc/.wh.motd": b"", "new": b"new\n"},
    {"srv/data/.wh..wh..opq": b"", "srv/data/c": b"c\n"},
    {},
    {"last": b"last\n"},
)
PACKS = (gzip.compress, lambda tar: tar, lzma.compress, lambda tar: tar, bz2.compress)

_numbers = itertools.count(1_000_000)


def old_images():
    """A new chain, as old Docker would push it."""
    images = []
    for number, (files, pack) in enumerate(zip(FILES, PACKS, strict=True)):
        layer = pack(make_tar({**files, "number": b"%d" % next(_numbers)}))
        images.append(
            make(
                next(_numbers),
                images[-1] if images else None,
                layer,
                created=f"2014-06-0{number + 1}T10:00:00.5Z",
                docker_version="1.5.0",
                architecture="amd64",
                os="linux",
                config={"Cmd": ["/bin/true"], "Env": ["A=b"]},
                container_config={"Cmd": ["/bin/sh", "-c", f"#(nop) ADD step {number}"]},
            )
        )
    return images


@pytest.fixture
def old(server):
    with OldDocker(server.url) as client:
        yield client


@pytest.fixture
def images(old, name):
    """Images that old Docker has pushed."""
    made = old_images()
    old.push(name, "v1", *made)
    return made


@pytest.fixture
def expected(images):
    """Their combined file tree."""
    return union(image.layer for image in images)


class TestAPushOfOldDocker:
    def test_is_the_same_image_for_skopeo(self, skopeo, images, reader, host, name, tmp_path):
        skopeo("copy", FROM, f"docker://{host}/{name}:v1", f"dir:{tmp_path}/pulled")
        manifest = json.loads((tmp_path / "pulled/manifest.json").read_text())
        assert manifest == reader.get_manifest(name, "v1").document
        layers = [(tmp_path / "pulled" / each["digest"][7:]).read_bytes() for each in manifest["layers"]]
        assert [unpack(image.layer) for image in images] == [unpack(layer) for layer in layers]

    def test_is_pulled_by_docker(self, docker, images, expected, reader, host, name):
        docker("pull", f"{host}/{name}:v1")
        config = reader.get_manifest(name, "v1").document["config"]["digest"]
        assert config == docker("image", "inspect", "--format={{.Id}}", f"{host}/{name}:v1")
        container = docker("create", f"{host}/{name}:v1")
        assert expected == of_the_image(read_files(docker.raw("export", container)))
        docker("rm", container)
        docker("rmi", f"{host}/{name}:v1")

    def test_is_pulled_by_podman_and_buildah(self, podman, buildah, policy, expected, host, name):
        podman("pull", INSECURE, f"--signature-policy={policy}", f"{host}/{name}:v1")
        container = buildah("from", "--pull-never", f"--signature-policy={policy}", f"{host}/{name}:v1")
        root = Path(buildah("mount", container))
        found = {str(path.relative_to(root)): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        assert expected == of_the_image(found)
        buildah("rm", container)
        podman("rmi", f"{host}/{name}:v1")

    def test_is_unpacked_by_containerd(self, ctr, images, reader, host, name):
        ctr("images", "pull", "--plain-http", "--snapshotter=native", f"{host}/{name}:v1")
        manifest = reader.get_manifest(name, "v1")
        assert manifest.payload == ctr.raw("content", "get", manifest.digest)

    def test_is_pulled_by_its_digest(self, skopeo, images, reader, host, name):
        digest = reader.get_manifest(name, "v1").digest
        seen = json.loads(skopeo("inspect", INSECURE, f"docker://{host}/{name}@{digest}"))
        assert (digest, 5) == (seen["Digest"], len(seen["Layers"]))

    def test_has_one_format_whatever_a_client_accepts(self, server, images, name):
        url = f"{server.url}/v2/{name}/manifests/v1"
        answers = [
            requests.get(url, headers={"Accept": accept}, timeout=60)
            for accept in ("*/*", "application/vnd.oci.image.manifest.v1+json")
        ]
        assert [200, 200] == [answer.status_code for answer in answers]
        assert 1 == len({answer.headers["Docker-Content-Digest"] for answer in answers})

    def test_runs(self, buildah, policy, old, host, name):
        program = Path(require("busybox", "busybox-static"))
        layer = gzip.compress(executable("bin/sh", program.read_bytes()))
        old.push(name, "run", make(next(_numbers), None, layer, config={"Cmd": ["/bin/sh"]}, os="linux"))
        container = buildah("from", INSECURE, f"--signature-policy={policy}", f"docker://{host}/{name}:run")
        assert "it runs" == buildah("run", "--isolation=chroot", container, "/bin/sh", "-c", "echo it runs")
        buildah("rm", container)

    def test_is_stored_once(self, server, images, name, reader):
        pull(reader, name, "v1")
        for image in (images[0], images[1]):  # the others are stored as plain tars too
            stored = digest_of(image.layer)[7:]
            blob = server.store / f"docker/registry/v2/blobs/sha256/{stored[:2]}/{stored}/data"
            assert blob.stat().st_ino == (server.store / f"images/{image.text}/layer").stat().st_ino


def of_the_image(files):
    """Omit fields that clients add."""
    own = {".dockerenv", "dev/console", "etc/hosts", "etc/hostname", "etc/resolv.conf"}
    return {name: content for name, content in files.items() if name not in own}


def executable(name, content):
    """A layer with one program."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as archive:
        member = tarfile.TarInfo(name)
        member.size, member.mode = len(content), 0o755
        archive.addfile(member, io.BytesIO(content))
    return stream.getvalue()


def pulled_tars(old, name, tag):
    """The uncompressed layers that old Docker pulls, the base first."""
    return [unpack(layer) for _, _, layer in old.pull(name, tag)]


class TestAPushOfACurrentClient:
    def test_by_docker_is_pulled_by_old_docker(self, docker, old, tree, host, name):
        docker("import", "-", f"{host}/{name}:v1", stdin=tree)
        docker("push", f"{host}/{name}:v1")
        (image_id,) = (text for text, _, _ in old.pull(name, "v1"))
        assert f"sha256:{image_id}" == docker("image", "inspect", "--format={{.Id}}", f"{host}/{name}:v1")
        assert read_files(tree) == union(pulled_tars(old, name, "v1"))
        docker("rmi", f"{host}/{name}:v1")

    def test_by_podman_with_zstd_is_pulled_by_old_docker(self, podman, policy, old, tree, host, name, tmp_path):
        (tmp_path / "tree.tar").write_bytes(tree)
        podman("import", tmp_path / "tree.tar", f"{host}/{name}:v1")
        zstd = ["--compression-format=zstd", "--format=oci"]
        podman("push", INSECURE, f"--signature-policy={policy}", *zstd, f"{host}/{name}:v1")
        assert read_files(tree) == union(pulled_tars(old, name, "v1"))
        podman("rmi", f"{host}/{name}:v1")

    def test_by_skopeo_for_many_platforms_is_pulled_by_old_docker(self, skopeo, layouts, old, host, name, index):
        skopeo("copy", "--all", TO, f"oci:{layouts(index)}:v1", f"docker://{host}/{name}:v1")
        image = index.images[0]
        assert [gzip.decompress(layer) for layer in image.layers] == pulled_tars(old, name, "v1")
        (top, payload, _) = old.pull(name, "v1")[-1]
        assert (digest_of(image.config)[7:], {"seed": json.loads(image.config)["config"]["Labels"]["seed"]}) == (
            top,
            json.loads(payload)["config"]["Labels"],
        )

    def test_in_a_hundred_and_twenty_layers_is_pulled_by_old_docker(self, reader, old, name):
        image = make_image(name, layers=120, layer_bytes=100)
        push(reader, name, "v1", image)
        assert [gzip.decompress(layer) for layer in image.layers] == pulled_tars(old, name, "v1")

    def test_in_several_gzip_members_is_pulled_by_old_docker(self, reader, old, name):
        image = make_image(name, layers=1)
        plain = gzip.decompress(image.layers[0])
        pieces = b"".join(gzip.compress(plain[start : start + 10_000]) for start in range(0, len(plain), 10_000))
        push(reader, name, "v1", Image(image.architecture, image.config, (pieces,)))
        assert [plain] == pulled_tars(old, name, "v1")

    def test_without_layers_is_pulled_by_old_docker(self, reader, old, name):
        push(reader, name, "v1", make_image(name, layers=0))
        assert [bytes(1024)] == pulled_tars(old, name, "v1")

    def test_that_is_not_an_image_is_omitted_with_the_reason(self, reader, old, name):
        push(reader, name, "v1", make_image(name))
        config = b"{}"
        reader.push_blob(name, config)
        artifact = {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": {"mediaType": "application/x.thing", "digest": digest_of(config), "size": 2},
            "layers": [],
        }
        reader.put_manifest(name, "thing", json.dumps(artifact).encode(), artifact["mediaType"])
        assert {"v1"} == done(old.get(f"/repositories/{name}/tags"), 200).json().keys()
        answer = done(old.get(f"/repositories/{name}/tags/thing"), 404)
        assert "The tag refers to an artifact, not an image." == answer.json()["error"]

    def test_can_be_resumed(self, reader, old, name):
        push(reader, name, "v1", make_image(name, layers=1))
        ((top, _, layer),) = old.pull(name, "v1")
        rest = old.get(f"/images/{top}/layer", headers={"Range": f"bytes=1000-{len(layer)}"})
        assert (206, layer[1000:]) == (rest.status_code, rest.content)

    def test_is_searched(self, reader, old, name):
        push(reader, name, "v1", make_image(name))

        def names():
            return [each["name"] for each in old.get("/search", params={"q": name}).json()["results"]]

        for _ in range(100):
            if name in names():
                break
        assert name in names()


class TestBothClients:
    def test_exchange_an_image_repeatedly(self, docker, old, images, host, name, tmp_path):
        docker("pull", f"{host}/{name}:v1")
        (tmp_path / "Dockerfile").write_text(f"FROM {host}/{name}:v1\nCOPY more /more\n")
        (tmp_path / "more").write_bytes(b"more")
        docker("build", "--tag", f"{host}/{name}:v1", tmp_path)
        docker("push", f"{host}/{name}:v1")
        tree = union(layer for _, _, layer in old.pull(name, "v1"))
        assert {**union(image.layer for image in images), "more": b"more"} == tree
        docker("rmi", "--force", f"{host}/{name}:v1")

    def test_tag_each_others_images(self, reader, old, name):
        image = make_image(name)
        push(reader, name, "v1", image)
        top = old.pull(name, "v1")[-1][0]
        done(old.put(f"/repositories/{name}/tags/v2", json.dumps(top)), 200)
        assert image.contents == pull(reader, name, "v2")

    def test_delete_each_others_tags(self, reader, old, images, name):
        digest = reader.get_manifest(name, "v1").digest
        reader.delete_manifest(name, digest)
        done(old.get(f"/repositories/{name}/tags/v1"), 404)
        push(reader, name, "v2", make_image(name))
        done(old.ask("DELETE", f"/repositories/{name}/tags/v2"), 200)
        assert not reader.has_manifest(name, "v2")
        assert [] == reader.tags(name)


OLD_TREES = [
    (tree, name, tag)
    for tree, repositories in v1_trees.REPOSITORIES.items()
    for name, tags in repositories.items()
    for tag in sorted(tags)
]


@pytest.fixture(scope="module", params=v1_trees.NAMES)
def old_tree(request, tmp_path_factory):
    """A registry on the tree of an old server."""
    store = v1_trees.copy(request.param, tmp_path_factory.mktemp("trees") / "store")
    with Server(store, workers=2) as server:
        yield request.param, server


class TestATreeOfAnOldServer:
    def tags(self, name):
        return [(each, tag) for tree, each, tag in OLD_TREES if tree == name]

    def test_is_pulled_by_current_clients(self, old_tree, skopeo, tmp_path):
        tree, server = old_tree
        for number, (name, tag) in enumerate(self.tags(tree)):
            reference = f"docker://127.0.0.1:{server.port}/{name}:{tag}"
            skopeo("copy", FROM, reference, f"dir:{tmp_path}/{number}")
            manifest = json.loads((tmp_path / str(number) / "manifest.json").read_text())
            with OldDocker(server.url) as old:
                tars = pulled_tars(old, name, tag)
            layers = [(tmp_path / str(number) / each["digest"][7:]).read_bytes() for each in manifest["layers"]]
            assert tars == [unpack(layer) for layer in layers]

    def test_is_pulled_by_docker(self, old_tree, docker):
        tree, server = old_tree
        for name, tag in self.tags(tree):
            docker("pull", f"127.0.0.1:{server.port}/{name}:{tag}")
            docker("rmi", f"127.0.0.1:{server.port}/{name}:{tag}")

    def test_is_listed_equally_for_both(self, old_tree):
        tree, server = old_tree
        with Client(server.url) as client, OldDocker(server.url) as old:
            for name, tags in v1_trees.REPOSITORIES[tree].items():
                if tags:
                    assert sorted(tags) == client.tags(name.removeprefix("library/"))
                    assert tags == done(old.get(f"/repositories/{name}/tags"), 200).json().keys()
            shown = {name.removeprefix("library/") for name in v1_trees.REPOSITORIES[tree]}
            assert shown == set(client.repositories())


class TestATreeOfDistribution:
    def test_is_pulled_by_old_docker(self, distribution, skopeo, layouts, tmp_path):
        image, index = make_image("peer"), make_index("peer")
        with distribution(tmp_path / "store") as peer:
            for each, reference in ((image, "short:v1"), (index, "acme/deep/er:v1")):
                target = f"docker://127.0.0.1:{peer.port}/{reference}"
                skopeo("copy", "--all", TO, f"oci:{layouts(each)}:v1", target)
        with Server(tmp_path / "store", workers=2) as server, OldDocker(server.url) as old:
            for name, each in (("short", image), ("acme/deep/er", index.images[0])):
                assert [gzip.decompress(layer) for layer in each.layers] == pulled_tars(old, name, "v1")


class TestConcurrentClients:
    def test_request_an_image_for_the_first_time(self, tmp_path):
        store = v1_trees.copy("registry-0.7.1", tmp_path / "store")
        with Server(store, workers=4) as server, ThreadPoolExecutor(32) as threads:

            def pull_it(_):
                with Client(server.url) as client:
                    return client.get_manifest("acme/web", "latest")

            assert 1 == len(set(threads.map(pull_it, range(64))))

    def test_push_to_one_tag_by_either_api(self, tmp_path):
        made = [(old_images(), make_image(f"many {number}", layers=1, layer_bytes=1000)) for number in range(8)]
        with Server(tmp_path / "store", workers=4) as server, ThreadPoolExecutor(16) as threads:

            def push_old(number):
                with OldDocker(server.url) as old:
                    old.push("lab/many", "v1", *made[number][0])

            def push_new(number):
                with Client(server.url) as client:
                    push(client, "lab/many", "v1", made[number][1])

            pushes = [threads.submit(each, number) for number in range(8) for each in (push_old, push_new)]
            for each in pushes:
                each.result()
            with Client(server.url) as client, OldDocker(server.url) as old:
                layers = client.get_manifest("lab/many", "v1").document["layers"]
                tars = [unpack(client.get_blob("lab/many", layer["digest"])) for layer in layers]
                assert tars == pulled_tars(old, "lab/many", "v1")
                assert ["v1"] == client.tags("lab/many")
