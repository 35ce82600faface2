"""Where frames come from: files, cameras, folders of images, synthetic scenes. One URI grammar for all of
them."""

from edgectl.pipelines.sources.base import EndOfStream, Source, SourceInfo, redact
from edgectl.pipelines.sources.open import open_source

__all__ = ["EndOfStream", "Source", "SourceInfo", "open_source", "redact"]
