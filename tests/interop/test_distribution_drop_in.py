"""With the same configuration file, this server responds like Debian's docker-registry."""

from __future__ import annotations

import json
import shutil

import bcrypt
import pytest
import requests

from tests.support.clients import programs
from tests.support.clients.v2 import OCI_MANIFEST, Client, digest_of
from tests.support.images import make_image, push
from tests.support.processes import free_port, listens, running
from tests.support.servers.distribution import find_distribution, serve_distribution
from tests.support.servers.registry import COMMAND

IMAGE = make_image("drop-in")
NAME = "team/app"
ABSENT = digest_of(b"absent")


@pytest.fixture(scope="module")
def volume(tmp_path_factory):
    """A volume that distribution has written."""
    program = find_distribution() or programs.missing("distribution is not installed (package docker-registry)")
    store = tmp_path_factory.mktemp("volume") / "store"
    with serve_distribution(program, store) as theirs, Client(theirs.url) as client:
        push(client, NAME, "v1", IMAGE)
        push(client, NAME, "v2", make_image("second"))
    return store


def storage(store, **more):
    return {"storage": {"filesystem": {"rootdirectory": str(store)}, **more}}


def answers(url, credentials=None):
    """The requests of docker and skopeo, and more: status, digest and body of each response, errors by their codes."""
    layer = next(iter(IMAGE.blobs))
    accept = {"Accept": OCI_MANIFEST}
    asked = [
        ("GET", "", {}, None),
        ("GET", "_catalog", {}, None),
        ("GET", f"{NAME}/tags/list", {}, None),
        ("GET", f"{NAME}/manifests/v1", accept, None),
        ("HEAD", f"{NAME}/manifests/v1", accept, None),
        ("GET", f"{NAME}/manifests/{IMAGE.digest}", accept, None),
        ("GET", f"{NAME}/manifests/absent", accept, None),
        ("GET", f"{NAME}/manifests/{ABSENT}", accept, None),
        ("GET", f"{NAME}/blobs/{layer}", {}, None),
        ("HEAD", f"{NAME}/blobs/{layer}", {}, None),
        ("GET", f"{NAME}/blobs/{layer}", {"Range": "bytes=10-19"}, None),
        ("GET", f"{NAME}/blobs/{ABSENT}", {}, None),
        ("POST", f"{NAME}/blobs/uploads/", {}, b""),
        ("POST", f"{NAME}/blobs/uploads/?mount={layer}&from={NAME}", {}, b""),
        ("PUT", f"{NAME}/manifests/v3", {"Content-Type": OCI_MANIFEST}, IMAGE.manifest),
        ("PUT", f"{NAME}/manifests/broken", {"Content-Type": OCI_MANIFEST}, b"{"),
        ("DELETE", f"{NAME}/manifests/{IMAGE.digest}", {}, None),
        ("GET", f"{NAME}/manifests/v1", accept, None),
        ("DELETE", f"{NAME}/blobs/{layer}", {}, None),
    ]
    found = []
    with requests.Session() as session:
        session.trust_env, session.auth = False, credentials
        for method, path, headers, body in asked:
            answer = session.request(method, f"{url}/v2/{path}", headers=headers, data=body, timeout=60)
            content = answer.content
            if answer.status_code >= 400 and content:
                content = [error["code"] for error in answer.json()["errors"]]
            elif answer.headers.get("Content-Type", "").startswith("application/json") and content:
                content = answer.json()
            is_compared = answer.ok and method != "DELETE"  # only ours names the digest of a deleted blob
            digest = answer.headers.get("Docker-Content-Digest") if is_compared else None
            found.append((method, path, answer.status_code, digest, content))
    return found


class TestAServerInPlaceOfDistribution:
    @pytest.mark.parametrize("sections", [pytest.param("defaults", marks=pytest.mark.slow), "users-and-deletion"])
    def test_has_the_same_responses(self, volume, tmp_path, sections):
        settings, credentials = {}, None
        if sections == "users-and-deletion":
            users = tmp_path / "htpasswd"
            users.write_text(f"alice:{bcrypt.hashpw(b'wonderland', bcrypt.gensalt(4)).decode()}\n")
            settings = {"auth": {"htpasswd": {"realm": "x", "path": str(users)}}}
            credentials = ("alice", "wonderland")
        deletion = {} if sections == "defaults" else {"delete": {"enabled": True}}
        for copy in ("theirs", "ours"):
            shutil.copytree(volume, tmp_path / copy)
        with serve_distribution(
            find_distribution(), tmp_path / "theirs", {**settings, **storage(tmp_path / "theirs", **deletion)}
        ) as theirs:
            expected = answers(theirs.url, credentials)
            refused = requests.get(f"{theirs.url}/v2/", timeout=60)

        port = free_port()
        config = tmp_path / "config.yml"
        content = json.loads(theirs.config.read_text()) | storage(tmp_path / "ours", **deletion)
        config.write_text(json.dumps(content | {"http": {"addr": f"127.0.0.1:{port}"}}))
        command = [*COMMAND, "serve", str(config)]
        with running(command, tmp_path / "log", lambda: listens(port), {"GUNICORN_WORKERS": "1"}):
            found = answers(f"http://127.0.0.1:{port}", credentials)
            refused_too = requests.get(f"http://127.0.0.1:{port}/v2/", timeout=60)

        assert expected == found
        assert refused.status_code == refused_too.status_code
        assert (refused.headers.get("WWW-Authenticate") or "")[:5] == (
            refused_too.headers.get("WWW-Authenticate") or ""
        )[:5]
