"""Topics that a configuration names."""

from __future__ import annotations

import re
import socket
from typing import Annotated

from pydantic import AfterValidator

__all__ = ["Topic", "host_name"]


def _is_a_topic(text: str) -> str:
    if not text or len(text) > 512 or set(text) & set("+#\0") or text != text.strip("/"):
        raise ValueError("a topic is words with / between them, without + and #")
    return text


Topic = Annotated[str, AfterValidator(_is_a_topic)]


def host_name() -> str:
    """This machine's name as one level of a topic."""
    return re.sub(r"[^a-z0-9_-]+", "-", socket.gethostname().lower()).strip("-") or "host"
