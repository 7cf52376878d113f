from __future__ import annotations

import io
import pickle
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from PIL import Image
from torch import distributed
from torch.testing._internal.distributed.fake_pg import FakeStore
from torch.utils.data import DataLoader
from torchvision.datasets import DTD
from torchvision.transforms import v2

import pipeline
from pipeline import BufferedShuffle, StreamedTextures, SyntheticTextures
from pipeline.finalize import finalize
from pipeline.rundir import NotARunError, RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.selection import SelectionError
from pipeline.shards import commit_rows
from pipeline.stream import shuffle

Row = dict[str, Any]
CATEGORIES = ("braided", "crosshatched", "bubbly", "lined")
README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")
TENSOR = v2.Compose([v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture(scope="module")
def rows(make_row: Callable[..., Row]) -> list[Row]:
    """200 textures of 50 exemplars, the first of each flat; and one that failed, of `veined`."""
    made = []
    for number in range(200):
        exemplar = number // 4
        values: Row = {
            "category": CATEGORIES[exemplar % 4],
            "split": ("train", "test")[exemplar % 2],
            "split_1": ("test", "train")[exemplar % 2],
            "variation": number % 4,
            "exemplar_kind": "flat" if number % 4 == 0 else "stochastic",
        }
        made.append(make_row(f"x{exemplar:02d}-c0-v{number % 4}", **values))
    return [*made, make_row("y-c0-v0", category="veined", status="failed")]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> RunDirectory:
    """The rows in two files of two row groups each."""
    run = RunDirectory(tmp_path_factory.mktemp("finished") / "run")
    run.create()
    carried = pa.schema([("split_1", pa.string())])
    commit_rows(run, rows_to_table(rows, row_schema(carried)))
    finalize(run, pa.array([row["task_id"] for row in rows]), rows_per_file=110)
    return run


@pytest.fixture(scope="module")
def pixels(rows: list[Row]) -> dict[str, bytes]:
    """Of each task with a texture: what is stored."""
    stored = {row["task_id"]: row["image"]["bytes"] for row in rows if "image" in row}
    return {task: Image.open(io.BytesIO(png)).tobytes() for task, png in stored.items()}


class Real:
    """A data set of three classes in an order of its own: gray images that say their number."""

    classes = ("lined", "veined", *CATEGORIES[:3])

    def __len__(self) -> int:
        return 30

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.new("RGB", (8, 8), (index, index, index)), index % 5


def as_bytes(image: Image.Image) -> bytes:
    """Equal for equal images only; a function, so that workers can be sent it."""
    assert image.mode == "RGB"
    return image.tobytes()


def as_list(items: list[Any]) -> list[Any]:
    return items


def read_all(stream: StreamedTextures, workers: int) -> list[Any]:
    """The items of an epoch, through a loader."""
    loader = DataLoader(
        stream, batch_size=16, num_workers=workers, collate_fn=as_list, timeout=60 * (workers > 0)
    )
    return [item for batch in loader for item in batch]


def expected_items(rows: list[Row], pixels: dict[str, bytes]) -> Counter[tuple[bytes, int]]:
    order = sorted({row["category"] for row in rows})
    of_task = {row["task_id"]: order.index(row["category"]) for row in rows}
    return Counter((image, of_task[task]) for task, image in pixels.items())


def test_items_are_the_stored_textures_in_the_order_of_storage(
    finished: RunDirectory, pixels: dict[str, bytes]
) -> None:
    textures = SyntheticTextures(finished.path, accepted_only=False)
    assert textures.classes == sorted([*CATEGORIES, "veined"])
    assert textures.class_to_idx["lined"] == 3
    assert len(textures) == len(textures.rows) == 200
    rows = textures.rows.to_pylist()
    assert [(r["category"], r["task_id"]) for r in rows] == sorted(
        (r["category"], r["task_id"]) for r in rows
    )
    for row, (image, label) in zip(rows, textures, strict=True):
        assert as_bytes(image) == pixels[row["task_id"]]
        assert textures.classes[label] == row["category"]
    assert as_bytes(textures[-1][0]) == pixels[rows[-1]["task_id"]]
    for index in (200, -201):
        with pytest.raises(IndexError, match=f"item {index}: there are 200"):
            textures[index]


def test_splits_are_those_of_the_partition_and_faults_are_left_out(
    finished: RunDirectory, rows: list[Row]
) -> None:
    for partition, column in ((None, "split"), (1, "split_1")):
        textures = SyntheticTextures(finished, partition=partition, split="train")
        expected = {r["task_id"] for r in rows if r.get(column) == "train" and r["variation"]}
        assert set(textures.rows["task_id"].to_pylist()) == expected
        assert len(textures) == 75
        assert textures.classes == sorted([*CATEGORIES, "veined"])


def test_transforms_and_loaders_of_torch_take_the_items(
    finished: RunDirectory, pixels: dict[str, bytes]
) -> None:
    textures = SyntheticTextures(finished, transform=TENSOR, target_transform=lambda k: 10 * k)
    order = BufferedShuffle(textures)
    loader = DataLoader(textures, batch_size=50, sampler=order, num_workers=2, timeout=60)
    batches = list(loader)
    images, labels = (torch.cat(part) for part in zip(*batches, strict=True))
    assert images.shape == (150, 3, 8, 8)
    assert images.dtype == torch.float32
    ids = textures.rows["task_id"].to_pylist()
    for image, label, index in zip(images, labels, order, strict=True):
        stored = (image * 255).round().to(torch.uint8).permute(1, 2, 0)
        assert stored.numpy().tobytes() == pixels[ids[index]]
        assert label == 10 * textures.labels[index]


@pytest.fixture(scope="module")
def trained_on(tmp_path_factory: pytest.TempPathFactory, rows: list[Row]) -> RunDirectory:
    """The same of train parents only, as `run --split train` makes it, without partitions."""
    run = RunDirectory(tmp_path_factory.mktemp("trained-on") / "run")
    run.create()
    plain = [{k: v for k, v in row.items() if k != "split_1"} | {"split": "train"} for row in rows]
    commit_rows(run, rows_to_table(plain, row_schema()))
    finalize(run, pa.array([row["task_id"] for row in rows]), rows_per_file=110)
    return run


def test_a_pickled_data_set_reads_the_same_and_takes_no_images_along(
    trained_on: RunDirectory,
) -> None:
    for textures in (SyntheticTextures(trained_on), SyntheticTextures(trained_on, mix_with=Real())):
        size = len(pickle.dumps(textures))
        before = [(as_bytes(image), label) for image, label in textures]
        data = pickle.dumps(textures)
        assert len(data) == size
        copy = pickle.loads(data)
        assert [(as_bytes(image), label) for image, label in copy] == before


def test_each_row_group_is_read_once_per_epoch_within_the_buffer(
    trained_on: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    real = pipeline.selection.read_group

    def counted(run: RunDirectory, file: str, row_group: int) -> Any:
        read.append((file, row_group))
        return real(run, file, row_group)

    monkeypatch.setattr("pipeline.image_reader.read_group", counted)
    epochs = []
    for epoch in (0, 1):
        textures = SyntheticTextures(trained_on, mix_with=Real(), buffered_groups=2)
        order = BufferedShuffle(textures, seed=3)
        order.set_epoch(epoch)
        epochs.append(list(order))
        assert sorted(epochs[-1]) == list(range(len(textures))) == list(range(len(order)))
        assert epochs[-1] == list(order)
        read.clear()
        for index in epochs[-1]:
            textures[index]
        assert len(read) == len(set(read)) == 4
    assert epochs[0] != epochs[1]
    real_places = [place for place, index in enumerate(epochs[0]) if index < 30]
    assert max(np.diff(real_places)) < 60


def test_mixed_with_a_real_data_set_its_classes_and_order_hold(trained_on: RunDirectory) -> None:
    real = Real()
    textures = SyntheticTextures(trained_on, mix_with=real)
    assert textures.classes == list(Real.classes)
    assert (len(textures), textures.real_items) == (180, 30)
    assert [textures[i][1] for i in range(30)] == [real[i][1] for i in range(30)]
    assert as_bytes(textures[7][0]) == as_bytes(real[7][0])
    for row, index in zip(textures.rows.to_pylist(), range(30, 180), strict=True):
        assert textures.classes[textures[index][1]] == row["category"]


@pytest.mark.parametrize(("ratio", "expected"), [(1.0, 30), (0.5, 15), (3.4, 102), (5, 150)])
def test_a_ratio_draws_evenly_over_the_exemplars(
    trained_on: RunDirectory, ratio: float, expected: int
) -> None:
    def draw(seed: int) -> SyntheticTextures:
        return SyntheticTextures(trained_on, mix_with=Real(), ratio=ratio, seed=seed)

    textures = draw(0)
    assert len(textures.rows) == len(textures) - 30 == expected
    assert textures.rows.equals(draw(0).rows)
    assert expected == 150 or not textures.rows.equals(draw(1).rows)
    ids = textures.rows["task_id"].to_pylist()
    assert len(set(ids)) == expected
    per_exemplar = Counter(textures.rows["exemplar_id"].to_pylist())
    counts = [*per_exemplar.values(), *[0] * (50 - len(per_exemplar))]
    assert max(counts) - min(counts) <= 1
    assert ids == [i for i in SyntheticTextures(trained_on).rows["task_id"].to_pylist() if i in ids]


def test_what_cannot_be_mixed_is_refused(trained_on: RunDirectory) -> None:
    with pytest.raises(ValueError, match=r"ratio 9: 270 textures .* expected 1 to 150"):
        SyntheticTextures(trained_on, mix_with=Real(), ratio=9)
    with pytest.raises(ValueError, match="expected a real data set"):
        SyntheticTextures(trained_on, ratio=1)
    with pytest.raises(SelectionError, match=r"\['lined'\] are none of the 3 classes"):
        SyntheticTextures(trained_on, classes=CATEGORIES[:3])
    nameless = [(Image.new("RGB", (8, 8)), 0)]
    with pytest.raises(ValueError, match="list has no attribute `classes`"):
        SyntheticTextures(trained_on, mix_with=nameless)
    assert len(SyntheticTextures(trained_on, mix_with=nameless, classes=Real.classes)) == 151
    with pytest.raises(NotARunError):
        SyntheticTextures(trained_on.path / "absent")


@pytest.mark.parametrize("partition", [None, 1])
def test_textures_of_parents_that_may_be_held_out_are_not_mixed_in(
    finished: RunDirectory, partition: int | None
) -> None:
    mix: Row = {"mix_with": Real(), "partition": partition}
    with pytest.raises(ValueError, match=r"of the splits test, train would .* split='train'"):
        SyntheticTextures(finished, **mix)
    assert len(SyntheticTextures(finished, split="train", **mix)) == 30 + 75
    assert len(SyntheticTextures(finished, split="test", **mix)) == 30 + 75


@pytest.mark.parametrize(
    ("values", "refused"),
    [
        ({"split": "train"}, None),
        ({"split": "seen"}, None),
        ({}, None),
        ({"split": "val"}, "of the splits val would"),
        ({"split_1": "train"}, "of the splits none would"),
        ({"split": "train", "split_1": "val"}, None),
    ],
)
def test_one_split_need_not_be_named_unless_it_is_held_out(
    run: RunDirectory, make_row: Callable[..., Row], values: Row, refused: str | None
) -> None:
    carried = pa.schema([(name, pa.string()) for name in values if name != "split"])
    commit_rows(
        run, rows_to_table([make_row("a", category="lined", **values)], row_schema(carried))
    )
    if refused is None:
        assert len(SyntheticTextures(run, mix_with=Real())) == 31
        return
    with pytest.raises(ValueError, match=refused):
        SyntheticTextures(run, mix_with=Real())
    assert len(SyntheticTextures(run)) == 1


def test_a_texture_without_a_split_beside_others_is_not_mixed_in(
    run: RunDirectory, make_row: Callable[..., Row]
) -> None:
    rows = [make_row("a", category="lined", split="train"), make_row("b", category="lined")]
    commit_rows(run, rows_to_table(rows, row_schema()))
    with pytest.raises(ValueError, match="of the splits train, none would"):
        SyntheticTextures(run, mix_with=Real())


def test_dtd_itself_can_be_mixed_with(finished: RunDirectory, tmp_path: Path) -> None:
    data = tmp_path / "dtd" / "dtd"
    (data / "labels").mkdir(parents=True)
    listed = [f"{name}/{name}_0001.jpg" for name in sorted({*CATEGORIES, "banded"})]
    for number, name in enumerate(listed):
        (data / "images" / name).parent.mkdir(parents=True)
        Image.new("RGB", (40, 30), (number, 0, 0)).save(data / "images" / name)
    (data / "labels" / "train1.txt").write_text("\n".join(listed))
    real = DTD(tmp_path, split="train", partition=1)
    textures = SyntheticTextures(
        finished, partition=1, split="train", mix_with=real, ratio=2, transform=v2.Resize((8, 8))
    )
    assert textures.class_to_idx == real.class_to_idx
    assert len(textures) == 15
    assert [label for _, label in textures][:5] == [0, 1, 2, 3, 4]
    assert {image.size for image, _ in textures} == {(8, 8)}
    for row, label in zip(textures.rows.to_pylist(), textures.labels, strict=True):
        assert row["split"] == "train"
        assert real.classes[label] == row["category"]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_texture_once_per_epoch_over_all_ranks_and_workers(
    finished: RunDirectory, rows: list[Row], pixels: dict[str, bytes], workers: int
) -> None:
    seen = []
    for rank in range(2):
        stream = StreamedTextures(
            finished,
            accepted_only=False,
            transform=as_bytes,
            buffer=20,
            rank=rank,
            world_size=2,
        )
        stream.set_epoch(5)
        seen.append(read_all(stream, workers))
    assert [len(items) for items in seen] == [100, 100]
    assert Counter(seen[0] + seen[1]) == expected_items(rows, pixels)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [SyntheticTextures, StreamedTextures])
def test_spawned_workers_read_every_texture_once(
    finished: RunDirectory, rows: list[Row], pixels: dict[str, bytes], kind: Any
) -> None:
    textures = kind(finished, accepted_only=False, transform=as_bytes)
    options = {"num_workers": 2, "collate_fn": as_list, "multiprocessing_context": "spawn"}
    loader = DataLoader(textures, batch_size=16, timeout=200, **options)
    items = [item for batch in loader for item in batch]
    assert Counter(items) == expected_items(rows, pixels)


@pytest.mark.parametrize(("even", "lengths"), [(None, {66, 67}), ("drop", {66}), ("pad", {67})])
def test_ranks_can_be_made_equally_long(
    finished: RunDirectory, even: Any, lengths: set[int]
) -> None:
    options: Row = {"accepted_only": False, "transform": as_bytes, "even": even, "world_size": 3}
    streams = [StreamedTextures(finished, rank=rank, **options) for rank in range(3)]
    items = [list(stream) for stream in streams]
    assert {len(part) for part in items} == lengths
    counts = Counter(item for part in items for item in part)
    assert len(counts) == {"drop": 198}.get(even, 200)
    assert sum(counts.values()) - len(counts) == {"pad": 1}.get(even, 0)


def test_ranks_that_would_all_be_empty_are_refused(
    run: RunDirectory, make_table: Callable[..., pa.Table]
) -> None:
    commit_rows(run, make_table(["a", "b"]))
    with pytest.raises(ValueError, match="2 textures for 3 ranks, all would be left out"):
        StreamedTextures(run, even="drop", rank=0, world_size=3)
    padded = [StreamedTextures(run, even="pad", rank=rank, world_size=3) for rank in range(3)]
    assert [len(list(stream)) for stream in padded] == [1, 1, 1]


def test_workers_that_persist_hear_of_the_next_epoch(finished: RunDirectory) -> None:
    stream = StreamedTextures(finished, transform=as_bytes)
    loader = DataLoader(
        stream, batch_size=8, num_workers=1, collate_fn=as_list, persistent_workers=True, timeout=60
    )
    epochs = []
    for epoch in (0, 1, 0):
        stream.set_epoch(epoch)
        epochs.append([item for batch in loader for item in batch])
    assert epochs[0] == epochs[2] != epochs[1]
    assert Counter(epochs[0]) == Counter(epochs[1])


def test_without_a_buffer_the_order_is_that_of_storage(finished: RunDirectory) -> None:
    stored = [(as_bytes(image), label) for image, label in SyntheticTextures(finished)]
    stream = StreamedTextures(finished, transform=as_bytes, buffer=0)
    assert list(stream) == stored
    copy = pickle.loads(pickle.dumps(stream))
    assert list(copy) == stored
    shuffled = list(StreamedTextures(finished, transform=as_bytes, buffer=16))
    assert shuffled != stored
    assert Counter(shuffled) == Counter(stored)


@pytest.fixture
def second_of_four() -> Iterator[None]:
    """A process group of torch's that talks to nobody."""
    distributed.init_process_group("fake", store=FakeStore(), rank=1, world_size=4)
    yield
    distributed.destroy_process_group()


@pytest.mark.usefixtures("second_of_four")
def test_the_rank_is_that_of_torch_distributed(finished: RunDirectory) -> None:
    asked = list(StreamedTextures(finished, transform=as_bytes, rank=1, world_size=4))
    assert list(StreamedTextures(finished, transform=as_bytes)) == asked
    assert len(asked) == 38


@pytest.mark.parametrize("values", [{"rank": 1}, {"world_size": 2}, {"rank": 2, "world_size": 2}])
def test_an_impossible_rank_is_refused(finished: RunDirectory, values: Row) -> None:
    with pytest.raises(ValueError, match="expected both, from 0 to world_size - 1"):
        StreamedTextures(finished, **values)


@pytest.mark.parametrize("buffer", [0, 1, 7, 100, 1000])
def test_a_shuffle_loses_nothing_and_brings_nothing_forward_further_than_its_buffer(
    buffer: int,
) -> None:
    shuffled = list(shuffle(range(100), buffer, np.random.default_rng(0)))
    assert sorted(shuffled) == list(range(100))
    assert all(item <= place + buffer for place, item in enumerate(shuffled))
    assert (shuffled == list(range(100))) == (buffer <= 1)


def test_a_broken_image_is_named(run: RunDirectory, make_row: Callable[..., Row]) -> None:
    png = make_row("a")["image"]["bytes"]
    broken = make_row("b", image={"bytes": png[:-40], "path": "b.png"})
    commit_rows(run, rows_to_table([make_row("a"), broken], row_schema()))
    textures = SyntheticTextures(run)
    assert textures[0][0].size == (8, 8)
    with pytest.raises(OSError, match="texture of task 'b'"):
        textures[1]


def test_rows_that_moved_are_not_taken_for_others(
    run: RunDirectory, make_table: Callable[..., pa.Table]
) -> None:
    commit_rows(run, make_table(["a", "b"]))
    textures = SyntheticTextures(run)
    finalize(run, pa.array(["a", "b"]))
    with pytest.raises(SelectionError, match="its rows were moved"):
        textures[0]
    assert len(list(SyntheticTextures(run))) == 2


@pytest.fixture
def in_its_folder(
    finished: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> RunDirectory:
    """The run as the README calls it, from the folder that it is called from."""
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "photos").symlink_to(finished.path)
    monkeypatch.chdir(tmp_path)
    return finished


@pytest.mark.usefixtures("in_its_folder")
def test_the_snippet_of_the_readme_runs(capsys: pytest.CaptureFixture[str]) -> None:
    _, snippet = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(snippet, "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    sizes = [re.fullmatch(r".*\[(\d+), 3, 64, 64\]\) torch.Size\(\[(\d+)\]\)", x) for x in lines]
    assert [size.groups() for size in sizes if size] == [("16", "16")] * 9 + [("6", "6")]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("library", ["ray.data", "datasets"])
def test_ray_and_datasets_read_a_run_as_the_readme_says(
    in_its_folder: RunDirectory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, library: str
) -> None:
    (call,) = re.findall(rf"`({library}\.\w+\(.*?\))`", README)
    rows = "rows.iter_rows()" if library == "ray.data" else "rows['train']"
    image = "row['image']['bytes']" if library == "ray.data" else "row['image'].tobytes()"
    code = f"import {library}\nrows = {call}\n"
    code += f"for row in {rows}: print('row', row['task_id'], {image} is not None)"
    monkeypatch.setenv("HF_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # Not a cluster that happens to be on this machine.
    monkeypatch.setenv("RAY_ADDRESS", "local")
    command = [sys.executable, "-c", code.replace("print('row'", "row['image'] and print('row'")]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    read = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("row ")]
    textures = SyntheticTextures(in_its_folder, accepted_only=False)
    assert sorted(read) == sorted(textures.rows["task_id"].to_pylist())
