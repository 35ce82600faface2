"""``edgectl``: nouns and their verbs. Each command lives in a file named after its noun."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer

from edgectl.cli import (
    agent,
    broker,
    build,
    bundle,
    controller,
    demo,
    device,
    doctor,
    fleet,
    keys,
    models,
    profiles,
    release,
    rollout,
    run,
)
from edgectl.cli._output import Output
from edgectl.core.errors import EdgectlError, UsageError

__all__ = ["app", "main"]

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

app.command("run")(run.run)
app.command("doctor")(doctor.doctor)
for _noun in (bundle, profiles, models, keys, broker, device, agent, controller, release, rollout, fleet):
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
    """Entry point: known errors become one sentence, a next step and their exit code."""
    try:
        app(standalone_mode=True)
    except EdgectlError as e:
        (Output.current or Output("--json" in sys.argv)).fail(e)
        sys.exit(e.exit_code)
    except ModuleNotFoundError as e:
        extra = _EXTRAS.get((e.name or "").split(".")[0])
        if extra is None:
            raise
        missing = UsageError(f"this command needs {e.name}, which is not installed", hint=f"pip install 'edgectl[{extra}]'")
        (Output.current or Output("--json" in sys.argv)).fail(missing)
        sys.exit(missing.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # the reader (head, less) went away
        sys.stderr.close()
        sys.exit(141)


if __name__ == "__main__":
    main()
