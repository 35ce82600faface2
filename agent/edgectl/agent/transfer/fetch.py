"""Bring a bundle's blobs to this device: signed index → manifests and configs → the chosen variant's layers.

Each fetch has a bulk connection of its own, so that chunks never delay commands
(:mod:`edgectl.agent.transfer.download`).
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from edgectl.agent.state.records import Installed, LighterEngine, SetEngine
from edgectl.agent.state.store import Store
from edgectl.agent.transfer.download import Download, FetchProgress
from edgectl.core.bundle import (
    ANNOTATION_RUNTIME,
    ANNOTATION_TYPE,
    MAX_INDEX_BYTES,
    MAX_JSON_BYTES,
    Descriptor,
    Index,
    LighterPreference,
    Manifest,
    Preference,
    Unfit,
    Variant,
    select,
    select_fitting,
    select_lighter,
)
from edgectl.core.bundle.choice import Selected
from edgectl.core.bundle.config_release import MAX_CONFIG_BYTES, ConfigDocument, ConfigRelease
from edgectl.core.errors import BundleError, StorageError
from edgectl.core.schema import parse_json
from edgectl.core.wire import Topics
from edgectl.link.mqtt import Link

__all__ = ["Fetched", "Fetcher", "MachineFacts", "WantedPart"]


class MachineFacts(Protocol):
    """What this machine can run (:func:`edgectl.device_profiles.machine.probe`)."""

    @property
    def facts(self) -> frozenset[str]: ...

    @property
    def runtimes(self) -> Collection[str]: ...


@dataclass(frozen=True)
class Fetched:
    """Everything lies in the store."""

    chosen: Installed
    fallback: Installed | None


@dataclass(frozen=True)
class WantedPart:
    """An engine of a set: for which part and slot, and which variant of its release."""

    part: str
    slot: str
    release: str
    index: Descriptor
    """As it is signed."""
    prefer: Preference | None
    unfit: Unfit


@dataclass
class Fetcher:
    """``open_link`` makes an unstarted bulk connection. One fetch at a time (the caller's lock): slots may
    share blobs."""

    open_link: Callable[[], Link]
    topics: Topics
    device: str
    epoch: int
    store: Store
    machine: MachineFacts
    profile: str | None = None
    bps: int | None = None
    """Bytes/s that this device wants to receive at most; None: no limit."""
    site: str | None = None
    clock: Callable[[], float] = time.monotonic

    def fetch(
        self,
        release: str,
        index: Descriptor,
        cancelled: Callable[[], bool],
        progress: Callable[[FetchProgress], None],
        prefer: Preference | None = None,
        lighter: Collection[LighterPreference] = (),
        unfit: Unfit = lambda variant: None,
    ) -> Fetched:
        """Fetch what this machine needs of a bundle; of several variants that fit, the one that has the
        ``prefer``. Those that are ``lighter`` come behind it, as far as there are any and they can be had.

        One that is ``unfit`` is passed over. An engine that came packed lies there decoded, too. Raises :class:`IntegrityError` (what arrives is
        not what was signed), :class:`BundleError` (no variant runs here, or the bundle is malformed),
        :class:`AdmissionError` (each that runs is unfit), :class:`StorageError` (no space), :class:`Cancelled`.
        """
        with self.open_link() as link, contextlib.ExitStack() as stack:
            link.start()
            download = stack.enter_context(self._download(link, cancelled, progress))
            variants, selected = self._choose(download, release, index, prefer, unfit)
            chosen, runtimes = selected.variant, self.machine.runtimes
            fallback = self._fallback(variants)
            wanted = [chosen] if fallback is None or fallback.digest == chosen.digest else [chosen, fallback]
            self._get(download, wanted)
            others = select_lighter(variants, chosen, self.machine.facts, runtimes=runtimes, names=lighter)
            brought = tuple(self._bring(download, name, others.get(name)) for name in lighter)
        return Fetched(
            chosen=Installed(
                release=release,
                bundle=index.digest,
                manifest=chosen.digest,
                preference=prefer,
                lighter=brought,
                passed_over=tuple(selected.passed_over.items()),
            ),
            fallback=None
            if fallback is None
            else Installed(release=release, bundle=index.digest, manifest=fallback.digest),
        )

    def fetch_config(
        self,
        release: str,
        index: Descriptor,
        cancelled: Callable[[], bool],
        progress: Callable[[FetchProgress], None],
        parts: Callable[[ConfigRelease], Collection[WantedPart]] = lambda release: (),
    ) -> Fetched:
        """Fetch a release that is a configuration. Of a set ``parts`` says which engines come with it; there is room for
        all of them before any is fetched. Raises like :meth:`fetch`, and like ``parts``; :class:`BundleError` for one
        that is a bundle of engines."""
        _check_size(release, index)
        with self.open_link() as link:
            link.start()
            with self._download(link, cancelled, progress) as download:
                download.get([index])
                parsed = self._index(index)
                if parsed.annotations.get(ANNOTATION_TYPE) != "config" or len(parsed.manifests) != 1:
                    raise BundleError(f"{release} is no configuration, and this slot holds one")
                (at,) = parsed.manifests
                download.get([at])
                manifest = _manifest(self.store, at)
                blobs = [manifest.config, *manifest.layers]
                if (size := sum(d.size for d in blobs)) > MAX_CONFIG_BYTES + MAX_JSON_BYTES:
                    raise BundleError(f"the configuration {release} has {size} bytes, more than there may be")
                self.store.check_space(size, begun=blobs)
                download.get(blobs)
                document = ConfigDocument.open(self.store.blobs, at.digest)
                wanted = list(parts(document.config)) if document.config.parts else []
                chosen = [self._choose(download, w.release, w.index, w.prefer, w.unfit)[1] for w in wanted]
                self._get(download, [one.variant for one in chosen])
        engines = tuple(
            SetEngine(part=w.part, slot=w.slot, engine=_part_installed(w, one))
            for w, one in zip(wanted, chosen, strict=True)
        )
        return Fetched(
            chosen=Installed(release=release, bundle=index.digest, manifest=at.digest, parts=engines),
            fallback=None,
        )

    def _choose(
        self, download: Download, release: str, index: Descriptor, prefer: Preference | None, unfit: Unfit
    ) -> tuple[list[Variant], Selected]:
        """Manifests and configs of a bundle, and the variant that this machine takes. Raises like :meth:`fetch`."""
        _check_size(release, index)
        download.get([index])
        parsed = self._index(index)
        if parsed.annotations.get(ANNOTATION_TYPE) == "config":
            raise BundleError(f"{release} is a configuration, and this slot holds engines")
        runtimes = self.machine.runtimes
        candidates = [
            d for d in parsed.manifests if d.annotations.get(ANNOTATION_RUNTIME) in (None, *runtimes)
        ]
        download.get(candidates)
        manifests = [_manifest(self.store, d) for d in candidates]
        download.get([m.config for m in manifests])
        variants = [Variant.open(self.store.blobs, d.digest) for d in candidates]
        return variants, select_fitting(
            variants,
            self.machine.facts,
            profile=self.profile,
            runtimes=runtimes,
            prefer=prefer,
            unfit=unfit,
        )

    def _index(self, index: Descriptor) -> Index:
        return parse_json(
            Index,
            self.store.read(index.digest, MAX_INDEX_BYTES),
            max_bytes=MAX_INDEX_BYTES,
            what="index.json",
            error=BundleError,
        )

    def _get(self, download: Download, wanted: Sequence[Variant]) -> None:
        """The layers of variants whose manifests and configs are here, if there is room for them."""
        lacking = {
            d.digest: d for v in wanted for d in v.installed() if not self.store.has(d.digest)
        }.values()
        self.store.check_space(sum(d.size for d in lacking), begun=lacking)
        download.get([d for v in wanted for d in v.descriptors()])
        for v in wanted:
            self._unpack(v)

    def _bring(self, download: Download, name: LighterPreference, variant: Variant | None) -> LighterEngine:
        """One that is not there, or cannot be had, is left out: it is nothing that a release fails for."""
        one = LighterEngine(preference=name)
        if variant is None:
            return one.left_out("the bundle has no other variant of this kind for this machine")
        try:
            self._get(download, [variant])
        except (BundleError, StorageError) as e:  # IntegrityError is one
            return one.left_out(e.message)
        return LighterEngine(preference=name, manifest=variant.digest)

    def fetch_blob(
        self, blob: Descriptor, cancelled: Callable[[], bool], progress: Callable[[FetchProgress], None]
    ) -> None:
        """Fetch one blob that lies in the store afterwards until somebody tidies up. Raises like
        :meth:`fetch`."""
        self.fetch_blobs([blob], cancelled, progress)

    def fetch_blobs(
        self,
        blobs: Sequence[Descriptor],
        cancelled: Callable[[], bool],
        progress: Callable[[FetchProgress], None],
    ) -> None:
        """The same with several over one connection; with none there is none."""
        lacking = [d for d in blobs if not self.store.has(d.digest)]
        self.store.check_space(sum(d.size for d in lacking), begun=lacking)
        if all(self.store.holds(d) for d in blobs):
            return
        with self.open_link() as link:
            link.start()
            with self._download(link, cancelled, progress) as download:
                download.get(blobs)

    def _download(
        self, link: Link, cancelled: Callable[[], bool], progress: Callable[[FetchProgress], None]
    ) -> Download:
        return Download(
            link,
            self.store,
            self.topics,
            self.device,
            cancelled,
            progress,
            epoch=self.epoch,
            bps=self.bps,
            site=self.site,
            clock=self.clock,
        )

    def _unpack(self, variant: Variant) -> None:
        """Decode a packed engine into the store: from here on it is a blob like any other, under the
        digest that was signed."""
        unpacked = variant.config.unpacked
        if unpacked is not None and not self.store.holds(unpacked):
            self.store.put(unpacked.digest, variant.unpack())

    def _fallback(self, variants: Sequence[Variant]) -> Variant | None:
        """The CPU variant to fall back to, where the bundle has one for this machine."""
        fallbacks = [v for v in variants if v.config.fallback]
        try:
            return select(fallbacks, self.machine.facts, profile=self.profile, runtimes=self.machine.runtimes)
        except BundleError:
            return None  # the previous engine remains the way back


def _part_installed(wanted: WantedPart, selected: Selected) -> Installed:
    return Installed(
        release=wanted.release,
        bundle=wanted.index.digest,
        manifest=selected.variant.digest,
        preference=wanted.prefer,
        passed_over=tuple(selected.passed_over.items()),
    )


def _check_size(release: str, index: Descriptor) -> None:
    if index.size > MAX_INDEX_BYTES:
        raise BundleError(
            f"the index of release {release} has {index.size} bytes, more than {MAX_INDEX_BYTES}"
        )


def _manifest(store: Store, d: Descriptor) -> Manifest:
    data = store.read(d.digest, MAX_JSON_BYTES)
    return parse_json(Manifest, data, max_bytes=MAX_JSON_BYTES, what="variant manifest", error=BundleError)
