"""Blends of two exemplars: who is drawn for whom, and a run of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from pipeline.blend_measures import OF_NEARER_PARENT, combine_measures
from pipeline.blends import WEIGHTS, expand_blends, soft_labels
from pipeline.config import RunConfig
from pipeline.dataset import SyntheticTextures
from pipeline.lane_checkpoints import load_checkpoint, save_checkpoint
from pipeline.replay import load_row, replay_row
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from pipeline.stream import StreamedTextures
from texsynth import ConfigError, CurvePoint, TaskCheckpoint

MakeConfig = Callable[..., RunConfig]
Call = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("one_thread")


def manifest_of(names: str, **columns: list[Any]) -> pa.Table:
    ids = list(names)
    return pa.table({"exemplar_id": ids, "path": [f"{name}.png" for name in ids], **columns})


def blends_of(table: pa.Table, limit: int | None = None, **more: Any) -> list[dict[str, Any]]:
    counts = {"crops": 1, "blends": 3, "seed": 0} | more
    return list(expand_blends(table.slice(0, limit), table, **counts).to_pylist())


@settings(max_examples=30, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.sampled_from(["x", "y", "z"]), st.sampled_from(["train", "val", None])),
        min_size=1,
        max_size=12,
    ),
    categories=st.sampled_from(["any", "same", "other"]),
    seed=st.integers(0, 5),
)
def test_a_partner_is_another_exemplar_of_the_split_and_of_the_categories_asked_for(
    rows: list[tuple[str, str | None]], categories: Any, seed: int
) -> None:
    names = [f"e{number}" for number in range(len(rows))]
    category, split = map(list, zip(*rows, strict=True))
    table = pa.table(
        {
            "exemplar_id": names,
            "path": names,
            "category": category,
            "split": pa.array(split, pa.string()),
        }
    )
    of = dict(zip(names, rows, strict=True))

    def partners(name: str) -> set[str]:
        (own, split) = of[name]
        fits = {"any": (True, True), "same": (True, False), "other": (False, True)}[categories]
        return {
            other
            for other, (category, its_split) in of.items()
            if other != name and its_split == split and fits[category != own]
        }

    if not all(partners(name) for name in names):
        with pytest.raises(ConfigError, match="blends need a partner for every exemplar"):
            blends_of(table, seed=seed, categories=categories)
        return
    for task in blends_of(table, seed=seed, categories=categories, blends=2, crops=2):
        assert task["blend_exemplar_id"] in partners(task["exemplar_id"])
        assert task["blend_path"] == task["blend_exemplar_id"]
        assert task["blend_category"] == of[task["blend_exemplar_id"]][0]
        assert WEIGHTS[0] <= task["blend_weight"] <= WEIGHTS[1]


def test_every_allowed_partner_is_drawn_about_as_often_and_the_weights_fill_their_range() -> None:
    tasks = blends_of(manifest_of("abcdef"), blends=500)
    counts = Counter((task["exemplar_id"], task["blend_exemplar_id"]) for task in tasks)
    assert len(counts) == 30
    assert 60 < min(counts.values()) <= max(counts.values()) < 145
    weights = np.array([task["blend_weight"] for task in tasks])
    assert abs(weights.mean() - 0.4) < 0.005
    assert np.ptp(weights) > 0.19


def test_partners_depend_on_neither_limit_nor_count_but_on_the_seed() -> None:
    table = manifest_of("abcdefgh")
    whole = {task["task_id"]: task for task in blends_of(table, blends=4)}
    few = blends_of(table, limit=3, blends=2)
    assert all(task == whole[task["task_id"]] for task in few)
    assert {task["exemplar_id"] for task in few} == set("abc")
    assert few[0]["task_id"] == "a-c0-b0"
    other = blends_of(table, blends=4, seed=1)
    drawn = [[task["blend_exemplar_id"] for task in tasks] for tasks in (whole.values(), other)]
    assert drawn[0] != drawn[1]


def test_a_blend_is_in_a_partitions_split_with_both_parents_only() -> None:
    table = manifest_of(
        "ab",
        split=["train", "train"],
        split_1=["train", "train"],
        split_2=["train", "test"],
        sha256=["1" * 64, "2" * 64],
        joint_labels=[["x", "y"], ["y", "z"]],
        note=["of a", "of b"],
    )
    first, second = blends_of(table, blends=1)
    assert [first["split"], first["split_1"], first["split_2"]] == ["train", "train", None]
    assert first["joint_labels"] == ["x", "y", "z"]
    assert second["joint_labels"] == ["y", "z", "x"]
    assert first["blend_exemplar_sha256"] == "2" * 64
    assert first["note"] == "of a"


def test_categories_that_are_not_known_are_refused() -> None:
    with pytest.raises(ConfigError, match="2 of 2 exemplars have no category"):
        blends_of(manifest_of("ab"), categories="other")
    with pytest.raises(ConfigError, match="'a' is one of 1 and has none in its split"):
        blends_of(manifest_of("a"))
    with pytest.raises(ConfigError, match="blend_categories is 'same' with blends 0"):
        RunConfig(blend_categories="same").resolved()


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        ({"category": "x"}, [("x", 1.0)]),
        ({"category": None}, None),
        ({"category": "x", "blend_category": "y", "blend_weight": 0.3}, [("x", 0.7), ("y", 0.3)]),
        ({"category": "x", "blend_category": "x", "blend_weight": 0.3}, [("x", 1.0)]),
        ({"category": "x", "blend_category": None, "blend_weight": 0.3}, None),
        ({"category": None, "blend_category": "y", "blend_weight": 0.3}, None),
    ],
)
def test_labels_are_the_categories_by_weight(
    task: dict[str, Any], expected: list[tuple[str, float]] | None
) -> None:
    labels = soft_labels(task)
    assert (labels and [(one["category"], one["weight"]) for one in labels]) == expected


def test_a_copy_of_either_parent_is_a_copy_and_what_neither_must_be_like_is_unknown() -> None:
    far = dict.fromkeys(OF_NEARER_PARENT, 0.1) | {"displacement_score": 0.9, "chroma_noise": 0.2}
    near = dict.fromkeys(OF_NEARER_PARENT, 0.9) | {"displacement_score": 0.1, "chroma_noise": 0.2}
    far |= {"exemplar_kind": "stochastic", "exemplar_contrast": 0.2, "spectrum_error": 0.1}
    near |= {"exemplar_kind": "flat", "exemplar_contrast": 0.0, "spectrum_error": 0.1}
    for pair in ((far, near), (near, far)):
        values = combine_measures(*pair)
        assert all(values[name] == 0.9 for name in OF_NEARER_PARENT)
        assert values["displacement_score"] == 0.1
        assert values["chroma_noise"] == 0.2
        assert (values["exemplar_kind"], values["exemplar_contrast"]) == ("flat", 0.0)
        assert "spectrum_error" not in values


class _Real:
    """One real item of class y."""

    classes = ("x", "y")

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> tuple[Any, int]:
        if index:
            raise IndexError
        return Image.new("RGB", (8, 8)), 1


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Three exemplars in train, of two categories, and one in test."""
    generator = np.random.default_rng(0)
    lines = ["exemplar_id,path,category,split,split_2"]
    for name, category, split, second in (
        *(("a", "x", "train", "train"), ("b", "y", "train", "test")),
        *(("c", "y", "train", "train"), ("d", "x", "test", "train")),
    ):
        pixels = generator.integers(0, 256, (32, 40, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
        lines.append(f"{name},{name}.png,{category},{split},{second}")
    path = tmp_path / "manifest.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


def assert_labels_are_read(run: RunDirectory, row: dict[str, Any]) -> None:
    """By both data sets; without soft labels a blend is of its exemplar's category."""
    settings: dict[str, Any] = {"accepted_only": False, "split": "train"}
    soft = SyntheticTextures(run, soft_labels=True, **settings)
    hard = SyntheticTextures(run, **settings)
    place = soft.rows["task_id"].to_pylist().index(row["task_id"])
    weight = row["blend_weight"]
    assert soft[place][1].tolist() == pytest.approx([1 - weight, weight])
    assert hard[place][1] == 0
    for position, (_, label) in enumerate(hard):
        first = 1 - (soft.rows["blend_weight"][position].as_py() or 0)
        assert float(soft[position][1][label]) == pytest.approx(first)
        assert float(soft[position][1].sum()) == pytest.approx(1)
    streamed = [label for _, label in StreamedTextures(run, soft_labels=True, buffer=0, **settings)]
    assert [label.tolist() for label in streamed] == [label.tolist() for _, label in soft]
    mixed = SyntheticTextures(run, soft_labels=True, mix_with=_Real(), **settings)
    assert mixed[0][1].tolist() == [0.0, 1.0]


def test_a_run_of_blends_is_made_verified_replayed_and_goes_on(
    manifest: Path, quick_config: MakeConfig, tmp_path: Path, call: Call
) -> None:
    run, quiet = RunDirectory(tmp_path / "run"), Console(quiet=True)
    config = quick_config(blends=1, blend_categories="other", split="train", lanes=1)
    run_manifest(manifest, run.path, config, quiet)
    row = load_row(run, "a-c0-b0")
    partner = row["blend_exemplar_id"]
    assert partner in "bc"
    assert (row["status"], row["split"]) == ("ok", "train")
    assert row["split_2"] == ("train" if partner == "c" else None)
    other = load_row(run, f"{partner}-c0-v0")
    assert row["blend_exemplar_sha256"] == other["exemplar_sha256"]
    weight = row["blend_weight"]
    assert row["labels"] == [
        {"category": "x", "weight": pytest.approx(1 - weight)},
        {"category": "y", "weight": weight},
    ]
    assert load_row(run, "a-c0-v0")["labels"] == [{"category": "x", "weight": 1.0}]
    assert row["spectrum_error"] is row["off_colour"] is row["loss_threshold"] is None
    assert row["displacement_score"] is not None
    assert row["accepted"] is not None
    replayed = replay_row(run, row, out=tmp_path / "pictures")
    # A lane that other tasks had before it rounds otherwise, whatever its task is.
    assert replayed.verdict in ("identical", "the same up to rounding"), replayed.reason
    lighter = replay_row(run, row | {"blend_weight": weight / 2})
    assert lighter.verdict not in ("identical", "the same up to rounding")
    assert (tmp_path / "pictures" / "partner.png").exists()
    code, out, err = call("report", run.path)
    assert code == 0, out + err
    (script,) = (run.path / "report").rglob("data.js")
    assert f"{100 * weight:.0f} % of {partner} (y)" in script.read_text()
    code, out, err = call("verify", run.path)
    assert code == 0, out + err
    assert_labels_are_read(run, row)
    code, out, _ = call("leakcheck", run.path, "--against", manifest)
    assert code == 0, out
    code, out, _ = call("leakcheck", run.path, "--against", manifest, "--partition", "2")
    assert code == 3
    assert " b" in out
    more = quick_config(blends=2, blend_categories="other", split="train", lanes=1)
    assert run_manifest(manifest, run.path, more, quiet).done_now == 3
    distances = [load_row(run, f"a-c0-{name}")["sibling_distance"] for name in ("v0", "b0", "b1")]
    assert [distance is None for distance in distances] == [True, True, False]
    other_partners = more.model_copy(update={"blend_categories": "any"})
    with pytest.raises(ValueError, match="blend_categories is 'any'"):
        run_manifest(manifest, run.path, other_partners, quiet)
    manifest.write_text(manifest.read_text() + "e,a.png,x,train,train\n")
    with pytest.raises(ValueError, match="would get other partners"):
        run_manifest(manifest, run.path, more, quiet)


def test_a_partner_that_cannot_be_read_is_a_failed_row_that_names_it(
    manifest: Path, quick_config: MakeConfig, tmp_path: Path
) -> None:
    run = RunDirectory(tmp_path / "run")
    config = quick_config(blends=1, split="train", limit=1)
    (tmp_path / "b.png").write_bytes(b"no image")
    (tmp_path / "c.png").write_bytes(b"no image")
    run_manifest(manifest, run.path, config, Console(quiet=True))
    assert load_row(run, "a-c0-v0")["status"] == "ok"
    row = load_row(run, "a-c0-b0")
    assert (row["status"], row["error_type"]) == ("failed", "ImageError")
    assert f"(partner {row['blend_exemplar_id']!r})" in row["error"]
    assert replay_row(run, row).verdict == "the same error"


def test_a_checkpoint_of_another_partner_or_weight_is_passed_over(run: RunDirectory) -> None:
    task: dict[str, Any] = {"task_id": "a-c0-b0", "seed": 1, "exemplar_sha256": "a"}
    task |= {"crop_left": 0, "crop_top": 0, "crop_side": 32}
    task |= {"blend_exemplar_sha256": "b", "blend_weight": 0.4}
    point = TaskCheckpoint(
        index=0,
        level=0,
        level_evaluations=3,
        image=torch.zeros(3, 32, 32),
        spent=3.0,
        iterations=2,
        seconds=1.0,
        curve=(CurvePoint(3.0, 1.0, 32),),
    )
    save_checkpoint(run, task, point)
    assert load_checkpoint(run, task, [(32, 32)]) is not None
    for change in ({"blend_exemplar_sha256": "c"}, {"blend_weight": 0.3}):
        assert load_checkpoint(run, task | change, [(32, 32)]) is None
