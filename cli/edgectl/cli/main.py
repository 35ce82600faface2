"""``edgectl``: nouns and their verbs. Each command lives in a file named after its noun."""

from __future__ import annotations

import signal
import sys
from importlib.metadata import version
from typing import Annotated, Any, NoReturn

import typer

from edgectl.cli import (
    agent,
    bench,
    broker,
    build,
    bundle,
    controller,
    demo,
    device_commands,
    doctor,
    finalise,
    fleet,
    keys,
    models,
    profiles,
    release,
    rollout,
    run,
    store,
)
from edgectl.cli._output import Output
from edgectl.cli._signals import follow_parent
from edgectl.core.errors import EdgectlError, UsageError

__all__ = ["app", "main"]

# Typer brings a copy of click from 0.20 on and needs click itself before: this is the one that it raises.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="edgectl",
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


app.command("build")(build.build)
app.command("bench")(bench.bench)
app.command("finalise")(finalise.finalise)
app.command("run")(run.run)
app.command("doctor")(doctor.doctor)
for _noun in (bundle, profiles, models, keys, broker, device_commands, agent, controller, release, rollout, fleet, store):
    app.add_typer(_noun.app)
app.add_typer(demo.app)


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
}
"""What a device does not install, and the extra that brings it."""


def main() -> None:
    """Entry point: known errors become one sentence, a next step and their exit code; SIGTERM stops in good order, as Ctrl-C does."""
    signal.signal(signal.SIGTERM, _terminated)
    follow_parent()
    try:
        sys.exit(app(standalone_mode=False))
    except EdgectlError as e:
        _fail(e)
    except ModuleNotFoundError as e:
        extra = _EXTRAS.get((e.name or "").split(".")[0])
        if extra is None:
            raise
        _fail(UsageError(f"this command needs {e.name}, which is not installed", hint=f"pip install 'edgectl[{extra}]'"))
    except _ClickException as e:
        if type(e).__name__ == "NoArgsIsHelpError":
            e.show()
            sys.exit(2)
        _fail(UsageError(e.format_message().rstrip(".").replace("Value error, ", ""), hint=_help_of(e)))
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(130)


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
