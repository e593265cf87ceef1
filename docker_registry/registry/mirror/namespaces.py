"""
Selection of the upstream that a request is addressed to.

1. The ``ns`` parameter: containerd and Docker 28 send a mirror the host part of the image's name (containerd,
   ``docs/hosts.md``; OCI Distribution Specification, "Namespace parameter"). An unknown ``ns`` is an error, so that a
   pull of ``docker.io/acme/app`` never gets the repository ``acme/app`` of this registry.
2. Without ``ns``, the Host header.
3. The default, if there is one: the whole registry is then the mirror of that upstream.
4. Otherwise the first component of the repository's name (:class:`~.upstream.Upstreams`), not in this module.
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
    """Maps namespaces (``ns``) and Host headers to upstreams."""

    def __init__(
        self,
        upstreams: Upstreams,
        hosts: Mapping[str, str],
        own_names: Iterable[str],
        external_url: str | None,
        default: str | None = None,
    ) -> None:
        """
        Args:
            hosts: upstream names by Host header (HOST or HOST:PORT).
            own_names: values of ``ns`` that refer to this registry itself.
            external_url: URL of this registry; its host, with the port if it has one, is added to *own_names*.
            default: name of the upstream that all other requests select.

        Raises:
            ConfigError: a host is invalid, *hosts* or *default* names an unknown upstream, or an own name is also the
                name or address of an upstream.
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
        if default is not None and default not in named:
            raise ConfigError(f"mirroring.default: {default[:_MAX_HOST_CHARACTERS]} is no upstream")
        self._default = named[default] if default is not None else None

    def find(self, namespace: str, host: str) -> Upstream | None:
        """
        Return the upstream that ``ns``, or without it the Host header, selects; else the default. Case is ignored.

        Args:
            namespace: the value of ``ns``, the name or address of an upstream or an own name; empty if absent.
            host: the Host header, looked up first with its port, then without.

        Returns:
            None without a default, if *namespace* is an own name, or if it is empty and *host* belongs to no upstream.

        Raises:
            NameInvalid: *namespace* is not HOST or HOST:PORT.
            NameUnknown: *namespace* is neither an upstream nor an own name.
        """
        if not namespace:
            name, port = _split_port(host.lower())
            name = name.removesuffix(".")  # of an absolute name, as in DNS
            return self._by_host.get(f"{name}{port}") or self._by_host.get(name) or self._default
        if not is_host(namespace):
            raise NameInvalid("The namespace (ns) is not HOST or HOST:PORT.", ns=namespace[:_MAX_HOST_CHARACTERS])
        if namespace.lower() in self._own:
            return self._default
        upstream = self._by_namespace.get(namespace.lower())
        if upstream is None:
            raise NameUnknown("This registry does not mirror the namespace (ns).", ns=namespace)
        return upstream


def name_here(upstream: Upstream, name: str) -> str:
    """
    Return the name of a repository of an upstream in this registry; *name* may already be that.

    So if an upstream is named like one of its namespaces, the repositories in that are taken for names here.
    """
    prefix = f"{upstream.name}/"
    return name if name.startswith(prefix) else f"{prefix}{name}"


def is_host(text: str) -> bool:
    """Return whether *text* has the form HOST or HOST:PORT; an IPv6 address needs brackets."""
    match = _HOST.fullmatch(text) if len(text) <= _MAX_HOST_CHARACTERS else None
    return match is not None and (match[1] is None or 0 < int(match[1]) < 65536)


def _split_port(host: str) -> tuple[str, str]:
    match = re.search(r":[0-9]+$", host)
    return (host, "") if match is None else (host[: match.start()], match[0])
