"""What forms send: read within bounds, and made into what the controller is asked."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import parse_qsl

from pydantic import ValidationError
from starlette.requests import Request

from edgectl.core.config_file import parse_yaml
from edgectl.core.durations import seconds_of
from edgectl.core.errors import UsageError
from edgectl.core.schema import mistake_in
from edgectl.fleet.control.commands import CommandRequest
from edgectl.fleet.rollouts.policy_file import request_of
from edgectl.fleet.rollouts.values import RolloutRequest
from edgectl.link.http import read_body

__all__ = ["command_of", "read_form", "start_of"]

_MAX_BODY = 256 * 1024
_BODY_S = 10.0
_MOST_FIELDS = 64
_IN_POLICY = {"select": "query", "canary": "canary", "soak": "soak"}
_LABELS = {"select": "query", "soak_s": "soak"}
"""What a field of a request is called in the form."""


async def read_form(request: Request) -> dict[str, str]:
    """The fields of a form, the last of each name. Raises :class:`UsageError` for what is none or too large, TimeoutError
    where it does not come."""
    data = await read_body(request.stream(), "the form", max_bytes=_MAX_BODY, within_s=_BODY_S)
    try:
        pairs = parse_qsl(
            data.decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(data),
            max_num_fields=_MOST_FIELDS,
        )
    except (ValueError, UnicodeDecodeError) as e:
        raise UsageError("this is not what a form sends", hint="load the page again") from e
    return dict(pairs)


def start_of(form: Mapping[str, str]) -> RolloutRequest:
    """The rollout that a form asks for: fields, or a policy in YAML. Raises :class:`UsageError` that names the field."""
    policy = form.get("policy", "").strip()
    release, slot = form.get("release", "").strip(), form.get("slot", "").strip()
    if policy:
        for field, label in _IN_POLICY.items():
            if form.get(field, "").strip():
                raise UsageError(
                    f"{label}: there is a policy, and it says that",
                    hint="empty the field, or the policy",
                    key=(field,),
                )
        return request_of(parse_yaml(policy, name="policy"), release or None, slot or None)
    for field, value in (("release", release), ("slot", slot)):
        if not value:
            raise UsageError(f"{field}: it is missing", key=(field,))
    values: dict[str, object] = {"release": release, "slot": slot, "select": form.get("select", "").strip()}
    if canary := form.get("canary", "").strip():
        values["canary"] = canary
    if soak := form.get("soak", "").strip():
        try:
            values["soak_s"] = seconds_of(soak)
        except ValueError as e:
            raise UsageError(f"soak: {e}", key=("soak",)) from e
    try:
        return RolloutRequest.model_validate(values)
    except ValidationError as e:
        mistake = mistake_in(e)
        field = str(mistake.key[0]) if mistake.key else ""
        raise UsageError(f"{_LABELS.get(field, field)}: {mistake.what}", key=mistake.key) from e


def command_of(op: str, form: Mapping[str, str]) -> CommandRequest:
    """The command that a form asks for. Raises :class:`UsageError`."""
    values: dict[str, object] = {"op": op, "owner": "dashboard", "reason": form.get("reason", "")[:200]}
    if slot := form.get("slot", "").strip():
        values["slot"] = slot
    if op == "lock":
        try:
            values["ttl_s"] = seconds_of(form.get("for", "").strip())
        except ValueError as e:
            raise UsageError(f"for: {e}", key=("for",)) from e
    try:
        return CommandRequest.model_validate(values)
    except ValidationError as e:
        raise UsageError(mistake_in(e).text) from e
