"""How a command asks a device: through the controller, and who asks."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.core.errors import ProtocolError, UsageError

if TYPE_CHECKING:
    from edgectl.core.schema import Message
    from edgectl.core.wire import Op

    Answer = TypeVar("Answer", bound=Message)

__all__ = ["AskOptions", "Name", "login"]

Name = Annotated[str, typer.Argument(help="Name of the device.")]


@dataclass(frozen=True)
class AskOptions(ControllerOptions):
    """Which controller sends the question on, and how long its answer is waited for."""

    wait: Annotated[
        float, typer.Option("--timeout", min=0.1, max=60, help="Seconds to wait for the device's answer.")
    ] = 10.0

    def ask(self, name: str, op: Op, answer: type[Answer], **said: Any) -> Answer:
        """Send a command through the controller; the device's answer is checked before anybody looks at it."""
        from edgectl.core.files import check_name
        from edgectl.core.schema import parse_object

        try:
            check_name(name)
            for word in ("slot", "owner"):
                check_name(said.get(word) or "x")
        except ValueError as e:
            raise UsageError(str(e)) from e
        with self.client() as fleet:
            result = fleet.command(name, op, wait_s=self.wait, **{"owner": login(), **said})
        return parse_object(answer, result, what=f"the answer of {name}", error=ProtocolError)


def login() -> str:
    """The login name as one that may travel; who has none is called operator."""
    import getpass

    try:
        found = getpass.getuser().lower()
    except (OSError, KeyError):
        # no such user on this machine, e.g. in a container
        found = ""
    return re.sub(r"[^a-z0-9._-]+", "-", found)[:64].strip("._-") or "operator"
