"""Opens the access control that a configuration names."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from docker_registry.config.schema import Auth, Config, TokenServer
from docker_registry.errors import ConfigError
from docker_registry.registry.oci_registry import OciRegistry

if TYPE_CHECKING:
    from docker_registry.auth.access_control import AccessControl
    from docker_registry.auth.external.external_tokens import ExternalTokens
    from docker_registry.auth.external.workloads import Workloads
    from docker_registry.auth.privileged_key import PrivilegedKey
    from docker_registry.auth.tokens.tokens import Tokens
    from docker_registry.registry.v1.legacy_registry import LegacyRegistry

logger = logging.getLogger(__name__)


def has_access_control(config: Config) -> bool:
    """Return whether a registry knows users or rules, so that not everyone may do everything."""
    auth = config.auth
    files = auth.htpasswd is not None or auth.rules is not None
    return files or auth.token.realm is not None or bool(auth.oidc)


def open_tokens(config: Config, registry: OciRegistry) -> Tokens:
    """Return the tokens of a registry, and the keys that sign them."""
    from docker_registry.auth.tokens.tokens import Tokens

    auth = config.auth
    return Tokens.open(
        registry.driver,
        service=auth.service,
        issuer=auth.issuer,
        seconds=auth.token_seconds,
        algorithm=auth.algorithm,
        rotation_seconds=auth.key_rotation,
        pace=registry.slices.pace,
    )


def open_privileged_key(config: Config) -> PrivilegedKey | None:
    """
    Return what verifies requests that the operator has signed; None without a key.

    Raises:
        ConfigError: the file cannot be used, or a hash is unknown.
    """
    if config.privileged_key is None:
        return None
    from docker_registry.auth.privileged_key import PrivilegedKey

    return PrivilegedKey(config.privileged_key, config.privileged_key_hashes)


def restrict(config: Config, registry: OciRegistry, legacy: LegacyRegistry | None) -> AccessControl | None:
    """Apply the configured access control to a registry."""
    if not has_access_control(config):
        if config.privileged_key is not None and config.standalone:
            logger.warning("privileged_key has no effect: there is no access control (auth)")
        return None
    # PyJWT and cryptography take time to import.
    from docker_registry.auth.access_control import AccessControl, ImageGrant
    from docker_registry.auth.users.robots import Robots

    control = AccessControl(
        registry.access.policy,
        htpasswd_file=config.auth.htpasswd,
        rules_file=config.auth.rules,
        tokens=open_tokens(config, registry) if config.auth.token.realm is None else None,
        external_tokens=_open_external_tokens(config.auth.token),
        robots=Robots(registry.driver),
        workloads=_open_workloads(config.auth),
        privileged_key=open_privileged_key(config),
    )
    registry.access.policy = control.policy
    if legacy is not None:
        image_tokens = legacy.tokens

        def read(header: str) -> ImageGrant | None:
            token = image_tokens.read(header)
            return None if token is None else ImageGrant(token.holder, token.name, token.access)

        control.read_image_token = read
    return control


def _open_external_tokens(section: TokenServer) -> ExternalTokens | None:
    """
    Return what verifies the tokens of another token server; None if none is configured.

    Raises:
        ConfigError: a setting is missing or invalid, or a file of keys cannot be used.
    """
    if section.realm is None:
        return None
    from docker_registry.auth.external import external_tokens, key_sources

    keys = key_sources.open_keys(
        "auth.token", certificates=section.rootcertbundle, jwks=section.jwks, ca=section.ca, name="the token server"
    )
    server = external_tokens.TokenServer.parse(
        realm=section.realm,
        service=section.service,
        issuer=section.issuer,
        algorithms=section.signingalgorithms,
    )
    return external_tokens.ExternalTokens(server, keys)


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
