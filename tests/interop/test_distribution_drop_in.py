"""With the same configuration file, this server responds like Debian's docker-registry."""

from __future__ import annotations

import json
import shutil
from functools import partial

import bcrypt
import pytest
import requests

from tests.support.certificates import Authority
from tests.support.clients import programs
from tests.support.clients.v2 import OCI_MANIFEST, Client, digest_of
from tests.support.images import make_image, push
from tests.support.processes import free_port, listens, running
from tests.support.servers.distribution import find_distribution, install_distribution_3, serve_distribution
from tests.support.servers.registry import COMMAND

IMAGE = make_image("drop-in")
NAME = "team/app"
ABSENT = digest_of(b"absent")

pytestmark = pytest.mark.filterwarnings("ignore:Unverified HTTPS request")


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
        session.trust_env, session.auth, session.verify = False, credentials, False
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


def sections(folder, upstream):
    """
    For each section of distribution's reference, a file of its own.

    Left out are those that this registry refuses to start with (``middleware``, ``auth.silly``), other drivers, and
    ``auth.token``, whose tokens need a server.

    Args:
        upstream: URL of a registry to mirror.
    """
    certificate, key = Authority(folder).issue("registry")
    users = folder / "htpasswd"
    users.write_text(f"alice:{bcrypt.hashpw(b'wonderland', bcrypt.gensalt(4)).decode()}\n")
    return {
        "version": {},
        "log": {
            "log": {"level": "warn", "formatter": "json", "fields": {"service": "x"}, "accesslog": {"disabled": False}}
        },
        "delete": {"delete": {"enabled": True}},
        "redirect": {"redirect": {"disable": True}},
        "cache": {"cache": {"blobdescriptor": "inmemory"}},
        "maintenance": {
            "maintenance": {
                "uploadpurging": {"enabled": True, "age": "1h", "interval": "1h", "dryrun": False},
                "readonly": {"enabled": False},
            }
        },
        "auth": {"auth": {"htpasswd": {"realm": "x", "path": str(users)}}, "delete": {"enabled": True}},
        "http": {
            "http": {
                "host": "https://registry.example.org",
                "secret": "x",
                "relativeurls": True,
                "draintimeout": "5s",
                "headers": {"X-Content-Type-Options": ["nosniff"]},
                "http2": {"disabled": True},
            }
        },
        "prefix": {"http": {"prefix": "/my/registry/"}},
        "tls": {"http": {"tls": {"certificate": str(certificate), "key": str(key), "minimumtls": "tls1.2"}}},
        "notifications": {
            "notifications": {
                "events": {"includereferences": True},
                "endpoints": [
                    {
                        "name": "x",
                        "disabled": True,
                        "url": "http://127.0.0.1:1/",
                        "timeout": "1s",
                        "threshold": 1,
                        "backoff": "1s",
                    }
                ],
            }
        },
        "health": {"health": {"storagedriver": {"enabled": True, "interval": "10s", "threshold": 3}}},
        "catalog": {"catalog": {"maxentries": 5}, "tags": {"maxtags": 5}},
        "compatibility": {"compatibility": {"schema1": {"enabled": False}}},
        "validation": {"validation": {"manifests": {"urls": {"allow": ["^https://example.org/"]}}}},
        "reporting": {"reporting": {"bugsnag": {}}},
        "policy": {"policy": {"repository": {"classes": ["image"]}}},
        "proxy": {"proxy": {"remoteurl": upstream, "ttl": "1h"}},
    }


SECTIONS = (
    "version", "log", "delete", "redirect", "cache", "maintenance", "auth", "http", "prefix", "tls", "notifications",
    "health", "catalog", "compatibility", "validation", "reporting", "policy", "proxy",
)  # fmt: skip


@pytest.fixture(scope="module")
def upstream(volume, tmp_path_factory):
    """A registry with the content of the volume."""
    store = tmp_path_factory.mktemp("upstream") / "store"
    shutil.copytree(volume, store)
    with serve_distribution(find_distribution(), store) as theirs:
        yield theirs.url


@pytest.fixture(scope="module", params=["2", pytest.param("3", marks=pytest.mark.slow)])
def peer(request, tmp_path_factory):
    """The program of Debian's docker-registry, and of distribution 3."""
    if request.param == "2":
        return find_distribution() or programs.missing("distribution is not installed (package docker-registry)")
    folder = tmp_path_factory.mktemp("distribution")
    return install_distribution_3(folder) or programs.missing("distribution 3 needs Go to be built")


class TestAServerInPlaceOfDistribution:
    @pytest.mark.parametrize(
        "section", [name if name == "auth" else pytest.param(name, marks=pytest.mark.slow) for name in SECTIONS]
    )
    def test_has_the_same_responses(self, peer, volume, upstream, tmp_path, section):
        all_sections = sections(tmp_path, upstream)
        assert tuple(all_sections) == SECTIONS
        settings = dict(all_sections[section])
        stored = {
            name: settings.pop(name) for name in ("delete", "redirect", "cache", "maintenance") if name in settings
        }
        credentials = ("alice", "wonderland") if "auth" in settings else None
        http = settings.pop("http", {})
        scheme, prefix = "https" if "tls" in http else "http", http.get("prefix", "").rstrip("/")

        found = []
        for copy in ("theirs", "ours"):
            shutil.copytree(volume, tmp_path / copy)
            port = free_port()
            content = {
                "version": 0.1,
                "log": {"level": "error"},
                **settings,
                **storage(tmp_path / copy, **stored),
                "http": {"addr": f"127.0.0.1:{port}", **http},
            }
            config = tmp_path / f"{copy}.yml"
            config.write_text(json.dumps(content))  # JSON is YAML
            command = [peer, "serve", str(config)] if copy == "theirs" else [*COMMAND, "serve", str(config)]
            ready = partial(listens, port)
            with running(command, tmp_path / f"{copy}.log", ready, {"GUNICORN_WORKERS": "1"}):
                url = f"{scheme}://127.0.0.1:{port}{prefix}"
                refused = requests.get(f"{url}/v2/", timeout=60, verify=False)
                challenge = (refused.headers.get("WWW-Authenticate") or "")[:5]
                found.append([*answers(url, credentials), (refused.status_code, challenge)])

        for *_, content in found[0]:  # distribution 2 lists tags in the order of the file system
            if isinstance(content, dict) and content.get("tags"):
                content["tags"].sort()
        different = [both for both in zip(*found, strict=True) if both[0] != both[1]]
        if section == "proxy":
            # As a mirror distribution 2 answers 500 for an unknown digest, and parses a manifest before it refuses it.
            better = {f"{NAME}/manifests/{ABSENT}": 404, f"{NAME}/manifests/broken": 405}
            different = [both for both in different if better.get(both[1][1]) != both[1][2]]
            # It lists what the volume had before, which is pushed content to this registry, and so not listed.
            assert ("GET", "_catalog", 200, None, {"repositories": []}) == different.pop(0)[1]
        assert [] == different
