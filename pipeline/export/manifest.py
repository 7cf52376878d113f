"""The manifest of an export: a row for each texture, which `load_manifest` and `run` take.

There a texture is an exemplar of its own: `exemplar_id` is its own name, and the exemplar that it
was made from is its parent.
"""

from __future__ import annotations

import pyarrow as pa

from pipeline.export.textures import LABELS, Textures
from pipeline.manifest.sources import JOINT_LABELS

MANIFEST = "manifest.csv"
"""Written last: with it, an export is whole."""
# Name in the manifest: column of the run's rows. A run refuses manifests that have these.
RENAMED = {
    "parent_id": "exemplar_id",
    "parent_sha256": "exemplar_sha256",
    "parent_crop": "crop",
    "second_parent_id": "blend_exemplar_id",
    "second_parent_sha256": "blend_exemplar_sha256",
    "second_parent_category": "blend_category",
    "second_parent_weight": "blend_weight",
    "synthesis_task_id": "task_id",
    "synthesis_variation": "variation",
    "synthesis_seed": "seed",
    "synthesis_fingerprint": "config_fingerprint",
    "synthesis_weights": "weights",
}


def describe_textures(textures: Textures) -> pa.Table:
    """What is said of each texture in manifests, shards and files, but for `path` and `sha256`.

    `split` is that of the selection's partition, the columns `split_K` are those of all.
    """
    table = textures.table
    kept = ["category", "split", *textures.split_columns, JOINT_LABELS, LABELS, "width", "height"]
    there = set(table.column_names)
    return pa.table(
        {
            "exemplar_id": pa.array(textures.names, pa.string()),
            **{name: table[name] for name in kept if name in there},
            **{name: table[column] for name, column in RENAMED.items() if column in there},
        }
    )


def manifest_table(textures: Textures, paths: list[str], sha256: list[str]) -> pa.Table:
    """The rows of `manifest.csv`, which has no place for lists of labels.

    Args:
        textures: What was exported.
        paths: Of each, where it is below the export; in a shard, the shard's path, "/" and a name.
        sha256: Of each one's PNG bytes.
    """
    table = describe_textures(textures)
    table = table.add_column(1, "path", pa.array(paths, pa.string()))
    place = table.column_names.index("width")
    table = table.add_column(place, "sha256", pa.array(sha256, pa.string()))
    return table.select([name for name in table.column_names if name not in (JOINT_LABELS, LABELS)])
