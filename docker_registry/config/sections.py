"""Declares the sections of the configuration, such as ``auth`` and ``mirroring``, and the items of its lists."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field
from pathlib import Path

from docker_registry.settings import setting

# The dataclasses have no generated repr, which could write secrets to a log.


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
    port: int = setting(6379, "Port of the Redis server.", minimum=1, maximum=65535)
    db: int = setting(0, "Redis database number.", minimum=0)
    username: str | None = setting(None, "Redis user name (ACL).")
    password: str | None = setting(None, "Redis password.", secret=True)
    tls: bool = setting(
        False, "Use TLS to connect to `host`, or to the Sentinels and their master; a `url` needs `rediss://`."
    )
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
    smtp_port: int = setting(25, "Port of the mail server.", minimum=1, maximum=65535)
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
        None,
        "URL of another token server, at which clients get tokens. The registry issues no tokens then.",
        form="header",
    )
    service: str | None = setting(
        None, "Name of this registry at the token server; the audience of its tokens.", form="header"
    )
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
    service: str = setting(
        "docker-registry", "Name of this registry in challenges; the audience of its tokens.", form="header"
    )
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
        (), "Origins whose pages may read responses; `*` allows all. CORS is off when empty.", form="word"
    )
    methods: tuple[str, ...] = setting(("GET", "HEAD", "OPTIONS"), "Allowed methods.", form="header")
    headers: tuple[str, ...] = setting(("Content-Type",), "Allowed request headers.", form="header")
    expose_headers: tuple[str, ...] = setting((), "Response headers that pages may read.", form="header")
    supports_credentials: bool = setting(False, "Allow credentials.")
    max_age: int | None = setting(
        None, "Time that browsers may cache the preflight response.", unit="seconds", minimum=0
    )
