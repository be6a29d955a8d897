"""Signatures over contexts and snapshots, so that only what we wrote ourselves is ever loaded.

A signed text is ``v1.<key id>.<mac>.<payload>``: the MAC is HMAC-SHA256 over version, key id,
``kind`` and payload, in unpadded base64url. ``kind`` says what the payload is (``"context"``,
``"snapshot"``), so that one cannot be passed off as the other; it does not travel.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import re
import secrets
from collections.abc import Sequence
from typing import Self

from llamadeploy.exceptions import ConfigurationError, SignatureError

_VERSION = "v1"
_KEY_BYTES = 32  # the size of a SHA-256 block of output; longer adds nothing to HMAC-SHA256
_MINIMUM_KEY_BYTES = 16
_KEY_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


class KeyRing:
    """Keys with ids: the first signs, all verify.

    To rotate, prepend a key (:meth:`rotated`), and drop the old one once nothing signed with it
    is left.

    Args:
        keys: pairs of (id, key bytes), the signing key first.

    Raises:
        ConfigurationError: no key, a repeated or malformed id, or a key below 16 bytes.
    """

    __slots__ = ("_keys", "_signing_id")

    def __init__(self, keys: Sequence[tuple[str, bytes]]) -> None:
        if not keys:
            raise ConfigurationError("signing keys: there is none; give at least one '<id>:<key>'")
        self._keys: dict[str, bytes] = {}
        for position, (key_id, key) in enumerate(keys, start=1):
            self._keys[_checked_id(key_id, position, self._keys)] = _checked_key(key, position)
        self._signing_id = keys[0][0]

    @classmethod
    def generate(cls) -> Self:
        """A ring of one new random key."""
        return cls([_new_key()])

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read ``<id>:<base64url key>``, separated by commas or white space, signing key first.

        Raises:
            ConfigurationError: names the entry by its position; never shows a key.
        """
        entries = [entry for entry in re.split(r"[,\s]+", text) if entry]
        return cls([_parse_entry(entry, n) for n, entry in enumerate(entries, start=1)])

    def dump(self) -> str:
        """The text that :meth:`parse` reads. It is the secret itself."""
        return ",".join(f"{key_id}:{_encode(key)}" for key_id, key in self._keys.items())

    def rotated(self) -> Self:
        """A ring whose new random key signs; what the present keys signed still verifies."""
        return type(self)([_new_key(), *self._keys.items()])

    @property
    def key_ids(self) -> tuple[str, ...]:
        """The ids, signing key first."""
        return tuple(self._keys)

    def sign(self, kind: str, payload: str) -> str:
        """``payload`` with a signature in front."""
        mac = _mac(self._keys[self._signing_id], self._signing_id, kind, payload)
        return f"{_VERSION}.{self._signing_id}.{mac}.{payload}"

    def verify(self, kind: str, signed: str) -> str:
        """The payload of what :meth:`sign` made for the same ``kind``.

        Raises:
            SignatureError: not signed, of another version, kind or key, or changed.
        """
        version, separator, rest = signed.partition(".")
        if not separator or version != _VERSION:
            raise SignatureError(f"the {kind} carries no signature of version {_VERSION}")
        parts = rest.split(".", 2)
        if len(parts) != 3:
            raise SignatureError(f"the {kind}'s signature is incomplete")
        key_id, mac, payload = parts
        key = self._keys.get(key_id)
        if key is None:
            raise SignatureError(f"the {kind} was signed with a key that is not in the key ring")
        expected = _mac(key, key_id, kind, payload).encode()
        if not hmac.compare_digest(expected, mac.encode("utf-8", "surrogatepass")):
            raise SignatureError(f"the {kind}'s signature does not fit its content")
        return payload

    def __repr__(self) -> str:
        return f"KeyRing(key_ids={list(self._keys)})"


def _new_key() -> tuple[str, bytes]:
    return secrets.token_hex(4), secrets.token_bytes(_KEY_BYTES)


def _mac(key: bytes, key_id: str, kind: str, payload: str) -> str:
    if "\0" in kind:
        raise ValueError("kind must not contain a NUL character: it separates kind from payload")
    head = f"{_VERSION}\0{key_id}\0{kind}\0"
    return _encode(hmac.digest(key, (head + payload).encode("utf-8", "surrogatepass"), "sha256"))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def _parse_entry(entry: str, position: int) -> tuple[str, bytes]:
    key_id, separator, text = entry.partition(":")
    if not separator:
        raise ConfigurationError(
            f"signing keys: entry {position} has no ':'; an entry is '<id>:<base64url key>'"
        )
    padded = text.rstrip("=") + "=" * (-len(text.rstrip("=")) % 4)
    try:
        return key_id, base64.b64decode(padded, altchars=b"-_", validate=True)
    except (binascii.Error, ValueError):
        # From None: the cause would carry parts of the key into a traceback.
        raise ConfigurationError(
            f"signing keys: the key of entry {position} is not base64url"
        ) from None


def _checked_id(key_id: str, position: int, taken: dict[str, bytes]) -> str:
    if not _KEY_ID.fullmatch(key_id):
        raise ConfigurationError(
            f"signing keys: the id of entry {position} must be 1 to 64 letters, digits, '-' or '_'"
        )
    if key_id in taken:
        raise ConfigurationError(f"signing keys: entry {position} repeats the id {key_id!r}")
    return key_id


def _checked_key(key: bytes, position: int) -> bytes:
    if len(key) < _MINIMUM_KEY_BYTES:
        raise ConfigurationError(
            f"signing keys: the key of entry {position} has {len(key)} bytes; "
            f"give {_MINIMUM_KEY_BYTES} or more random bytes (best {_KEY_BYTES})"
        )
    return key
