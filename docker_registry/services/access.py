"""Opens the access control that a configuration names."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from docker_registry.concurrency import run_in_thread
from docker_registry.config.schema import Config
from docker_registry.config.sections import Ldap, TokenServer
from docker_registry.errors import ConfigError
from docker_registry.registry.oci_registry import OciRegistry
from docker_registry.services.logins import open_logins

if TYPE_CHECKING:
    from docker_registry.auth.access_control import AccessControl
    from docker_registry.auth.external.external_tokens import ExternalTokens
    from docker_registry.auth.privileged_key import PrivilegedKey
    from docker_registry.auth.rules.rules import Rules
    from docker_registry.auth.tokens.tokens import Tokens
    from docker_registry.registry.v1.legacy_registry import LegacyRegistry

logger = logging.getLogger(__name__)

#: A rules file up to this size is parsed at once, in some 30 ms, so that a change holds for the next request.
SMALL_RULES_BYTES: Final = 8 * 1024


def has_access_control(config: Config) -> bool:
    """Return whether a registry knows users or rules, so that not everyone may do everything."""
    auth = config.auth
    files = auth.htpasswd is not None or auth.rules is not None
    others = (auth.token.realm, auth.certificate_name, auth.ldap.url)
    return files or any(each is not None for each in others) or bool(auth.oidc)


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


def restrict(
    config: Config,
    registry: OciRegistry,
    legacy: LegacyRegistry | None,
    on_reload: Callable[[str], object] = lambda _: None,
) -> AccessControl | None:
    """
    Apply the configured access control to a registry.

    Args:
        on_reload: called with a sentence when users or rules were reloaded.

    Raises:
        ConfigError: a setting is invalid, or a file cannot be used.
    """
    _check_complete("auth.token.realm", config.auth.token, TokenServer())
    _check_complete("auth.ldap.url", config.auth.ldap, Ldap())
    if not has_access_control(config):
        if config.privileged_key is not None and config.standalone:
            logger.warning("privileged_key has no effect: there is no access control (auth)")
        return None
    # PyJWT and cryptography take time to import.
    from docker_registry.auth.access_control import AccessControl, ImageGrant
    from docker_registry.auth.watched_file import WatchedFile

    rules_file = (
        None if config.auth.rules is None else WatchedFile(config.auth.rules, _parse_rules, on_reload, "auth.rules")
    )

    def groups() -> frozenset[str]:
        return frozenset() if rules_file is None else rules_file.get().named_groups

    control = AccessControl(
        registry.access.policy,
        logins=open_logins(config, registry.driver, groups, on_reload),
        rules_file=rules_file,
        tokens=open_tokens(config, registry) if config.auth.token.realm is None else None,
        external_tokens=_open_external_tokens(config.auth.token),
        privileged_key=open_privileged_key(config),
    )
    registry.access.policy = control.policy
    if legacy is not None:
        legacy.image_memberships.is_maintained = True
        image_tokens = legacy.tokens

        def read(header: str) -> ImageGrant | None:
            token = image_tokens.read(header)
            return None if token is None else ImageGrant(token.holder, token.name, token.access, token.expires)

        control.read_image_token = read
    return control


def _parse_rules(content: bytes, path: Path) -> Rules:
    """
    Parse a rules file, a large one in a native thread: 2000 rules take a second.

    Raises:
        ConfigError: the file is invalid.
    """
    from docker_registry.auth.rules import rules

    if len(content) <= SMALL_RULES_BYTES:
        return rules.parse(content, path)
    return run_in_thread(rules.parse, content, path)


def _check_complete(name: str, section: object, default: object) -> None:
    """
    Check a section that has no effect without one of its settings; the registry might be open to everyone.

    Args:
        name: of the setting.
        default: the section without any setting.

    Raises:
        ConfigError: only others of the section are set.
    """
    if getattr(section, name.rpartition(".")[2]) is None and section != default:
        raise ConfigError(f"{name} is not set, but other settings of {name.rpartition('.')[0]} are")


def _open_external_tokens(section: TokenServer) -> ExternalTokens | None:
    """
    Return what verifies the tokens of another token server; None if none is configured.

    Raises:
        ConfigError: a setting is missing or invalid, or a file of keys cannot be used.
    """
    if section.realm is None:
        return None
    from docker_registry.auth.external import external_tokens

    keys = external_tokens.open_keys(certificates=section.rootcertbundle, jwks=section.jwks, ca=section.ca)
    server = external_tokens.TokenServer.parse(
        realm=section.realm,
        service=section.service,
        issuer=section.issuer,
        algorithms=section.signingalgorithms,
    )
    return external_tokens.ExternalTokens(server, keys)
