"""Every query of the Grafana dashboard names a metric that ``/metrics`` has, with labels that it has."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from conftest import ROOT

from edgectl.fleet.telemetry.families import METRICS

DASHBOARD: dict[str, Any] = json.loads((ROOT / "docs/examples/grafana-fleet.json").read_text())
VARIABLES = {v["name"]: v for v in DASHBOARD["templating"]["list"]}
QUERIES = [(p["title"], t["expr"], t["legendFormat"]) for p in DASHBOARD["panels"] for t in p["targets"]]


def problems(expr: str, legend: str = "") -> list[str]:
    """What is wrong with a query of ours: it names one metric, and every label in it is one of that."""
    names = re.findall(r"\bedgectl_\w+", expr)
    unknown = [n for n in names if n not in METRICS]
    if unknown or len(set(names)) != 1:
        return [f"not one known metric: {names}"]
    metric = METRICS[names[0]]
    labels = re.findall(r"(\w+)\s*(?:=~|!~|!=|=)\s*\"", expr) + re.findall(r"{{\s*(\w+)\s*}}", legend)
    for group in re.findall(r"by \(([^)]*)\)", expr):
        labels += [label.strip() for label in group.split(",")]
    found = [f"{names[0]} has no label {label}" for label in labels if label not in metric.labels]
    found += [
        f"no variable {v}" for v in re.findall(r"\$(\w+)", expr) if v not in VARIABLES and v[:2] != "__"
    ]
    if ("rate(" in expr) != (metric.kind in ("counter", "histogram")):
        found.append(f"{names[0]} is a {metric.kind}")
    return found


@pytest.mark.parametrize(("title", "expr", "legend"), QUERIES)
def test_query_names_a_metric_that_exists_with_labels_that_exist(title: str, expr: str, legend: str) -> None:
    assert problems(expr, legend) == [], title


def test_variables_are_values_of_labels_that_exist() -> None:
    for v in DASHBOARD["templating"]["list"]:
        if v["type"] == "query":
            found = re.fullmatch(r"label_values\((\w+), (\w+)\)", v["query"])
            assert found is not None
            assert found[2] in METRICS[found[1]].labels


def test_every_metric_is_on_the_dashboard_once() -> None:
    shown = {name for _, expr, _ in QUERIES for name in re.findall(r"\bedgectl_\w+", expr)}
    assert shown == METRICS.keys()
    assert len({p["id"] for p in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


def test_mistakes_in_a_query_are_found() -> None:
    assert problems("sum by (site) (edgectl_devices)")
    assert problems('edgectl_devices{device="a"}')
    assert problems("edgectl_made_up")
    assert problems("edgectl_frames_dropped_total")
    assert problems("edgectl_devices", "{{device}}")
    assert problems('edgectl_rollouts{state=~"$nobody"}')
