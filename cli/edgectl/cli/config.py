"""``edgectl config``: pipeline configurations as releases."""

from __future__ import annotations

import difflib
import itertools
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from edgectl.cli._controller import ControllerOptions
from edgectl.cli._keys import SigningOptions
from edgectl.cli._nouns import Noun
from edgectl.cli._printer import Printer
from edgectl.core.errors import UsageError

if TYPE_CHECKING:
    from edgectl.core.bundle.config_release import PartRelease
    from edgectl.core.config_file import ConfigFile
    from edgectl.fleet.client.client import FleetClient
    from edgectl.pipelines.kinds.config import PipelineConfig

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
    part: Annotated[
        list[str] | None,
        typer.Option(
            help="PART=NAME@VERSION: engines that come into force with it, and go with it; may be repeated."
        ),
    ] = None,
    *,
    signing: SigningOptions,
    controller: ControllerOptions,
    out: Printer,
) -> None:
    """Check a configuration, sign it and announce it to the fleet. A rollout brings it to devices whose streams have its
    slot as `config_slot`. With --part it is a set: rules and engines change as one."""
    from edgectl.core.bundle.config_release import ConfigRelease
    from edgectl.core.trust import release_name
    from edgectl.fleet.client.config_writer import write_config
    from edgectl.fleet.client.publish import publish_bundle

    release_name(name, version)
    text, parsed, config = _checked(file, kind)
    named = _named(part or ())
    with tempfile.TemporaryDirectory(prefix="edgectl-config-") as place, controller.client() as fleet:
        parts = _parts(fleet, named, kind, parsed, config)
        meant = ConfigRelease(name=name, version=version, kind=kind, parts=parts)
        digest = write_config(Path(place), meant, text.encode())
        release = publish_bundle(fleet, Path(place), signing.keys, delta_from="", ring=signing.ring())
    found: dict[str, Any] = {"release": release, "digest": digest, "kind": kind}
    if parts:
        found["parts"] = {name: one.model_dump() for name, one in parts.items()}
    out.result(found, f"{release}  {digest}\nnext: edgectl rollout start {release} --slot SLOT")


@app.command("show")
def show(release: Release, *, controller: ControllerOptions, out: Printer) -> None:
    """Show a published configuration."""
    with controller.client() as fleet:
        found = fleet.configuration(release)
    out.result(found, _whole(found).rstrip("\n"))


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
        found = fleet.configuration(before)
        # a file does not say which engines go with it
        if Path(after).is_file():
            old, new = found["text"], read_bounded_text(Path(after))
        else:
            old, new = _whole(found), _whole(fleet.configuration(after))
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), before, after, lineterm="", n=2))
    out.result({"before": before, "after": after, "diff": lines}, "\n".join(lines) or "they are the same")


def _whole(found: Mapping[str, Any]) -> str:
    """The text, with the parts of a set as comments before it."""
    parts = [
        f"# part {part}: {one['release']} {one['digest']}\n" for part, one in found.get("parts", {}).items()
    ]
    return "".join(parts) + str(found["text"])


def _named(parts: Sequence[str]) -> dict[str, str]:
    """Part → release, as ``--part`` says it."""
    from edgectl.core.bundle.config_release import MAX_PARTS

    named: dict[str, str] = {}
    for text in parts:
        name, equals, release = text.partition("=")
        if not (name and equals and release) or name in named:
            why = "names a part once more" if name in named else "is not PART=NAME@VERSION"
            raise UsageError(f"--part {text} {why}", hint="for example --part detector=gate-detector@2.0.0")
        named[name] = release
    if len(named) > MAX_PARTS:
        raise UsageError(f"a set has {MAX_PARTS} parts at most, this has {len(named)}")
    return named


def _parts(
    fleet: FleetClient,
    named: Mapping[str, str],
    kind: str,
    parsed: ConfigFile,
    config: PipelineConfig,
) -> dict[str, PartRelease]:
    """The releases that a set names, with their digests, checked against the configuration: it has these parts, and speaks
    of what their engines know."""
    if not named:
        return {}
    from edgectl.core.bundle.config_release import PartRelease
    from edgectl.core.nearest import did_you_mean
    from edgectl.pipelines.kinds.fit import check_fit, check_parts

    check_parts(kind, config, named)
    known = {r["release"]: r for r in fleet.releases()}
    for part, release in named.items():
        if release not in known:
            raise UsageError(
                f"part {part}: {release} is not published, or was withdrawn",
                hint=did_you_mean(release, known),
            )
        if (sort := known[release].get("type", "engine")) != "engine":
            raise UsageError(f"part {part}: {release} is a {sort} and no bundle of engines")
    tasks = {part: fleet.tasks(release) for part, release in named.items()}
    try:
        for each in itertools.product(*tasks.values()):
            check_fit(kind, config, dict(zip(tasks, each, strict=True)))
    except UsageError as e:
        raise parsed.locate(e) from e
    return {
        part: PartRelease(release=release, digest=known[release]["digest"]) for part, release in named.items()
    }


def _checked(file: Path, kind: str) -> tuple[str, ConfigFile, PipelineConfig]:
    """The text of a file that is a configuration of this kind, without credentials, and what it says."""
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
    return text, parsed, config


def _credentials(what: str) -> UsageError:
    return UsageError(
        f"{what} credentials, and what is published lies at the broker for every device",
        hint="keep what needs a password in the device's agent.toml",
    )
