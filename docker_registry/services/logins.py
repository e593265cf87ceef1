"""Opens the ways to log in that a configuration names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import fields
from typing import TYPE_CHECKING

from docker_registry.config.schema import Config
from docker_registry.config.sections import Auth, Ldap
from docker_registry.drivers.base import StorageDriver
from docker_registry.errors import ConfigError
from docker_registry.services.reporting import shared_folder
from docker_registry.services.store import open_shared_redis

if TYPE_CHECKING:
    from docker_registry.auth.external.client_certificates import ClientCertificates
    from docker_registry.auth.external.ldap import LdapUsers
    from docker_registry.auth.external.workloads import Workloads
    from docker_registry.auth.logins import Logins
    from docker_registry.auth.users.attempts import Attempts

logger = logging.getLogger(__name__)


def open_logins(
    config: Config, driver: StorageDriver, groups: Callable[[], frozenset[str]], on_reload: Callable[[str], object]
) -> Logins:
    """
    Return all ways to log in.

    Args:
        groups: returns the groups that rules name.
        on_reload: called with a sentence when a file was reloaded.

    Raises:
        ConfigError: a setting is invalid, or a file cannot be used.
    """
    from docker_registry.auth.logins import Logins
    from docker_registry.auth.users.robots import Robots

    return Logins(
        config.auth.htpasswd,
        groups=groups,
        on_reload=on_reload,
        robots=Robots(driver),
        workloads=_open_workloads(config.auth),
        attempts=_open_attempts(config),
        certificates=_open_certificates(config),
        ldap=_open_ldap(config.auth.ldap),
    )


def _open_attempts(config: Config) -> Attempts:
    """Return what limits failed logins: of all workers of this server, and with Redis of all hosts."""
    from docker_registry.auth.users.attempts import Attempts
    from docker_registry.auth.users.failure_table import FailureTable
    from docker_registry.auth.users.redis_failures import RedisFailures

    folder = shared_folder()
    call = open_shared_redis(config)
    try:
        table = FailureTable(None if folder is None else folder / "failed-logins")
    except OSError as error:
        logger.warning("each worker counts failed logins on its own: %s: %s", folder, error.strerror)
        table = FailureTable()
    return Attempts(table=table, hosts=None if call is None else RedisFailures(call))


def _open_certificates(config: Config) -> ClientCertificates | None:
    """
    Return what names the users of client certificates; None if these are no identity.

    Raises:
        ConfigError: the setting is invalid, or the server asks for no certificates.
    """
    if config.auth.certificate_name is None:
        return None
    if config.tls.certificate is None or config.tls.client_ca is None:
        raise ConfigError("auth.certificate_name needs tls.certificate and tls.client_ca")
    from docker_registry.auth.external.client_certificates import ClientCertificates

    return ClientCertificates(config.auth.certificate_name)


def _open_ldap(section: Ldap) -> LdapUsers | None:
    """
    Return the users of the configured directory; None if there is none.

    Raises:
        ConfigError: a setting is missing or invalid, or the library is not installed.
    """
    if section.url is None:
        return None
    from docker_registry.auth.external.ldap import LdapUsers
    from docker_registry.auth.external.ldap_directory import Directory

    try:
        directory = Directory.parse(**{entry.name: getattr(section, entry.name) for entry in fields(section)})
    except ModuleNotFoundError:
        raise ConfigError("auth.ldap: the library is missing: pip install 'docker-registry[ldap]'") from None
    return LdapUsers(directory)


def _open_workloads(auth: Auth) -> Workloads | None:
    """
    Return what verifies tokens of workloads; None if no issuer is configured.

    Raises:
        ConfigError: a setting is invalid, or a file of keys cannot be used.
    """
    if not auth.oidc:
        return None
    if auth.token.realm is not None:
        raise ConfigError("auth.oidc needs the registry's own tokens, which auth.token replaces")
    from docker_registry.auth.external.workloads import Issuer, Workloads

    return Workloads(
        [
            Issuer(
                url=item.issuer,
                audience=item.audience,
                match=item.match,
                name=item.as_,
                groups=item.groups,
                ca=item.ca,
                jwks_file=item.jwks_file,
            )
            for item in auth.oidc
        ]
    )
