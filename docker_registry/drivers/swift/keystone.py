"""Sessions of Keystone, the identity service of OpenStack; they renew their token when it expires."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
from keystoneauth1.identity import generic, v3
from keystoneauth1.noauth import NoAuth
from keystoneauth1.session import Session
from requests.adapters import HTTPAdapter

from docker_registry.errors import ConfigError

#: Size of the connection pool per host. Additional concurrent requests open connections of their own.
_POOL_SIZE = 100


@dataclass(frozen=True, kw_only=True, repr=False)  # a repr would show the password
class Identity:
    """
    Keystone credentials.

    Attributes:
        authurl: URL of Keystone; None for a service without authentication.
        version: ``3`` forces the Identity API v3; otherwise the version that Keystone offers is discovered.
        timeout_seconds: timeout of every request.
    """

    authurl: str | None
    user: str = ""
    password: str = ""
    version: str | None = None
    project: str | None = None
    user_domain: str = "Default"
    project_domain: str = "Default"
    cacert: str | None = None
    insecure: bool = False
    timeout_seconds: float = 60

    def session(self) -> Session:
        """Return a session that greenlets may share."""
        http = requests.Session()
        for scheme in ("http://", "https://"):
            http.mount(scheme, HTTPAdapter(pool_maxsize=_POOL_SIZE))
        verify: bool | str = self.cacert or True
        return Session(
            auth=self._auth(), session=http, verify=False if self.insecure else verify, timeout=self.timeout_seconds
        )

    def _auth(self) -> NoAuth | generic.Password | v3.Password:
        if self.authurl is None:
            return NoAuth()
        plugin = v3.Password if self.version == "3" else generic.Password
        return plugin(
            self.authurl,
            username=self.user,
            password=self.password,
            user_domain_name=self.user_domain,
            project_name=self.project,
            project_domain_name=self.project_domain,
        )


def check_url(setting: str, url: str | None) -> None:
    """
    Check the URL of a service.

    Args:
        setting: its name, for the message.
        url: None where it is not set.

    Raises:
        ConfigError: it is malformed.
    """
    try:
        _ = urlsplit(url or "").port
    except ValueError:
        raise ConfigError(f"{setting} is not a URL") from None
