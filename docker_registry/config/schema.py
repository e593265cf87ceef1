"""
Declares all settings of the registry, and loads and checks their values.

:mod:`docker_registry.config.sections` declares the sections, :mod:`docker_registry.config.flavors` reads the
configuration file, and :mod:`docker_registry.settings` defines the type of a setting. Only
:mod:`~docker_registry.services`, :mod:`~docker_registry.cli`, :mod:`~docker_registry.wsgi` and
:mod:`~docker_registry.config.render` import this module; all other parts receive values.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docker_registry import drivers
from docker_registry.config import legacy
from docker_registry.config.flavors import DEFAULT_FLAVOR, Flavor, did_you_mean, read_flavor, variable
from docker_registry.config.sections import Auth, Cache, CacheLru, Cors, EmailExceptions, Mirroring, Tls
from docker_registry.errors import ConfigError
from docker_registry.settings import Setting, fill, flatten, setting, settings_of, value_of, without_value

logger = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True, repr=False)
class Config:
    """
    The effective configuration.

    Attributes:
        flavor: name of the flavor.
        path: the configuration file.
        driver_settings: the settings that the selected storage driver declares.
        driver_options: their values, by keyword argument of the driver's constructor.
    """

    flavor: str = DEFAULT_FLAVOR
    path: Path = field(default_factory=Path)
    driver_settings: tuple[Setting, ...] = ()
    driver_options: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))

    loglevel: str = setting(
        "info", "Lowest level that is logged.", choices=("debug", "info", "warn", "warning", "error", "critical")
    )

    log_format: str = setting("text", "Format of all logs.", choices=("text", "json"))
    audit_log: str | None = setting(
        None, "File to which refusals, logins and changes are appended as JSON; `-` for standard output."
    )

    metrics: bool = setting(False, "Serve metrics at `/metrics`; with access control they require a login.")
    metrics_address: str | None = setting(
        None, "Serve metrics at `/metrics` of this address, `HOST:PORT`, instead, without access control."
    )
    metrics_by_repository: bool = setting(
        False,
        "Count pulls and pushes of the 1000 busiest repositories; only with `metrics_address`, because names may be "
        "private.",
    )

    storage: str = setting("file", "Storage driver: `file`, `memory`, `s3`, or any other installed driver.")
    storage_redirect: bool = setting(
        False, "Redirect blob downloads to signed URLs of the store, if its driver supports them."
    )
    nginx_x_accel_redirect: str | None = setting(
        None,
        "Prefix of an internal nginx location for the store; nginx then sends blobs (X-Accel-Redirect).",
        form="header",
    )

    v1: bool = setting(True, "Serve Registry API V1, and through API V2 the images that V1 has stored.")
    v2: bool = setting(True, "Serve Registry API V2, the OCI distribution API.")
    delete_tags: bool = setting(True, "Allow clients to delete tags.")
    delete_manifests: bool = setting(
        True, "Allow clients to delete manifests, which also deletes the tags that point at them."
    )
    delete_blobs: bool = setting(True, "Allow clients to delete blobs.")
    immutable_tags: tuple[str, ...] = setting(
        (),
        "Patterns of tags that cannot be changed or deleted once they exist, nor the content they need: `v*`, or with "
        "repositories `acme/*:v*`.",
    )
    drain_delay: int = setting(
        0, "Time after SIGTERM in which connections are still accepted, while `/readyz` answers 503.", unit="seconds",
        minimum=0,
    )  # fmt: skip
    upload_ttl: int = setting(604800, "Abandoned uploads are deleted after this time.", unit="seconds", minimum=1)
    upload_purge_interval: int = setting(
        3600, "Interval between deletions of abandoned uploads.", unit="seconds", minimum=1
    )
    max_manifest_bytes: int = setting(4194304, "Largest manifest that is accepted.", unit="bytes", minimum=1)
    max_body_memory_bytes: int = setting(
        33554432,
        "Memory per worker for manifests and V1 JSON being received; further requests wait, then get 503.",
        unit="bytes",
        minimum=1048576,
    )
    check_index_children: bool = setting(
        False, "Reject an index whose manifests are missing. Breaks BuildKit cache manifests, which list layers."
    )
    max_page_entries: int = setting(1000, "Largest page of a list.", unit="entries", minimum=1)

    auth: Auth = field(default_factory=Auth)
    tls: Tls = field(default_factory=Tls)
    external_url: str | None = setting(
        None, "URL under which clients reach the registry, such as `https://registry.example.com`, or with a path "
        "`https://example.com/registry`; a path alone takes scheme and host of each request, as when unset.",
    )  # fmt: skip
    trusted_proxies: tuple[str, ...] = setting(
        ("127.0.0.1", "::1", "unix"),
        "Addresses and networks of proxies whose `X-Forwarded-For`, `Forwarded`, `X-Forwarded-Proto`, "
        "`X-Forwarded-Host` and `X-Forwarded-Prefix` are trusted; `unix` for proxies that connect by a Unix socket.",
    )

    standalone: bool = setting(
        True, "V1: act as the index too; `false` validates tokens at `index_endpoint`, and needs `v2: false`."
    )
    index_endpoint: str = setting("https://index.docker.io", "V1: URL of the index.")
    disable_token_auth: bool = setting(False, "V1: skip token checks because a proxy authenticates requests.")
    privileged_key: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "V1: PEM file of an RSA public key. Requests that its private key has signed may do everything."
    )
    privileged_key_hashes: tuple[str, ...] = setting(
        ("sha1", "sha256", "sha384", "sha512"),
        "V1: hashes that their signatures may use; also `md5`. `sha1` is warned about.",
    )
    registry_endpoints: str | None = setting(
        None, "V1: value of X-Docker-Endpoints. The Host of the request when unset.", form="header"
    )
    serve_private: bool = setting(
        False,
        "V1: serve private repositories to everyone; with `false`, to users whose rules allow it, if there are users.",
    )
    max_unpacked_layer_bytes: int = setting(
        68719476736, "V1: largest unpacked size of a layer whose files are listed.", unit="bytes", minimum=1
    )
    max_layer_ratio: int = setting(
        1100, "V1: largest compression ratio of a layer that unpacks to more than 1 GiB.",
        unit="times", minimum=1,
    )  # fmt: skip
    max_layer_seconds: int = setting(300, "V1: CPU time for reading a layer.", unit="seconds", minimum=1)

    v1_platform: str = setting(
        "linux/amd64",
        "V1: platform that V1 clients get from an index, as `os/architecture` or `os/architecture/variant`.",
    )

    search_backend: str | None = setting(
        None, "Search index: `sqlalchemy`, or the name of a module. Search is off when unset."
    )
    sqlalchemy_index_database: str | None = setting(
        None,
        "URL of the search database. When unset: SQLite in the store's own folder if that is on a local disk (ext4,"
        " XFS, Btrfs), else in `/tmp/docker-registry.db`.",
    )
    mirroring: Mirroring = field(default_factory=Mirroring)
    cache: Cache = field(default_factory=Cache)
    cache_lru: CacheLru = field(default_factory=CacheLru)
    cors: Cors = field(default_factory=Cors)
    email_exceptions: EmailExceptions = field(default_factory=EmailExceptions)
    bugsnag: str | None = setting(None, "API key of Bugsnag, to which errors are reported.", secret=True)
    bugsnag_endpoint: str = setting("https://notify.bugsnag.com", "URL of Bugsnag's notify API.")
    sentry_dsn: str | None = setting(None, "DSN of a Sentry project, to which errors are reported.", secret=True)


def secret_values(config: Config) -> frozenset[str]:
    """Return the values of all secret settings, which must not appear in logs or reports."""
    declared = [(definition, value_of(config, definition.name)) for definition in settings_of(Config)]
    declared += [(each, config.driver_options.get(each.keyword)) for each in config.driver_settings]
    found: set[object] = set()
    for definition, value in declared:
        if definition.section is not None:
            secret_names = [field.name for field in settings_of(definition.section) if field.secret]
            found |= {text for item in value or () for name in secret_names if (text := value_of(item, name))}
        elif definition.secret and value:
            found.add(value)
    return frozenset(map(str, found))


def load_config(environ: Mapping[str, str] | None = None) -> Config:
    """
    Load the configuration file and flavor that the environment selects; retired settings are ignored with a warning.

    Args:
        environ: provides ``DOCKER_REGISTRY_CONFIG``, ``SETTINGS_FLAVOR`` and the variables to which ``_env:`` values
            refer; by default the environment of this process.

    Raises:
        ConfigError: the configuration is invalid; the message is one sentence that names the place and the reason.
    """
    flavor = read_flavor(os.environ if environ is None else environ)
    general = {definition.name: definition for definition in settings_of(Config)}
    storage = _values(flavor, [general["storage"]], flavor.tree).get("storage", Config.storage)
    storage = legacy.DRIVER_NAMES.get(storage, storage)
    optional = _driver_settings(flavor, storage)
    given = dict(flatten(flavor.tree, {**general, **optional}))
    _check_names(flavor, storage, given, {**general, **optional})
    values = {**_values(flavor, general.values(), given), "storage": storage}
    options = _values(flavor, optional.values(), given)
    config = fill(
        Config,
        values,
        flavor=flavor.name,
        path=flavor.path,
        driver_settings=tuple(optional.values()),
        driver_options=MappingProxyType(
            {definition.keyword: options.get(definition.name, definition.default) for definition in optional.values()}
        ),
    )
    if not config.v1 and not config.v2:
        raise ConfigError(f"{flavor}: v1 and v2 are both false: enable at least one API")
    if config.tls.certificate is None and (
        lone := [name for name in values if name.startswith("tls.") and values[name] != general[name].default]
    ):
        raise ConfigError(f"{flavor}: {lone[0]} has no effect without tls.certificate")
    return config


def _driver_settings(flavor: Flavor, storage: str) -> dict[str, Setting]:
    try:
        return {definition.name: definition for definition in drivers.load(storage).settings}
    except ConfigError as error:
        raise ConfigError(f"{flavor}: {error}") from error


def _check_names(flavor: Flavor, storage: str, given: Mapping[str, Any], known: Mapping[str, Setting]) -> None:
    ignored = []
    for name in given:
        if name in known:
            continue
        reason = legacy.reason_ignored(name, storage)
        if reason is None:
            raise ConfigError(f"{flavor}: {_wrong_name(name, known)}")
        if flavor.look_up(given[name]) is not None:
            ignored.append(f"{name} ({reason})")
    if ignored:
        logger.warning("%s: ignored retired settings: %s", flavor, ", ".join(ignored))


def _wrong_name(name: str, known: Mapping[str, Setting]) -> str:
    bare_name = without_value(name)
    if bare_name != name:
        return f"{bare_name} must be followed by a colon and a space"
    members = [known_name.removeprefix(f"{name}.") for known_name in known if known_name.startswith(f"{name}.")]
    if members:
        return f"{name} must be a section with {', '.join(members)}"
    # A bare `smtp_host` should suggest `email_exceptions.smtp_host`.
    nearest = {each.rpartition(".")[2]: each for each in reversed(tuple(known))} | {each: each for each in known}
    return f"there is no setting {name}{did_you_mean(name, nearest)}"


def _values(flavor: Flavor, declared: Iterable[Setting], given: Mapping[str, Any]) -> dict[str, Any]:
    values = {}
    for definition in declared:
        raw = given.get(definition.name)
        text = flavor.look_up(raw)
        if text is None:
            continue
        try:
            values[definition.name] = definition.convert(text)
        except ValueError as error:
            variable_note = f" (from {variable(raw)})" if variable(raw) else ""
            raise ConfigError(f"{flavor}: {definition.name}{variable_note} {error}") from None
    return values
