"""
The keys that sign access tokens, kept in the store for all hosts of a registry.

One file holds all of them, replaced by compare-and-swap::

    {"keys": [{"algorithm": "ES256", "created": 1790000000, "pem": "-----BEGIN PRIVATE KEY-----…"}]}

The newest key that is at least a minute old signs: by then every host has read it. The first key signs at once. A key
that was replaced verifies tokens for another day.
"""

from __future__ import annotations

import base64
import hashlib
import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from docker_registry.concurrency import run_in_thread
from docker_registry.drivers.base import StorageDriver, Versioned
from docker_registry.errors import StorageError
from docker_registry.registry import layout, stored_document

logger = logging.getLogger(__name__)

PATH: Final = f"{layout.AUTH}/signing-keys"

ES256: Final = "ES256"
RS256: Final = "RS256"

#: A host reads the keys again after this time, and for a token with an unknown key id, but at most once a second.
REFRESH_SECONDS: Final = 30.0
_MIN_REFRESH_SECONDS: Final = 1.0

#: Age at which a new key begins to sign, and time for which a replaced one still verifies.
ACTIVATION_DELAY_SECONDS: Final = 60.0
OVERLAP_SECONDS: Final = 24 * 3600.0

PrivateKey = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey
PublicKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey


@dataclass(frozen=True, slots=True)
class SigningKey:
    """
    A private key.

    Attributes:
        key_id: in libtrust's form, which distribution 2.8 expects: ``ABCD:EFGH:…``.
        created: seconds since the Unix epoch.
    """

    key_id: str
    algorithm: str
    created: float
    private: PrivateKey
    public: ec.EllipticCurvePublicKey | rsa.RSAPublicKey

    def __repr__(self) -> str:
        return f"SigningKey({self.key_id})"

    @classmethod
    def generate(cls, algorithm: str, created: float) -> SigningKey:
        """Generate a key: P-256 for ES256, RSA of 2048 bits for RS256."""
        private: PrivateKey = (
            ec.generate_private_key(ec.SECP256R1())
            if algorithm == ES256
            else rsa.generate_private_key(public_exponent=65537, key_size=2048)
        )
        return cls(key_id(private.public_key()), algorithm, created, private, private.public_key())

    def to_json(self) -> dict[str, Any]:
        """Return the key in the form of the file, with the private part."""
        pem = self.private.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        return {"algorithm": self.algorithm, "created": self.created, "pem": pem.decode()}

    @classmethod
    def from_json(cls, stored: dict[str, Any]) -> SigningKey:
        """
        Read a key from the form of the file.

        Raises:
            ValueError, KeyError, TypeError: it is not such a key.
        """
        private = serialization.load_pem_private_key(stored["pem"].encode(), None)
        if not isinstance(private, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey):
            raise TypeError("not an EC or RSA key")
        public = private.public_key()
        return cls(key_id(public), stored["algorithm"], stored_document.time_of(stored["created"]), private, public)


def key_id(public: PublicKey) -> str:
    """Return the id of a key in libtrust's form: 240 bits of the SHA-256 of its DER, in base32, in groups of four."""
    der = public.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    text = base64.b32encode(hashlib.sha256(der).digest()[:30]).decode()
    return ":".join(text[start : start + 4] for start in range(0, len(text), 4))


class SigningKeys:
    """
    All signing keys of a registry.

    Every method raises StorageError if the file is damaged, or if the store fails and the known keys do not suffice.
    """

    def __init__(
        self,
        driver: StorageDriver,
        *,
        algorithm: str = ES256,
        rotation_seconds: float = 90 * 86400.0,
        now: Callable[[], float] = time.time,
    ) -> None:
        """
        Args:
            algorithm: of new keys: ``ES256`` or ``RS256``.
            rotation_seconds: age at which :meth:`rotate_if_due` replaces the newest key.
            now: the clock; returns seconds since the Unix epoch.
        """
        self._driver = driver
        self._algorithm = algorithm
        self._rotation_seconds = rotation_seconds
        self._now = now
        self._keys: tuple[SigningKey, ...] = ()
        self._content: bytes | None = None
        self._read_at = -REFRESH_SECONDS

    def current(self) -> SigningKey:
        """Return the key to sign with; generate one if the store has none."""
        keys = self.all()
        old_enough = [key for key in keys if key.created <= self._now() - ACTIVATION_DELAY_SECONDS]
        return old_enough[-1] if old_enough else keys[0]

    def all(self) -> tuple[SigningKey, ...]:
        """Return the keys that verify tokens, the oldest first; generate one if the store has none."""
        if not self._keys:
            self._read()
        elif self._since_read() >= REFRESH_SECONDS:
            self._refresh()
        if not self._keys:
            self._change(lambda keys: keys or (self._new(),))
        return self._unexpired(self._keys)

    def find(self, wanted: str) -> SigningKey | None:
        """Return the key of an id; None if no key that verifies tokens has it."""
        by_id = {key.key_id: key for key in self.all()}
        if wanted not in by_id and self._since_read() >= _MIN_REFRESH_SECONDS:
            self._read()
            by_id = {key.key_id: key for key in self._unexpired(self._keys)}
        return by_id.get(wanted)

    def rotate(self) -> SigningKey:
        """Add a new key, which signs from a minute later on, and remove those that were replaced a day ago."""
        self._change(lambda keys: (*self._unexpired(keys), self._new()))
        return self._keys[-1]

    def rotate_if_due(self) -> bool:
        """Add a new key if the newest one is older than the rotation time; return whether one was added."""
        if self.all()[-1].created > self._now() - self._rotation_seconds:
            return False
        self.rotate()
        return True

    def _new(self) -> SigningKey:
        return run_in_thread(SigningKey.generate, self._algorithm, self._now())

    def _unexpired(self, keys: Sequence[SigningKey]) -> tuple[SigningKey, ...]:
        """Return the keys that are in use or were replaced at most a day ago."""
        since = self._now() - OVERLAP_SECONDS
        return tuple(
            key for number, key in enumerate(keys) if number + 1 == len(keys) or keys[number + 1].created >= since
        )

    def _since_read(self) -> float:
        """Return the seconds since the keys were read, or by which the clock was set back since then."""
        return abs(self._now() - self._read_at)

    def _read(self) -> None:
        self._load(self._driver.find_versioned(PATH))

    def _refresh(self) -> None:
        """Read the keys again; keep the known ones while the store fails."""
        try:
            stored = self._driver.find_versioned(PATH)
        except StorageError as error:
            logger.warning("the signing keys could not be read again: %s", error)
            self._read_at = self._now() - _MIN_REFRESH_SECONDS  # so a key that is not known is still looked for
        else:
            self._load(stored)

    def _load(self, stored: Versioned | None) -> None:
        content = None if stored is None else stored.content
        if content != self._content:  # reading an RSA key takes 40 ms
            self._keys = () if content is None else _parse(content)
            self._content = content
        self._read_at = self._now()

    def _change(self, change: Callable[[tuple[SigningKey, ...]], tuple[SigningKey, ...]]) -> None:
        def make(stored: Versioned | None) -> bytes | None:
            self._load(stored)
            keys = change(self._keys)
            return None if keys == self._keys else json.dumps({"keys": [key.to_json() for key in keys]}).encode()

        stored_document.change(self._driver, PATH, make)
        self._read()


def _parse(content: bytes) -> tuple[SigningKey, ...]:
    try:
        return tuple(SigningKey.from_json(stored) for stored in stored_document.parse(content)["keys"])
    except (ValueError, KeyError, TypeError) as error:
        raise StorageError(f"{PATH} is damaged: {type(error).__name__}") from None
