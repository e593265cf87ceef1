"""
Declares all settings of the registry, and loads and checks their values.

:mod:`docker_registry.config.flavors` reads the configuration file, and :mod:`docker_registry.settings` defines the type
of a setting. Only :mod:`~docker_registry.services`, :mod:`~docker_registry.cli`, :mod:`~docker_registry.wsgi` and
:mod:`~docker_registry.config.render` import this module; all other parts receive values.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any

from docker_registry import drivers
from docker_registry.config import legacy
from docker_registry.config.flavors import DEFAULT_FLAVOR, Flavor, did_you_mean, read_flavor, variable
from docker_registry.errors import ConfigError
from docker_registry.settings import Setting, fill, flatten, setting, settings_of, without_value

logger = logging.getLogger(__name__)


# The dataclasses below have no generated repr, which could write secrets to a log.


@dataclass(frozen=True, kw_only=True, repr=False)
class MirrorUpstream:
    """An upstream: a registry whose repositories are mirrored under its name."""

    name: str = setting(MISSING, "First component of the names of its repositories here, such as `docker.io`.")
    url: str = setting(MISSING, "URL at which it serves API V2, such as `https://registry-1.docker.io`.")
    username: str | None = setting(None, "User name at the upstream; anonymous access without it.")
    password: str | None = setting(None, "Password or token at the upstream.", secret=True)
    password_file: Path | None = setting(None, "File with the password, read whenever it is needed.")  # noqa: RUF009
    command: str | None = setting(
        None, "Credential helper of Docker, such as `docker-credential-ecr-login`, instead of a user name and password."
    )
    token_hosts: tuple[str, ...] = setting(
        (), "Hosts whose token servers may receive the password, besides those of the upstream's own domain."
    )
    ca: Path | None = setting(None, "PEM file of the certificate authorities that sign the upstream's certificate.")  # noqa: RUF009
    client_cert: Path | None = setting(None, "PEM file with a certificate and its key for the upstream.")  # noqa: RUF009
    insecure: bool = setting(False, "Send the password by plain HTTP too, and do not verify certificates.")
    allow: tuple[str, ...] = setting(
        (), "Patterns of the repositories that are mirrored, by their names at the upstream; all when empty."
    )
    deny: tuple[str, ...] = setting((), "Patterns of repositories that are not mirrored, even if `allow` names them.")
    platforms: tuple[str, ...] = setting(
        (), "Platforms of which images are fetched, such as `linux/amd64` or `linux/arm/v7`; all when empty."
    )
    ttl: int = setting(300, "Time a tag is served before the upstream is asked again.", unit="seconds", minimum=0)
    timeout: int = setting(30, "Time in which the upstream must connect or send something.", unit="seconds", minimum=1)
    max_connections: int = setting(
        32, "Blobs that a worker receives from the upstream at the same time.", unit="blobs", minimum=1
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Mirroring:
    """The registries that this one mirrors."""

    source: str | None = setting(
        None, "V1: URL of the registry from which missing images are served to clients of API V1; none when unset."
    )
    source_index: str | None = setting(None, "V1: URL of the index of `source`, if it differs.")
    tags_cache_ttl: int = setting(
        172800, "V1: time for which tags of `source` are served before it is asked again.", unit="seconds", minimum=0
    )
    hosts: Mapping[str, str] | None = setting(
        None, "Upstreams by the `Host` header of the requests that mean them, such as `{hub.example.com: docker.io}`."
    )
    default: str | None = setting(
        None,
        "Name of the upstream for requests for which neither `ns` nor `hosts` decides: the whole registry then mirrors "
        "it, and nothing can be pushed. Needs `v1: false`.",
    )
    own_names: tuple[str, ...] = setting(
        (), "Values of `ns`, besides the host of `external_url`, by which clients mean this registry itself."
    )
    offline: bool = setting(False, "Never ask an upstream; serve what the store has.")
    max_bytes: int | None = setting(
        None,
        "Limit for mirrored content; the least recently pulled is evicted. No limit when unset.",
        unit="bytes",
        minimum=1,
    )
    max_age: int | None = setting(
        None,
        "Time after its last pull at which mirrored content is evicted; at least 10 minutes. No limit when unset.",
        unit="seconds",
        minimum=600,
    )
    upstreams: tuple[MirrorUpstream, ...] = setting(
        (), "Registries to mirror, each a section; [mirrors.md](mirrors.md#upstreams) lists its keys."
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Redis:
    """Address and credentials of a Redis server."""

    host: str | None = setting(
        None, "Host name of the Redis server. Redis is off unless this, `url` or `sentinels` is set."
    )
    port: int = setting(6379, "Port of the Redis server.", minimum=1)
    db: int = setting(0, "Redis database number.", minimum=0)
    username: str | None = setting(None, "Redis user name (ACL).")
    password: str | None = setting(None, "Redis password.", secret=True)
    tls: bool = setting(False, "Use TLS to connect to `host`, or to the master that the Sentinels name.")
    tls_ca: Path | None = setting(None, "PEM file of the certificate authorities that sign the server's certificate.")  # noqa: RUF009
    url: str | None = setting(
        None,
        "URL that replaces `host`: `redis://HOST:PORT/DB`, `rediss://…` for TLS, or `unix:///PATH?db=DB`.",
        secret=True,
    )
    sentinels: tuple[str, ...] = setting((), "Sentinels that replace `host`, each as `HOST:PORT`.")
    sentinel_service: str = setting("mymaster", "Name of the master in Sentinel.")
    sentinel_password: str | None = setting(None, "Password of the Sentinels.", secret=True)


@dataclass(frozen=True, kw_only=True, repr=False)
class Cache(Redis):
    """The Redis server for state that workers share."""

    host: str | None = setting(
        None, "Host of the Redis server for state shared by workers. Off unless this, `url` or `sentinels` is set."
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class CacheLru(Redis):
    """A Redis server that caches small files of the store; it should evict the least recently used keys."""

    host: str | None = setting(
        None,
        "Host of the Redis server that caches small files of the store. Off unless this, `url` or `sentinels` is set.",
    )
    max_bytes: int = setting(65536, "Largest file to cache.", unit="bytes", minimum=0)


@dataclass(frozen=True, kw_only=True, repr=False)
class EmailExceptions:
    """Mail notifications of unexpected errors."""

    smtp_host: str | None = setting(None, "Host of the mail server. No mail is sent when unset.")
    smtp_port: int = setting(25, "Port of the mail server.", minimum=1)
    smtp_login: str | None = setting(None, "User name for the mail server; no authentication without it.")
    smtp_password: str | None = setting(None, "Password for the mail server.", secret=True)
    smtp_secure: str = setting(
        "false", "`true` requires STARTTLS; the path of a PEM file with a key and a certificate also sends these."
    )
    smtp_ca: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "PEM file with the certificates that sign the mail server's; those of the system when unset."
    )
    from_addr: str = setting("docker-registry@localdomain.local", "Sender address.")
    to_addr: str = setting("noise+dockerregistry@localdomain.local", "Recipient addresses, separated by commas.")


@dataclass(frozen=True, kw_only=True, repr=False)
class TokenServer:
    """An external token server, whose tokens replace the registry's own; like `auth.token` of distribution."""

    realm: str | None = setting(
        None, "URL of another token server, at which clients get tokens. The registry issues no tokens then."
    )
    service: str | None = setting(None, "Name of this registry at the token server; the audience of its tokens.")
    issuer: str | None = setting(None, "Issuer of the tokens.")
    rootcertbundle: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "PEM file of the certificates or public keys that sign the tokens. Reloaded when it changes."
    )
    jwks: str | None = setting(
        None,
        "JSON Web Key Set that replaces `rootcertbundle`: a file, reloaded when it changes, or an `https://` URL, "
        "fetched every hour.",
    )
    ca: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "PEM file of the certificate authorities for the URL of `jwks`; those of the system when unset."
    )
    signingalgorithms: tuple[str, ...] = setting(
        (), "Accepted algorithms, such as `ES256`; all with public keys when empty."
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Issuer:
    """An OpenID Connect issuer whose tokens authenticate workloads, such as CI jobs."""

    issuer: str = setting(MISSING, "URL of the issuer, the claim `iss`.")
    audience: str = setting(MISSING, "What its tokens must have as `aud`.")
    match: Mapping[str, str] = setting(MISSING, "Patterns of claims that must all match, such as `sub: repo:acme/**`.")
    as_: str = setting("${sub}", "Name of the workload in rules; `${claim}` stands for a claim.")
    groups: str | None = setting(None, "Claim with the groups of the workload; rules name them as `@group`.")
    ca: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "PEM file of the certificate authorities for the issuer; those of the system when unset."
    )
    jwks_file: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "JSON Web Key Set of the issuer, instead of its discovery document. Reloaded when it changes."
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Ldap:
    """An LDAP directory whose users may log in, in addition to those of `auth.htpasswd`."""

    url: str | None = setting(
        None, "URL of an LDAP directory, `ldaps://HOST` or `ldap://HOST`, whose users may log in."
    )
    starttls: bool = setting(False, "Use StartTLS with `ldap://`.")
    insecure: bool = setting(False, "Send passwords to `ldap://` in clear.")
    ca: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "PEM file of the certificate authorities for the directory; those of the system when unset."
    )
    bind_dn: str | None = setting(None, "DN of the account that searches; anonymous searches without it.")
    bind_password: str | None = setting(None, "Password of `bind_dn`.", secret=True)
    bind_password_file: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "File with the password of `bind_dn`, read whenever it is needed."
    )
    user_base: str | None = setting(None, "DN below which users are searched.")
    user_filter: str = setting("(uid={user})", "Filter that finds a user.")
    group_base: str | None = setting(None, "DN below which groups are searched. Without it users have no groups.")
    group_filter: str = setting("(member={dn})", "Filter that finds the groups of a user, with `{dn}` or `{user}`.")
    group_name: str = setting("cn", "Attribute with the name of a group, which rules name as `@group`.")


@dataclass(frozen=True, kw_only=True, repr=False)
class Auth:
    """Access control; the registry is open to everyone unless a setting names users or rules."""

    htpasswd: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "File of users with bcrypt hashes, in the format of Apache's htpasswd. Reloaded when it changes."
    )
    rules: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None,
        "YAML file of access rules. Without it users may do everything, and anonymous clients nothing. Reloaded when "
        "it changes.",
    )
    certificate_name: str | None = setting(
        None,
        "Name of the user of a client certificate, such as `${cn}` or `host/${dns}`; needs `tls.client_ca`. Client "
        "certificates are no identity when unset.",
    )
    challenge: str = setting(
        "bearer", "How clients are asked to authenticate: by tokens, or by passwords.", choices=("bearer", "basic")
    )
    service: str = setting("docker-registry", "Name of this registry in challenges; the audience of its tokens.")
    issuer: str = setting("docker-registry", "Issuer of its tokens.")
    token_seconds: int = setting(300, "Lifetime of an access token.", unit="seconds", minimum=60)
    algorithm: str = setting("ES256", "Algorithm of new keys that sign tokens.", choices=("ES256", "RS256"))
    key_rotation: int = setting(
        7776000, "Age at which a signing key is replaced; it stays valid for another day.", unit="seconds", minimum=3600
    )
    token: TokenServer = field(default_factory=TokenServer)
    ldap: Ldap = field(default_factory=Ldap)
    oidc: tuple[Issuer, ...] = setting(
        (),
        "OpenID Connect issuers whose tokens are accepted as passwords at the token endpoint: a list of `issuer`, "
        "`audience`, `match`, `as`, `groups`, `ca`, `jwks_file`.",
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Tls:
    """TLS at the registry's own sockets; off unless `certificate` is set. The files are reloaded when they change."""

    certificate: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "PEM file of the server's certificate, followed by its intermediates. Turns TLS on."
    )
    key: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "PEM file of its private key, not encrypted. When unset, `tls.certificate` contains it."
    )
    minimum_version: str = setting("1.2", "Oldest version of TLS that is accepted.", choices=("1.2", "1.3"))
    client_ca: Path | None = setting(  # noqa: RUF009 - a declaration, like the others
        None, "PEM file of the certificate authorities whose client certificates are accepted."
    )
    client_certificates: str = setting(
        "required", "With `tls.client_ca`: whether clients need a certificate.", choices=("required", "optional")
    )


@dataclass(frozen=True, kw_only=True, repr=False)
class Cors:
    """Cross-origin access to responses by web pages (Fetch standard, "CORS protocol")."""

    origins: tuple[str, ...] = setting(
        (), "Origins whose pages may read responses; `*` allows all. CORS is off when empty."
    )
    methods: tuple[str, ...] = setting(("GET", "HEAD", "OPTIONS"), "Allowed methods.")
    headers: tuple[str, ...] = setting(("Content-Type",), "Allowed request headers.")
    expose_headers: tuple[str, ...] = setting((), "Response headers that pages may read.")
    supports_credentials: bool = setting(False, "Allow credentials.")
    max_age: int | None = setting(
        None, "Time that browsers may cache the preflight response.", unit="seconds", minimum=0
    )


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
        None, "Prefix of an internal nginx location for the store; nginx then sends blobs (X-Accel-Redirect)."
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
        None, "V1: value of X-Docker-Endpoints. The Host of the request when unset."
    )
    serve_private: bool = setting(
        False, "V1: serve private repositories to everyone; `false` hides them from everyone."
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
    declared = [(definition, _look_up(config, definition.name)) for definition in settings_of(Config)]
    declared += [(each, config.driver_options.get(each.keyword)) for each in config.driver_settings]
    found: set[object] = set()
    for definition, value in declared:
        if definition.section is not None:
            secret_names = [field.name for field in settings_of(definition.section) if field.secret]
            found |= {text for item in value or () for name in secret_names if (text := _look_up(item, name))}
        elif definition.secret and value:
            found.add(value)
    return frozenset(map(str, found))


def _look_up(section: object, name: str) -> Any:
    for part in name.split("."):
        section = getattr(section, part)
    return section


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
