"""Referrers over real HTTP (OCI Distribution Specification, "Listing Referrers")."""

from __future__ import annotations

import json

import pytest

from tests.api.conftest import code, unique
from tests.api.test_v2_blobs import digest_of
from tests.api.test_v2_manifests import INDEX, OCI
from tests.support.servers.registry import Server

SUBJECT = digest_of(b"subject")


def push(session, url, name, artifact_type):
    session.post(f"{url}/v2/{name}/blobs/uploads/?digest={digest_of(b'{}')}", data=b"{}")
    document = {
        "schemaVersion": 2,
        "mediaType": OCI,
        "artifactType": artifact_type,
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest_of(b"{}"), "size": 2},
        "layers": [],
        "subject": {"mediaType": OCI, "digest": SUBJECT, "size": 7},
    }
    payload = json.dumps(document).encode()
    url = f"{url}/v2/{name}/manifests/{digest_of(payload)}"
    return session.put(url, data=payload, headers={"Content-Type": OCI})


class TestReferrers:
    def test_are_filtered_by_several_types(self, session, server, name):
        url = f"{server.url}/v2/{name}/referrers/{SUBJECT}"
        answer = session.get(f"{url}?artifactType=application/a&artifactType=application/B&artifactType=")
        assert 2 == len(answer.json()["manifests"])
        assert "artifactType" == answer.headers["OCI-Filters-Applied"]

    def test_are_filtered_by_a_type_with_a_plus_sign(self, session, server, name):
        push(session, server.url, name, "application/vnd.x+json")
        for text in ("application/vnd.x+json", "application/vnd.x%2Bjson", "application/vnd.X+JSON"):
            answer = session.get(f"{server.url}/v2/{name}/referrers/{SUBJECT}?artifactType={text}")
            assert ["application/vnd.x+json"] == [item["artifactType"] for item in answer.json()["manifests"]]

    def test_with_annotations_of_an_earlier_version_are_valid_json(self, session, server, name):
        entries = list((server.store / "docker/registry/v2/repositories" / name).rglob("_referrers/**/*"))
        files = [path for path in entries if path.is_file()]
        entry = json.loads(files[0].read_text())
        files[0].write_text(json.dumps(entry | {"annotations": {"x": float("inf"), "y": {}, "z": "kept"}}))
        answer = session.get(f"{server.url}/v2/{name}/referrers/{SUBJECT}")
        assert b"Infinity" not in answer.content
        assert {"z": "kept"} in [item.get("annotations") for item in answer.json()["manifests"]]

    @pytest.fixture
    def name(self, session, server):
        name = unique("referrers")
        for kind in ("a", "b"):
            answer = push(session, server.url, name, f"application/{kind}")
            assert (201, SUBJECT) == (answer.status_code, answer.headers["OCI-Subject"])
        return name

    def test_are_listed_as_an_index(self, session, server, name):
        answer = session.get(f"{server.url}/v2/{name}/referrers/{SUBJECT}")
        assert (200, INDEX) == (answer.status_code, answer.headers["Content-Type"])
        assert (2, INDEX) == (answer.json()["schemaVersion"], answer.json()["mediaType"])
        assert ["application/a", "application/b"] == sorted(item["artifactType"] for item in answer.json()["manifests"])
        assert "OCI-Filters-Applied" not in answer.headers

    def test_are_filtered_by_type(self, session, server, name):
        answer = session.get(f"{server.url}/v2/{name}/referrers/{SUBJECT}?artifactType=application/b")
        assert ["application/b"] == [item["artifactType"] for item in answer.json()["manifests"]]
        assert "artifactType" == answer.headers["OCI-Filters-Applied"]

    @pytest.mark.parametrize("name_", ["not/there", None])
    def test_of_a_missing_manifest_are_empty(self, session, server, name, name_):
        answer = session.get(f"{server.url}/v2/{name_ or name}/referrers/{digest_of(b'other')}")
        assert (200, []) == (answer.status_code, answer.json()["manifests"])

    @pytest.mark.parametrize("digest", ["latest", "sha256:x", "sha256"])
    def test_of_an_invalid_digest_are_rejected(self, session, server, name, digest):
        answer = session.get(f"{server.url}/v2/{name}/referrers/{digest}")
        assert (400, "DIGEST_INVALID") == (answer.status_code, code(answer))

    def test_are_listed_page_by_page_with_their_filter(self, session, tmp_path):
        with Server(tmp_path / "store", REGISTRY_MAX_PAGE_ENTRIES="2") as server:
            for number in range(5):
                push(session, server.url, f"a/n{number % 1}", f"application/{'b' if number else 'a'}{number}")
            found, path = [], f"/v2/a/n0/referrers/{SUBJECT}"
            while path:
                answer = session.get(server.url + path)
                found += [item["digest"] for item in answer.json()["manifests"]]
                path = answer.links["next"]["url"] if "next" in answer.links else None
            assert (5, sorted(found)) == (len(found), found)
