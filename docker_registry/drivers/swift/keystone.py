"""Sessions of Keystone, OpenStack's door: who asks, and a token that is renewed when it is no longer good."""

from __future__ import annotations

from dataclasses import dataclass

import requests
from keystoneauth1.identity import generic, v3
from keystoneauth1.noauth import NoAuth
from keystoneauth1.session import Session
from requests.adapters import HTTPAdapter

#: So many connections to one host are kept for the next request; more are opened as they are needed.
_POOLED = 100


@dataclass(frozen=True, kw_only=True, repr=False)  # a repr would show the password
class Identity:
    """
    Who asks.

    Attributes:
        authurl: of Keystone; None where the service asks for no token.
        version: ``2`` or ``3``; None takes what Keystone offers.
        timeout_seconds: how long a service may be silent.
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
        """Return a session, which many greenlets may use at once."""
        http = requests.Session()
        for scheme in ("http://", "https://"):
            http.mount(scheme, HTTPAdapter(pool_maxsize=_POOLED))
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
