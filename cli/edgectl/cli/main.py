"""``edgectl``: nouns and their verbs. Each noun is a file (:mod:`edgectl.cli._nouns`)."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer

from edgectl.cli._argv import hide_credentials
from edgectl.cli._nouns import Nouns
from edgectl.cli._printer import Printer
from edgectl.cli._signals import follow_parent
from edgectl.core.errors import EdgectlError, StorageError, UsageError
from edgectl.core.uri import redact_tracebacks

__all__ = ["app", "main"]

# Typer brings a copy of click from 0.20 on and needs click itself before: this is the one that it raises.
_ClickException: Any = next(c for c in typer.BadParameter.__mro__ if c.__name__ == "ClickException")

app = typer.Typer(
    name="edgectl",
    cls=Nouns,
    help="Take a trained ONNX model from a workstation to a fleet of cameras, cars and voice devices, and keep it honest there.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

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
    "jinja2": "fleet",
    "markupsafe": "fleet",
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
        _fail(_unforeseen(e))


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


def _unforeseen(e: Exception) -> EdgectlError:
    if isinstance(e, OSError) and e.errno in (errno.ENOSPC, errno.EDQUOT):
        # of the standard output, where the error names no file
        if not e.filename:
            _forget_output()
        return StorageError(f"cannot write {e.filename or 'the output'}: the disk is full", hint="make room")
    what = f"{type(e).__name__}: {e}" if str(e) else type(e).__name__
    return EdgectlError(
        f"this is a defect of edgectl: {what}", hint="EDGECTL_DEBUG=1 shows where; please report it with that"
    )


def _forget_output() -> None:
    """What could not be written would be tried once more at the end, and its failure be the exit code."""
    with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


def _fail(e: EdgectlError) -> NoReturn:
    (Printer.current or Printer("--json" in sys.argv)).fail(e)
    sys.exit(e.exit_code)


def _help_of(e: Exception) -> str | None:
    asked = getattr(e, "ctx", None)
    return None if asked is None else f"see `{asked.command_path} --help`"


def _terminated(number: int, frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one must not break off the good order
    sys.exit(128 + number)


if __name__ == "__main__":
    main()
