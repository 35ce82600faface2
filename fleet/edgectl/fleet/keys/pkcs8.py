"""Private keys as files: PKCS#8 in PEM form, with or without a passphrase.

Who knows the passphrases is handed in as an :data:`Ask`: there is no terminal and no environment here.

``cryptography`` reads every encrypted PKCS#8, but writes it with 2048 rounds of PBKDF2 only
(``BestAvailableEncryption``, as OpenSSL does): 0.5 ms a guess. So the container (RFC 8018 PBES2, RFC 7914
§7.1) is written here, around its scrypt and AES; ``openssl pkey`` opens it, too.
"""

from __future__ import annotations

import base64
import os
from collections.abc import Callable
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.ciphers import Cipher
from cryptography.hazmat.primitives.ciphers.algorithms import AES256
from cryptography.hazmat.primitives.ciphers.modes import CBC
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.padding import PKCS7
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from edgectl.core.errors import TrustError, UsageError

__all__ = ["TRIES", "Ask", "nobody", "open_private", "private_pem"]

Ask = Callable[[Path, int], bytes | None]
"""Called with a file and how often its passphrase was wrong already. None: do without this key. Raises
:class:`UsageError`."""

TRIES = 3

SCRYPT_N = 1 << 14
"""With r = 8 and p = 5: 16 MiB and 0.2 s a guess; OpenSSL refuses to read what needs more memory than 32
MiB."""
_SCRYPT_R, _SCRYPT_P = 8, 5


def nobody(path: Path, _wrong: int) -> bytes | None:
    """Where nobody can be asked."""
    raise UsageError(f"{path} has a passphrase, and nobody can be asked for it")


def private_pem(key: PrivateKeyTypes, passphrase: bytes | None = None) -> bytes:
    """The file's content; None: without a passphrase."""
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    salt, iv = os.urandom(16), os.urandom(16)
    secret = Scrypt(salt=salt, length=32, n=SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P).derive(passphrase)
    padder = PKCS7(128).padder()
    plain = (
        padder.update(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
        + padder.finalize()
    )
    encryptor = Cipher(AES256(secret), CBC(iv)).encryptor()
    body = encryptor.update(plain) + encryptor.finalize()
    cost = _sequence(_octets(salt), _integer(SCRYPT_N), _integer(_SCRYPT_R), _integer(_SCRYPT_P))
    scheme = _sequence(_PBES2, _sequence(_sequence(_SCRYPT, cost), _sequence(_AES256_CBC, _octets(iv))))
    lines = base64.b64encode(_sequence(scheme, _octets(body))).decode()
    wrapped = "\n".join(lines[at : at + 64] for at in range(0, len(lines), 64))
    return f"-----BEGIN ENCRYPTED PRIVATE KEY-----\n{wrapped}\n-----END ENCRYPTED PRIVATE KEY-----\n".encode()


def open_private(path: Path, pem: bytes, ask: Ask | None) -> PrivateKeyTypes | None:
    """The key in ``pem``, the content of ``path``. None: it has a passphrase, and ``ask`` is None or wants to
    do without it.

    Raises :class:`TrustError`: no private key, or a wrong passphrase :data:`TRIES` times.
    """
    try:
        return load_pem_private_key(pem, None)
    except TypeError:  # it is encrypted
        pass
    except (ValueError, UnsupportedAlgorithm) as e:
        raise TrustError(
            f"{path} is not a private key in PEM form",
            hint="give a .pem file of `edgectl keys`, or the ca.key of a CA",
        ) from e
    if ask is None:
        return None
    for wrong in range(TRIES):
        if not (given := ask(path, wrong)):
            return None
        try:
            return load_pem_private_key(pem, given)
        except ValueError:
            continue
        except UnsupportedAlgorithm as e:
            raise TrustError(f"{path} is encrypted in a way that cannot be read here: {e}") from e
    raise TrustError(f"that is not the passphrase of {path}")


def _der(tag: int, content: bytes) -> bytes:
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    length = size.to_bytes((size.bit_length() + 7) // 8, "big")
    return bytes([tag, 0x80 | len(length)]) + length + content


def _sequence(*parts: bytes) -> bytes:
    return _der(0x30, b"".join(parts))


def _octets(data: bytes) -> bytes:
    return _der(0x04, data)


def _integer(value: int) -> bytes:
    return _der(0x02, value.to_bytes(value.bit_length() // 8 + 1, "big"))


_PBES2 = bytes.fromhex("06092a864886f70d01050d")  # 1.2.840.113549.1.5.13
_SCRYPT = bytes.fromhex("06092b06010401da47040b")  # 1.3.6.1.4.1.11591.4.11
_AES256_CBC = bytes.fromhex("060960864801650304012a")  # 2.16.840.1.101.3.4.1.42
