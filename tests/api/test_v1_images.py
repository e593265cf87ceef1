"""API V1: images over HTTP, with the statuses, headers and sentences that old clients know."""

from __future__ import annotations

import gzip
import hashlib
import itertools
import json
from email.utils import parsedate_to_datetime

import pytest

from docker_registry.registry.layers.tarsum import tarsum
from tests.api.conftest import unique
from tests.support.clients.v1 import Docker, done, error
from tests.support.layers import tar
from tests.support.multipart import parts_of
from tests.support.v1_images import chain, make

NOT_FOUND = (404, "Image not found")
UNFINISHED = (400, "Image is being uploaded, retry later")
LAST_MODIFIED = "Thu, 01 Jan 1970 00:00:00 GMT"

_numbers = itertools.count(1000, 100)

#: What can be asked of an image.
PARTS = ("json", "layer", "ancestry", "files", "diff")


def fresh(**more):
    """Return an image that no other test uses."""
    return make(next(_numbers), **more)


@pytest.fixture(scope="module")
def docker(server):
    with Docker(server.url) as docker:
        yield docker


@pytest.fixture(scope="module")
def image(docker):
    image = fresh()
    docker.push_images(image)
    return image


class TestAChainOfImages:
    def test_is_pulled_as_it_was_pushed(self, docker):
        name, images = unique("v1"), chain(3, first=next(_numbers))
        docker.push(name, "v1", *images)
        assert [(image.text, image.payload, image.layer) for image in images] == docker.pull(name, "v1")
        assert list(images[-1].ancestry) == docker.get(f"/images/{images[-1].text}/ancestry").json()

    @pytest.mark.parametrize("chunk", [1, 13, 65536])
    def test_may_come_in_chunks_of_any_size(self, docker, chunk):
        image = fresh()
        docker.push_images(image, chunk=chunk)
        assert image.layer == docker.get(f"/images/{image.text}/layer").content

    @pytest.mark.parametrize(
        "user_agent",
        [
            "",
            "curl/8",
            "docker/20.10.24+dfsg1",
            "docker/",
            "docker",
            "/",
            "docker/0.9.1-dev go/",
            "ü".encode("latin-1"),
        ],
    )
    def test_may_be_pushed_by_any_client(self, server, user_agent):
        with Docker(server.url, user_agent) as docker:
            image = fresh()
            docker.push(unique("v1"), "v1", image)
            assert image.layer == docker.get(f"/images/{image.text}/layer").content

    def test_is_json_as_0_7_1_writes_it(self, docker):
        images = chain(2, first=next(_numbers))
        docker.push_images(*images)
        expected = f'["{images[1].text}", "{images[0].text}"]'
        answer = docker.get(f"/images/{images[1].text}/ancestry")
        assert (expected, "application/json") == (answer.text, answer.headers["Content-Type"])


class TestAnExistingImage:
    def test_has_headers_for_size_and_checksum_of_its_layer(self, docker, image):
        headers = done(docker.get(f"/images/{image.text}/json"), 200).headers
        assert str(len(image.layer)) == headers["X-Docker-Size"]
        assert image.payload_sum == headers["X-Docker-Checksum-Payload"]
        assert image.payload_sum == headers["X-Docker-Payload-Checksum"]
        assert "application/json" == headers["Content-Type"]

    @pytest.mark.parametrize("part", PARTS)
    def test_may_be_cached_for_a_year(self, docker, image, part):
        headers = done(docker.get(f"/images/{image.text}/{part}"), 200).headers
        assert ("public, max-age=31536000", LAST_MODIFIED) == (headers["Cache-Control"], headers["Last-Modified"])
        year = parsedate_to_datetime(headers["Expires"]) - parsedate_to_datetime(headers["Date"])
        assert 364 <= year.days <= 366

    @pytest.mark.parametrize("part", PARTS)
    def test_has_never_been_modified(self, docker, image, part):
        answer = docker.get(f"/images/{image.text}/{part}", headers={"If-Modified-Since": LAST_MODIFIED})
        assert (304, b"") == (answer.status_code, answer.content)
        assert "public, max-age=31536000" == answer.headers["Cache-Control"]

    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("slash", ["", "/"])
    def test_supports_head_wherever_it_has_a_body(self, docker, image, part, slash):
        path = f"/images/{image.text}/{part}{slash}"
        head, whole = docker.ask("HEAD", path), done(docker.get(path), 200)
        assert (200, b"") == (head.status_code, head.content)
        changing = {"Date", "Expires"}
        assert {key: value for key, value in whole.headers.items() if key not in changing} == {
            key: value for key, value in head.headers.items() if key not in changing
        }

    def test_is_not_pushed_again(self, docker, image):
        path = f"/images/{image.text}"
        assert (409, "Image already exists") == error(docker.put(f"{path}/json", image.payload))
        assert (409, "Image already exists") == error(docker.put(f"{path}/layer", image.layer))
        headers = {"X-Docker-Checksum-Payload": image.payload_sum}
        assert (409, "Cannot set this image checksum") == error(docker.put(f"{path}/checksum", headers=headers))

    def test_lists_its_files(self, docker, image):
        (entry,) = done(docker.get(f"/images/{image.text}/files"), 200).json()
        assert entry[0].startswith("etc/conf-")
        assert ["f", False] == entry[1:3]

    def test_returns_its_diff(self, docker, image):
        diff = done(docker.get(f"/images/{image.text}/diff"), 200)
        assert ({}, {}, 1) == (diff.json()["deleted"], diff.json()["changed"], len(diff.json()["created"]))
        assert diff.text.startswith('{"changed": {}, "created": {"etc/conf-')


class TestALayer:
    def test_announces_byte_ranges(self, docker, image):
        headers = docker.get(f"/images/{image.text}/layer").headers
        assert ("bytes", "application/octet-stream") == (headers["Accept-Ranges"], headers["Content-Type"])

    def test_is_sent_in_several_parts(self, docker, image):
        answer = docker.get(f"/images/{image.text}/layer", headers={"Range": "bytes=0-1,5-6"})
        assert 206 == answer.status_code
        expected = [(0, image.layer[:2]), (5, image.layer[5:7])]
        assert expected == parts_of(answer.headers["Content-Type"], answer.content)

    @pytest.mark.parametrize(
        ("text", "part", "said"),
        [
            ("bytes=0-", slice(None), "0-{last}"),
            ("bytes=5-", slice(5, None), "5-{last}"),
            ("bytes=5-{size}", slice(5, None), "5-{last}"),  # one past the end: Docker that resumes
            ("bytes=5-99999999", slice(5, None), "5-{last}"),
            ("bytes=0-0", slice(0, 1), "0-0"),
            ("bytes=3-9", slice(3, 10), "3-9"),
            ("bytes=-4", slice(-4, None), "{size_4}-{last}"),
            ("bytes={last}-{last}", slice(-1, None), "{last}-{last}"),
        ],
    )
    def test_is_sent_in_part(self, docker, image, text, part, said):
        size = len(image.layer)
        numbers = {"size": size, "last": size - 1, "size_4": size - 4}
        answer = docker.get(f"/images/{image.text}/layer", headers={"Range": text.format(**numbers)})
        assert (206, image.layer[part]) == (answer.status_code, answer.content)
        assert f"bytes {said.format(**numbers)}/{size}" == answer.headers["Content-Range"]

    @pytest.mark.parametrize(
        "text", ["bytes={size}-{size}", "bytes={size}-", "bytes=99999999-", "bytes=9-3", "bytes=-0"]
    )
    def test_has_no_range_beyond_its_end(self, docker, image, text):
        size = len(image.layer)
        answer = docker.get(f"/images/{image.text}/layer", headers={"Range": text.format(size=size)})
        assert (416, b"", "0") == (answer.status_code, answer.content, answer.headers["Content-Length"])
        assert f"bytes */{size}" == answer.headers["Content-Range"]
        assert "no-cache" == answer.headers["Cache-Control"]

    @pytest.mark.parametrize("text", ["bytes=0-1,x", "lines=0-1", "bytes", "bytes=a-b", "bytes=-"])
    def test_is_sent_completely_for_an_invalid_range(self, docker, image, text):
        answer = docker.get(f"/images/{image.text}/layer", headers={"Range": text})
        assert (200, image.layer) == (answer.status_code, answer.content)

    def test_is_resumed_only_if_it_is_unchanged(self, docker, image):
        path = f"/images/{image.text}/layer"
        assert 206 == docker.get(path, headers={"Range": "bytes=1-", "If-Range": LAST_MODIFIED}).status_code
        assert 200 == docker.get(path, headers={"Range": "bytes=1-", "If-Range": '"x"'}).status_code

    def test_may_be_empty(self, docker):
        image = fresh(layer=b"")
        docker.push_images(image)
        answer = docker.get(f"/images/{image.text}/layer")
        assert (200, b"", "0") == (answer.status_code, answer.content, answer.headers["Content-Length"])

    def test_need_not_be_a_tar(self, docker):
        image = fresh(layer=b"no tar" * 1000)
        docker.push_images(image)
        assert image.layer == docker.get(f"/images/{image.text}/layer").content
        for part in ("files", "diff"):
            assert (400, "Layer format not supported") == error(docker.get(f"/images/{image.text}/{part}"))


class TestAMissingImage:
    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("headers", [{}, {"If-Modified-Since": LAST_MODIFIED}, {"Range": "bytes=0-"}])
    def test_is_not_found_even_if_the_client_has_cached_it(self, docker, part, headers):
        assert NOT_FOUND == error(docker.get(f"/images/{fresh().text}/{part}", headers=headers))

    @pytest.mark.parametrize("part", PARTS)
    @pytest.mark.parametrize("text", ["x", "0" * 63, "0" * 65, "A" * 64, "%2e%2e", "..%2F..%2Fetc", "%00"])
    def test_is_not_found_by_an_invalid_id(self, docker, part, text):
        answer = docker.get(f"/images/{text}/{part}")
        assert 404 == answer.status_code
        assert answer.json()["error"]

    def test_is_not_found_among_private_images(self, docker, image):
        for text in (image.text, fresh().text):
            for part in ("json", "layer", "files"):
                assert NOT_FOUND == error(docker.get(f"/private_images/{text}/{part}"))


class TestAnImageThatIsBeingPushed:
    @pytest.mark.parametrize("headers", [{}, {"If-Modified-Since": LAST_MODIFIED}])
    def test_is_unfinished_until_its_checksum_arrives(self, docker, headers):
        image = fresh()
        path = f"/images/{image.text}"
        done(docker.put(f"{path}/json", image.payload), 200)
        for part in PARTS:
            assert UNFINISHED == error(docker.get(f"{path}/{part}", headers=headers))
        done(docker.put(f"{path}/layer", image.layer), 200)
        for part in PARTS:
            assert UNFINISHED == error(docker.get(f"{path}/{part}", headers=headers))
        assert "true" == done(docker.put(f"{path}/json", image.payload), 200).text

    def test_reports_errors_in_its_json(self, docker):
        image = fresh()
        path = f"/images/{image.text}/json"
        for payload, sentence in {
            b"": "Invalid JSON",
            b"[1]": "Invalid JSON",
            b"{}": "Invalid JSON",
            b"[" * 10_000: "Invalid JSON",
            b"\xff": "Invalid JSON",
            b'{"x": 1}': "Missing key `id' in JSON",
            b'{"id": "x"}': "JSON data contains invalid id",
            json.dumps({"id": image.text, "parent": "0" * 64}).encode(): "Image depends on a non existing parent",
        }.items():
            assert (400, sentence) == error(docker.put(path, payload))

    def test_reports_errors_in_its_checksum(self, docker):
        image = fresh()
        path = f"/images/{image.text}"
        right = {"X-Docker-Checksum-Payload": image.payload_sum}
        assert (400, "Missing Image's checksum") == error(docker.put(f"{path}/checksum"))
        assert NOT_FOUND == error(docker.put(f"{path}/checksum", headers=right))
        assert NOT_FOUND == error(docker.put(f"{path}/layer", image.layer))
        done(docker.put(f"{path}/json", image.payload), 200)
        assert (400, "Checksum mismatch") == error(docker.put(f"{path}/checksum", headers=right))
        done(docker.put(f"{path}/layer", image.layer), 200)
        wrong = {"X-Docker-Checksum-Payload": "sha256:0", "X-Docker-Checksum": image.payload_sum}
        assert (400, "Checksum mismatch") == error(docker.put(f"{path}/checksum", headers=wrong))
        assert "true" == done(docker.put(f"{path}/checksum", headers=right), 200).text

    def test_may_be_sent_as_a_form_or_in_chunks(self, docker):
        for options in ({"headers": {"Content-Type": "application/x-www-form-urlencoded"}}, {}):
            image = fresh()
            payload = image.payload if options else iter([image.payload[:7], image.payload[7:]])
            done(docker.put(f"/images/{image.text}/json", payload, **options), 200)

    def test_rejects_endless_json(self, docker):
        payload = b'{"id": "%s", "x": "%s"}' % (fresh().text.encode(), b"x" * 5_000_000)
        assert 413 == docker.put(f"/images/{fresh().text}/json", payload).status_code

    def test_may_be_pushed_by_docker_before_0_10(self, docker):
        image = fresh(layer=tar("a", "b"))
        path = f"/images/{image.text}"
        done(docker.put(f"{path}/json", image.payload), 200)
        done(docker.put(f"{path}/layer", image.layer), 200)
        checksum = tarsum(image.payload, [image.layer], max_bytes=None)
        done(docker.put(f"{path}/checksum", headers={"X-Docker-Checksum": checksum}), 200)
        answer = docker.get(f"{path}/json")
        assert f"{image.payload_sum}, {checksum}" == answer.headers["X-Docker-Payload-Checksum"]
        assert image.payload_sum == answer.headers["X-Docker-Checksum-Payload"]

    @pytest.mark.parametrize(
        ("user_agent", "expected"),
        [
            ("docker/0.9.0 go/go1.2", 200),
            ("docker/0.9.1 go/go1.2.1", 200),
            ("", 200),
            ("docker/0.10.0 go/go1.2.1", 400),
        ],
    )
    def test_with_a_payload_checksum_of_another_form_is_proven_by_the_tarsum(self, server, user_agent, expected):
        """Docker 0.9.0 and 0.9.1 send the sum of the uncompressed tar."""
        content = tar("a", "b")
        image = fresh(layer=gzip.compress(content))
        path = f"/images/{image.text}"
        right = tarsum(image.payload, [image.layer], max_bytes=None)
        payload_sum = f"sha256:{hashlib.sha256(content).hexdigest()}"
        with Docker(server.url, user_agent) as docker:
            done(docker.put(f"{path}/json", image.payload), 200)
            done(docker.put(f"{path}/layer", image.layer), 200)
            for wrong in ("tarsum+sha256:" + "0" * 64, payload_sum, ""):
                headers = {"X-Docker-Checksum-Payload": payload_sum, "X-Docker-Checksum": wrong}
                assert (400, "Checksum mismatch") == error(docker.put(f"{path}/checksum", headers=headers))
            headers = {"X-Docker-Checksum-Payload": payload_sum, "X-Docker-Checksum": right}
            done(docker.put(f"{path}/checksum", headers=headers), expected)
            if expected == 200:
                answer = done(docker.get(f"{path}/json"), 200)
                assert f"{image.payload_sum}, {right}" == answer.headers["X-Docker-Payload-Checksum"]
                assert image.payload_sum == answer.headers["X-Docker-Checksum-Payload"]
                assert image.layer == docker.get(f"{path}/layer").content


class TestAnUnsupportedMethod:
    @pytest.mark.parametrize("method", ["POST", "DELETE", "PATCH"])
    def test_is_rejected_with_the_supported_ones(self, docker, image, method):
        answer = docker.ask(method, f"/images/{image.text}/json")
        assert 405 == error(answer)[0]
        assert {"GET", "HEAD", "OPTIONS", "PUT"} == set(answer.headers["Allow"].split(", "))

    def test_is_not_among_the_options(self, docker, image):
        answer = docker.ask("OPTIONS", f"/images/{image.text}/layer")
        assert 200 == answer.status_code
        assert {"GET", "HEAD", "OPTIONS", "PUT"} == set(answer.headers["Allow"].split(", "))


class TestAnUnknownUrl:
    @pytest.mark.parametrize("path", ["/", "/nothing", "/images", "/images/x", "/images/x/y/z", "/repositories"])
    def test_is_answered_in_json(self, docker, path):
        assert 404 == error(docker.get(path))[0]
