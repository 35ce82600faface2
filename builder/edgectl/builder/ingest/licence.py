"""The licence of the weights: what the user says, what edgectl knows of the file, or what the file says itself."""

from __future__ import annotations

import re
from collections.abc import Mapping

from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

from edgectl.core.errors import UsageError
from edgectl.core.files import file_digest
from edgectl.models import entries, references

__all__ = ["licence_given", "licence_of"]

_KEYS = ("license", "licence", "licenses", "model_license")
_MOST = 500
_OURS = "Apache-2.0"


def licence_given(text: str) -> str:
    """``--licence``, in its canonical form. Raises :class:`UsageError`."""
    found = _canonical(text)
    if found is None:
        raise UsageError(
            f"--licence {text[:80]!r} is no SPDX expression",
            hint="like MIT, Apache-2.0, 'AGPL-3.0-only OR LicenseRef-Ultralytics-Enterprise'; your own: LicenseRef-NAME",
        )
    return found


def licence_of(digest: str, metadata: Mapping[str, str]) -> str | None:
    """Of a file with this ``digest``: as the catalogue has it, else as its ``metadata_props`` say (exporters write
    ``license``). None: not known, or in words that are no SPDX name."""
    if any(file_digest(r.model) == digest for r in references()):
        return _OURS
    known = next((e.licence for e in entries() if e.digest == digest), None)
    said = known or next((v for k, v in metadata.items() if k.strip().lower() in _KEYS), None)
    return None if said is None else _named_in(said)


def _named_in(text: str) -> str | None:
    """``AGPL-3.0 License (https://ultralytics.com/license)`` → ``AGPL-3.0``. Only the whole text: what more it says may be
    a condition, also in brackets."""
    text = re.sub(r"\s*\(https?://[^()\s]*\)$", "", text[:_MOST].strip())
    text = re.sub(r"(?i)^the\s+|[\s,]+licen[cs]e$|\.$", "", text)
    # 'Apache 2.0', 'Apache License, Version 2.0'
    joined = re.sub(r"(?i)(\s+licen[cs]e)?[\s,]+(version\s+|v)?(?=\d)", "-", text)
    return next((found for t in (text, joined, joined.replace(" ", "-")) if (found := _canonical(t))), None)


def _canonical(text: str) -> str | None:
    if not 0 < len(text) <= _MOST:
        return None
    try:
        return canonicalize_license_expression(text)
    except (InvalidLicenseExpression, ValueError):
        return None
