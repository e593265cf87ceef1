"""Tokens between registries and token servers: ours for distribution, and a third party's for this registry."""

from __future__ import annotations

import json
import os
import subprocess
import time

import pytest

from docker_registry.app import create_app
from docker_registry.cli import main
from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth, TokenServer
from docker_registry.drivers.memory import MemoryDriver
from docker_registry.services import build
from tests.support.access import settings
from tests.support.clients import programs
from tests.support.clients.v2 import digest_of
from tests.support.images import make_image
from tests.support.processes import find
from tests.support.servers.distribution import find_distribution, install_distribution_3, serve_distribution
from tests.support.servers.registry import Server

#: Signs a token with a new key and writes its certificate, both by the library of distribution 2.
SIGNER = """package main

import (
	"crypto"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"os"
	"strings"

	"github.com/docker/libtrust"
)

func check(err error) {
	if err != nil {
		panic(err)
	}
}

func main() {
	var key libtrust.PrivateKey
	var err error
	if os.Args[1] == "ES256" {
		key, err = libtrust.GenerateECP256PrivateKey()
	} else {
		key, err = libtrust.GenerateRSA2048PrivateKey()
	}
	check(err)
	certificate, err := libtrust.GenerateSelfSignedServerCert(key, []string{"localhost"}, nil)
	check(err)
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate.Raw})
	check(os.WriteFile(os.Args[2], block, 0o600))
	header, err := json.Marshal(map[string]string{"typ": "JWT", "alg": os.Args[1], "kid": key.KeyID()})
	check(err)
	encode := base64.RawURLEncoding.EncodeToString
	content := encode(header) + "." + encode([]byte(os.Args[3]))
	signature, _, err := key.Sign(strings.NewReader(content), crypto.SHA256)
	check(err)
	fmt.Print(content + "." + encode(signature))
}
"""

MODULE = """module signer

go 1.21

require github.com/docker/libtrust v0.0.0-20160708172513-aabc10ec26b7
"""


@pytest.fixture(params=["2", pytest.param("3", marks=pytest.mark.slow)])
def peer(request, tmp_path):
    """The program of Debian's docker-registry or of distribution 3, its setting for keys, and the form of these."""
    if request.param == "2":
        program = find_distribution() or programs.missing("distribution is not installed (package docker-registry)")
        return program, "rootcertbundle", "--certificate"
    program = install_distribution_3(tmp_path / "built") or programs.missing("distribution 3 needs Go to be built")
    return program, "jwks", "--jwks"  # it knows the keys of certificates by other ids than distribution 2 does


class TestOurTokens:
    @pytest.mark.parametrize("algorithm", ["ES256", pytest.param("RS256", marks=pytest.mark.slow)])
    def test_are_accepted_by_distribution(self, peer, skopeo, layouts, algorithm, tmp_path, monkeypatch, capsys):
        program, setting, form = peer
        variables = {"REGISTRY_AUTH_ALGORITHM": algorithm, **settings(tmp_path)}
        with Server(tmp_path / "store", **variables) as server:
            with monkeypatch.context() as environment:
                for name, text in {**variables, "STORAGE_PATH": str(server.store)}.items():
                    environment.setenv(name, text)
                assert 0 == main(["keys", "export", form])
            (tmp_path / "keys").write_text(capsys.readouterr().out)
            section = {
                "realm": f"{server.url}/v2/token", "service": "docker-registry", "issuer": "docker-registry",
                setting: str(tmp_path / "keys"),
            }  # fmt: skip
            with serve_distribution(program, tmp_path / "peer/store", {"auth": {"token": section}}) as theirs:
                target = f"docker://127.0.0.1:{theirs.port}"
                source = f"oci:{layouts(make_image(algorithm))}:v1"
                alice = ("--dest-creds=alice:pw-alice", "--dest-tls-verify=false")
                skopeo("copy", *alice, source, f"{target}/alice/app:v1")
                pulled = ("--src-tls-verify=false", f"{target}/alice/app:v1", f"oci:{tmp_path}/pulled:v1")
                skopeo("copy", "--src-creds=alice:pw-alice", *pulled)
                for refused in (("--src-creds=bob:pw-bob", *pulled), pulled):
                    with pytest.raises(AssertionError, match=r"denied|unauthorized|authentication required"):
                        skopeo("copy", *refused)
                with pytest.raises(AssertionError, match=r"denied|unauthorized|authentication required"):
                    skopeo("copy", *alice, source, f"{target}/bob/own:v1")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Parsed a serial number")  # libtrust's certificates have the number 0
class TestATokenOfAThirdParty:
    @pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
    def test_signed_by_libtrust_is_accepted(self, tmp_path, algorithm):
        go = find("go") or programs.missing("Go is not installed")
        (tmp_path / "main.go").write_text(SIGNER)
        (tmp_path / "go.mod").write_text(MODULE)
        now, bundle = int(time.time()), tmp_path / "bundle.pem"
        access = [{"type": "repository", "name": "acme/web", "actions": ["pull", "push"]}]
        claims = {"iss": "them", "aud": "here", "sub": "alice", "exp": now + 300, "nbf": now, "access": access}
        token = subprocess.run(
            [go, "run", ".", algorithm, str(bundle), json.dumps(claims)],
            cwd=tmp_path, env={**os.environ, "GOFLAGS": "-mod=mod"}, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip
        section = TokenServer(
            realm="https://auth.example.com/token", service="here", issuer="them", rootcertbundle=bundle
        )
        with build(Config(storage="memory", auth=Auth(token=section)), MemoryDriver()) as services:
            app = create_app(services).test_client()
            headers = {"Authorization": f"Bearer {token}"}
            path = f"/v2/acme/{{}}/blobs/uploads/?digest={digest_of(b'content')}"
            assert 201 == app.post(path.format("web"), data=b"content", headers=headers).status_code
            assert 401 == app.post(path.format("other"), data=b"content", headers=headers).status_code
            head, _, signature = token.rpartition(".")
            bad = {"Authorization": f"Bearer {head}.{signature[::-1]}"}
            assert 401 == app.post(path.format("web"), data=b"content", headers=bad).status_code
