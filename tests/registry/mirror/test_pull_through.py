"""Images of an upstream: pulled through, verified, stored, and served without the upstream afterwards."""

from __future__ import annotations

import gzip
import json
import random
import time
from dataclasses import MISSING
from pathlib import Path

import pytest

from docker_registry.config.sections import MirrorUpstream
from docker_registry.errors import ConfigError
from docker_registry.http.exchange import CONTEXT, Exchange, RequestContext
from docker_registry.registry import layout
from docker_registry.registry.maintenance.backup import Backup
from docker_registry.registry.maintenance.backup_folder import BackupFolder
from docker_registry.registry.mirror.remotes import ABSENT_SECONDS
from docker_registry.registry.mirror.upstream_connection import PROBE_SECONDS
from docker_registry.registry.mirror.upstream_content import WITHHELD_BYTES
from docker_registry.registry.names import Digest
from docker_registry.settings import TYPES, settings_of
from tests.registry.mirror.conftest import NAME, THERE
from tests.support.clients.v2 import OCI_INDEX, OCI_MANIFEST, digest_of, encoded
from tests.support.clock import Clock
from tests.support.images import Image, make_image
from tests.support.servers.upstream import Answer

#: A layer that needs several pieces, and is no multiple of anything.
LARGE = random.Random(1).randbytes(3 * 1024 * 1024 + 7)
IMAGE = Image("amd64", b'{"architecture": "amd64"}', (LARGE, b"a short layer"))
BLOB = f"blobs/{digest_of(LARGE)}"


def code(answer):
    (error,) = answer.json["errors"]
    return answer.status_code, error["code"]


def pull(mirrored, image=IMAGE, reference="v1"):
    """Pull an image as clients do, and check every byte."""
    answer = mirrored.get(f"manifests/{reference}")
    assert (200, image.manifest, image.media_type) == (answer.status_code, answer.data, answer.content_type)
    assert image.digest == answer.headers["Docker-Content-Digest"]
    for digest, content in image.blobs.items():
        answer = mirrored.get(f"blobs/{digest}")
        assert (200, content) == (answer.status_code, answer.data)
        assert str(len(content)) == answer.headers["Content-Length"]


class TestAnImageOfAnUpstream:
    @pytest.fixture(autouse=True)
    def image(self, upstream):
        upstream.add(THERE, "v1", IMAGE)

    def test_is_pulled_through_once(self, mirrored, upstream):
        pull(mirrored)
        asked = upstream.asked()
        assert [f"{THERE}/manifests/v1", *(f"{THERE}/blobs/{digest}" for digest in IMAGE.blobs)] == asked
        pull(mirrored)
        pull(mirrored, reference=IMAGE.digest)
        assert asked == upstream.asked()

    def test_is_served_without_the_upstream_after_a_restart(self, mirrored, upstream, open_mirror):
        pull(mirrored)
        upstream.stop()
        pull(open_mirror())

    def test_is_listed_and_has_its_tag(self, mirrored):
        pull(mirrored)
        assert [NAME] == mirrored.client.get("/v2/_catalog").json["repositories"]
        assert ["v1"] == mirrored.get("tags/list").json["tags"]

    def test_leaves_nothing_but_the_image_in_the_store(self, mirrored, driver):
        pull(mirrored)
        assert [] == list(driver.walk("docker/registry/v2/_transfers"))
        assert [] == list(driver.walk("docker/registry/v2/_uploads"))

    def test_is_not_fetched_by_head(self, mirrored, upstream):
        answer = mirrored.head(BLOB)
        assert (200, str(len(LARGE))) == (answer.status_code, answer.headers["Content-Length"])
        assert [f"{THERE}/{BLOB}"] == upstream.asked("HEAD") == upstream.asked()

    def test_has_parts(self, mirrored, upstream):
        for first, last in ((0, 0), (1_500_000, 2_500_000), (len(LARGE) - 5, len(LARGE) - 1)):
            answer = mirrored.get(BLOB, Range=f"bytes={first}-{last}")
            assert (206, LARGE[first : last + 1]) == (answer.status_code, answer.data)

    def test_receives_nothing_of_the_client(self, mirrored, upstream):
        private = {"Authorization": "Basic eDp5", "Cookie": "a=b", "X-Forwarded-For": "10.1.1.1", "Forwarded": "for=x"}
        assert 200 == mirrored.get("manifests/v1", **private).status_code
        ((_, _, headers),) = upstream.requests
        assert {"host", "user-agent", "accept", "accept-encoding", "connection", "via"} >= headers.keys()
        assert headers["user-agent"].startswith("docker-registry/")

    def test_is_not_pushed_or_deleted(self, open_mirror, upstream):
        mirrored = open_mirror(v1=True)
        pull(mirrored)
        before = mirrored.paths()
        path = f"/v2/{NAME}"
        changes = [
            mirrored.client.post(f"{path}/blobs/uploads/"),
            mirrored.client.put(f"{path}/manifests/v1", data=IMAGE.manifest, content_type=OCI_MANIFEST),
            mirrored.client.delete(f"{path}/manifests/v1"),
            mirrored.client.delete(f"{path}/blobs/{digest_of(LARGE)}"),
        ]
        assert {(405, "UNSUPPORTED")} == {code(answer) for answer in changes}
        assert 405 == mirrored.client.put(f"/v1/repositories/{NAME}/", json=[]).status_code
        assert before == mirrored.paths()

    def test_of_an_index_is_fetched_for_one_platform_only(self, mirrored, upstream):
        other = make_image(7)
        upstream.add(THERE, "other", other)
        children = [
            {"mediaType": OCI_MANIFEST, "digest": each.digest, "size": len(each.manifest)} for each in (IMAGE, other)
        ]
        index = encoded({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": children})
        upstream.put_manifest(THERE, "all", index, OCI_INDEX)
        assert index == mirrored.get("manifests/all").data
        pull(mirrored, reference=IMAGE.digest)
        assert not any(other.digest in path for path in upstream.asked())

    def test_shares_its_blobs_with_other_repositories_that_have_them(self, mirrored, upstream):
        created = mirrored.client.post(f"/v2/mine/blobs/uploads/?digest={digest_of(LARGE)}", data=LARGE)
        assert 201 == created.status_code
        assert LARGE == mirrored.get(BLOB).data
        ((_, _, headers),) = upstream.requests
        first, last = map(int, headers["range"].removeprefix("bytes=").split("-"))
        assert (1024, True) == (last + 1 - first, last < len(LARGE)), "some bytes prove that it has the blob"
        del upstream.contents[f"{THERE}/{BLOB}"]
        hidden = f"/v2/up.example/library/other/{BLOB}"
        assert (404, "BLOB_UNKNOWN") == code(mirrored.client.get(hidden)), "a digest alone grants nothing"

    def test_gets_no_blob_of_other_repositories_of_which_it_knows_the_digest_alone(self, mirrored, upstream):
        created = mirrored.client.post(f"/v2/mine/blobs/uploads/?digest={digest_of(LARGE)}", data=LARGE)
        assert 201 == created.status_code
        upstream.contents[f"{THERE}/{BLOB}"] = Answer(bytes(len(LARGE)))
        assert (502, "UNAVAILABLE") == code(mirrored.get(BLOB))
        mount = f"/v2/another/blobs/uploads/?mount={digest_of(LARGE)}&from={NAME}"
        assert 202 == mirrored.client.post(mount).status_code
        del upstream.contents[f"{THERE}/{BLOB}"]
        assert (404, "BLOB_UNKNOWN") == code(mirrored.get(BLOB))

    def test_shares_an_empty_blob_though_no_part_of_it_can_be_requested(self, mirrored, upstream):
        empty = f"blobs/{digest_of(b'')}"
        assert 201 == mirrored.client.post(f"/v2/mine/blobs/uploads/?digest={digest_of(b'')}").status_code
        upstream.contents[f"{THERE}/{empty}"] = lambda headers: Answer(status=416 if "range" in headers else 200)
        answer = mirrored.get(empty)
        assert (200, b"") == (answer.status_code, answer.data)

    def test_receives_a_large_blob_again_if_the_upstream_sends_no_parts(self, mirrored, upstream):
        """Skipping bytes up to a place far behind the beginning would keep the client waiting for its first byte."""
        large = LARGE * 2
        path = f"blobs/{digest_of(large)}"
        created = mirrored.client.post(f"/v2/mine/blobs/uploads/?digest={digest_of(large)}", data=large)
        assert 201 == created.status_code
        upstream.contents[f"{THERE}/{path}"] = Answer(large)
        assert large == mirrored.get(path).data == mirrored.get(path).data
        assert [True, False] == ["range" in headers for _, _, headers in upstream.requests]

    def test_is_mounted_only_when_it_is_here(self, mirrored):
        mount = f"/v2/mine/blobs/uploads/?mount={digest_of(LARGE)}&from={NAME}"
        assert 202 == mirrored.client.post(mount).status_code
        pull(mirrored)
        assert 201 == mirrored.client.post(mount).status_code

    def test_is_mounted_if_the_upstream_proves_that_it_has_it(self, mirrored, upstream):
        assert 201 == mirrored.client.post(f"/v2/ours/blobs/uploads/?digest={digest_of(LARGE)}", data=LARGE).status_code
        mounts = [f"/v2/mine/blobs/uploads/?mount={digest_of(LARGE)}&from={name}" for name in (NAME, "up.example/none")]
        assert [201, 202] == [mirrored.client.post(mount).status_code for mount in mounts]
        upstream.stop()
        assert [201, 202] == [mirrored.client.post(mount).status_code for mount in mounts], "the upload begins"

    def test_has_blobs_of_unknown_length(self, mirrored, upstream):
        upstream.contents[f"{THERE}/{BLOB}"] = Answer(LARGE, announced=None)
        pull(mirrored)

    def test_is_passed_on_without_being_stored_while_the_registry_is_read_only(self, mirrored, upstream):
        mirrored.services.read_only.why = "moving"
        for _ in range(2):
            pull(mirrored)
        assert len(LARGE) == mirrored.head(BLOB).content_length
        for first, last in ((0, 0), (1_500_000, 2_500_000), (1, len(LARGE) - 1), (len(LARGE) - 5, len(LARGE) - 1)):
            answer = mirrored.get(BLOB, Range=f"bytes={first}-{last}")
            assert (206, LARGE[first : last + 1]) == (answer.status_code, answer.data)
        assert (404, "MANIFEST_UNKNOWN") == code(mirrored.get("manifests/none"))
        assert (404, "BLOB_UNKNOWN") == code(mirrored.get(f"blobs/{digest_of(b'none')}"))
        assert 200 == mirrored.get(f"referrers/{IMAGE.digest}").status_code
        upstream.contents[f"{THERE}/blobs/{digest_of(b'')}"] = Answer()
        empty = mirrored.get(f"blobs/{digest_of(b'')}")
        assert (200, b"") == (empty.status_code, empty.data)
        assert "mirror" not in {work for work, _ in mirrored.services.registry.leases.counts}, "a lease is a write"
        wrong = LARGE[:-1] + b"?"
        upstream.contents[f"{THERE}/{BLOB}"] = Answer(wrong)
        received = bytearray()
        with pytest.raises(ConnectionResetError, match="other content"):
            for block in mirrored.client.get(f"/v2/{NAME}/{BLOB}", buffered=False).iter_encoded():
                received += block
        assert len(LARGE) - WITHHELD_BYTES == len(received)
        assert set() == mirrored.paths()
        mirrored.services.read_only.why = None
        upstream.add(THERE, "v1", IMAGE)
        pull(mirrored)

    def test_of_which_only_the_manifest_is_here_is_backed_up_without_damage(self, mirrored, driver, tmp_path):
        assert 200 == mirrored.get("manifests/v1").status_code
        driver.put_content(f"{layout.transfer('running')}/0", b"a")
        report = Backup(driver, BackupFolder(tmp_path / "backup")).run()
        assert [] == report.damaged
        assert not (tmp_path / "backup" / layout.TRANSFERS).exists()
        assert mirrored.get(BLOB).data == LARGE
        driver.remove(layout.blob_data(Digest.parse(digest_of(LARGE))))
        assert 1 == len(Backup(driver, BackupFolder(tmp_path / "backup")).run().damaged), "what was here is checked"


class TestNames:
    def test_that_are_not_allowed_are_not_mirrored(self, open_mirror, upstream):
        upstream.add(THERE, "v1", IMAGE)
        for options, status in (
            ({"allow": ("library/*",)}, 200),
            ({"allow": ("acme/**",)}, 404),
            ({"deny": ("library/*",)}, 404),
            ({"allow": ("**",), "deny": ("*/app",)}, 404),
        ):
            upstream.requests.clear()
            assert status == open_mirror(**options).head("manifests/v1").status_code
            assert (status == 404) == (not upstream.requests)
        refused = open_mirror(deny=("**",)).client.post(f"/v2/{NAME}/blobs/uploads/")
        assert 405 == refused.status_code
        with pytest.raises(ConfigError, match=r"the pattern a b may only contain"):
            open_mirror(allow=("a b",))


class TestARegistryThatIsItsOwnUpstream:
    def test_answers_with_an_error(self, mirrored, upstream):
        mirrored.get("manifests/v1")
        ((_, _, headers),) = upstream.requests
        answer = mirrored.get("manifests/v1", Via=f"1.0 proxy, {headers['via']}")
        assert (502, "UNAVAILABLE") == code(answer)
        assert 404 == mirrored.get("manifests/v1", Via="1.1 proxy").status_code


class TestWhatAnUpstreamDoesNotHave:
    def test_is_not_found_and_not_asked_for_again_at_once(self, mirrored, upstream):
        for _ in range(2):
            assert (404, "MANIFEST_UNKNOWN") == code(mirrored.get("manifests/v1"))
            assert (404, "BLOB_UNKNOWN") == code(mirrored.get(BLOB))
            assert 404 == mirrored.head(BLOB).status_code
        assert [f"{THERE}/manifests/v1", f"{THERE}/{BLOB}"] == upstream.asked()
        assert 2 == mirrored.services.registry.leases.counts["mirror", "taken"], "nothing is written again either"
        assert set() == mirrored.paths()
        upstream.add(THERE, "v1", IMAGE)
        remotes = mirrored.services.registry.sources.manifests[-1]._remotes
        remotes._now = lambda: time.monotonic() + ABSENT_SECONDS
        assert 200 == mirrored.get("manifests/v1").status_code == mirrored.get(BLOB).status_code


DIGEST = IMAGE.digest
GOOD = {"Content-Type": OCI_MANIFEST, "Docker-Content-Digest": DIGEST}
LIES = encoded({**json.loads(IMAGE.manifest), "annotations": {"a": "b"}})

#: Invalid answers to a request of a blob.
BAD_BLOBS = {
    "another blob": Answer(LARGE[:-1] + b"\0"),
    "a page": Answer(b"<html>Log in</html>", headers={"Content-Type": "text/html"}),
    "more bytes": Answer(LARGE + b"more"),
    "more bytes than announced": Answer(LARGE + b"more", announced=len(LARGE) - 5),
    "fewer bytes": Answer(LARGE[:-5]),
    "a part that was not requested": Answer(LARGE, status=206),
    "endless interim responses": Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000),
    "nothing": Answer(raw=b""),
}

#: Invalid answers to a request of a manifest.
BAD_MANIFESTS = {
    "a page": Answer(b"<html>Log in</html>", headers={"Content-Type": "text/html"}),
    "a page under the type of a manifest": Answer(b"<html>", headers={**GOOD, "Docker-Content-Digest": None}),
    "no digest": Answer(IMAGE.manifest, headers={**GOOD, "Docker-Content-Digest": None}),
    "an invalid digest": Answer(IMAGE.manifest, headers={**GOOD, "Docker-Content-Digest": "sha256:1"}),
    "another digest": Answer(LIES, headers=GOOD),
    "another media type": Answer(IMAGE.manifest, headers={**GOOD, "Content-Type": OCI_INDEX}),
    "a compressed one": Answer(gzip.compress(IMAGE.manifest), headers={**GOOD, "Content-Encoding": "gzip"}),
    "three gigabytes": Answer(b" " * 5_000_000, announced=3 * 1024**3, headers=GOOD),
    "an endless one": Answer(b" " * 5_000_000, announced=None, headers=GOOD),
    "a part": Answer(IMAGE.manifest, status=206, headers=GOOD),
    "fewer bytes than announced": Answer(IMAGE.manifest, announced=len(IMAGE.manifest) + 1, headers=GOOD),
    "a redirect to itself": Answer(status=302, headers={"Location": "/v2/bad/manifests/v1"}),
    "a redirect to no URL": Answer(status=302, headers={"Location": "http://[x"}),
    "a redirect to no port": Answer(status=302, headers={"Location": "http://127.0.0.1:65536/"}),
    "a redirect to a file": Answer(status=302, headers={"Location": "file:///etc/passwd"}),
    "endless interim responses": Answer(raw=b"HTTP/1.1 100 Continue\r\n\r\n" * 100_000),
    "no HTTP": Answer(raw=b"SSH-2.0-OpenSSH_9.9\r\n"),
    "a refusal": Answer(status=403),
    "an internal error": Answer(status=500),
}


#: Answers that are no HTTP, or end early; all others are wrong.
BROKEN_CONNECTIONS = {"fewer bytes than announced", "endless interim responses", "no HTTP"}


class TestAnUpstreamThatMisbehaves:
    @pytest.mark.parametrize("bad", BAD_MANIFESTS)
    def test_makes_a_manifest_unavailable(self, shared, bad):
        mirrored, upstream = shared
        assert 404 == mirrored.get("manifests/none", f"up.example/{bad.replace(' ', '-').lower()}").status_code
        upstream.contents["bad/manifests/v1"] = BAD_MANIFESTS[bad]
        status = 503 if bad in BROKEN_CONNECTIONS else 502
        assert (status, "UNAVAILABLE") == code(mirrored.get("manifests/v1", "up.example/bad"))
        assert set() == mirrored.paths()

    @pytest.mark.parametrize("size", [10, len(LARGE)], ids=["short", "long"])
    def test_does_not_get_a_wrong_blob_through(self, mirrored, upstream, size):
        good, wrong = LARGE[:size], LARGE[: size - 1] + b"\0"
        digest = digest_of(good)
        upstream.contents[f"{THERE}/blobs/{digest}"] = Answer(wrong)
        received = bytearray()
        try:
            answer = mirrored.client.get(f"/v2/{NAME}/blobs/{digest}", buffered=False)
            for block in answer.iter_encoded():
                received += block
            assert 502 == answer.status_code and size <= WITHHELD_BYTES
        except Exception as error:  # noqa: BLE001 - as the server sees it: it cuts the connection
            assert "other content" in str(error)
        assert len(received) <= max(size - WITHHELD_BYTES, 0) or answer.status_code == 502
        assert set() == mirrored.paths()
        upstream.contents[f"{THERE}/blobs/{digest}"] = Answer(good)
        assert good == mirrored.client.get(f"/v2/{NAME}/blobs/{digest}").data, "the next attempt succeeds"

    @pytest.mark.parametrize("bad", BAD_BLOBS)
    def test_gets_no_invalid_blob_through(self, mirrored, upstream, bad):
        upstream.contents[f"{THERE}/{BLOB}"] = BAD_BLOBS[bad]
        try:
            answer = mirrored.get(BLOB)
            assert answer.data
            assert answer.status_code in (502, 503)
        except ConnectionResetError:  # in the middle of the response, whose connection the server then cuts
            assert answer.status_code == 200
        assert set() == mirrored.paths()

    def test_gets_no_blob_without_bytes_through(self, mirrored, upstream):
        upstream.contents[f"{THERE}/{BLOB}"] = Answer()
        assert (502, "UNAVAILABLE") == code(mirrored.get(BLOB))
        assert set() == mirrored.paths()

    @pytest.mark.parametrize("is_read_only", [False, True])
    def test_gets_no_blob_of_another_size_than_in_its_manifest_through(self, mirrored, upstream, is_read_only):
        """It could have all bytes sent before they are verified, if the announced size were larger."""
        mirrored.services.read_only.why = "moving" if is_read_only else None
        upstream.add(THERE, "v1", IMAGE)
        assert 200 == mirrored.get("manifests/v1").status_code
        upstream.contents[f"{THERE}/{BLOB}"] = Answer(LARGE, announced=2 * len(LARGE))
        assert (502, "UNAVAILABLE") == code(mirrored.get(BLOB))
        upstream.contents[f"{THERE}/{BLOB}"] = Answer(LARGE, announced=len(LARGE) if is_read_only else None)
        assert LARGE == mirrored.get(BLOB).data

    def test_limits_pulls(self, mirrored, upstream):
        upstream.contents[f"{THERE}/manifests/v1"] = Answer(status=429, headers={"Retry-After": "77"})
        answer = mirrored.get("manifests/v1")
        assert (429, "TOOMANYREQUESTS") == code(answer)
        assert "77" == answer.headers["Retry-After"]

    def test_is_not_asked_any_more_after_five_failures(self, mirrored, upstream):
        upstream.contents[f"{THERE}/manifests/v1"] = Answer(status=500)
        statuses = [mirrored.get("manifests/v1").status_code for _ in range(7)]
        assert [502] * 5 + [503] * 2 == statuses
        assert 5 == len(upstream.requests)
        clock = mirrored.services.mirror._clients[0].connection._breaker._now = Clock(time.monotonic() + PROBE_SECONDS)
        assert [502, 503] == [mirrored.get("manifests/v1").status_code for _ in range(2)], "one attempt"
        upstream.add(THERE, "v1", IMAGE)
        clock.now += PROBE_SECONDS
        assert {200} == {mirrored.get(f"manifests/{each}").status_code for each in ("v1", IMAGE.digest)}

    def test_is_reported_as_unreachable(self, mirrored, upstream):
        upstream.stop()
        answer = mirrored.get("manifests/v1")
        assert (503, "UNAVAILABLE") == code(answer)
        assert {"upstream": "up.example"}.items() <= answer.json["errors"][0]["detail"].items()


class TestTheStart:
    def test_fails_where_repositories_were_pushed_under_the_name_of_an_upstream(self, mirrored, upstream, open_mirror):
        upstream.add(THERE, "v1", IMAGE)
        pull(mirrored)
        open_mirror().services.check_start()
        pushed = {"config": {"mediaType": "a/b", "digest": digest_of(b"{}"), "size": 2}, "layers": []}
        registry = open_mirror().services.registry
        from docker_registry.registry.ingest import Content
        from docker_registry.registry.names import Digest, RepositoryName, Tag

        name = RepositoryName.parse("up.example/pushed")
        registry.uploads.put(name, Digest.of(b"{}"), Content(b"{}"))
        registry.manifest_pushes.put(name, Tag("v1"), encoded({"schemaVersion": 2, **pushed}), OCI_MANIFEST)
        with pytest.raises(ConfigError, match=r": up\.example/pushed$"):
            mirrored.services.check_start()

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"name": "up/example", "url": "http://h"}, "first part of repository names"),
            ({"name": "UP", "url": "http://h"}, "first part of repository names"),
            ({"name": "up", "url": "h:5000"}, "url must be"),
            ({"name": "up", "url": "ftp://h"}, "url must be"),
            ({"name": "up", "url": "https://user:secret@h"}, "url must be"),
            ({"name": "up", "url": "https://h:port"}, "url must be"),
        ],
        ids=lambda value: value if isinstance(value, str) else value["name"] + value["url"][:6],
    )
    def test_fails_for_an_invalid_upstream(self, options, message):
        from docker_registry.registry.mirror.upstream import parse_upstream

        with pytest.raises(ConfigError, match=message) as raised:
            parse_upstream(**options)
        assert "secret" not in str(raised.value)

    def test_fails_for_two_upstreams_of_one_name(self):
        from docker_registry.registry.mirror.upstream import Upstreams, parse_upstream

        with pytest.raises(ConfigError, match="two upstreams are named up"):
            Upstreams([parse_upstream("up", "http://a"), parse_upstream("up", "http://b")])


class TestTheDocumentation:
    def test_has_every_key_of_an_upstream(self):
        page = (Path(__file__).parents[3] / "docs/mirrors.md").read_text()
        for setting in settings_of(MirrorUpstream):
            default = "required" if setting.default is MISSING else f"`{setting.default}`" if setting.default else ""
            kind = setting.unit or TYPES[setting.type]
            assert f"| `{setting.name}` | {kind} | {default} | {setting.help} |" in page


class TestTheRequestsOfClients:
    def test_are_hits_or_misses_and_their_bytes_are_counted(self, shared):
        mirrored, upstream = shared
        name, image = "up.example/counted", make_image("counted")
        upstream.add("counted", "v1", image)
        routes = {"manifests": "v2_manifests.get_manifest", "blobs": "v2_blobs.get_blob"}
        counts = mirrored.services.mirror_recorder.counts
        before, pulled = dict(counts), mirrored.services.mirror.pulled_bytes()
        for _ in range(2):
            for path in ("manifests/v1", *(f"blobs/{digest}" for digest in image.blobs)):
                context = RequestContext("", "")
                answer = mirrored.client.get(f"/v2/{name}/{path}", environ_overrides={CONTEXT: context})
                exchange = Exchange(
                    "GET", routes[path.partition("/")[0]], context.repository, "", "", answer.status_code, 0,
                    len(answer.data), 0.0, 0.0, "", "", "", False, "", "", context.upstream, "", "", "", "",
                )  # fmt: skip
                mirrored.services.mirror_recorder(exchange)
        size = sum(map(len, image.blobs.values()))
        gained = {key: count - before[key] for key, count in counts.items() if count != before[key]}
        expected = {
            "manifest": {"requests": 2, "hits": 1, "misses": 1, "pushed_bytes": 2 * len(image.manifest)},
            "blob": {"requests": 6, "hits": 3, "misses": 3, "pushed_bytes": 2 * size},
        }
        assert {
            (what, kind, "up.example"): count for kind, row in expected.items() for what, count in row.items()
        } == gained
        now = mirrored.services.mirror.pulled_bytes()
        assert (size, len(image.manifest)) == tuple(
            now[kind, "up.example"] - pulled[kind, "up.example"] for kind in ("blob", "manifest")
        )
