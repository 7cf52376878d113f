"""The layout of the Describable Textures Dataset, which `torchvision.datasets.DTD(OUT)` reads.

OUT/dtd/dtd/images/CATEGORY/NAME.png, and OUT/dtd/dtd/labels/SPLITk.txt for each partition k: one
"CATEGORY/NAME.png" per line (Cimpoi et al., CVPR 2014; release r1.0.1).
"""

from __future__ import annotations

from pipeline.export.loose import LooseFiles
from pipeline.export.staging import Staging
from pipeline.export.textures import Textures
from pipeline.manifest.sources import DTD_SPLITS, JOINT_LABELS, JOINT_LABELS_FILE
from pipeline.selection import SelectionError

ROOT = "dtd/dtd"


class DTDLayout(LooseFiles):
    """DTD's own layout.

    The lists are those of every partition whose split the run's rows carry. Where they carry none,
    the splits of the selection are those of partition 1. A texture blended of two exemplars is in
    a list only if both are: else its row has no split there (`pipeline.blends`).

    Raises:
        SelectionError: A split is none of DTD's, or no texture is in any.
    """

    def __init__(self, textures: Textures) -> None:
        pairs = zip(textures.folders, textures.names, strict=True)
        self._lines = [f"{folder}/{name}.png" for folder, name in pairs]
        super().__init__([f"{ROOT}/images/{line}" for line in self._lines])
        names = textures.split_columns
        columns = dict(zip(_partitions(names), names, strict=True)) or {1: "split"}
        self._splits = {
            partition: textures.table[name].to_pylist() for partition, name in columns.items()
        }
        self._joint: list[list[str] | None] | None = None
        if JOINT_LABELS in textures.table.column_names:
            self._joint = textures.table[JOINT_LABELS].to_pylist()
        found = {split for splits in self._splits.values() for split in splits} - {None}
        if not found or not found <= set(DTD_SPLITS):
            raise SelectionError(
                f"DTD layout of {textures.run.path}: got {sorted(map(str, found))} in columns "
                f"{', '.join(columns.values())}, expected some of {', '.join(DTD_SPLITS)}"
            )

    def finish(self, staging: Staging) -> None:
        """Write the lists; torchvision wants one for every split, an empty one too."""
        for partition, splits in self._splits.items():
            for wanted in DTD_SPLITS:
                chosen = zip(self._lines, splits, strict=True)
                lines = [f"{line}\n" for line, split in chosen if split == wanted]
                _write_lines(staging, f"{wanted}{partition}.txt", lines)
        if self._joint is not None:
            labelled = zip(self._lines, self._joint, strict=True)
            lines = [f"{line} {' '.join(labels)}\n" for line, labels in labelled if labels]
            _write_lines(staging, JOINT_LABELS_FILE.name, lines)


def _write_lines(staging: Staging, name: str, lines: list[str]) -> None:
    with staging.writing(f"{ROOT}/labels/{name}") as path:
        path.write_text("".join(sorted(lines)), encoding="utf-8", newline="\n")


def _partitions(columns: tuple[str, ...]) -> list[int]:
    return [int(name.rpartition("_")[2]) for name in columns]
