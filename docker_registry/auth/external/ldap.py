"""
Users of an LDAP directory (RFC 4511): their passwords are verified by a bind, their groups found by a search.

A correct password is remembered for five minutes with the groups of its user, as a keyed hash.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
import math
import secrets
import ssl
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

from docker_registry import dependencies
from docker_registry.auth.external.ldap_directory import DN, USER, Directory, name_in
from docker_registry.auth.users import htpasswd
from docker_registry.auth.users.login_queue import LoginQueue
from docker_registry.concurrency import KeyedLocks, check_client
from docker_registry.errors import AuthorityUnavailable, Invalid
from docker_registry.resources.circuit_breaker import CircuitBreaker

if TYPE_CHECKING:
    from ldap3 import Connection

logger = logging.getLogger(__name__)

#: Begins the version of an identity in tokens.
VERSION_PREFIX: Final = "ldap:"

#: Time for which a correct password and the groups of its user are remembered, and their maximum number.
REMEMBERED_SECONDS: Final = 300.0
MAX_REMEMBERED: Final = 10_000

#: Time for which a wrong password is remembered: some clients send it twice in a row, and the directory may lock the
#: account after a few.
WRONG_SECONDS: Final = 5.0

#: Time for each step: connecting, and each answer.
TIMEOUT_SECONDS: Final = 5

#: Logins that may use the directory at the same time; further ones wait in a queue, in which the networks take turns.
MAX_CONNECTIONS: Final = 4

#: Logins in a row that could not reach the directory, after which logins fail at once; and the time until one of them
#: tries again.
MAX_FAILURES: Final = 3
RETRY_SECONDS: Final = 10.0

#: Maximum number of groups of a user that are read.
MAX_GROUPS: Final = 500

#: Maximum characters of a password: SASLprep takes some microseconds for each.
MAX_PASSWORD: Final = 1024

#: Results of a bind that say nothing about the password (RFC 4511, appendix A): operationsError, timeLimitExceeded,
#: adminLimitExceeded, busy, unavailable and other.
_UNDECIDED: Final = frozenset({1, 3, 11, 51, 52, 80})


class LdapUsers:
    """
    The users of a directory.

    Attributes:
        version: changes with the settings of the directory.
    """

    def __init__(self, directory: Directory, now: Callable[[], float] = time.monotonic) -> None:
        """
        Args:
            now: a monotonic clock; returns seconds.
        """
        self._directory = directory
        self._now = now
        self._key = secrets.token_bytes(32)
        self._right: OrderedDict[bytes, tuple[frozenset[str], float]] = OrderedDict()
        self._wrong: OrderedDict[bytes, float] = OrderedDict()
        self._queue = LoginQueue(MAX_CONNECTIONS)
        self._verifying = KeyedLocks()
        self._breaker = CircuitBreaker(
            "the LDAP directory", _unusable, max_failures=MAX_FAILURES, probe_seconds=RETRY_SECONDS, now=now
        )
        found = [directory.host, directory.user_base, directory.user_filter, directory.group_base,
                 directory.group_filter, directory.group_name]  # fmt: skip
        self.version = VERSION_PREFIX + hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]

    def recall(self, name: str, password: str) -> frozenset[str] | None:
        """
        Return the groups of a user whose password was verified a short time ago; None for others.

        A cached response to the request expires together with the remembered password.
        """
        found = self._right.get(self._mark(name, password))
        if found is None or self._now() >= found[1]:
            return None
        dependencies.expire(found[1])
        return found[0]

    def verify(
        self,
        name: str,
        password: str,
        *,
        network: str = "",
        check: Callable[[], object] = lambda: None,
        fail: Callable[[], object] = lambda: None,
    ) -> frozenset[str] | None:
        """
        Return the groups of a user with this password; None if the name or the password is wrong.

        Args:
            name: as the client sent it; the directory decides whether upper and lower case differ.
            network: of the client.
            check: called first, and again after the login has waited; raises to reject it.
            fail: called if the name or the password is wrong, but not again for the same ones within a few seconds.

        Raises:
            AuthorityUnavailable: the directory cannot be used, or could not be reached several times just now.
            Overloaded: too many logins are waiting for it, in total or of this network.
            ClientLeft: the client has disconnected while it waited.
        """
        check()
        if not _is_possible(name, password):
            fail()
            return None
        with self._verifying.hold(self._mark(name, password)):  # equal requests take one place in the queue
            groups = self.recall(name, password)  # another request may have verified it meanwhile
            if groups is not None:
                return groups
            if self._now() < self._wrong.get(self._mark(name, password), -math.inf):
                return None
            with self._queue.turn(network):
                check()  # other logins may have failed meanwhile
                check_client()
                groups = self._ask(name, password)
                if groups is None:
                    fail()
                    self._remember_wrong(name, password)
                else:
                    self._remember(name, password, groups)
        return groups

    def _remember(self, name: str, password: str, groups: frozenset[str]) -> None:
        mark, until = self._mark(name, password), self._now() + REMEMBERED_SECONDS
        self._right.pop(mark, None)
        self._right[mark] = (groups, until)
        dependencies.expire(until)
        while len(self._right) > MAX_REMEMBERED:
            self._right.popitem(last=False)

    def _remember_wrong(self, name: str, password: str) -> None:
        mark = self._mark(name, password)
        self._wrong.pop(mark, None)
        self._wrong[mark] = self._now() + WRONG_SECONDS
        while len(self._wrong) > MAX_REMEMBERED:
            self._wrong.popitem(last=False)

    def _mark(self, name: str, password: str) -> bytes:
        content = name.encode("utf-8", "replace") + b"\0" + password.encode("utf-8", "surrogateescape")
        return hmac.digest(self._key, content, hashlib.sha256)

    def _ask(self, name: str, password: str) -> frozenset[str] | None:
        from ldap3.core.exceptions import LDAPException

        self._breaker.check()
        try:
            groups = self._log_in(name, password)
        except (LDAPException, OSError) as error:
            self._breaker.record_failure(type(error).__name__)
            logger.error("the LDAP directory cannot be used: %s", type(error).__name__)
            raise _unusable() from None
        self._breaker.record_success()
        return groups

    def _log_in(self, name: str, password: str) -> frozenset[str] | None:
        from ldap3.utils.conv import escape_filter_chars

        place = self._directory
        with self._bound(place.bind_dn, place.bind_password() if place.bind_dn else None) as searching:
            if searching is None:
                logger.error("the LDAP directory refuses the account %s", place.bind_dn)
                raise _unusable()
            user = escape_filter_chars(name)
            wanted = place.user_filter.replace(USER, user)
            found = self._search(searching, place.user_base, wanted, place.user_attributes, 2)
            # Unknown users are bound too, in vain, so that they take as long as a wrong password.
            dn = found[0]["dn"] if len(found) == 1 else f"cn={secrets.token_hex(8)},{place.user_base}"
            if len(found) > 1:
                logger.error("the LDAP directory has several users %s", name)
            with self._bound(dn, password, is_user=True) as bound:
                if bound is None or len(found) != 1:
                    return None
            return self._groups(searching, name_in(found[0], name), dn)

    def _groups(self, connection: Connection, name: str, dn: str) -> frozenset[str]:
        from ldap3.utils.conv import escape_filter_chars

        place = self._directory
        if place.group_base is None:
            return frozenset()
        wanted = place.group_filter.replace(USER, escape_filter_chars(name)).replace(DN, escape_filter_chars(dn))
        entries = self._search(connection, place.group_base, wanted, [place.group_name], MAX_GROUPS)
        found = (attribute for entry in entries for attribute in entry["raw_attributes"].items())
        return frozenset(
            value.decode("utf-8", "replace")
            for attribute, values in found
            # The directory may use another name of the attribute, or other upper and lower case, but adds no option.
            if ";" not in attribute or attribute.lower() == place.group_name.lower()
            for value in values
        )

    def _search(self, connection: Connection, base: str, wanted: str, names: list[str], most: int) -> list[Any]:
        """
        Return the entries that a filter selects.

        Raises:
            AuthorityUnavailable: the directory refuses the search.
        """
        from ldap3 import SUBTREE
        from ldap3.core import results

        connection.search(base, wanted, SUBTREE, attributes=names, size_limit=most, time_limit=TIMEOUT_SECONDS)
        accepted = (results.RESULT_SUCCESS, results.RESULT_SIZE_LIMIT_EXCEEDED, results.RESULT_NO_SUCH_OBJECT)
        if connection.result["result"] not in accepted:
            logger.error("the LDAP directory refuses the search: %s", connection.result["description"])
            raise _unusable()
        return [entry for entry in connection.response or () if entry["type"] == "searchResEntry"]

    @contextmanager
    def _bound(self, dn: str | None, password: str | None, *, is_user: bool = False) -> Iterator[Connection | None]:
        """
        Connect and bind; the connection is None if the directory refuses the account.

        Args:
            is_user: whether the account is that of the user. The directory may delay the answer after wrong passwords,
                so a bind that fails does not count as a failure of the directory, which has just answered a search.

        Raises:
            AuthorityUnavailable: the directory cannot decide about the account.
        """
        from ldap3 import ANONYMOUS, NONE, SIMPLE, Connection, Server, Tls
        from ldap3.core.exceptions import LDAPException

        place = self._directory
        ca = None if place.ca is None else str(place.ca)
        tls = Tls(validate=ssl.CERT_REQUIRED, version=None, ca_certs_file=ca)
        server = Server(
            place.host, place.port, use_ssl=place.security == "tls", tls=tls, get_info=NONE,
            connect_timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
        connection = Connection(
            server, dn, password, authentication=ANONYMOUS if dn is None else SIMPLE, auto_referrals=False,
            receive_timeout=TIMEOUT_SECONDS,
        )  # fmt: skip
        try:
            connection.open()
            if place.security == "starttls" and not connection.start_tls():
                logger.error("the LDAP directory refuses StartTLS")
                raise _unusable()
            try:
                is_bound = connection.bind()
            except (LDAPException, OSError) as error:
                if not is_user:
                    raise
                self._breaker.record_success()
                logger.error("the LDAP directory does not answer the login of a user: %s", type(error).__name__)
                raise _unusable() from None
            if connection.result["result"] in _UNDECIDED:
                logger.error("the LDAP directory cannot log in: %s", connection.result["description"])
                raise _unusable()
            yield connection if is_bound else None
        finally:
            _close(connection)


def _unusable() -> AuthorityUnavailable:
    return AuthorityUnavailable("The LDAP directory cannot be used.")


def _close(connection: Connection) -> None:
    from ldap3.core.exceptions import LDAPException

    try:
        connection.unbind()
    except (LDAPException, OSError):  # the directory has closed the connection, which does not change its answer
        pass
    finally:
        if connection.socket is not None:  # ldap3 leaves it open after a failure
            connection.socket.close()


def _is_possible(name: str, password: str) -> bool:
    """
    Return whether a user may have a name and a password.

    Neither the name nor its lower-case form may be reserved. A bind without a password would always succeed. ldap3
    rejects passwords that SASLprep (RFC 4013) prohibits, such as those with control characters.
    """
    from ldap3.core.exceptions import LDAPException
    from ldap3.protocol.sasl.sasl import validate_simple_password

    try:
        htpasswd.check_name(name)
        htpasswd.check_name(name.lower())
        password.encode()
        return len(password) <= MAX_PASSWORD and "\0" not in password and bool(validate_simple_password(password))
    except (Invalid, UnicodeEncodeError, LDAPException):
        return False
