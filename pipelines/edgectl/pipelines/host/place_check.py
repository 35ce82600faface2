"""Whether the streams of one process keep apart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from edgectl.core.errors import UsageError
from edgectl.core.schema import Key
from edgectl.pipelines.kinds.config import PipelineConfig
from edgectl.pipelines.places import OwnPlace, folder_place, shared_place

__all__ = ["check_places"]


def check_places(configs: Mapping[str, PipelineConfig], out: Mapping[str, Path | None]) -> None:
    """Two streams must not send to one address or topic, nor write into one folder. Raises :class:`UsageError`."""
    places: dict[str, list[tuple[Key, OwnPlace]]] = {}
    for name, config in configs.items():
        folder = out.get(name)
        found = places[name] = [] if folder is None else [(("out",), folder_place(folder))]
        for sink, options in config.sinks.items():
            found += [((sink,), place) for place in (options.own_places(name) if options else ())]
    if (shared := shared_place(places)) is not None:
        what = ".".join(map(str, shared.key))
        raise UsageError(
            f"{shared.text} (`{what}`)", hint="give each a configuration of its own: --config NAME=FILE"
        )
