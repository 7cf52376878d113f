"""Whether a texture made again is the one that is stored, and how far apart the two are.

Rounding differs between devices, versions of torch, numbers of threads and of lanes, and L-BFGS
makes it grow. So what is not the same has three names: moved by rounding, another texture of like
loss, and different.
"""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from PIL import Image

from pipeline.rows import Row

Verdict = Literal[
    "identical",
    "the same up to rounding",
    "another texture of like loss",
    "the same error",
    "different",
]
LOSSES = ("float_loss", "delivered_loss", "objective_loss")
EFFORTS = ("evaluations", "iterations", "stop_reason")
# Measured at 64 px, default preset, weights hed, four exemplars, lanes beside others and other
# numbers of threads against one lane on one thread. Wherever no value was more than one step away,
# to 10 evaluations of all and 20 of half of them, the losses were 4e-3 apart at most; after 20 the
# others were 4 to 6 steps and 1e-2 apart.
ROUNDING_STEPS = 1
ROUNDING_LOSS = 1e-2
LIKE_LOSS = 1 / 3
"""Losses of smooth exemplars were seen so far apart: tests/texsynth/test_synthesis.py."""
STORED_LOSS = 1e-3
"""Relative error of a loss measured again; on the machine that made it there is none."""


@dataclass(frozen=True, kw_only=True)
class PixelDifference:
    """How far two 8-bit images of one size are apart.

    Attributes:
        largest: Difference of two values, in steps of 255.
        mean: Of the differences of all values, in steps.
        share: Of the pixels, those that differ; 0 to 1.
    """

    largest: int
    mean: float
    share: float


@dataclass(frozen=True, kw_only=True)
class LossDifference:
    """A loss as stored and as made again.

    Attributes:
        stored: Of the run.
        replayed: Made again.
        relative: Their difference over the larger of the two, 0 to 1; 1 where one is missing.
    """

    stored: float | None
    replayed: float | None
    relative: float


@dataclass(frozen=True, kw_only=True)
class RowComparison:
    """A stored row beside the same one made again.

    Attributes:
        verdict: What they are to each other.
        reason: Why, in one line.
        pixels: Of the images; None where they are not of one size.
        losses: By the name of the column.
        efforts: (stored, made again) by the name of the column.
        measured_loss: Delivered loss of the stored image, measured again.
    """

    verdict: Verdict
    reason: str
    pixels: PixelDifference | None
    losses: dict[str, LossDifference]
    efforts: dict[str, tuple[Any, Any]]
    measured_loss: float


def compare_rows(stored: Row, replayed: Row, measured_loss: float) -> RowComparison:
    """Compare two rows with textures.

    Args:
        stored: The row of the run.
        replayed: The row made again.
        measured_loss: Delivered loss of the stored image, measured again.
    """
    pixels = compare_pngs(stored["image"]["bytes"], replayed["image"]["bytes"])
    losses = {name: _compare_losses(stored[name], replayed[name]) for name in LOSSES}
    efforts = {name: (stored[name], replayed[name]) for name in EFFORTS}
    verdict, reason = _judge(pixels, losses, efforts, measured_loss)
    return RowComparison(
        verdict=verdict,
        reason=reason,
        pixels=pixels,
        losses=losses,
        efforts=efforts,
        measured_loss=measured_loss,
    )


def find_circumstances(row: Row, made: Row) -> tuple[str, ...]:
    """Say what was not as it had been when the row was made.

    Args:
        row: The stored one.
        made: Made again; what it lacks is not spoken of.
    """
    found = []
    for name in ("device", "torch_version", "texsynth_version"):
        if made.get(name) not in (None, row[name]):
            found.append(f"{name.replace('_', ' ')}: {row[name]} in the run, {made[name]} here")
    if row["resumed_at"]:
        stops, here = (
            ", ".join(f"{spent:g}" for spent in each["resumed_at"]) or "none"
            for each in (row, {"resumed_at": [], **made})
        )
        found.append(
            f"it went on from a checkpoint at {stops} evaluations, without the L-BFGS history, "
            f"and the replay at {here}"
            + ("" if here == stops else ": it cannot be expected to be the same")
        )
    if row["stop_reason"] == "time_limit":
        found.append("its time was up; the replay was stopped at as many evaluations")
    return tuple(found)


def decode_png(png: bytes) -> np.ndarray[Any, Any]:
    """The values of a PNG, uint8 [H, W, 3].

    Raises:
        OSError: It cannot be decoded.
    """
    with Image.open(io.BytesIO(png), formats=["PNG"]) as image:
        return np.array(image.convert("RGB"))


def compare_pngs(stored: bytes, replayed: bytes) -> PixelDifference | None:
    """How far two images are apart; None if they are not of one size.

    Raises:
        OSError: One of them cannot be decoded.
    """
    one, other = (decode_png(png).astype(np.int16) for png in (stored, replayed))
    if one.shape != other.shape:
        return None
    steps = np.abs(one - other)
    share = float((steps > 0).any(axis=-1).mean())
    return PixelDifference(largest=int(steps.max()), mean=float(steps.mean()), share=share)


def _compare_losses(stored: float | None, replayed: float | None) -> LossDifference:
    relative = 1.0
    if stored == replayed:
        relative = 0.0
    elif stored is not None and replayed is not None and stored > 0 and replayed > 0:
        low, high = sorted((stored, replayed))
        relative = 1 - low / high
    return LossDifference(stored=stored, replayed=replayed, relative=relative)


def _judge(
    pixels: PixelDifference | None,
    losses: dict[str, LossDifference],
    efforts: dict[str, tuple[Any, Any]],
    measured_loss: float,
) -> tuple[Verdict, str]:
    """The verdict and its reason."""
    if pixels is None:
        return "different", "the stored image is of another size"
    delivered = losses["delivered_loss"].stored
    if delivered is None or not math.isclose(measured_loss, delivered, rel_tol=STORED_LOSS):
        return "different", (
            f"the stored image has delivered loss {measured_loss:.6g}, its row says {delivered}"
        )
    name, worst = max(losses.items(), key=lambda item: item[1].relative)
    apart = f"{name} {worst.stored} stored, {worst.replayed} made again"
    if pixels.largest <= ROUNDING_STEPS and worst.relative > ROUNDING_LOSS:
        return "different", f"the images are the same up to rounding, the losses are not: {apart}"
    other = [key for key, (before, now) in efforts.items() if before != now]
    if pixels.largest == 0 and worst.relative == 0 and not other:
        return "identical", "every pixel, loss and count is the same"
    if pixels.largest <= ROUNDING_STEPS:
        also = f", other {' and '.join(other)}" if other else ""
        return "the same up to rounding", (
            f"no value is more than {pixels.largest} of 255 away, no loss more than "
            f"{worst.relative:.1e}{also}"
        )
    if worst.relative <= LIKE_LOSS:
        return "another texture of like loss", (
            f"{pixels.share:.0%} of the pixels differ, by up to {pixels.largest} of 255, the "
            f"losses by {worst.relative:.1e} at most: rounding grew"
        )
    return "different", f"{apart}; pixels differ by up to {pixels.largest} of 255"
