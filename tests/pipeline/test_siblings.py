from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import skimage.data
import torch
from PIL import Image
from rich.console import Console
from torch import Tensor

import pipeline.siblings
from pipeline.committed import scan_committed
from pipeline.config import RunConfig
from pipeline.finalize import finalize
from pipeline.flags import RULES
from pipeline.query import load_images, load_metrics
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows
from pipeline.siblings import compute_sibling_distances, distances_to_earlier
from pipeline.verify import verify_run
from texsynth import load_exemplar, luminance_layout
from texsynth.images import image_to_tensor, round_to_8_bits, tensor_to_pil
from texsynth.start import draw_starts

MakeRow = Callable[..., dict[str, Any]]


def slow_distance(layouts: Any, index: int) -> float:
    """One by one, in float64."""
    flat = [layout.astype(float).ravel() for layout in layouts[: index + 1]]
    own = flat.pop()
    found = [other @ own / (np.linalg.norm(other) * np.linalg.norm(own)) for other in flat]
    return 1 - max(found) if found else np.nan


@pytest.mark.parametrize("rows", [1, 2, 7])
def test_distances_are_the_loop(rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline.siblings, "MATRIX_ROWS", 3)
    layouts = np.random.default_rng(rows).integers(-127, 128, (rows, 16), np.int8)
    expected = [slow_distance(layouts, index) for index in range(rows)]
    assert distances_to_earlier(layouts) == pytest.approx(expected, nan_ok=True, abs=1e-6)


def test_a_flat_texture_is_nobodys_duplicate() -> None:
    flat = np.zeros((3, 16), np.int8)
    assert distances_to_earlier(flat).tolist() == pytest.approx([np.nan, 1, 1], nan_ok=True)
    assert len(distances_to_earlier(flat[:0])) == 0


def test_every_exemplar_and_crop_by_itself(
    run: RunDirectory, make_row: MakeRow, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the order of the rows, the files they are in and the size of a batch."""
    monkeypatch.setattr(pipeline.siblings, "BATCH_ROWS", 5)
    generator = np.random.default_rng(0)
    rows = []
    for exemplar, crop, variations in (("x", 0, 1), ("x", 1, 4), ("w", 0, 7), ("y", 0, 3)):
        for variation in range(variations):
            layout = generator.integers(-127, 128, 1024, np.int8)
            task = f"{exemplar}-c{crop}-v{variation}"
            keys = {"exemplar_id": exemplar, "crop": crop, "variation": variation}
            category = "zcba"[variation % 4]
            rows.append(make_row(task, layout=layout.tobytes(), category=category, **keys))
    rows[2] |= {"status": "failed", "layout": None}
    rows[7] |= {"status": "timeout"}
    rows[13] |= {"layout": None}
    expected = {}
    for row in rows:
        siblings = [
            np.frombuffer(other["layout"], np.int8)
            for other in rows
            if (other["exemplar_id"], other["crop"]) == (row["exemplar_id"], row["crop"])
            and other["variation"] <= row["variation"]
            and other["status"] == "ok"
            and other["layout"] is not None
        ]
        compared = row["status"] == "ok" and row["layout"] is not None
        expected[row["task_id"]] = (
            slow_distance(siblings, len(siblings) - 1) if compared else np.nan
        )
    for part in np.array_split(generator.permutation(len(rows)), 3):
        commit_rows(run, rows_to_table([rows[index] for index in part], row_schema()))
    scan = scan_committed(run)
    found = compute_sibling_distances(scan)
    assert found.null_count == sum(map(np.isnan, expected.values())) == 4 + 3
    by_task = dict(zip(scan.winners["task_id"].to_pylist(), found.to_pylist(), strict=True))
    for task, distance in expected.items():
        assert (np.nan if by_task[task] is None else by_task[task]) == pytest.approx(
            distance, nan_ok=True, abs=1e-6
        )


def as_jpeg(texture: Tensor) -> Tensor:
    """[3, H, W], as who exports textures may store them."""
    file = io.BytesIO()
    tensor_to_pil(round_to_8_bits(texture)).save(file, "JPEG", quality=75)
    return image_to_tensor(Image.open(file))


def distance(one: Tensor, other: Tensor) -> float:
    layouts = luminance_layout(torch.stack([one, other])).flatten(1).numpy()
    return float(distances_to_earlier(layouts)[1])


@pytest.mark.parametrize("name", ["brick", "grass", "gravel"])
@pytest.mark.parametrize("side", [64, 128])
def test_the_threshold_tells_duplicates_from_other_seeds(name: str, side: int) -> None:
    folder = Path(skimage.data.__file__).parent
    photograph = load_exemplar(folder / f"{name}.png", 2 * side)
    texture, other = photograph[:, :side, :side], photograph[:, side:, side:]
    threshold = float(RULES["sibling_duplicate"].split()[-1])
    noise = 0.02 * torch.randn(texture.shape, generator=torch.Generator().manual_seed(0))
    same = (texture, as_jpeg(texture), 0.8 * texture + 0.1, (texture + noise).clamp(0, 1))
    assert max(distance(texture, again) for again in same) < threshold / 2
    seeds = draw_starts(texture[None].expand(3, -1, -1, -1), [1, 2, 3], "random_phase")
    others = [distance(texture, other), *(distance(seeds[0], seed) for seed in seeds[1:])]
    assert min(others) > 4 * threshold


def flags_of(run: RunDirectory, name: str) -> list[bool | None]:
    """A flag of all rows, by task id, as `metrics.parquet` has it."""
    values = pd.read_parquet(run.metrics).sort_values("task_id")[name]
    return [None if pd.isna(value) else bool(value) for value in values]


def test_of_duplicates_the_first_stays_until_it_is_made_again(
    run: RunDirectory, make_row: MakeRow
) -> None:
    generator = np.random.default_rng(0)
    first, other = generator.integers(-120, 120, (2, 1024)).astype(np.int8)
    near = first + generator.integers(-7, 8, 1024, np.int8)
    tasks = [f"a-c0-v{variation}" for variation in range(4)]

    def commit(variation: int, layout: Any, **values: Any) -> None:
        keys = {"variation": variation, "layout": layout.tobytes(), **values}
        commit_rows(run, rows_to_table([make_row(tasks[variation], **keys)], row_schema()))

    for variation, layout in ((2, near), (1, other), (0, first)):
        commit(variation, layout)
    finalize(run, pa.array(tasks[:3]))
    assert flags_of(run, "sibling_duplicate") == [None, False, True]
    assert flags_of(run, "accepted") == [True, True, False]
    commit(0, generator.integers(-120, 120, 1024).astype(np.int8), attempts=2)
    commit(3, near)
    finalize(run, pa.array(tasks))
    assert flags_of(run, "sibling_duplicate") == [None, False, False, True]
    assert flags_of(run, "accepted") == [True, True, True, False]
    rules = RULES | {"sibling_duplicate": "sibling_distance < -1"}
    finalize(run, pa.array(tasks), rules=rules)
    assert flags_of(run, "sibling_duplicate") == [None, False, False, False]
    assert flags_of(run, "accepted") == [True] * 4


def test_a_run_compares_the_textures_that_it_stores(
    make_manifest: Callable[..., Path], quick_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    config = quick_config(variations=2, flag_rules={"sibling_duplicate": "sibling_distance > 0"})
    run_manifest(make_manifest(["a", "b"], broken=["b"]), run.path, config, Console(quiet=True))
    metrics = load_metrics(run).set_index("task_id")["sibling_distance"]
    images = load_images(run, ["a-c0-v0", "a-c0-v1"])
    expected = distance(*(image_to_tensor(image) for image in images.values()))
    assert metrics["a-c0-v1"] == pytest.approx(expected)
    assert metrics.drop("a-c0-v1").isna().all()
    assert flags_of(run, "sibling_duplicate") == [None, True, None, None]
    assert flags_of(run, "accepted") == [True, False, False, False]
    assert [check.problems for check in verify_run(run) if not check.ok] == []
