"""Requests for certificates: what a device, or somebody who says so, may ask of the CA, and what it gets."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgectl.agent.identity import make_request
from edgectl.core.errors import TrustError, UsageError
from edgectl.fleet.keys.ca import CONTROLLER, FleetCa
from edgectl.fleet.keys.csr import MAX_REQUEST_BYTES, read_request, requested_key
from edgectl.fleet.keys.enroll import check_folder, write_enrolment


@pytest.fixture
def ca(tmp_path: Path) -> FleetCa:
    return FleetCa.create(tmp_path / "ca", "home")


def request_of(folder: Path, name: str = "gate-1") -> bytes:
    return read_request(make_request(folder, name)[1])


def handmade(key: Any = None, name: str | None = "gate-1", *extensions: x509.ExtensionType) -> bytes:
    key = key or ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([] if name is None else [x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = x509.CertificateSigningRequestBuilder().subject_name(subject)
    for extension in extensions:
        builder = builder.add_extension(extension, critical=True)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.PEM)


def of(cert: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(cert)


def test_key_of_a_device_never_leaves_it(ca: FleetCa, tmp_path: Path) -> None:
    key, csr, new = make_request(tmp_path / "device", "gate-1")
    assert new
    assert key.stat().st_mode & 0o777 == 0o600
    assert b"PRIVATE" not in csr.read_bytes()
    issued = ca.issue_client("gate-1", request=read_request(csr))
    assert issued.key is None
    config = write_enrolment(
        tmp_path / "out",
        "gate-1",
        root=b"{}",
        fleet="home",
        broker={"host": "b", "port": 1},
        certificate=issued,
    )
    assert {p.name for p in config.parent.iterdir()} == {"agent.toml", "root.json", "ca.crt", "device.crt"}
    assert 'key = "device.key"' in config.read_text(), "which lies on the device"
    private = load_pem_private_key(key.read_bytes(), None)
    assert of(issued.cert).public_key() == private.public_key()
    secret = private.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())[-40:]
    assert not any(
        secret in p.read_bytes() for p in [*(tmp_path / "ca").iterdir(), *(tmp_path / "out").iterdir()]
    )


def test_certificate_has_nothing_of_the_request_but_its_key(ca: FleetCa) -> None:
    wishes = (
        x509.BasicConstraints(ca=True, path_length=None),
        x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]),
        x509.SubjectAlternativeName([x509.DNSName("broker.lan")]),
    )
    cert = of(ca.issue_client("gate-1", request=handmade(None, None, *wishes)).cert)
    assert [a.value for a in cert.subject] == ["gate-1"]
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    with pytest.raises(x509.ExtensionNotFound):
        cert.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_request_of_another_name_is_refused(ca: FleetCa) -> None:
    with pytest.raises(TrustError, match="is for 'gate-2', not for gate-1"):
        ca.issue_client("gate-1", request=handmade(name="gate-2"))
    with pytest.raises(TrustError, match=f"is for '{CONTROLLER}'"):
        ca.issue_client("gate-1", request=handmade(name=CONTROLLER))
    assert ca.issued() == ()


@pytest.mark.parametrize(
    "key",
    [
        rsa.generate_private_key(65537, 1024),
        dsa.generate_private_key(1024),
        ed25519.Ed25519PrivateKey.generate(),
        ec.generate_private_key(ec.SECP256K1()),
        ec.generate_private_key(ec.SECP192R1()),
    ],
    ids=lambda k: type(k).__name__,
)
def test_weak_and_exotic_keys_are_refused(ca: FleetCa, key: Any) -> None:
    with pytest.raises(TrustError, match="for a key that is not EC P-256"):
        ca.issue_client("gate-1", request=handmade(key))


def test_who_does_not_have_the_private_key_gets_no_certificate(ca: FleetCa) -> None:
    """The public key of another device in a request of one's own: the signature is over other bytes then."""
    der = bytearray(x509.load_pem_x509_csr(handmade()).public_bytes(Encoding.DER))
    other = x509.load_pem_x509_csr(handmade()).public_bytes(Encoding.DER)
    at = der.index(b"\x03\x42\x00\x04") + 4  # BIT STRING, uncompressed point
    there = other.index(b"\x03\x42\x00\x04") + 4
    der[at : at + 64] = other[there : there + 64]
    forged = x509.load_der_x509_csr(bytes(der)).public_bytes(Encoding.PEM)
    with pytest.raises(TrustError, match="not signed with the key that it is for"):
        ca.issue_client("gate-1", request=forged)


def test_revoked_key_and_key_of_another_device_get_no_certificate(ca: FleetCa, tmp_path: Path) -> None:
    request = request_of(tmp_path / "d")
    ca.issue_client("gate-1", request=request)
    with pytest.raises(TrustError, match="is that of gate-1"):
        ca.issue_client("gate-2", request=request_of(tmp_path / "d", "gate-2"))
    renewed = ca.issue_client("gate-1", request=request_of(tmp_path / "d"))
    assert renewed.key is None, "the same key may be certified anew"
    assert ca.revoke("gate-1") == 2
    with pytest.raises(TrustError, match="was revoked with gate-1"):
        FleetCa(ca.folder).issue_client("gate-1", request=request)
    (tmp_path / "d" / "device.key").unlink()
    assert ca.issue_client("gate-1", request=request_of(tmp_path / "d"))


def test_book_says_whose_key_was_made_where(ca: FleetCa, tmp_path: Path) -> None:
    ca.issue_client("gate-1").write(tmp_path / "d", "device")
    assert not ca.makes_own_key("gate-1")
    ca.issue_client("gate-1", request=request_of(tmp_path / "d"))
    assert not ca.makes_own_key("gate-1"), "asked for on the device, with a key that was made here"
    ca.issue_client("gate-1", request=request_of(tmp_path / "fresh"))
    assert FleetCa(ca.folder).makes_own_key("gate-1")


def test_request_again_keeps_the_key_that_the_agent_connects_with(tmp_path: Path) -> None:
    key, csr, _ = make_request(tmp_path, "gate-1")
    before, first = key.read_bytes(), requested_key(csr.read_bytes(), "gate-1")
    assert make_request(tmp_path, "gate-1")[2] is False
    assert key.read_bytes() == before
    assert requested_key(csr.read_bytes(), "gate-1") == first
    with pytest.raises(UsageError, match="is not a name"):
        make_request(tmp_path / "x", "Gate 1")
    assert not (tmp_path / "x").exists()
    key.write_text("x")
    with pytest.raises(TrustError, match="is not a private key"):
        make_request(tmp_path, "gate-1")
    assert key.read_text() == "x", "what is there is somebody's"


def test_other_key_in_the_folder_is_neither_overwritten_nor_sent_along(tmp_path: Path) -> None:
    request = request_of(tmp_path / "device")
    for content in (b"x", make_request(tmp_path / "other", "gate-1")[0].read_bytes()):
        (tmp_path / "device.key").write_bytes(content)
        with pytest.raises(UsageError, match="is not the key of the certificate request"):
            check_folder(tmp_path, request, "gate-1")
        assert (tmp_path / "device.key").read_bytes() == content
    check_folder(tmp_path / "device", request, "gate-1")
    check_folder(tmp_path / "none", request, "gate-1")


def test_endless_file_is_not_read_to_its_end(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=f"more than the {MAX_REQUEST_BYTES} bytes"):
        read_request(Path("/dev/zero"))
    with pytest.raises(UsageError, match="cannot read"):
        read_request(tmp_path)
    with pytest.raises(TrustError, match="has at most"):
        requested_key(bytes(MAX_REQUEST_BYTES + 1), "gate-1")


GOOD = handmade()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.one_of(st.binary(max_size=300), st.tuples(st.integers(30, len(GOOD) - 40), st.integers(1, 255))))
def test_any_bytes_are_one_typed_error(change: bytes | tuple[int, int]) -> None:
    data = change
    if isinstance(change, tuple):
        flipped = bytearray(x509.load_pem_x509_csr(GOOD).public_bytes(Encoding.DER))
        flipped[change[0] % len(flipped)] ^= change[1]
        data = (
            b"-----BEGIN CERTIFICATE REQUEST-----\n"
            + base64.encodebytes(flipped)
            + b"-----END CERTIFICATE REQUEST-----\n"
        )
    with pytest.raises(TrustError):
        requested_key(data, "gate-1")  # type: ignore[arg-type]
