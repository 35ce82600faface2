"""The two base models for data that comes from outside, and the one way to parse them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from edgectl.core.errors import EdgectlError, ProtocolError
from edgectl.core.files import check_digest, check_name
from edgectl.core.nearest import nearest

__all__ = [
    "Config",
    "Digest",
    "Key",
    "Message",
    "Mistake",
    "Name",
    "Terms",
    "first_problem",
    "key_of",
    "mistake_in",
    "mistakes_below",
    "parse_json",
    "parse_object",
    "wrong_at",
]

Key: TypeAlias = tuple[str | int, ...]
"""Where in a document something stands, from the outside in: names in mappings, numbers from 0 in lists."""


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
    """A file that a person or the builder wrote: unknown keys are mistakes, and it is said what was probably meant."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def settings(cls) -> Iterable[str]:
        """What may be written there."""
        return [field.alias or name for name, field in cls.model_fields.items()]

    @model_validator(mode="before")
    @classmethod
    def _names_no_other_setting(cls, values: Any) -> Any:
        if not isinstance(values, dict) or cls.model_config.get("extra") != "forbid":
            return values
        known = {*cls.model_fields, *cls.settings()}
        for key in values:
            if key not in known:
                raise ValidationError.from_exception_data(
                    "", [_unknown((key,), nearest(str(key), cls.settings()))]
                )
        return values


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
    "too_short": "it has too few entries",
    "too_long": "it has too many entries",
}
"""Pydantic's own words are for programmers."""
_OUGHT = "Input should be "


class Mistake(NamedTuple):
    key: Key
    what: str
    """What is wrong there."""

    @property
    def text(self) -> str:
        """``field.path: what is wrong``."""
        return f"{key_of(self.key)}: {self.what}" if self.key else self.what


def mistake_in(e: ValidationError) -> Mistake:
    """One of the mistakes. A misspelt name goes first: it explains what else is missing."""
    problems = e.errors(include_url=False)
    problem = next((p for p in problems if p["type"] == "extra_forbidden"), problems[0])
    return Mistake(tuple(part for part in problem["loc"] if part != "[key]"), _plain(problem))


def first_problem(e: ValidationError) -> str:
    """One validation problem as ``field.path: what is wrong``."""
    return mistake_in(e).text


def key_of(key: Key) -> str:
    """As people read it: ``rules.0.line``."""
    return ".".join(map(str, key))


def wrong_at(key: Key, what: str) -> ValidationError:
    """To raise in a validator: what is wrong with something inside of what it validates."""
    return ValidationError.from_exception_data("", [_wrong(key, what)])


def mistakes_below(key: Key, e: ValidationError) -> ValidationError:
    """To raise in a validator: the mistakes of what stands at ``key`` inside of what it validates."""
    found = e.errors(include_url=False, include_input=False)
    return ValidationError.from_exception_data("", [_below(key, problem) for problem in found])


def _below(key: Key, problem: Any) -> Any:
    place = (*key, *problem["loc"])
    if problem["type"] == "extra_forbidden":
        return _unknown(place, problem.get("ctx", {}).get("near", []))
    return _wrong(place, _plain(problem))


def _unknown(key: Key, near: list[str]) -> Any:
    """A setting that is not there, with those that may have been meant; a type of its own, so that it is told first."""
    return {
        "type": PydanticCustomError("extra_forbidden", "", {"near": near}),
        "loc": tuple(part if isinstance(part, int) else str(part) for part in key),
        "input": None,
    }


def _wrong(key: Key, what: str) -> Any:
    return {"type": "value_error", "loc": key, "input": None, "ctx": {"error": ValueError(what)}}


def _plain(problem: Any) -> str:
    bounds = problem.get("ctx", {})
    if problem["type"] == "too_long" and "max_length" in bounds:
        return f"it may have at most {bounds['max_length']} entries"
    if problem["type"] == "extra_forbidden" and (near := bounds.get("near")):
        return f"there is no such setting: did you mean {' or '.join(map(repr, near))}?"
    what: str = _PLAIN.get(problem["type"], problem["msg"].removeprefix("Value error, "))
    return "it must be " + what.removeprefix(_OUGHT) if what.startswith(_OUGHT) else what


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
