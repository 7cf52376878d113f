import hashlib
from itertools import product

import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import tasks
from pipeline.tasks import BLEND_FIELDS, TASK_COLUMNS, expand_tasks

IDS = st.lists(st.text(st.characters(codec="utf-8"), min_size=1), unique=True, max_size=6)


def manifest(ids: list[str], **columns: list[object]) -> pa.Table:
    return pa.table(
        {
            "note": pa.array([f"note of {name}" for name in ids], pa.string()),
            "exemplar_id": pa.array(ids, pa.string()),
            "path": pa.array([f"{name}.png" for name in ids], pa.string()),
            **columns,
        }
    )


@given(
    ids=IDS,
    crops=st.integers(1, 3),
    variations=st.integers(1, 3),
    seed=st.integers(-(2**70), 2**70),
)
def test_tasks_are_the_ordered_product(ids, crops, variations, seed):
    rows = expand_tasks(manifest(ids), crops=crops, variations=variations, seed=seed).to_pylist()

    expected = []
    for name, crop, variation in product(ids, range(crops), range(variations)):
        task_id = f"{name}-c{crop}-v{variation}"
        digest = hashlib.sha256(f"{seed}:{task_id}".encode()).hexdigest()
        expected.append(
            {
                "task_id": task_id,
                "exemplar_id": name,
                "path": f"{name}.png",
                "category": None,
                "split": None,
                "crop": crop,
                "variation": variation,
                "seed": int(digest[:16], 16) // 2,
                **{field.name: None for field in BLEND_FIELDS},
                "note": f"note of {name}",
            }
        )
    assert rows == expected
    assert len({row["task_id"] for row in rows}) == len(rows)
    assert all(0 <= row["seed"] < 2**63 for row in rows)


def test_schema_and_column_order():
    table = manifest(["a"], sha256=["0"], width=[3], category=["stone"], height=[4], depth=[0.5])
    result = expand_tasks(table, crops=1, variations=1, seed=0)
    assert result.column_names == [*TASK_COLUMNS, "note", "sha256", "depth"]
    assert [result.schema.field(name).type for name in ("crop", "variation", "seed")] == [
        pa.int32(),
        pa.int32(),
        pa.int64(),
    ]
    assert result["category"].to_pylist() == ["stone"]
    assert result["split"].type == pa.string()


def test_slices_join_without_a_seam(monkeypatch):
    table = manifest(list("abcdefg"))
    whole = expand_tasks(table, crops=2, variations=2, seed=1)
    monkeypatch.setattr(tasks, "BATCH_ROWS", 12)
    assert expand_tasks(table, crops=2, variations=2, seed=1).equals(whole)


def test_extending_a_run_keeps_its_tasks():
    few = expand_tasks(manifest(["a", "b"]), crops=1, variations=1, seed=5).to_pylist()
    many = expand_tasks(manifest(["b", "c", "a"]), crops=2, variations=3, seed=5).to_pylist()
    assert all(task in many for task in few)


def test_a_seed_is_pinned():
    # sha256("0:a-c0-v0") begins with these 16 digits; halved. Stored runs depend on it.
    seed = expand_tasks(manifest(["a"]), crops=1, variations=1, seed=0)["seed"][0].as_py()
    assert seed == 0x79A532D0913E57DB >> 1


@pytest.mark.parametrize("name", ["task_id", "crop", "variation", "seed"])
def test_columns_of_tasks_are_taken(name):
    with pytest.raises(ValueError, match=name):
        expand_tasks(manifest(["a"], **{name: [1]}), crops=1, variations=1, seed=0)


@pytest.mark.parametrize("counts", [{"crops": 0}, {"variations": 0}])
def test_counts_start_at_one(counts):
    with pytest.raises(ValueError, match="0: expected at least 1"):
        expand_tasks(manifest(["a"]), **{"crops": 1, "variations": 1, "seed": 0, **counts})


def test_required_columns():
    with pytest.raises(ValueError, match=r"\['path'\] missing"):
        expand_tasks(pa.table({"exemplar_id": ["a"]}), crops=1, variations=1, seed=0)
