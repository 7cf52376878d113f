"""Manifests: the list of exemplars that a run works through.

`checks` says what a manifest must be, `files` reads and writes one, `sources` makes one from DTD,
from a folder of images, or from the textures in scikit-image's wheel.
"""

from pipeline.manifest.checks import MANIFEST_COLUMNS
from pipeline.manifest.files import (
    Manifest,
    ManifestError,
    load_manifest,
    manifest_format,
    write_manifest,
)
from pipeline.manifest.sources import (
    JOINT_LABELS,
    demo_manifest,
    dtd_manifest,
    folder_manifest,
    relocate_paths,
)

__all__ = [
    "JOINT_LABELS",
    "MANIFEST_COLUMNS",
    "Manifest",
    "ManifestError",
    "demo_manifest",
    "dtd_manifest",
    "folder_manifest",
    "load_manifest",
    "manifest_format",
    "relocate_paths",
    "write_manifest",
]
