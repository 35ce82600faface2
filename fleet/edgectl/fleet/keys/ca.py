"""A small certificate authority for one fleet: who may connect to the broker, and as whom.

The common name of a certificate is the name the broker knows its holder by: the device's own, or
:data:`CONTROLLER`. Keys are EC P-256. What a folder of the CA holds: ``ca.key`` (stays here), ``ca.crt``,
``issued.json`` (who got which serial number), ``crl.pem``. A device that makes its own key hands a request in
(:mod:`edgectl.fleet.keys.csr`); the others get one with their certificate.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from pydantic import ValidationError

from edgectl.core.errors import TrustError, UsageError
from edgectl.core.files import atomic_write, check_name, storage
from edgectl.core.schema import Config, first_problem
from edgectl.fleet.keys.csr import requested_key
from edgectl.fleet.keys.pkcs8 import Ask, nobody, open_private, private_pem

__all__ = ["CONTROLLER", "Certificate", "FleetCa", "Issued"]

CONTROLLER = "Controller"
"""The controller's common name. No device can be called so: names of devices have no capitals."""

_ALWAYS = datetime(1970, 1, 1, tzinfo=timezone.utc)
"""Start of the CA's and the broker's certificate: a device whose clock has not been set, and counts from
here, checks them, too."""
_CA_DAYS, _SERVER_DAYS = 20 * 365, 5 * 365


class Issued(Config):
    """One certificate that was given out."""

    serial: str
    """Decimal: larger than JSON readers keep exactly."""
    name: str
    client: bool
    """A device's or the controller's; False: a broker's."""
    expires_s: int
    """Unix time."""
    revoked_s: int | None = None
    key: str | None = None
    """sha256 (hex) of the public key (SubjectPublicKeyInfo). None: an older CA did not write it down."""
    own_key: bool = False
    """The private key was never here: the device made it."""


class _Book(Config):
    issued: tuple[Issued, ...] = ()
    crl_number: int = 0


@dataclass(frozen=True)
class Certificate:
    """PEM files of a new certificate. ``key`` is not kept by the CA; None: it was never here."""

    key: bytes | None
    cert: bytes
    ca: bytes

    def write(self, folder: Path, name: str) -> tuple[Path, ...]:
        """``ca.crt``, ``<name>.crt`` and, if it was made here, ``<name>.key`` (0600), last: what is there
        is complete."""
        atomic_write(folder / "ca.crt", self.ca)
        atomic_write(folder / f"{name}.crt", self.cert)
        if self.key is None:
            return folder / "ca.crt", folder / f"{name}.crt"
        atomic_write(folder / f"{name}.key", self.key, mode=0o600)
        return folder / "ca.crt", folder / f"{name}.crt", folder / f"{name}.key"


class FleetCa:
    def __init__(self, folder: Path, ask: Ask = nobody) -> None:
        """Open. ``ask``: for the passphrase of ``ca.key``, once something has to be signed. Raises
        :class:`TrustError` if there is no CA."""
        self.folder = folder
        self._ask = ask
        try:
            self._pem = (folder / "ca.key").read_bytes()
            self._cert = x509.load_pem_x509_certificate((folder / "ca.crt").read_bytes())
            book = folder / "issued.json"
            self._book = _Book.model_validate_json(book.read_bytes()) if book.is_file() else _Book()
        except OSError as e:
            raise TrustError(
                f"cannot read {e.filename}: {e.strerror}", hint="`edgectl broker ca` makes a CA"
            ) from e
        except (ValueError, TypeError, UnsupportedAlgorithm) as e:
            what = first_problem(e) if isinstance(e, ValidationError) else str(e)
            raise TrustError(
                f"{folder} is not the folder of a CA: {what}", hint="`edgectl broker ca` makes a CA"
            ) from e
        self._key = self._private(None)

    @classmethod
    def create(cls, folder: Path, fleet: str, passphrase: bytes | None = None) -> FleetCa:
        """Make a CA; ``passphrase``: of ``ca.key``. Raises :class:`UsageError` if there is one: another
        would lock every device out."""
        if (folder / "ca.key").exists():
            raise UsageError(f"{folder} has a CA already", hint="use it, or choose another folder")
        check_name(fleet)
        with storage(str(folder)):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        key = _new_key()
        name = _name(f"edgectl fleet {fleet}")
        own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
        usage = _usage(key_cert_sign=True, crl_sign=True)
        cert = (
            _builder(name, name, key.public_key(), _ALWAYS, _now() + timedelta(days=_CA_DAYS))
            .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
            .add_extension(usage, critical=True)
            .add_extension(own, critical=False)
            .sign(key, SHA256())
        )
        atomic_write(folder / "ca.crt", cert.public_bytes(Encoding.PEM))
        atomic_write(folder / "ca.key", private_pem(key, passphrase), mode=0o600)
        made = cls(folder)
        made._key = key
        made._write_crl(made._book)
        return made

    @property
    def certificate(self) -> bytes:
        return self._cert.public_bytes(Encoding.PEM)

    @property
    def crl(self) -> bytes:
        """The current revocation list (PEM)."""
        return (self.folder / "crl.pem").read_bytes()

    def issue_client(self, name: str, *, days: int = 730, request: bytes | None = None) -> Certificate:
        """A certificate with which ``name`` (a device, or :data:`CONTROLLER`) connects. Older ones of the
        name stay valid.

        ``request``: for the key of this PKCS#10 request (PEM); None: for a new one. Raises
        :class:`UsageError` for a bad name, :class:`TrustError` for a bad request and for a key that another
        name has or that was revoked.
        """
        asked = self.check_client(name, request)
        start = _now() - timedelta(days=1)
        if asked is None:
            made = _new_key()
            return self._certificate(
                made, self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, start, days, made.public_key())
            )
        key, own = asked
        return self._certificate(
            None, self._issue(name, ExtendedKeyUsageOID.CLIENT_AUTH, start, days, key, own_key=own)
        )

    def check_client(self, name: str, request: bytes | None) -> tuple[ec.EllipticCurvePublicKey, bool] | None:
        """What :meth:`issue_client` would refuse, before anything is done. Returns the requested key, if
        there is a request, and whether it never was here.
        """
        if name != CONTROLLER:
            try:
                check_name(name)
            except ValueError as e:
                raise UsageError(str(e)) from e
        if request is None:
            return None
        key = requested_key(request, name)
        return key, self._check_known(_key_id(key), name)

    def issue_server(self, hosts: Iterable[str], *, days: int = _SERVER_DAYS) -> Certificate:
        """The broker's certificate for the names and addresses by which clients reach it."""
        names = list(dict.fromkeys(hosts))
        if not names:
            raise UsageError(
                "a broker's certificate needs at least one name or address",
                hint="--host broker.lan --host 10.0.0.2",
            )
        alternatives = x509.SubjectAlternativeName([_alternative(h) for h in names])
        key = _new_key()
        cert = self._issue(
            names[0][:64],
            ExtendedKeyUsageOID.SERVER_AUTH,
            _ALWAYS,
            days,
            key.public_key(),
            alternatives=alternatives,
        )
        return self._certificate(key, cert)

    def revoke(self, name: str) -> int:
        """Revoke every certificate of ``name`` and write ``crl.pem``. Returns how many. Raises
        :class:`UsageError` if there is none."""
        now = int(_now().timestamp())
        mine = [i for i in self._book.issued if i.name == name and i.client]
        if not mine:
            raise UsageError(
                f"this CA has issued no certificate to {name}",
                hint="`edgectl device certificates` lists them",
            )
        fresh = [i for i in mine if i.revoked_s is None]
        issued = tuple(
            i.model_copy(update={"revoked_s": now}) if i in fresh else i for i in self._book.issued
        )
        self._write_crl(self._book.model_copy(update={"issued": issued}))
        return len(fresh)

    def makes_own_key(self, name: str) -> bool:
        """Whether the newest certificate of ``name`` is for a key that never was here."""
        mine = [i for i in self._book.issued if i.name == name and i.client]
        return bool(mine) and mine[-1].own_key

    def issued(self) -> tuple[Issued, ...]:
        """Everything that was ever given out, oldest first."""
        return self._book.issued

    def clients(self) -> tuple[str, ...]:
        """Names that hold a certificate which is neither revoked nor over, without the controller's."""
        now = _now().timestamp()
        good = (i for i in self._book.issued if i.client and i.revoked_s is None and i.expires_s > now)
        return tuple(sorted({i.name for i in good} - {CONTROLLER}))

    def _check_known(self, key: str, name: str) -> bool:
        """A revoked key would let whoever stole it back in; one key for two devices is that of an image that
        was copied with its key.

        Returns whether the key was never here.
        """
        mine = [i for i in self._book.issued if i.key == key]
        for i in mine:
            if i.revoked_s is not None:
                raise TrustError(
                    f"the key of this certificate request was revoked with {i.name}",
                    hint=f"remove device.key on the device, then `edgectl device request {name}` there",
                )
            if i.name != name:
                raise TrustError(
                    f"the key of this certificate request is that of {i.name}",
                    hint=f"each device makes its own: `edgectl device request {name}`",
                )
        return all(i.own_key for i in mine)

    def _issue(
        self,
        name: str,
        use: x509.ObjectIdentifier,
        start: datetime,
        days: int,
        key: ec.EllipticCurvePublicKey,
        *,
        own_key: bool = False,
        alternatives: x509.SubjectAlternativeName | None = None,
    ) -> bytes:
        if not 1 <= days <= _CA_DAYS:
            raise UsageError(f"{days} days: 1 to {_CA_DAYS}")
        end = min(_now() + timedelta(days=days), self._cert.not_valid_after_utc)
        builder = (
            _builder(_name(name), self._cert.subject, key, start, end)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_usage(digital_signature=True), critical=True)
            .add_extension(x509.ExtendedKeyUsage([use]), critical=False)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._signing_key().public_key()),
                critical=False,
            )
        )
        if alternatives is not None:
            builder = builder.add_extension(alternatives, critical=False)
        cert = builder.sign(self._signing_key(), SHA256())
        client = use == ExtendedKeyUsageOID.CLIENT_AUTH
        serial, ends = str(cert.serial_number), int(end.timestamp())
        entry = Issued(
            serial=serial, name=name, client=client, expires_s=ends, key=_key_id(key), own_key=own_key
        )
        # Written down before it is handed out: what is not in the book cannot be revoked.
        self._write_book(self._book.model_copy(update={"issued": (*self._book.issued, entry)}))
        return cert.public_bytes(Encoding.PEM)

    def _signing_key(self) -> ec.EllipticCurvePrivateKey:
        if self._key is None:
            self._key = self._private(self._ask)
        if self._key is None:
            raise UsageError("nothing is signed without the CA's key", hint="give its passphrase")
        return self._key

    def _private(self, ask: Ask | None) -> ec.EllipticCurvePrivateKey | None:
        path = self.folder / "ca.key"
        key = open_private(path, self._pem, ask)
        if key is not None and not isinstance(key, ec.EllipticCurvePrivateKey):
            raise TrustError(f"{path} is not an EC key", hint="`edgectl broker ca` makes a CA")
        return key

    def _certificate(self, key: ec.EllipticCurvePrivateKey | None, cert: bytes) -> Certificate:
        return Certificate(None if key is None else private_pem(key), cert, self.certificate)

    def _write_crl(self, book: _Book) -> None:
        number = book.crl_number + 1
        builder = (
            x509.CertificateRevocationListBuilder()
            .issuer_name(self._cert.subject)
            .last_update(_ALWAYS)
            # It never ends before the CA does: a list that has expired makes OpenSSL refuse every client, and
            # there is nobody on the way to the broker who could withhold a newer one: it is copied there.
            .next_update(self._cert.not_valid_after_utc)
            .add_extension(x509.CRLNumber(number), critical=False)
            .add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(self._signing_key().public_key()),
                critical=False,
            )
        )
        for i in book.issued:
            if i.revoked_s is not None:
                at = datetime.fromtimestamp(i.revoked_s, timezone.utc)
                entry = (
                    x509.RevokedCertificateBuilder().serial_number(int(i.serial)).revocation_date(at).build()
                )
                builder = builder.add_revoked_certificate(entry)
        crl = builder.sign(self._signing_key(), SHA256())
        self._write_book(book.model_copy(update={"crl_number": number}))
        atomic_write(self.folder / "crl.pem", crl.public_bytes(Encoding.PEM))

    def _write_book(self, book: _Book) -> None:
        atomic_write(self.folder / "issued.json", book.model_dump_json(indent=1).encode(), mode=0o600)
        self._book = book


def _now() -> datetime:
    return datetime.now(timezone.utc).replace(microsecond=0)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common)])


def _builder(
    subject: x509.Name, issuer: x509.Name, key: ec.EllipticCurvePublicKey, start: datetime, end: datetime
) -> x509.CertificateBuilder:
    made = x509.CertificateBuilder().subject_name(subject).issuer_name(issuer).public_key(key)
    return made.serial_number(x509.random_serial_number()).not_valid_before(start).not_valid_after(end)


def _usage(
    *, digital_signature: bool = False, key_cert_sign: bool = False, crl_sign: bool = False
) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=digital_signature,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=key_cert_sign,
        crl_sign=crl_sign,
        encipher_only=False,
        decipher_only=False,
    )


def _alternative(host: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(host))
    except ValueError:
        pass
    try:
        return x509.DNSName(host)
    except ValueError as e:
        raise UsageError(f"{host!r} is neither a host name nor an address") from e


def _new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def _key_id(key: ec.EllipticCurvePublicKey) -> str:
    return hashlib.sha256(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)).hexdigest()
