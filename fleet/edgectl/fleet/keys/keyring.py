"""The private keys that lie on a host: found by their id, and opened only where their signature is needed.

A key with a passphrase is known by its public half (``ann.pub`` beside ``ann.pem``), so that nobody is asked
for the passphrase of a key that has nothing to sign; without that file, it has to be opened to tell.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from securesystemslib.exceptions import UnsupportedLibraryError
from securesystemslib.signer import CryptoSigner, Key

from edgectl.core.errors import TrustError, UsageError
from edgectl.core.files import atomic_write
from edgectl.fleet.keys.pkcs8 import Ask, nobody, open_private, private_pem
from edgectl.fleet.keys.signing import load_public, read

__all__ = ["KeyFile", "KeyRing"]


@dataclass(frozen=True)
class KeyFile:
    """A private key on this host."""

    path: Path
    keyid: str | None
    """None: it has a passphrase and no public half beside it."""
    locked: bool
    """It has a passphrase that was not needed so far."""
    pem: bytes = field(repr=False)

    @property
    def public(self) -> Path:
        """Where its public half belongs."""
        return self.path.with_suffix(".pub")


class KeyRing:
    """The keys of a folder that a command works on, and those on other media. A passphrase is asked for
    once."""

    def __init__(self, places: Iterable[Path] = (), ask: Ask = nobody) -> None:
        """``places``: files, or folders of ``*.pem``, on other media."""
        self._places = tuple(places)
        self._ask = ask
        # by the file's content; None: nobody gave its passphrase
        self._opened: dict[bytes, CryptoSigner | None] = {}

    def lying_in(self, *places: Path) -> list[KeyFile]:
        """Every key in the folders and files among ``places``: first those without a passphrase, last those
        whose id is unknown.

        Nobody is asked. Raises :class:`TrustError` for a file that is no private key.
        """
        paths = [f for place in places for f in (sorted(place.glob("*.pem")) if place.is_dir() else [place])]
        found = [self._look(path) for path in dict.fromkeys(paths)]
        return sorted(found, key=lambda f: (f.locked, f.keyid is None))

    def signers(self, needed: Iterable[tuple[Collection[str], int]], *places: Path) -> list[CryptoSigner]:
        """Keys here whose signature is needed. ``needed``: sets of key ids, and how many of each have to
        sign.

        Raises :class:`TrustError`, and what asking for a passphrase raises.
        """
        sets = [(frozenset(ids), count) for ids, count in needed]
        found: dict[str, CryptoSigner] = {}
        for file in self.lying_in(*places, *self._places):
            wanted = {k for ids, count in sets if len(ids & found.keys()) < count for k in ids} - found.keys()
            if not wanted:
                break
            if file.keyid is not None and file.keyid not in wanted:
                continue
            signer = self._open(file)
            if signer is not None and signer.public_key.keyid in wanted:
                found[signer.public_key.keyid] = signer
        return list(found.values())

    def make(self, path: Path, passphrase: bytes | None = None) -> Key:
        """Make a key at ``path`` (0600) and its public half beside it. Raises :class:`UsageError` if one
        of them is there."""
        public = path.with_suffix(".pub")
        if path.exists() or public.exists():
            raise UsageError(
                f"{path if path.exists() else public} is there already",
                hint="choose another name; was a rotation begun before? see `pending/`",
            )
        key = Ed25519PrivateKey.generate()
        pem = private_pem(key, passphrase)
        atomic_write(path, pem, mode=0o600)
        atomic_write(public, _public_pem(key))
        signer = CryptoSigner(key)
        if passphrase is not None:
            self._opened[pem] = signer  # who has just chosen it is not asked for it
        return signer.public_key

    def change_passphrase(self, path: Path, choose: Callable[[], bytes] | None) -> None:
        """Write a private key (also a CA's) with another passphrase, or with none. Raises as
        :func:`open_private`.

        ``choose`` is called once the key is open.
        """
        key = open_private(path, read(path), self._ask)
        if key is None:
            raise UsageError(f"{path} stays as it is: its passphrase was not given")
        atomic_write(path, private_pem(key, choose() if choose is not None else None), mode=0o600)
        if path.suffix == ".pem" and not path.with_suffix(".pub").exists():
            atomic_write(path.with_suffix(".pub"), _public_pem(key))

    def _look(self, path: Path) -> KeyFile:
        pem = read(path)
        if signer := self._opened.get(pem):
            return KeyFile(path, signer.public_key.keyid, False, pem)
        key = open_private(path, pem, None)
        if key is not None:
            return KeyFile(path, _signer(path, key).public_key.keyid, False, pem)
        public = path.with_suffix(".pub")
        return KeyFile(path, load_public(public).keyid if public.is_file() else None, True, pem)

    def _open(self, file: KeyFile) -> CryptoSigner | None:
        if file.pem not in self._opened:
            key = open_private(file.path, file.pem, self._ask)
            signer = None if key is None else _signer(file.path, key)
            if signer is not None and file.keyid not in (None, signer.public_key.keyid):
                raise TrustError(
                    f"{file.public} is not the public half of {file.path}", hint=f"remove {file.public}"
                )
            if not file.locked:
                return signer
            self._opened[file.pem] = signer
        return self._opened[file.pem]


def _signer(path: Path, key: PrivateKeyTypes) -> CryptoSigner:
    try:
        return CryptoSigner(key)
    except (ValueError, TypeError, UnsupportedLibraryError) as e:
        raise TrustError(
            f"{path} is a key of a kind that cannot sign here", hint="`edgectl keys new FILE` makes one"
        ) from e


def _public_pem(key: PrivateKeyTypes) -> bytes:
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
