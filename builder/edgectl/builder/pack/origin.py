"""What a bundle's provenance says of a model that was converted, as rows for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["conversion_rows"]


def conversion_rows(statement: Mapping[str, Any]) -> list[list[str]]:
    """Label and text, of an in-toto statement that nobody vouches for; empty where the model came as ONNX."""
    definition = _inside(statement, "predicate", "buildDefinition")
    told = _inside(definition, "externalParameters", "conversion")
    if not told:
        return []
    materials = definition.get("resolvedDependencies")
    digests = [
        _inside(m, "digest").get("sha256")
        for m in (materials if isinstance(materials, list) else [])
        if isinstance(m, Mapping) and m.get("name") == "source"
    ]
    compared = _inside(told, "compared")
    rows = [
        ["source", told.get("source")],
        ["sha256", digests[0] if digests else None],
        ["format", told.get("format")],
        ["converted by", told.get("converter")],
        [
            f"compared with {told.get('framework')}",
            f"within {compared['worst']} of the largest value, {compared.get('samples')} samples"
            if "worst" in compared
            else None,
        ],
    ]
    return [[str(label), str(text)] for label, text in rows if text is not None]


def _inside(value: Mapping[str, Any], *names: str) -> Mapping[str, Any]:
    for name in names:
        found = value.get(name)
        value = found if isinstance(found, Mapping) else {}
    return value
