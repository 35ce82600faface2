"""Topics that a configuration names."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

__all__ = ["Topic"]


def _is_a_topic(text: str) -> str:
    if not text or len(text) > 512 or set(text) & set("+#\0") or text != text.strip("/"):
        raise ValueError("a topic is words with / between them, without + and #")
    return text


Topic = Annotated[str, AfterValidator(_is_a_topic)]
