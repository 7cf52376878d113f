"""Manifests made from DTD, from a folder of images, and from textures in scikit-image's wheel."""

import hashlib
import importlib.resources
import os
import re
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from PIL import Image

from pipeline.manifest.checks import MAX_ID_BYTES, SPLIT_COLUMNS, UNUSABLE_ID
from pipeline.manifest.files import ManifestError
from pipeline.reading import read_image_bytes
from texsynth.decoding import ImageError, image_suffixes, load_image

DTD_SPLITS = ("train", "val", "test")
JOINT_LABELS = "joint_labels"
"""Column of all categories that an image of DTD has been given, its own among them."""
JOINT_LABELS_FILE = Path("dtd/dtd/labels/labels_joint_anno.txt")
# Name: file in skimage/data, and the square (left, upper, right, lower) that is all texture. All
# are CC0 or in the public domain (docstrings of skimage.data); the first three are gray.
DEMO_TEXTURES = {
    "brick": ("brick.png", (0, 0, 512, 512)),
    "grass": ("grass.png", (0, 0, 512, 512)),
    "gravel": ("gravel.png", (0, 0, 512, 512)),
    "stars": ("hubble_deep_field.jpg", (244, 180, 756, 692)),
    "tissue": ("ihc.png", (0, 0, 256, 256)),
    "wood": ("coffee.png", (472, 272, 600, 400)),
}


def dtd_manifest(
    root: str | os.PathLike[str],
    *,
    partition: int = 1,
    split: Literal["train", "val", "test", "all"] = "all",
    download: bool = False,
) -> pa.Table:
    """List images of the Describable Textures Dataset (Cimpoi et al., CVPR 2014).

    Args:
        root: the root that `torchvision.datasets.DTD` takes; the images lie in
            ROOT/dtd/dtd/images. Paths in the table are relative to it.
        partition: one of the ten partitions, 1 to 10; fills the column `split`.
        split: which of its splits to list.
        download: let torchvision fetch the data set if it is not there.

    Returns:
        A manifest, sorted by path. `split_1` to `split_10` are null where the image is in no list
        of that partition; sizes are null where the image is missing or broken. Where the data set
        has `labels_joint_anno.txt`, a column `joint_labels`: list of text, null where the image is
        not in that file.

    Raises:
        ManifestError: no data set in `root`, no lists of that partition, or a line of joint labels
            without any.
    """
    if partition not in range(1, 11) or split not in (*DTD_SPLITS, "all"):
        raise ManifestError(
            f"DTD partition {partition}, split '{split}': expected a partition from 1 to 10 and "
            "one of train, val, test, all"
        )
    root = Path(root)
    partitions = {
        column: _read_dtd_partition(root, number, download=download)
        for number, column in enumerate(SPLIT_COLUMNS, start=1)
    }
    chosen = partitions[f"split_{partition}"]
    paths = sorted(path for path, part in chosen.items() if split in (part, "all"))
    if not paths:
        raise ManifestError(
            f"DTD in '{root}': the lists of partition {partition}, split '{split}', "
            "in dtd/dtd/labels are missing or empty"
        )
    columns: dict[str, Sequence[str | None]] = {
        "exemplar_id": [PurePosixPath(path).stem for path in paths],
        "category": [PurePosixPath(path).parent.name for path in paths],
        "split": [chosen[path] for path in paths],
        **{name: [of_path.get(path) for path in paths] for name, of_path in partitions.items()},
    }
    table = _make_table(root, paths, columns)
    if not (root / JOINT_LABELS_FILE).is_file():
        return table
    labels = _read_joint_labels(root)
    of_path = [labels.get(path) for path in paths]
    return table.append_column(JOINT_LABELS, pa.array(of_path, pa.list_(pa.string())))


def folder_manifest(directory: str | os.PathLike[str]) -> pa.Table:
    """List all image files below a folder, broken ones too (with null sizes).

    Files count as images by their suffix. Hidden files and folders are left out. The category is
    the first subfolder, null for files that lie in `directory` itself; `split` is null. The id is
    the path without its suffix, "/" and what an id cannot have replaced by "_"; "-2", "-3", ... is
    added where that is taken.

    Raises:
        ManifestError: no such folder, no images in it, or a file name that is not Unicode.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ManifestError(f"'{directory}' is not a folder")
    suffixes = image_suffixes()
    paths = sorted(
        path
        for file in directory.rglob("*")
        if file.suffix.lower() in suffixes and file.is_file()
        if not re.search(r"(^|/)\.", path := file.relative_to(directory).as_posix())
    )
    if not paths:
        raise ManifestError(f"no images in '{directory}': no file ends in {sorted(suffixes)}")
    for path in paths:
        if path.encode(errors="replace").decode() != path:
            raise ManifestError(f"file name {path!r} in '{directory}' is not valid Unicode")
    folders = [PurePosixPath(path).parts[:-1] for path in paths]
    columns: dict[str, Sequence[str | None]] = {
        "exemplar_id": _unique_ids(paths),
        "category": [parts[0] if parts else None for parts in folders],
        "split": [None] * len(paths),
    }
    return _make_table(directory, paths, columns)


def demo_manifest(directory: str | os.PathLike[str]) -> pa.Table:
    """Cut textures out of images in scikit-image's wheel into `directory`, and list them.

    Needs no network. Three are gray, three in colour; the paths are relative to `directory`.

    Raises:
        ManifestError: the installed scikit-image has no such images.
    """
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    source = importlib.resources.files("skimage") / "data"
    for name, (file_name, square) in DEMO_TEXTURES.items():
        file = source / file_name
        if not file.is_file():
            raise ManifestError(f"scikit-image has no '{file_name}' for the demo in {source}")
        with file.open("rb") as stream, Image.open(stream) as image:
            image.crop(square).save(directory / f"{name}.png")
    names = list(DEMO_TEXTURES)
    paths = [f"{name}.png" for name in names]
    return _make_table(directory, paths, {"exemplar_id": names, "category": names})


def relocate_paths(
    table: pa.Table, root: str | os.PathLike[str], folder: str | os.PathLike[str]
) -> pa.Table | None:
    """Make paths that are relative to `root` relative to `folder`, without going upwards.

    Returns:
        The table with its new paths, or None if an image does not lie below `folder`.
    """
    root, folder = Path(root).resolve(), Path(folder).resolve()
    paths = table["path"]
    if root.is_relative_to(folder):
        between = root.relative_to(folder).as_posix()
        if between != ".":
            paths = pc.binary_join_element_wise(between, paths, "/")
    elif folder.is_relative_to(root):
        between = f"{folder.relative_to(root).as_posix()}/"
        if not pc.all(pc.starts_with(paths, between)).as_py():
            return None
        paths = pc.utf8_slice_codeunits(paths, len(between))
    else:
        return None
    return table.set_column(table.column_names.index("path"), "path", paths)


def _read_dtd_partition(root: Path, partition: int, *, download: bool) -> dict[str, str]:
    """Return the split of each path; empty if the lists of the partition are not there."""
    from torchvision.datasets import DTD

    split_of_path: dict[str, str] = {}
    for split in DTD_SPLITS:
        try:
            dataset = DTD(root, split=split, partition=partition, download=download)
        except FileNotFoundError:
            continue
        except (RuntimeError, OSError) as error:
            raise ManifestError(
                f"DTD in '{root}': {error}; expected images in '{root / 'dtd/dtd/images'}' "
                "(--download fetches them)"
            ) from error
        for file in dataset._image_files:
            split_of_path[file.relative_to(root).as_posix()] = split
    return split_of_path


def _read_joint_labels(root: Path) -> dict[str, list[str]]:
    """Return the categories of each path; a line has an image and its categories."""
    labels: dict[str, list[str]] = {}
    file = root / JOINT_LABELS_FILE
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"joint labels '{file}' cannot be read: {error}") from error
    for number, line in enumerate(lines, start=1):
        path, *categories = line.split() or [""]
        if path and not categories:
            raise ManifestError(
                f"'{file}', line {number}: {line!r}, expected a path and categories"
            )
        if path:
            labels[f"dtd/dtd/images/{path}"] = categories
    return labels


def _make_table(
    root: Path, paths: Sequence[str], columns: dict[str, Sequence[str | None]]
) -> pa.Table:
    with ThreadPoolExecutor(os.cpu_count()) as threads:
        facts = list(threads.map(partial(_measure_file, str(root)), paths))
    text = {
        "exemplar_id": columns["exemplar_id"],
        "path": paths,
        **columns,
        "sha256": [checksum for checksum, _, _ in facts],
    }
    sizes = {"width": [width for _, width, _ in facts], "height": [h for _, _, h in facts]}
    return pa.table(
        {name: pa.array(values, pa.string()) for name, values in text.items()}
        | {name: pa.array(values, pa.int32()) for name, values in sizes.items()}
    )


def _measure_file(root: str, path: str) -> tuple[str | None, int | None, int | None]:
    """Return checksum, width and height (upright), None where the file does not give them."""
    try:
        data = read_image_bytes(path, root, allow_outside_root=True)
    except ImageError:
        return None, None, None
    checksum = hashlib.sha256(data).hexdigest()
    try:
        return checksum, *load_image(data).size
    except ImageError:
        return checksum, None, None


def _unique_ids(paths: Iterable[str]) -> list[str]:
    taken: set[str] = set()
    ids = []
    for path in paths:
        stem = PurePosixPath(path).with_suffix("").as_posix()
        stem = re.sub(UNUSABLE_ID, "_", stem)
        stem = stem.encode()[: MAX_ID_BYTES - 12].decode(errors="ignore")
        exemplar_id, number = stem, 1
        while exemplar_id in taken:
            number += 1
            exemplar_id = f"{stem}-{number}"
        taken.add(exemplar_id)
        ids.append(exemplar_id)
    return ids
