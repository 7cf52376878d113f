from __future__ import annotations

import hashlib
import io
import json
import math
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.numpy import save_file

from pipeline.attempts import AttemptFile
from pipeline.columns import STATUSES
from pipeline.finalize import finalize
from pipeline.flags import RULES as FLAGS
from pipeline.resume import RunRecord, write_run_record, write_tasks
from pipeline.rundir import NotARunError, RunDirectory
from pipeline.schema import compute_flags, row_schema, rows_to_table
from pipeline.session import hold_run
from pipeline.shards import commit_rows
from pipeline.tasks import task_seed
from pipeline.verify import Check, verify_run
from pipeline.verify.images import find_png_problem

MakeRow = Callable[..., dict[str, Any]]
IDS = [f"t{number:02d}" for number in range(10)]
RUN_SEED = 7


class Story:
    """A run of ten tasks, each with a source of its own; every row is right."""

    def __init__(self, folder: Path, make_row: MakeRow, ids: Iterable[str] = IDS) -> None:
        self.run = RunDirectory(folder / "a run")
        self.run.create()
        self.root = folder / "sources"
        (self.root / "images").mkdir(parents=True)
        self.ids = list(ids)
        self._make_row = make_row
        identity = {"seed": RUN_SEED, "size": 8}
        self.record = RunRecord(
            config=identity,
            identity=identity,
            versions={},
            weights="random:0",
            weights_sha256="ab" * 32,
            manifest=str(folder / "m.csv"),
            manifest_sha256="00",
            root=str(self.root),
            carried=pa.schema([]),
            created_at="2026-01-02T03:04:05+00:00",
        )
        write_run_record(self.run, self.record)
        write_tasks(self.run, pa.table({"task_id": self.ids}))
        for task_id in self.ids:
            (self.root / f"images/{task_id}.jpg").write_bytes(task_id.encode())

    def row(self, task_id: str, **values: Any) -> dict[str, Any]:
        """A right row, changed."""
        row = self._make_row(task_id, status=values.get("status", "ok"))
        made = row["status"] in ("ok", "timeout")
        if made:
            row |= self._make_row(task_id) | {"status": row["status"], "height": 8, "width": 8}
            row |= {"delivered_loss": 1100.0, "objective_loss": 900.0, "loss_threshold": 1050.0}
        else:
            row |= {"error_type": "ImageError", "error": "broken"}
        row |= {
            "seed": task_seed(RUN_SEED, task_id),
            "config_fingerprint": self.record.fingerprint,
            "weights_sha256": self.record.weights_sha256,
            "exemplar_sha256": hashlib.sha256(task_id.encode()).hexdigest(),
        }
        return row | values

    def table(self, task_ids: Iterable[str], **values: Any) -> pa.Table:
        return rows_to_table([self.row(task, **values) for task in task_ids], row_schema())

    def commit(self, task_ids: Iterable[str], **values: Any) -> Path:
        return commit_rows(self.run, self.table(task_ids, **values))

    def finalize(self, rows_per_file: int = 4) -> tuple[Path, ...]:
        ids = pa.array(self.ids, pa.string())
        return finalize(self.run, ids, rows_per_file=rows_per_file).files


@pytest.fixture
def story(tmp_path: Path, make_row: MakeRow) -> Story:
    return Story(tmp_path, make_row)


@pytest.fixture
def finished(story: Story) -> Story:
    story.commit(story.ids[:4], category="wool")
    story.commit(story.ids[4:8])
    story.commit(story.ids[8:9], status="timeout")
    story.commit(story.ids[9:], status="failed")
    story.finalize()
    return story


def checks_of(run: RunDirectory, **options: Any) -> dict[str, Check]:
    checks = verify_run(run, **options)
    by_name = {check.name: check for check in checks}
    assert len(by_name) == len(checks)
    for check in checks:
        assert check.ok == (not check.problems)
        assert check.ok == (not check.mend)
    return by_name


def problems_of(run: RunDirectory, **options: Any) -> dict[str, str]:
    """The problems that were found, by check, as one text."""
    checks = checks_of(run, **options)
    return {name: "\n".join(check.problems) for name, check in checks.items() if not check.ok}


def test_a_right_run_has_no_problem_at_any_time(story: Story) -> None:
    story.commit(story.ids[:9])
    assert list(problems_of(story.run)) == ["tasks"]
    story.commit(story.ids[9:], status="failed", attempts=1)
    assert problems_of(story.run) == {}
    story.finalize()
    assert problems_of(story.run) == {}
    story.commit(story.ids[9:], attempts=2)
    assert list(problems_of(story.run)) == ["_SUCCESS"]
    story.finalize()
    found = {name: check.found for name, check in checks_of(story.run).items()}
    assert found["files"] == "3 files, 10 rows"
    assert found["tasks"] == "10 of 10 tasks with a row"
    assert found["images"] == "10 PNGs decoded"
    assert found["exemplars"] == "10 sources read"
    assert found["_SUCCESS"] == "10 tasks"


def test_verify_changes_nothing(finished: Story) -> None:
    before = {path: path.stat().st_mtime_ns for path in finished.run.path.rglob("*")}
    verify_run(finished.run)
    assert {path: path.stat().st_mtime_ns for path in finished.run.path.rglob("*")} == before


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for path in (tmp_path, tmp_path / "file", tmp_path / "absent"):
        with pytest.raises(NotARunError, match="is no run directory"):
            verify_run(RunDirectory(path))


def test_rows_that_do_not_count_are_said_and_are_no_problem(story: Story) -> None:
    story.commit(story.ids, status="failed")
    story.commit(story.ids[:3], attempts=2)
    story.commit(story.ids[:1], attempts=3, seed=5)
    write_tasks(story.run, pa.table({"task_id": story.ids[:8]}))
    checks = checks_of(story.run)
    assert all(check.ok for check in checks.values())
    assert checks["tasks"].found == (
        "8 of 8 tasks with a row; 2 rows of tasks that are not in tasks.parquet; 4 superseded rows"
    )
    assert "1 row made again with another seed" in checks["seeds"].found


def test_missing_tasks_are_named_with_the_command_that_does_them(story: Story) -> None:
    story.commit(story.ids[:2])
    check = checks_of(story.run)["tasks"]
    assert check.problems[0] == "task 't02' has no row"
    assert len(check.problems) == 8
    assert f"texsynth run {story.record.manifest} --out '{story.run.path}'" in check.mend


def test_only_the_first_problems_are_named(story: Story) -> None:
    write_tasks(story.run, pa.table({"task_id": [f"n{number}" for number in range(1234)]}))
    problems = checks_of(story.run)["tasks"].problems
    assert (len(problems), problems[-1]) == (11, "and 1,224 more")


WRONG_VALUES: list[tuple[str, dict[str, Any], str]] = [
    ("identity", {"config_fingerprint": "f"}, "config_fingerprint is 'f', expected"),
    ("identity", {"weights_sha256": "f"}, "weights_sha256 is 'f', expected abab"),
    ("identity", {"weights_sha256": None}, "weights_sha256 is None"),
    ("seeds", {"seed": 5}, "seed is 5, expected that of run seed 7"),
    ("values", {"image": None}, "image is None, expected PNG bytes"),
    ("values", {"image": {"bytes": None, "path": "a"}}, "expected PNG bytes"),
    ("values", {"status": "timeout", "image": None}, "image is None, expected PNG bytes"),
    ("values", {"float_loss": None}, "float_loss is None, expected a finite number"),
    ("values", {"delivered_loss": math.inf}, "delivered_loss is inf"),
    ("values", {"objective_loss": math.nan}, "objective_loss is nan"),
    ("values", {"status": "failed", "error_type": None}, "error_type is None"),
    ("values", {"status": "quarantined", "error": None}, "error is None"),
    ("images", {"height": 9}, "PNG of 8x8 px, the row says 8x9"),
    ("images", {"width": None}, "PNG of 8x8 px, the row says Nonex8"),
    ("exemplars", {"exemplar_sha256": "00"}, "'images/t03.jpg': sha256 is "),
]


@pytest.mark.parametrize(("check", "values", "text"), WRONG_VALUES)
def test_a_wrong_value_is_found_and_its_task_named(
    story: Story, check: str, values: dict[str, Any], text: str
) -> None:
    story.commit([task for task in story.ids if task != "t03"])
    path = story.commit(["t03"], **values)
    problems = problems_of(story.run)
    assert text in problems[check]
    if check != "exemplars":
        assert list(problems) == [check]
        assert problems[check].startswith(f"shards/{path.name}: task 't03': ")


def rewrite(path: Path, change: Callable[[pa.Table], pa.Table]) -> None:
    pq.write_table(change(pq.read_table(path, partitioning=None)), path)


def set_column(name: str, value: Any) -> Callable[[pa.Table], pa.Table]:
    def change(table: pa.Table) -> pa.Table:
        index = table.schema.get_field_index(name)
        field = table.schema.field(index)
        return table.set_column(index, field, pa.array([value] * len(table), field.type))

    return change


UNFLAGGED: dict[str, Any] = {
    **{"displacement_score": 0.9, "copy_displacement_threshold": 0.5, "verbatim_share": 0.0},
    **{"layout_correlation": 0.1, "copy_layout_threshold": 0.8, "phase_correlation_peak": 0.0},
    **{"loss_threshold": 1e12, "stop_reason": "budget", "exemplar_kind": "regular"},
    **{"clipped_share": 0.0, "exemplar_clipped_share": 0.0, "high_frequency_ratio": 1.0},
    **{"chroma_noise": 0.0, "exemplar_chroma_noise": 0.0, "colour_mean_distance": 0.0},
    **{"sliced_wasserstein": 0.0, "held_out_gram_error": 0.0, "sibling_distance": 1.0},
}
"""Numbers of a texture without a fault."""


def test_rules_that_are_none_are_found(story: Story) -> None:
    path = story.commit(story.ids, **UNFLAGGED)
    rewrite(path, set_column("flag_rules", [{"flag": "copy", "rule": "a <"}]))
    assert "flag_rules" in problems_of(story.run)["flags"]


@pytest.mark.parametrize("name", FLAGS)
@pytest.mark.parametrize("known", [True, False])
def test_a_flag_must_agree_with_its_numbers(story: Story, name: str, known: bool) -> None:
    path = story.commit(story.ids, **UNFLAGGED)
    assert problems_of(story.run) == {}
    right = name in ("below_threshold", "delivered_below_threshold", "accepted")
    value = (not right) if known else None
    rewrite(path, set_column(name, value))
    problems = problems_of(story.run)
    assert list(problems) == ["flags"]
    assert f"task 't00': {name} is {value}, expected what its numbers" in problems["flags"]


def test_values_that_no_row_has_are_found(story: Story) -> None:
    path = story.commit(story.ids)
    for name, value in (("status", "done"), ("status", None), ("preset", None), ("seed", None)):
        saved = path.read_bytes()
        rewrite(path, set_column(name, value))
        assert f"{name} is {value!r}" in problems_of(story.run)["values"]
        path.write_bytes(saved)
    assert "quarantined" in STATUSES


def png_of_mode(mode: str, **options: Any) -> bytes:
    file = io.BytesIO()
    Image.new(mode, (8, 8)).save(file, options.pop("format", "PNG"), **options)
    return file.getvalue()


def test_a_texture_is_a_whole_png_with_8_bits(make_png: Callable[[str], bytes]) -> None:
    good = make_png("a")
    assert find_png_problem(good, 8, 8) == ""
    for mode in ("RGBA", "L", "P", "1", "I;16"):
        assert "expected RGB with 8 bits" in find_png_problem(png_of_mode(mode), 8, 8)
    for data in (b"", b"text", png_of_mode("RGB", format="JPEG"), good[:-20], good[:60]):
        assert "no whole PNG" in find_png_problem(data, 8, 8)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_changed_byte_of_a_png_is_found(data: st.DataObject) -> None:
    good = png_of_mode("RGB")
    index = data.draw(st.integers(0, len(good) - 1))
    flip = data.draw(st.integers(1, 255))
    changed = bytearray(good)
    changed[index] ^= flip
    end = len(good) - 12
    if index < end:  # after the last chunk of pixels nothing is of use
        assert find_png_problem(bytes(changed), 8, 8) != ""
    else:
        find_png_problem(bytes(changed), 8, 8)


def test_sources_that_are_gone_are_no_problem_and_changed_ones_are(finished: Story) -> None:
    (finished.root / "images/t00.jpg").unlink()
    check = checks_of(finished.run)["exemplars"]
    assert check.ok
    assert "9 sources read; not checked: 1 source cannot be read here" in check.found
    (finished.root / "images/t01.jpg").write_bytes(b"another picture")
    assert "'images/t01.jpg': sha256 is" in problems_of(finished.run)["exemplars"]
    shutil.rmtree(finished.root)
    check = checks_of(finished.run)["exemplars"]
    assert check.ok
    assert "not checked: 10 sources" in check.found


def test_sources_outside_the_root_are_read_where_the_run_did(finished: Story) -> None:
    outside = finished.root.parent / "outside"
    (finished.root / "images").rename(outside)
    (finished.root / "images").symlink_to(outside)
    assert "not checked: 10 sources" in checks_of(finished.run)["exemplars"].found
    config = {"allow_outside_root": True, "max_pixels": 100}
    write_run_record(finished.run, replace(finished.record, config=config))
    assert checks_of(finished.run)["exemplars"].found == "10 sources read"


def test_one_source_cannot_have_been_two_files(story: Story) -> None:
    story.commit(story.ids[:9])
    story.commit(story.ids[9:], path="images/t00.jpg")
    assert "made from 2 different files" in problems_of(story.run)["exemplars"]


def test_without_images_none_is_opened(finished: Story) -> None:
    (finished.root / "images/t01.jpg").write_bytes(b"another picture")
    checks = checks_of(finished.run, images=False)
    assert checks["images"].found == checks["exemplars"].found == "not checked: --no-images"
    assert all(check.ok for check in checks.values())


@pytest.mark.parametrize(
    "column", ["image.bytes", "seconds", "task_id", "loss_curve.list.element.loss"]
)
@pytest.mark.parametrize("compacted", [False, True])
def test_one_flipped_bit_is_found_and_the_tasks_are_done_again(
    story: Story, column: str, compacted: bool
) -> None:
    path = story.commit(story.ids, seconds=1.5)
    if compacted:
        (path,) = story.finalize(rows_per_file=99)
    flip_bit(path, column)
    problems = problems_of(story.run)
    assert f"{path.parent.name}/{path.name}: " in problems["files"]
    assert "CRC checksum verification failed" in problems["files"]
    assert "task 't00' has no row" in problems["tasks"]
    path.rename(story.run.path / "aside")
    story.commit(story.ids, finished_at=datetime(2026, 1, 3, tzinfo=UTC))
    story.finalize()
    assert problems_of(story.run) == {}


def flip_bit(path: Path, name: str) -> None:
    """Change one bit in the last data page of a column."""
    group = pq.read_metadata(path).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    (column,) = [column for column in columns if column.path_in_schema == name]
    start = column.dictionary_page_offset or column.data_page_offset
    data = bytearray(path.read_bytes())
    data[start + column.total_compressed_size - 1] ^= 1
    path.write_bytes(data)


def test_a_footer_whose_names_are_no_text_is_a_damaged_file(finished: Story) -> None:
    path = sorted(finished.run.textures.glob("*.parquet"))[0]
    data = path.read_bytes()
    footer = len(data) - 8 - int.from_bytes(data[-8:-4], "little")
    name = data.index(b"task_id", footer)
    path.write_bytes(data[:name] + b"\xe9" + data[name + 1 :])
    assert path.name in problems_of(finished.run)["files"]


@settings(max_examples=60, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(where=st.floats(0, 1, exclude_max=True), flip=st.integers(1, 255), cut=st.booleans())
def test_no_change_of_a_file_makes_it_fail(
    finished: Story, where: float, flip: int, cut: bool
) -> None:
    path = sorted(finished.run.textures.glob("*.parquet"))[0]
    good = path.read_bytes()
    changed = bytearray(good)
    index = int(where * len(good))
    changed[index] ^= flip
    path.write_bytes(changed[:index] if cut else changed)
    try:
        problems = problems_of(finished.run)
        assert not cut or "files" in problems
    finally:
        path.write_bytes(good)


def test_a_success_that_is_not_true_is_found_and_mended(finished: Story) -> None:
    run = finished.run
    run.success.write_text('{"tasks": 9}')
    assert "says {'tasks': 9}, there are rows of 10 tasks" in problems_of(run)["_SUCCESS"]
    for text in ("", "[]", "{"):
        run.success.write_text(text)
        assert list(problems_of(run)) == ["_SUCCESS"]
    finished.finalize()
    assert problems_of(run) == {}
    write_tasks(run, pa.table({"task_id": [*finished.ids, "new"]}))
    problems = problems_of(run)
    assert problems["_SUCCESS"] == "1 task of the manifest without a row"
    assert problems["tasks"] == "task 'new' has no row"


def test_textures_that_hold_a_task_twice_or_unsorted_are_found_and_mended(
    finished: Story,
) -> None:
    run = finished.run
    first = min(run.textures.iterdir())
    shutil.copy(first, run.textures / "part-99999-copy.parquet")
    problems = problems_of(run)
    assert "task 't04' has 2 rows in textures/" in problems["textures"]
    assert problems["metrics.parquet"] == "another number of rows than textures/"
    finished.finalize()
    assert problems_of(run) == {}
    min(run.textures.iterdir()).rename(run.textures / "part-99999.parquet")
    assert "not sorted" in problems_of(run)["textures"]
    finished.finalize()
    assert problems_of(run) == {}


def test_metrics_that_are_not_those_of_the_textures_are_found_and_mended(finished: Story) -> None:
    run = finished.run
    changes: list[tuple[Callable[[pa.Table], pa.Table], str]] = [
        (set_column("float_loss", 3.0), "columns ['float_loss'] differ from textures/"),
        (lambda table: table.slice(1), "another number of rows than textures/"),
        (lambda table: table.drop_columns(["error"]), "columns differ"),
    ]
    for change, text in changes:
        rewrite(run.metrics, change)
        problems = problems_of(run)
        assert list(problems) == ["metrics.parquet"]
        assert text in problems["metrics.parquet"]
        run.metrics.unlink()
        assert list(problems_of(run)) == ["metrics.parquet"]
        finished.finalize()
        assert problems_of(run) == {}


def test_numbers_that_are_not_numbers_are_equal_in_the_metrics(story: Story) -> None:
    story.commit(story.ids, layout_correlation=math.nan)
    story.finalize()
    assert problems_of(story.run) == {}


def test_a_run_that_goes_on_is_no_problem(finished: Story) -> None:
    run = finished.run
    finished.ids.append("new")
    write_tasks(run, pa.table({"task_id": finished.ids}))
    finished.commit(finished.ids[:1], attempts=2)
    (run.shards / "_tmp-part-0.parquet.1-aa.tmp").write_bytes(b"PAR1")
    with hold_run(run):
        checks = checks_of(run)
        assert all(check.ok for check in checks.values())
        assert f"process {os.getpid()} on " in checks["process"].found
        assert "1 still to come; 1 superseded row" in checks["tasks"].found
        assert "1 temporary file of writers at work" in checks["folders"].found
        run.metrics.unlink()
        assert checks_of(run)["metrics.parquet"].ok
    assert set(problems_of(run)) == {"tasks", "_SUCCESS", "metrics.parquet"}
    found = checks_of(run)["folders"].found
    assert "1 temporary file of dead writers: the next run removes them" in found


def test_beside_a_process_that_commits_and_finalizes_there_is_no_problem(story: Story) -> None:
    run = story.run
    ended = threading.Event()

    def work() -> None:
        with hold_run(run):
            for number in range(1, 1000):
                story.commit(story.ids[:5], attempts=number)
                story.commit(story.ids[5:], attempts=number)
                story.finalize()
                if ended.wait(0.1):
                    return

    thread = threading.Thread(target=work)
    thread.start()
    try:
        found = [problems_of(run, images=False) for _ in range(5)]
    finally:
        ended.set()
        thread.join()
    # Only before the thread has the lock is a missing row one that nobody is about to write.
    assert [problems for problems in found[1:] if problems] == []
    assert problems_of(run) == {}


def test_attempts_and_checkpoints_are_looked_at(finished: Story) -> None:
    run = finished.run
    attempts = AttemptFile(run, None)
    attempts.begin({"t00": 2})
    for task in ("t00", "new"):
        metadata = {"some_key": json.dumps({"task_id": task})}
        save_file({"image": np.zeros(2)}, run.checkpoints / f"{task}.safetensors", metadata)
    checks = checks_of(run)
    assert checks["attempts"].found == "1 task begun without a row"
    assert checks["checkpoints"].found == "2 checkpoints, 1 of tasks that have rows already"
    assert all(check.ok for check in checks.values())
    (run.attempts / "x.json").write_text("{")
    (run.checkpoints / "x.safetensors").write_bytes(b"no checkpoint")
    save_file({"image": np.zeros(2)}, run.checkpoints / "y.safetensors")
    problems = problems_of(run)
    assert problems["attempts"].startswith("attempts/x.json: no list of attempts")
    assert "checkpoints/x.safetensors: no checkpoint" in problems["checkpoints"]
    assert "checkpoints/y.safetensors: no checkpoint" in problems["checkpoints"]


def test_foreign_files_are_named_and_in_textures_a_problem(finished: Story) -> None:
    run = finished.run
    for folder in (run.path, run.shards, run.attempts, run.checkpoints):
        (folder / "notes.txt").write_text("notes")
    (run.textures / "_SUCCESS").write_text("")
    (run.path / "part-0.parquet.damaged").write_text("")
    check = checks_of(run)["folders"]
    assert check.ok
    for name in ("notes.txt", "shards/notes.txt", "attempts/notes.txt", "checkpoints/notes.txt"):
        assert name in check.found
    assert "put aside by a finalize: part-0.parquet.damaged" in check.found
    (run.textures / "notes.txt").write_text("notes")
    (run.textures / "more").mkdir()
    assert problems_of(run) == {
        "folders": "textures/more: not of the run\ntextures/notes.txt: not of the run"
    }


def break_folder_as_file(run: RunDirectory) -> None:
    shutil.rmtree(run.textures)
    run.textures.write_text("no folder")


def break_links(run: RunDirectory) -> None:
    (run.shards / "part-link.parquet").symlink_to("nowhere")
    (run.textures / "part-link.parquet").symlink_to("nowhere")


DAMAGES: dict[str, tuple[Callable[[RunDirectory], Any], str]] = {
    "run.json empty": (lambda run: run.run_json.write_bytes(b""), "run.json"),
    "run.json a list": (lambda run: run.run_json.write_text("[1]"), "run.json"),
    "run.json binary": (lambda run: run.run_json.write_bytes(b"\xff\xfe\x00"), "run.json"),
    "run.json gone": (lambda run: run.run_json.unlink(), "run.json"),
    "tasks text": (lambda run: run.tasks.write_text("text"), "tasks.parquet"),
    "tasks gone": (lambda run: run.tasks.unlink(), "tasks.parquet"),
    "tasks foreign": (
        lambda run: pq.write_table(pa.table({"a": [1]}), run.tasks),
        "tasks.parquet",
    ),
    "tasks twice": (
        lambda run: write_tasks(run, pa.table({"task_id": ["a", "a"]})),
        "tasks.parquet",
    ),
    "textures a file": (break_folder_as_file, "folders"),
    "links to nothing": (break_links, "files"),
    "metrics empty": (lambda run: run.metrics.write_bytes(b""), "metrics.parquet"),
    "lock a folder": (lambda run: as_folder(run.lock), ""),
    "session broken": (lambda run: run.session.write_text("{"), ""),
}


def as_folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_damage_makes_it_fail(finished: Story, damage: str) -> None:
    spoil, check = DAMAGES[damage]
    spoil(finished.run)
    problems = problems_of(finished.run)
    assert check in problems if check else problems == {}


FILES = ("run_json", "tasks", "metrics", "success", "pending", "log", "session", "lock")


@pytest.mark.parametrize("name", FILES)
def test_a_folder_where_a_file_should_be_is_no_failure(finished: Story, name: str) -> None:
    path: Path = getattr(finished.run, name)
    as_folder(path)
    problems = problems_of(finished.run)
    expected = {"run_json": "run.json", "tasks": "tasks.parquet", "metrics": "metrics.parquet"}
    expected["success"] = "_SUCCESS"
    assert set(problems) == ({expected[name]} if name in expected else set())


def test_bad_files_in_every_folder_are_named(finished: Story) -> None:
    run = finished.run
    whole = sorted(run.textures.glob("*.parquet"))[0].read_bytes()
    for folder in (run.shards, run.textures, run.attempts, run.checkpoints):
        for suffix in (".parquet", ".json", ".safetensors"):
            (folder / f"empty{suffix}").write_bytes(b"")
            (folder / f"cut{suffix}").write_bytes(whole[: len(whole) // 2])
            (folder / f"folder{suffix}").mkdir()
    problems = problems_of(run)
    for name in ("empty", "cut", "folder"):
        assert f"shards/{name}.parquet" in problems["files"]
        assert f"textures/{name}.parquet" in problems["files"]
        assert f"attempts/{name}.json" in problems["attempts"]
        assert f"checkpoints/{name}.safetensors" in problems["checkpoints"]
        assert f"textures/{name}.json" in problems["folders"]
    assert "attempts/cut.parquet" in checks_of(run)["folders"].found


def test_a_folder_that_may_not_be_read_is_named(
    finished: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path == finished.run.checkpoints:
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    problems = problems_of(finished.run)
    assert list(problems) == ["folders"]
    assert problems["folders"].startswith("checkpoints: cannot be listed: [Errno 13]")


def test_a_record_without_what_is_compared_is_named(finished: Story) -> None:
    record = finished.record
    wrong: list[dict[str, Any]] = [
        {"identity": {"size": 8}},
        {"identity": []},
        {"config": None},
        {"manifest": 3},
        {"weights_sha256": None},
    ]
    for values in wrong:
        write_run_record(finished.run, replace(record, **values))
        assert list(problems_of(finished.run)) == ["run.json"]


def test_neither_ray_nor_torch_is_imported(finished: Story) -> None:
    code = (
        "import sys; from pathlib import Path; from pipeline.cli.verify import verify; "
        f"print(verify(Path({str(finished.run.path)!r}), images=False)); "
        "sys.exit(bool({'ray', 'torch'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_flags_of_the_story_are_those_of_the_schema(story: Story) -> None:
    table = story.table(story.ids)
    assert compute_flags(table).equals(table)
    assert table["below_threshold"].to_pylist() == [True] * 10
