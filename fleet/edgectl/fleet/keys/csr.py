"""Reads a device's certificate request (PKCS#10). The machine that made it is not trusted.

Only the public key is taken from it, once its holder has shown by his signature that he has the private half.
The name is the operator's to give; what else the request asks for (extensions, attributes) is not even looked
at.
"""

from __future__ import annotations

from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from edgectl.core.errors import TrustError, UsageError

__all__ = ["MAX_REQUEST_BYTES", "read_request", "requested_key"]

MAX_REQUEST_BYTES = 16 * 1024
"""One with an EC key has about 400 bytes."""

_HINT = "make it on the device: `edgectl device request NAME`"


def read_request(path: Path) -> bytes:
    """The bytes of a file that may be a request. Raises :class:`UsageError` if it cannot be read, or is
    too large to be one."""
    try:
        with path.open("rb") as f:
            data = f.read(MAX_REQUEST_BYTES + 1)
    except OSError as e:
        raise UsageError(f"cannot read {path}: {e.strerror}", hint=_HINT) from e
    if len(data) > MAX_REQUEST_BYTES:
        raise UsageError(
            f"{path} has more than the {MAX_REQUEST_BYTES} bytes of a certificate request", hint=_HINT
        )
    return data


def requested_key(request: bytes, name: str) -> ec.EllipticCurvePublicKey:
    """The public key that a certificate for ``name`` is wanted for.

    Raises :class:`TrustError`: no request, not signed by its own key, made for another name, or not of EC
    P-256 (what this CA's own keys are; every TLS library and most secure elements have it).
    """
    if len(request) > MAX_REQUEST_BYTES:
        raise TrustError(
            f"a certificate request has at most {MAX_REQUEST_BYTES} bytes, this one {len(request)}",
            hint=_HINT,
        )
    try:
        csr = x509.load_pem_x509_csr(request)
        key = csr.public_key()
        if not isinstance(key, ec.EllipticCurvePublicKey) or not isinstance(key.curve, ec.SECP256R1):
            raise TrustError("the certificate request is for a key that is not EC P-256", hint=_HINT)
        genuine = csr.is_signature_valid
        asked = [a.value for a in csr.subject.get_attributes_for_oid(NameOID.COMMON_NAME)]
    except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion) as e:
        raise TrustError("this is not a certificate request (PKCS#10) in PEM form", hint=_HINT) from e
    if not genuine:
        raise TrustError("the certificate request is not signed with the key that it is for", hint=_HINT)
    if any(a != name for a in asked):
        raise TrustError(
            f"the certificate request is for {str(asked[0])[:80]!r}, not for {name}",
            hint=_HINT.replace("NAME", name),
        )
    return key
