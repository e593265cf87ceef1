"""
Every key of the configuration of the CNCF distribution registry, and what becomes of it here.

Source: docs/content/about/configuration.md of distribution 3; keys that only 2.8 has are included.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final

SUPPORTED: Final = "supported"
NOT_NEEDED: Final = "not needed"
NOT_SUPPORTED: Final = "not supported"
REFUSED: Final = "prevents the start"


@dataclass(frozen=True, slots=True)
class Key:
    """
    A key of distribution's configuration, or a section whose content is handled as a whole.

    Attributes:
        name: dotted.
        verdict: one of the constants above.
        note: the setting that replaces it, or the reason.
        accepted: values that do not prevent the start, of a key that otherwise does.
    """

    name: str
    verdict: str
    note: str
    accepted: tuple[str, ...] = ()


_TUNING: Final = "Tuning of the other server's implementation."
FALSE: Final = ("false", "no", "off")

#: Keys of the section ``redis`` that tune the client of the other server.
_REDIS_TUNING: Final = (
    "clientname", "protocol", "maxretries", "minretrybackoff", "maxretrybackoff", "dialtimeout", "readtimeout",
    "writetimeout", "contexttimeoutenabled", "poolfifo", "poolsize", "pooltimeout", "minidleconns", "maxidleconns",
    "maxactiveconns", "connmaxidletime", "connmaxlifetime", "maxredirects", "readonly", "routebylatency",
    "routerandomly", "disableidentity", "identitysuffix", "unstableresp3", "pool",
)  # fmt: skip

#: Keys whose values a setting takes as they are: the setting, by the key.
SAME: Final = {
    "auth.htpasswd.path": "auth.htpasswd",
    "auth.token.realm": "auth.token.realm",
    "auth.token.service": "auth.token.service",
    "auth.token.issuer": "auth.token.issuer",
    "auth.token.rootcertbundle": "auth.token.rootcertbundle",
    "auth.token.jwks": "auth.token.jwks",
    "auth.token.signingalgorithms": "auth.token.signingalgorithms",
    "http.host": "external_url",
    "http.tls.certificate": "tls.certificate",
    "http.tls.key": "tls.key",
}

#: The same for storage drivers: our name and the keys, by distribution's name.
DRIVERS: Final[Mapping[str, tuple[str, Mapping[str, str]]]] = {
    "filesystem": ("file", {"rootdirectory": "storage_path"}),
    "inmemory": ("memory", {}),
    "s3": (
        "s3",
        {
            "accesskey": "s3_access_key",
            "secretkey": "s3_secret_key",
            "region": "s3_region",
            "regionendpoint": "s3_endpoint",
            "forcepathstyle": "s3_path_style",
            "bucket": "s3_bucket",
            "encrypt": "s3_encrypt",
            "keyid": "s3_kms_key",
            "secure": "s3_secure",
            "chunksize": "s3_part_bytes",
            "storageclass": "s3_storage_class",
            "rootdirectory": "storage_path",
        },
    ),
    "gcs": (
        "gcs",
        {
            "bucket": "gcs_bucket",
            "keyfile": "gcs_credentials_file",
            "chunksize": "gcs_chunk_bytes",
            "rootdirectory": "storage_path",
        },
    ),
    "azure": (
        "azureblob",
        {
            "accountname": "azure_storage_account_name",
            "accountkey": "azure_storage_account_key",
            "container": "azure_storage_container",
            "rootdirectory": "storage_path",
        },
    ),
    "swift": (
        "swift",
        {
            "authurl": "swift_authurl",
            "username": "swift_user",
            "password": "swift_password",
            "region": "swift_region_name",
            "container": "swift_container",
            "tenant": "swift_tenant_name",
            "authversion": "swift_auth_version",
            "endpointtype": "swift_endpoint_type",
            "chunksize": "swift_segment_bytes",
            "insecureskipverify": "swift_insecure",
            "prefix": "storage_path",
        },
    ),
}


def _each(section: str, names: Iterable[str], verdict: str, note: str, accepted: tuple[str, ...] = ()) -> Iterator[Key]:
    return (Key(f"{section}.{name}", verdict, note, accepted) for name in names)


def _driver_keys() -> Iterator[Key]:
    for driver, (ours, names) in DRIVERS.items():
        if not names:
            yield Key(f"storage.{driver}", SUPPORTED, f"`storage: {ours}`")
        for name, setting in names.items():
            yield Key(f"storage.{driver}.{name}", SUPPORTED, f"`{setting}`")


def _keys() -> Iterator[Key]:
    yield Key("version", SUPPORTED, "`0.1` marks a file of this kind.")
    yield Key("log.accesslog.disabled", SUPPORTED, "`GUNICORN_ACCESS_LOG_FILE=none`")
    yield Key("log.level", SUPPORTED, "`loglevel`")
    yield Key("loglevel", SUPPORTED, "`loglevel`")
    yield Key("log.formatter", SUPPORTED, "`log_format`; `logstash` becomes `json`")
    yield Key("catalog.maxentries", SUPPORTED, "`max_page_entries`, which limits lists of tags too")
    yield Key("tags.maxtags", SUPPORTED, "`max_page_entries`; with `catalog.maxentries`, the larger one")
    yield Key("log.fields", NOT_SUPPORTED, "Add fields in the collector of the logs.")
    yield Key("log.hooks", NOT_SUPPORTED, "`email_exceptions` mails errors.")
    yield Key("log.reportcaller", NOT_NEEDED, "Errors are logged with their traceback.")
    yield from _driver_keys()
    yield Key("storage.filesystem.maxthreads", NOT_NEEDED, _TUNING)
    yield from _each(
        "storage.s3",
        ("v4auth", "multipartcopychunksize", "multipartcopymaxconcurrency", "multipartcopythresholdsize"),
        NOT_NEEDED,
        _TUNING,
    )
    yield from _each(
        "storage.s3", ("loglevel", "useragent"), NOT_NEEDED, "`loglevel: debug` logs requests to the store."
    )
    yield Key("storage.s3.accelerate", NOT_SUPPORTED, "The bucket's usual endpoint is used.")
    yield Key("storage.s3.usedualstack", NOT_SUPPORTED, "Name the endpoint in `s3_endpoint`.")
    yield Key("storage.s3.objectacl", NOT_SUPPORTED, "Objects have the bucket's default, which is private.")
    yield Key("storage.s3.skipverify", REFUSED, "Certificates of the store are always verified.", FALSE)
    yield Key("storage.s3.sessiontoken", REFUSED, "Use a role, or the variable `AWS_SESSION_TOKEN`.", ("",))
    yield Key("storage.s3.usefipsendpoint", REFUSED, "Name the endpoint in `regionendpoint`.", FALSE)
    yield Key("storage.swift.domain", SUPPORTED, "`swift_user_domain`, `swift_project_domain`")
    yield from _each("storage.swift", ("tenantid", "domainid"), REFUSED, "Use `tenant` and `domain`.", ("",))
    yield from _each(
        "storage.swift", ("trustid", "accesskey", "secretkey"), REFUSED, "Use a user name and password.", ("",)
    )
    yield from _each(
        "storage.swift",
        ("tempurlcontainerkey", "tempurlmethods"),
        NOT_SUPPORTED,
        "Set `swift_temp_url_key` in a file of this registry.",
    )
    yield Key(
        "storage.swift.rootdirectory", NOT_NEEDED, "distribution reads `prefix`, although it documents this name."
    )
    yield Key("storage.gcs.credentials", REFUSED, "Put them into a file and name it in `keyfile`.")
    yield Key("storage.gcs.maxconcurrency", NOT_NEEDED, _TUNING)
    yield Key("storage.azure.credentials", REFUSED, "Use `accountkey`.")
    yield Key("storage.azure.realm", REFUSED, "Use `azure_endpoint`.", ("core.windows.net",))
    yield Key("storage.azure.serviceurl", REFUSED, "Use `azure_endpoint`.", ("",))
    yield from _each(
        "storage.azure",
        ("max_retries", "retry_delay", "copy_status_poll_max_retry", "copy_status_poll_delay"),
        NOT_NEEDED,
        _TUNING,
    )
    yield Key("storage.oss", REFUSED, "There is no such driver.")
    yield Key("storage.tag.concurrencylimit", NOT_NEEDED, _TUNING)
    yield Key("storage.delete.enabled", SUPPORTED, "`delete_tags`, `delete_manifests`, `delete_blobs`; default `false`")
    yield Key("storage.redirect.disable", SUPPORTED, "`storage_redirect`, the opposite; default `false`")
    yield Key("storage.cache.blobdescriptor", SUPPORTED, "`redis`: `cache_lru`; `inmemory` is not needed")
    yield Key("storage.cache.layerinfo", SUPPORTED, "As `blobdescriptor`.")
    yield Key("storage.cache.blobdescriptorsize", NOT_NEEDED, _TUNING)
    yield Key("storage.maintenance.uploadpurging.enabled", SUPPORTED, "`false`: `upload_ttl` of 100 years")
    yield Key("storage.maintenance.uploadpurging.age", SUPPORTED, "`upload_ttl`")
    yield Key("storage.maintenance.uploadpurging.interval", SUPPORTED, "`upload_purge_interval`; default 24 h")
    yield Key("storage.maintenance.uploadpurging.dryrun", SUPPORTED, "`true`: as `enabled: false`")
    yield Key("storage.maintenance.readonly.enabled", REFUSED, "Use `docker-registry readonly on`.", FALSE)
    yield Key("auth.silly", REFUSED, "It accepts any credentials.")
    yield Key("auth.none", NOT_NEEDED, "There is no authentication by default.")
    yield Key(
        "auth.htpasswd.realm", NOT_NEEDED, "Clients show no realm. Passwords are asked for: `auth.challenge: basic`."
    )
    yield Key("auth.htpasswd.path", SUPPORTED, "`auth.htpasswd`")
    yield from _each(
        "auth.token",
        ("realm", "service", "issuer", "rootcertbundle", "jwks", "signingalgorithms"),
        SUPPORTED,
        "The setting of the same name.",
    )
    yield Key("auth.token.autoredirect", REFUSED, "Name the token server in `realm`.", FALSE)
    yield Key("auth.token.autoredirectpath", NOT_NEEDED, "See `autoredirect`.")
    yield Key("middleware.registry", REFUSED, "Middleware is code of the other server.", ("[]",))
    yield Key("middleware.repository", REFUSED, "Middleware is code of the other server.", ("[]",))
    yield Key("middleware.storage", REFUSED, "Use `cloudfront` or `storage_redirect`.", ("[]",))
    yield Key("http.addr", SUPPORTED, "`REGISTRY_HOST`, `REGISTRY_PORT`")
    yield Key("http.net", REFUSED, "Unix sockets: `GUNICORN_OPTS='--bind unix:PATH'`.", ("tcp",))
    yield Key("http.prefix", SUPPORTED, "The path of `external_url`")
    yield Key("http.host", SUPPORTED, "`external_url`")
    yield Key("http.secret", NOT_NEEDED, "Upload URLs carry no signed state; any worker and host continues an upload.")
    yield Key("http.relativeurls", NOT_NEEDED, "Locations are always relative.")
    yield Key("http.draintimeout", SUPPORTED, "`GUNICORN_GRACEFUL_TIMEOUT`")
    yield Key("http.tls.certificate", SUPPORTED, "`tls.certificate`")
    yield Key("http.tls.key", SUPPORTED, "`tls.key`")
    yield Key("http.tls.clientcas", SUPPORTED, "`tls.client_ca`; several files prevent the start: join them")
    yield Key(
        "http.tls.clientauth", SUPPORTED,
        "`tls.client_certificates`; values that accept unverified certificates prevent the start",
    )  # fmt: skip
    yield Key("http.tls.minimumtls", SUPPORTED, "`tls.minimum_version`; at least 1.2")
    yield Key("http.tls.ciphersuites", REFUSED, "OpenSSL's default suites are used.", ("[]",))
    yield Key("http.tls.letsencrypt", REFUSED, "Use certbot or a proxy such as Caddy.")
    yield Key("http.debug.addr", SUPPORTED, "`metrics_address`, if `prometheus` is enabled")
    yield Key("http.debug.prometheus.enabled", SUPPORTED, "`metrics_address`")
    yield Key("http.debug.prometheus.path", NOT_SUPPORTED, "The path is `/metrics`.")
    yield Key(
        "http.headers", SUPPORTED, "CORS headers: `cors`; `X-Content-Type-Options` is not needed; others are ignored"
    )
    yield Key("http.http2.disabled", NOT_NEEDED, "The server speaks HTTP/1.1; a proxy may speak HTTP/2.")
    yield Key("http.h2c.enabled", NOT_SUPPORTED, "The server speaks HTTP/1.1.")
    yield Key("notifications", NOT_SUPPORTED, "No notification is sent; `audit_log` records changes.")
    for name, setting in (("addr", "host"), ("addrs", "host"), ("username", "username"), ("password", "password"),
                          ("db", "db")):  # fmt: skip
        yield Key(f"redis.{name}", SUPPORTED, f"`cache_lru.{setting}`, with `blobdescriptor: redis`")
    yield Key("redis.mastername", SUPPORTED, "`cache_lru.sentinel_service`; `addrs` then become `cache_lru.sentinels`")
    yield Key("redis.sentinelpassword", SUPPORTED, "`cache_lru.sentinel_password`")
    yield Key("redis.sentinelusername", NOT_SUPPORTED, "Sentinels are asked with a password alone.")
    yield Key("redis.tls.enabled", SUPPORTED, "`cache_lru.tls`")
    yield Key("redis.tls.rootcas", SUPPORTED, "`cache_lru.tls_ca`, with `cache_lru.tls`")
    yield from _each("redis.tls", ("certificate", "key"), NOT_SUPPORTED, "No client certificate is sent.")
    yield from _each("redis", _REDIS_TUNING, NOT_NEEDED, _TUNING)
    yield Key("health.storagedriver", NOT_NEEDED, "`/readyz` reads the store every 10 s and fails after 3 failures.")
    yield from _each("health", ("file", "http", "tcp"), NOT_SUPPORTED, "Health covers this server and its store.")
    yield Key(
        "proxy.remoteurl", SUPPORTED,
        "`mirroring.upstreams`, `mirroring.default`: the registry [mirrors it as a whole](mirrors.md#a-whole-registry)",
    )  # fmt: skip
    yield from _each("proxy", ("username", "password"), SUPPORTED, "The upstream's key of the same name; by https only")
    yield Key("proxy.exec.command", SUPPORTED, "The upstream's `command`, a credential helper of Docker")
    yield Key("proxy.exec.lifetime", NOT_NEEDED, "The helper is asked again after 5 minutes, or when a password fails.")
    yield Key("proxy.ttl", SUPPORTED, "`mirroring.max_age`, from the last pull; default 168 h; `0`: for ever")
    yield Key("proxy.cachewritetimeout", NOT_NEEDED, _TUNING)
    yield Key("proxy.remotenamespace", REFUSED, "Repositories keep the names that they have there.", ("",))
    yield Key("validation.enabled", NOT_NEEDED, "Manifests are always validated.")
    yield Key("validation.disabled", NOT_NEEDED, "Manifests are always validated.")
    yield Key("validation.manifests.urls", NOT_SUPPORTED, "URLs of foreign layers are accepted.")
    yield Key("validation.manifests.indexes.platforms", SUPPORTED, "`check_index_children`, for `all`")
    yield Key("validation.manifests.indexes.platformlist", NOT_SUPPORTED, "See `platforms`.")
    yield Key("compatibility", NOT_NEEDED, "Schema 1 is served if it is stored.")
    yield Key("policy", NOT_SUPPORTED, "Classes of repositories are no part of the specification.")
    yield Key("reporting", NOT_SUPPORTED, "See `bugsnag` and `sentry_dsn`.")


#: All keys by name.
KEYS: Final = {key.name: key for key in _keys()}


def table() -> str:
    """Render the table of all keys in Markdown."""
    lines = ["| Key | In this registry | How, or why not |", "| --- | --- | --- |"]
    for key in KEYS.values():
        verdict = key.verdict
        if accepted := [f"`{value}`" for value in key.accepted if value not in ("", "[]")]:
            verdict += f", except {accepted[0]}"
        lines.append(f"| `{key.name}` | {verdict} | {key.note} |")
    return "\n".join(lines) + "\n"
