"""Requests to a stream: go on with another configuration, or prepare one. Waits for the worker's answer; what the worker
cannot change while it runs restarts that stream alone."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

from edgectl.agent.config import StreamConfig
from edgectl.agent.streams.engine_requests import Interrupted
from edgectl.agent.streams.set_engines import Wanted
from edgectl.agent.streams.supervised_stream import Lost, SupervisedStream
from edgectl.core.errors import ConfigError
from edgectl.pipelines.host.protocol import Configure, Configured, ConfigureFailed, EngineRef

__all__ = ["NEW_AGENT", "check_config", "configure_stream"]

NEW_AGENT = ("kind", "slots", "config_slot", "isolate")
"""Settings of a stream that hold from the agent's next start on: they say which worker it is in."""
_LOOK_S = 0.2
_numbers = itertools.count(1)


def configure_stream(
    stream: SupervisedStream,
    config: StreamConfig,
    told: Mapping[str, Any],
    timeout_s: float = 60.0,
    engines: Mapping[str, EngineRef] | None = None,
) -> str:
    """Have a stream go on with ``config``, whose kind and slots are those that it has, and with the ``engines`` of its set
    as one; None: it keeps those that it has. Returns what came of it, in one
    sentence. Raises :class:`ConfigError` for one that it does not take: it goes on as before."""
    with stream.configuring:
        return _configure(stream, config, told, timeout_s, stream.set_engines if engines is None else engines)


def _configure(
    stream: SupervisedStream,
    config: StreamConfig,
    told: Mapping[str, Any],
    timeout_s: float,
    engines: Mapping[str, EngineRef],
) -> str:
    before = stream.config
    if config == before and engines == stream.set_engines:
        return "nothing has changed"
    asked = config.config != before.config or engines != stream.set_engines
    if asked and (refused := _ask(stream, config, told, timeout_s, engines)) is not None:
        if isinstance(refused, str) and config.model_copy(update={"config": before.config}) == before:
            return refused
        if isinstance(refused, ConfigureFailed):
            if not refused.needs_start:
                raise ConfigError(refused.error.detail or refused.error.code, key=refused.key)
            stream.adopt(config, engines)
            stream.restart(f"its configuration is another one: {refused.error.detail}")
            return f"starts again: {refused.error.detail}"
    changed = [
        name for name in ("source", "out", "stall_s") if getattr(config, name) != getattr(before, name)
    ]
    # what came of ``config`` is known, and the stream may have gone back from it by now
    stream.adopt_all_but_config(config)
    if changed == ["stall_s"] or not changed:
        return "in force"
    stream.restart(f"its {' and '.join(changed)} changed")
    return f"starts again: its {' and '.join(changed)} changed"


def check_config(
    stream: SupervisedStream,
    config: dict[str, Any],
    timeout_s: float = 60.0,
    cancelled: Callable[[], bool] = lambda: False,
    engines: Mapping[str, EngineRef] = MappingProxyType({}),
) -> str:
    """Have a stream prepare a configuration, and the ``engines`` of its set, with its rules on the last minute of tracks, and drop it. Returns what
    would change, in one sentence. Raises :class:`ConfigError` for one that it does not take or survive,
    :class:`Interrupted` where something else ended it, or nobody wants to know any more."""
    number, deadline = next(_numbers), time.monotonic() + timeout_s
    with stream.changed:
        if not _asks(stream, number, None):
            return "it does not run now: nothing was tried"
        others = stream.others(engines) or {}
        stream.send(Configure(stream=stream.stream, number=number, config=config, engines=others, check=True))
        while (answer := stream.config_answers.pop(number, None)) is None:
            late = time.monotonic() > deadline
            if late or cancelled():
                stream.config_asked.pop(number, None)
                said = f"{stream.stream} gave no answer" + (f" within {timeout_s:.0f} s" if late else "")
                raise ConfigError(said) if late else Interrupted(said)
            stream.changed.wait(_LOOK_S)
    if isinstance(answer, Configured):
        return f"changes {', '.join(answer.changed[:8]) or 'nothing'}"
    if isinstance(answer, Lost):
        if answer.fault is None:
            raise Interrupted(f"{stream.stream} was ended by something else while it prepared it")
        why = answer.fault.detail or answer.fault.code
        raise ConfigError(f"{stream.stream} did not survive preparing it: {why}")
    if answer.needs_start:
        return f"needs a new start: {answer.error.detail}"
    raise ConfigError(answer.error.detail or answer.error.code, key=answer.key)


def _asks(stream: SupervisedStream, number: int, wanted: Wanted | None) -> bool:
    """Note a request to a stream that runs. False: it does not. With the stream's ``changed`` held."""
    if stream.running_config is None or stream.place is None:
        return False
    stream.config_asked[number] = wanted
    return True


def _ask(
    stream: SupervisedStream,
    config: StreamConfig,
    told: Mapping[str, Any],
    timeout_s: float,
    engines: Mapping[str, EngineRef],
) -> str | ConfigureFailed | None:
    """What came of it, in one sentence, or the refusal; the stream starts with it from now on, unless it is refused."""
    number, deadline = next(_numbers), time.monotonic() + timeout_s
    with stream.changed:
        others = stream.others(engines)
        if others is None:
            stream.adopt(config, engines)
            stream.restart("a slot is empty that it is to run now")
            return "waits for an engine: a slot is empty that it is to run now"
        if not _asks(stream, number, Wanted(config.config, engines)):
            stream.start_with(config, engines)
            return "holds from its next start on: it does not run now"
        stream.told(number, others)
        stream.send(
            Configure(
                stream=stream.stream,
                number=number,
                config=config.config,
                told=dict(told),
                engines=others,
            )
        )
        while (answer := stream.config_answers.pop(number, None)) is None:
            if time.monotonic() > deadline:
                stream.config_asked.pop(number, None)
                # nobody knows which one it has
                stream.restart("it gave no answer about another configuration")
                raise ConfigError(f"{stream.stream} gave no answer within {timeout_s:.0f} s")
            stream.changed.wait(_LOOK_S)
        if isinstance(answer, Lost):
            return "holds from its next start on: its worker has ended"
        if isinstance(answer, ConfigureFailed):
            return answer
    what = ", ".join(answer.changed[:8]) + (" …" if len(answer.changed) > 8 else "")
    return f"{what or 'nothing that it did not have'}: in force" + (
        "" if answer.in_force else " from the camera's next frame on"
    )
