"""Textures of real photographs, exported to each form and read back by the form's own loader."""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import datasets
import pytest
import webdataset
from rich.console import Console
from torchvision.datasets import DTD, ImageFolder

from pipeline.config import RunConfig
from pipeline.export import FORMS, export_run
from pipeline.manifest import dtd_manifest, write_manifest
from pipeline.query import load_images, load_metrics
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from pipeline.selection import Selection

Found = Counter[tuple[bytes, str]]
IMAGES = 10

pytestmark = [pytest.mark.shared, pytest.mark.usefixtures("one_thread")]


def read_folder(out: Path) -> Found:
    items = ImageFolder(str(out))
    return Counter((image.tobytes(), items.classes[label]) for image, label in items)


def read_webdataset(out: Path) -> Found:
    classes = json.loads((out / "classes.json").read_text())
    (shard,) = out.glob("*.tar")
    samples = webdataset.WebDataset(str(shard), shardshuffle=False).decode("pil")
    return Counter(
        (sample["png"].convert("RGB").tobytes(), classes[sample["cls"]]) for sample in samples
    )


def read_hf(out: Path) -> Found:
    loaded = datasets.load_dataset(str(out), cache_dir=str(out.with_name("cache")))
    assert list(loaded) == ["train"]
    names = loaded["train"].features["label"].names
    return Counter((row["image"].tobytes(), names[row["label"]]) for row in loaded["train"])


def read_dtd(out: Path) -> Found:
    items = DTD(str(out), split="train", partition=1)
    return Counter((image.tobytes(), items.classes[label]) for image, label in items)


READERS = {"folder": read_folder, "webdataset": read_webdataset, "hf": read_hf, "dtd": read_dtd}


@pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning")
def test_textures_of_dtd_come_back_from_every_form(
    shared_path: Path, quick_config: Callable[..., RunConfig], tmp_path: Path
) -> None:
    root, run = shared_path / "data", RunDirectory(tmp_path / "run")
    write_manifest(dtd_manifest(root), tmp_path / "dtd.parquet")
    options = {"partition": 1, "split": "train", "limit": IMAGES, "blends": 1}
    config = quick_config(root=str(root), **options)
    run_manifest(tmp_path / "dtd.parquet", run.path, config, Console(file=io.StringIO()))
    rows = load_metrics(run)
    images = load_images(run, rows["task_id"])
    category = dict(zip(rows["task_id"], rows["category"], strict=True))
    expected = Counter((image.tobytes(), category[task]) for task, image in images.items())
    assert len(expected) == 2 * IMAGES
    assert len(set(category.values())) > 1
    for form in FORMS:
        out = tmp_path / form
        chosen = Selection(partition=1, split="train", accepted_only=False)
        assert export_run(run, form, out, chosen) == 2 * IMAGES
        assert READERS[form](out) == expected, form
    for partition in range(1, 11):
        for split in ("train", "val", "test"):
            there = len(DTD(str(tmp_path / "dtd"), split=split, partition=partition))
            assert there == (rows[f"split_{partition}"] == split).sum()
