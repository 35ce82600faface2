"""How often do the gates of a rollout stop a good release, and how soon a bad one? Simulated cameras at 30 frames a
second, looked at every second.

    python bench/gates.py [--runs 1000] [--quick] [--only TABLE …] [--json FILE]
    python bench/gates.py --tables FILE … --write docs/gates.md    # those of earlier runs

Latency is log-normal (σ of its logarithm) and depends on that of the frame before (AR(1), ρ a frame); a scene that
changes by itself multiplies it. Blocks of 10 s are made of frames as the controller makes them of histograms, at the
resolution of their buckets; wealth is that of :mod:`edgectl.fleet.rollouts.gates`, worked out for many rollouts at once
(``tests/bench/test_gates.py`` compares the two). What is judged is a release that may be no slower at all
(``max_ratio`` 1), by the gates of p99 and median, two of the usual four. An hour on one core, ``--quick`` some minutes.

Beside them, on the same frames: Netflix's judge as it is published (Kayenta, ``NetflixACAJudge``: Mann-Whitney with 98 %
confidence and a tolerance of a quarter of the Hodges-Lehmann estimate), points of a minute each, once after ten and at each
from the third, against a device that has not got the release; and the usual analysis of Argo Rollouts: p99 over a minute against a fixed threshold
(here 1.1 times the p99 of the minutes before), failure limit 3.
"""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgectl.fleet.rollouts.gates import GATES
from edgectl.fleet.rollouts.gates.blocks import BLOCK_S, COARSE, drift
from edgectl.fleet.rollouts.gates.judge import CONTROLS, LONG_S, UNSEEN
from edgectl.fleet.rollouts.gates.wealth import TILTS, share

FPS = 30
FRAMES = int(FPS * BLOCK_S)
PER_OCTAVE = 32
BEFORE = 128
"""Blocks of the old engine that are kept."""
LONG = 1024
"""The same where there is a long history: 2.8 hours."""
AFTER = 120
"""20 minutes of the new engine."""
QUANTILES = (0.5, 0.99)
ALPHA = 0.01
IN_ALL = 4
"""Of the usual policy; two of them judge latency."""
NEEDED = -math.log(ALPHA / IN_ALL * share(0))
MINUTE = 6  # blocks

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Scene:
    """What multiplies the latency of all devices that see it."""

    name: str
    kind: str = "still"
    blocks: float = 0.0
    """Time constant, period or mean dwell."""
    log: float = 0.0
    """Standard deviation, amplitude or step of the logarithm."""

    def path(self, chance: np.random.Generator, runs: int, blocks: int, after: int) -> Array:
        """(runs, blocks): what it adds to the logarithm."""
        t = np.arange(blocks)[None]
        if self.kind == "wander":
            a = math.exp(-1 / self.blocks)
            x, found = chance.standard_normal(runs), np.empty((runs, blocks))
            for b in range(blocks):
                found[:, b] = x
                x = a * x + math.sqrt(1 - a * a) * chance.standard_normal(runs)
            return self.log * found
        if self.kind == "wave":
            return self.log * np.sin(2 * np.pi * (t / self.blocks + chance.random((runs, 1))))
        if self.kind == "switch":
            state, found = chance.integers(0, 2, runs), np.empty((runs, blocks))
            for b in range(blocks):
                found[:, b] = state
                state = np.where(chance.random(runs) < 1 / self.blocks, 1 - state, state)
            return self.log * found
        if self.kind == "step":
            return self.log * (t >= blocks - after + chance.integers(0, after // 2, (runs, 1)))
        return np.zeros((runs, blocks))


STILL = Scene("still")
WANDER = Scene("wanders, 5 min, ± 10 %", "wander", 30, 0.1)
SCENES = (
    STILL,
    Scene("wanders, 1 min, ± 5 %", "wander", 6, 0.05),
    WANDER,
    Scene("wave of an hour, ± 10 %", "wave", 360, 0.1),
    Scene("switches about every half hour, 15 %", "switch", 180, 0.15),
)
STEP = Scene("rises by 15 % during the rollout", "step", 0, 0.15)


@dataclass
class Device:
    """Blocks of some devices at once: log2 quantiles in buckets, (devices, blocks, quantiles)."""

    blocks: Array
    minutes: Array
    """The same of whole minutes."""


class Cameras:
    """Makes frames of ``devices`` devices, block by block."""

    def __init__(self, chance: np.random.Generator, devices: int, sigma: float, rho: float) -> None:
        self._chance = chance
        self._sigma, self._rho = sigma, np.float32(rho)
        self._x = chance.standard_normal(devices, dtype=np.float32)

    def block(self) -> NDArray[np.float32]:
        """(devices, frames): standard normal, each depends on the one before."""
        noise = self._chance.standard_normal((FRAMES, len(self._x)), dtype=np.float32)
        noise *= np.sqrt(1 - self._rho**2)
        found = np.empty((len(self._x), FRAMES), np.float32)
        for frame in range(FRAMES):
            self._x = self._rho * self._x + noise[frame]
            found[:, frame] = self._x
        return found

    def run(self, scene: Array, after: int, slower: float = 0.0, tail: float = 0.0) -> Device:
        """``scene``: (devices, blocks). In the last ``after`` blocks all frames are ``slower`` by so much (0.2: 20 %), and
        the slowest twentieth by ``tail``."""
        devices, blocks = scene.shape
        found = np.empty((devices, blocks, len(QUANTILES)))
        minutes, minute = [], []
        for b in range(blocks):
            x = self.block()
            log = self._sigma * x + scene[:, b : b + 1]
            if b >= blocks - after:
                log += math.log1p(slower) + math.log1p(tail) * (x > NormalDist().inv_cdf(0.95))
            buckets = np.ceil((log / math.log(2) + 13) * PER_OCTAVE).astype(np.int16)
            found[:, b] = quantiles(buckets)
            if b >= blocks - after - 10 * MINUTE:
                minute.append(buckets)
                if len(minute) == MINUTE:
                    minutes.append(quantiles(np.concatenate(minute, axis=1)))
                    minute = []
        return Device(found, np.stack(minutes, axis=1))


def quantiles(buckets: NDArray[np.int16]) -> Array:
    """(…, frames) → (…, quantiles), as :func:`edgectl.fleet.rollouts.gates.blocks.log2_quantile` finds them."""
    ordered = np.sort(buckets, axis=-1)
    found = []
    for q in QUANTILES:
        rank = q * buckets.shape[-1]
        bucket = ordered[..., max(0, math.ceil(rank) - 1), None]
        below, within = (ordered < bucket).sum(-1), (ordered == bucket).sum(-1)
        # bucket i holds (b^(i-1), b^i] here: its lower edge is i - 1
        found.append(bucket[..., 0] - 1 + (rank - below) / within)
    return np.stack(found, axis=-1)


def ranked(before: Array, after: Array) -> Array:
    """(devices, before), (devices, after) → log wealth (devices, after, tilts) when each block has come."""
    devices, n = before.shape
    known = np.sort(before, axis=1)
    score = np.array([NormalDist().inv_cdf((place + 0.5) / (n + 1)) for place in range(n + 1)])
    tilt, stake = np.array(TILTS).T
    odds = np.exp(tilt[None] * score[:, None])
    sums, log = np.tile(odds.sum(0), (devices, 1)), np.zeros((devices, len(TILTS)))
    found = np.empty((devices, after.shape[1], len(TILTS)))
    for b in range(after.shape[1]):
        mine = odds[(known < after[:, b : b + 1]).sum(1)]
        log = log + np.log(1 - stake + stake * mine * (n + 1 + b) / sums)
        sums = sums + mine
        found[:, b] = log
    return found


def slack(history: Array, devices: int, *, long: bool) -> Array:
    """Of each device, in buckets. ``history``: (devices, blocks)."""
    found = []
    for row, values in enumerate(history):
        own = list(values[-BEFORE:])
        coarse = []
        for m, kept in zip(COARSE, (64, 32), strict=True):
            whole = values[len(values) % m :].reshape(-1, m).mean(1)[-kept:]
            coarse.append((m, list(whole)))
        found.append(drift(own, coarse if long else coarse[:1], row % devices))
    short = history.shape[1] * BLOCK_S < LONG_S
    return np.maximum(found, UNSEEN * PER_OCTAVE) if short else np.array(found)


def log_wealth(treated: Device, controls: Device | None, devices: int, quantile: int) -> Array:
    """(runs, after): log wealth of the stratum. ``controls``: :data:`CONTROLS` of their own for each device."""
    values = treated.blocks[..., quantile]
    if controls is not None:
        others = controls.blocks[..., quantile]
        values = values - others.reshape(len(values), CONTROLS, -1).mean(1)
        before, after = values[:, :-AFTER][:, -BEFORE:], values[:, -AFTER:]
        spare = np.array([drift(list(v), place=row % devices) for row, v in enumerate(before)])
    else:
        before, after = values[:, :-AFTER][:, -BEFORE:], values[:, -AFTER:]
        spare = slack(values[:, :-AFTER], devices, long=True)
    logs = ranked(before, after - spare[:, None]).reshape(-1, devices, AFTER, len(TILTS))
    each = log_mean(logs, -1)
    staked = each + np.log([share(place) for place in range(devices)])[None, :, None]
    unstaked = np.full((len(each), 1, AFTER), -math.log(devices + 1))
    one = log_sum(np.concatenate([staked, unstaked], axis=1), 1)
    return np.logaddexp(one, log_mean(logs.sum(1), -1)) - math.log(2)


def log_sum(logs: Array, axis: int) -> Array:
    top = logs.max(axis, keepdims=True)
    return np.squeeze(top, axis) + np.log(np.exp(logs - top).sum(axis))


def log_mean(logs: Array, axis: int) -> Array:
    return log_sum(logs, axis) - math.log(logs.shape[axis])


def stopped_at(wealth: Array) -> Array:
    """(runs,): seconds of the new engine until the gate stops the rollout; inf: never."""
    hit = wealth >= NEEDED
    return np.where(hit.any(1), (hit.argmax(1) + 1) * BLOCK_S, np.inf)


@dataclass(frozen=True)
class Trial:
    """Some rollouts, and when which gate stopped each (seconds; inf: never)."""

    p50: Array
    p99: Array
    netflix: Array
    """(runs, 2): whether Netflix's judge says High after ten minutes; at any minute from the third to the tenth."""
    argo: Array

    @property
    def either(self) -> Array:
        return np.minimum(self.p50, self.p99)


def trial(
    runs: int,
    *,
    sigma: float,
    rho: float,
    scene: Scene = STILL,
    devices: int = 1,
    controls: bool = False,
    long: bool = True,
    slower: float = 0.0,
    tail: float = 0.0,
    seed: int = 1,
    peers: bool = False,
) -> Trial:
    """Rollouts whose devices see one scene each (the controls of a device see its scene)."""
    chance = np.random.default_rng(seed)
    history = BEFORE if controls or not long else LONG
    path = scene.path(chance, runs * devices, history + AFTER, AFTER)
    treated = Cameras(chance, runs * devices, sigma, rho).run(path, AFTER, slower, tail)
    others = None
    if controls or peers:
        paths = np.repeat(path, CONTROLS, axis=0)
        others = Cameras(chance, runs * devices * CONTROLS, sigma, rho).run(paths, AFTER)
    p50, p99 = (
        stopped_at(log_wealth(treated, others if controls else None, devices, q))
        for q in range(len(QUANTILES))
    )
    nobody = np.full((runs, 2), np.inf)
    if others is None or devices > 1 or not peers:
        return Trial(p50, p99, nobody, nobody[:, 0])
    mine, theirs = treated.minutes, others.minutes[::CONTROLS]
    high = np.array(
        [[_is_high(x, y, minutes) for minutes in range(3, 11)] for x, y in zip(mine, theirs, strict=True)]
    )
    judged = np.stack([high[:, -1], high.any(1)], axis=1)
    bound = mine[:, :10, 1].mean(1) + math.log2(1.1) * PER_OCTAVE
    return Trial(p50, p99, judged, argo(mine[:, 10:, 1], bound))


def netflix(canary: Array, baseline: Array, confidence: float = 0.98, tolerance: float = 0.25) -> bool:
    """Whether Kayenta's judge calls the canary High: the lower end of the Mann-Whitney confidence interval of the shift is
    above a quarter of the estimated shift."""
    if np.array_equal(canary, baseline):
        return False
    z = NormalDist().inv_cdf(1 - (1 - confidence) / 2)
    return _root(canary, baseline, z) > tolerance * abs(_root(canary, baseline, 0.0))


def _is_high(canary: Array, baseline: Array, minutes: int) -> bool:
    """By median or p99 of so many minutes of the release; (minutes, quantiles)."""
    now = slice(10, 10 + minutes)
    return any(
        netflix(2 ** (canary[now, q] / PER_OCTAVE), 2 ** (baseline[now, q] / PER_OCTAVE))
        for q in range(len(QUANTILES))
    )


def _root(x: Array, y: Array, z: float) -> float:
    """The shift at which the rank-sum statistic (corrected for continuity and ties) is ``z``."""
    n, m = len(x), len(y)

    def statistic(mu: float) -> float:
        moved = x - mu
        d = (moved[:, None] > y).sum() + 0.5 * (moved[:, None] == y).sum() - n * m / 2
        _, ties = np.unique(np.concatenate([moved, y]), return_counts=True)
        var = n * m / 12 * ((n + m + 1) - (ties**3 - ties).sum() / ((n + m) * (n + m - 1)))
        return float((d - 0.5 * np.sign(d)) / math.sqrt(var)) - z if var > 0 else -z

    low, high = float(x.min() - y.max()), float(x.max() - y.min())
    if statistic(low) <= 0:
        return low
    if statistic(high) >= 0:
        return high
    while high - low > 1e-4:
        middle = (low + high) / 2
        low, high = (middle, high) if statistic(middle) > 0 else (low, middle)
    return (low + high) / 2


def argo(minutes: Array, bound: Array, failures: int = 3) -> Array:
    """Seconds until more than ``failures`` of the minutes were above the bound."""
    failed = (minutes > bound[:, None]).cumsum(1) > failures
    return np.where(failed.any(1), (failed.argmax(1) + 1) * 60.0, np.inf)


# ---- tables


def percent(hits: Array) -> str:
    share_ = float(np.mean(hits))
    return f"{share_:.1%}" if share_ else "0"


def seconds(times: Array) -> str:
    """Median and 90 % quantile, in words; what was not found within the 20 minutes is never."""
    middle, most = (float(np.quantile(times, q, method="higher")) for q in (0.5, 0.9))
    return f"{_time(middle)}; {_time(most)}"


def _time(s: float) -> str:
    return "never" if math.isinf(s) else f"{s:g} s" if s < 120 else f"{s / 60:.3g} min"


def settings() -> Iterator[tuple[str, ...]]:
    """Of each gate, from its file."""
    yield ("gate", "stops a rollout when", "settings, and what they are else", "compared with")
    for name, gate in GATES.items():
        own = {n: f for n, f in gate.terms.model_fields.items() if n != "gate"}
        told = ", ".join(f"`{n}` {f.default}" for n, f in own.items())
        against = {
            "ranks": "the device's own blocks before",
            "mean": "the bound",
            "once": "that of the engine before",
        }[gate.bets]
        yield (f"`{name}`", gate.doc[0].lower() + gate.doc[1:-1], told, against)


def clean(runs: int, quick: bool) -> Iterator[tuple[str, ...]]:
    """False aborts of 20 minutes."""
    yield ("scene", "compared with", "σ", *(f"ρ {rho:g}" for rho in RHOS))
    for controls in (False, True):
        for scene in (*SCENES, STEP) if controls else SCENES:
            for sigma in SIGMAS[1:2] if quick else SIGMAS:
                row = [trial(runs, sigma=sigma, rho=rho, scene=scene, controls=controls) for rho in RHOS]
                what = f"{CONTROLS} controls" if controls else "its own 2.8 h"
                yield (scene.name, what, f"{sigma:g}", *(percent(t.either < np.inf) for t in row))


def many(runs: int) -> Iterator[tuple[str, ...]]:
    """The same of several devices, whose wealths multiply."""
    yield ("devices", "scene", "compared with", *(f"ρ {rho:g}" for rho in RHOS))
    for devices in (5, 20):
        for scene, controls in ((STILL, False), (WANDER, False), (WANDER, True)):
            kw: dict[str, Any] = {"sigma": 0.2, "scene": scene, "controls": controls, "seed": 5}
            row = [trial(runs // devices, rho=rho, devices=devices, **kw) for rho in RHOS]
            what = f"{CONTROLS} controls" if controls else "its own 2.8 h"
            yield (str(devices), scene.name, what, *(percent(t.either < np.inf) for t in row))


def short(runs: int) -> Iterator[tuple[str, ...]]:
    """What a history of 21 minutes costs, and a step that nobody else sees."""
    yield ("scene", "compared with", "false aborts", "+50 % found: median; 90 %")
    for scene in (*SCENES, STEP):
        for long in (False, True):
            good = trial(runs, sigma=0.2, rho=0.9, scene=scene, long=long)
            bad = trial(max(50, runs // 5), sigma=0.2, rho=0.9, scene=scene, long=long, slower=0.5)
            what = "its own 2.8 h" if long else "its own 21 min"
            yield (scene.name, what, percent(good.either < np.inf), seconds(bad.either))


def power(runs: int) -> Iterator[tuple[str, ...]]:
    yield ("slower by", "devices", "median gate", "p99 gate", "either", "either within 10 min")
    for slower in (0.05, 0.1, 0.2, 0.3, 0.5):
        for devices in (1, 5, 20):
            n = max(30, runs // devices)
            t = trial(n, sigma=0.2, rho=0.9, devices=devices, slower=slower, seed=2)
            gates = (seconds(x) for x in (t.p50, t.p99, t.either))
            yield (f"{slower:.0%}", str(devices), *gates, percent(t.either <= 600))


def tails(runs: int) -> Iterator[tuple[str, ...]]:
    yield ("slowest 5 % slower by", "devices", "median gate", "p99 gate")
    for tail in (0.2, 0.5):
        for devices in (1, 5):
            n = max(30, runs // devices)
            t = trial(n, sigma=0.2, rho=0.9, devices=devices, tail=tail, seed=3)
            yield (f"{tail:.0%}", str(devices), seconds(t.p50), seconds(t.p99))


def peers(runs: int) -> Iterator[tuple[str, ...]]:
    head = ("edgectl, own history", "edgectl, controls", "Netflix, once", "Netflix, each minute", "Argo")
    yield ("scene", "slower by", *head)
    for scene in (STILL, WANDER, STEP):
        for slower in (0.0, 0.05, 0.2, 0.5):
            kw: dict[str, Any] = {"sigma": 0.2, "rho": 0.9, "scene": scene, "slower": slower, "seed": 4}
            alone = trial(runs, **kw)
            t = trial(runs, controls=True, peers=True, **kw)
            found = (alone.either <= 600, t.either <= 600, *t.netflix.T, t.argo <= 600)
            yield (scene.name, f"{slower:.0%}", *(percent(x) for x in found))


SIGMAS = (0.1, 0.2, 0.5)
RHOS = (0.0, 0.9, 0.98)


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    lines = [head, ["---"] * len(head), *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    from shadow_gate import shadow  # they lie beside this file
    from throttling_gate import throttling

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--quick", action="store_true", help="200 runs, σ 0.2 only")
    parser.add_argument(
        "--only", nargs="*", help="settings, clean, many, short, power, tails, peers, shadow, throttling"
    )
    parser.add_argument("--write", type=Path, help="a page whose tables these replace")
    parser.add_argument("--json", type=Path, help="where to write the tables")
    parser.add_argument("--tables", type=Path, nargs="*", help="files of --json: nothing is simulated")
    args = parser.parse_args()
    runs = 200 if args.quick else args.runs
    tables: dict[str, Callable[[], Iterator[tuple[str, ...]]]] = {
        "settings": settings,
        "clean": lambda: clean(runs, args.quick),
        "many": lambda: many(2 * runs),
        "short": lambda: short(runs),
        "power": lambda: power(min(runs, 400)),
        "tails": lambda: tails(min(runs, 400)),
        "peers": lambda: peers(min(runs, 400)),
        "shadow": lambda: shadow(runs),
        "throttling": lambda: throttling(runs),
    }
    found: dict[str, list[tuple[str, ...]]] = {}
    for path in args.tables or ():
        found |= json.loads(path.read_text("utf-8"))
    for name, make in tables.items():
        if name in (args.only or tables) and (not args.tables or name == "settings"):
            found[name] = []
            print(f"\n{name}")
            for row in make():
                found[name].append(row)
                print("  ".join(f"{cell:<22}" for cell in row), flush=True)
    if args.write:
        page = args.write.read_text("utf-8")
        for name, rows in found.items():
            page = re.sub(
                rf"(<!-- table: {name} -->\n).*?(<!-- end -->)",
                lambda m, rows=rows: f"{m[1]}\n{markdown(rows)}\n\n{m[2]}",
                page,
                flags=re.S,
            )
        args.write.write_text(page, "utf-8")
    if args.json:
        args.json.write_text(json.dumps(found, indent=1), "utf-8")


if __name__ == "__main__":
    main()
