from __future__ import annotations

import json
import time
from datetime import datetime, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from edgectl.core.errors import TrustError, UsageError
from edgectl.fleet.keys.ca import CONTROLLER, FleetCa


def of(cert: bytes) -> x509.Certificate:
    return x509.load_pem_x509_certificate(cert)


@pytest.fixture
def ca(tmp_path: Path) -> FleetCa:
    return FleetCa.create(tmp_path / "ca", "home")


def test_certificate_names_its_device_and_may_do_nothing_but_connect(ca: FleetCa, tmp_path: Path) -> None:
    issued = ca.issue_client("gate-1", days=100)
    cert = of(issued.cert)
    assert [a.value for a in cert.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["gate-1"]
    assert list(cert.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        ExtendedKeyUsageOID.CLIENT_AUTH
    ]
    assert not cert.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    assert 99 <= (cert.not_valid_after_utc - datetime.now(timezone.utc)).days <= 100
    cert.verify_directly_issued_by(of(ca.certificate))
    _, _, key = issued.write(tmp_path / "d", "device")
    assert key.stat().st_mode & 0o777 == 0o600
    assert load_pem_private_key(key.read_bytes(), None).public_key() == cert.public_key()


def test_device_without_a_clock_can_check_the_broker(ca: FleetCa) -> None:
    server = of(ca.issue_server(["broker.lan", "10.0.0.2"]).cert)
    for cert in (server, of(ca.certificate)):
        assert cert.not_valid_before_utc.timestamp() == 0, "where a clock without a battery begins"
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["broker.lan"]
    assert [str(a) for a in names.get_values_for_type(x509.IPAddress)] == ["10.0.0.2"]


def test_revoked_names_stay_revoked_and_can_be_given_out_again(ca: FleetCa) -> None:
    first, second = of(ca.issue_client("gate-1").cert), of(ca.issue_client("gate-1").cert)
    other = of(ca.issue_client("gate-2").cert)
    assert ca.revoke("gate-1") == 2
    third = of(FleetCa(ca.folder).issue_client("gate-1").cert)
    crl = x509.load_pem_x509_crl(FleetCa(ca.folder).crl)
    assert crl.is_signature_valid(of(ca.certificate).public_key())  # type: ignore[arg-type]
    assert {r.serial_number for r in crl} == {first.serial_number, second.serial_number}
    assert not {third.serial_number, other.serial_number} & {r.serial_number for r in crl}
    assert crl.next_update_utc == of(ca.certificate).not_valid_after_utc, (
        "a list that ends makes OpenSSL refuse everybody"
    )
    assert FleetCa(ca.folder).clients() == ("gate-1", "gate-2")
    assert FleetCa(ca.folder).revoke("gate-1") == 1
    numbers = [
        x509.load_pem_x509_crl(FleetCa(ca.folder).crl)
        .extensions.get_extension_for_class(x509.CRLNumber)
        .value.crl_number
    ]
    assert numbers == [3]


def test_no_device_can_be_called_as_the_controller_is(ca: FleetCa) -> None:
    assert ca.issue_client(CONTROLLER)
    assert ca.clients() == ()
    for name in ("controller ", "CONTROLLER", "a/b", "+", "#", "", "x" * 65):
        with pytest.raises(UsageError):
            ca.issue_client(name)
    with pytest.raises(UsageError, match="no certificate to gate-7"):
        ca.revoke("gate-7")


def test_second_ca_is_never_made_over_the_first(ca: FleetCa) -> None:
    before = (ca.folder / "ca.key").read_bytes()
    with pytest.raises(UsageError, match="has a CA already"):
        FleetCa.create(ca.folder, "home")
    assert (ca.folder / "ca.key").read_bytes() == before
    assert (ca.folder / "ca.key").stat().st_mode & 0o777 == 0o600


def test_broken_folder_is_one_sentence(tmp_path: Path, ca: FleetCa) -> None:
    with pytest.raises(TrustError, match="cannot read") as e:
        FleetCa(tmp_path / "none")
    assert "broker ca" in (e.value.hint or "")
    (ca.folder / "issued.json").write_text('{"issued": 3}')
    with pytest.raises(TrustError, match="not the folder of a CA: issued"):
        FleetCa(ca.folder)
    (ca.folder / "issued.json").unlink()
    (ca.folder / "ca.crt").write_text("x")
    with pytest.raises(TrustError, match="not the folder of a CA"):
        FleetCa(ca.folder)


def test_book_knows_every_serial_number_before_it_is_handed_out(ca: FleetCa) -> None:
    cert = of(ca.issue_client("gate-1").cert)
    (entry,) = FleetCa(ca.folder).issued()
    assert (int(entry.serial), entry.name, entry.revoked_s) == (cert.serial_number, "gate-1", None)
    assert entry.expires_s > time.time()


def test_book_of_an_older_ca_is_read(ca: FleetCa) -> None:
    ca.issue_client("gate-1")
    book = json.loads((ca.folder / "issued.json").read_text())
    for entry in book["issued"]:
        del entry["key"], entry["own_key"]
    (ca.folder / "issued.json").write_text(json.dumps(book))
    assert FleetCa(ca.folder).clients() == ("gate-1",)
    assert not FleetCa(ca.folder).makes_own_key("gate-1")
