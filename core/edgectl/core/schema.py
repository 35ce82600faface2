"""The two base models for data that comes from outside, and the one way to parse them."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from edgectl.core.errors import EdgectlError, ProtocolError
from edgectl.core.files import check_digest, check_name

__all__ = ["Config", "Digest", "Message", "Name", "Terms", "first_problem", "parse_json", "parse_object"]


def _digest(text: str) -> str:
    try:
        return check_digest(text)
    except EdgectlError as e:
        raise ValueError(e.message) from e


Name = Annotated[str, AfterValidator(check_name)]
"""A device, slot, stream, pipeline or release name (see :func:`edgectl.core.files.check_name`)."""

Digest = Annotated[str, AfterValidator(_digest)]
"""``sha256:<64 hex>``."""


class Config(BaseModel):
    """A file that a person or the builder wrote: unknown keys are mistakes."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Message(BaseModel):
    """Something a peer sent: unknown keys come from a newer version and are ignored."""

    model_config = ConfigDict(frozen=True, extra="ignore", allow_inf_nan=False)

    def encode(self) -> bytes:
        """Compact JSON, UTF-8; absent optional fields are left out."""
        return self.model_dump_json(exclude_none=True, by_alias=True).encode()


class Terms(Message):
    """A message in which None says something, e.g. "not judged": it is written out wherever the default is
    something else."""

    @model_serializer(mode="wrap")
    def _with_none(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        found: dict[str, Any] = handler(self)
        fields = type(self).model_fields.items()
        return {
            **found,
            **{name: None for name, f in fields if f.default is not None and getattr(self, name) is None},
        }


M = TypeVar("M", bound=BaseModel)


_PLAIN = {
    "extra_forbidden": "there is no such setting",
    "missing": "it is missing",
    "list_type": "it must be a list",
    "tuple_type": "it must be a list",
    "dict_type": "it must be a mapping",
    "model_type": "it must be a mapping",
    "model_attributes_type": "it must be a mapping",
}
"""Pydantic's own words are for programmers."""


def first_problem(e: ValidationError) -> str:
    """One validation problem as ``field.path: what is wrong``. A misspelt name goes first: it explains
    what else is missing."""
    problems = e.errors(include_url=False, include_context=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    what = _PLAIN.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    where = ".".join(str(part) for part in problem["loc"] if part != "[key]")
    return f"{where}: {what}" if where else what


def parse_json(
    model: type[M], data: bytes, *, max_bytes: int, what: str, error: type[EdgectlError] = ProtocolError
) -> M:
    """Parse untrusted JSON: size checked first, then one typed error for whatever is wrong with it."""
    if len(data) > max_bytes:
        raise error(f"{what} has {len(data)} bytes, more than the {max_bytes} allowed")
    try:
        return model.model_validate_json(data)
    except ValidationError as e:
        raise error(f"{what} is not valid: {first_problem(e)}") from e
    except (RecursionError, json.JSONDecodeError, UnicodeDecodeError) as e:
        raise error(f"{what} is not valid JSON") from e


def parse_object(
    model: type[M], data: dict[str, Any], *, what: str, error: type[EdgectlError] = ProtocolError
) -> M:
    """The same for an object that was parsed before, where a signature was checked over this very object."""
    try:
        return model.model_validate(data)
    except ValidationError as e:
        raise error(f"{what} is not valid: {first_problem(e)}") from e
