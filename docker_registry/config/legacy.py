"""
Settings of docker-registry 0.6 to 0.9 that are renamed or ignored.

They are accepted so that old configuration files still work; one warning lists those that are ignored.
"""

from __future__ import annotations

from typing import Final

#: Old names of drivers, and their present names.
DRIVER_NAMES: Final = {"local": "file"}

_CORS = "CORS works the same way everywhere"
_EMAIL = "it is in the section email_exceptions"
_MIRROR = "it is in the section mirroring"

#: Settings without effect, and the reason.
RETIRED: Final = {
    "boto_debug": "loglevel: debug tells more",
    "cors.always_send": _CORS,
    "cors.automatic_options": _CORS,
    "cors.resources": _CORS,
    "cors.send_wildcard": _CORS,
    "cors.vary_header": _CORS,
    "debug": "loglevel: debug tells more",
    "debug_versions": "no page tells versions",
    "extensions": "no extension is loaded",
    "from_addr": _EMAIL,
    "issue": "no page shows it",
    "secret_key": "no cookies are sent",
    "smtp_host": _EMAIL,
    "smtp_login": _EMAIL,
    "smtp_password": _EMAIL,
    "smtp_port": _EMAIL,
    "smtp_secure": _EMAIL,
    "source": _MIRROR,
    "source_index": _MIRROR,
    "tags_cache": _MIRROR,
    "to_addr": _EMAIL,
}

#: Settings of drivers, which 0.6 declared under ``common``; ignored unless the chosen driver declares them.
DRIVER_SETTINGS: Final = frozenset(
    """
    azure_storage_account_key azure_storage_account_name azure_storage_container azure_use_https
    boto_bucket boto_calling_format boto_host boto_port boto_proxy boto_proxy_pass boto_proxy_port boto_proxy_user
    boto_secure cloudfront
    elliptics_addr_family elliptics_check_timeout elliptics_groups elliptics_io_thread_num elliptics_logfile
    elliptics_net_thread_num elliptics_nodes elliptics_nonblocking_io_thread_num elliptics_verbosity
    elliptics_wait_timeout
    gs_access_key gs_secret_key gs_secure oauth2
    oss_accessid oss_accesskey oss_bucket oss_host
    s3_access_key s3_bucket s3_encrypt s3_host s3_region s3_secret_key s3_secure s3_use_sigv4
    storage_alternate storage_path
    swift_auth_version swift_authurl swift_container swift_password swift_region_name swift_tenant_name swift_user
    """.split()  # noqa: SIM905 - more readable than fifty quoted lines
)

#: The settings of docker-registry 0.7.1 with their environment variables; empty where it read none.
SETTINGS_OF_0_7_1: Final = {
    "loglevel": "LOGLEVEL",
    "storage": "",
    "storage_alternate": "GLANCE_STORAGE_ALTERNATE",
    "storage_path": "STORAGE_PATH",
    "storage_redirect": "STORAGE_REDIRECT",
    "nginx_x_accel_redirect": "",
    "standalone": "STANDALONE",
    "index_endpoint": "INDEX_ENDPOINT",
    "disable_token_auth": "DISABLE_TOKEN_AUTH",
    "privileged_key": "PRIVILEGED_KEY",
    "registry_endpoints": "",
    "search_backend": "SEARCH_BACKEND",
    "sqlalchemy_index_database": "SQLALCHEMY_INDEX_DATABASE",
    "mirroring.source": "MIRROR_SOURCE",
    "mirroring.source_index": "MIRROR_SOURCE_INDEX",
    "mirroring.tags_cache_ttl": "MIRROR_TAGS_CACHE_TTL",
    "cache.host": "CACHE_REDIS_HOST",
    "cache.port": "CACHE_REDIS_PORT",
    "cache.db": "",
    "cache.password": "CACHE_REDIS_PASSWORD",
    "cache_lru.host": "CACHE_LRU_REDIS_HOST",
    "cache_lru.port": "CACHE_LRU_REDIS_PORT",
    "cache_lru.db": "",
    "cache_lru.password": "CACHE_LRU_REDIS_PASSWORD",
    "email_exceptions.smtp_host": "SMTP_HOST",
    "email_exceptions.smtp_port": "SMTP_PORT",
    "email_exceptions.smtp_login": "SMTP_LOGIN",
    "email_exceptions.smtp_password": "SMTP_PASSWORD",
    "email_exceptions.smtp_secure": "SMTP_SECURE",
    "email_exceptions.from_addr": "SMTP_FROM_ADDR",
    "email_exceptions.to_addr": "SMTP_TO_ADDR",
    "bugsnag": "BUGSNAG",
    "boto_bucket": "AWS_BUCKET",
    "boto_debug": "",
    "boto_host": "",
    "boto_port": "",
    "boto_proxy": "",
    "boto_proxy_pass": "",
    "boto_proxy_port": "",
    "boto_proxy_user": "",
    "boto_secure": "",
    "s3_access_key": "AWS_KEY",
    "s3_bucket": "AWS_BUCKET",
    "s3_encrypt": "AWS_ENCRYPT",
    "s3_region": "AWS_REGION",
    "s3_secret_key": "AWS_SECRET",
    "s3_secure": "AWS_SECURE",
    "cloudfront.base": "",
    "cloudfront.keyid": "",
    "cloudfront.keysecret": "",
    "gs_access_key": "GCS_KEY",
    "gs_secret_key": "GCS_SECRET",
    "gs_secure": "GCS_SECURE",
    "oauth2": "GCS_OAUTH2",
    "swift_authurl": "OS_AUTH_URL",
    "swift_container": "OS_CONTAINER",
    "swift_password": "OS_PASSWORD",
    "swift_region_name": "OS_REGION_NAME",
    "swift_tenant_name": "OS_TENANT_NAME",
    "swift_user": "OS_USERNAME",
    "elliptics_addr_family": "ELLIPTICS_ADDR_FAMILY",
    "elliptics_check_timeout": "ELLIPTICS_CHECK_TIMEOUT",
    "elliptics_groups": "ELLIPTICS_GROUPS",
    "elliptics_io_thread_num": "ELLIPTICS_IO_THREAD_NUM",
    "elliptics_logfile": "ELLIPTICS_LOGFILE",
    "elliptics_net_thread_num": "ELLIPTICS_NET_THREAD_NUM",
    "elliptics_nodes": "ELLIPTICS_NODES",
    "elliptics_verbosity": "ELLIPTICS_VERBOSITY",
    "elliptics_wait_timeout": "ELLIPTICS_WAIT_TIMEOUT",
}

#: Prefixes of settings whose driver does not exist any more, and the reason.
ABANDONED: Final = {
    "elliptics_": "neither a server nor a client of Elliptics is published any more; a driver of your own may read it",
}

_HMAC = "HMAC keys are no longer used: name the JSON key of a service account in gcs_credentials_file"

#: Settings that a driver has replaced, with the hint that is printed.
REPLACED: Final = {
    "gcs": {
        "gs_access_key": _HMAC,
        "gs_secret_key": _HMAC,
        "gs_secure": "it is always TLS, but where gcs_endpoint is http://…",
        "oauth2": "google-auth finds credentials by itself when gcs_credentials_file is not set",
    },
}


def reason_ignored(name: str, storage: str) -> str | None:
    """
    Return why an undeclared setting may be ignored; None if it is unknown.

    Args:
        name: name of the setting.
        storage: name of the chosen driver.
    """
    if name in REPLACED.get(storage, ()):
        return REPLACED[storage][name]
    if name in DRIVER_SETTINGS:
        return f"the driver {storage} does not take it"
    return RETIRED.get(name)
