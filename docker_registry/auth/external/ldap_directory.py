"""Where an LDAP directory has users and groups, as the operator has configured it."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

from docker_registry.errors import AuthorityUnavailable, ConfigError

#: What filters contain in place of the name and the DN of a user.
USER: Final = "{user}"
DN: Final = "{dn}"

#: An attribute that a filter compares with the name of the user.
_USER_ATTRIBUTE: Final = re.compile(r"\(([A-Za-z][A-Za-z0-9-]*)=" + re.escape(USER) + r"\)")

_PORTS: Final = {"ldap": 389, "ldaps": 636}


@dataclass(frozen=True, slots=True)
class Directory:
    """
    A directory.

    Attributes:
        host, port: of the server.
        security: ``tls`` from the start, ``starttls``, or ``none``.
        ca: PEM file of the certificate authorities; None for those of the system.
        bind_dn: the account that searches; None for an anonymous search.
        bind_password: returns its password, or raises AuthorityUnavailable.
        user_base, user_filter: where users are, and the filter of a user, with ``{user}``.
        group_base: where groups are; None for no groups.
        group_filter: the filter of the groups of a user, with ``{dn}`` or ``{user}``.
        group_name: the attribute that names a group in rules.
    """

    host: str
    port: int
    security: str
    ca: Path | None
    bind_dn: str | None
    bind_password: Callable[[], str]
    user_base: str
    user_filter: str
    group_base: str | None
    group_filter: str
    group_name: str

    @property
    def user_attributes(self) -> list[str]:
        """Attributes that the filter of a user compares with the name."""
        return _USER_ATTRIBUTE.findall(self.user_filter)

    @classmethod
    def parse(
        cls,
        *,
        url: str,
        starttls: bool,
        insecure: bool,
        ca: Path | None,
        bind_dn: str | None,
        bind_password: str | None,
        bind_password_file: Path | None,
        user_base: str | None,
        user_filter: str,
        group_base: str | None,
        group_filter: str,
        group_name: str,
    ) -> Directory:
        """
        Check the settings of a directory.

        Args:
            insecure: whether passwords may be sent in clear.

        Raises:
            ConfigError: one is missing or invalid.
        """
        scheme, host, port = _parse_url(url)
        if scheme == "ldap" and not starttls and not insecure:
            raise ConfigError("auth.ldap.url would send passwords in clear; use ldaps://, starttls or insecure")
        if not user_base:
            raise ConfigError("auth.ldap.user_base is not set")
        if (bind_dn is None) != (bind_password is None and bind_password_file is None):
            raise ConfigError("auth.ldap.bind_dn and bind_password or bind_password_file belong together")
        if ca is not None and not os.path.isfile(ca):  # noqa: PTH113 - raises no PermissionError
            raise ConfigError(f"auth.ldap.ca: {ca} cannot be read")
        _check_filter("user_filter", user_filter, (USER,))
        _check_filter("group_filter", group_filter, (DN, USER))

        def read_password() -> str:
            return (bind_password or "") if bind_password_file is None else _read_password(bind_password_file)

        security = "tls" if scheme == "ldaps" else "starttls" if starttls else "none"
        return cls(
            host, port, security, ca, bind_dn, read_password, user_base, user_filter, group_base, group_filter,
            group_name,
        )  # fmt: skip


def name_in(entry: Mapping[str, Any], given: str) -> str:
    """
    Return the name of a user with the upper and lower case of its entry, since names in groups may be case-sensitive.

    Args:
        entry: a result of a search in ldap3, with :attr:`Directory.user_attributes`.
        given: the name that the client sent; returned if the entry does not have it.
    """
    values = (value.decode("utf-8", "replace") for found in entry["raw_attributes"].values() for value in found)
    return next((value for value in values if value.lower() == given.lower()), given)


def _parse_url(url: str) -> tuple[str, str, int]:
    """
    Return scheme, host and port.

    Raises:
        ConfigError: it is no URL of a directory.
    """
    wrong = ConfigError("auth.ldap.url must be ldaps://HOST or ldap://HOST, with an optional port")
    try:
        parts = urlsplit(url)
        port = parts.port or _PORTS.get(parts.scheme, 0)
        (parts.hostname or "").encode("idna")  # as a name lookup does
    except ValueError:
        raise wrong from None
    has_more = parts.path not in ("", "/") or parts.query or parts.fragment or parts.username is not None
    if not parts.hostname or not port or parts.scheme not in _PORTS or has_more:
        raise wrong
    return parts.scheme, parts.hostname, port


def _check_filter(name: str, text: str, variables: tuple[str, ...]) -> None:
    """
    Raises:
        ConfigError: a text is not a filter with one of some variables.
    """
    from ldap3.core.exceptions import LDAPExceptionError
    from ldap3.operation.search import parse_filter

    try:
        parse_filter(text.replace(USER, "x").replace(DN, "x"), None, True, None, False, True)
    except LDAPExceptionError:
        raise ConfigError(f"auth.ldap.{name} is not an LDAP filter (RFC 4515): {text[:100]!r}") from None
    if not any(variable in text for variable in variables):
        raise ConfigError(f"auth.ldap.{name} must contain {' or '.join(variables)}")


def _read_password(path: Path) -> str:
    """
    Raises:
        AuthorityUnavailable: the file cannot be read, or is not UTF-8.
    """
    try:
        return path.read_text("utf-8").strip()
    except OSError as error:
        raise AuthorityUnavailable(f"The password of the LDAP account cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise AuthorityUnavailable("The password of the LDAP account cannot be read: it is not UTF-8.") from None
