"""An ablation on a made-up DTD whose photographs and textures have planted looks."""

from __future__ import annotations

import hashlib
import io
import math
import sys
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from examples.ablation import ADDED, Experiment, Outcome
from examples.augment_dtd import main
from examples.differences import average_by_photograph, compute_differences
from examples.frozen import STRENGTHS, Features, Items, classify
from pipeline.compare import compute_interval
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows
from texsynth import load_network

pytestmark = pytest.mark.usefixtures("one_thread")

CLASSES = ("banded", "dotted", "grid", "lined")
USUAL = ((200, 60, 60), (60, 200, 60), (60, 60, 200), (200, 200, 60))
RARE = ((60, 200, 200), (200, 60, 200), (230, 230, 230), (20, 20, 20))
"""Colours of each class: training images have the usual one, half of the others the rare one."""
PER_CLASS = 4
PARTITIONS = (1, 2, 3)
LISTED = (*PARTITIONS, 4)
"""Partitions of the data set; the run has splits of all but the last."""
WORLDS = {"rare": "better", "wrong": "worse", "shuffled": "no difference that this can show"}
"""What the textures look like, and what there is to be found."""


def picture(colour: tuple[int, int, int], number: int) -> Image.Image:
    noise = np.random.default_rng(number).normal(0, 20, (24, 24, 3))
    return Image.fromarray((np.array(colour) + noise).clip(0, 255).astype(np.uint8))


def split_of(number: int, partition: int, rare: bool) -> str:
    """Two of the usual images of a class train, in other partitions others; rare ones never do."""
    place = (number + partition) % PER_CLASS
    if rare:
        return ("val", "test")[place % 2]
    return ("train", "train", "val", "test")[place]


class World:
    """A data set below `root`, and a run that has two textures of each usual image."""

    def __init__(self, root: Path, textures: str) -> None:
        self.dtd, self.run = root, RunDirectory(root / "run")
        self.rows: list[dict[str, Any]] = []
        (root / "dtd" / "dtd" / "labels").mkdir(parents=True)
        generator = np.random.default_rng(5)
        for label, category in enumerate(CLASSES):
            for number in range(2 * PER_CLASS):
                rare = number >= PER_CLASS
                colours = RARE if rare else USUAL
                look = int(generator.integers(4)) if textures == "shuffled" else label
                file = root / "dtd" / "dtd" / "images" / category / f"{category}_{number:02d}.png"
                file.parent.mkdir(parents=True, exist_ok=True)
                picture(colours[look], 100 * label + number).save(file)
                self._list(file, number, rare)
                if not rare:
                    looks = {"wrong": USUAL[(label + 1) % 4], "rare": RARE[label]}
                    self._make_rows(file, number, looks.get(textures, RARE[look]))
        self.commit(self.rows)

    def commit(self, rows: list[dict[str, Any]]) -> None:
        self.run.create()
        carried = pa.schema([(f"split_{k}", pa.string()) for k in PARTITIONS])
        commit_rows(self.run, rows_to_table(rows, row_schema(carried)))

    def _list(self, file: Path, number: int, rare: bool) -> None:
        for partition in LISTED:
            name = f"{split_of(number, partition, rare)}{partition}.txt"
            with (self.dtd / "dtd" / "dtd" / "labels" / name).open("a") as labels:
                labels.write(f"{file.parent.name}/{file.name}\n")

    def _make_rows(self, file: Path, number: int, colour: tuple[int, int, int]) -> None:
        for variation in range(2):
            png = io.BytesIO()
            picture(colour, len(self.rows)).save(png, "PNG")
            self.rows.append(
                {
                    "task_id": f"{file.stem}-v{variation}",
                    "exemplar_id": file.stem,
                    "exemplar_sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
                    "category": file.parent.name,
                    **{f"split_{k}": split_of(number, k, False) for k in PARTITIONS},
                    "path": file.name,
                    "crop": 0,
                    "variation": variation,
                    "seed": 0,
                    "attempts": 1,
                    "status": "ok",
                    "finished_at": datetime(2026, 1, 2, tzinfo=UTC),
                    "preset": "default",
                    "config_fingerprint": "0123456789abcdef",
                    "weights": "hed",
                    "weights_sha256": "ab",
                    "texsynth_version": "0.1.0",
                    "torch_version": "2.6.0",
                    "height": 24,
                    "width": 24,
                    "image": {"bytes": png.getvalue(), "path": "a.png"},
                }
            )


@pytest.fixture(scope="module")
def make_world(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], World]:
    return lambda textures: World(tmp_path_factory.mktemp(textures), textures)


@pytest.fixture(scope="module")
def world(make_world: Callable[[str], World]) -> World:
    return make_world("rare")


@pytest.fixture(scope="module")
def features(weights_file: Path) -> Features:
    return Features(load_network(weights_file), 24)


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], weights_file: Path
) -> Callable[..., tuple[int, str]]:
    """Runs the program in this process: exit code, and what it said."""

    def run(world: World, *more: str) -> tuple[int, str]:
        fixed = ["--dtd", world.dtd, "--run", world.run.path, "--weights", weights_file]
        monkeypatch.setattr(sys, "argv", ["augment_dtd", *map(str, fixed), *more])
        code: int | str | None = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return int(code or 0), out + err

    return run


@pytest.mark.parametrize(("textures", "verdict"), WORLDS.items())
def test_what_was_planted_is_found_and_nothing_else(
    make_world: Callable[[str], World], call: Any, textures: str, verdict: str
) -> None:
    code, said = call(make_world(textures), "--seeds", "2", "--partitions", "1", "2", "3")
    assert code == 0, said
    assert f"Textures added to the real images: {verdict} (" in said
    if textures != "wrong":
        assert f"Textures in place of a second classic copy: {verdict} (" in said
    lines = [line.split(" | ") for line in said.splitlines() if line.startswith("| real")]
    assert [line[0].removeprefix("| ") for line in lines] == list(ADDED)
    assert [line[1] for line in lines] == ["8", "24", "24", "40", "40"]
    assert "8 train, 12 val, 12 test images of 4 classes in each of 3 partitions; 2 seeds" in said
    assert "32 rows, made with hed; textures used in each partition: 16, of 8 of its" in said
    assert "made with these weights" not in said


def test_textures_of_held_out_images_change_nothing(
    make_world: Callable[[str], World], features: Features
) -> None:
    whole, part = make_world("rare"), make_world("wrong")
    part.run = RunDirectory(part.dtd / "part")
    part.commit([row for row in whole.rows if row["split_2"] == "train"])
    outcomes = [
        Experiment(
            dtd=whole.dtd, run=run, ratio=None, seeds=range(1), features=features
        ).run_partition(2)
        for run in (whole.run, part.run)
    ]
    assert outcomes[0].covered == 8
    for name in ADDED:
        np.testing.assert_array_equal(outcomes[0].correct[name], outcomes[1].correct[name])


def test_a_texture_of_another_image_than_the_run_says_is_refused(
    make_world: Callable[[str], World], call: Any
) -> None:
    world = make_world("rare")
    moved = next(row for row in world.rows if row["split_1"] == "test")
    world.run = RunDirectory(world.dtd / "stale")
    world.commit([row | {"split_1": "train"} if row is moved else row for row in world.rows])
    code, said = call(world, "--partition", "1")
    assert code == 2
    assert f"made from {moved['exemplar_id']}, which is no training image of partition 1" in said


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--partition", "4"), "had no column 'split_4'"),
        (("--seeds", "0"), "expected at least 1"),
        (("--dtd", "nowhere"), "expected dtd/dtd in it"),
        (("--run", "nowhere"), "nowhere"),
        (("--weights", "nowhere"), "nowhere"),
        (("--ratio", "5"), "ratio 5.0"),
    ],
)
def test_what_cannot_be_done_is_refused(
    world: World, call: Any, more: tuple[str, ...], reason: str
) -> None:
    code, said = call(world, *more)
    assert code == 2
    assert reason in said


def make_outcome(tested: str, real: list[float], textures: list[float]) -> Outcome:
    correct = {name: np.array(real) for name in ADDED} | {"real + textures": np.array(textures)}
    return Outcome(
        classes=2,
        images={"train": 3, "val": 3, "test": 3},
        covered=3,
        textures=3,
        items=dict.fromkeys(ADDED, 3),
        tested=[Path(name) for name in tested],
        correct=correct,
    )


def test_the_interval_is_over_photographs_however_often_they_are_tested() -> None:
    outcomes = [
        make_outcome("abc", [0, 1, 0.5], [1, 1, 0]),
        make_outcome("cad", [1, 0, 1], [1, 0.5, 1]),
    ]
    assert average_by_photograph(outcomes, "real").tolist() == [0, 1, 0.75, 1]
    by_hand = [100 * d for d in (0.75, 0, -0.25, 0)]
    classic, found, *_ = compute_differences(outcomes)
    assert (found.points, found.low, found.high) == (12.5, *(compute_interval(by_hand) or ()))
    assert (classic.points, classic.low, classic.high) == (0, 0, 0)
    again = compute_differences([*outcomes, *outcomes])
    assert again[1] == found


@pytest.mark.slow
def test_the_interval_holds_about_as_often_as_it_says() -> None:
    """Data sets of 120 made-up images, ten partitions each; copies that are worse than nothing."""
    intervals, points = [], []
    for seed in range(150):
        generator = np.random.default_rng(seed)
        labels = np.arange(120) % 10
        real = generator.normal(size=(10, 30))[labels] + 1.6 * generator.normal(size=(120, 30))
        copies = real + 2.5 * generator.normal(size=real.shape)
        outcomes = []
        for _ in range(10):
            deals = [generator.permutation(np.flatnonzero(labels == c)) for c in range(10)]
            train, val, test = np.stack(deals).reshape(10, 3, 4).transpose(1, 0, 2).reshape(3, 40)
            items = [Items(real[i], labels[i], np.arange(40)) for i in (train, val, test)]
            more = Items(copies[train], labels[train], np.arange(40))
            right = [
                (classify(t, *items[1:]) == labels[test]).tolist()
                for t in (items[0], items[0] + more)
            ]
            names = [str(index) for index in test]
            outcomes.append(replace(make_outcome("", *right), tested=[Path(n) for n in names]))
        found = compute_differences(outcomes)[1]
        intervals.append((found.low, found.high))
        points.append(found.points)
    truth = np.mean(points)
    assert truth < -3
    assert 0.88 < np.mean([low <= truth <= high for low, high in intervals]) < 0.99


def test_one_partition_says_what_it_cannot_know(world: World, call: Any) -> None:
    _, said = call(world, "--partition", "1", "--seeds", "1", "--ratio", "1")
    assert "Other training images, those of other partitions, may give another answer" in said
    lines = [line.split(" | ")[1] for line in said.splitlines() if line.startswith("| real")]
    assert lines == ["8", "16", "16", "24", "24"]
    assert "textures used in each partition: 8, of 8 of its train images" in said


def make_items(seed: int, count: int) -> Items:
    """Three classes in twenty dimensions, not quite apart."""
    generator = np.random.default_rng(seed)
    labels = np.arange(count) % 3
    centres = 2 * np.random.default_rng(9).normal(size=(3, 20))
    return Items(centres[labels] + 3 * generator.normal(size=(count, 20)), labels, np.arange(count))


def test_the_classifier_is_a_ridge_regression_solved_the_obvious_way() -> None:
    training, val, queries = make_items(0, 15), make_items(1, 60), make_items(2, 200)
    x = (training.features - training.features.mean(0)) / training.features.std(0)
    y = np.eye(3)[training.labels]
    unit = np.trace(x @ x.T) / len(x)
    best = (math.inf, np.zeros(0))
    for strength in STRENGTHS * unit:
        solution = np.linalg.solve(x.T @ x + strength * np.eye(20), x.T @ (y - y.mean(0)))
        scores = [
            (items.features - training.features.mean(0)) / training.features.std(0) @ solution
            + y.mean(0)
            for items in (val, queries)
        ]
        error = float(np.square(scores[0] - np.eye(3)[val.labels]).mean())
        best = min(best, (error, scores[1].argmax(1)), key=lambda pair: pair[0])
    guesses = classify(training, val, queries)
    np.testing.assert_array_equal(guesses, best[1])
    assert 0.5 < (guesses == queries.labels).mean() < 1


def test_copies_of_some_items_change_nothing() -> None:
    training, val, queries = make_items(0, 15), make_items(1, 60), make_items(2, 200)
    some = Items(*(values[training.labels == 0] for values in vars(training).values()))
    # More items of the same photographs make the mean eigenvalue smaller, so that strengths move.
    more = training + some + some
    assert len(more.labels) == 25
    fixed = classify(training, val, queries)
    assert (classify(more, val, queries) == fixed).mean() > 0.95
    strangers = replace(some, parents=some.parents + 100)
    counts = [
        int((classify(training + one + one, val, queries) == 0).sum()) for one in (some, strangers)
    ]
    assert counts[1] > counts[0]
