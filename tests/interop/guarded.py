"""A registry with users as clients reach it: directly or behind nginx, and with either challenge."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pytest

from tests.support.access import settings
from tests.support.certificates import Authority
from tests.support.clients.v2 import Client
from tests.support.images import make_image, push
from tests.support.processes import free_port
from tests.support.servers.nginx import running_nginx
from tests.support.servers.registry import Server, TlsServer
from tests.support.timing import wait_until

#: Repositories with the tag `v1`: anonymous clients may pull the first, alice and bob also the second, bob the third.
REPOSITORIES: Final = ("public/web", "acme/web", "bob/own")

#: The challenges of a registry that is reached directly; behind nginx, they are for the slow tests.
PLACES: Final = (
    "bearer",
    "basic",
    pytest.param("bearer-nginx", marks=pytest.mark.slow),
    pytest.param("basic-nginx", marks=pytest.mark.slow),
)


#: What clients say if they are denied, in lower case; one of these.
REFUSALS: Final = (
    "denied",
    "unauthorized",
    "forbidden",
    "authentication required",
    "no basic auth",
    "basic credential not found",
    "may not",
)


@dataclass(frozen=True)
class Guarded:
    """
    A registry with users.

    Attributes:
        host: name and port by which clients reach it.
        authority: file of the certificate authority that clients must trust; None if they reach it without TLS.
        is_bearer: whether it asks for tokens, not for passwords.
    """

    server: Server
    host: str
    authority: Path | None
    is_bearer: bool

    @property
    def url(self) -> str:
        """The URL by which clients reach it."""
        return f"{'http' if self.authority is None else 'https'}://{self.host}"

    @property
    def trust(self) -> Mapping[str, str]:
        """Variables with which a program in Go trusts the authority."""
        return {} if self.authority is None else {"SSL_CERT_FILE": str(self.authority)}

    @property
    def docker_refusals(self) -> tuple[str, ...]:
        """What Docker says if it is denied; after TLS it tries HTTP, since the host is in the loopback network."""
        return REFUSALS if self.authority is None else (*REFUSALS, "http request was sent to https", "400 bad request")

    def unless_tls(self, *flags: str) -> tuple[str, ...]:
        """Return the flags that a client needs in order to use HTTP."""
        return flags if self.authority is None else ()

    def flag(self, side: str = "") -> str:
        """
        Return the flag of skopeo, podman and buildah.

        Args:
            side: `src-` or `dest-` where a command has two registries.
        """
        return f"--{side}tls-verify=false" if self.authority is None else f"--{side}cert-dir={self.authority.parent}"

    def await_mount(self, name: str) -> None:
        """Wait until the access log shows that a blob was mounted into a repository."""

        def is_mounted() -> bool:
            lines = self.server.log.read_text().splitlines()
            entries = (json.loads(line) for line in lines if f'"repository":"{name}"' in line and "mount=" in line)
            return any((each["method"], each["status"]) == ("POST", 201) for each in entries)

        wait_until(is_mounted, lambda: f"nothing was mounted into {name}")


@contextlib.contextmanager
def serve_guarded(folder: Path, place: str, **variables: str) -> Iterator[Guarded]:
    """
    Run a registry with the users and rules of :mod:`tests.support.access`.

    Args:
        place: `bearer` or `basic`, with `-nginx` for a proxy that terminates TLS under a name of its own, or with
            `-tls` for TLS without a proxy.
    """
    challenge, _, way = place.partition("-")
    variables = {
        "REGISTRY_AUTH_CHALLENGE": challenge,
        "REGISTRY_LOG_FORMAT": "json",
        "SEARCH_BACKEND": "sqlalchemy",
        **settings(folder),
        **variables,
    }
    with contextlib.ExitStack() as stack:
        trusted = None
        if way:
            authority = Authority(folder)
            certificate, key = authority.issue("registry")
            (folder / "trusted").mkdir()  # without the key: clients would look for a certificate beside it
            trusted = folder / "trusted" / "ca.crt"
            trusted.write_bytes(authority.file.read_bytes())
        if way == "nginx":
            port = free_port()
            variables["REGISTRY_EXTERNAL_URL"] = f"https://localhost:{port}"
            server = stack.enter_context(Server(folder / "store", workers=2, **variables))
            tls = f"listen 127.0.0.1:{port} ssl; ssl_certificate {certificate}; ssl_certificate_key {key};"
            stack.enter_context(running_nginx(folder, [server.port], tls))
            host = f"localhost:{port}"
        elif way == "tls":
            variables |= {"REGISTRY_TLS_CERTIFICATE": str(certificate), "REGISTRY_TLS_KEY": str(key)}
            server = stack.enter_context(TlsServer(folder / "store", workers=2, **variables))
            host = f"127.0.0.1:{server.port}"
        else:
            server = stack.enter_context(Server(folder / "store", workers=2, **variables))
            host = f"127.0.0.1:{server.port}"
        guarded = Guarded(server, host, trusted, challenge == "bearer")
        with as_root(guarded) as root:
            for name in REPOSITORIES:
                push(root, name, "v1", make_image(1))
        yield guarded


@contextlib.contextmanager
def as_root(guarded: Guarded) -> Iterator[Client]:
    """Yield a client that may do everything."""
    with Client(guarded.server.url) as client:
        client.session.auth = ("root", "pw-root")
        if guarded.authority is not None:
            client.session.verify = str(guarded.authority)
        yield client


@contextlib.contextmanager
def refused(*words: str) -> Iterator[None]:
    """Expect that a client fails with a message that contains one of some words, by default those of a refusal."""
    with pytest.raises(AssertionError) as raised:
        yield
    said = str(raised.value).lower()
    assert any(word in said for word in words or REFUSALS), said
