"""What is counted, and that the dashboard asks for nothing else."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.cluster import metrics

DASHBOARD = Path(__file__).parents[3] / "deploy/grafana/texsynth.json"
NAME = re.compile(r"\bray_\w+")
SCRAPED = """
import sys, time, urllib.request
import ray
port = int(sys.argv[1])
ray.init(
    address="local", num_cpus=1, include_dashboard=False, logging_level="ERROR",
    _metrics_export_port=port, _system_config={"metrics_report_interval_ms": 1000},
)
from pipeline.cluster.metrics import ActorMetrics
counted = ActorMetrics("photos")
row = {"status": "ok", "seconds": 2.5, "evaluations": 40.0, "delivered_loss": 900.0}
counted.count_row(row)
counted.count_synthesis(2.0, 3, 4)
text = ""
while "ray_texsynth_synthesis_seconds" not in text:
    time.sleep(1)
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
            text = page.read().decode()
    except OSError:
        pass
print(text)
ray.shutdown()
"""


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """Every value that was counted, by the name of its metric; the names of all come first."""
    values: list[tuple[Any, ...]] = []

    class Meter:
        def __init__(self, name: str, *arguments: Any, tag_keys: Any, **more: Any) -> None:
            self.name, self.tag_keys = name, set(tag_keys)

        def inc(self, value: float, tags: dict[str, str]) -> None:
            assert set(tags) == self.tag_keys
            values.append((self.name, value, tags.get("status")))

        observe = inc

    monkeypatch.setattr(metrics, "Counter", Meter)
    monkeypatch.setattr(metrics, "Histogram", Meter)
    return values


def test_rows_and_stretches_of_synthesis_are_counted(seen: list[tuple[Any, ...]]) -> None:
    counted = metrics.ActorMetrics("photos")
    row = {"status": "ok", "seconds": 2.5, "evaluations": 40.0, "delivered_loss": 900.0}
    counted.count_row(row)
    counted.count_row({"status": "failed", "seconds": None, "evaluations": None})
    counted.count_synthesis(2.0, 3, 4)
    counted.count_synthesis(0.0, 0, 4)
    assert seen == [
        ("texsynth_tasks", 1, "ok"),
        ("texsynth_task_seconds", 2.5, "ok"),
        ("texsynth_delivered_loss", 900.0, None),
        ("texsynth_evaluations", 40.0, None),
        ("texsynth_tasks", 1, "failed"),
        ("texsynth_synthesis_seconds", 2.0, None),
        ("texsynth_lane_seconds", 8.0, None),
        ("texsynth_busy_lane_seconds", 6.0, None),
    ]


def exported_names(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The names at the endpoint: Ray's prefix before, Prometheus's suffixes behind."""
    names: set[str] = set()

    def note(*suffixes: str) -> Any:
        def make(name: str, *arguments: Any, **more: Any) -> None:
            names.update(f"ray_{name}{suffix}" for suffix in suffixes)

        return make

    monkeypatch.setattr(metrics, "Counter", note("_total"))
    monkeypatch.setattr(metrics, "Histogram", note("_bucket", "_sum", "_count"))
    metrics.ActorMetrics("photos")
    return names


def expressions(values: Any) -> list[str]:
    """All queries of a dashboard, those of its variables included."""
    if isinstance(values, dict):
        own = [values[key] for key in ("expr", "definition") if isinstance(values.get(key), str)]
        return own + [text for value in values.values() for text in expressions(value)]
    if isinstance(values, list):
        return [text for value in values for text in expressions(value)]
    return []


def test_every_metric_of_the_dashboard_exists_and_all_are_shown(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    exported = exported_names(monkeypatch)
    dashboard = json.loads(DASHBOARD.read_text())
    asked = {name for text in expressions(dashboard) for name in NAME.findall(text)}
    assert asked - exported == set()
    stems = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in asked}
    assert {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in exported} == stems


def test_totals_keep_what_actors_have_counted_whose_node_is_gone() -> None:
    """A plain sum falls with every node that a cloud takes: its series end."""
    dashboard = json.loads(DASHBOARD.read_text())
    stats = [panel for panel in dashboard["panels"] if panel["type"] == "stat"]
    assert len(stats) == 3
    for text in expressions(stats):
        assert re.search(r"\b(max_over_time|rate)\(", text), text


def test_the_dashboard_can_be_imported() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    assert dashboard["uid"] == "texsynth"
    assert dashboard["id"] is None
    numbers = [panel["id"] for panel in dashboard["panels"]]
    assert len(set(numbers)) == len(numbers) >= 8
    corners = set()
    for panel in dashboard["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= 24
        corners.add((place["x"], place["y"]))
        assert panel["datasource"]["uid"] == "${datasource}"
        assert all(target["refId"] for target in panel["targets"])
    assert len(corners) == len(dashboard["panels"])
    variables = [variable["name"] for variable in dashboard["templating"]["list"]]
    assert variables == ["datasource", "run"]


@pytest.mark.slow
def test_what_is_counted_is_at_the_endpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Needs the extra `cluster`: without ray[default] Ray has no endpoint."""
    pytest.importorskip("opencensus")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-c", SCRAPED, str(port)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith("ray_texsynth")]
    assert {line.partition("{")[0] for line in lines} == exported_names(monkeypatch)
    assert all('run="photos"' in line for line in lines)
