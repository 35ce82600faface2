"""``edgectl config``: pipeline configurations as releases."""

from __future__ import annotations

import difflib
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._keys import SigningOptions
from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer
from edgectl.core.errors import UsageError

__all__ = ["app"]

app = Noun("config")

Release = Annotated[str, typer.Argument(help="NAME@VERSION of a published configuration.")]


@app.command("publish")
def publish(
    file: Annotated[
        Path, typer.Argument(help="YAML file of a pipeline, as `edgectl run --config` takes it.")
    ],
    name: Annotated[str, typer.Option(help="Name of the release, e.g. gate-rules.")],
    version: Annotated[str, typer.Option(help="Its version; each is published once.")],
    kind: Annotated[str, typer.Option(help="Kind of pipeline that it is for.")] = "surveillance",
    *,
    signing: SigningOptions,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Check a configuration, sign it and announce it to the fleet. A rollout brings it to devices whose streams have its
    slot as `config_slot`."""
    from edgectl.core.bundle.config_release import ConfigRelease
    from edgectl.core.trust import release_name
    from edgectl.fleet.client.config_writer import write_config
    from edgectl.fleet.client.publish import publish_bundle

    release_name(name, version)
    text = _checked(file, kind)
    with tempfile.TemporaryDirectory(prefix="edgectl-config-") as place:
        digest = write_config(
            Path(place), ConfigRelease(name=name, version=version, kind=kind), text.encode()
        )
        with controller.client() as fleet:
            release = publish_bundle(fleet, Path(place), signing.keys, delta_from="", ring=signing.ring())
    out.result(
        {"release": release, "digest": digest, "kind": kind},
        f"{release}  {digest}\nnext: edgectl rollout start {release} --slot SLOT",
    )


@app.command("show")
def show(release: Release, *, controller: ControllerOptions, out: Printer) -> None:
    """Show a published configuration."""
    with controller.client() as fleet:
        found = fleet.configuration(release)
    out.result(found, found["text"].rstrip("\n"))


@app.command("diff")
def diff(
    before: Release,
    after: Annotated[str, typer.Argument(help="NAME@VERSION of another one, or a YAML file.")],
    *,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Show what one configuration changes in another."""
    from edgectl.core.config_file import read_bounded_text

    with controller.client() as fleet:
        old = fleet.configuration(before)["text"]
        is_file = Path(after).is_file()
        new = read_bounded_text(Path(after)) if is_file else fleet.configuration(after)["text"]
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), before, after, lineterm="", n=2))
    out.result({"before": before, "after": after, "diff": lines}, "\n".join(lines) or "they are the same")


def _checked(file: Path, kind: str) -> str:
    """The text of a file that is a configuration of this kind, without credentials."""
    from edgectl.core.bundle.config_release import MAX_CONFIG_BYTES
    from edgectl.core.config_file import parse_yaml, read_bounded_text
    from edgectl.core.nearest import did_you_mean
    from edgectl.core.schema import key_of
    from edgectl.core.secret_settings import secret_settings
    from edgectl.core.uri import redact_text
    from edgectl.pipelines.kinds import KINDS

    if kind not in KINDS:
        raise UsageError(f"there is no kind of pipeline {kind!r}: {did_you_mean(kind, KINDS.names())}")
    text = read_bounded_text(file)
    if (size := len(text.encode())) > MAX_CONFIG_BYTES:
        raise UsageError(
            f"{file} has {size} bytes: a configuration that is published has {MAX_CONFIG_BYTES} at most"
        )
    parsed = parse_yaml(text, name=str(file))
    if not parsed.values:
        raise UsageError(
            f"{file} is empty: it would take every rule from the streams that get it",
            hint="write at least one setting",
        )
    config = parsed.validate(KINDS.get(kind).config)
    for number, line in enumerate(text.splitlines(), 1):
        if redact_text(line) != line:
            raise _credentials(f"{file}:{number}: it holds")
    if (key := next(secret_settings(config), None)) is not None:
        written = key[1:] if key[0] == "sinks" else key  # files may leave that out
        raise _credentials(f"{parsed.place(key)}: {key_of(written)} may hold")
    return text


def _credentials(what: str) -> UsageError:
    return UsageError(
        f"{what} credentials, and what is published lies at the broker for every device",
        hint="keep what needs a password in the device's agent.toml",
    )
