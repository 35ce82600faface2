"""Streams whose configuration comes from a slot: what the deployer of such a slot asks of them.

What stands in ``agent.toml`` is the first configuration of a stream, and the one of a slot that is empty. Nothing here
decides whether a configuration is kept.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from edgectl.agent.config import StreamConfig
from edgectl.agent.streams.config_requests import check_config, configure_stream
from edgectl.agent.streams.engine_requests import Interrupted, commit_engine
from edgectl.agent.streams.set_engines import Wanted, engines_of
from edgectl.agent.streams.supervised_stream import SupervisedStream
from edgectl.agent.streams.supervisor import Supervisor
from edgectl.core.bundle import Variant
from edgectl.core.bundle.config_release import ConfigDocument
from edgectl.core.config_file import parse_yaml
from edgectl.core.errors import BundleError, ConfigError, EngineError, UsageError
from edgectl.core.schema import key_of
from edgectl.core.wire import ShadowGate
from edgectl.pipelines.host.protocol import EngineRef, Shadowed
from edgectl.pipelines.places import shared_place, written_places

__all__ = ["ConfigSlots", "PartProcesses", "as_released", "read_config", "released_engines"]

log = logging.getLogger(__name__)


def read_config(ref: EngineRef) -> dict[str, Any]:
    """The configuration that lies in the store. Raises :class:`BundleError`."""
    document = ConfigDocument.open(ref.blobs, ref.manifest)
    try:
        values = parse_yaml(document.text(), name=ref.release).values
    except UsageError as e:
        raise BundleError(e.message) from e
    if not isinstance(values, dict):
        raise BundleError(f"{ref.release} is no mapping of settings")
    return values


def as_released(
    pipelines: Mapping[str, StreamConfig], engine_of: Callable[[str], EngineRef | None]
) -> dict[str, StreamConfig]:
    """Streams with the configurations that their slots hold; with that of ``agent.toml`` where a slot is empty, or
    cannot be read."""

    def released(pipeline: StreamConfig) -> StreamConfig:
        ref = None if pipeline.config_slot is None else engine_of(pipeline.config_slot)
        if ref is None:
            return pipeline
        try:
            return pipeline.model_copy(update={"config": read_config(ref)})
        except BundleError as e:
            log.error("slot %s: %s: what stands in agent.toml holds", pipeline.config_slot, e.message)
            return pipeline

    return {name: released(p) for name, p in pipelines.items()}


def released_engines(
    pipelines: Mapping[str, StreamConfig], engine_of: Callable[[str], EngineRef | None]
) -> dict[str, dict[str, EngineRef]]:
    """Stream → the engines of the set in its slot; none where :func:`as_released` gives what stands in ``agent.toml``."""
    found = {}
    for name, pipeline in pipelines.items():
        ref = None if pipeline.config_slot is None else engine_of(pipeline.config_slot)
        if ref is None or not (engines := engines_of(pipeline, ref)):
            continue
        try:
            read_config(ref)
        except BundleError:
            continue
        found[name] = engines
    return found


_MOST_KEPT = 16
"""Configurations that are kept parsed, at 256 KiB of text each at most."""


class ConfigSlots:
    """In the place of :class:`edgectl.agent.deploy.dependencies.Pipelines`, for slots that hold configurations."""

    def __init__(
        self,
        pipelines: Mapping[str, StreamConfig],
        supervisor: Supervisor,
        active: Callable[[str], EngineRef | None],
    ) -> None:
        """``pipelines``: as ``agent.toml`` has them; ``active``: slot → the release that it has."""
        self._first = {name: p.config for name, p in pipelines.items()}
        self._pipelines = pipelines
        self._supervisor = supervisor
        self._active = active
        self._parsed: OrderedDict[str, dict[str, Any]] = OrderedDict()
        """Digest of the manifest → what it says; nobody changes it. The latest last."""
        self._parsing = threading.Lock()

    def on_record(self, stream: str) -> dict[str, Any]:
        """What the stream is to run now: what the release in its slot says, else what stands in ``agent.toml``."""
        slot = self._pipelines[stream].config_slot
        ref = None if slot is None else self._active(slot)
        if ref is None:
            return self._first[stream]
        try:
            return self._read(ref)
        except BundleError:
            return self._first[stream]  # as it was started

    def written(self, stream: str, config: dict[str, Any]) -> str | None:
        """``agent.toml`` has this configuration of a stream by now. Returns the release that goes before it, with its
        slot: then the stream has prepared it, and goes on with it when the slot is emptied. None: it is to hold at once.
        Raises :class:`ConfigError` for one that the stream does not take: it goes back to the one before, as until now.

        ``configuring`` of the stream is held."""
        pipeline = self._pipelines.get(stream)  # None: it is in agent.toml since the agent runs
        slot = None if pipeline is None else pipeline.config_slot
        ref = None if slot is None else self._active(slot)
        if ref is None:
            return None
        if config != self._first[stream]:
            try:
                check_config(self._supervisor.stream(stream), config)
            except Interrupted as e:
                raise ConfigError(f"{e.message}: reload it once more") from e
            self._first[stream] = config
        return f"{ref.release} in slot {slot}"

    def accepted(self, stream: str, config: dict[str, Any]) -> None:
        """The stream goes on with what ``agent.toml`` has, unless a release goes before it. ``configuring`` of the stream
        is held."""
        slot = self._pipelines[stream].config_slot
        if slot is None or self._active(slot) is None:
            self._first[stream] = config

    def engines_on_record(self, stream: str) -> Mapping[str, EngineRef]:
        """Part → engine of the set that goes with :meth:`on_record`."""
        pipeline = self._pipelines[stream]
        return released_engines({stream: pipeline}, self._active).get(stream, {})

    def slots_of(self, slot: str, parts: Collection[str]) -> list[tuple[str, str]]:
        """Parts, and which slots of engines they have in the streams of this slot; ``""``: none."""
        streams = self._using(slot)
        return list(dict.fromkeys((part, s.config.slots.get(part, "")) for s in streams for part in parts))

    def parts_of(self, slot: str, parts: Collection[str]) -> list[tuple[str, str]]:
        """The same, of the slots that a set takes. Raises :class:`BundleError` where that is not for the set alone to
        say."""
        found = self.slots_of(slot, parts)
        for part, taken in found:
            if not taken:
                lacking = [s.stream for s in self._using(slot) if part not in s.config.slots]
                raise BundleError(
                    f"the set names the part {part}, for which {lacking[0]} has no slot: give it `slots.{part}` in agent.toml"
                )
            for name, other in self._pipelines.items():
                if taken in other.slots.values() and other.config_slot != slot:
                    raise BundleError(
                        f"the set would change the engine of {name}, whose configuration it does not bring: give {name} "
                        f"`config_slot = {slot!r}`, or another slot than {taken}, in agent.toml"
                    )
        return found

    def processes_with(self, slot: str, engine_slot: str) -> PartProcesses:
        """Which processes open an engine that a set in ``slot`` brings."""
        using = self._using(slot)
        return PartProcesses([s for s in using if engine_slot in s.config.slots.values()])

    def check(self, slot: str, ref: EngineRef, cancelled: Callable[[], bool] = lambda: False) -> str:
        """Have each stream prepare the configuration, and drop it. Returns what they say. Raises :class:`BundleError` for
        one that is for another kind of pipeline, :class:`EngineError` for one that a stream does not take,
        :class:`Interrupted` where something else ended a stream meanwhile."""
        document, wanted = ConfigDocument.open(ref.blobs, ref.manifest), self._read(ref)
        said = []
        for stream in self._using(slot):
            if (kind := stream.config.kind) != document.config.kind:
                raise BundleError(
                    f"{ref.release} is for a {document.config.kind} pipeline, {stream.stream} is a {kind} pipeline"
                )
        self._check_places(slot, ref, wanted)
        for stream in self._using(slot):
            engines = engines_of(stream.config, ref)
            try:
                if engines:
                    _check_engines(stream, wanted, engines)
                told = check_config(stream, wanted, cancelled=cancelled, engines=engines)
                said.append(f"{stream.stream}: {told}")
            except ConfigError as e:
                raise _refused(stream, ref.release, e) from e
        return "; ".join(said) or "no stream uses it"

    def ensure(
        self, slot: str, ref: EngineRef | None, timeout_s: float, cancelled: Callable[[], bool]
    ) -> None:
        """Have every stream of the slot go on with the configuration, and the engines of a set with it, each between two
        frames; None: with what stands in ``agent.toml``. A stream is never between the two; streams go one after the
        other, within ``timeout_s`` each.

        Raises :class:`EngineError` if one does not take it; those that have taken it go back.
        """
        taken: list[tuple[SupervisedStream, Wanted]] = []
        for stream in self._using(slot):
            if cancelled():
                break
            told = {} if ref is None else {"name": ref.release, "digest": ref.bundle}
            try:
                with stream.configuring:
                    before = Wanted(stream.config.config, stream.set_engines)
                    wanted = self._first[stream.stream] if ref is None else self._read(ref)
                    new = stream.config.model_copy(update={"config": wanted})
                    engines = engines_of(stream.config, ref)
                    said = configure_stream(stream, new, told, timeout_s, engines)
            except ConfigError as e:
                for other, old in taken:
                    self._give_back(other, old)
                what = "the configuration in agent.toml" if ref is None else ref.release
                raise _refused(stream, what, e) from e
            for part in before.engines.keys() - engines.keys():
                # of a set that is gone nothing is kept warm
                commit_engine(stream, part)
            taken.append((stream, before))
            log.info("%s: %s: %s", slot, stream.stream, said)

    def differs(self, slot: str, ref: EngineRef) -> str | None:
        """Why the configuration is not in force, in a stream that runs or cannot start with it; None: it is."""
        wanted = self._read(ref)
        for stream in self._using(slot):
            engines = engines_of(stream.config, ref)
            if (stream.config.config, stream.set_engines) != (wanted, engines):
                return f"{stream.stream} went back to the configuration before"
            if (fault := stream.config_fault) is not None:
                return f"{stream.stream} does not start with it: {fault}"
            if stream.running_config not in (None, wanted):
                return f"{stream.stream} runs with another configuration"
            running = stream.running_engines
            if other := [p for p, one in engines.items() if running and running.get(p) != one]:
                return f"{stream.stream} runs another engine of {', '.join(other)}"
        return None

    def idle(self, slot: str) -> bool:
        """No stream of the slot can run now: each lacks an engine."""
        return all(stream.engines() is None for stream in self._using(slot))

    def commit(self, slot: str) -> None:
        """Nothing of the configuration before is kept in a stream; engines before a set are, until now."""
        for stream in self._using(slot):
            for part in stream.set_engines:
                commit_engine(stream, part)

    def restart(self, slot: str) -> None:
        """Streams of the slot start anew, with what they are to run."""
        for stream in self._using(slot):
            stream.restart("its configuration must not go on")

    def processes(self, slot: str) -> tuple[int, int]:
        """A configuration opens nothing."""
        return (0, 0)

    def opened_with(self, slot: str) -> list[str]:
        return []

    def shadow(
        self, slot: str, ref: EngineRef, gate: ShadowGate, timeout_s: float, cancelled: Callable[[], bool]
    ) -> list[Shadowed]:
        raise EngineError("a configuration is not run beside another one")

    def _read(self, ref: EngineRef) -> dict[str, Any]:
        """As :func:`read_config`, once for each configuration. Its bytes were verified before it came into force."""
        with self._parsing:
            found = self._parsed.pop(ref.manifest, None)
            if found is None:
                found = read_config(ref)
            self._parsed[ref.manifest] = found
            while len(self._parsed) > _MOST_KEPT:
                self._parsed.popitem(last=False)
            return found

    def _check_places(self, slot: str, ref: EngineRef, wanted: dict[str, Any]) -> None:
        """Two streams must not write to one place."""
        places = {}
        for name, p in self._pipelines.items():
            config = wanted if p.config_slot == slot else self._supervisor.stream(name).config.config
            places[name] = written_places(name, config)
        if (shared := shared_place(places)) is not None:
            raise EngineError(
                f"{ref.release}: {key_of(shared.key)} of {shared.second}: {shared.text}: each stream needs a place of its own"
            )

    def _give_back(self, stream: SupervisedStream, wanted: Wanted) -> None:
        with stream.configuring:
            before = stream.config.model_copy(update={"config": wanted.config})
            try:
                configure_stream(stream, before, {}, engines=wanted.engines)
            except ConfigError as e:
                log.error(
                    "%s does not take what it had before: %s; it starts again", stream.stream, e.message
                )
                stream.adopt(before, wanted.engines)
                stream.restart("its configuration before is back")

    def _using(self, slot: str) -> list[SupervisedStream]:
        return [self._supervisor.stream(name) for name, p in self._pipelines.items() if p.config_slot == slot]


class PartProcesses:
    """Of an engine that a set brings, in these streams: what :class:`~edgectl.agent.deploy.slot_memory.SlotMemory` asks.
    Those that do not run are to run with the set."""

    def __init__(self, streams: Sequence[SupervisedStream]) -> None:
        self._workers = {stream.worker for stream in streams}

    def processes(self, slot: str) -> tuple[int, int]:
        running = sum(worker.pid is not None for worker in self._workers)
        return running, len(self._workers) - running

    def opened_with(self, slot: str) -> list[str]:
        """Engines of the set are claimed each for itself."""
        return []


def _check_engines(
    stream: SupervisedStream, config: dict[str, Any], engines: Mapping[str, EngineRef]
) -> None:
    """Whether the configuration speaks of what the engines know. Raises :class:`ConfigError`; :class:`BundleError` for an
    engine that cannot be read."""
    # only where a set is brought: rules load what looks at pictures
    from edgectl.pipelines.host.config import parse_config
    from edgectl.pipelines.kinds.fit import check_fit

    tasks = {part: Variant.open(ref.blobs, ref.manifest).config.task for part, ref in engines.items()}
    kind = stream.config.kind
    try:
        check_fit(kind, parse_config(kind, config, what=f"the configuration of {stream.stream}"), tasks)
    except UsageError as e:
        raise ConfigError(e.message if e.hint is None else f"{e.message}: {e.hint}", key=e.key) from e


def _refused(stream: SupervisedStream, what: str, e: ConfigError) -> EngineError:
    place = f"{key_of(e.key)}: " if e.key else ""
    return EngineError(f"{stream.stream} does not take {what}: {place}{e.message}")
