import hashlib
import os
import re
import shlex
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from pipeline.cli.manifest import app
from pipeline.manifest import (
    ManifestError,
    demo_manifest,
    dtd_manifest,
    folder_manifest,
    load_manifest,
    relocate_paths,
    write_manifest,
)
from pipeline.reading import read_image_bytes
from texsynth.decoding import load_image

CELLS = st.text(st.characters(codec="utf-8"), min_size=1) | st.sampled_from(
    [
        '"',
        "a,b",
        "two\nlines",
        "two\r\nlines",
        "NA",
        "null",
        "001",
        " padded ",
        "é\u2028😀",
        "\ufeff",
    ]
)


def write_text(folder: Path, text: str | bytes) -> Path:
    path = folder / "manifest.csv"
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    return path


def problems_of(path: Path, **options: object) -> list[str]:
    with pytest.raises(ManifestError) as caught:
        load_manifest(path, **options)
    return [line.strip() for line in str(caught.value).splitlines()[1:]]


def save_image(path: Path, size: tuple[int, int] = (7, 5), **options: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), np.uint8)
    Image.fromarray(pixels).save(path, **options)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
@given(cells=st.lists(st.tuples(CELLS, CELLS | st.none(), CELLS | st.none()), min_size=1))
def test_round_trip(suffix, cells):
    table = pa.table(
        {
            "exemplar_id": pa.array([f"{row:03}" for row in range(len(cells))]),
            "path": pa.array([f"x://y/{path}" for path, _, _ in cells]),
            "category": pa.array([category for _, category, _ in cells], pa.string()),
            "width": pa.array(range(len(cells)), pa.int32()),
            'remark, "long"' if suffix == ".parquet" else "remark, long": pa.array(
                [remark for _, _, remark in cells], pa.string()
            ),
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"m{suffix}")
        write_manifest(table, path)
        assert load_manifest(path, allow_outside_root=True).table.equals(table)
        assert [file.name for file in Path(folder).iterdir()] == [path.name]


def test_a_csv_cell_is_text(tmp_path):
    path = write_text(
        tmp_path,
        "\ufeffexemplar_id,path,category,split,split_2,width,height,sha256,roughness\r\n"
        f"001,a.png,007,,1,640,,{'0' * 64},1.50\r\n"
        'NA,b.png,NA,null,"",,480,,nan\r\n',
    )
    table = load_manifest(path).table
    assert table.to_pydict() == {
        "exemplar_id": ["001", "NA"],
        "path": ["a.png", "b.png"],
        "category": ["007", "NA"],
        "split": [None, "null"],
        "split_2": ["1", None],
        "width": [640, None],
        "height": [None, 480],
        "sha256": ["0" * 64, None],
        "roughness": ["1.50", "nan"],
    }
    assert table.schema.field("width").type == pa.int32()


def test_all_problems_at_once_with_row_numbers(tmp_path):
    path = write_text(
        tmp_path,
        "exemplar_id,path,sha256,width,lanes\n"
        "a,a.png,,,\n"  # 1
        "b\n"  # 2
        "\n"  # not counted
        '"two\nlines",b.png,,,\n'  # 3
        "c,,,,\n"  # 4
        ",d.png,,,\n"  # 5
        "a,e.png,,,\n"  # 6
        "d,/abs.png,,,\n"  # 7
        "e,x/../../up.png,,,\n"  # 8
        "f/g,x/../fine..png,,-3,\n"  # 9
        "h,s3://bucket/../../any.png,ABC,5,\n"  # 10
        f"{'é' * 101},i.png,,,\n",  # 11
    )
    before = sorted(tmp_path.iterdir())
    found = problems_of(path, reserved=["lanes", "category"], root=tmp_path / "nowhere")
    expected = [
        "row 2: 1 fields, expected 5",
        "column 'lanes': rows of the output",
        "row 9: width '-3': expected a whole number",
        "row 5: exemplar_id is empty",
        r"row 3: exemplar_id 'two\nlines': expected no slashes",
        "row 9: exemplar_id 'f/g': expected no slashes",
        "row 11: exemplar_id 'éé",
        "row 6: exemplar_id 'a' is taken by row 1",
        "row 4: path is empty",
        "row 7: path '/abs.png' is absolute",
        "row 8: path 'x/../../up.png' leaves the root",
        "row 10: path 's3://bucket/../../any.png' is a URI",
        "row 10: sha256 ABC: expected 64",
        f"root '{tmp_path / 'nowhere'}' is not a folder",
    ]
    assert [line[: len(start)] for line, start in zip(found, expected, strict=True)] == expected
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "is not readable csv"),
        ("exemplar_id,path\n", "no rows"),
        ("id,file\na,b\n", "column 'exemplar_id' is missing\n  column 'path' is missing"),
        ("exemplar_id,path,path\na,b,c\n", "column 'path' occurs more than once"),
        ("exemplar_id,path, \na,b,c\n", "column 3 has no name"),
        (b"exemplar_id,path\n\xff,b\n", "is not readable csv: 'utf-8' codec can't decode"),
        (b"exemplar_id,path\na,b\n\xff\n", "is not readable csv: 'utf-8' codec can't decode"),
        (b"PAR1\x00\x01\x02", "is not readable csv|is missing"),
    ],
)
def test_unusable_csv(tmp_path, text, problem):
    with pytest.raises(ManifestError, match=problem):
        load_manifest(write_text(tmp_path, text))


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("m.txt", b"exemplar_id,path\n", "suffix '.txt', expected .csv or .parquet"),
        ("m.parquet", b"exemplar_id,path\n", "is not readable parquet"),
        ("m.parquet", b"", "is not readable parquet"),
        ("absent.csv", None, "no such file"),
    ],
)
def test_foreign_files(tmp_path, name, content, problem):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(ManifestError, match=problem):
        load_manifest(tmp_path / name)


def test_many_bad_rows_make_a_short_message(tmp_path):
    path = write_text(tmp_path, "exemplar_id,path\n" + "same,p.png\n" * 1000)
    found = problems_of(path)
    assert found[0] == "row 2: exemplar_id 'same' is taken by row 1"
    assert found[-1] == "and 979 more rows like the last"
    assert len(found) == 21


def test_rows_have_the_same_numbers_however_they_are_read(tmp_path, monkeypatch):
    rows = [f"x{number:04d},{'d' * 40}/{number}.png\n" for number in range(1000)]
    rows[300] = rows[301] = "short\n"
    rows[700] = f'"two\nlines{"," * 9}",b.png\n'
    rows[999] = rows[10]
    path = write_text(tmp_path, "exemplar_id,path\n" + "".join(rows))
    whole = problems_of(path)
    assert [line.split(":")[0] for line in whole] == ["row 301", "row 302", "row 701", "row 1000"]
    assert whole[-1] == "row 1000: exemplar_id 'x0010' is taken by row 11"
    monkeypatch.setattr("pipeline.manifest.reader.CSV_BLOCK_BYTES", 1000)
    assert problems_of(path) == whole
    table = pa.table({"exemplar_id": ["a", "b", "a/", "c", "b"], "path": ["p"] * 5})
    pa.parquet.write_table(table, tmp_path / "m.parquet")
    whole = problems_of(tmp_path / "m.parquet")
    assert [line.split(":")[0] for line in whole] == ["row 3", "row 5"]
    monkeypatch.setattr("pipeline.table_stream.BATCH_ROWS", 2)
    monkeypatch.setattr("pipeline.distinct.BATCH_ROWS", 2)
    assert problems_of(tmp_path / "m.parquet") == whole


def test_bad_rows_of_many_batches_make_a_short_message_too(tmp_path, monkeypatch):
    monkeypatch.setattr("pipeline.manifest.reader.CSV_BLOCK_BYTES", 1000)
    path = write_text(tmp_path, "exemplar_id,path,width\n" + "a/b,p.png,x\n" * 1000)
    found = problems_of(path)
    kinds = (found[:21], found[21:42], found[42:])
    assert [lines[-1] for lines in kinds] == [
        "and 980 more rows like the last",
        "and 980 more rows like the last",
        "and 979 more rows like the last",
    ]
    assert [lines[0] for lines in kinds] == [
        "row 1: width 'x': expected a whole number of px",
        "row 1: exemplar_id 'a/b': expected no slashes, no control characters and no white space "
        "at its ends, so that it can be part of a file name",
        "row 2: exemplar_id 'a/b' is taken by row 1",
    ]


def test_a_manifest_that_changes_after_it_was_checked_is_not_read_on(tmp_path):
    path = write_text(tmp_path, "exemplar_id,path\na,a.png\n")
    manifest = load_manifest(path)
    assert manifest.stream.read(["path"])["path"].to_pylist() == ["a.png"]
    write_text(tmp_path, "exemplar_id,path\na,../../etc/passwd\n")
    with pytest.raises(ManifestError, match="was changed while it was read"):
        manifest.stream.read()


def test_repeated_ids_are_found_across_chunks(tmp_path):
    parts = [pa.table({"exemplar_id": ids, "path": ids}) for ids in (["a", "b"], ["c", "b"])]
    pa.parquet.write_table(pa.concat_tables(parts), tmp_path / "m.parquet", row_group_size=2)
    assert problems_of(tmp_path / "m.parquet") == ["row 4: exemplar_id 'b' is taken by row 2"]


def test_parquet_from_pandas(tmp_path):
    frame = pd.DataFrame(
        {"exemplar_id": ["a", "b"], "path": ["a.png", "b.png"], "width": [3, None], "depth": [1, 2]}
    )
    frame["category"] = pd.Categorical(["stone", ""])
    frame.to_parquet(tmp_path / "m.parquet")
    table = load_manifest(tmp_path / "m.parquet").table
    assert table["category"].to_pylist() == ["stone", None]
    assert table["width"].to_pylist() == [3, None]
    assert table.schema.field("depth").type == pa.int64()
    assert not table.schema.metadata


def test_parquet_types(tmp_path):
    table = pa.table({"exemplar_id": [1, 2], "path": ["a", "b"], "width": [1.5, 2.0]})
    pa.parquet.write_table(table, tmp_path / "m.parquet")
    found = problems_of(tmp_path / "m.parquet")
    assert found[0] == "column 'exemplar_id' has type int64, expected text"
    assert found[1].startswith("column 'width' has type double, expected whole numbers")


def test_root(tmp_path, monkeypatch):
    path = write_text(tmp_path, "exemplar_id,path\na,a.png\nb,b.png\n")
    monkeypatch.chdir(tmp_path)
    assert load_manifest("manifest.csv").root == str(tmp_path)
    assert load_manifest(path, root="s3://bucket/x").root == "s3://bucket/x"


def test_a_table_that_does_not_fit_leaves_nothing(tmp_path):
    with pytest.raises(ManifestError, match="cannot be written"):
        write_manifest(pa.table({"exemplar_id": [["nested"]]}), tmp_path / "m.csv")
    with pytest.raises(ManifestError, match=r"suffix '\.json'"):
        write_manifest(pa.table({"exemplar_id": ["a"]}), tmp_path / "m.json")
    assert list(tmp_path.iterdir()) == []


def test_folder_lists_every_image_and_only_images(tmp_path):
    save_image(tmp_path / "top.png")
    save_image(tmp_path / "stone/wet/a.JPG", format="JPEG")
    save_image(tmp_path / "stone/same.png", size=(4, 9))
    save_image(tmp_path / "stone/same.jpg")
    save_image(tmp_path / "stone_same.png")
    save_image(tmp_path / ".cache/hidden.png")
    save_image(tmp_path / "stone/.hidden.png")
    (tmp_path / "notes.txt").write_text("no image")
    (tmp_path / "stone/empty.png").touch()
    (tmp_path / "stone/short.png").write_bytes((tmp_path / "top.png").read_bytes()[:60])
    table = folder_manifest(tmp_path)
    rows = {row["path"]: row for row in table.to_pylist()}
    assert {path: row["exemplar_id"] for path, row in rows.items()} == {
        "stone/empty.png": "stone_empty",
        "stone/same.jpg": "stone_same",
        "stone/same.png": "stone_same-2",
        "stone/short.png": "stone_short",
        "stone/wet/a.JPG": "stone_wet_a",
        "stone_same.png": "stone_same-3",
        "top.png": "top",
    }
    assert list(rows) == sorted(rows)
    assert {path for path, row in rows.items() if row["width"] is None} == {
        "stone/empty.png",
        "stone/short.png",
    }
    assert rows["top.png"]["category"] is None
    assert rows["stone/wet/a.JPG"]["category"] == "stone"
    assert (rows["stone/same.png"]["width"], rows["stone/same.png"]["height"]) == (4, 9)
    top = (tmp_path / "top.png").read_bytes()
    assert rows["top.png"]["sha256"] == hashlib.sha256(top).hexdigest()
    write_manifest(table, tmp_path / "m.csv")
    assert load_manifest(tmp_path / "m.csv").table.equals(table)


def test_folder_makes_usable_ids_of_any_file_name(tmp_path):
    for name in ("line\nbreak.png", " spaced .png", "back\\slash.png", f"{'é' * 120}.png"):
        save_image(tmp_path / name)
    write_manifest(folder_manifest(tmp_path), tmp_path / "m.csv")
    ids = load_manifest(tmp_path / "m.csv").table["exemplar_id"].to_pylist()
    assert ids[:3] == ["_spaced_", "back_slash", "line_break"]


def test_folder_sizes_are_upright(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    save_image(tmp_path / "turned.jpg", size=(8, 4), exif=exif)
    table = folder_manifest(tmp_path)
    assert (table["width"][0].as_py(), table["height"][0].as_py()) == (4, 8)


def test_folder_without_images(tmp_path):
    with pytest.raises(ManifestError, match="no images"):
        folder_manifest(tmp_path)
    with pytest.raises(ManifestError, match="is not a folder"):
        folder_manifest(tmp_path / "absent")


def make_dtd(root: Path) -> None:
    """Two classes; lists of the first and third partition only."""
    data = root / "dtd/dtd"
    for name in ("banded_1", "banded_2", "woven_1", "woven_2"):
        save_image(data / "images" / name.split("_")[0] / f"{name}.jpg")
    (data / "labels").mkdir()
    banded, woven = "banded/banded_{}.jpg\n", "woven/woven_{}.jpg\n"
    for partition, train, val, test in ((1, "1", "2", "12"), (3, "2", "1", "")):
        lines = {
            "train": banded.format(train),
            "val": banded.format(val),
            "test": "".join(woven.format(number) for number in test),
        }
        for split, text in lines.items():
            (data / f"labels/{split}{partition}.txt").write_text(text)


def test_dtd(tmp_path):
    make_dtd(tmp_path)
    (tmp_path / "dtd/dtd/images/woven/woven_2.jpg").unlink()
    rows = dtd_manifest(tmp_path).to_pylist()
    assert [row["exemplar_id"] for row in rows] == ["banded_1", "banded_2", "woven_1", "woven_2"]
    assert [row["category"] for row in rows] == ["banded", "banded", "woven", "woven"]
    assert [row["split"] for row in rows] == ["train", "val", "test", "test"]
    assert [row["split_1"] for row in rows] == ["train", "val", "test", "test"]
    assert [row["split_2"] for row in rows] == [None] * 4
    assert [row["split_3"] for row in rows] == ["val", "train", None, None]
    assert [row["width"] for row in rows] == [7, 7, 7, None]
    third = dtd_manifest(tmp_path, partition=3, split="train").to_pylist()
    assert [(row["exemplar_id"], row["split"]) for row in third] == [("banded_2", "train")]


def add_joint_labels(root: Path, text: str) -> None:
    (root / "dtd/dtd/labels/labels_joint_anno.txt").write_text(text)


def test_dtd_joint_labels(tmp_path, capsys):
    make_dtd(tmp_path)
    assert "joint_labels" not in dtd_manifest(tmp_path).column_names
    # As in DTD itself, lines end with a blank.
    add_joint_labels(tmp_path, "banded/banded_1.jpg banded \nwoven/woven_2.jpg woven lined \n\n")
    table = dtd_manifest(tmp_path)
    assert table["joint_labels"].to_pylist() == [["banded"], None, None, ["woven", "lined"]]
    for suffix in ("parquet", "csv"):
        out = tmp_path / f"m.{suffix}"
        arguments = ["dtd", "--root", str(tmp_path), "--out", str(out)]
        app(arguments, result_action="return_value")
        said = capsys.readouterr().out
        read = load_manifest(out).table
        assert ("joint_labels is left out" in said) == (suffix == "csv")
        assert ("joint_labels" in read.column_names) == (suffix == "parquet")
        assert read["split_3"].equals(table["split_3"])
    kept = load_manifest(tmp_path / "m.parquet").table["joint_labels"]
    assert kept.equals(table["joint_labels"])
    add_joint_labels(tmp_path, "banded/banded_1.jpg banded\nwoven/woven_2.jpg\n")
    with pytest.raises(ManifestError, match=r"line 2: .*woven_2.jpg', expected a path and cat"):
        dtd_manifest(tmp_path)


def test_dtd_errors(tmp_path):
    with pytest.raises(ManifestError, match=r"expected images in .*dtd/dtd/images"):
        dtd_manifest(tmp_path)
    make_dtd(tmp_path)
    with pytest.raises(ManifestError, match="partition 2, split 'all'"):
        dtd_manifest(tmp_path, partition=2)
    with pytest.raises(ManifestError, match="partition 11"):
        dtd_manifest(tmp_path, partition=11)


@pytest.mark.shared
def test_dtd_subset(shared_path):
    root = shared_path / "data"
    table = dtd_manifest(root, partition=2)
    assert table.num_rows == 120
    assert len(set(table["exemplar_id"].to_pylist())) == 120
    assert len(set(table["category"].to_pylist())) == 10
    assert table["split"].equals(table["split_2"])
    assert all(table[name].null_count == 0 for name in table.column_names)
    parts = [dtd_manifest(root, partition=2, split=split) for split in ("train", "val", "test")]
    assert sorted(p for part in parts for p in part["path"].to_pylist()) == (
        table["path"].to_pylist()
    )


def test_demo_needs_nothing_but_its_folder(tmp_path):
    table = demo_manifest(tmp_path / "images")
    assert table.num_rows >= 5
    in_colour = 0
    for row in table.to_pylist():
        image = load_image(read_image_bytes(row["path"], str(tmp_path / "images")))
        assert image.size == (row["width"], row["height"])
        assert image.width == image.height >= 128
        channels = np.asarray(image, dtype=np.float64)
        in_colour += channels.std(axis=2).mean() > 3
    assert in_colour >= 2


def test_relocate_paths(tmp_path):
    table = pa.table({"exemplar_id": ["a", "b"], "path": ["x/y/a.png", "x/y/z/b.png"]})

    def relocated(root: str, folder: str) -> list[str] | None:
        result = relocate_paths(table, tmp_path / root, tmp_path / folder)
        return None if result is None else result["path"].to_pylist()

    assert relocated("r", "r") == ["x/y/a.png", "x/y/z/b.png"]
    assert relocated("r/s", ".") == ["r/s/x/y/a.png", "r/s/x/y/z/b.png"]
    assert relocated("r", "r/x/y") == ["a.png", "z/b.png"]
    assert relocated("r", "r/x/y/z") is None
    assert relocated("r", "elsewhere") is None


def test_command_line_says_how_to_run(tmp_path, monkeypatch, capsys):
    make_dtd(tmp_path / "my data")
    save_image(tmp_path / "photos/stone/a.png")
    (tmp_path / "photos/stone/b.png").touch()
    monkeypatch.chdir(tmp_path)
    root = "my data"
    commands = {
        "demo --out made/demo.csv": "6 exemplars in 6 categories",
        "folder photos --out photos.parquet": "2 exemplars in 1 category (1 missing or broken)",
        f"dtd --root '{root}' --out lists/d.csv --split test": "2 exemplars in 1 category",
        f"dtd --root '{root}' --partition 3 --out '{root}/dtd/d.csv'": "2 exemplars in 1 category",
    }
    needs_root = []
    for command, count in commands.items():
        app(shlex.split(command), result_action="return_value")
        line = capsys.readouterr().out
        assert line.startswith(f"{count} written to ")
        assert line.count("\n") == 1
        arguments = shlex.split(re.split("next: ", line)[1])
        assert arguments[:2] == ["texsynth", "run"]
        given_root = arguments[arguments.index("--root") + 1] if "--root" in arguments else None
        needs_root.append(given_root)
        manifest = load_manifest(arguments[2], root=given_root)
        for path in manifest.table["path"].to_pylist():
            assert Path(manifest.root, path).is_file()
    assert needs_root == [None, None, root, None]


def test_command_line_names_the_flag_that_links_need(tmp_path, capsys):
    save_image(tmp_path / "store/a.png")
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/a.png").symlink_to(tmp_path / "store/a.png")
    (tmp_path / "link").symlink_to(tmp_path / "store")
    flag = " --allow-outside-root\n"
    for folder, needed in (("photos", True), ("link", False)):
        out = tmp_path / folder / "m.csv"
        app(["folder", str(tmp_path / folder), "--out", str(out)], result_action="return_value")
        assert capsys.readouterr().out.endswith(flag) == needed
        manifest = load_manifest(out)
        (path,) = manifest.table["path"].to_pylist()
        assert read_image_bytes(path, manifest.root, allow_outside_root=needed)


def test_pipes_and_devices_are_no_images_of_a_data_set(tmp_path):
    make_dtd(tmp_path)
    images = tmp_path / "dtd/dtd/images"
    (images / "banded/banded_1.jpg").unlink()
    os.mkfifo(images / "banded/banded_1.jpg")
    (images / "woven/woven_1.jpg").unlink()
    (images / "woven/woven_1.jpg").symlink_to("/dev/zero")
    rows = {row["exemplar_id"]: row for row in dtd_manifest(tmp_path).to_pylist()}
    assert {name for name, row in rows.items() if row["sha256"] is None} == {"banded_1", "woven_1"}


@pytest.mark.parametrize(
    ("path", "root"),
    [
        *[("/etc/passwd", None), ("../a.png", None), ("x/../../a.png", None), ("..\\a.png", None)],
        *[("file:///etc/passwd", None), ("http://host/a.png", None), ("s3://bucket/a.png", None)],
        *[("s3://other/a.png", "s3://bucket"), ("s3://bucket/x/../../a", "s3://bucket/x")],
        *[("s3://bucketeer/a.png", "s3://bucket"), ("%2E%2E/a.png", "s3://bucket/x")],
        *[("a.png?endpoint_override=host", "s3://bucket"), ("/a.png", "s3://bucket")],
    ],
)
def test_paths_outside_the_root_are_refused_unless_allowed(tmp_path, path, root):
    manifest = write_text(tmp_path, f"exemplar_id,path\na,a.png\nb,{path}\n")
    (problem,) = problems_of(manifest, root=root)
    assert problem.startswith(f"row 2: path {path!r} ")
    assert problem.endswith(", expected one below the root, or --allow-outside-root")
    allowed = load_manifest(manifest, root=root, allow_outside_root=True)
    assert allowed.table["path"].to_pylist() == ["a.png", path]


def test_a_uri_as_root_ends_where_paths_begin(tmp_path):
    path = write_text(tmp_path, "exemplar_id,path\na,a.png\nb,s3://bucket/x/b.png\n")
    assert load_manifest(path, root="s3://bucket/x").table.num_rows == 2
    for root in ("s3://bucket?region=eu", "s3://bucket#x"):
        assert "root '" + root in problems_of(path, root=root)[-1]


def test_command_line_refuses_before_it_works(tmp_path):
    with pytest.raises(ManifestError, match=r"suffix '\.txt'"):
        app(["demo", "--out", str(tmp_path / "m.txt")], result_action="return_value")
    assert list(tmp_path.iterdir()) == []
