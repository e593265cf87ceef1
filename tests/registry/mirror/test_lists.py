"""Lists of tags and referrers of an upstream."""

from __future__ import annotations

import json
import time
from urllib.parse import parse_qs, urlsplit

import pytest

from docker_registry.registry import layout
from docker_registry.registry.mirror.stale import STALE_SECONDS
from docker_registry.registry.names import Digest, RepositoryName
from tests.registry.mirror.conftest import NAME, THERE
from tests.support.clients.v2 import OCI_INDEX, OCI_MANIFEST, digest_of, encoded
from tests.support.images import make_image
from tests.support.servers.upstream import Answer

IMAGE = make_image("signed", layer_bytes=10)
TAGS, REFERRERS = f"{THERE}/tags/list", f"{THERE}/referrers/{IMAGE.digest}"
FALLBACK = f"{THERE}/manifests/{IMAGE.digest.replace(':', '-')}"


def signature(number):
    """A manifest that refers to the image."""
    subject = {"mediaType": OCI_MANIFEST, "digest": IMAGE.digest, "size": len(IMAGE.manifest)}
    config = {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2}
    return encoded(
        {
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "artifactType": f"application/vnd.test.{number % 2}",
            "config": config,
            "layers": [],
            "subject": subject,
            "annotations": {"number": str(number)},
        }
    )


def entry(number):
    payload = signature(number)
    return {
        "mediaType": OCI_MANIFEST,
        "digest": digest_of(payload),
        "size": len(payload),
        "artifactType": f"application/vnd.test.{number % 2}",
    }


def index(*numbers, link=None):
    document = {"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": [entry(number) for number in numbers]}
    headers = {"Content-Type": OCI_INDEX, **({"Link": f'<{link}>; rel="next"'} if link else {})}
    return Answer(encoded(document), headers=headers)


def tags(names, link=None, media_type="application/json"):
    headers = {"Content-Type": media_type, **({"Link": f'<{link}>; rel="next"'} if link else {})}
    return Answer(json.dumps({"name": THERE, "tags": names}).encode(), headers=headers)


def query_of(upstream):
    """Return the length of the page that the upstream was asked for last, and the tag or cursor before it."""
    query = parse_qs(urlsplit(upstream.requests[-1][1]).query)
    return int(query["n"][0]), query.get("last", [""])[0]


def unordered(upstream, names=("v2", "v9", "v10", "latest", "v1"), cursor="{}", longest=3):
    """Return the next page of tags in the order of their pushes."""
    n, last = query_of(upstream)
    places = {cursor.format(name): place for place, name in enumerate(names, 1)}
    start = places.get(last, 0)
    if last and not start:
        return Answer(status=405)
    end = start + min(n, longest)
    following = f"/v2/{TAGS}?n={n}&last={cursor.format(names[end - 1])}" if end < len(names) else None
    return tags(names[start:end], following, "text/plain; charset=utf-8")  # of Amazon ECR


def listed(mirrored, n):
    """Yield the pages of tags that a client lists."""
    path = f"/v2/{NAME}/tags/list?n={n}"
    while path:
        answer = mirrored.client.get(path)
        yield answer.json["tags"]
        path = answer.headers.get("Link", "").partition(">")[0].lstrip("<")


def referrers(mirrored, query=""):
    answer = mirrored.get(f"referrers/{IMAGE.digest}{query}")
    assert 200 == answer.status_code, answer.data
    return {each["digest"] for each in answer.json["manifests"]}


def digests(*numbers):
    return {digest_of(signature(number)) for number in numbers}


class TestTags:
    def test_are_passed_through_page_by_page(self, mirrored, upstream):
        pages = {"": ["a", "b"], "b": ["c"]}

        def page(headers):
            names = pages[query_of(upstream)[1]]
            return tags(names, f"/v2/{TAGS}?n=2&last={names[-1]}" if names != ["c"] else None)

        upstream.contents[TAGS] = page
        first = mirrored.get("tags/list?n=2")
        assert ["a", "b"] == first.json["tags"]
        second = mirrored.client.get(first.headers["Link"].partition(">")[0].lstrip("<"))
        assert (["c"], False) == (second.json["tags"], "Link" in second.headers)
        assert ((2, "b"), 2) == (query_of(upstream), len(upstream.requests))

    def test_of_an_upstream_without_pages_are_cut(self, mirrored, upstream):
        upstream.contents[TAGS] = tags(["c", "a", "b", "in valid", 7])
        assert ["a", "b"] == mirrored.get("tags/list?n=2").json["tags"]
        assert ["b", "c"] == mirrored.get("tags/list?n=2&last=a").json["tags"]

    def test_are_listed_by_shorter_pages_if_the_upstream_refuses_long_ones(self, mirrored, upstream):
        """As quay.io does."""
        names = [f"v{number:03}" for number in range(150)]

        def page(headers):
            n, last = query_of(upstream)
            rest = [name for name in names if name > last]
            following = f"/v2/{TAGS}?n={n}&last={rest[n - 1]}" if len(rest) > n else None
            return tags(rest[:n], following) if n <= 100 else Answer(status=413)

        upstream.contents[TAGS] = page
        first = mirrored.get("tags/list")
        assert names[:100] == first.json["tags"]
        second = mirrored.client.get(first.headers["Link"].partition(">")[0].lstrip("<"))
        assert (names[100:], False) == (second.json["tags"], "Link" in second.headers)
        assert 3 == len(upstream.requests)

    @pytest.mark.parametrize("has_own_cursor", [True, False], ids=["an own cursor", "another order"])
    def test_are_listed_in_order_although_the_upstream_has_another(
        self, mirrored, open_mirror, upstream, has_own_cursor
    ):
        """Amazon ECR continues a list after a cursor only, others after a tag in the order of the pushes."""
        upstream.contents[TAGS] = lambda headers: unordered(upstream, cursor="cursor-{}" if has_own_cursor else "{}")
        for reader, n, expected in (
            (mirrored, 3, [["latest", "v1", "v10"], ["v2", "v9"]]),
            (open_mirror(), 1, [["latest"], ["v1"], ["v10"], ["v2"], ["v9"]]),
        ):
            assert expected == list(listed(reader, n))
        assert ["v2", "v9"] == open_mirror().get("tags/list?n=3&last=v10").json["tags"], "by another worker"
        assert {"100", "1000"} == {parse_qs(urlsplit(path).query)["n"][0] for _, path, _ in upstream.requests}
        del upstream.contents[TAGS]
        assert ["latest"] == mirrored.get("tags/list?n=1").json["tags"], "known for the ttl"

    def test_are_all_listed_if_only_the_first_page_of_the_upstream_is_in_order(self, mirrored, upstream):
        upstream.contents[TAGS] = lambda headers: unordered(upstream, names=["a", "c", "e", "b", "d"])
        assert [["a", "c", "e"], []] == list(listed(mirrored, 3)), "noticed by the second page"
        assert [["a", "b", "c"], ["d", "e"]] == list(listed(mirrored, 3))

    def test_of_a_long_list_use_no_memory_for_other_documents_while_the_upstream_sends_it(self, mirrored, upstream):
        used = []

        def page(headers):
            used.append(mirrored.services.registry.json_budget.memory.used_bytes)
            return unordered(upstream, names=[f"{number}{'x' * 120}" for number in range(3000)], longest=1000)

        upstream.contents[TAGS] = page
        assert 2 == len(mirrored.get("tags/list?n=2").json["tags"])
        assert [0] * 4 == used

    def test_of_a_list_that_could_not_be_read_are_asked_for_again_later(self, mirrored, upstream):
        pages = {"": tags(["b", "a"], f"/v2/{TAGS}?n=2&last=a")}
        upstream.contents[TAGS] = lambda headers: pages.get(query_of(upstream)[1], Answer(status=500))
        assert [404, 404] == [mirrored.get("tags/list").status_code for _ in range(2)], "no tag is here"
        assert 3 + 1 == len(upstream.requests)
        mirrored.services.registry.sources.tags[-1]._lists._now = lambda: time.monotonic() + STALE_SECONDS
        pages["a"] = tags(["c"])
        assert ["a", "b", "c"] == mirrored.get("tags/list").json["tags"]

    def test_of_an_endless_list_are_cut(self, mirrored, upstream, caplog):
        names = ["b", "a"]
        upstream.contents[TAGS] = lambda headers: tags(names, f"/v2/{TAGS}?last=b")
        assert [names[::-1]] == list(listed(mirrored, 3))
        assert f"the list of tags of {THERE} at up.example is cut" in caplog.text

    def test_are_those_that_are_here_while_the_upstream_is_away(self, mirrored, upstream):
        upstream.add(THERE, "v1", IMAGE)
        assert 200 == mirrored.get("manifests/v1").status_code
        upstream.contents[TAGS] = Answer(b"<html>", headers={"Content-Type": "text/html"})
        assert ["v1"] == mirrored.get("tags/list").json["tags"]
        upstream.stop()
        assert ["v1"] == mirrored.get("tags/list").json["tags"]
        assert 404 == mirrored.get("tags/list", "up.example/other").status_code

    @pytest.mark.parametrize(
        "body", [b"", b"[]", b'{"tags": 7}', b"{" * 100_000], ids=["empty", "list", "number", "deep"]
    )
    def test_that_are_invalid_are_not_listed(self, mirrored, upstream, body):
        upstream.contents[TAGS] = Answer(body, headers={"Content-Type": "application/json"})
        assert 404 == mirrored.get("tags/list").status_code

    def test_whose_next_page_is_elsewhere_are_not_listed(self, mirrored, upstream):
        upstream.contents[TAGS] = tags(["a"], "http://169.254.169.254/latest")
        assert 404 == mirrored.get("tags/list").status_code


class TestReferrers:
    @pytest.fixture(autouse=True)
    def image(self, upstream, mirrored):
        upstream.add(THERE, "v1", IMAGE)
        assert 200 == mirrored.get("manifests/v1").status_code

    def test_of_all_pages_are_listed_and_remembered(self, mirrored, upstream, open_mirror):
        second = f"/v2/{REFERRERS}?page=2"
        upstream.contents[REFERRERS] = lambda headers: (
            index(3) if upstream.requests[-1][1] == second else index(1, 2, link=second)
        )
        upstream.requests.clear()
        assert digests(1, 2, 3) == referrers(mirrored)
        assert digests(1, 3) == referrers(mirrored, "?artifactType=application/vnd.test.1")
        assert 2 == len(upstream.requests)
        upstream.stop()
        assert digests(1, 2, 3) == referrers(open_mirror())

    def test_are_the_upstreams_and_ours(self, mirrored, upstream):
        upstream.put_manifest(THERE, "signature", signature(1), OCI_MANIFEST)
        upstream.contents[REFERRERS] = index(1, 2)
        assert signature(1) == mirrored.get(f"manifests/{digest_of(signature(1))}").data
        assert digests(1, 2) == referrers(mirrored)

    def test_that_do_not_exist_are_remembered(self, mirrored, upstream):
        upstream.contents[REFERRERS] = index()
        upstream.requests.clear()
        assert set() == referrers(mirrored) == referrers(mirrored)
        assert 1 == len(upstream.requests)

    def test_of_manifests_that_are_not_here_are_remembered_but_not_stored(self, mirrored, upstream, driver):
        subjects = [digest_of(str(number).encode()) for number in range(3)]
        before = dict(driver._files)
        for subject in subjects:
            upstream.contents[f"{THERE}/referrers/{subject}"] = index(1)
        upstream.requests.clear()
        for subject in subjects * 2:
            assert 200 == mirrored.get(f"referrers/{subject}").status_code
        assert len(subjects) == len(upstream.requests)
        assert before == driver._files

    def test_of_an_upstream_without_the_api_are_those_of_the_tag(self, mirrored, upstream):
        upstream.contents[FALLBACK] = index(1)
        assert digests(1) == referrers(mirrored)
        assert 200 == mirrored.get(f"referrers/{digest_of(b'other')}").status_code

    def test_that_are_known_are_not_asked_for_while_few_pulls_are_left(self, mirrored, upstream, driver):
        upstream.contents[FALLBACK] = index(1)
        assert digests(1) == referrers(mirrored)
        few = {"ratelimit-limit": "100;w=21600", "ratelimit-remaining": "9;w=21600"}
        upstream.contents[f"{THERE}/manifests/none"] = Answer(status=404, headers=few)
        assert 404 == mirrored.get("manifests/none").status_code
        record = json.dumps({"checked": 1, "manifests": [entry(1)]}).encode()
        driver.put_content(layout.mirrored_referrers(RepositoryName(NAME), Digest.parse(IMAGE.digest)), record)
        upstream.requests.clear()
        assert digests(1) == referrers(mirrored)
        assert [] == upstream.requests

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(b"<html>", headers={"Content-Type": "text/html"}),
            Answer(b"{", headers={"Content-Type": OCI_INDEX}),
            Answer(b" " * 5_000_000, headers={"Content-Type": OCI_INDEX}),
            index(1, link="http://169.254.169.254/latest"),
            index(1, link="http://[x"),
            index(1, link=f"/v2/{REFERRERS}?again"),
            Answer(status=500),
        ],
        ids=["page", "no JSON", "five megabytes", "a link elsewhere", "a link to nothing", "an endless list", "error"],
    )
    def test_that_are_invalid_are_an_error_unless_they_are_known(self, mirrored, upstream, driver, answer):
        upstream.contents[REFERRERS] = answer
        assert 502 == mirrored.get(f"referrers/{IMAGE.digest}").status_code
        record = json.dumps({"checked": 1, "manifests": [entry(7)]}).encode()
        driver.put_content(layout.mirrored_referrers(RepositoryName(NAME), Digest.parse(IMAGE.digest)), record)
        assert digests(7) == referrers(mirrored)

    def test_of_which_a_page_is_missing_are_an_error(self, mirrored, upstream):
        second = f"/v2/{REFERRERS}?page=2"
        upstream.contents[REFERRERS] = lambda headers: (
            Answer(status=404) if upstream.requests[-1][1] == second else index(1, link=second)
        )
        upstream.contents[FALLBACK] = index(2)
        assert 502 == mirrored.get(f"referrers/{IMAGE.digest}").status_code

    def test_that_are_no_descriptors_are_left_out(self, mirrored, upstream):
        document = {"manifests": [7, {}, {"digest": "sha256:1", "size": 1}, {"digest": IMAGE.digest}, entry(1)]}
        upstream.contents[REFERRERS] = Answer(encoded(document), headers={"Content-Type": OCI_INDEX})
        assert digests(1) == referrers(mirrored)
