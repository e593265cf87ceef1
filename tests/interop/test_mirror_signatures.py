"""Signatures and attached artifacts that real clients find through the mirror, also while the upstream is stopped."""

from __future__ import annotations

import contextlib
import json

import pytest

from tests.interop.mirror_clients import serve
from tests.support.clients.go_tools import install
from tests.support.clients.programs import missing
from tests.support.clients.v2 import Client
from tests.support.images import make_image, push
from tests.support.processes import free_port, stop
from tests.support.servers.distribution import find_distribution, serve_distribution
from tests.support.servers.registry import Server

SIGNED, UNSIGNED = make_image("signed"), make_image("not signed")
NAME = "library/app"

TRUST = {
    "version": "1.0",
    "trustPolicies": [
        {
            "name": "all",
            "registryScopes": ["*"],
            "signatureVerification": {"level": "strict", "override": {"revocation": "skip"}},
            "trustStores": ["ca:lab"],
            "trustedIdentities": ["*"],
        }
    ],
}


class Cosign:
    """cosign with a key of its own, without a transparency log; it stores signatures as referrers."""

    #: For signing and for verifying.
    options = ("--allow-http-registry", "--allow-insecure-registry")

    def __init__(self, folder):
        self.folder = folder
        self.run = install("cosign", folder, COSIGN_PASSWORD="")

    def sign(self, reference):
        self.run("generate-key-pair", "--output-key-prefix", self.folder / "key")
        offline = ("--yes", "--tlog-upload=false", "--use-signing-config=false")
        self.run("sign", "--key", self.folder / "key.key", *offline, *self.options, reference)

    def verify(self, reference):
        self.run("verify", "--key", self.folder / "key.pub", "--insecure-ignore-tlog", *self.options, reference)


class CosignWithTags(Cosign):
    """cosign that stores signatures under tags, as cosign 2 does."""

    options = (*Cosign.options, "--new-bundle-format=false")


class Notation:
    """notation, which stores signatures as referrers."""

    def __init__(self, folder):
        self.folder = folder
        self.run = install("notation", folder)

    def sign(self, reference):
        self.run("cert", "generate-test", "--default", "lab")
        (self.folder / "config" / "notation" / "trustpolicy.json").write_text(json.dumps(TRUST))
        self.run("sign", "--insecure-registry", reference)

    def verify(self, reference):
        self.run("verify", "--insecure-registry", reference)


class Oras:
    """oras, which attaches artifacts as referrers and discovers them."""

    def __init__(self, folder):
        self.folder = folder
        self.run = install("oras", folder)

    def sign(self, reference):
        (self.folder / "sbom.json").write_text("{}")
        kind = ("--artifact-type", "application/vnd.example.sbom", "--disable-path-validation")
        self.run("attach", "--plain-http", *kind, reference, f"{self.folder}/sbom.json:application/json")

    def verify(self, reference):
        found = json.loads(self.run("discover", "--plain-http", "--format=json", reference))
        kinds = [each["artifactType"] for each in found.get("referrers") or found.get("manifests") or ()]
        assert ["application/vnd.example.sbom"] == kinds


@contextlib.contextmanager
def open_upstream(kind, store):
    """Run a registry with the referrers API, or one without; yield its URL and what stops it."""
    if kind == "docker-registry":
        with Server(store) as server:
            yield server.url, server.stop
    else:
        program = find_distribution() or missing("distribution is not installed (Debian package docker-registry)")
        with serve_distribution(program, store) as peer:
            yield peer.url, lambda: stop(peer.process)


@pytest.mark.slow
class TestSignatures:
    @pytest.mark.parametrize("kind", ["distribution", "docker-registry"])
    @pytest.mark.parametrize("client", [Cosign, CosignWithTags, Notation, Oras])
    def test_are_verified_with_and_without_the_upstream(self, kind, client, tmp_path_factory):
        tool, port = client(tmp_path_factory.mktemp("client")), free_port()
        with open_upstream(kind, tmp_path_factory.mktemp("upstream") / "store") as (url, stop_upstream):
            with Client(url) as there:
                for tag, image in (("v1", SIGNED), ("v2", UNSIGNED)):
                    push(there, NAME, tag, image)
                tool.sign(f"{url.removeprefix('http://')}/{NAME}@{SIGNED.digest}")
                signatures = {tag for tag in there.tags(NAME) if tag.endswith(".sig")}
            assert (client is CosignWithTags) == bool(signatures)
            mirrored = {"upstreams": [{"name": "up.example", "url": url, "ttl": 0}]}
            with serve(tmp_path_factory.mktemp("mirror"), port, **mirrored) as mirror:
                here = f"127.0.0.1:{port}/up.example/{NAME}@"
                for is_running in (True, False):
                    if not is_running:
                        stop_upstream()
                    tool.verify(here + SIGNED.digest)
                    with pytest.raises(AssertionError):
                        tool.verify(here + UNSIGNED.digest)
                assert "Traceback" not in mirror.log.read_text()
