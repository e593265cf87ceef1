"""
Sections of a configuration file of the CNCF distribution registry whose keys are translated together.

Each function reads the keys of its section, by their dotted names, and sets the settings of this registry that replace
them. It raises :class:`ValueError` if a value is invalid, or has no equivalent here and is dangerous to ignore.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import urlsplit

from docker_registry.config.distribution_keys import DRIVERS, FALSE
from docker_registry.config.distribution_values import address, duration, is_true, seconds, text, texts

_CORS: Final = {
    "access-control-allow-origin": "origins",
    "access-control-allow-methods": "methods",
    "access-control-allow-headers": "headers",
    "access-control-expose-headers": "expose_headers",
    "access-control-allow-credentials": "supports_credentials",
    "access-control-max-age": "max_age",
}

#: An upload_ttl that no upload reaches, for a registry that does not purge uploads.
_NEVER_SECONDS: Final = 100 * 365 * 86400

#: How long a pull-through proxy keeps content by default.
_PROXY_TTL: Final = "168h"


@dataclass(slots=True)
class Translation:
    """
    The settings of this registry into which a file of distribution is translated.

    Attributes:
        settings: by name, nested in sections.
        environment: variables of the server, for keys that are no settings here, such as the port.
        ignored: keys and variables without effect, each with the reason.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)
    ignored: list[str] = field(default_factory=list)

    def set(self, name: str, value: Any) -> None:
        """Set a setting by its dotted name."""
        *sections, last = name.split(".")
        tree = self.settings
        for section in sections:
            tree = tree.setdefault(section, {})
        tree[last] = value


def _driver(given: Mapping[str, Any]) -> str:
    others = {"tag", "delete", "redirect", "cache", "maintenance"}
    drivers = dict.fromkeys(parts[1] for name in given if (parts := name.split("."))[0] == "storage" and len(parts) > 1)
    chosen = [driver for driver in drivers if driver not in others]
    if len(chosen) != 1:
        raise ValueError(f"storage must have exactly one driver, not {', '.join(chosen) or 'none'}")
    if chosen[0] not in DRIVERS:
        raise ValueError(f"storage.{chosen[0]}: there is no such driver")
    return chosen[0]


def _storage(given: dict[str, Any], translation: Translation) -> None:
    driver = _driver(given)
    ours, names = DRIVERS[driver]
    translation.set("storage", ours)
    root = {"file": "/var/lib/registry", "s3": "/", "gcs": "/", "swift": "/"}.get(ours)
    if root:
        translation.set("storage_path", root)
    if ours == "s3":
        translation.set("s3_encrypt", "false")
    for name, setting in names.items():
        value = given.get(f"storage.{driver}.{name}")
        if value not in (None, ""):
            translation.set(setting, value)
    deletes = text(given.get("storage.delete.enabled") or "false")
    for setting in ("delete_tags", "delete_manifests", "delete_blobs"):
        translation.set(setting, deletes)
    is_local = ours in ("file", "memory")
    redirects = not is_local and not is_true(given.get("storage.redirect.disable"))
    translation.set("storage_redirect", str(redirects).lower())
    if ours == "swift" and given.get("storage.swift.domain"):
        for setting in ("swift_user_domain", "swift_project_domain"):
            translation.set(setting, given["storage.swift.domain"])
    if given.get("validation.manifests.indexes.platforms") in ("all", "All"):
        translation.set("check_index_children", "true")


def _cloudfront(given: dict[str, Any], translation: Translation) -> None:
    if is_cloudfront(given.get("middleware.storage")):
        options = given["middleware.storage"][0].get("options") or {}
        if not isinstance(options, dict):
            raise ValueError("middleware.storage.options must be a section")
        settings = {"baseurl": "base", "keypairid": "keyid", "privatekey": "keysecret"}
        for name, value in options.items():
            if name in settings:
                translation.set(f"cloudfront.{settings[name]}", value)
            elif name == "duration":
                translation.set("s3_redirect_seconds", seconds("middleware.storage.options.duration", value))
            else:
                reason = "all clients are redirected to CloudFront"
                translation.ignored.append(f"middleware.storage.options.{name} ({reason})")


def _lists(given: dict[str, Any], translation: Translation) -> None:
    sizes = {name: text(given[name]) for name in ("catalog.maxentries", "tags.maxtags") if given.get(name)}
    if sizes:
        # A size that is not a number wins, so that the check of the setting rejects it.
        largest = max(sizes.values(), key=lambda size: int(size) if size.isdecimal() else math.inf)
        translation.set("max_page_entries", largest)


def is_cloudfront(middleware: Any) -> bool:
    """Return whether the storage middleware is CloudFront alone, which this registry supports."""
    return (
        isinstance(middleware, list)
        and len(middleware) == 1
        and isinstance(middleware[0], dict)
        and middleware[0].get("name") == "cloudfront"
    )


def _maintenance(given: dict[str, Any], translation: Translation) -> None:
    prefix = "storage.maintenance.uploadpurging"
    if text(given.get(f"{prefix}.enabled") or "true") in FALSE or is_true(given.get(f"{prefix}.dryrun")):
        translation.set("upload_ttl", str(_NEVER_SECONDS))
        return
    translation.set("upload_ttl", seconds(f"{prefix}.age", given.get(f"{prefix}.age") or "168h"))
    translation.set("upload_purge_interval", seconds(f"{prefix}.interval", given.get(f"{prefix}.interval") or "24h"))


def _auth(given: dict[str, Any], translation: Translation) -> None:
    kinds = dict.fromkeys(name.split(".")[1] for name in given if name.startswith("auth."))
    if given.get("auth") is not None:
        raise ValueError("auth must be a section with htpasswd or token")
    unknown = [kind for kind in kinds if kind not in ("htpasswd", "token", "none")]
    if unknown:
        raise ValueError(f"auth.{unknown[0]} cannot be honoured. Use htpasswd or token.")
    if len(kinds) > 1:
        raise ValueError(f"auth must have one kind, not {' and '.join(kinds)}")
    if "htpasswd" in kinds:
        if not given.get("auth.htpasswd.path"):
            raise ValueError("auth.htpasswd.path is missing")
        translation.set("auth.challenge", "basic")
    if "token" in kinds and not given.get("auth.token.realm"):
        raise ValueError("auth.token.realm is missing")


def _log(given: dict[str, Any], translation: Translation) -> None:
    level = text(given.get("log.level") or given.get("loglevel") or "info")
    translation.set("loglevel", {"trace": "debug", "fatal": "critical", "panic": "critical"}.get(level, level))
    formatter = text(given.get("log.formatter") or "text")
    translation.set("log_format", "json" if formatter == "logstash" else formatter)
    if is_true(given.get("log.accesslog.disabled")):
        translation.environment["GUNICORN_ACCESS_LOG_FILE"] = "none"


def _http(given: dict[str, Any], translation: Translation) -> None:
    host, port = address("http.addr", given.get("http.addr") or ":5000")
    translation.environment["REGISTRY_HOST"] = host or "0.0.0.0"  # noqa: S104 - distribution's default
    translation.environment["REGISTRY_PORT"] = port
    prefix = text(given.get("http.prefix") or "").strip("/")
    if prefix:
        translation.set("external_url", f"{text(given.get('http.host') or '').rstrip('/')}/{prefix}")
    if drain := given.get("http.draintimeout"):
        translation.environment["GUNICORN_GRACEFUL_TIMEOUT"] = seconds("http.draintimeout", drain)
    if is_true(given.get("http.debug.prometheus.enabled")) and given.get("http.debug.addr"):
        host, port = address("http.debug.addr", given["http.debug.addr"])
        translation.set("metrics_address", f"{host or '0.0.0.0'}:{port}")  # noqa: S104 - distribution's default
    headers = given.get("http.headers") or {}
    if not isinstance(headers, dict):
        raise ValueError("http.headers must be a section")
    for name, value in headers.items():
        lower = str(name).lower()  # None for an empty key
        if lower in _CORS:
            values = texts(f"http.headers.{name}", value)
            is_single = lower in ("access-control-allow-credentials", "access-control-max-age")
            items = [item.strip() for each in values for item in each.split(",")]
            if values:
                translation.set(f"cors.{_CORS[lower]}", values[0] if is_single else items)
        elif lower != "x-content-type-options":  # every response has it
            translation.ignored.append(f"http.headers.{name} (set it in a proxy)")


def _tls(given: dict[str, Any], translation: Translation) -> None:
    authority = _file("http.tls.clientcas", given)
    accepted = {"require-and-verify-client-cert": "required", "verify-client-cert-if-given": "optional"}
    wanted = text(given.get("http.tls.clientauth") or "require-and-verify-client-cert")
    if authority:
        if wanted not in accepted:
            raise ValueError(f"http.tls.clientauth cannot be honoured. Use one of {', '.join(accepted)}.")
        translation.set("tls.client_ca", authority)
        translation.set("tls.client_certificates", accepted[wanted])
    elif given.get("http.tls.clientauth"):
        raise ValueError("http.tls.clientauth has no effect without http.tls.clientcas")
    if given.get("http.tls.minimumtls") and given.get("http.tls.certificate"):
        versions = {"tls1.0": "1.2", "tls1.1": "1.2", "tls1.2": "1.2", "tls1.3": "1.3"}
        version = text(given["http.tls.minimumtls"])
        if version not in versions:
            raise ValueError(f"http.tls.minimumtls must be one of {', '.join(versions)}")
        translation.set("tls.minimum_version", versions[version])
        if version in ("tls1.0", "tls1.1"):
            translation.ignored.append(f"http.tls.minimumtls {version} (the minimum is TLS 1.2)")


def _redis(given: dict[str, Any], translation: Translation) -> None:
    kind = given.get("storage.cache.blobdescriptor") or given.get("storage.cache.layerinfo")
    if kind != "redis":
        return
    addresses = texts("redis.addrs", given.get("redis.addrs") or given.get("redis.addr"))
    if given.get("redis.mastername"):
        translation.set("cache_lru.sentinels", addresses)
        translation.set("cache_lru.sentinel_service", given["redis.mastername"])
    elif len(addresses) != 1:
        raise ValueError("redis.addrs must have one address; a Redis cluster is not supported")
    else:
        host, port = address("redis.addrs", addresses[0])
        translation.set("cache_lru.host", host or "localhost")
        translation.set("cache_lru.port", port)
    names = {"username": "username", "password": "password", "db": "db", "sentinelpassword": "sentinel_password",
             "tls.enabled": "tls"}  # fmt: skip
    for name, setting in names.items():
        if given.get(f"redis.{name}"):
            translation.set(f"cache_lru.{setting}", given[f"redis.{name}"])
    if authority := _file("redis.tls.rootcas", given):
        translation.set("cache_lru.tls", "true")
        translation.set("cache_lru.tls_ca", authority)


def _file(name: str, given: Mapping[str, Any]) -> str | None:
    """Return the only file of a list; None if the list is empty."""
    files = texts(name, given.get(name))
    if len(files) > 1:
        raise ValueError(f"{name} cannot be honoured with several files. Join them into one.")
    return files[0] if files else None


def _proxy(given: dict[str, Any], translation: Translation) -> None:
    """Mirror one registry under the names that its repositories have there."""
    url = text(given.get("proxy.remoteurl") or "")
    if not url:
        return
    name = _upstream_name(url)
    # distribution asks the upstream at each pull of a tag, and keeps content for proxy.ttl after fetching it.
    upstream = {"name": name, "url": url.rstrip("/"), "ttl": "0"}
    if command := given.get("proxy.exec.command"):
        upstream["command"] = text(command)  # instead of a user name and password, as in distribution
    else:
        login = {name: given.get(f"proxy.{name}") for name in ("username", "password")}
        upstream |= {name: text(value) for name, value in login.items() if value}
    translation.set("mirroring.upstreams", [upstream])
    translation.set("mirroring.default", name)
    translation.set("v1", "false")
    kept = text(given.get("proxy.ttl") or _PROXY_TTL)
    if duration("proxy.ttl", kept):  # 0: for ever
        translation.set("mirroring.max_age", seconds("proxy.ttl", kept))


def _upstream_name(url: str) -> str:
    """Return the first part of the names of mirrored repositories: the host of an upstream, with its port."""
    message = "proxy.remoteurl must be http://HOST or https://HOST"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError:
        raise ValueError(message) from None
    if parts.scheme not in ("http", "https") or not host:
        raise ValueError(message)
    if host == "registry-1.docker.io":
        return "docker.io"
    return re.sub("[^a-z0-9.]+", "-", host if port is None else f"{host}-{port}").strip("-.")


#: The sections, in the order in which they are translated.
SECTIONS: Final[tuple[Callable[[dict[str, Any], Translation], None], ...]] = (
    _storage,
    _cloudfront,
    _lists,
    _maintenance,
    _auth,
    _log,
    _http,
    _tls,
    _redis,
    _proxy,
)
