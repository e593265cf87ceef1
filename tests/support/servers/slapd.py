"""OpenLDAP's server with a few people and groups, with and without TLS."""

from __future__ import annotations

import socketserver
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support import processes
from tests.support.certificates import Authority
from tests.support.clients import programs

PEOPLE, GROUPS = "ou=people,dc=example,dc=com", "ou=groups,dc=example,dc=com"
SEARCHER = "cn=registry,dc=example,dc=com"

_CONFIGURATION = """
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
include /etc/ldap/schema/inetorgperson.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile {folder}/pid
TLSCertificateFile {certificate}
TLSCertificateKeyFile {key}
database mdb
suffix "dc=example,dc=com"
directory {folder}/data
access to attrs=userPassword by anonymous auth by * none
access to * by dn.exact="{searcher}" read by * none
"""

_ENTRIES = f"""
dn: dc=example,dc=com
objectClass: dcObject
objectClass: organization
o: Example
dc: example

dn: {SEARCHER}
objectClass: organizationalRole
objectClass: simpleSecurityObject
cn: registry
userPassword: pw-registry

dn: {PEOPLE}
objectClass: organizationalUnit
ou: people

dn: {GROUPS}
objectClass: organizationalUnit
ou: groups
"""


@dataclass(frozen=True)
class Directory:
    """
    A server that runs.

    Attributes:
        port, tls_port: where it listens, for plain connections and StartTLS, and for TLS.
        authority: signed its certificate.
    """

    port: int
    tls_port: int
    authority: Authority

    @property
    def settings(self):
        """Settings of the section ``auth.ldap``."""
        return {
            "url": f"ldaps://127.0.0.1:{self.tls_port}", "ca": self.authority.file, "bind_dn": SEARCHER,
            "bind_password": "pw-registry", "user_base": PEOPLE, "group_base": GROUPS,
        }  # fmt: skip


@contextmanager
def busy_directory(connection: int, port: int = 0, *, hangs_up: bool = False) -> Iterator[int]:
    """
    Run a server that has one user and answers one bind with ``busy`` (RFC 4511), and yield its port.

    Args:
        connection: on which the bind fails, counted from 1; 0 for none.
        port: where it listens; 0 for any free port.
        hangs_up: whether it closes the connection instead of answering a bind of the user.
    """
    seen = []

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            seen.append(self)
            is_busy = len(seen) == connection
            while request := self.request.recv(4096):
                # Every message is short: 0x30, its length, the message id (an INTEGER), and the operation.
                end = 4 + request[3]
                message_id, operation = request[2:end], request[end]
                if hangs_up and operation == 0x60 and b"uid=x" in request:
                    return
                if operation == 0x60:
                    result = 51 if is_busy else 0
                    self.request.sendall(_message(message_id, bytes((0x61, 7, 10, 1, result, 4, 0, 4, 0))))
                elif operation == 0x63:
                    entry = _message(message_id, b"\x64\x09\x04\x05uid=x\x30\x00")
                    self.request.sendall(entry + _message(message_id, b"\x65\x07\x0a\x01\x00\x04\x00\x04\x00"))

    with socketserver.ThreadingTCPServer(("127.0.0.1", port), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield server.server_address[1]
        finally:
            server.shutdown()
            thread.join()


def _message(message_id: bytes, operation: bytes) -> bytes:
    return bytes((0x30, len(message_id) + len(operation))) + message_id + operation


@contextmanager
def directory(folder: Path, people: dict[str, tuple[str, ...]]) -> Iterator[Directory]:
    """
    Start a server.

    Args:
        people: names of users with their groups; each has the password ``pw-NAME``.
    """
    slapd, slapadd = programs.require("slapd", "slapd"), programs.require("slapadd", "slapd")
    authority = Authority(folder)
    certificate, key = authority.issue("ldap")
    (folder / "data").mkdir()
    configuration = folder / "slapd.conf"
    configuration.write_text(_CONFIGURATION.format(folder=folder, certificate=certificate, key=key, searcher=SEARCHER))
    entries = [_ENTRIES]
    entries += [
        f"\ndn: uid={name},{PEOPLE}\nobjectClass: inetOrgPerson\nuid: {name}\ncn: {name}\nsn: {name}\n"
        f"userPassword: pw-{name}\n"
        for name in people
    ]
    for group in sorted({group for groups in people.values() for group in groups}):
        members = [f"member: uid={name},{PEOPLE}" for name, groups in people.items() if group in groups]
        entries.append(
            "\n".join((f"\ndn: cn={group},{GROUPS}", "objectClass: groupOfNames", f"cn: {group}", *members, ""))
        )
    subprocess.run(
        [slapadd, "-f", str(configuration)],
        input="".join(entries).encode(),
        check=True,
        capture_output=True,
        timeout=60,
    )
    port, tls_port = processes.free_port(), processes.free_port()
    addresses = f"ldap://127.0.0.1:{port} ldaps://127.0.0.1:{tls_port}"
    command = [slapd, "-f", str(configuration), "-h", addresses, "-d", "0"]
    ready = lambda: processes.listens(port) and processes.listens(tls_port)  # noqa: E731 - short
    with processes.running(command, folder / "slapd.log", ready):
        yield Directory(port, tls_port, authority)
