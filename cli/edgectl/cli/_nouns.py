"""The nouns of the command line, and how a command is found: its file is imported when the noun is asked for, its
options are read when the command is.

So ``--help`` of any level is made from the declarations of one noun and costs little more than Typer itself, and the
agent, which shares a small device with its pipelines, carries no other command. A file of a noun imports at its top
only what declares it; numpy, pydantic, rich and our own components are imported where they are used.

    app = Noun("device")

    @app.command("lock")
    def lock(name: Name, *, controller: ControllerOptions, out: Printer) -> None:
        \"""Say "not now".\"""
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, TypeVar

import typer
from typer.core import TyperGroup
from typer.main import get_command

from edgectl.cli._options import ungrouped

__all__ = ["NOUNS", "Noun", "Nouns"]

NOUNS = {
    "build": "Compile a trained ONNX model into a bundle of engines.",
    "bench": "Measure the variants of a bundle on this machine.",
    "finalise": "Make and check the engine that this device takes from a bundle.",
    "run": "Run one pipeline on one source, here and now.",
    "replay": "Run other zones and rules on recorded tracks, and compare.",
    "why": "Say why a rule told something, or did not: which predicate failed first.",
    "doctor": "Check whether this machine is ready, and say what to do about it.",
    "cameras": "Find the cameras of the local network.",
    "bundle": "Show and verify a bundle.",
    "profiles": "Device profiles, and the one that fits this machine.",
    "models": "List and fetch models to start with: reference models of edgectl and public ones.",
    "keys": "Make, rotate and use the keys that sign releases.",
    "broker": "Run a broker on one machine, or write the files of a production broker.",
    "device": "Add, remove and command devices.",
    "agent": "Run the service on a device.",
    "controller": "Set up and run the controller: inventory, seeder, rollouts, API.",
    "release": "Publish, withdraw and list signed releases.",
    "config": "Publish pipeline configurations as releases, show and compare them.",
    "rollout": "Bring a release to devices in waves, watch it, take it back.",
    "slot": "Empty a slot.",
    "fleet": "Watch the fleet: devices, status, events, freeze.",
    "telemetry": "Ask what the fleet measured, compare releases, export it.",
    "store": "Check and repair the files of a device.",
    "demo": "Try the whole product on this machine, with synthetic cameras and a microphone.",
}
"""In the order of the help. The module of that name has a :class:`Noun` called ``app``, or one command of the
module's name."""

_Command = TypeVar("_Command", bound=Callable[..., None])


class Noun:
    """The commands of one noun, in the order of its help. ``default``: the command that is meant without one."""

    def __init__(self, name: str, *, default: str | None = None) -> None:
        self.name = name
        self.default = default
        self.commands: dict[str, Callable[..., None]] = {}

    def command(self, name: str) -> Callable[[_Command], _Command]:
        def declare(command: _Command) -> _Command:
            self.commands[name] = command
            return command

        return declare

    def add(self, *commands: Callable[..., None]) -> None:
        """Each under its own name."""
        for command in commands:
            self.command(command.__name__)(command)


class _Lazy(TyperGroup):
    """A group that makes a command when it is asked for. Its help needs none of them, and cuts no summary short."""

    @abstractmethod
    def names(self) -> Iterable[str]: ...

    @abstractmethod
    def summary(self, name: str) -> str: ...

    @abstractmethod
    def make(self, name: str) -> Any: ...

    def list_commands(self, ctx: Any) -> list[str]:
        return list(self.names())

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in self.names():
            # what a misspelt name is compared with
            for name in self.names():
                self.get_command(ctx, name)
            return None
        if cmd_name not in self.commands:
            self.commands[cmd_name] = self.make(cmd_name)
        return self.commands[cmd_name]

    def get_params(self, ctx: Any) -> Any:
        """A flag that is not given is False. Of None, Typer would make None again, by way of pydantic."""
        params = super().get_params(ctx)
        for param in params:
            if getattr(param, "is_flag", False) and param.default is None:
                param.default = False
        return params

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, self.summary(name)) for name in self.names()])


class Nouns(_Lazy):
    """The root."""

    def names(self) -> Iterable[str]:
        return NOUNS

    def summary(self, name: str) -> str:
        return NOUNS[name]

    def make(self, name: str) -> Any:
        module = import_module(f"edgectl.cli.{name}")
        return _OfNoun(module.app) if hasattr(module, "app") else _made(name, getattr(module, name))


class _OfNoun(_Lazy):
    """The commands of one noun."""

    def __init__(self, noun: Noun) -> None:
        super().__init__(
            name=noun.name, help=NOUNS[noun.name], no_args_is_help=noun.default is None, rich_markup_mode=None
        )
        self.noun = noun

    def names(self) -> Iterable[str]:
        return self.noun.commands

    def summary(self, name: str) -> str:
        return (inspect.getdoc(self.noun.commands[name]) or "").partition("\n\n")[0]

    def make(self, name: str) -> Any:
        return _made(name, self.noun.commands[name])

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        options = bool(args) and args[0].startswith("-") and args[0] not in ctx.help_option_names
        completes = ctx.resilient_parsing and not args  # the names of all commands
        if self.noun.default is not None and (not args or options) and not completes:
            args = [self.noun.default, *args]
        return super().parse_args(ctx, args)


def _made(name: str, command: Callable[..., None]) -> Any:
    alone = typer.Typer(add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)
    alone.command(name)(ungrouped(command))
    return get_command(alone)
