"""A device that can be attacked: its own trust store and journal, with clocks that a test sets."""

from __future__ import annotations

import shutil
from pathlib import Path

from securesystemslib.signer import CryptoSigner
from support_tuf import DIGEST, RELEASE, Repository

from edgectl.agent.journal import Journal
from edgectl.agent.trust import TrustStore
from edgectl.core.trust import seal_desired
from edgectl.core.wire import Desired, DesiredSlot

DAY = 86400.0


class Device:
    """A store with clocks of its own."""

    def __init__(self, folder: Path, repository: Repository, profile: str | None = "cam") -> None:
        self.folder = folder
        self.root = repository.roots["1.root.json"]
        self.wall = repository.now
        self.steady = 1000.0
        self.profile = profile
        self.journal = Journal(folder / "journal.db")
        self.store = self.boot()

    def boot(self) -> TrustStore:
        """Start again: from here on, what is not on disk is forgotten."""
        self.store = TrustStore(
            self.folder / "trust", self.root, self.journal, profile=self.profile,
            wall=lambda: self.wall, steady=lambda: self.steady, built_s=1.0,
        )  # fmt: skip
        return self.store

    def lose_files(self) -> None:
        """A power cut takes everything but the journal."""
        shutil.rmtree(self.folder / "trust")
        self.boot()

    def sleep(self, days: float, *, clock: bool = True) -> None:
        self.steady += days * DAY
        self.wall += days * DAY if clock else 0.0

    def desired(self, gen: int, *signers: CryptoSigner, fleet: str = "home", device: str = "gate-1") -> bytes:
        wish = Desired(gen=gen, slots={"gate": DesiredSlot(release=RELEASE, digest=DIGEST)})
        return seal_desired(fleet, device, wish, list(signers))

    def wants(self, payload: bytes) -> Desired:
        return self.store.accept_desired(payload, "home", "gate-1")
