"""On every route a private repository or image answers as one that does not exist; nothing leads to its content."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
import re

import pytest

from docker_registry.api.routes import ACTIONS
from docker_registry.app import create_app
from docker_registry.config.schema import Config
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import BlobUnknown, ImageUnknown, UploadUnknown
from docker_registry.registry import events
from docker_registry.registry.access import MAX_SEARCHED_REPOSITORIES
from docker_registry.registry.actor import ANONYMOUS
from docker_registry.registry.names import Digest, ImageId, ImageRepositoryName, RepositoryName, Tag
from docker_registry.services import build
from tests.registry.bridge import both
from tests.support.clients.v1 import Docker, done
from tests.support.clients.v2 import DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST, Client, digest_of, encoded
from tests.support.images import make_image, push
from tests.support.registries import Registry, both_registries
from tests.support.servers.registry import Server
from tests.support.v1_images import chain, make

SECRET = "corp/secret"
IMAGE = make_image(77)
LAYER, CONFIG = IMAGE.layers[0], IMAGE.config
BASE, TOP = chain(2, first=7100)
OPEN = make(7300)
UNKNOWN = digest_of(b"unknown")
UPLOAD = "6f1f8a35-4d0e-4f0c-9c51-0d5a8f4e2a11"
PLATFORM_INDEX = encoded(
    {
        "schemaVersion": 2,
        "mediaType": OCI_INDEX,
        "manifests": [{"mediaType": OCI_MANIFEST, "digest": IMAGE.digest, "size": len(IMAGE.manifest)}],
    }
)


EMPTY_INDEX = encoded({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": []})
AS_INDEX = {"Content-Type": OCI_INDEX}


def routes():
    """Every route that names a repository or an image, once for each method."""
    with build(Config(storage="memory"), MemoryDriver()) as services:
        rules = list(create_app(services).url_map.iter_rules())
    for rule in rules:
        if {"name", "repository", "image_id"} & rule.arguments:
            for method in sorted(rule.methods - {"OPTIONS"}):
                yield rule.endpoint, method, re.sub(r"<(?:\w+:)?(\w+)>", r"{\1}", rule.rule)


ROUTES = list(routes())

#: What may stand in a URL beside the name or id in question.
VALUES = {
    "reference": ["v1", "nope", IMAGE.digest, UNKNOWN, "sha256:0"],
    "digest": [digest_of(LAYER), IMAGE.digest, UNKNOWN, "sha256:0"],
    "upload_id": [UPLOAD, "x"],
    "tag": ["v1", "nope", "*"],
}
BODIES = [b"", b"{", b"[]", b'{"access": "public"}', json.dumps(UNKNOWN[7:]).encode(), json.dumps(TOP.text).encode(),
          IMAGE.manifest]  # fmt: skip
QUERIES = {
    "v2_base.list_tags": ["", "?n=1", "?n=x"],
    "v2_uploads.start_upload": [
        "", f"?mount={digest_of(LAYER)}", f"?mount={UNKNOWN}", f"?mount={digest_of(LAYER)}&from={SECRET}",
        f"?digest={UNKNOWN}", "?digest=x", f"?digest={digest_of(b'')}", "?digest-algorithm=md5",
    ],
    "v2_uploads.commit_upload": [f"?digest={digest_of(LAYER)}", f"?digest={UNKNOWN}", ""],
    "v2_referrers.list_referrers": ["", "?artifactType=a/b"],
}  # fmt: skip


def cases(*, whole):
    """
    Yield endpoint, method, path and body of each request.

    Args:
        whole: every path has every body; else the first path of an endpoint has, and each further one has one of them.
    """
    bodies = itertools.cycle(BODIES)
    for endpoint, method, path in ROUTES:
        names = [name for name in re.findall(r"\{(\w+)\}", path) if name in VALUES]
        is_first = True
        for values in itertools.product(*(VALUES[name] for name in names)):
            filled = path
            for name, value in zip(names, values, strict=True):
                filled = filled.replace(f"{{{name}}}", value)
            for query in QUERIES.get(endpoint, [""]):
                has_body = method in ("PUT", "POST", "PATCH")
                for body in (BODIES if whole or is_first else [next(bodies)]) if has_body else [None]:
                    yield endpoint, method, filled + query, body
                is_first = False


def tree(server):
    """Every file of the store that belongs to the private repository."""
    kinds = ("repositories/corp/secret/", "_v1/private/")
    found = {}
    for path in server.store.rglob("*"):
        text = str(path.relative_to(server.store))
        if path.is_file() and any(kind in text for kind in kinds) and ".docker-registry" not in text:
            found[text] = path.read_bytes()
    return found


def is_random(header):
    return header in ("Date", "Docker-Upload-UUID", "Server", "X-Request-Id")


def without(text, *names):
    """A text without what is random, or differs by the name alone."""
    for name in names:
        text = text.replace(name, "NAME").replace(name.replace("/", "%2F"), "NAME")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "UPLOAD", text)
    return re.sub(r"signature=[0-9a-f.]+", "signature=S", text)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("alike") / "store", SEARCH_BACKEND="sqlalchemy") as server:
        with Docker(server.url) as docker:
            push(Client(server.url), SECRET, "v1", IMAGE)
            Client(server.url).put_manifest(SECRET, "index", PLATFORM_INDEX, OCI_INDEX)
            docker.push(SECRET, "old", BASE, TOP)
            docker.push("corp/open", "v1", OPEN)
            done(docker.put(f"/repositories/{SECRET}/properties", '{"access": "private"}'), 200)
        yield server


@pytest.fixture(scope="module")
def client(server):
    with Client(server.url) as client:
        yield client


@pytest.fixture(scope="module")
def docker(server):
    with Docker(server.url) as docker:
        yield docker


@pytest.fixture
def open_app():
    """Makes an application over a store in memory, with an image of each API."""

    def make_app(**settings):
        services = build(Config(storage="memory", **settings), MemoryDriver())
        registry = both_registries(services)
        both.push_v1(registry, [make(1)])
        both.push_v2(registry, both.layer(1))
        return registry, create_app(services).test_client()

    return make_app


class TestEveryRoute:
    def test_has_an_action(self):
        assert {endpoint for endpoint, *_ in ROUTES} == set(ACTIONS)

    @pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_responds_alike_for_private_and_missing_names(self, server, client, whole):
        before, differences, requested = tree(server), [], list(cases(whole=whole))
        for number, (endpoint, method, path, body) in enumerate(requested):
            missing = {
                "name": f"corp/{'w' if whole else 'm'}{number:05d}",
                "image_id": hashlib.sha256(b"%d" % number).hexdigest(),
            }
            private = {"name": SECRET, "image_id": TOP.text}
            answers = []
            for values in (missing, private):
                url = path.replace("{name}", values["name"]).replace("{repository}", values["name"])
                url = url.replace("{image_id}", values["image_id"])
                headers = {"Content-Type": OCI_MANIFEST, "X-Docker-Checksum-Payload": UNKNOWN}
                answer = client.session.request(method, server.url + url, data=body, headers=headers, timeout=30)
                told = {key: without(value, *values.values()) for key, value in answer.headers.items()}
                answers.append(
                    (
                        answer.status_code,
                        without(answer.text, *values.values()),
                        {key: value for key, value in told.items() if not is_random(key)},
                    )
                )
            if answers[0] != answers[1]:
                differences.append((endpoint, method, path, body and body[:40], *answers))
        assert [] == differences
        assert {endpoint for endpoint, *_ in requested} == {endpoint for endpoint, *_ in ROUTES}
        assert len(requested) > (300 if whole else 180)
        assert before == tree(server)

    def test_omits_private_repositories_from_lists(self, client, docker):
        listed = client.repositories()
        assert "corp/open" in listed
        assert SECRET not in listed
        names = [result["name"] for result in docker.get("/search?q=corp").json()["results"]]
        assert SECRET not in names


class TestAnUploadToAPrivateRepository:
    @pytest.mark.parametrize("way", ["streamed", "ranged", "put", "posted"])
    def test_succeeds_as_for_a_new_repository_and_changes_nothing(self, server, client, way):
        before = tree(server)
        digest = client.push_blob(SECRET, b"pushed by a stranger " + way.encode(), way)
        assert not client.has_blob(SECRET, digest)
        assert before == tree(server)
        answer = client.session.put(f"{server.url}/v2/{SECRET}/manifests/x", data=EMPTY_INDEX, headers=AS_INDEX)
        assert 404 == answer.status_code

    def test_cannot_be_continued_under_another_hidden_name(self, server, client, docker):
        done(docker.put("/repositories/corp/hidden/properties", '{"access": "private"}'), 200)
        location = client.start_upload(SECRET)
        elsewhere = location.replace(SECRET, "corp/hidden")
        assert 404 == client.session.get(elsewhere).status_code
        assert 204 == client.session.delete(location).status_code

    def test_is_purged_with_the_others(self):
        driver = MemoryDriver()
        registry = Registry(driver)
        upload = registry.uploads.start(RepositoryName(SECRET, is_hidden=True))
        assert 1 == registry.uploads.purge(None, -60)
        with pytest.raises(UploadUnknown):
            registry.uploads.get(upload.name, upload.id)


class TestADigestOfAPrivateRepository:
    @pytest.mark.parametrize(
        "content", [LAYER, CONFIG, IMAGE.manifest, TOP.layer], ids=["layer", "config", "manifest", "v1"]
    )
    def test_is_not_mounted(self, client, content):
        assert not client.mount("evil/x", digest_of(content))
        assert not client.mount("evil/x", digest_of(content), SECRET)
        assert not client.has_blob("evil/x", digest_of(content))

    def test_is_mounted_where_only_visible_repositories_have_it(self, client):
        digest = client.push_blob("corp/open", b"open content")
        assert client.mount("evil/x", digest)
        assert b"open content" == client.get_blob("evil/x", digest)

    def test_is_not_mounted_where_a_visible_repository_has_it_too(self, client):
        client.push_blob("corp/open", CONFIG)
        assert not client.mount("evil/y", digest_of(CONFIG))

    def test_is_not_mounted_once_it_was_deleted(self, open_app):
        registry, app = open_app(serve_private=True)
        content = b"deleted"
        both.put_blob(registry, content)
        manifest = registry.tags.get(both.NEW, both.V2)
        registry.private_images.set_private(both.OLD, private=True)
        assert 202 == app.delete(f"/v2/acme/web/manifests/{manifest}").status_code
        assert 202 == app.delete(f"/v2/acme/web/blobs/{digest_of(content)}").status_code
        closed = Registry(registry.driver)
        for digest in (manifest, Digest.of(content)):
            with pytest.raises(BlobUnknown):
                closed.blobs.mount(RepositoryName("evil/x"), digest)

    def test_stays_hidden_when_v1_deletes_the_repository(self, open_app):
        registry, app = open_app(serve_private=True)
        manifest = registry.tags.get(both.NEW, both.V2)
        registry.private_images.set_private(both.OLD, private=True)
        assert 200 == app.delete("/v1/repositories/acme/web/").status_code
        closed = Registry(registry.driver)
        assert 1 == closed.private_repositories.adopt()
        assert not closed.access.may_pull(ANONYMOUS, both.NEW)
        assert registry.manifests.exists(both.NEW, manifest)

    def test_is_never_mounted_where_too_many_repositories_would_be_searched(self, open_app):
        registry, _ = open_app()
        digest = both.put_blob(registry, b"open", RepositoryName("acme/open"))
        for number in range(MAX_SEARCHED_REPOSITORIES + 1):
            assert registry.access.may_mount(ANONYMOUS, digest)
            registry.private_images.set_private(ImageRepositoryName("many", f"n{number}"), private=True)
        assert not registry.access.may_mount(ANONYMOUS, digest)

    def test_cannot_be_referenced_by_a_manifest(self, client, server):
        answer = client.session.put(
            f"{server.url}/v2/evil/x/manifests/v1", data=IMAGE.manifest, headers={"Content-Type": OCI_MANIFEST}
        )
        assert (404, "MANIFEST_BLOB_UNKNOWN") == (answer.status_code, answer.json()["errors"][0]["code"])

    @pytest.mark.parametrize("kind", [OCI_INDEX, DOCKER_LIST])
    def test_is_not_read_by_v1_through_an_index(self, client, docker, kind):
        child = {"mediaType": DOCKER_MANIFEST, "digest": IMAGE.digest, "size": 1}
        index = {"schemaVersion": 2, "mediaType": kind, "manifests": [child]}
        client.put_manifest("evil/i", "t", encoded(index), kind)
        assert {} == done(docker.get("/repositories/evil/i/tags"), 200).json()
        assert 404 == docker.get(f"/images/{digest_of(CONFIG)[7:]}/json").status_code


class TestAnIdOfAPrivateRepository:
    def test_cannot_be_a_parent(self, docker):
        for parent in (TOP.text, UNKNOWN[7:]):
            image = make(7400, type("Parent", (), {"text": parent, "ancestry": ()}))
            answer = docker.put(f"/images/{image.text}/json", image.payload)
            assert (400, "Image depends on a non existing parent") == (answer.status_code, answer.json()["error"])

    def test_is_not_tagged_and_stays_private(self, docker):
        for text in (TOP.text, BASE.text, UNKNOWN[7:]):
            answer = docker.put("/repositories/evil/v1/tags/latest", json.dumps(text))
            assert (404, "Image not found") == (answer.status_code, answer.json()["error"])
        assert 404 == docker.get(f"/images/{BASE.text}/layer").status_code

    def test_is_refused_as_the_last_step_of_a_push_into_its_repository(self, docker):
        answer = docker.put(f"/repositories/{SECRET}/tags/mine", json.dumps(OPEN.text))
        assert (404, "Image not found") == (answer.status_code, answer.json()["error"])


class TestHidingARepository:
    @pytest.mark.parametrize("setting", ["delete_tags", "delete_manifests", "delete_blobs"])
    @pytest.mark.parametrize("name", ["acme/web", "acme/new"])
    def test_is_rejected_while_any_deletion_is_disabled(self, open_app, setting, name):
        registry, app = open_app(**{setting: False})
        assert 405 == app.put(f"/v1/repositories/{name}/properties", data='{"access": "private"}').status_code
        assert 200 == app.put(f"/v1/repositories/{name}/properties", data='{"access": "public"}').status_code
        assert [] == list(registry.private_repositories.names())

    @pytest.mark.parametrize("pattern", ["v1", "v2", "acme/web:*"])
    def test_is_refused_where_a_tag_is_immutable(self, open_app, pattern):
        registry, app = open_app(immutable_tags=(pattern,))
        answer = app.put("/v1/repositories/acme/web/properties", data='{"access": "private"}')
        assert 409 == answer.status_code
        assert 200 == app.put("/v1/repositories/acme/new/properties", data='{"access": "private"}').status_code
        assert ["acme/new"] == list(registry.private_repositories.names())

    def test_hides_every_name_of_it_from_search(self, open_app):
        heard = []

        def hear(sender, name):
            heard.append(str(name))

        _, app = open_app()
        with events.repository_updated.connected_to(hear):
            assert 200 == app.put("/v1/repositories/foo/properties", data='{"access": "private"}').status_code
        assert {"foo", "library/foo"} == set(heard)


class Counted(MemoryDriver):
    """A store that lists the calls that it gets."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def exists(self, path):
        self.calls.append("exists")
        return super().exists(path)

    def get_content(self, path):
        self.calls.append("get_content")
        return super().get_content(path)

    def stat(self, path):
        self.calls.append("stat")
        return super().stat(path)


class TestTheWorkForARequest:
    """What takes the same work takes the same time."""

    @pytest.fixture
    def app(self):
        driver = Counted()
        services = build(Config(storage="memory"), driver)
        both.push_v2(services.registry, both.layer(1), name=RepositoryName(SECRET), tag=Tag("v1"))
        for text in ("aa/private", SECRET, "zz/private"):
            services.legacy.private_images.set_private(ImageRepositoryName.parse(text), private=True)
        app = create_app(services).test_client()
        app.get("/v2/a/tags/list")

        def calls(method, path):
            driver.calls.clear()
            app.open(path, method=method)
            return list(driver.calls)

        return calls

    @pytest.mark.parametrize("path", ["manifests/v1", f"manifests/{UNKNOWN}", "tags/list", f"blobs/{UNKNOWN}"])
    def test_is_the_same_for_private_and_missing_names(self, app, path):
        assert app("GET", f"/v2/{SECRET}/{path}") == app("GET", f"/v2/corp/absent/{path}")

    def test_is_the_same_for_mounts_of_private_and_missing_blobs(self, app):
        private = digest_of(both.layer(1))
        searched = [
            app("POST", f"/v2/evil/x/blobs/uploads/?mount={digest}").count("exists") for digest in (private, UNKNOWN)
        ]
        assert searched[0] == searched[1] > 0

    def test_is_not_needed_for_a_mount_while_nothing_is_private(self):
        driver = Counted()
        services = build(Config(storage="memory"), driver)
        digest = both.put_blob(services.registry, b"open")
        name = RepositoryName("evil/x")
        services.registry.blobs.mount(name, digest)
        driver.calls.clear()
        services.registry.blobs.mount(name, digest)
        assert 3 >= len(driver.calls)  # whether anything is private, the size, and the link


class TestAnImageDerivedFromV2:
    """Images of V1 have ids that anyone can work out who knows digests, and the claim proves nothing."""

    @pytest.fixture
    def registry(self):
        registry = Registry(MemoryDriver())
        both.push_v2(registry, both.layer(1), both.layer(2), name=RepositoryName(SECRET))
        old = ImageRepositoryName.parse(SECRET)
        self.top = registry.image_tags.get(old, both.V2)
        self.base = ImageId(registry.images.ancestry(self.top)[1])
        registry.images.find_layer(self.base)  # verified, and kept
        registry.private_images.set_private(old, private=True)
        return registry

    def test_is_not_shown_for_a_repository_with_other_layers(self, registry):
        diff_ids = [digest_of(both.unpack(both.layer(number))) for number in (1, 2)]
        rootfs = {"type": "layers", "diff_ids": diff_ids}
        both.push_v2(registry, both.layer(8), both.layer(9), rootfs=rootfs)
        top = registry.image_tags.get(both.OLD, both.V2)
        assert str(self.base) == registry.images.ancestry(top)[1]
        for image_id in (self.base, self.top):
            assert registry.private_images.hide_unless_visible(image_id).is_hidden
            with pytest.raises(ImageUnknown):
                registry.images.find_layer(image_id)

    def test_is_shown_for_a_repository_that_has_the_layer_in_another_form(self, registry):
        packed = [gzip.compress(both.unpack(both.layer(number)), 1, mtime=7) for number in (1, 2)]
        both.push_v2(registry, *packed)
        registry.image_tags.get(both.OLD, both.V2)
        registry.images.ancestry(registry.image_tags.get(both.OLD, both.V2))
        assert not registry.private_images.hide_unless_visible(self.base).is_hidden
        assert packed[0] == b"".join(registry.images.find_layer(self.base)[1].read())
