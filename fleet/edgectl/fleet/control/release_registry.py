"""Adds and withdraws releases: the signed metadata that name them, and the blobs they are made of.

What signs and checks is in :mod:`edgectl.fleet.keys.trust`, what lies on disk in
:mod:`edgectl.fleet.control.blobs`, what is removed when nothing names it any more in
:mod:`edgectl.fleet.control.garbage_collector`.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Mapping

from edgectl.core.errors import EdgectlError, RolloutError, TrustError, UsageError
from edgectl.core.licence import LicencePolicy
from edgectl.core.transfer import DeltaOffer
from edgectl.core.trust import release_name
from edgectl.fleet.broker.publisher import Publisher
from edgectl.fleet.control.blobs import BlobStore
from edgectl.fleet.control.devices import Devices
from edgectl.fleet.control.garbage_collector import GarbageCollector
from edgectl.fleet.control.licences import check_licences
from edgectl.fleet.control.steering import Steering
from edgectl.fleet.keys.trust import Director, OnlineTrust
from edgectl.fleet.store.inventory import Inventory, Release

__all__ = ["ReleaseRegistry"]

log = logging.getLogger(__name__)


class ReleaseRegistry:
    """Thread-safe."""

    def __init__(
        self,
        fleet: str,
        blobs: BlobStore,
        trust: OnlineTrust,
        director: Director,
        inventory: Inventory,
        devices: Devices,
        steering: Steering,
        publisher: Publisher,
        collector: GarbageCollector,
        licences: LicencePolicy,
    ) -> None:
        self._fleet = fleet
        self._blobs = blobs
        self._trust = trust
        self._director = director
        self._inventory = inventory
        self._devices = devices
        self._steering = steering
        self._publisher = publisher
        self._collector = collector
        self._licences = licences

    def offer_all(self, progress: Callable[[], None]) -> None:
        """Let devices know how to fetch every release. One that is not whole here holds up nothing else.
        ``progress`` is called at each."""
        for release in self._inventory.releases().values():
            progress()
            try:
                self._publisher.offer(self._blobs.offered(release.digest))
            except EdgectlError as e:
                log.error("release %s cannot be offered: %s", release.release, e.message)
        self._publisher.offer(filter(self._blobs.has, self._trust.plans()))

    def add(
        self, release: str, digest: str, files: Mapping[str, bytes], delta_from: str | None = None
    ) -> Release:
        """Take a release whose blobs are here and whose signed targets (or delegation) among ``files`` name
        it. For devices that have the release ``delta_from`` (None: the one of this name before it; "": none),
        make differences to its engines.

        Raises :class:`TrustError`, :class:`BundleError`, :class:`IntegrityError`, or :class:`UsageError` (its
        licence).
        """
        name, _, version = release.partition("@")
        release_name(name, version)
        with self._collector.naming:
            return self._take(release, digest, files, delta_from)

    def accept_trust(
        self, files: Mapping[str, bytes], withdraw: Iterable[str] = (), *, stop_rollouts: bool = False
    ) -> None:
        """Take newer roots, targets and delegations, e.g. after a key ceremony, and tell every device.

        ``withdraw``: releases that the new targets no longer name; no device installs them from then on, and
        what only they needed of the blobs here is removed. Raises :class:`TrustError`, and
        :class:`RolloutError` where a rollout is under way that needs one of them: nothing is done unless
        ``stop_rollouts`` says that it be aborted.
        """
        gone = tuple(withdraw)
        self._collector.expect(gone)
        with self._devices.lock:
            if not stop_rollouts:
                self._check_in_no_set(gone)
                self._steering.check_unused(gone)
            new = {n: data for n, data in files.items() if data != self._trust.files().get(n)}
            if new:
                self._trust.accept(new, withdraw=gone)
                self._director.refresh()
                self._inventory.log("trust", self._fleet, f"accepted {', '.join(sorted(new))}")
            for release in gone:
                if not self._trust.names(release):
                    self._inventory.drop_release(release)
                    self._inventory.log("release", release, "withdrawn")
                    for needs_it in (release, *self._sets_with(release)):
                        self._steering.abort_all_of(needs_it, f"{release} was withdrawn")

    def _take(self, release: str, digest: str, files: Mapping[str, bytes], delta_from: str | None) -> Release:
        if not self._blobs.has(digest):
            raise UsageError(f"the index of {release} was not uploaded", hint="upload blobs first")
        closure = self._blobs.closure(digest)
        check_licences(self._licences, self._blobs.configs(digest))
        self._check_parts(release, digest)
        new = {n: data for n, data in files.items() if data != self._trust.files().get(n)}
        if new:
            self._trust.accept(new)
        self._publisher.trust_changed()
        named = [profiles for d, profiles in self._trust.names(release).values() if d == digest]
        if not named:
            raise TrustError(
                f"the signed targets do not name {release} with this digest", hint="sign the release first"
            )
        known = self._inventory.releases().get(release)
        created = known.created_s if known else time.time()
        found = Release(release, digest, named[0], created)
        deltas = self._make_deltas(found, delta_from)
        offered = self._blobs.offered(digest)
        for blob in offered:
            # remembered: on this thread nobody waits for a large one
            self._blobs.hashes(blob)
        self._inventory.save_release(found)
        self._blobs.arrived(offered)
        self._inventory.log("release", release, f"published, {len(closure) + 1} blobs, {len(deltas)} deltas")
        self._publisher.offer(offered)
        return found

    def _check_parts(self, release: str, digest: str) -> None:
        """The engines of a set are published, just these, and there are devices for all of them. Raises
        :class:`UsageError`."""
        parts = self._blobs.type_of(digest).parts
        known = self._inventory.releases()
        profiles: dict[str, frozenset[str]] = {}
        for part, one in parts.items():
            found = known.get(one.release)
            if found is None or found.digest != one.digest:
                raise UsageError(
                    f"{release} names {one.release} for its part {part}, which is not published as that",
                    hint="publish the set again: it takes the digests of releases as they are now",
                )
            if (sort := self._blobs.type_of(found.digest).name) != "engine":
                raise UsageError(
                    f"{release} names {one.release} for its part {part}, which is a {sort} and no bundle of engines",
                    hint="`edgectl release list` says what each release is",
                )
            profiles[part] = frozenset(found.profiles)
        if parts and not frozenset.intersection(*profiles.values()):
            each = "; ".join(f"{part} for {', '.join(sorted(p)) or 'none'}" for part, p in profiles.items())
            raise UsageError(
                f"no device profile has engines for all parts of {release}: {each}",
                hint="build the parts for the same profiles",
            )

    def _sets_with(self, release: str) -> list[str]:
        """Published sets that name it."""
        found = []
        for other in self._inventory.releases().values():
            try:
                parts = self._blobs.type_of(other.digest).parts
            except EdgectlError as e:
                log.warning("blobs of %s: %s", other.release, e.message)
                continue
            if any(one.release == release for one in parts.values()):
                found.append(other.release)
        return found

    def _check_in_no_set(self, gone: tuple[str, ...]) -> None:
        """Raises :class:`RolloutError` where a set that stays names one of these."""
        for release in gone:
            if left := [s for s in self._sets_with(release) if s not in gone]:
                raise RolloutError(
                    f"{release} is not withdrawn: the set {left[0]} needs it, which no device could install any more",
                    hint=f"withdraw {left[0]} first, or `edgectl release withdraw {release} --yes`",
                )

    def _make_deltas(self, new: Release, delta_from: str | None) -> list[DeltaOffer]:
        releases = self._inventory.releases()
        if delta_from:
            if delta_from not in releases:
                raise UsageError(
                    f"there is no release {delta_from}", hint="`edgectl release list` lists them"
                )
            return self._blobs.make_deltas(new.digest, releases[delta_from].digest)
        name = new.release.partition("@")[0]
        before = [
            r
            for r in releases.values()
            if r.release.partition("@")[0] == name and r.created_s < new.created_s
        ]
        if delta_from == "" or not before:
            return []
        return self._blobs.make_deltas(new.digest, max(before, key=lambda r: r.created_s).digest)
