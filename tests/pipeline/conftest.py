"""Rows and run directories to test with."""

from __future__ import annotations

import hashlib
import io
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageOps

from pipeline.actor import SynthesisActor
from pipeline.cli import main
from pipeline.config import RunConfig
from pipeline.finalize import finalize
from pipeline.manifest import load_manifest
from pipeline.prepare import ExemplarSource, prepare_tasks
from pipeline.resume import RunRecord, write_run_record, write_tasks
from pipeline.rundir import RunDirectory
from pipeline.schema import RESERVED_COLUMNS, row_schema, rows_to_table
from pipeline.shards import commit_rows
from pipeline.tasks import expand_tasks
from texsynth import load_network

Row = dict[str, Any]


def png_of(task_id: str) -> bytes:
    """A small noise image that only this task has."""
    generator = np.random.default_rng(list(task_id.encode()))
    pixels = generator.integers(0, 256, (8, 8, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def row_of(task_id: str, **values: Any) -> Row:
    """A row with its required values, and an image if it is ok."""
    row: Row = {
        "task_id": task_id,
        "exemplar_id": task_id.split("-")[0],
        "category": "bark",
        "crop": 0,
        "variation": 0,
        "seed": 0,
        "attempts": 1,
        "status": "ok",
        "path": f"images/{task_id}.jpg",
        "finished_at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
        "preset": "default",
        "config_fingerprint": "0123456789abcdef",
        "weights": "random:0",
        "texsynth_version": "0.1.0",
        "torch_version": "2.6.0",
    }
    row |= values
    if row["status"] == "ok":
        row.setdefault("image", {"bytes": png_of(task_id), "path": f"{task_id}.png"})
        row.setdefault("float_loss", 1000.0)
        row.setdefault("loss_curve", [{"evaluations": 1.0, "loss": 9.0, "side": 8}])
    return row


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    directory = RunDirectory(tmp_path / "run")
    directory.create()
    return directory


@pytest.fixture(scope="session")
def make_row() -> Callable[..., Row]:
    return row_of


@pytest.fixture
def make_table() -> Callable[..., pa.Table]:
    def make(task_ids: Iterable[str], carried: pa.Schema | None = None, **values: Any) -> pa.Table:
        rows = [row_of(task_id, **values) for task_id in task_ids]
        return rows_to_table(rows, row_schema(carried))

    return make


@pytest.fixture
def filled(run: RunDirectory, make_table: Callable[..., pa.Table]) -> RunDirectory:
    """Four textures of each of two categories."""
    ids = [f"x{number}-c0-v0" for number in range(8)]
    commit_rows(run, make_table(ids[:4], category="bark", split="train"))
    commit_rows(run, make_table(ids[4:], category="wool", split="train"))
    return run


@pytest.fixture
def make_png() -> Callable[[str], bytes]:
    return png_of


@pytest.fixture
def damage_column() -> Callable[[Path, str], None]:
    """Overwrites the pages of one column of a Parquet file; its footer stays whole."""

    def damage(path: Path, name: str) -> None:
        group = pq.read_metadata(path).row_group(0)
        columns = [group.column(index) for index in range(group.num_columns)]
        (column,) = [column for column in columns if column.path_in_schema == name]
        data = bytearray(path.read_bytes())
        start = column.dictionary_page_offset or column.data_page_offset
        end = start + column.total_compressed_size
        data[start:end] = b"\xff" * (end - start)
        path.write_bytes(data)

    return damage


@pytest.fixture
def quick_config(weights_file: Path) -> Callable[..., RunConfig]:
    """A resolved configuration at 32 px, without Ray: five evaluations after the measuring."""

    def make(**values: Any) -> RunConfig:
        quick = {"weights": str(weights_file), "size": 32, "evaluations": 10, "executor": "inline"}
        return RunConfig.model_validate(quick | values).resolved()

    return make


@pytest.fixture
def make_manifest(tmp_path: Path) -> Callable[..., Path]:
    """A manifest of noise images, 40x48 px, one per id; ids in `broken` and `absent` are not."""

    def make(ids: Iterable[str], broken: Iterable[str] = (), absent: Iterable[str] = ()) -> Path:
        folder = tmp_path / "images"
        folder.mkdir(exist_ok=True)
        lines = ["exemplar_id,path,category,note"]
        for number, name in enumerate(ids):
            pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
            Image.fromarray(pixels).save(folder / f"{name}.png")
            if name in broken:
                (folder / f"{name}.png").write_bytes(b"no image")
            if name in absent:
                (folder / f"{name}.png").unlink()
            lines.append(f"{name},images/{name}.png,noise,note of {name}")
        path = tmp_path / "manifest.csv"
        path.write_text("\n".join(lines) + "\n")
        return path

    return make


@pytest.fixture
def make_actor(run: RunDirectory) -> Iterator[Callable[[RunConfig], SynthesisActor]]:
    """An actor of `run`, driven by the test, whose manifest carries a column `note`."""
    actors: list[SynthesisActor] = []

    def make(config: RunConfig) -> SynthesisActor:
        network = load_network(config.weights)
        record = RunRecord(
            config=config.model_dump(mode="json"),
            identity=config.identity(network.weights_id, network.weights_sha256),
            versions={},
            weights=network.weights_id,
            weights_sha256=network.weights_sha256,
            manifest="manifest.csv",
            manifest_sha256="",
            root="",
            carried=pa.schema([("note", pa.string())]),
            created_at=datetime.now(UTC).isoformat(),
        )
        write_run_record(run, record)
        actors.append(SynthesisActor(str(run.path)))
        return actors[-1]

    yield make
    for actor in actors:
        actor.close()


@pytest.fixture
def prepared_block() -> Callable[[Path, RunConfig], pa.Table]:
    """All tasks of a manifest, prepared, none of them begun before."""

    def make(manifest: Path, config: RunConfig) -> pa.Table:
        table = load_manifest(manifest).table
        tasks = expand_tasks(table, crops=1, variations=config.variations, seed=config.seed)
        tasks = tasks.append_column("attempts", pa.array([0] * len(tasks), pa.int32()))
        return prepare_tasks(tasks, ExemplarSource(str(manifest.parent), config))

    return make


@pytest.fixture
def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["texsynth", *map(str, arguments)])
        code: int | str | None = 0
        try:
            main()
        except SystemExit as end:
            code = end.code
        out, err = capsys.readouterr()
        return int(code or 0), out, err

    return run


PICTURES = {
    "a": "png of 0",
    "again": "jpeg of 0",
    "copy": "png of 0",
    "b": "png of 1",
    "mirrored": "mirrored 1",
    "c": "png of 2",
    "d": "png of 3",
}
"""What the exemplars of `pictures_run` show: the first three are one picture, and b is mirrored."""


@pytest.fixture
def pictures_run(tmp_path: Path) -> tuple[RunDirectory, Path]:
    """A finished run of PICTURES and the folder of its images; no texture was synthesised.

    c has two textures, d one blended with b, `broken` a failed row, and `again` a timeout.
    """
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, what in PICTURES.items():
        pixels = np.random.default_rng(int(what[-1])).integers(0, 256, (16, 16, 3), np.uint8)
        picture = Image.fromarray(pixels).resize((64, 48), Image.Resampling.BICUBIC)
        if what.startswith("mirrored"):
            picture = ImageOps.mirror(picture)
        picture.save(folder / name, "JPEG" if what.startswith("jpeg") else "PNG")
    (folder / "broken").write_bytes(b"no image")
    run = RunDirectory(tmp_path / "pictures-run")
    run.create()
    blended = {name: pa.string() for name in ("blend_exemplar_id", "blend_exemplar_sha256")}
    carried = pa.schema([(k, v) for k, v in blended.items() if k not in RESERVED_COLUMNS])
    rows = [_picture_row(folder, name, 0) for name in PICTURES]
    rows += [_picture_row(folder, "c", 1), _picture_row(folder, "broken", 0, status="failed")]
    rows[1]["status"] = "timeout"
    blend = _picture_row(folder, "b", 0)
    rows[6] |= {"blend_exemplar_id": "b", "blend_exemplar_sha256": blend["exemplar_sha256"]}
    commit_rows(run, rows_to_table(rows, row_schema(carried)))
    ids = [row["task_id"] for row in rows]
    splits = pa.nulls(len(ids), pa.string())
    write_tasks(run, pa.table({"task_id": ids, "split": splits}))
    record = RunRecord(
        config={"max_pixels": 10**6},
        identity={},
        versions={},
        weights="random:0",
        weights_sha256="",
        manifest=str(tmp_path / "pictures.parquet"),
        manifest_sha256="",
        root=str(folder),
        carried=carried,
        created_at=datetime.now(UTC).isoformat(),
    )
    write_run_record(run, record)
    finalize(run, pa.array(ids))
    return run, folder


def _picture_row(folder: Path, name: str, variation: int, **values: Any) -> Row:
    digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
    task = f"{name}-c0-v{variation}"
    more = {"path": name, "variation": variation, "exemplar_sha256": digest, **values}
    row = row_of(task, **more)
    return row | {"error_type": "E", "error": "e"} if row["status"] == "failed" else row
