"""Upstreams that are reached through a proxy of the environment."""

from __future__ import annotations

import pytest

from tests.registry.mirror.conftest import NAME, THERE, Mirrored
from tests.support.images import make_image
from tests.support.servers.upstream import Upstream

IMAGE = make_image("through a proxy", layer_bytes=10)
UPSTREAM = "http://registry.invalid"


class TestAProxyOfTheEnvironment:
    @pytest.fixture
    def proxy(self, monkeypatch):
        """A proxy that has the content of the upstream."""
        for name in ("http_proxy", "no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
            monkeypatch.delenv(name, raising=False)
        with Upstream() as proxy:
            proxy.add(THERE, "v1", IMAGE)
            proxy.contents |= {f"{UPSTREAM}/v2/{path}": answer for path, answer in proxy.contents.items()}
            monkeypatch.setenv("HTTP_PROXY", proxy.url)
            yield proxy

    def test_is_used(self, proxy, driver):
        mirrored = Mirrored(driver, UPSTREAM)
        with mirrored.services:
            assert IMAGE.manifest == mirrored.get("manifests/v1").data
            for digest, content in IMAGE.blobs.items():
                assert content == mirrored.get(f"blobs/{digest}").data
        assert all(path.startswith(f"{UPSTREAM}/v2/{THERE}/") for _, path, _ in proxy.requests)

    def test_is_not_used_for_the_hosts_of_no_proxy(self, proxy, driver, monkeypatch, upstream):
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        upstream.add(THERE, "v1", IMAGE)
        mirrored = Mirrored(driver, upstream.url)
        with mirrored.services:
            assert IMAGE.manifest == mirrored.get("manifests/v1", NAME).data
        assert [] == proxy.requests
