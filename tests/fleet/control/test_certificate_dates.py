from __future__ import annotations

from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from edgectl.fleet.control.certificate_dates import CertificateDates
from edgectl.link.config import BrokerConfig

DAY = datetime(2030, 1, 1, tzinfo=timezone.utc)


def certificate(end: datetime) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "c")])
    made = x509.CertificateBuilder(name, name, key.public_key(), 1, end - timedelta(days=9), end)
    return made.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def test_end_of_each_file_is_that_of_its_first_certificate_to_end(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "cert.pem").write_bytes(certificate(DAY) + certificate(DAY - timedelta(days=2)))
    (tmp_path / "ca.pem").write_text("no certificate")
    now_s = 0.0
    dates = CertificateDates(
        BrokerConfig(host="b", tls=True, ca=tmp_path / "ca.pem", cert=tmp_path / "cert.pem"), lambda: now_s
    )
    assert dates.ends() == {"the controller's certificate": (DAY - timedelta(days=2)).timestamp()}
    assert "ca.pem cannot be read" in caplog.text
    (tmp_path / "cert.pem").write_bytes(certificate(DAY))
    now_s = 3599.0
    assert dates.ends()["the controller's certificate"] < DAY.timestamp()
    now_s = 3600.0
    assert dates.ends()["the controller's certificate"] == DAY.timestamp()
    assert CertificateDates(BrokerConfig(host="b")).ends() == {}
