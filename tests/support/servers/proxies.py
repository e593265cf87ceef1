"""The proxies of contrib/, each with the real program: TLS and Basic authentication in front of a registry."""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import bcrypt

from tests.support import processes
from tests.support.certificates import Authority
from tests.support.clients import programs
from tests.support.servers.template import ROOT

USER: Final = "alice"
PASSWORD: Final = "wonderland"

#: Placeholders in the examples, and the name of the value of each.
_PLACES: Final = {
    "/etc/ssl/certs/registry.example.org.pem": "certificate",
    "/etc/ssl/private/registry.example.org.key": "key",
    "/etc/haproxy/registry.example.org.pem": "pair",
    "/etc/nginx/docker-registry.htpasswd": "users",
    "/etc/apache2/docker-registry.htpasswd": "users",
    "127.0.0.1:5000": "upstream",
}


@dataclass(frozen=True)
class Proxy:
    """
    A proxy of contrib/.

    Attributes:
        name: of the program.
        package: the Debian package that contains it.
        example: its file below contrib/.
        complete: adapts the example to a folder and a port, and writes what else the program needs.
        command: starts it, given the program and the file.
    """

    name: str
    package: str
    example: str
    complete: Callable[[str, Path, int], str]
    command: Callable[[str, Path], list[str]]
    environment: Callable[[Path], Mapping[str, str]] = lambda _: {}

    def __str__(self) -> str:
        return self.name


def _nginx(text: str, folder: Path, port: int) -> str:
    user = "user root;" if os.geteuid() == 0 else ""
    paths = "".join(
        f"{name}_temp_path {folder}/{name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl")
    return (
        f"{user} daemon off; pid {folder}/pid; error_log stderr; events {{}} http {{ access_log off; {paths} {text} }}"
    )


_APACHE_MODULES: Final = (
    "mpm_event", "authn_core", "authn_file", "authz_core", "authz_user", "auth_basic", "headers", "reqtimeout", "proxy",
    "proxy_http", "socache_shmcb", "ssl",
)  # fmt: skip


def _apache(text: str, folder: Path, port: int) -> str:
    modules = "".join(f"LoadModule {name}_module /usr/lib/apache2/modules/mod_{name}.so\n" for name in _APACHE_MODULES)
    user = "User www-data\nGroup www-data\n" if os.geteuid() == 0 else ""
    text = text.replace("<VirtualHost *:443>", f"<VirtualHost 127.0.0.1:{port}>")
    return (
        f"{modules}{user}ServerRoot {folder}\nServerName localhost\nPidFile {folder}/pid\nErrorLog /dev/stderr\n"
        f"DefaultRuntimeDir {folder}\nMutex pthread\nListen 127.0.0.1:{port}\n{text}"
    )


def _haproxy(text: str, folder: Path, port: int) -> str:
    lines = [
        f"    user {USER} insecure-password {PASSWORD}" if line.startswith("    user alice ") else line
        for line in text.splitlines()
    ]
    return "\n".join(lines).replace("bind :443", f"bind 127.0.0.1:{port}") + "\n"


def _caddy(text: str, folder: Path, port: int) -> str:
    lines = [f"\t\t{USER} {_hash()}" if line.startswith("\t\talice ") else line for line in text.splitlines()]
    options = "{\n\tadmin off\n\tauto_https disable_redirects\n\tskip_install_trust\n}\n"
    site = "\n".join(lines).replace("registry.example.org {", f"https://127.0.0.1:{port}, https://localhost:{port} {{")
    return f"{options}{site}\n"


def _hash() -> str:
    return bcrypt.hashpw(PASSWORD.encode(), bcrypt.gensalt(4)).decode()


PROXIES: Final = (
    Proxy(
        "nginx", "nginx-light", "nginx/docker-registry.conf", _nginx,
        lambda program, file: [program, "-p", str(file.parent), "-c", str(file), "-e", "stderr"],
    ),
    Proxy(
        "apache2", "apache2", "apache/docker-registry.conf", _apache,
        lambda program, file: [program, "-DFOREGROUND", "-f", str(file)],
    ),
    Proxy(
        "haproxy", "haproxy", "haproxy/haproxy.cfg", _haproxy,
        lambda program, file: [program, "-db", "-f", str(file)],
    ),
    Proxy(
        "caddy", "caddy", "caddy/Caddyfile", _caddy,
        lambda program, file: [program, "run", "--config", str(file), "--adapter", "caddyfile"],
        lambda folder: {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CONFIG_HOME": str(folder)},
    ),
)  # fmt: skip


@contextlib.contextmanager
def running_proxy(
    proxy: Proxy,
    folder: Path,
    upstream_port: int,
    authority: Authority,
    change: Callable[[str], str] = lambda text: text,
) -> Iterator[str]:
    """
    Run a proxy for the duration of a ``with`` block and yield its URL.

    Args:
        folder: of its own.
        upstream_port: of the registry.
        change: changes its configuration, to break it.
    """
    program, port = programs.require(proxy.name, proxy.package), processes.free_port()
    certificate, key = authority.issue("proxy", file=f"proxy-{port}")  # another proxy may be reading its own
    pair = authority.file.with_name(f"proxy-{port}.pem")
    pair.write_bytes(certificate.read_bytes() + key.read_bytes())
    replaced = {
        "certificate": str(certificate), "key": str(key), "pair": str(pair),
        "upstream": f"127.0.0.1:{upstream_port}",
    }  # fmt: skip
    text = (ROOT / "contrib" / proxy.example).read_text()
    with tempfile.TemporaryDirectory() as public:
        Path(public).chmod(0o755)  # Apache reads the file of users as another user
        users = Path(public, "htpasswd")
        users.write_text(f"{USER}:{_hash()}\n")
        for place, name in _PLACES.items():
            text = text.replace(place, {**replaced, "users": str(users)}[name])
        file = folder / "configuration"
        file.write_text(change(proxy.complete(text, folder, port)))
        command = proxy.command(program, file)
        with processes.running(command, folder / "log", lambda: processes.listens(port), proxy.environment(folder)):
            yield f"https://127.0.0.1:{port}"
