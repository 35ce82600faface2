"""A local camera (Video4Linux), which is opened again whenever it fails."""

from __future__ import annotations

from urllib.parse import urlsplit

from edgectl.core.schema import Config
from edgectl.pipelines.sources.base import Source, SourceType, parse_options
from edgectl.pipelines.sources.media.camera import LiveSource

__all__ = ["SOURCE"]


def _open(uri: str, patient: bool) -> Source:
    parts = urlsplit(uri)
    parse_options(Config, parts.query, uri)
    return LiveSource(uri, parts.path, format="v4l2", patient=patient)


SOURCE = SourceType((("v4l2:///dev/video0", "a local camera"),), video=_open)
