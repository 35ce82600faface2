"""``edgectl``: nouns and their verbs. Each command lives in a file named after its noun."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup
from typer.main import get_command, get_group

from edgectl.cli._argv import hide_credentials
from edgectl.cli._output import Output
from edgectl.cli._signals import follow_parent
from edgectl.core.errors import EdgectlError, UsageError
from edgectl.core.uri import redact_tracebacks

__all__ = ["app", "main"]

# Typer brings a copy of click from 0.20 on and needs click itself before: this is the one that it raises.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

_COMMANDS = (
    "build",
    "bench",
    "finalise",
    "run",
    "doctor",
    "bundle",
    "profiles",
    "models",
    "keys",
    "broker",
    "device",
    "agent",
    "controller",
    "release",
    "rollout",
    "slot",
    "fleet",
    "store",
    "demo",
)
"""In the order of the help. The file of that name has a group ``app``, or one command of the file's name."""
_LAST_FILE = {"device": "device_commands"}
"""Of groups that have several: it imports the others, which add to the same ``app``."""


class _Commands(TyperGroup):
    """Imports the file of the command that is asked for: the agent, which shares a small device with its
    pipelines, carries no other."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            # what a misspelt name is compared with
            self.commands.update({name: self._load(name) for name in _COMMANDS})
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = self._load(cmd_name)
        return self.commands[cmd_name]

    @staticmethod
    def _load(name: str) -> Any:
        file = import_module(f"edgectl.cli.{_LAST_FILE.get(name, name)}")
        if hasattr(file, "app"):
            return get_group(file.app)
        alone = typer.Typer(add_completion=False)
        alone.command(name)(getattr(file, name))
        return get_command(alone)


app = typer.Typer(
    name="edgectl",
    cls=_Commands,
    help="Take a trained ONNX model from a workstation to a fleet of cameras, cars and voice devices, and keep it honest there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(version("edgectl"))
        raise typer.Exit


@app.callback()
def _options(
    show: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


_EXTRAS = {
    "onnx": "builder",
    "onnxslim": "builder",
    "google": "builder",
    "sqlalchemy": "fleet",
    "starlette": "fleet",
    "uvicorn": "fleet",
    "httpx": "fleet",
    "amqtt": "broker",
    "torch": "compress",
    "threadpoolctl": "builder",
    "openvino": "openvino",
}
"""What a device does not install, and the extra that brings it."""


def main() -> None:
    """Entry point: known errors become one sentence, a next step and their exit code; SIGTERM stops in
    good order, as Ctrl-C does."""
    hide_credentials()
    redact_tracebacks()
    signal.signal(signal.SIGTERM, _terminated)
    follow_parent()
    try:
        sys.exit(app(standalone_mode=False))
    except EdgectlError as e:
        _fail(e)
    except ModuleNotFoundError as e:
        _fail(_lacking(e))
    except _ClickException as e:
        if type(e).__name__ == "NoArgsIsHelpError":
            e.show()
            sys.exit(2)
        _fail(UsageError(e.format_message().rstrip(".").replace("Value error, ", ""), hint=_help_of(e)))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)
    except Exception as e:
        if os.environ.get("EDGECTL_DEBUG"):
            raise
        what = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
        _fail(
            EdgectlError(
                f"this is a defect of edgectl: {what}",
                hint="EDGECTL_DEBUG=1 shows where; please report it with that",
            )
        )


def _lacking(e: ModuleNotFoundError) -> EdgectlError:
    module = (e.name or "").split(".")[0]
    if module == "onnxruntime":
        from edgectl.device_profiles.machine import RUNTIME_HINT

        return UsageError("this command needs an inference runtime, and none is installed", hint=RUNTIME_HINT)
    if module in _EXTRAS:
        return UsageError(
            f"this command needs {module}, which is not installed",
            hint=f"pip install 'edgectl[{_EXTRAS[module]}]'",
        )
    return EdgectlError(
        f"edgectl is not whole: {e}", hint="install it again: pip install --force-reinstall edgectl"
    )


def _fail(e: EdgectlError) -> NoReturn:
    (Output.current or Output("--json" in sys.argv)).fail(e)
    sys.exit(e.exit_code)


def _help_of(e: Exception) -> str | None:
    asked = getattr(e, "ctx", None)
    return None if asked is None else f"see `{asked.command_path} --help`"


def _terminated(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the good order
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
