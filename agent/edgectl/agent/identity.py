"""Makes the device's private key on the device itself. Only the request for its certificate leaves the device
(:mod:`edgectl.fleet.keys.csr` reads it).
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import NameOID

from edgectl.core.errors import TrustError, UsageError
from edgectl.core.files import atomic_write, check_name

__all__ = ["make_request"]


def make_request(folder: Path, name: str) -> tuple[Path, Path, bool]:
    """Write ``device.csr`` (PKCS#10), and ``device.key`` (EC P-256, PKCS#8, 0600) unless it is there: a
    running agent connects with it.

    Returns both paths and whether the key is new. Raises :class:`UsageError` for a bad name,
    :class:`TrustError` for a ``device.key`` that is none; :class:`StorageError`.
    """
    try:
        check_name(name)
    except ValueError as e:
        raise UsageError(str(e)) from e
    key_file, request_file = folder / "device.key", folder / "device.csr"
    new = not key_file.exists()
    key = ec.generate_private_key(ec.SECP256R1()) if new else _load(key_file)
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, SHA256())
    if new:
        pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        atomic_write(key_file, pem, mode=0o600)
    atomic_write(request_file, request.public_bytes(Encoding.PEM))
    return key_file, request_file, new


def _load(path: Path) -> ec.EllipticCurvePrivateKey:
    hint = "move it away to make a new key, or choose another --out"
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except OSError as e:
        raise TrustError(f"cannot read {path}: {e.strerror}", hint=hint) from e
    except (ValueError, TypeError, UnsupportedAlgorithm) as e:
        raise TrustError(f"{path} is not a private key in PEM form without a passphrase", hint=hint) from e
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise TrustError(f"{path} is not an EC key", hint=hint)
    return key
