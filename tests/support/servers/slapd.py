"""OpenLDAP's server with a few people and groups, with and without TLS."""

from __future__ import annotations

import subprocess
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
