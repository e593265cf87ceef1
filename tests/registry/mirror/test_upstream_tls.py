"""Upstreams that speak TLS: whom the mirror trusts, and the certificate with which it authenticates."""

from __future__ import annotations

import ssl

import pytest

from docker_registry.drivers.memory import MemoryDriver
from docker_registry.errors import ConfigError
from docker_registry.registry.mirror.upstream import parse_upstream
from tests.registry.mirror.conftest import THERE, Mirrored
from tests.support.certificates import Authority
from tests.support.clients.v2 import digest_of
from tests.support.images import make_image
from tests.support.servers.upstream import Answer, Upstream

IMAGE = make_image("by TLS", layer_bytes=100)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("certificates")


@pytest.fixture(scope="module")
def authority(folder):
    return Authority(folder)


@pytest.fixture(scope="module")
def secure(authority):
    """An upstream whose certificate is signed by the authority."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(*authority.issue("upstream"))
    with Upstream(tls) as upstream:
        upstream.add(THERE, "v1", IMAGE)
        yield upstream


@pytest.fixture(scope="module")
def strict(authority):
    """The same; it only talks to clients with a certificate of the authority."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.file))
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_cert_chain(*authority.issue("strict"))
    with Upstream(tls) as upstream:
        upstream.add(THERE, "v1", IMAGE)
        yield upstream


def status(upstream, **options):
    mirrored = Mirrored(MemoryDriver(), upstream.url, **options)
    with mirrored.services:
        return mirrored.get("manifests/v1").status_code


class TestAnUpstreamWithTls:
    def test_is_trusted_by_its_authority_alone(self, secure, authority, folder):
        assert 200 == status(secure, ca=authority.file)
        before = len(secure.requests)
        assert 503 == status(secure)
        assert 503 == status(secure, ca=Authority(folder, "another").file)
        assert before == len(secure.requests), "no request was sent"

    def test_is_not_verified_if_that_is_wanted(self, secure):
        assert 200 == status(secure, insecure=True)

    def test_is_verified_whatever_the_environment_says(self, secure, authority, monkeypatch, folder):
        other = Authority(folder, "of the environment").file
        monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(other))
        monkeypatch.setenv("CURL_CA_BUNDLE", str(other))
        assert 200 == status(secure, ca=authority.file)

    def test_may_redirect_to_hosts_that_a_public_authority_has_certified(self, secure, authority, monkeypatch, folder):
        public = Authority(folder, "public")
        own = folder / "commented.pem"
        own.write_text(f"# Zürich\n{authority.file.read_text()}", "utf-8")
        digest = digest_of(IMAGE.config)
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(*public.issue("storage"))
        with Upstream(tls) as storage:
            storage.contents["/blob"] = Answer(IMAGE.config)
            location = {"Location": f"{storage.url}/blob"}
            monkeypatch.setitem(secure.contents, f"{THERE}/blobs/{digest}", Answer(status=307, headers=location))
            for bundle, expected in ((public.file, 200), (Authority(folder, "unknown").file, 503)):
                monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(bundle))
                mirrored = Mirrored(MemoryDriver(), secure.url, ca=own)
                with mirrored.services:
                    assert expected == mirrored.get(f"blobs/{digest}").status_code

    def test_gets_the_certificate_of_the_mirror(self, strict, authority, folder):
        both = folder / "client.pem"
        both.write_bytes(b"".join(path.read_bytes() for path in authority.issue("mirror")))
        assert 200 == status(strict, ca=authority.file, client_cert=both)
        assert 503 == status(strict, ca=authority.file)

    def test_is_the_only_host_that_gets_it(self, strict, authority, folder):
        both = folder / "client.pem"
        both.write_bytes(b"".join(path.read_bytes() for path in authority.issue("mirror")))
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(authority.file))
        tls.verify_mode = ssl.CERT_OPTIONAL
        tls.load_cert_chain(*authority.issue("storage"))
        received = []
        with Upstream(tls) as storage:
            storage.guard = lambda path, headers: received.append(storage.peer_certificates[-1])
            storage.contents["/blob"] = Answer(IMAGE.config)
            location = {"Location": f"{storage.url}/blob"}
            blob = f"{THERE}/blobs/{digest_of(IMAGE.config)}"
            strict.contents[blob] = Answer(status=307, headers=location)
            mirrored = Mirrored(MemoryDriver(), strict.url, ca=authority.file, client_cert=both)
            with mirrored.services:
                assert IMAGE.config == mirrored.get(f"blobs/{digest_of(IMAGE.config)}").data
        assert [False] == received

    def test_is_reported_if_its_certificate_is_not_valid(self, secure):
        mirrored = Mirrored(MemoryDriver(), secure.url)
        with mirrored.services:
            assert 503 == mirrored.get("manifests/v1").status_code
            reason = mirrored.services.mirror.client("up.example").connection.reachability.reason
        assert "its certificate is not valid: unable to get local issuer certificate" == reason

    @pytest.mark.parametrize("content", [None, b"", b"no certificate"], ids=["missing", "empty", "other"])
    @pytest.mark.parametrize("key", ["ca", "client_cert"])
    def test_needs_usable_files(self, key, content, tmp_path):
        file = tmp_path / "file.pem"
        if content is not None:
            file.write_bytes(content)
        with pytest.raises(ConfigError, match=rf"up\.example: {key} {file} cannot be "):
            parse_upstream("up.example", "https://up.example", **{key: file})
