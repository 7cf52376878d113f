"""A run that is not finalized gives the textures that it would give if it were."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline import StreamedTextures, SyntheticTextures
from pipeline.dealt import load_dealt_manifest
from pipeline.export import FORMS, FormName, export_run
from pipeline.filtering import filter_run
from pipeline.finalize import finalize
from pipeline.parents import load_textures
from pipeline.query import load_metrics
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.selection import Selection, locate_rows
from pipeline.shards import commit_rows

Row = dict[str, Any]
MakeRow = Callable[..., Row]


def layouts(count: int) -> list[bytes]:
    generator = np.random.default_rng(0)
    return [generator.integers(-120, 120, 1024).astype(np.int8).tobytes() for _ in range(count)]


@pytest.fixture
def rows(make_row: MakeRow) -> list[Row]:
    """Five variations of a: 1 and 4 are 0 again, 3 is 2 again by a rule that allows it."""
    first, other = layouts(2)
    made = []
    for variation, layout in enumerate((first, first, other, other, first)):
        made.append(
            make_row(f"a-c0-v{variation}", variation=variation, layout=layout, split="train")
        )
    rules = {"sibling_duplicate": "sibling_distance < -1", "accepted": "NOT sibling_duplicate"}
    lenient = rows_to_table(made[3:4], row_schema()).to_pylist()[0]["flag_rules"]
    made[3]["flag_rules"] = [
        {"flag": one["flag"], "rule": rules.get(one["flag"], one["rule"])} for one in lenient
    ]
    return made


@pytest.fixture
def unfinished(run: RunDirectory, rows: list[Row]) -> RunDirectory:
    """Committed in another order than that of the variations."""
    for row in rows[::-1]:
        commit_rows(run, rows_to_table([row], row_schema()))
    return run


ACCEPTED = ["a-c0-v0", "a-c0-v2", "a-c0-v3"]


def ids(rows: pa.Table) -> list[str]:
    return sorted(rows["task_id"].to_pylist())


def test_duplicates_are_left_out_before_a_finalize_as_after_it(unfinished: RunDirectory) -> None:
    for _ in range(2):
        assert ids(locate_rows(unfinished, Selection())) == ACCEPTED
        assert ids(SyntheticTextures(unfinished).rows) == ACCEPTED
        assert ids(StreamedTextures(unfinished).rows) == ACCEPTED
        assert len(locate_rows(unfinished, Selection(accepted_only=False))) == 5
        textures = load_textures(unfinished).rows
        assert ids(textures.filter(textures["accepted"])) == ACCEPTED
        finalize(unfinished, pa.array([f"a-c0-v{number}" for number in range(5)]))


@pytest.mark.parametrize("form", FORMS)
def test_an_export_is_the_same_before_and_after(
    unfinished: RunDirectory, tmp_path: Path, form: FormName
) -> None:
    assert export_run(unfinished, form, tmp_path / "before", Selection()) == len(ACCEPTED)
    finalize(unfinished, pa.array([f"a-c0-v{number}" for number in range(5)]))
    assert export_run(unfinished, form, tmp_path / "after", Selection()) == len(ACCEPTED)
    manifests = [pd.read_csv(tmp_path / name / "manifest.csv") for name in ("before", "after")]
    pd.testing.assert_frame_equal(*manifests)
    assert sorted(manifests[0]["synthesis_task_id"]) == ACCEPTED


def test_a_texture_that_is_made_again_frees_those_that_were_like_it(
    unfinished: RunDirectory, rows: list[Row]
) -> None:
    finalize(unfinished, pa.array([f"a-c0-v{number}" for number in range(5)]))
    again = rows[0] | {"attempts": 2, "layout": layouts(3)[2]}
    commit_rows(unfinished, rows_to_table([again], row_schema()))
    expected = ["a-c0-v0", "a-c0-v1", "a-c0-v2", "a-c0-v3"]
    assert ids(locate_rows(unfinished, Selection())) == expected
    finalize(unfinished, pa.array([f"a-c0-v{number}" for number in range(5)]))
    metrics = load_metrics(unfinished)
    assert sorted(metrics["task_id"][metrics["accepted"]]) == expected


def test_all_that_filter_keeps_as_accepted_stays_so(
    pictures_run: tuple[RunDirectory, Path],
) -> None:
    run, folder = pictures_run
    stored = pq.read_table(run.textures)
    twice = [row for row in stored.to_pylist() if row["exemplar_id"] == "c"]
    again = [row | {"attempts": 2, "layout": layouts(1)[0]} for row in twice]
    commit_rows(run, rows_to_table(again, stored.schema))
    splits = {"a": "test"} | dict.fromkeys("bcd", "train")
    columns = {"exemplar_id": list(splits), "path": list(splits), "split": list(splits.values())}
    pq.write_table(pa.table(columns), folder / "m.parquet")
    dealt = load_dealt_manifest(folder / "m.parquet")
    out = RunDirectory(folder / "out")
    filtered = filter_run(run, out.path, dealt, accepted_only=True)
    metrics = load_metrics(out)
    assert metrics["accepted"].all()
    assert sorted(metrics["task_id"][metrics["exemplar_id"] == "c"]) == ["c-c0-v0"]
    assert filtered.left_out["not accepted"] == 1


@pytest.mark.parametrize("seed", range(4))
def test_whatever_is_committed_the_accepted_ones_are_those_of_a_finalize(
    run: RunDirectory, make_row: MakeRow, seed: int
) -> None:
    """Rows of several exemplars and crops, blends and failures, some finalized, some done again."""
    generator = np.random.default_rng(seed)
    pool = layouts(3)

    def draw(exemplar: int, crop: int, variation: int, attempts: int) -> Row:
        status = generator.choice(["ok", "ok", "ok", "failed"])
        blend = "x9" if generator.random() < 0.3 else None
        kind = generator.choice(["stochastic", "flat"], p=[0.9, 0.1])
        return make_row(
            f"x{exemplar}-c{crop}-v{variation}",
            exemplar_id=f"x{exemplar}",
            category="ab"[exemplar % 2],
            crop=crop,
            variation=variation,
            attempts=attempts,
            status=str(status),
            blend_exemplar_id=blend,
            exemplar_kind=str(kind),
            layout=pool[int(generator.integers(3))] if status == "ok" else None,
        )

    places = [(e, c, v) for e in range(3) for c in range(2) for v in range(5)]
    tasks = pa.array([f"x{e}-c{c}-v{v}" for e, c, v in places])
    first = [draw(*places[index], 1) for index in generator.permutation(len(places))]
    commit_rows(run, rows_to_table(first[:20], row_schema()))
    finalize(run, tasks)
    again = generator.permutation(len(places))[:8]
    commit_rows(run, rows_to_table(first[20:], row_schema()))
    commit_rows(run, rows_to_table([draw(*places[index], 2) for index in again], row_schema()))
    before = ids(locate_rows(run, Selection()))
    finalize(run, tasks)
    metrics = load_metrics(run)
    assert before == sorted(metrics["task_id"][metrics["accepted"]])
    assert before == ids(locate_rows(run, Selection()))
    assert metrics["sibling_duplicate"].sum() > 2
