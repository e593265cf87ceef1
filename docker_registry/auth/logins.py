"""Logins: identifies clients by a password, the token of a robot or workload, or a certificate."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

from docker_registry.auth.client import Client
from docker_registry.auth.external.client_certificates import ClientCertificates
from docker_registry.auth.external.ldap import LdapUsers
from docker_registry.auth.external.workloads import Workloads
from docker_registry.auth.external.workloads import is_token as is_workload_token
from docker_registry.auth.users import htpasswd
from docker_registry.auth.users.attempts import Attempts, network_of
from docker_registry.auth.users.passwords import Passwords
from docker_registry.auth.users.robots import PREFIX as ROBOT_PREFIX
from docker_registry.auth.users.robots import Robot, Robots
from docker_registry.auth.users.robots import is_token as is_robot_token
from docker_registry.auth.watched_file import WatchedFile
from docker_registry.errors import Unauthorized
from docker_registry.http.clients import Address

logger = logging.getLogger(__name__)

#: Number of groups of a workload above which its access token contains only those that rules name: it must fit into a
#: header. Entra ID (`groups`) and GitLab (`groups_direct`) name up to 200.
MANY_GROUPS: Final = 100


class Logins:
    """
    All ways to log in.

    Attributes:
        robots: None if robots cannot log in.
        workloads: None if workloads cannot log in.
        identifies_certificates: whether a client certificate identifies its user, so that :meth:`identify` may be used.
    """

    def __init__(
        self,
        htpasswd_file: Path | None = None,
        *,
        groups: Callable[[], frozenset[str]] = frozenset,
        on_reload: Callable[[str], object] = lambda _: None,
        robots: Robots | None = None,
        workloads: Workloads | None = None,
        attempts: Attempts | None = None,
        certificates: ClientCertificates | None = None,
        ldap: LdapUsers | None = None,
    ) -> None:
        """
        Args:
            htpasswd_file: users and their bcrypt hashes; None for no users.
            groups: returns the groups that rules name; all other groups of a directory's user are dropped, and of a
                workload with many.
            on_reload: called with a sentence when the file was reloaded.
            attempts: limits failed logins; by default those of this process.
            certificates: derives user names from client certificates; None if these do not identify users.
            ldap: users of a directory, besides those of the file; None if there are none.

        Raises:
            ConfigError: the file cannot be read or used.
        """
        self._users = (
            None if htpasswd_file is None else WatchedFile(htpasswd_file, htpasswd.parse, on_reload, "auth.htpasswd")
        )
        self._groups = groups
        self._attempts = Attempts() if attempts is None else attempts
        self._passwords = Passwords(self.users, attempts=self._attempts)
        self._certificates = certificates
        self._ldap = ldap
        self.robots = robots
        self.workloads = workloads
        self.identifies_certificates = certificates is not None
        self._names_by_lower: tuple[Mapping[str, bytes], Mapping[str, list[str]]] = ({}, {})

    def users(self) -> Mapping[str, bytes]:
        """Return the current bcrypt hashes, by user name."""
        return {} if self._users is None else self._users.get()

    def log_in(self, name: str, password: str, address: Address | None, *, for_token: bool = False) -> Client:
        """
        Return the client that a name and a password belong to.

        If the password is the token of a robot or workload, the name is ignored. With a directory, names are not
        case-sensitive.

        Args:
            for_token: whether the client requests an access token, for which it may present the token of a workload.

        Raises:
            Unauthorized: the name or the password is wrong.
            TooManyAttempts: too many logins failed.
            AuthorityUnavailable: the keys of the workload's issuer, or the LDAP directory, cannot be used.
        """
        if for_token and self.workloads is not None and is_workload_token(password):
            return self._log_in_workload(self.workloads, password, address)
        if self.robots is not None and is_robot_token(password):
            robot = self.robots.verify(password)
            if robot is None:
                logger.warning("login failed: robot token of user %.64r from %s", name, address)
                raise Unauthorized("The robot token is not valid: it is unknown, revoked or expired.")
            return _client_of(robot, address)
        if self._ldap is not None:
            names = self._names_in_file(name)
            if not names:
                return self._log_in_ldap(self._ldap, name, password, address)
            if len(names) == 1:
                name = names[0]
            # Otherwise the file has no user of exactly this name, so the password is rejected.
        if not self._passwords.verify(name, password, address):
            raise _wrong_password(name, address)
        return self.client(name, address)

    def _log_in_ldap(self, ldap: LdapUsers, given: str, password: str, address: Address | None) -> Client:
        name = given.lower()
        groups = ldap.recall(given, password)
        if groups is None:
            check = partial(self._attempts.check, name, address)
            fail = partial(self._attempts.fail, name, address)
            groups = ldap.verify(given, password, network=network_of(address), check=check, fail=fail)
            if groups is None:
                raise _wrong_password(name, address)
        return Client(name, groups & self._groups(), address, version=ldap.version)

    def _log_in_workload(self, workloads: Workloads, text: str, address: Address | None) -> Client:
        try:
            found = workloads.verify(text)
            if found.name in self.users():
                raise Unauthorized("The token is not valid: it has the name of a user.", error="invalid_token")
        except Unauthorized as error:
            logger.warning("login failed: token of a workload from %s: %s", address, error.sentence)
            raise
        groups = found.groups if len(found.groups) <= MANY_GROUPS else found.groups & self._groups()
        return Client(found.name, groups, address, expires=found.expires, version=found.version)

    def identify(self, certificate: Mapping[str, Any], address: Address | None) -> Client:
        """
        Return the client of a certificate: a user of the file, or one that only certificates name.

        Args:
            certificate: verified; in the form of :meth:`ssl.SSLSocket.getpeercert`.

        Raises:
            Unauthorized: certificates do not identify users, this one has expired or yields no valid name, or several
                users of the file have its name in other upper and lower case.
        """
        if self._certificates is None:
            raise Unauthorized
        try:
            found = self._certificates.identify(certificate)
            names = self._names_in_file(found.given)
            if len(names) > 1:
                raise Unauthorized("Several users have the name of the client certificate.")
        except Unauthorized as error:
            logger.warning("login failed: client certificate from %s: %s", address, error.sentence)
            raise
        if names:
            return Client(names[0], address=address, expires=found.expires)
        return Client(found.name, address=address, expires=found.expires, version=self._certificates.version)

    def _names_in_file(self, name: str) -> Sequence[str]:
        """Return the user of the file with exactly this name; else those that differ only in upper and lower case."""
        users = self.users()
        if name in users:
            return (name,)
        if not name.isascii():  # some letters have lower-case forms in ASCII
            return ()
        if self._names_by_lower[0] is not users:
            by_lower: dict[str, list[str]] = {}
            for each in users:
                by_lower.setdefault(each.lower(), []).append(each)
            self._names_by_lower = users, by_lower
        return self._names_by_lower[1].get(name.lower(), ())

    def user_version(self, name: str) -> str | None:
        """Return a text that changes with the password of a user or the token of a robot; None if there is neither."""
        robot = self._robot(name)
        if robot is not None:
            return robot.version
        stored = self.users().get(name)
        return None if stored is None else hashlib.sha256(stored).hexdigest()[:16]

    def is_current(self, name: str, version: str) -> bool:
        """
        Return whether a token with this version is still valid for a user.

        The version is that of :meth:`user_version`, or for users that the file does not have, one that changes with the
        settings for certificates or the directory.
        """
        known = self.user_version(name)
        if known is not None:
            return known == version
        return any(others is not None and others.version == version for others in (self._certificates, self._ldap))

    def client(self, name: str, address: Address | None) -> Client:
        """
        Return the client of a user or robot that was authenticated before.

        Raises:
            Unauthorized: it is a robot that has been revoked or has expired meanwhile.
        """
        if not name.startswith(ROBOT_PREFIX):
            return Client(name, address=address)
        robot = self._robot(name)
        if robot is None:
            raise Unauthorized("The robot has been revoked or has expired.", error="invalid_token")
        return _client_of(robot, address)

    def _robot(self, name: str) -> Robot | None:
        return None if self.robots is None else self.robots.find(name)


def _client_of(robot: Robot, address: Address | None) -> Client:
    return Client(robot.principal, address=address, limits=robot.limits, expires=robot.expires)


def _wrong_password(name: str, address: Address | None) -> Unauthorized:
    logger.warning("login failed: user %.64r from %s", name, address)
    return Unauthorized("The user name or the password is wrong.")
