from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipeline.columns import COLUMNS
from pipeline.flags import FAULTS, RULES
from pipeline.schema import (
    PICTURES,
    RESERVED_COLUMNS,
    SchemaError,
    carried_columns,
    columns_markdown,
    compute_flags,
    metrics_schema,
    row_schema,
    rows_to_table,
)


def test_docs_list_the_columns_of_the_schema() -> None:
    docs = Path(__file__).parents[2] / "docs" / "columns.md"
    assert docs.read_text() == columns_markdown(), "run python -m pipeline.schema > docs/columns.md"
    for column in COLUMNS:
        assert f"| `{column.name}`" in columns_markdown()


def test_column_names_are_distinct() -> None:
    assert len(RESERVED_COLUMNS) == len(COLUMNS) == len(row_schema())


def test_carried_columns_come_last_and_are_found_again() -> None:
    carried = pa.schema([("split_1", pa.string()), ("photographer", pa.string())])
    schema = row_schema(carried)
    assert schema.names[-2:] == ["split_1", "photographer"]
    assert carried_columns(schema) == carried
    assert metrics_schema(carried).names == [n for n in schema.names if n not in PICTURES]


@pytest.mark.parametrize("names", [["seed"], ["note", "note"]])
def test_carried_columns_may_not_collide(names: list[str]) -> None:
    with pytest.raises(SchemaError, match=names[0]):
        row_schema(pa.schema([(name, pa.string()) for name in names]))


def test_a_schema_of_another_version_or_type_is_named() -> None:
    schema = row_schema()
    with pytest.raises(SchemaError, match="version: got None, expected 4"):
        carried_columns(schema.remove_metadata())
    index = schema.get_field_index("seed")
    with pytest.raises(SchemaError, match="got 'seed: string', expected 'seed: int64'"):
        carried_columns(schema.set(index, pa.field("seed", pa.string())))
    with pytest.raises(SchemaError, match=f"column {len(schema) - 1}: got nothing"):
        carried_columns(schema.remove(len(schema) - 1))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"los": 1.0}, "'t': unknown columns .'los'."),
        ({"seed": None}, "'t': .* missing values .'seed'."),
        ({"status": "good"}, "'t': status 'good', expected one of"),
        ({"height": "tall"}, "'t'.*tall"),
        ({"height": 2**40}, "'t'"),
    ],
)
def test_rows_that_do_not_fit_are_refused(
    make_row: Callable[..., dict[str, Any]], values: dict[str, Any], message: str
) -> None:
    with pytest.raises(SchemaError, match=message):
        rows_to_table([make_row("t", **values)], row_schema())


def flags_of(make_table: Callable[..., pa.Table], **numbers: Any) -> dict[str, Any]:
    row: dict[str, Any] = make_table(["t"], **numbers).select(list(RULES)).to_pylist()[0]
    return row


def test_threshold_flags(make_table: Callable[..., pa.Table]) -> None:
    flags = flags_of(make_table, float_loss=1499.9, delivered_loss=1500.0, loss_threshold=1500.0)
    assert (flags["below_threshold"], flags["delivered_below_threshold"]) == (True, False)
    assert flags["accepted"] is False
    without = flags_of(make_table, float_loss=1499.9, delivered_loss=1500.0)
    assert without == dict.fromkeys(RULES) | {"accepted": True}


@pytest.mark.parametrize("fault", FAULTS)
def test_an_accepted_texture_has_no_fault(make_table: Callable[..., pa.Table], fault: str) -> None:
    rules = [{"flag": name, "rule": rule} for name, rule in (RULES | {fault: "true"}).items()]
    assert flags_of(make_table)["accepted"] is True
    assert flags_of(make_table, flag_rules=rules)["accepted"] is False
    assert flags_of(make_table, status="timeout")["accepted"] is False


def test_rows_follow_their_own_rules(make_table: Callable[..., pa.Table]) -> None:
    other = [{"flag": name, "rule": rule} for name, rule in (RULES | {"noisy": "true"}).items()]
    standing = [{"flag": name, "rule": rule} for name, rule in RULES.items()]
    table = pa.concat_tables(
        [make_table(["a"], flag_rules=other), make_table(["b"]), make_table(["c"])]
    )
    again = compute_flags(table)
    assert again["noisy"].to_pylist() == [True, None, None]
    assert again["flag_rules"].to_pylist() == [other, standing, standing]


@pytest.mark.parametrize(
    ("displacement", "layout", "copy"),
    [
        (0.8, 0.2, False),
        (0.5, 0.2, True),
        (0.8, 0.9, True),
        (0.5, 0.9, True),
        (0.6, 0.7, False),
        (None, 0.9, True),
        (None, 0.2, None),
        (0.8, math.nan, False),
        (0.5, math.nan, True),
    ],
)
def test_copy_flag(
    make_table: Callable[..., pa.Table],
    displacement: float | None,
    layout: float | None,
    copy: bool | None,
) -> None:
    flags = flags_of(
        make_table,
        displacement_score=displacement,
        layout_correlation=layout,
        copy_displacement_threshold=0.6,
        copy_layout_threshold=0.7,
        verbatim_share=0.0,
    )
    assert flags["copy"] is copy


def test_flags_are_recomputed_from_the_stored_numbers(make_table: Callable[..., pa.Table]) -> None:
    table = make_table(["a", "b"], float_loss=1.0, loss_threshold=2.0, below_threshold=False)
    assert table["below_threshold"].to_pylist() == [True, True]
    index = table.schema.get_field_index("loss_threshold")
    stricter = table.set_column(index, table.schema.field(index), pa.array([0.5, None]))
    again = compute_flags(stricter)
    assert again["below_threshold"].to_pylist() == [False, None]
    assert again.schema.equals(table.schema, check_metadata=True)


@pytest.fixture
def datasets(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    return pytest.importorskip("datasets")


def test_hugging_face_reads_the_image(
    datasets: Any, make_table: Callable[..., pa.Table], tmp_path: Path
) -> None:
    table = make_table(["a", "b"], loss_threshold=2.0)
    table = pa.concat_tables([table, make_table(["broken"], status="failed")])
    pq.write_table(table, tmp_path / "part.parquet")
    files = str(tmp_path / "*.parquet")
    loaded = datasets.load_dataset(
        "parquet", data_files=files, cache_dir=str(tmp_path / "cache"), split="train"
    )
    assert isinstance(loaded.features["image"], datasets.Image)
    assert loaded.column_names == table.column_names
    assert loaded[0]["image"].size == (8, 8)
    assert loaded[0]["loss_curve"] == [{"evaluations": 1.0, "loss": 9.0, "side": 8}]
    assert loaded[2]["image"] is None
