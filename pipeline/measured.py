"""The speed of a device that was measured elsewhere, for a plan that is made on another machine."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pipeline.calibration import LevelPlan, compute_evaluations
from texsynth import SynthesisConfig
from texsynth.shapes import Size

LANES, TICK = "lanes", "tick, s"
"""Columns of the tables of `benchmarks/roofline.py`."""
DEFAULTS = {"size": "256", "preset": "default", "device": "cpu"}
"""Its options, which the command in the head of a result names only where they differ."""


class MeasuredError(ValueError):
    """A file that holds no result of `benchmarks/roofline.py`."""


@dataclass(frozen=True, kw_only=True)
class MeasuredSpeed:
    """Seconds of a device for one evaluation of one task, by the lanes that were busy.

    Args:
        seconds_by_lanes: of one task, s; lanes 0 where nobody said how many.
        side_px: of the textures; where they are no squares, that of a square of their area.
        device_name: of the device.
        memory_bytes: free on it; None where nobody said.
    """

    seconds_by_lanes: Mapping[int, float]
    side_px: float
    device_name: str
    memory_bytes: int | None = None

    def at(self, lanes: int | None) -> tuple[int, float]:
        """The lanes nearest below those asked for, or above if none are below, and their seconds.

        Args:
            lanes: of an actor; None for those with the best speed.
        """
        counts = sorted(self.seconds_by_lanes)
        if lanes is None:
            best = min(counts, key=lambda count: self.seconds_by_lanes[count])
        else:
            best = max((count for count in counts if count <= lanes), default=counts[0])
        return best, self.seconds_by_lanes[best]


def load_measured(path: Path) -> MeasuredSpeed:
    """A result of `python -m benchmarks.roofline`, as it prints it or as `--json` writes it.

    Raises:
        MeasuredError: if it is something else, or was measured with another preset.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise MeasuredError(f"measured {str(path)!r} cannot be read: {error}") from error
    head, rows = _parse_json(text) if path.suffix == ".json" else (text, _parse_table(text))
    settings = DEFAULTS | dict(re.findall(r"--(\w+)[ =](\w+)", _find(head, "command", path)))
    device = _find(head, "device", path)
    if settings["device"] == "cpu" and not device.startswith("CPU"):
        raise MeasuredError(f"measured {str(path)!r} is of the CPU beside {device}, expected a GPU")
    if settings["preset"] != "default":
        raise MeasuredError(
            f"measured {str(path)!r} has preset {settings['preset']!r}, expected 'default'"
        )
    seconds = {
        int(row[LANES]): row[TICK] / row[LANES] for row in rows if row.keys() >= {LANES, TICK}
    }
    if not seconds:
        raise MeasuredError(f"measured {str(path)!r} has no rows of {LANES!r} and {TICK!r}")
    return MeasuredSpeed(
        seconds_by_lanes=seconds, side_px=int(settings["size"]), device_name=device
    )


def scale_levels(
    speed: MeasuredSpeed, lanes: int, config: SynthesisConfig, sizes: Sequence[Size]
) -> tuple[LevelPlan, ...]:
    """The levels of a task, by area: small ones keep a GPU less busy than that.

    Args:
        speed: of a device with so many busy lanes.
        lanes: of those that `speed` knows.
        config: of the synthesis.
        sizes: of the texture at every level, the finest last.
    """
    counts = compute_evaluations(config, sizes)
    return tuple(
        LevelPlan(
            side_px=min(size),
            evaluations_per_task=count,
            device_s_per_evaluation=speed.seconds_by_lanes[lanes]
            * math.prod(size)
            / speed.side_px**2,
            measured_at_px=round(speed.side_px),
        )
        for size, count in zip(sizes, counts, strict=True)
    )


def _find(head: str, name: str, path: Path) -> str:
    """What a line such as `* device: CPU` says."""
    line = re.search(rf"^\* {name}: (.+)$", head, re.M)
    if line is None:
        raise MeasuredError(
            f"measured {str(path)!r} has no line '* {name}: ...', expected a result of "
            "`python -m benchmarks.roofline`"
        )
    return line[1]


def _parse_json(text: str) -> tuple[str, list[Mapping[str, float]]]:
    """Its head, and its rows by the names of the table's columns."""
    try:
        found = json.loads(text)
        rows = [measurement["columns"] for measurement in found["measurements"]]
        return "\n".join(found["environment"]), rows
    except (ValueError, KeyError, TypeError) as error:
        raise MeasuredError(f"measured is no result of `benchmarks.roofline`: {error!r}") from error


def _parse_table(text: str) -> list[Mapping[str, float]]:
    """Rows of numbers of the first table of a Markdown text; a dash is no number."""
    return list(_iterate_table(text))


def _iterate_table(text: str) -> Iterator[Mapping[str, float]]:
    lines = [line.strip("| ") for line in text.splitlines() if line.startswith("|")]
    rows = [[cell.strip() for cell in line.split("|")] for line in lines]
    for cells in rows[2:]:
        numbers = {}
        for name, cell in zip(rows[0], cells, strict=False):
            try:
                numbers[name] = float(cell.replace(",", ""))
            except ValueError:
                continue
        yield numbers
