"""
Decides which upstream a request means, so that a public name never stands for a repository of this registry.

First by the ``ns`` parameter, with which containerd and Docker 28 tell a mirror the host of the image's name
(containerd, ``docs/hosts.md``, and the OCI Distribution Specification, "Namespace parameter"); then by the Host header.
Otherwise the name of the repository alone decides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Final
from urllib.parse import urlsplit

from docker_registry.errors import ConfigError, NameInvalid, NameUnknown
from docker_registry.registry.mirror.upstream import Upstream, Upstreams

_HOST: Final = re.compile(r"(?:[a-z0-9](?:[a-z0-9._-]*[a-z0-9])?|\[[0-9a-f:.]+\])(?::([0-9]{1,5}))?", re.IGNORECASE)

_MAX_HOST_CHARACTERS: Final = 255


class Namespaces:
    """The hosts that stand for upstreams, and those that stand for this registry."""

    def __init__(
        self, upstreams: Upstreams, hosts: Mapping[str, str], own_names: Iterable[str], external_url: str | None
    ) -> None:
        """
        Args:
            hosts: names of upstreams by the Host header of requests that mean them.
            own_names: values of ``ns`` that mean this registry.
            external_url: URL of this registry; its host is a further own name.

        Raises:
            ConfigError: a host is invalid, names no upstream, or stands for this registry and an upstream.
        """
        external = urlsplit(external_url).netloc if external_url else ""
        self._own = {each.lower() for each in (*own_names, external) if each}
        self._by_namespace = {name.lower(): each for each in upstreams for name in (each.address, each.name)}
        self._by_host: dict[str, Upstream] = {}
        for text in (*self._own, *hosts):
            if not is_host(text):
                raise ConfigError(f"mirroring: {text[:_MAX_HOST_CHARACTERS]} is not HOST or HOST:PORT")
        for text in sorted(self._own & self._by_namespace.keys()):
            raise ConfigError(f"mirroring: {text} is this registry and an upstream")
        named = {each.name: each for each in upstreams}
        for host, name in hosts.items():
            if name not in named:
                raise ConfigError(f"mirroring.hosts: {host} stands for {name}, which is no upstream")
            self._by_host[host.lower()] = named[name]

    def find(self, namespace: str, host: str) -> Upstream | None:
        """
        Return the upstream that a request means; None if it means this registry.

        Args:
            namespace: the value of ``ns``; empty without one.
            host: the Host header.

        Raises:
            NameInvalid: the namespace is not HOST or HOST:PORT.
            NameUnknown: it is neither that of an upstream nor an own name.
        """
        if not namespace:
            return self._by_host.get(host.lower()) or self._by_host.get(_without_port(host.lower()))
        if not is_host(namespace):
            raise NameInvalid("The namespace (ns) is not HOST or HOST:PORT.", ns=namespace[:_MAX_HOST_CHARACTERS])
        if namespace.lower() in self._own:
            return None
        upstream = self._by_namespace.get(namespace.lower())
        if upstream is None:
            raise NameUnknown("This registry does not mirror the namespace (ns).", ns=namespace)
        return upstream


def is_host(text: str) -> bool:
    """Return whether a text is a host with an optional port."""
    match = _HOST.fullmatch(text) if len(text) <= _MAX_HOST_CHARACTERS else None
    return match is not None and (match[1] is None or 0 < int(match[1]) < 65536)


def _without_port(host: str) -> str:
    return host.rpartition(":")[0] if re.search(r":[0-9]+$", host) else host
