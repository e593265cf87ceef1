"""
Users in a file of Apache's htpasswd format, with bcrypt hashes only.

::

    alice:$2y$10$…
    # comment
"""

from __future__ import annotations

import fcntl
import os
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from ipaddress import ip_network
from pathlib import Path
from typing import Final

import bcrypt

from docker_registry.auth.users.bcrypt_jobs import MAX_PASSWORD_BYTES
from docker_registry.errors import ConfigError, Invalid

#: Names with a meaning of their own in rules.
RESERVED: Final = frozenset({"anonymous", "authenticated"})

#: bcrypt's cost of new hashes: 2^10 rounds take about 70 ms. Hashes in a file may have a cost of at most 14.
COST: Final = 10
MAX_COST: Final = 14

_NAME: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._@+-]{0,127}")

#: Version, cost, and 22 digits of the salt and 31 of the checksum; groups end before and after the last digit of each.
_HASH: Final = re.compile(r"(\$2[aby]\$([0-9]{2})\$[./A-Za-z0-9]{21})([./A-Za-z0-9])([./A-Za-z0-9]{30})([./A-Za-z0-9])")

#: The digits of bcrypt's form of Base64.
_DIGITS: Final = "./ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789"

#: Bits of the last digits of salt and checksum beyond their 16 and 23 bytes.
_SALT_SPARE_BITS: Final = 0b1111
_CHECKSUM_SPARE_BITS: Final = 0b11


def parse(content: bytes, path: Path) -> dict[str, bytes]:
    """
    Return the bcrypt hashes in a file, by user name.

    Raises:
        ConfigError: a line is not usable; the message names the file and the line, and never contains a hash.
    """
    users: dict[str, bytes] = {}
    for number, raw in enumerate(content.split(b"\n"), 1):
        line = _text(raw)
        if not line or line.startswith("#"):
            continue
        name, colon, hashed = line.partition(":")
        problem = _problem(name, colon, hashed, users)
        if problem:
            raise ConfigError(f"{path}, line {number}: {problem}")
        users[name] = _without_spare_bits(hashed).encode("ascii")
    return users


def check_name(name: str) -> None:
    """
    Raises:
        Invalid: no user may have this name.
    """
    if problem := _name_problem(name):
        raise Invalid(f"The user name {problem}.")


def hash_password(password: str) -> bytes:
    """
    Hash a password; takes about 70 ms.

    Raises:
        Invalid: the password is empty, contains a NUL, is longer than bcrypt accepts, or was not valid UTF-8 when it
            was read, so that it contains surrogates.
    """
    try:
        content = password.encode()
    except UnicodeEncodeError:
        raise Invalid("The password is not valid UTF-8.") from None
    if not content or b"\0" in content:
        raise Invalid("The password is empty or contains a NUL character.")
    if len(content) > MAX_PASSWORD_BYTES:
        raise Invalid(f"The password is longer than {MAX_PASSWORD_BYTES} bytes, the limit of bcrypt.")
    return bcrypt.hashpw(content, bcrypt.gensalt(COST))


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """
    Lock the file of users against other commands during a change.

    Raises:
        ConfigError: the folder of the file cannot be used.
    """
    try:
        folder = os.open(path.resolve().parent, os.O_RDONLY)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None
    try:
        fcntl.flock(folder, fcntl.LOCK_EX)
        yield
    finally:
        os.close(folder)


def write(path: Path, users: Mapping[str, bytes | None]) -> None:
    """
    Set or remove users in a file, atomically and durably; all bytes of other lines are kept.

    Args:
        users: hashes by name; None removes the user.

    Raises:
        ConfigError: the file cannot be written.
    """
    target = path.resolve()
    try:
        old = target.read_bytes() if target.exists() else b""
        # Lines end where parse ends them: a comment may contain other line separators, and bytes that are not UTF-8.
        lines = old.removesuffix(b"\n").split(b"\n") if old else []
        kept = [line for line in lines if _text(line).partition(":")[0] not in users]
        added = [name.encode() + b":" + hashed for name, hashed in users.items() if hashed is not None]
        mode = target.stat().st_mode & 0o777 if target.exists() else 0o600
        _replace(target, b"".join(line + b"\n" for line in (*kept, *added)), mode)
    except OSError as error:
        raise ConfigError(f"{path} cannot be written: {error.strerror}") from None


def _text(line: bytes) -> str:
    return line.decode("utf-8", "replace").strip()


def _replace(target: Path, content: bytes, mode: int) -> None:
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(file.fileno(), mode)
            if target.exists() and os.getuid() == 0:
                found = target.stat()
                os.fchown(file.fileno(), found.st_uid, found.st_gid)
            os.fsync(file.fileno())
        Path(temporary).replace(target)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    with suppress(OSError):  # some file systems cannot sync a folder
        _sync_folder(target.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _problem(name: str, colon: str, hashed: str, users: Mapping[str, bytes]) -> str | None:
    if not colon:
        return "there is no colon between a user and a hash"
    if problem := _name_problem(name):
        return f"the user name {problem}"
    if name in users:
        return f"the user {name} is listed twice"
    found = _HASH.fullmatch(hashed)
    if found is None:
        return f"the hash of {name} is not a bcrypt hash ($2y$…); use `htpasswd -B` or `docker-registry user passwd`"
    if not 4 <= int(found[2]) <= MAX_COST:
        return f"the hash of {name} has cost {int(found[2])}; it must be from 4 to {MAX_COST}"
    return None


def _without_spare_bits(hashed: str) -> str:
    """
    Return the form of a bcrypt hash in which the spare bits of salt and checksum are zero.

    Some programs choose them at random (passlib calls them padding bits). They belong to neither value, but the library
    refuses such a salt, and compares the whole text of a checksum.
    """
    found = _HASH.fullmatch(hashed)
    if found is None:
        return hashed
    begin, _, salt_end, checksum, checksum_end = found.groups()
    salt_end = _DIGITS[_DIGITS.index(salt_end) & ~_SALT_SPARE_BITS]
    checksum_end = _DIGITS[_DIGITS.index(checksum_end) & ~_CHECKSUM_SPARE_BITS]
    return f"{begin}{salt_end}{checksum}{checksum_end}"


def _name_problem(name: str) -> str | None:
    if not _NAME.fullmatch(name):
        return "must be 1 to 128 letters, digits or . _ @ + - and begin with a letter, digit or _"
    if name in RESERVED:
        return f"{name} is reserved"
    try:
        ip_network(name, strict=False)
    except ValueError:
        return None
    return "must not be a network address"
