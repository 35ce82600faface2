"""The demo from build to rollback, and what it must have shown to count as passed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from edgectl.builder.build import BuildProgress, BuildReport
from edgectl.cli._printer import Printer, table
from edgectl.cli.demo.builds import MODELS, build_bad, build_reference
from edgectl.cli.demo.devices import DEVICES
from edgectl.cli.demo.site import Site
from edgectl.cli.views.devices import rows_table
from edgectl.core.errors import RolloutError, UsageError
from edgectl.core.files import storage

__all__ = ["DemoResult", "prepare", "run_demo", "summary"]

MANY = max(DEVICES, key=lambda d: len(d.cameras))
"""The device with more than one camera."""
_BUILD_MINUTES = 0.4  # each model: a demo, not a release
_MARK = ".edgectl-demo"


@dataclass(frozen=True)
class Built:
    release: str
    digest: str
    variant: str
    p50_ms: float | None
    ratio_to_float: float | None
    seconds: float


@dataclass
class DemoResult:
    """What happened. ``rollouts`` are the controller's own records; ``rows`` those of `edgectl fleet
    watch` at the end."""

    folder: Path
    builds: list[Built] = field(default_factory=list)
    good: list[dict[str, Any]] = field(default_factory=list)
    bad: dict[str, Any] = field(default_factory=dict)
    frames_of_others_during_bad: dict[str, int] = field(default_factory=dict)
    """Frames (or blocks of audio) that each device which never got the bad release processed while it was
    out."""
    rows: list[dict[str, Any]] = field(default_factory=list)
    events: dict[str, dict[str, int]] = field(default_factory=dict)
    upload: dict[str, Any] = field(default_factory=dict)
    videos: list[Path] = field(default_factory=list)
    page: str = ""
    """Address of the live page of :data:`MANY`, while the demo runs."""
    workers_mb: list[float] = field(default_factory=list)
    """The memory of each worker of :data:`MANY`, MB (10^6 bytes)."""
    seconds: float = 0.0


def run_demo(folder: Path, out: Printer, *, stay: bool = False) -> DemoResult:
    """Run it in ``folder``, which is emptied first if a demo made it. ``stay``: at the end it goes on until a signal
    comes. Raises :class:`EdgectlError` if it
    did not show what it must."""
    started = time.monotonic()
    prepare(folder)
    result = DemoResult(folder)
    bundles = _build(folder, out, result)
    out.say("starting a broker, a controller and five devices …")
    with Site(folder) as site:
        for device in DEVICES:
            site.start_device(device)
        with _view(site, out) as update:
            site.wait_online(update)
            releases = {m.release: site.publish(bundles[m.name]) for m in MODELS}
            bad = site.publish(bundles["bad"])
            result.page = site.page(MANY.name)
            out.say(f"live page of {MANY.name}, with {len(MANY.cameras)} cameras: {result.page}")
            out.say(f"dashboard of the fleet, once within a minute: {site.dashboard()}", whole=True)
            out.say(f"another link to it: {site.open_dashboard}", whole=True)
            update("v1: canary, then the rest")
            ids = [site.rollout(releases[m.release], m.slot) for m in MODELS]
            result.good = site.wait_rollouts(ids, update)
            for r in result.good:
                if r["state"] != "done":
                    raise RolloutError(
                        f"the good release {r['release']} was not taken: {r.get('reason')}",
                        hint=f"logs: {folder / 'logs'}",
                    )
            update(f"v1 is on every device; now {bad}, which answers right and far too slowly")
            before = _processed(site)
            result.bad = site.wait_rollouts([site.rollout(bad, MODELS[0].slot)], update)[0]
            update("the bad release was stopped in its canary")
            after = _processed(site)
            got_it = {name for name, m in result.bad["members"].items() if m["outcome"] != "waiting"}
            result.frames_of_others_during_bad = {
                d: after[d] - before.get(d, 0) for d in after if d not in got_it
            }
            site.wait_running(releases[MODELS[0].release], "gate", update)
            result.workers_mb = [round(mb, 1) for mb in site.workers(MANY.name)]
            if stay:
                out.say(f"dashboard of the fleet, once within a minute: {site.dashboard()}", whole=True)
                update(
                    f"all is shown; Ctrl-C ends it. Live page: {result.page}, dashboard: {site.open_dashboard}"
                )
                site.stay(update)
        result.rows = site.client.rows()
        result.events = _by_device(site)
        result.upload = site.client.transfer()
    result.videos = sorted(folder.glob("*/media/annotated*.mp4"))
    result.seconds = time.monotonic() - started
    _must_have_shown(result, releases[MODELS[0].release])
    return result


def prepare(folder: Path) -> None:
    if folder.exists() and any(folder.iterdir()):
        if not (folder / _MARK).is_file():
            raise UsageError(f"{folder} is not empty and no demo made it", hint="give another --out")
        shutil.rmtree(folder)
    with storage(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _MARK).touch()


def _build(folder: Path, out: Printer, result: DemoResult) -> dict[str, Path]:
    """The three good bundles and the bad one; progress on stderr."""
    bundles: dict[str, Path] = {}
    jobs = [(m.name, m.release, "1.0.0") for m in MODELS] + [("bad", MODELS[0].release, "2.0.0")]
    with out.progress() as bar:
        for k, (name, release, version) in enumerate(jobs):

            def show(p: BuildProgress, k: int = k, what: str = f"{release} {version}") -> None:
                bar(
                    f"building {what}: {p.message}" + (f"  best so far: {p.best}" if p.best else ""),
                    (k + p.share) / len(jobs),
                )

            target = folder / "bundles" / f"{release}-{version}"
            if name == "bad":
                report = build_bad(release, version, target, minutes=_BUILD_MINUTES, progress=show)
            else:
                report = build_reference(
                    name, release, version, target, minutes=_BUILD_MINUTES, progress=show
                )
            bundles[name] = target
            result.builds.append(_built(report))
            b = result.builds[-1]
            cause = next((why[0].cause.value for why in report.causes.values() if why), None)
            out.say(f"built {b.release}: {b.variant}, {speed(b, cause)} ({b.seconds:.0f} s)")
    return bundles


def speed(built: Built, cause: str | None) -> str:
    """``cause``: why int8 does not ship first; None where it does."""
    if not built.p50_ms or not built.ratio_to_float:
        return "not measured"
    if cause is not None:
        return f"{built.p50_ms:.2f} ms; int8 does not ship first: {cause}"
    return f"{built.p50_ms:.2f} ms, {1 / built.ratio_to_float:.1f} times as fast as float"


def _built(report: BuildReport) -> Built:
    first = report.variants[0]
    return Built(
        f"{report.name}@{report.version}",
        report.digest,
        first.variant,
        first.p50_ms,
        first.ratio_to_float,
        round(report.seconds, 1),
    )


@contextlib.contextmanager
def _view(site: Site, out: Printer) -> Iterator[Callable[..., None]]:
    """Yields ``update(headline=None)``: devices and the newest events, live on a terminal; headlines only
    in a log."""
    headline = "devices come online"
    if out.as_json or not out.stderr.is_terminal:

        def quiet(text: str | None = None) -> None:
            if text:
                out.say(text)

        yield quiet
        return

    def picture() -> RenderableType:
        return Group(
            Text(headline, "bold"),
            Text(f"live page of {MANY.name}: {site.page(MANY.name)}"),
            "",
            rows_table(site.client.rows()),
            "",
            *(Text(line, "dim") for line in site.events.latest),
        )

    with Live(picture(), console=out.stderr, refresh_per_second=4, transient=False) as live:

        def update(text: str | None = None) -> None:
            nonlocal headline
            if text:
                headline = text
            live.update(picture())

        yield update


def _processed(site: Site) -> dict[str, int]:
    """Device → frames of all its streams."""
    found: Counter[str] = Counter()
    for r in site.client.rows():
        found[r["device"]] += r["processed"]
    return found


def _by_device(site: Site) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {}
    for (device, kind), n in sorted(site.events.counts.items()):
        found.setdefault(device, {})[kind] = n
    return found


def _must_have_shown(r: DemoResult, good: str) -> None:
    """The demo is a test of itself: a claim on the screen that did not happen is an error."""
    outcomes = [m["outcome"] for m in r.bad["members"].values()]
    if r.bad["state"] != "stopped" or len([o for o in outcomes if o != "waiting"]) != 1:
        raise RolloutError(
            f"the bad release was not stopped in its canary: {r.bad['state']}, {', '.join(outcomes)}"
        )
    if any(row["release"] != good for row in r.rows if row["device"].startswith("gate")):
        raise RolloutError("a gate camera still runs the bad release")
    if idle := [d for d, n in r.frames_of_others_during_bad.items() if n <= 0]:
        raise RolloutError(f"{', '.join(idle)} stood still while the bad release was out")
    seen = {row["stream"] for row in r.rows if row["device"] == MANY.name and row["processed"]}
    if seen != set(MANY.cameras) or len(r.workers_mb) != 1:
        raise RolloutError(
            f"the cameras of {MANY.name} do not share one worker: {len(r.workers_mb)} workers, "
            f"pictures of {', '.join(sorted(seen)) or 'none'}"
        )


def summary(r: DemoResult) -> RenderableType:
    """The table at the end."""
    builds = table(
        "release", "engine", ">p50 ms", ">× as fast as float", ">s", title="built for this machine"
    )
    for b in r.builds:
        p50 = "-" if b.p50_ms is None else f"{b.p50_ms:.2f}"
        builds.add_row(
            b.release,
            b.variant,
            p50,
            "-" if not b.ratio_to_float else f"{1 / b.ratio_to_float:.1f}",
            f"{b.seconds:.0f}",
        )
    rollouts = table("rollout", "state", "devices", "why", title="rollouts")
    for x in [*r.good, r.bad]:
        took = ", ".join(
            f"{name} {m['outcome']}"
            for name, m in sorted(x["members"].items(), key=lambda i: (i[1]["wave"], i[0]))
        )
        colour = "green" if x["state"] == "done" else "red"
        rollouts.add_row(x["release"], Text(x["state"], colour), took, x.get("reason") or "")
    events = table("device", "events", title="events")
    for device, kinds in r.events.items():
        events.add_row(
            device, ", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items(), key=lambda i: -i[1]))
        )
    went_on = ", ".join(f"{d} {n}" for d, n in r.frames_of_others_during_bad.items())
    lines = [
        f"{len(MANY.cameras)} cameras of {MANY.name} in one worker of {sum(r.workers_mb):.0f} MB: {', '.join(MANY.cameras)}; "
        "`edgectl demo --stay` leaves their live page open",
        f"frames while the bad release was out: {went_on}",
        *(f"video {v}" for v in r.videos),
        f"{r.seconds:.0f} s in all; logs in {r.folder / 'logs'}",
    ]
    return Group("", builds, "", rollouts, "", rows_table(r.rows), "", events, "", *lines)
