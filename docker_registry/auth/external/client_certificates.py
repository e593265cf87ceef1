"""
Client certificates as identity, where the server itself terminates TLS.

The TLS library has verified the certificate against ``tls.client_ca``; here its fields become the name of a user.
"""

from __future__ import annotations

import hashlib
import re
import ssl
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from docker_registry.auth.external.names import is_identity
from docker_registry.errors import ConfigError, Unauthorized

#: Begins the version of an identity in tokens.
VERSION_PREFIX: Final = "certificate:"

#: The fields that a name may contain: those of the subject, and those of the subject alternative names.
_SUBJECT: Final = {"cn": "commonName", "o": "organizationName", "ou": "organizationalUnitName", "uid": "userId"}
_ALTERNATIVE: Final = {"dns": "DNS", "email": "email", "uri": "URI"}
_FIELDS: Final = (*_SUBJECT, *_ALTERNATIVE)

#: Fields of which upper and lower case differ; of the others they are the same (RFC 4517, section 4.2.11; RFC 5280,
#: section 7), so that names are in lower case.
_CASE_SENSITIVE: Final = frozenset({"uri"})

_FIELD: Final = re.compile(r"\$\{([^}]*)\}")


@dataclass(frozen=True, slots=True)
class CertificateUser:
    """
    The holder of a certificate.

    Attributes:
        name: in rules and logs.
        given: the name with the upper and lower case of the certificate.
        expires: when the certificate ends, seconds since the Unix epoch.
    """

    name: str
    given: str
    expires: float


class ClientCertificates:
    """
    Maps certificates to names.

    Attributes:
        version: changes with the mapping.
    """

    def __init__(self, name: str, now: Callable[[], float] = time.time) -> None:
        """
        Args:
            name: of a certificate's user, such as ``${cn}`` or ``host/${dns}``.
            now: the clock; returns seconds since the Unix epoch.

        Raises:
            ConfigError: it contains no field, or an unknown one, or characters that no name has.
        """
        fields = _FIELD.findall(name)
        unknown = [field for field in fields if field not in _FIELDS]
        if not fields or unknown or "$" in _FIELD.sub("", name):
            known = ", ".join(f"${{{field}}}" for field in _FIELDS)
            raise ConfigError(f"auth.certificate_name: {name[:100]!r} must contain one of {known}, and no other ${{…}}")
        if not is_identity(_FIELD.sub("x", name)):
            raise ConfigError(f"auth.certificate_name: {name[:100]!r} makes no name that rules can contain")
        self._name = name
        self._now = now
        self.version = VERSION_PREFIX + hashlib.sha256(name.encode()).hexdigest()[:16]

    def identify(self, certificate: Mapping[str, Any]) -> CertificateUser:
        """
        Return the user of a certificate; the name is in lower case, but for URIs.

        Args:
            certificate: verified; in the form of :meth:`ssl.SSLSocket.getpeercert`.

        Raises:
            Unauthorized: it has expired, lacks a field or has it several times, or its fields make no name; the message
                gives the reason.
        """

        def value(found: re.Match[str]) -> str:
            values = _values(certificate, found[1])
            if len(values) != 1:
                problem = f"has {len(values)} values of {found[1]}" if values else f"has no {found[1]}"
                raise Unauthorized(f"The client certificate {problem}.")
            return values[0]

        def lower_value(found: re.Match[str]) -> str:
            return value(found) if found[1] in _CASE_SENSITIVE else value(found).lower()

        # The given name is checked too: some letters outside of ASCII have lower-case forms in ASCII.
        given, name = _FIELD.sub(value, self._name), _FIELD.sub(lower_value, self._name)
        if not is_identity(given) or not is_identity(name):
            raise Unauthorized("The fields of the client certificate make no name that rules can contain.")
        expires = ssl.cert_time_to_seconds(certificate["notAfter"])
        if expires <= self._now():  # during a connection
            raise Unauthorized("The client certificate has expired.")
        return CertificateUser(name, given, expires)


def _values(certificate: Mapping[str, Any], field: str) -> list[str]:
    if field in _SUBJECT:
        pairs = [pair for relative in certificate.get("subject", ()) for pair in relative]
        return [value for name, value in pairs if name == _SUBJECT[field]]
    return [value for name, value in certificate.get("subjectAltName", ()) if name == _ALTERNATIVE[field]]
