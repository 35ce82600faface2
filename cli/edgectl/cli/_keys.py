"""How a command finds the keys that it signs with, and what new ones it makes. Passphrases are asked for where
they are needed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from edgectl.cli._options import OptionGroup

if TYPE_CHECKING:
    from edgectl.fleet.keys.ceremony import KeySet
    from edgectl.fleet.keys.keyring import KeyRing

__all__ = ["KEYS", "KeySetOptions", "Keys", "NewPassphrase", "SigningOptions", "key_ring", "new_passphrase"]

Keys = Annotated[Path, typer.Option(help="Folder that `edgectl keys init` made.")]
NewPassphrase = Annotated[
    bool,
    typer.Option(
        "--passphrase",
        help="Encrypt new private keys. The passphrase is asked for, or read from EDGECTL_PASSPHRASE_FILE.",
    ),
]
KEYS = Path("keys")


@dataclass(frozen=True)
class SigningOptions(OptionGroup):
    """The folder of keys, and keys on other media."""

    keys: Keys = KEYS
    key: Annotated[
        list[Path] | None,
        typer.Option("--key", help="A private key, or a folder of them, on another medium; may be repeated."),
    ] = None

    def ring(self) -> KeyRing:
        return key_ring(self.key)


@dataclass(frozen=True)
class KeySetOptions(OptionGroup):
    """Which keys sign from now on, and how many of them must."""

    count: Annotated[int, typer.Option("--new", min=0, max=16, help="Keys to make here.")] = 1
    threshold: Annotated[int, typer.Option(min=1, max=16, help="Keys that must sign.")] = 1
    public: Annotated[
        list[Path] | None, typer.Option(help="Public key that its owner hands over; may be repeated.")
    ] = None
    passphrase: NewPassphrase = False

    def key_set(self, count: int | None = None) -> KeySet:
        """Asks for the passphrase of new keys. ``count`` goes before ``--new``."""
        from edgectl.fleet.keys.ceremony import KeySet

        made = self.count if count is None else count
        return KeySet(made, self.threshold, tuple(self.public or ()), new_passphrase(self.passphrase))


def key_ring(more: Iterable[Path] | None) -> KeyRing:
    """The keys on other media, and who is asked for passphrases."""
    from edgectl.cli._passphrase import ask
    from edgectl.fleet.keys.keyring import KeyRing

    return KeyRing(more or (), ask)


def new_passphrase(wanted: bool) -> bytes | None:
    from edgectl.cli import _passphrase

    return _passphrase.choose() if wanted else None
