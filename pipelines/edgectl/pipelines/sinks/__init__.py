"""Where events and pictures go: one file per sink, one table that names them, a thread for each.

A sink's options stand in the stream's configuration under the sink's name. ``true`` means its defaults,
``false`` that it is not used.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import (
    SerializeAsAny,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)

from edgectl.core.errors import EdgectlError, StorageError, UsageError
from edgectl.core.schema import Config, first_problem, mistakes_below, wrong_at
from edgectl.pipelines.registry import Registry
from edgectl.pipelines.sinks.base import Sink, SinkContext, SinkOptions, SinkType
from edgectl.pipelines.sinks.files import OutFiles
from edgectl.pipelines.stream.threads import within

__all__ = ["SINKS", "SinksConfig", "open_sink", "open_sinks"]

SINKS = Registry(
    "sink",
    "edgectl.sinks",
    SinkType,
    {
        "events": "edgectl.pipelines.sinks.jsonl:SINK",
        "tracklog": "edgectl.pipelines.sinks.tracklog:SINK",
        "annotate": "edgectl.pipelines.sinks.video:SINK",
        "restream": "edgectl.pipelines.sinks.restream.restream:SINK",
        "snapshots": "edgectl.pipelines.sinks.snapshot:SINK",
        "clips": "edgectl.pipelines.sinks.clips:SINK",
        "recording": "edgectl.pipelines.sinks.recording:SINK",
        "retention": "edgectl.pipelines.sinks.retention:SINK",
        "webhook": "edgectl.pipelines.sinks.webhook:SINK",
        "mqtt": "edgectl.pipelines.sinks.mqtt.mqtt:SINK",
        "frigate": "edgectl.pipelines.sinks.mqtt.frigate:SINK",
    },
)

_OPEN_S = 20.0
"""For all sinks of a stream: a broker is waited for, a disk that hangs is not."""

S = TypeVar("S", bound="SinksConfig")


class SinksConfig(Config):
    """The part of a stream's configuration that chooses its sinks."""

    pictures: ClassVar[bool] = False
    """Whether this kind of pipeline has pictures for its sinks."""

    sinks: dict[str, SerializeAsAny[SinkOptions] | Literal[False]] = {}
    """By name, those that the configuration names. They are written beside the other settings."""

    @model_validator(mode="before")
    @classmethod
    def _sinks_by_name(cls, values: Any) -> Any:
        if not isinstance(values, dict):
            return values
        written = values.get("sinks", {})
        if not isinstance(written, dict) or not all(
            option is False or isinstance(option, SinkOptions) for option in written.values()
        ):
            raise wrong_at(
                ("sinks",), "there is no such setting: the options of a sink stand under its own name"
            )
        named = [key for key in values if key not in cls.model_fields and key in SINKS]
        rest = {key: value for key, value in values.items() if key not in named}
        sinks = {name: cls._options(name, values[name]) for name in named}
        return rest | {"sinks": {**written, **sinks}} if sinks else rest

    @classmethod
    def settings(cls) -> Iterable[str]:
        return [*(name for name in super().settings() if name != "sinks"), *SINKS.names()]

    @classmethod
    def _options(cls, name: str, value: Any) -> SinkOptions | Literal[False]:
        if value is False:
            return False
        type_ = SINKS.get(name)
        if type_.pictures and not cls.pictures:
            raise wrong_at((name,), "this kind of pipeline has no pictures")
        try:
            return type_.options.model_validate({} if value is True else value)
        except ValidationError as e:
            raise mistakes_below((name,), e) from e

    @model_serializer(mode="wrap")
    def _beside_the_others(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        written: dict[str, Any] = handler(self)
        sinks: dict[str, Any] = written.pop("sinks", {})
        return written | sinks

    def with_sink(self: S, name: str, **options: Any) -> S:
        """The same with a sink that is used, and with these of its options. Raises :class:`UsageError`."""
        before = self.sinks.get(name) or SINKS.get(name).options()
        try:
            values = {**before.model_dump(exclude_unset=True), **options}
            return self.model_copy(update={"sinks": {**self.sinks, name: self._options(name, values)}})
        except ValidationError as e:
            raise UsageError(first_problem(e)) from e

    def chosen(self) -> dict[str, SinkOptions]:
        """The sinks that this stream uses, in the order of the table: those that it names, and those that are
        used unless it says no."""
        found: dict[str, SinkOptions] = {}
        for name in (*SINKS.own, *(n for n in self.sinks if n not in SINKS.own)):
            type_ = SINKS.get(name)
            options = self.sinks.get(name, type_.options() if type_.default else False)
            if options is not False and (self.pictures or not type_.pictures):
                found[name] = options
        return found


def open_sinks(config: SinksConfig, context: SinkContext) -> dict[str, Sink]:
    """The sinks of a stream, by name. Those that write files are left out where there is no folder for them. On an
    error none is left open. Raises :class:`StorageError` where a disk hangs."""
    opening: list[str] = []
    try:
        return within(_OPEN_S, lambda: _open_all(config, context, opening), _close_all)
    except TimeoutError:
        raise StorageError(
            f"the sink {opening[-1] if opening else 'of files'} could not be opened within {_OPEN_S:g} s",
            hint=f"does the disk of {context.out} answer?" if context.out is not None else None,
        ) from None


def _open_all(config: SinksConfig, context: SinkContext, opening: list[str]) -> dict[str, Sink]:
    """``opening``: gets the name of each before it is opened."""
    if context.out is not None and context.files is None:
        context = replace(context, files=OutFiles(context.out))
    with contextlib.ExitStack() as undo:
        sinks: dict[str, Sink] = {}
        for name in config.chosen():
            opening.append(name)
            sink = open_sink(name, config, context)
            if sink is not None:
                sinks[name] = sink
                undo.callback(sink.close)
        undo.pop_all()
    return sinks


def open_sink(name: str, config: SinksConfig, context: SinkContext) -> Sink | None:
    """One of them; None where it has nothing to do."""
    options = config.chosen().get(name)
    if options is None:
        return None
    with SINKS.using(name) as type_:
        left_out = type_.files and context.out is None
        return None if left_out else type_.make(options, context)


def _close_all(sinks: dict[str, Sink]) -> None:
    for sink in sinks.values():
        with contextlib.suppress(EdgectlError):
            sink.close()
