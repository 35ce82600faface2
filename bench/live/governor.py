"""An engine that becomes twice too slow: how long until no frame is lost at random, and by how many changes?

    python bench/live/governor.py ../shared/models/fastestdet-352.onnx
    python bench/live/governor.py ../shared/models/fastestdet-352.onnx --overload 9 --small 0.36

1080p, 30 frames a second. The engine takes 10 ms, and from a moment on as long as ``--overload`` periods. ``--small``:
the bundle has a variant of a smaller input that takes so much of that time. Lost is what was too late or displaced by a
newer frame; what the governor leaves out is not.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

from common import RULES, Slowed, clip_1080p, detector, parser, quiet_process, report, stream
from support.pipelines import make_variant

from edgectl.core.bundle import Variant
from edgectl.core.measured import Conditions, Measured

FPS = 30
LOST = ("superseded", "stale", "deadline")


def main() -> None:
    p = parser(__doc__)
    p.add_argument("model", type=Path)
    p.add_argument("--overload", type=float, default=2.0)
    p.add_argument("--small", type=float, help="engine time of another variant, as a share")
    p.add_argument("--before", type=float, default=6.0, help="seconds")
    p.add_argument("--seconds", type=float, default=30.0)
    a = p.parse_args()
    quiet_process()
    engines: list[Slowed] = []
    events: list[tuple[float, dict[str, Any]]] = []

    def slowed(engine: Any) -> Slowed:
        # the first one is the detector's own
        engines.append(Slowed(engine, 0.01 if not engines else a.small * a.overload / FPS))
        return engines[-1]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        variant = timed(detector(folder / "blobs", a.model), 1.0)
        small = None
        if a.small is not None:
            small = timed(
                make_variant(folder / "small", variant.config.task, a.model.read_bytes(), "small"), a.small
            )
        one = stream(
            "s",
            f"{clip_1080p(folder)}?paced=1&loop=1",
            variant,
            {**RULES, "govern": {"on": True, "variants": ["small-input"]}},
            wrap=slowed,
            emit=lambda record: events.append((time.monotonic(), record)),
            lighter={} if small is None else {"small-input": small},
        )
        one.start()
        one.wait(a.before)
        engines[0].seconds = a.overload / FPS
        began, losses, last = time.monotonic(), [], lost(one)
        while (at := time.monotonic() - began) < a.seconds:
            one.wait(0.25)
            now = lost(one)
            losses.append((at + 0.25, now - last))
            last = now
        one.stop()
    frames = one.ledger.frames()
    changes = [(when, e) for when, e in events if e["type"] == "degradation"]
    slow = [(when, e) for when, e in changes if when >= began]
    settled_s = slow[-1][0] - began if slow else 0.0
    report(
        {
            "changes_before": len(changes) - len(slow),
            "changes": [
                {
                    "after_s": round(when - began, 2),
                    **{k: e[k] for k in ("detect_every", "variant", "reason") if k in e},
                }
                for when, e in slow
            ],
            "last_loss_s": max((round(at, 2) for at, n in losses if n), default=0.0),
            "lost_after_5_s": sum(n for at, n in losses if at > 5),
            "lost_after_the_last_change": sum(n for at, n in losses if at > settled_s + 0.25),
            "frames": {
                "captured": frames.captured,
                "processed": frames.processed,
                "dropped": dict(frames.dropped),
            },
            "ledger_exact": frames.captured == frames.processed + sum(frames.dropped.values()),
            "goal": "no loss after 5 s, one change (two with another variant at most), ledger exact",
        },
        a.json,
    )


def timed(variant: Variant, p50_ms: float) -> Variant:
    """What the builder would have measured, as far as the governor looks at it."""
    figures = Measured(
        p10_ms=p50_ms,
        p50_ms=p50_ms,
        n=50,
        machine="here",
        threads=1,
        runtime_version="",
        conditions=Conditions(load=0.0),
    )
    variant.config = variant.config.model_copy(update={"measured": figures})
    return variant


def lost(one: Any) -> int:
    dropped = one.ledger.frames().dropped
    return sum(dropped.get(cause, 0) for cause in LOST)


if __name__ == "__main__":
    main()
