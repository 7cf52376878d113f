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
TRY = pa.struct(
    [
        ("seed", INT64),
        ("status", STRING),
        ("float_loss", FLOAT),
        ("delivered_loss", FLOAT),
        ("accepted", BOOL),
        ("faults", pa.list_(STRING)),
        ("evaluations", FLOAT),
        ("finished_at", pa.timestamp("ms", tz="UTC")),
    ]
)

LABEL = pa.struct([("category", STRING), ("weight", FLOAT)])

STATUSES = ("ok", "failed", "timeout", "quarantined")
FLAGGED = "flagged"
"""Beside the statuses, what can be done again: textures that are not accepted."""
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
    Column(
        "labels",
        pa.list_(LABEL),
        "The categories of all parents with their weights, which sum to 1: one entry, or two for a"
        " blend of two categories; null without a category.",
    ),
    Column("split", STRING, "Split from the manifest, of both parents; null if it has none."),
    Column("crop", INT32, "Number of the crop of this exemplar, from 0.", True),
    Column("variation", INT32, "Number of the variation, or blend, of this crop, from 0.", True),
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
    Column(
        "tries",
        pa.list_(TRY),
        "The tries at this row's texture, under different seeds or after its time was up, in their"
        " order: this row is the best of them. `accepted` and `faults` are as they were then. Null"
        " for a single one.",
    ),
    Column("error_type", STRING, "Class of the error; null where there was none."),
    Column("error", STRING, "Message of the error; null where there was none."),
)

TEXTURE = (
    Column("image", IMAGE, "The texture: PNG bytes (RGB, 8 bit) and a name; null without one."),
    Column("height", INT32, "Height of the texture, px; null without one."),
    Column("width", INT32, "Width of the texture, px; null without one."),
    Column(
        "layout",
        pa.binary(),
        "Its luminance on a 32x32 grid less its plane, int8 by rows, the largest magnitude 127, by"
        " which siblings are compared; null without a texture.",
    ),
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

BLEND = (
    Column("blend_exemplar_id", STRING, "The partner, as in the manifest; null if it is no blend."),
    Column("blend_path", STRING, "The partner's image, as in the manifest; null if no blend."),
    Column("blend_exemplar_sha256", STRING, "SHA-256 of that file's bytes; null if not read."),
    Column("blend_category", STRING, "The partner's category; null if it has none."),
    Column(
        "blend_weight",
        FLOAT,
        "The partner's weight, 0.3 to 0.5: its share in Gram matrices, spectrum and labels; null if"
        " it is no blend.",
    ),
)

LOSS = (
    Column(
        "float_loss", FLOAT, "Reference loss of the float image as optimised; null without one."
    ),
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

COPYING = (
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
    Column(
        "phase_correlation_peak", FLOAT, "Peak of the whitened cross-correlation; 1: shifted copy."
    ),
    Column("verbatim_share", FLOAT, "Share covered by 16 px blocks of the exemplar; 0 to 1."),
    Column(
        "sibling_distance",
        FLOAT,
        "1 - the correlation of `layout` with the most similar of the ok textures of this exemplar"
        " and crop with a lower variation; 0 to 2, 0: the same again; null without any, and until"
        " the run is finalized.",
    ),
    Column("copy_displacement_threshold", FLOAT, "A `displacement_score` below this is a copy."),
    Column("copy_layout_threshold", FLOAT, "A `layout_correlation` above this is a copy."),
)

QUALITY = (
    Column("gram_error_taps", pa.list_(STRING), "Taps of `gram_errors`: those of the tap rule."),
    Column("gram_errors", pa.list_(FLOAT), "Relative Gram error of each; 0: met."),
    Column("held_out_tap", STRING, "A tap that no loss of this size uses."),
    Column("held_out_gram_error", FLOAT, "Relative Gram error of that tap."),
    Column("colour_mean_distance", FLOAT, "Between the mean colours, in RGB of [0, 1]."),
    Column("colour_covariance_distance", FLOAT, "Between the colours' covariances, relative."),
    Column("sliced_wasserstein", FLOAT, "Between the colours' distributions, in RGB of [0, 1]."),
    Column("spectrum_error", FLOAT, "Of the luminance's Fourier magnitudes, relative."),
    Column("colour_spectrum_error", FLOAT, "Of all three channels' with their phases, relative."),
    Column("autocorrelation_error", FLOAT, "Relative, at lags up to a quarter of the side."),
    Column("wavelet_kl", FLOAT, "Divergence of wavelet marginals, summed over 27 sub-bands."),
    Column("high_frequency_ratio", FLOAT, "Fine detail over the exemplar's; 1 is alike."),
    Column("local_mean_drift", FLOAT, "How much more uneven in brightness than the exemplar."),
    Column("local_contrast_drift", FLOAT, "How much more uneven in contrast than the exemplar."),
    Column(
        "chroma_noise",
        FLOAT,
        "Chroma energy above half the Nyquist frequency over the variance; 0 to 1.34, 0 if gray.",
    ),
    Column("exemplar_chroma_noise", FLOAT, "The same of the exemplar."),
    Column("clipped_share", FLOAT, "Share of the stored values that are 0 or 255."),
    Column("exemplar_clipped_share", FLOAT, "The same of the exemplar."),
    Column("border_contrast", FLOAT, "Border ring against the interior."),
    Column("exemplar_border_contrast", FLOAT, "The same of the exemplar."),
    Column("seam_score", FLOAT, "Step across the periodic seam over steps inside; 1: no seam."),
    Column("exemplar_seam_score", FLOAT, "The same of the exemplar."),
    Column("out_of_range", FLOAT, "Share of pixel values outside [0, 1] before clamping; 0 to 1."),
)

EXEMPLAR = (
    Column(
        "exemplar_kind",
        STRING,
        "flat, not_stationary, too_few_repeats, regular or stochastic, the first that holds.",
    ),
    Column("autocorrelation_peak", FLOAT, "Highest outside the centre; 0 where there is none."),
    Column("dominant_period_px", FLOAT, "Distance of that peak, px; null where there is none."),
    Column("quadrant_spread", FLOAT, "Distance of the quadrants' colours, in units of contrast."),
    Column("exemplar_contrast", FLOAT, "Root mean variance of a channel; 0 to 0.5."),
)

FLAGS = (
    Column("below_threshold", BOOL, "The float loss is called good."),
    Column("delivered_below_threshold", BOOL, "The loss of the stored image is called good."),
    Column("converged", BOOL, "It ended because the loss no longer fell."),
    Column("copy", BOOL, "The exemplar again, in small patches, in layout or in blocks."),
    Column("shifted_copy", BOOL, "The exemplar again, cyclically shifted."),
    Column("sibling_duplicate", BOOL, "Nearly the same as a texture with a lower variation."),
    Column("clipped", BOOL, "Far more black or white than the exemplar."),
    Column("noisy", BOOL, "More fine detail or coloured speckle than the exemplar."),
    Column("off_colour", BOOL, "Other colours than the exemplar."),
    Column("structure_lost", BOOL, "What the loss does not see is not met."),
    Column("not_a_texture", BOOL, "The exemplar is flat, not stationary, or has too few repeats."),
    Column("accepted", BOOL, "A texture with none of the faults above."),
    Column(
        "flag_rules",
        pa.list_(pa.struct([("flag", STRING), ("rule", STRING)])),
        "The rule of every flag in this row: SQL over the other columns; unknown numbers make a"
        " flag null.",
    ),
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
    "Blend": BLEND,
    "Loss": LOSS,
    "Effort": EFFORT,
    "Copying": COPYING,
    "Quality": QUALITY,
    "Exemplar": EXEMPLAR,
    "Flags": FLAGS,
    "Provenance": PROVENANCE,
}

COLUMNS: tuple[Column, ...] = tuple(column for group in GROUPS.values() for column in group)
