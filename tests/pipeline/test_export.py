"""Exports, read back by the loaders that they are for."""

from __future__ import annotations

import gc
import hashlib
import io
import json
import tarfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest
import webdataset
import yaml
from PIL import Image
from torchvision.datasets import DTD, ImageFolder

import pipeline.committed
from pipeline.export import FORMS, ExportError, FormName, export_run
from pipeline.export.textures import load_textures
from pipeline.finalize import finalize
from pipeline.manifest import load_manifest
from pipeline.rundir import RunDirectory
from pipeline.schema import RESERVED_COLUMNS, row_schema, rows_to_table
from pipeline.selection import Selection, SelectionError
from pipeline.shards import commit_rows

Row = dict[str, Any]
Call = Callable[..., tuple[int, str, str]]
SPLITS = ("train", "val", "test")
BLENDED = ("blend_exemplar_id", "blend_exemplar_sha256")
OPTIONAL = pa.schema(
    [
        *((name, pa.string()) for name in ("split_1", "split_2", *BLENDED)),
        ("joint_labels", pa.list_(pa.string())),
    ]
)
CARRIED = pa.schema([field for field in OPTIONAL if field.name not in RESERVED_COLUMNS])
CATEGORIES = ("bark", "Bark", "../moss", None)
CLASSES = ["../moss", "Bark", "bark", "uncategorised"]
EVERYTHING = Selection(accepted_only=False)


@pytest.fixture
def rows(make_row: Callable[..., Row]) -> list[Row]:
    """24 tasks: 12 exemplars of 4 categories, two variations; one failed, four not accepted."""
    made = []
    for number in range(24):
        exemplar = number // 2
        values: Row = {
            "exemplar_id": f"x.{exemplar}",
            "exemplar_sha256": f"{exemplar:064d}",
            "category": CATEGORIES[exemplar % 4],
            "split": SPLITS[exemplar % 3],
            "split_1": SPLITS[exemplar % 3],
            "split_2": SPLITS[exemplar // 4] if exemplar else None,
            "joint_labels": ["soft", f"l{exemplar}"] if exemplar else None,
            # Second parents: in the same split of one partition, of both, of both but not exported.
            "blend_exemplar_id": {6: "x.6", 8: "x.7", 10: "x.99"}.get(number),
            "blend_exemplar_sha256": f"{exemplar + 3:064d}" if number in (6, 8, 10) else None,
            "blend_category": "bark" if number in (6, 8, 10) else None,
            "blend_weight": 0.375 if number in (6, 8, 10) else None,
            "labels": [
                {"category": f"l{exemplar}", "weight": 0.625},
                {"category": "bark", "weight": 0.375},
            ]
            if exemplar
            else None,
            "variation": number % 2,
            "seed": number,
            "height": 8,
            "width": 8,
            "delivered_loss": float(number),
            "exemplar_kind": "flat" if number in (3, 4, 5, 20) else "stochastic",
        }
        if number == 6:
            # As a run writes it: its parents are in different splits.
            values["split_2"] = None
        if number == 23:
            values |= {"status": "failed", "height": None, "width": None}
        made.append(make_row(f"x.{exemplar}-c0-v{number % 2}", **values))
    return made


@pytest.fixture
def filled(run: RunDirectory, rows: list[Row]) -> RunDirectory:
    """The run, its rows in shards of another order than that of categories."""
    for start in range(0, len(rows), 7):
        commit_rows(run, rows_to_table(rows[start : start + 7], row_schema(CARRIED)))
    return run


@pytest.fixture
def chosen(rows: list[Row]) -> list[Row]:
    return [row for row in rows if "image" in row and row["exemplar_kind"] != "flat"]


def pixels_of(image: Image.Image) -> bytes:
    return image.convert("RGB").tobytes()


def expected(rows: list[Row]) -> Counter[tuple[bytes, str]]:
    """Pixels and category of each."""
    pairs = (
        (Image.open(io.BytesIO(row["image"]["bytes"])), row["category"] or "uncategorised")
        for row in rows
    )
    return Counter((pixels_of(image), category) for image, category in pairs)


def manifest_rows(out: Path) -> list[Row]:
    """What the checks of a run's manifest take, in the order of the file."""
    table = load_manifest(out / "manifest.csv", reserved=RESERVED_COLUMNS).table
    return list(table.to_pylist())


def folder_names(out: Path) -> dict[str, str]:
    """Category by name of its folder, from the manifest."""
    return {
        row["path"].split("/")[-2]: row["category"] or "uncategorised" for row in manifest_rows(out)
    }


@pytest.mark.parametrize("form", FORMS)
def test_the_manifest_has_a_row_for_each_texture(
    filled: RunDirectory, chosen: list[Row], tmp_path: Path, form: FormName
) -> None:
    out = tmp_path / "out"
    assert export_run(filled, form, out, Selection(partition=2)) == len(chosen)
    of_task = {row["task_id"]: row for row in chosen}
    found = manifest_rows(out)
    assert len(found) == len(chosen)
    assert len({row["path"] for row in found}) == len(chosen)
    for entry in found:
        row = of_task.pop(entry["synthesis_task_id"])
        png = row["image"]["bytes"]
        assert entry["sha256"] == hashlib.sha256(png).hexdigest()
        assert (entry["parent_id"], entry["parent_sha256"]) == (
            row["exemplar_id"],
            row["exemplar_sha256"],
        )
        same = {name: entry[name] for name in ("category", "split_1", "split_2", "width", "height")}
        assert same == {name: row[name] for name in same}
        assert entry["split"] == row["split_2"]
        assert entry["second_parent_id"] == row["blend_exemplar_id"]
        assert entry["second_parent_sha256"] == row["blend_exemplar_sha256"]
        assert entry["second_parent_category"] == row["blend_category"]
        weight = row["blend_weight"]
        assert entry["second_parent_weight"] == (None if weight is None else str(weight))
        assert entry["synthesis_seed"] == str(row["seed"])
        if form in ("folder", "dtd"):
            assert (out / entry["path"]).read_bytes() == png
        else:
            assert (out / entry["path"]).parent.is_file()
    assert not list(out.rglob("_tmp-*"))
    assert not list(tmp_path.glob("moss*"))


def test_image_folder_reads_a_folder(
    filled: RunDirectory, chosen: list[Row], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_run(filled, "folder", out, Selection())
    assert sorted(path.name for path in out.iterdir()) == sorted(
        [*SPLITS, "manifest.csv", "export.json"]
    )
    names = folder_names(out)
    for split in SPLITS:
        dataset = ImageFolder(out / split)
        found = [(pixels_of(image), names[dataset.classes[label]]) for image, label in dataset]
        assert Counter(found) == expected([row for row in chosen if row["split"] == split])


def test_one_split_needs_no_folder_of_its_own(
    filled: RunDirectory, chosen: list[Row], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_run(filled, "folder", out, Selection(split="train"))
    dataset = ImageFolder(out)
    assert len(dataset) == sum(row["split"] == "train" for row in chosen)
    parents = {Path(path).name.rsplit("-c0", 1)[0] for path, _ in dataset.samples}
    assert parents == {
        row["exemplar_id"].replace(".", "_") for row in chosen if row["split"] == "train"
    }


def test_dtds_layout_has_the_joint_labels(
    filled: RunDirectory, chosen: list[Row], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_run(filled, "dtd", out, Selection())
    found = {
        row["synthesis_task_id"]: row["path"].removeprefix("dtd/dtd/images/")
        for row in manifest_rows(out)
    }
    lines = [
        " ".join([found[row["task_id"]], *row["joint_labels"]])
        for row in chosen
        if row["joint_labels"]
    ]
    stored = (out / "dtd/dtd/labels/labels_joint_anno.txt").read_text()
    assert stored.splitlines() == sorted(lines)


@pytest.mark.parametrize("partition", [1, 2])
def test_torchvision_reads_dtds_layout(
    filled: RunDirectory, chosen: list[Row], tmp_path: Path, partition: int
) -> None:
    export_run(filled, "dtd", tmp_path / "out", Selection(partition=2))
    names = folder_names(tmp_path / "out")
    for split in SPLITS:
        dataset = DTD(tmp_path / "out", split=split, partition=partition)
        found = [(pixels_of(image), names[dataset.classes[label]]) for image, label in dataset]
        assert Counter(found) == expected(
            [row for row in chosen if row[f"split_{partition}"] == split]
        )


def test_dtds_layout_of_a_run_without_partitions(
    run: RunDirectory, make_table: Callable[..., pa.Table], tmp_path: Path
) -> None:
    commit_rows(run, make_table(["a", "b"], split="val"))
    commit_rows(run, make_table(["c"], split="train"))
    out = tmp_path / "out"
    export_run(run, "dtd", out, EVERYTHING)
    assert len(DTD(out, split="val")) == 2
    assert len(DTD(out, split="test")) == 0
    assert not (out / "dtd/dtd/labels/train2.txt").exists()
    commit_rows(run, make_table(["d"], split="holdout"))
    with pytest.raises(SelectionError, match=r"holdout.*expected some of train, val, test"):
        export_run(run, "dtd", tmp_path / "other", EVERYTHING)


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_webdataset_reads_shards(filled: RunDirectory, chosen: list[Row], tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_run(filled, "webdataset", out, Selection(), shard_rows=3)
    assert json.loads((out / "classes.json").read_text()) == CLASSES
    paths = {row["path"]: row for row in manifest_rows(out)}
    of_task = {row["task_id"]: row for row in chosen}
    for split in SPLITS:
        shards = sorted(str(path) for path in out.glob(f"{split}-*.tar"))
        wanted = [row for row in chosen if row["split"] == split]
        assert len(shards) == -(-len(wanted) // 3)
        stored = webdataset.WebDataset(shards, shardshuffle=False)
        found = []
        for sample in stored.decode("pil"):
            found.append((pixels_of(sample["png"]), CLASSES[sample["cls"]]))
            row = paths[f"{Path(sample['__url__']).name}/{sample['__key__']}.png"]
            about = {name: value for name, value in row.items() if name != "path"}
            for name in ("joint_labels", "labels"):
                labels = sample["json"].pop(name)
                assert labels == of_task[row["synthesis_task_id"]][name]
            said = {**sample["json"], "synthesis_seed": str(sample["json"]["synthesis_seed"])}
            for name in ("parent_crop", "synthesis_variation"):
                said[name] = str(said[name])
            weight = said["second_parent_weight"]
            said["second_parent_weight"] = None if weight is None else str(weight)
            assert said == about
        assert Counter(found) == expected(wanted)
    # The library leaves shards open; here that is no error.
    gc.collect()


def test_a_shard_has_textures_of_all_categories(
    run: RunDirectory, make_table: Callable[..., pa.Table], tmp_path: Path
) -> None:
    for category in ("a", "b"):
        ids = [f"{category}{number}" for number in range(6)]
        commit_rows(run, make_table(ids, category=category))
    export_run(run, "webdataset", tmp_path / "out", EVERYTHING, shard_rows=4)
    shards = sorted((tmp_path / "out").glob("textures-*.tar"))
    assert len(shards) == 3
    for shard in shards:
        with tarfile.open(shard) as file:
            keys = [name for name in file.getnames() if name.endswith(".png")]
        assert Counter(key[0] for key in keys) == {"a": 2, "b": 2}


def test_hugging_face_reads_its_directory(
    filled: RunDirectory, chosen: list[Row], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_run(filled, "hf", out, Selection(), shard_rows=4)
    loaded = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert set(loaded) == set(SPLITS)
    for split in SPLITS:
        wanted = [row for row in chosen if row["split"] == split]
        features = loaded[split].features
        assert features["label"].names == CLASSES
        assert isinstance(features["image"], datasets.Image)
        found = [(pixels_of(row["image"]), CLASSES[row["label"]]) for row in loaded[split]]
        assert Counter(found) == expected(wanted)
        raw = loaded[split].cast_column("image", datasets.Image(decode=False))
        digests = [hashlib.sha256(row["image"]["bytes"]).hexdigest() for row in raw]
        assert digests == raw["sha256"][:]
        for name in ("joint_labels", "labels"):
            labels = {row["task_id"]: row[name] for row in wanted}
            assert dict(zip(raw["synthesis_task_id"], raw[name], strict=True)) == labels


def test_hugging_face_misses_a_file_that_is_gone(filled: RunDirectory, tmp_path: Path) -> None:
    out = tmp_path / "out"
    export_run(filled, "hf", out, Selection(split="train"), shard_rows=4)
    next((out / "data").iterdir()).unlink()
    with pytest.raises(datasets.exceptions.NonMatchingSplitsSizesError):
        datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))


def test_the_card_says_what_made_the_textures(
    filled: RunDirectory, chosen: list[Row], tmp_path: Path
) -> None:
    out = tmp_path / "out"
    export_run(filled, "hf", out, Selection())
    _, head, text = (out / "README.md").read_text().split("---\n", 2)
    counts = Counter(row["split"] for row in chosen)
    splits = yaml.safe_load(head)["dataset_info"]["splits"]
    assert {split["name"]: split["num_examples"] for split in splits} == counts
    median = float(np.median([row["delivered_loss"] for row in chosen]))
    for line in (
        "| weights | `random:0` |",
        "| preset | `default` |",
        "| config_fingerprint | `0123456789abcdef` |",
        f"| train | {counts['train']} |",
        f"| delivered_loss | {median:.4g} |",
        "| spectrum_error | null |",
    ):
        assert line in text.splitlines()
    assert "licence of that image" in text


def test_all_textures_are_exported_if_asked(
    filled: RunDirectory, rows: list[Row], tmp_path: Path, call: Call
) -> None:
    with_image = sum("image" in row for row in rows)
    out = tmp_path / "out"
    ended = call("export", filled.path, "--to", "webdataset", "--out", out, "--all")
    assert ended == (0, f"{out}: {with_image} textures\n", "")


@pytest.mark.parametrize("form", FORMS)
def test_a_finalize_changes_no_export(
    filled: RunDirectory, rows: list[Row], tmp_path: Path, form: FormName
) -> None:
    export_run(filled, form, tmp_path / "before", Selection())
    finalize(filled, pa.array([row["task_id"] for row in rows]))
    export_run(filled, form, tmp_path / "after", Selection())
    assert contents(tmp_path / "before") == contents(tmp_path / "after")


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--to", "zip", "--out", "OUT"], "zip"),
        (["--to", "folder", "--out", "OUT", "--shard-rows", "5"], "a form of webdataset, hf"),
        (["--to", "hf", "--out", "OUT", "--shard-rows", "0"], "shard-rows"),
        (["--to", "hf", "--out", "OUT", "--partition", "3"], "no column 'split_3'"),
        (["--to", "hf", "--out", "OUT", "--split", "holdout"], "there are 23 textures"),
        (["--to", "hf", "--out", "RUN/out"], "expected a folder outside of it"),
    ],
)
def test_refusals(
    filled: RunDirectory, tmp_path: Path, call: Call, words: list[str], said: str
) -> None:
    places = {"OUT": str(tmp_path / "out"), "RUN/out": str(filled.path / "out")}
    code, out, err = call("export", filled.path, *(places.get(word, word) for word in words))
    assert (code, out) == (2, "")
    assert said in err
    assert not any(Path(place).exists() for place in places.values())


def test_a_long_id_makes_a_name_that_a_manifest_takes(
    run: RunDirectory, make_table: Callable[..., pa.Table], tmp_path: Path
) -> None:
    ids = ["x" * 199 + f"{number}-c0-v0" for number in range(2)]
    commit_rows(run, make_table(ids))
    export_run(run, "folder", tmp_path / "out", EVERYTHING)
    names = [row["exemplar_id"] for row in manifest_rows(tmp_path / "out")]
    assert len(set(names)) == 2
    assert {len(name) for name in names} == {200}
    with pytest.raises(ExportError, match="form 'tar'"):
        export_run(run, "tar", tmp_path / "tar", EVERYTHING)  # type: ignore[arg-type]


def test_a_row_that_is_replaced_while_textures_are_looked_up_is_of_one_try(
    run: RunDirectory, make_row: Callable[..., Row], monkeypatch: pytest.MonkeyPatch
) -> None:
    first = make_row("a", delivered_loss=1.0)
    again = make_row("a", delivered_loss=2.0, attempts=2)
    again["image"] = make_row("other")["image"]
    commit_rows(run, rows_to_table([first], row_schema()))
    scan = pipeline.committed.scan_committed

    def scan_then_retry(*arguments: Any) -> Any:
        found = scan(*arguments)
        commit_rows(run, rows_to_table([again], row_schema()))
        return found

    monkeypatch.setattr(pipeline.committed, "scan_committed", scan_then_retry)
    textures = load_textures(run, EVERYTHING)
    ((_, png),) = textures.read(np.arange(1))
    loss = {first["image"]["bytes"]: 1.0, again["image"]["bytes"]: 2.0}[png]
    assert textures.table["delivered_loss"].to_pylist() == [loss]
