"""The columns of an output row, each defined once.

`pipeline.schema` makes the Arrow schema and `docs/columns.md` from these records. Columns that a
manifest carries along come after them.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa

STRING, FLOAT, BOOL = pa.string(), pa.float64(), pa.bool_()
INT32, INT64 = pa.int32(), pa.int64()
# What Hugging Face `datasets` calls an Image feature; `large_binary` would defeat it.
IMAGE = pa.struct([("bytes", pa.binary()), ("path", STRING)])
LOSS_CURVE = pa.list_(pa.struct([("evaluations", FLOAT), ("loss", FLOAT), ("side", INT32)]))

STATUSES = ("ok", "failed", "timeout", "quarantined")
FLAGGED = "flagged"
"""Beside the statuses, what can be done again: textures that are copies or above the threshold."""
RETRYABLE = (*STATUSES, FLAGGED)


@dataclass(frozen=True)
class Column:
    """One column of the output.

    Attributes:
        name: Name in every Parquet file.
        type: Arrow type.
        description: Meaning, unit, range, and when it is null.
        required: Whether every row has a value, failed rows too.
    """

    name: str
    type: pa.DataType
    description: str
    required: bool = False


TASK = (
    Column("task_id", STRING, "Identity of the task; unique in a run.", True),
    Column("exemplar_id", STRING, "The exemplar, as in the manifest.", True),
    Column("category", STRING, "Category from the manifest; null if it has none."),
    Column("split", STRING, "Split from the manifest; null if it has none."),
    Column("crop", INT32, "Number of the crop of this exemplar, from 0.", True),
    Column("variation", INT32, "Number of the variation of this crop, from 0.", True),
    Column(
        "seed",
        INT64,
        "Seed of the task, from the run's seed and `task_id`; it fixes every draw.",
        True,
    ),
    Column(
        "attempts",
        INT32,
        "How often work on it was begun: more than 1 after a death of its process or a retry; of"
        " several rows of a task the one with the most counts.",
        True,
    ),
    Column(
        "status",
        STRING,
        "ok; failed: no texture, `error` says why; timeout: the best image when its time was up;"
        " quarantined: its process died too often.",
        True,
    ),
    Column("error_type", STRING, "Class of the error; null where there was none."),
    Column("error", STRING, "Message of the error; null where there was none."),
)

TEXTURE = (
    Column("image", IMAGE, "The texture: PNG bytes (RGB, 8 bit) and a name; null without one."),
    Column("height", INT32, "Height of the texture, px; null without one."),
    Column("width", INT32, "Width of the texture, px; null without one."),
)

SOURCE = (
    Column("path", STRING, "The source image, as in the manifest.", True),
    Column("exemplar_sha256", STRING, "SHA-256 of the source file's bytes; null if not read."),
    Column("source_width", INT32, "Width of the source, upright, px; null if not decoded."),
    Column("source_height", INT32, "Height of the source, upright, px; null if not decoded."),
    Column("crop_left", INT32, "Left edge of the crop in the source, px; null if not decoded."),
    Column("crop_top", INT32, "Top edge of the crop in the source, px; null if not decoded."),
    Column("crop_side", INT32, "Side of the crop in the source, px; null if not decoded."),
    Column("upscaled", BOOL, "The crop was smaller than the exemplar; null if not decoded."),
)

LOSS = (
    Column("float_loss", FLOAT, "Reference loss of the unclamped float image; null without one."),
    Column("delivered_loss", FLOAT, "Reference loss of the stored image; null without one."),
    Column("taps", pa.list_(STRING), "Taps of the reference loss; null without a texture."),
    Column(
        "float_gram_loss",
        pa.list_(FLOAT),
        "Gram terms of `float_loss`, weights included, in the order of `taps`; null without it.",
    ),
    Column(
        "delivered_gram_loss",
        pa.list_(FLOAT),
        "Gram terms of `delivered_loss`, likewise; null without it.",
    ),
    Column("float_spectrum_loss", FLOAT, "Spectrum term of `float_loss`; null without it."),
    Column("delivered_spectrum_loss", FLOAT, "Spectrum term of `delivered_loss`; null without it."),
    Column(
        "objective_loss",
        FLOAT,
        "The minimised objective at the end, range penalty included; null without one.",
    ),
    Column("objective_taps", pa.list_(STRING), "Taps of the minimised objective at full size."),
    Column("loss_threshold", FLOAT, "What counts as a good loss; null where none applies."),
    Column(
        "below_threshold",
        BOOL,
        "`float_loss` < `loss_threshold`; null if either is null or NaN.",
    ),
    Column(
        "delivered_below_threshold",
        BOOL,
        "`delivered_loss` < `loss_threshold`; null if either is null or NaN.",
    ),
)

EFFORT = (
    Column(
        "loss_curve",
        LOSS_CURVE,
        "At most 64 points: evaluations so far (full-size equivalents), objective of the level in"
        " hand, side of that level in px.",
    ),
    Column(
        "resumed_at",
        pa.list_(FLOAT),
        "Evaluations at which it went on from a checkpoint, after a stop or a death of its process;"
        " null if synthesis did not end.",
    ),
    Column("evaluations", FLOAT, "Cost in full-size evaluations; null if synthesis did not end."),
    Column("iterations", INT64, "Accepted L-BFGS steps; null if synthesis did not end."),
    Column("stop_reason", STRING, "plateau, budget, time_limit or diverged; null if none."),
    Column(
        "seconds",
        FLOAT,
        "Wall-clock time on a lane, shared with those beside it, s; null if synthesis did not end.",
    ),
    Column("finished_at", pa.timestamp("ms", tz="UTC"), "When the task ended.", True),
)

QUALITY = (
    Column(
        "displacement_score",
        FLOAT,
        "1 - the share of neighbouring 5x5 patches whose nearest neighbours in the exemplar are"
        " neighbours too; 0 to 1, copies score low.",
    ),
    Column(
        "layout_correlation",
        FLOAT,
        "Correlation with the exemplar, both averaged over 4x4 px and less their planes; -1 to 1.",
    ),
    Column(
        "layout_correlation_shifted",
        FLOAT,
        "The largest over all cyclic shifts, planes left in; -1 to 1, shifted copies score high.",
    ),
    Column("copy_displacement_threshold", FLOAT, "A `displacement_score` below this is a copy."),
    Column("copy_layout_threshold", FLOAT, "A `layout_correlation` above this is a copy."),
    Column(
        "copy",
        BOOL,
        "`displacement_score` < `copy_displacement_threshold` or"
        " `layout_correlation` > `copy_layout_threshold`; null if any of the four is null or NaN.",
    ),
    Column(
        "chroma_noise",
        FLOAT,
        "Chroma energy above half the Nyquist frequency over the variance; 0 to 1.34, 0 if gray.",
    ),
    Column("exemplar_chroma_noise", FLOAT, "The same of the exemplar."),
    Column("out_of_range", FLOAT, "Share of pixel values outside [0, 1] before clamping; 0 to 1."),
)

PROVENANCE = (
    Column("preset", STRING, "Preset that the configuration started from.", True),
    Column("config_fingerprint", STRING, "Fingerprint of what changes a texture.", True),
    Column("weights", STRING, "Weights id.", True),
    Column("weights_sha256", STRING, "SHA-256 of the weight tensors."),
    Column("device", STRING, "Device that the task ran on."),
    Column("texsynth_version", STRING, "Version of texsynth.", True),
    Column("torch_version", STRING, "Version of torch.", True),
)

GROUPS: dict[str, tuple[Column, ...]] = {
    "Task": TASK,
    "Texture": TEXTURE,
    "Source": SOURCE,
    "Loss": LOSS,
    "Effort": EFFORT,
    "Quality": QUALITY,
    "Provenance": PROVENANCE,
}

COLUMNS: tuple[Column, ...] = tuple(column for group in GROUPS.values() for column in group)
