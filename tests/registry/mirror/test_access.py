"""Access to mirrored repositories, and names that exist here and at an upstream."""

from __future__ import annotations

import pytest

from docker_registry.config.sections import Auth
from docker_registry.drivers.memory import MemoryDriver
from tests.registry.mirror.conftest import NAME, THERE, Mirrored
from tests.support import access
from tests.support.clients.v2 import OCI_MANIFEST
from tests.support.images import make_image

PUBLIC, PRIVATE = make_image("upstream's", layer_bytes=10), make_image("ours", layer_bytes=10)

RULES = """
rules:
  - {repositories: ["up.example/library/**"], who: [alice], allow: [pull]}
  - {repositories: ["up.example/**", "library/**"], who: [root], allow: [pull, push, overwrite, delete]}
  - {repositories: ["library/**"], who: [bob], allow: [pull]}
"""
LOGIN = {"username": "robot", "password": "s3cret", "insecure": True}


@pytest.fixture
def open_restricted(upstream, tmp_path):
    """Opens a mirror with access rules; ``library/app`` was pushed there, and is another image at the upstream."""
    upstream.add(THERE, "v1", PUBLIC)
    opened = []

    def make(rules=RULES, challenge="basic", default=None, **options):
        access.settings(tmp_path, rules)
        auth = Auth(htpasswd=tmp_path / "users", rules=tmp_path / "rules.yml", challenge=challenge)
        mirroring = {"hosts": {"hub.example": "up.example"}, "default": default}
        mirrored = Mirrored(MemoryDriver(), upstream.url, mirroring=mirroring, config={"auth": auth}, **options)
        opened.append(mirrored)
        return mirrored

    yield make
    for mirrored in opened:
        mirrored.services.close()


def get(mirrored, path, user=None, **options):
    auth = (user, access.PASSWORD + user) if user is not None else None
    return mirrored.client.get(path, auth=auth, **options)


class TestAMirrorWithRules:
    @pytest.fixture
    def restricted(self, open_restricted):
        mirrored = open_restricted()
        root = ("root", access.PASSWORD + "root")
        for digest, content in PRIVATE.blobs.items():
            url = f"/v2/{THERE}/blobs/uploads/?digest={digest}"
            assert 201 == mirrored.client.post(url, data=content, auth=root).status_code
        url = f"/v2/{THERE}/manifests/v1"
        answer = mirrored.client.put(url, data=PRIVATE.manifest, content_type=OCI_MANIFEST, auth=root)
        assert 201 == answer.status_code
        return mirrored

    def test_gives_every_client_what_it_means_and_may_pull(self, restricted, upstream):
        ways = {
            "path": (f"/v2/{NAME}/manifests/v1", {}),
            "ns": (f"/v2/{THERE}/manifests/v1?ns=up.example", {}),
            "host": (f"/v2/{THERE}/manifests/v1", {"base_url": "http://hub.example"}),
        }
        for user, status in ((None, 401), ("bob", 403)):
            for path, options in ways.values():
                assert status == get(restricted, path, user, **options).status_code
        assert [] == upstream.requests, "nothing is fetched for clients that may not pull it"
        for user in ("alice", "root"):
            for path, options in ways.values():
                assert PUBLIC.manifest == get(restricted, path, user, **options).data
        own = f"/v2/{THERE}/manifests/v1"
        assert PRIVATE.manifest == get(restricted, own, "bob").data == get(restricted, own, "root").data
        assert 403 == get(restricted, own, "alice").status_code
        assert 403 == get(restricted, "/v2/up.example/other/manifests/v1", "alice").status_code

    def test_lists_what_the_client_may_pull(self, restricted):
        assert 200 == get(restricted, f"/v2/{NAME}/manifests/v1", "alice").status_code
        lists = {user: get(restricted, "/v2/_catalog", user).json["repositories"] for user in ("alice", "bob", "root")}
        assert {"alice": [NAME], "bob": [THERE], "root": [THERE, NAME]} == lists

    def test_gives_tokens_for_the_names_that_clients_use(self, open_restricted, tmp_path):
        by_host = open_restricted(challenge="bearer")
        whole = open_restricted(challenge="bearer", default="up.example")
        for mirrored, options in ((by_host, {"base_url": "http://hub.example"}), (whole, {})):
            for name in (THERE, NAME):
                found = {}
                for user in ("alice", "bob"):
                    query = {"scope": f"repository:{name}:pull", "service": "docker-registry"}
                    token = get(mirrored, "/v2/token", user, query_string=query, **options).json["token"]
                    headers = {"Authorization": f"Bearer {token}"}
                    found[user] = mirrored.client.get(
                        f"/v2/{THERE}/manifests/v1", headers=headers, **options
                    ).status_code
                assert {"alice": 200, "bob": 403} == found
        query = {"scope": f"repository:{THERE}:pull"}
        scopes = [get(by_host, "/v2/token", user, query_string=query).json["scope"] for user in ("alice", "bob")]
        assert ["", f"repository:{THERE}:pull"] == scopes, "the registry itself, by another host"

    def test_does_not_take_a_blob_from_the_other_repository(self, restricted):
        for user, name, image in (("alice", NAME, PRIVATE), ("bob", THERE, PUBLIC)):
            for digest in image.blobs:
                assert 404 == get(restricted, f"/v2/{name}/blobs/{digest}", user).status_code


class TestTheStart:
    @pytest.mark.parametrize(
        ("rule", "warns"),
        [
            ('{repositories: ["**"], who: [anonymous], allow: [pull]}', True),
            ('{repositories: ["up.example/library/*"], who: [anonymous], allow: [pull]}', True),
            ('{repositories: ["library/**"], who: [anonymous], allow: [pull]}', False),
            ('{repositories: ["up.example/**"], who: [authenticated], allow: [pull]}', False),
        ],
        ids=["everything", "a part", "something else", "users"],
    )
    def test_warns_if_everyone_may_use_an_account(self, open_restricted, caplog, rule, warns):
        open_restricted(f"rules:\n  - {rule}\n", **LOGIN).services.check_start()
        assert warns is ("may pull what the account at up.example may" in caplog.text)
