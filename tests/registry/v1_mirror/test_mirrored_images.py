"""Images of a registry of API V1: pulled through, verified, stored, and served without it afterwards."""

from __future__ import annotations

import base64
import gc
import gzip
import json
import random
import weakref
from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from io import BytesIO

import pytest

from docker_registry.config.schema import Config, load_config
from docker_registry.config.sections import Mirroring, MirrorUpstream
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError, UpstreamError
from docker_registry.registry import layout
from docker_registry.registry.layers.tarsum import tarsum
from docker_registry.registry.mirror.mirrored_blobs import work_of
from docker_registry.registry.names import Digest, RepositoryName
from docker_registry.registry.v1_mirror.source_client import MAX_ANSWER_BYTES
from docker_registry.services import build
from tests.registry.v1_mirror.conftest import TREE, Mirrored, Recording
from tests.support import v1_images
from tests.support.layers import member, tar
from tests.support.registries import closing_services
from tests.support.servers.upstream import Answer, Upstream
from tests.support.servers.v1_source import PING, serve_image, serve_repository, serve_tree

#: A repository of the tree with two tags, and the base image of all of them.
NAME = "acme/web"
TOP = (TREE / "repositories/acme/web/tag_latest").read_text()
BASE = json.loads((TREE / f"images/{TOP}/ancestry").read_text())[-1]


def content(text):
    folder = TREE / "images" / text
    return (folder / "json").read_bytes(), (folder / "layer").read_bytes()


def serve(source, image, headers=None, name="acme/one", checksum=None):
    """Have a repository with one image at the source."""
    listed = {"id": image.text, **({"checksum": checksum} if checksum else {})}
    serve_repository(source, name, {"latest": image.text}, json.dumps([listed]).encode())
    serve_image(source, image, headers)


def asked(source):
    """Return the paths of all requests, except the one that finds out which API the source speaks."""
    return [path for path in source.asked() if path != PING]


class TestAnImageOfTheSource:
    def test_is_pulled_through_once_and_served_without_the_source(self, mirrored, source, open_mirror):
        pulled = mirrored.pull(NAME, "latest")
        assert {text: content(text) for text in pulled} == pulled
        assert len(pulled) == 4
        once = asked(source)
        assert len(set(once)) == len(once) == 2 + 2 * len(pulled) + 1, "lists, JSON and layers, one ancestry"
        assert pulled == mirrored.pull(NAME, "latest")
        assert once == asked(source)
        source.stop()
        assert pulled == open_mirror().pull(NAME, "latest")

    def test_has_a_short_name(self, mirrored):
        for name in ("base", "library/base"):
            assert 200 == mirrored.get(f"/repositories/{name}/tags").status_code
        assert len(mirrored.pull("library/base", "latest")) == 1

    def test_receives_nothing_of_the_client(self, mirrored, source):
        private = {"Authorization": "Basic eDp5", "Cookie": "a=b", "X-Forwarded-For": "10.1.1.1", "Forwarded": "for=x"}
        assert 200 == mirrored.get(f"/repositories/{NAME}/images", **private).status_code
        assert 200 == mirrored.get(f"/images/{TOP}/json", **private).status_code
        known = {"host", "user-agent", "accept", "accept-encoding", "connection", "via", "x-docker-token"}
        assert known >= {name for _, _, headers in source.requests for name in headers}

    def test_is_pulled_with_a_token_where_the_source_wants_one(self, mirrored, source):
        def guard(path, headers):
            is_open = path == PING or path.endswith("/images")
            return None if is_open or headers.get("authorization", "").startswith("Token sig") else Answer(status=401)

        source.guard = guard
        assert len(mirrored.pull(NAME, "latest")) == 4
        assert 502 == mirrored.get(f"/images/{'a' * 64}/json").status_code

    def test_that_the_source_hides_without_a_token_is_pulled_with_one(self, mirrored, source):
        def guard(path, headers):
            is_hidden = path.startswith("/v1/images/") and not headers.get("authorization", "").startswith("Token sig")
            return Answer(status=404) if is_hidden else None

        source.guard = guard
        for _ in range(2):
            assert 404 == mirrored.get(f"/images/{BASE}/json").status_code
        assert [f"/v1/images/{BASE}/json"] == asked(source)
        assert len(mirrored.pull(NAME, "latest")) == 4

    def test_of_an_old_docker_is_verified_by_its_tarsum(self, mirrored, source):
        base = v1_images.make(1)
        checksum = tarsum(base.payload, [base.layer], max_bytes=None)
        serve(source, base, checksum=checksum)
        assert [base.text] == list(mirrored.pull("acme/one", "latest"))
        other = v1_images.make(2)
        serve(source, other, name="acme/two", checksum=checksum)
        assert 502 == pull_layer(mirrored, "acme/two", other).status_code

    def test_without_a_checksum_must_be_a_whole_archive(self, mirrored, source):
        image, cut = v1_images.make(1), v1_images.make(2)
        serve(source, image)
        assert 200 == pull_layer(mirrored, "acme/one", image).status_code
        serve(source, cut, name="acme/two")
        source.contents[f"/v1/images/{cut.text}/layer"] = Answer(cut.layer[:-20])
        refused = pull_layer(mirrored, "acme/two", cut)
        assert (502, True) == (refused.status_code, "not a whole archive" in refused.json["error"])

    def test_is_continued_after_a_broken_connection(self, mirrored, source):
        layer = content(BASE)[1]

        def answer(headers):
            start = int(headers.get("range", "bytes=0-")[len("bytes=") : -1])
            part = {"Content-Range": f"bytes {start}-{len(layer) - 1}/{len(layer)}"} if start else {}
            sent = layer[start : start + len(layer) // 2] if not start else layer[start:]
            return Answer(sent, 206 if start else 200, part, announced=len(layer) - start)

        source.contents[f"/v1/images/{BASE}/layer"] = answer
        assert content(BASE) == mirrored.pull(NAME, "latest")[BASE]

    def test_whose_id_resembles_another_one_or_a_digest_is_another_transfer(self, mirrored, source, driver):
        blob = work_of(RepositoryName("up.example/library/app"), Digest.of(b"of another upstream"))
        leases = {layout.lease(blob)}
        for number in range(2):
            text = blob.removeprefix("mirror-") + str(number) * 24
            image = v1_images.Image(text, json.dumps({"id": text}).encode(), v1_images.make(number).layer, (text,))
            serve_image(source, image)

            def answer(headers, layer=image.layer):
                leases.update(file.path for file in driver.walk(f"{layout.ROOT}/_leases"))
                return Answer(layer)

            source.contents[f"/v1/images/{text}/layer"] = answer
            assert image.layer == mirrored.get(f"/images/{text}/layer").data
        assert 3 == len(leases)

    @pytest.mark.parametrize(
        ("etags", "is_continued"), [((None, None), False), (('"a"', '"b"'), False), (('"a"', '"a"'), True)]
    )
    def test_is_not_mixed_with_another_layer_after_a_process_died(self, source, open_mirror, etags, is_continued):
        """Neither has a checksum; they have the same size and are archives, as any mixture of both is."""
        driver = Recording()
        layers = [tar(member("file", content=random.Random(number).randbytes(300_000))) for number in (1, 2)]
        layers[0] = layers[1] if is_continued else layers[0]
        image = v1_images.make(1, layer=layers[1])
        serve(source, image)

        def serve_layer(layer, etag):
            def answer(headers):
                start = int(headers.get("range", "bytes=0-")[len("bytes=") : -1])
                if headers.get("if-range") not in (None, etag):
                    start = 0
                whole = {"ETag": etag}
                part = {**whole, "Content-Range": f"bytes {start}-{len(layer) - 1}/{len(layer)}"}
                return Answer(layer[start:], 206, part) if start else Answer(layer, headers=whole)

            source.contents[f"/v1/images/{image.text}/layer"] = answer

        serve_layer(layers[0], etags[0])
        with closing_services(partial(Mirrored, url=source.url)) as open_one:
            assert layers[0] == open_one(driver).get(f"/images/{image.text}/layer").data
            fetching = [state for state in driver.states if not list(state.walk("images"))]
            left = next(state for state in fetching if 0 < pieces_bytes(state) < len(layers[0]))
            left.discard(f"{layout.ROOT}/_leases")
            source.requests.clear()
            serve_layer(layers[1], etags[1])
            assert layers[1] == open_one(left).get(f"/images/{image.text}/layer").data
        ranges = [headers.get("range") for _, path, headers in source.requests if path.endswith("/layer")]
        assert is_continued == (None not in ranges)

    def test_that_is_pushed_meanwhile_stays_as_it_was_pushed(self, mirrored, source):
        theirs, pushed = (v1_images.make(5, layer=v1_images.make(number).layer) for number in (6, 7))

        def answer(headers):
            v1_images.push(mirrored.services.require_legacy(), pushed)
            return Answer(theirs.layer)

        serve_image(source, theirs)
        source.contents[f"/v1/images/{theirs.text}/layer"] = answer
        refused = mirrored.get(f"/images/{theirs.text}/layer")
        assert (502, "The image was pushed while it was received.") == (refused.status_code, refused.json["error"])
        assert pushed.layer == mirrored.get(f"/images/{theirs.text}/layer").data
        assert [] == list(mirrored.services.v1_mirror.stored_images.all())


class TestASourceWithAnAccount:
    @pytest.mark.parametrize("issues_tokens", [True, False])
    def test_gets_the_password_itself_and_shows_it_to_no_other_host(self, open_mirror, source, issues_tokens):
        basic = f"Basic {base64.b64encode(b'ann:secret').decode()}"

        def guard(path, headers):
            given = headers.get("authorization", "")
            is_token = issues_tokens and given.startswith("Token sig") and not path.endswith("/images")
            return None if given == basic or is_token else Answer(status=401)

        source.guard = guard
        if not issues_tokens:
            for path in [path for path in source.contents if path.endswith("/images")]:
                source.contents[path] = replace(source.contents[path], headers={})
        with Upstream() as elsewhere:
            layer = f"/v1/images/{BASE}/layer"
            elsewhere.contents[layer] = source.contents[layer]
            location = f"http://localhost:{elsewhere.port}{layer}"
            source.contents[layer] = Answer(status=302, headers={"Location": location})
            account = {"username": "ann", "password": "secret", "insecure": True}
            upstream = MirrorUpstream(name="up.example", url=source.url, **account)
            assert len(open_mirror(upstreams=(upstream,)).pull(NAME, "latest")) == 4
            ((_, _, headers),) = elsewhere.requests
            assert "authorization" not in headers

    @pytest.mark.parametrize(
        ("host", "token_hosts", "is_shown"),
        [("127.0.0.1", (), True), ("localhost", (), False), ("localhost", ("localhost",), True)],
    )
    def test_has_an_index_that_gets_the_password_if_it_may(self, open_mirror, source, host, token_hosts, is_shown):
        with Upstream() as index:
            index.contents.update(source.contents)
            account = {"username": "ann", "password": "secret", "insecure": True, "token_hosts": token_hosts}
            upstream = MirrorUpstream(name="up.example", url=source.url, **account)
            mirrored = open_mirror(upstreams=(upstream,), source_index=f"http://{host}:{index.port}")
            assert len(mirrored.pull(NAME, "latest")) == 4
            assert {is_shown} == {"authorization" in headers for _, _, headers in index.requests}


class TestARepositoryThatIsHere:
    def test_is_served_from_here_alone(self, mirrored, source, open_mirror):
        registry = mirrored.services.require_legacy()
        image = v1_images.make(1)
        v1_images.push(registry, image)
        mirrored.client.put(f"/v1/repositories/{NAME}/", json=[{"id": image.text}])
        assert 200 == mirrored.client.put(f"/v1/repositories/{NAME}/tags/mine", json=image.text).status_code
        assert {"mine": image.text} == mirrored.get(f"/repositories/{NAME}/tags").json
        assert 404 == mirrored.get(f"/repositories/{NAME}/tags/latest").status_code
        assert [{"id": image.text}] == mirrored.get(f"/repositories/{NAME}/images").json
        assert [] == asked(source)

    def test_is_pushed_with_all_its_images(self, mirrored, source):
        answer = mirrored.client.put("/v1/repositories/mine/app/", json=[{"id": BASE}])
        token = {"Authorization": f"Token {answer.headers['X-Docker-Token']}"}
        assert 404 == mirrored.get(f"/images/{BASE}/json", **token).status_code
        assert [] == asked(source)


class TestAClientThatMayNotPullEverything:
    def test_pulls_what_its_repositories_have(self, open_mirror, source, tmp_path):
        rules = tmp_path / "rules.yml"
        rules.write_text("rules: [{repositories: [acme/web], who: [anonymous], allow: [pull]}]")
        mirrored = open_mirror(rules=rules)
        pushed = v1_images.make(9)
        v1_images.push(mirrored.services.require_legacy(), pushed)
        path = f"/v1/repositories/{NAME}/images"
        listed = [*json.loads(source.contents[path].body), {"id": pushed.text}]
        source.contents[path] = Answer(json.dumps(listed).encode(), headers=source.contents[path].headers)
        assert len(mirrored.pull(NAME, "latest")) == 4
        assert 401 == mirrored.get("/repositories/acme/newer/tags").status_code
        other = (TREE / "repositories/acme/newer/tag_latest").read_text()
        for text in (other, pushed.text):  # naming an image that was pushed here does not open it
            assert mirrored.get(f"/images/{text}/json").status_code in (401, 404)

    def test_pulls_what_was_stored_before_there_were_rules(self, mirrored, open_mirror, source, tmp_path):
        source.contents[f"/v1/repositories/{NAME}/images"].body = b"[]"  # the ancestors are known by their images alone
        pulled = mirrored.pull(NAME, "latest")
        rules = tmp_path / "rules.yml"
        rules.write_text("rules: [{repositories: [acme/web], who: [anonymous], allow: [pull]}]")
        once = asked(source)
        restricted = open_mirror(rules=rules)
        assert pulled == restricted.pull(NAME, "latest")
        assert once == asked(source)
        writes = []
        restricted.driver.put_content = lambda path, *_, **__: writes.append(path)
        try:
            assert pulled == restricted.pull(NAME, "latest")
        finally:
            del restricted.driver.put_content
        assert [] == writes


class TestTags:
    def test_are_asked_for_again_after_their_ttl(self, open_mirror, source):
        mirrored = open_mirror(tags_cache_ttl=0)
        for top in (TOP, BASE):
            serve_repository(source, NAME, {"latest": top}, b"[]")
            assert {"latest": top} == mirrored.get(f"/repositories/{NAME}/tags").json
        del source.contents[f"/v1/repositories/{NAME}/tags"]
        assert 404 == mirrored.get(f"/repositories/{NAME}/tags").status_code
        assert 404 == open_mirror().get(f"/repositories/{NAME}/tags").status_code

    def test_are_served_with_a_warning_while_the_source_is_away(self, open_mirror, source):
        mirrored = open_mirror(tags_cache_ttl=0)
        known = mirrored.get(f"/repositories/{NAME}/tags").json
        source.stop()
        answer = mirrored.get(f"/repositories/{NAME}/tags")
        assert (200, known) == (answer.status_code, answer.json)
        assert answer.headers["Warning"].startswith(f'299 - "127.0.0.1-{source.port} is not reachable; these tags were')
        assert 503 == mirrored.get("/repositories/library/base/tags").status_code

    def test_leave_nothing_of_a_request_in_memory_that_could_not_ask_for_them(self, open_mirror, source):
        mirrored, path = open_mirror(tags_cache_ttl=0), f"/repositories/{NAME}/tags"
        assert 200 == mirrored.get(path).status_code
        source.stop()
        body = BytesIO()
        gone = weakref.ref(body)
        assert 200 == mirrored.client.get(f"/v1{path}", environ_overrides={"test.body": body}).status_code
        assert "Warning" in mirrored.get(path).headers
        del body
        gc.collect()
        assert gone() is None

    def test_of_an_unknown_repository_are_asked_for_once(self, mirrored, source):
        for _ in range(2):
            assert 404 == mirrored.get("/repositories/acme/nothing/tags").status_code
        assert ["/v1/repositories/acme/nothing/tags"] == asked(source)

    def test_of_mirrored_upstreams_are_not_asked_for(self, open_mirror, source):
        mirrored = open_mirror(upstreams=(MirrorUpstream(name="up.example", url=source.url),))
        assert 404 == mirrored.get("/repositories/up.example/app/tags").status_code
        assert [] == asked(source)


LIES = {
    "tags that are HTML": ("repositories/acme/web/tags", b"<html>"),
    "tags that are a list": ("repositories/acme/web/tags", b"[]"),
    "tags that are endless": ("repositories/acme/web/tags", b" " * (MAX_ANSWER_BYTES + 1)),
    "images that are no list": ("repositories/acme/web/images", b"{}"),
    "images without ids": ("repositories/acme/web/images", b'[{"Tag": "x"}]'),
    "no JSON of an image": (f"images/{TOP}/json", b"[1]"),
    "the JSON of another image": (f"images/{TOP}/json", content(BASE)[0]),
    "no ancestry": (f"images/{TOP}/ancestry", b"{}"),
    "the ancestry of another image": (f"images/{TOP}/ancestry", json.dumps([BASE]).encode()),
    "an ancestry without the parent": (f"images/{TOP}/ancestry", json.dumps([TOP]).encode()),
    "another layer": (f"images/{BASE}/layer", content(TOP)[1]),
    "a compressed layer": (f"images/{BASE}/layer", gzip.compress(content(BASE)[1])),
    "a truncated layer": (f"images/{BASE}/layer", content(BASE)[1][:-1]),
    "a longer layer": (f"images/{BASE}/layer", content(BASE)[1] + b"x"),
    "a damaged layer": (f"images/{BASE}/layer", content(BASE)[1][:-1] + b"x"),
}


@pytest.fixture(scope="module")
def shared():
    """A mirror and its source that several tests use."""
    with Upstream() as upstream:
        serve_tree(upstream, TREE)
        mirrored = Mirrored(MemoryDriver(), upstream.url)
        with mirrored.services:
            yield mirrored, upstream


class TestASourceThatLies:
    @pytest.fixture
    def mirrored(self, shared):
        """A mirror that has stored nothing: all tests of this class fail to fetch something, except the last."""
        return shared[0]

    @pytest.fixture
    def source(self, shared):
        """The source of that mirror, whose lies end with the test."""
        known = dict(shared[1].contents)
        yield shared[1]
        shared[1].contents, shared[1].guard = known, lambda path, headers: None

    @pytest.mark.parametrize("lie", LIES)
    def test_is_a_bad_gateway_and_nothing_is_stored(self, mirrored, source, lie):
        path, body = LIES[lie]
        source.contents[f"/v1/{path}"] = Answer(body)
        asked = path.replace("/ancestry", "/json")
        answer = mirrored.get(f"/{asked}")
        assert 502 == answer.status_code, answer.data
        assert "mirrored registry" in answer.json["error"] or "upstream registry" in answer.json["error"]
        assert [] == mirrored.image_paths()
        assert [] == list(mirrored.driver.walk("docker/registry/v2/_leases"))

    @pytest.mark.parametrize(("status", "expected"), [(500, 502), (429, 429), (403, 502)])
    def test_or_refuses_is_passed_on(self, mirrored, source, status, expected):
        source.guard = lambda path, headers: Answer(status=status)
        assert expected == mirrored.get(f"/images/{BASE}/layer").status_code
        assert expected == mirrored.get("/repositories/library/base/tags").status_code

    def test_is_asked_again_after_a_wrong_layer(self, mirrored, source):
        path = f"/v1/images/{BASE}/layer"
        right = source.contents[path]
        source.contents[path] = Answer(right.body[:-1] + b"x")
        assert 502 == mirrored.get(f"/images/{BASE}/layer").status_code
        source.contents[path] = right
        assert right.body == mirrored.get(f"/images/{BASE}/layer").data


class TestASearch:
    def test_finds_what_the_source_has_when_there_is_nothing_here(self, mirrored, source):
        found = [{"name": "acme/web", "description": "x", "star_count": 3, "is_official": True}, {"name": "../x"}, 7]
        source.contents["/v1/search"] = Answer(json.dumps({"results": found}).encode())
        answer = mirrored.get("/search?q=web&n=5")
        expected = {**found[0], "is_automated": False}
        assert (1, [expected]) == (answer.json["num_results"], answer.json["results"])
        assert ["/v1/search?q=web&n=5"] == asked(source)
        source.contents["/v1/search"] = Answer(b"<html>")
        assert [] == mirrored.get("/search?q=web").json["results"]


class TestAMirror:
    def test_has_the_variables_of_0_7_1(self):
        variables = {
            "MIRROR_SOURCE": "https://registry.example",
            "MIRROR_SOURCE_INDEX": "https://index.example",
            "MIRROR_TAGS_CACHE_TTL": "864000",
        }
        section = load_config(variables).mirroring
        assert [*variables.values()] == [section.source, section.source_index, str(section.tags_cache_ttl)]

    def test_says_that_it_is_one(self, mirrored):
        for path in ("/_ping", "/v1/_ping"):
            assert "mirror" == mirrored.client.get(path).headers["X-Docker-Registry-Standalone"]

    def test_fetches_nothing_while_it_is_read_only_or_offline(self, mirrored, source, open_mirror):
        mirrored.services.read_only.why = "moving"
        offline = open_mirror(offline=True)
        for each in (mirrored, offline):
            assert 503 == each.get(f"/repositories/{NAME}/tags").status_code
            assert 503 == each.get(f"/images/{BASE}/layer").status_code
        assert [] == asked(source)

    def test_needs_a_source_that_speaks_one_of_the_apis(self, mirrored, source):
        source.contents.clear()
        source.contents[PING] = Answer(status=404)
        for header, value, speaks in (
            ("WWW-Authenticate", 'Basic realm="x"', False),
            ("WWW-Authenticate", 'Bearer realm="https://auth.example/token"', True),
            ("Docker-Distribution-Api-Version", "registry/2.0", True),
        ):
            source.contents[""] = Answer(status=401, headers={header: value})
            with nullcontext() if speaks else pytest.raises(UpstreamError, match="neither API"):
                mirrored.services.v1_mirror.check()

    def test_writes_nothing_while_it_is_read_only(self, mirrored, source, driver):
        assert 200 == mirrored.get(f"/images/{BASE}/json").status_code
        mirrored.services.read_only.why = "moving"
        assert 503 == mirrored.get(f"/images/{BASE}/layer").status_code
        assert not mirrored.services.registry.leases.counts

    def test_of_itself_notices_that(self, mirrored):
        via = mirrored.services.mirror.via()
        assert 502 == mirrored.get("/search", Via=f"1.1 {via}").status_code

    @pytest.mark.parametrize(
        ("section", "options", "message"),
        [
            ({"source": "registry.example"}, {}, "mirroring.source must be http"),
            ({"source": "https://u:p@registry.example"}, {}, "mirroring.source must be http"),
            ({"source": "https://a.example", "source_index": "x"}, {}, "mirroring.source_index must be http"),
            ({"source": "https://a.example"}, {"v1": False}, "mirroring.source mirrors for API V1"),
        ],
    )
    def test_is_not_started_with_wrong_settings(self, section, options, message):
        config = Config(storage="memory", mirroring=Mirroring(**section), **options)
        with pytest.raises(ConfigError, match=message):
            build(config, MemoryDriver())


def pieces_bytes(driver):
    """Return how many bytes of transfers are in a store."""
    files = driver.walk(layout.TRANSFERS)
    return sum(file.size for file in files if file.path.rpartition("/")[2].isdigit())


def pull_layer(mirrored, name, image):
    """Ask for the layer of an image as Docker does after the list of images."""
    token = mirrored.get(f"/repositories/{name}/images").headers["X-Docker-Token"]
    return mirrored.get(f"/images/{image.text}/layer", Authorization=f"Token {token}")
