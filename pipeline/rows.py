"""Output rows: what a task brought along, what became of it, and where it was done."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import io
import traceback
from typing import Any

import numpy as np
import torch

import texsynth
from pipeline.blend_measures import combine_measures
from pipeline.blends import soft_labels
from pipeline.config import RunConfig
from pipeline.flags import resolve_rules
from pipeline.resume import RunRecord
from pipeline.schema import REQUIRED_COLUMNS, RESERVED_COLUMNS, SchemaError
from texsynth import TextureNetwork
from texsynth.blend import Blend
from texsynth.config import REFERENCE_SIDE, REFERENCE_TAPS, REFERENCE_THRESHOLD
from texsynth.copies import layout_correlation, luminance_layout
from texsynth.displacement import displacement_score
from texsynth.images import tensor_to_pil
from texsynth.pairs import PairError
from texsynth.quality import QualityMeasures, measure_quality
from texsynth.results import SynthesisResult
from texsynth.spectral import chroma_noise
from texsynth.triage import triage_exemplars

Row = dict[str, Any]

MEASURED = tuple(
    {field.name for field in dataclasses.fields(QualityMeasures)}
    & RESERVED_COLUMNS - {"gram_errors"}
)
"""Measures that have columns of their own names."""


NOT_CARRIED = ("pixels", "blend_pixels", "error_type", "error")
"""Columns of a prepared task that are none of its row, or that the row has by other ways."""


class NonFiniteLossError(ArithmeticError):
    """A synthesis whose loss is NaN or infinite."""


class ProcessDeathError(RuntimeError):
    """A task during which its process died too often."""


class RowMaker:
    """Makes the rows of one run.

    Args:
        record: The run's.
        config: The run's, resolved.
        network: That makes the textures; an attribute as well.
    """

    def __init__(self, record: RunRecord, config: RunConfig, network: TextureNetwork) -> None:
        self._record = record
        self._config = config
        self.network = network
        rules = resolve_rules(config.flag_rules)
        self._flag_rules = [{"flag": flag, "rule": rule} for flag, rule in rules.items()]

    def texture(
        self,
        task: Row,
        result: SynthesisResult,
        exemplar: torch.Tensor,
        blend: Blend | None = None,
    ) -> Row:
        """The row of a finished texture; a failed one if its loss is not finite.

        Args:
            task: As prepared, with the number of this attempt as `attempts`.
            result: Its texture.
            exemplar: [3, H, W] in [0, 1].
            blend: Its partner, of one lane, if it is a blend.
        """
        effort = _effort_values(result)
        if not np.isfinite(result.float_loss.total):
            error = NonFiniteLossError(f"the loss is {result.float_loss.total}")
            return self.failed(task, error) | effort
        status = "timeout" if result.stop_reason == "time_limit" else "ok"
        return (
            self._task_values(task)
            | _texture_values(task, result)
            | _loss_values(result)
            | effort
            | self._measures(result, exemplar, blend)
            | {"status": status, "loss_threshold": self._loss_threshold(result, blend)}
        )

    def failed(self, task: Row, error: BaseException, *, context: str | None = None) -> Row:
        """The row of a task that gave no texture.

        Args:
            task: As prepared.
            error: What went wrong.
            context: If given, the row has the whole traceback, after these words.
        """
        text = str(error)
        if context is not None:
            text = f"{context}: {''.join(traceback.format_exception(error))}"
        return self._without_texture(task, "failed", type(error).__name__, text)

    def unprepared(self, task: Row) -> Row:
        """The row of a task whose exemplar could not be prepared; it brought the error along."""
        return self._without_texture(task, "failed", task["error_type"], task["error"])

    def quarantined(self, task: Row) -> Row:
        """The row of a task during which its process died `attempts` times."""
        deaths = task["attempts"]
        times = "once" if deaths == 1 else f"{deaths} times"
        text = f"its process died {times} while it was worked on"
        return self._without_texture(task, "quarantined", ProcessDeathError.__name__, text)

    def unfit(self, row: Row, error: SchemaError) -> Row:
        """The failed row in place of one that does not fit the schema."""
        kept = {name: row.get(name) for name in REQUIRED_COLUMNS}
        text = "".join(traceback.format_exception(error))
        return kept | {"status": "failed", "error_type": type(error).__name__, "error": text}

    def _without_texture(self, task: Row, status: str, error_type: str, error: str) -> Row:
        return self._task_values(task) | {
            "status": status,
            "error_type": error_type,
            "error": error,
        }

    def _task_values(self, task: Row) -> Row:
        """What the task brought along, and where it was done."""
        carried = {k: v for k, v in task.items() if k not in NOT_CARRIED}
        return carried | {
            "labels": soft_labels(task),
            "finished_at": datetime.datetime.now(datetime.UTC),
            "preset": self._config.preset,
            "config_fingerprint": self._record.fingerprint,
            "weights": self.network.weights_id,
            "weights_sha256": self.network.weights_sha256,
            "device": _device_name(self.network.device),
            "texsynth_version": texsynth.__version__,
            "torch_version": torch.__version__,
            "copy_displacement_threshold": self._config.copy_displacement_threshold,
            "copy_layout_threshold": self._config.copy_layout_threshold,
            "flag_rules": self._flag_rules,
        }

    def _loss_threshold(self, result: SynthesisResult, blend: Blend | None) -> float | None:
        """The user's; else 1500 where the published losses speak of the same thing."""
        if self._config.loss_threshold is not None:
            return self._config.loss_threshold
        published = (
            self.network.weights_id == "imagenet"
            and self._config.normalisation in (None, "none")
            and self._config.size == REFERENCE_SIDE
            and result.taps == REFERENCE_TAPS
            and blend is None
        )
        return REFERENCE_THRESHOLD if published else None

    def _measures(
        self, result: SynthesisResult, exemplar: torch.Tensor, blend: Blend | None
    ) -> Row:
        """Measures of the stored image against its exemplar, or both of its parents."""
        if blend is None:
            return self._quality_values(result, exemplar, self.network)
        parents = (exemplar, blend.partners[0])
        return combine_measures(*(self._quality_values(result, one, None) for one in parents))

    def _quality_values(
        self, result: SynthesisResult, exemplar: torch.Tensor, network: TextureNetwork | None
    ) -> Row:
        """Measures of the stored image; few of images that are too small for the rest.

        Gram errors need a network.
        """
        device = self.network.device
        texture = (result.image_8bit[None].float() / 255).to(device)
        original = exemplar[None].to(device)
        try:
            (measures,) = measure_quality(texture, original, network)
            (kind,) = triage_exemplars(original)
        except PairError:
            # Too small for most of them, not for those that tell copies and speckle.
            layouts: Row = {}
            with contextlib.suppress(PairError):
                at_zero, largest = layout_correlation(texture, original)
                layouts["layout_correlation"] = at_zero.item()
                layouts["layout_correlation_shifted"] = largest.item()
            return layouts | {
                "displacement_score": displacement_score(texture, original).item(),
                "chroma_noise": chroma_noise(texture).item(),
                "exemplar_chroma_noise": chroma_noise(original).item(),
                "out_of_range": result.out_of_range,
            }
        values = {name: getattr(measures, name) for name in MEASURED}
        return values | {
            "gram_error_taps": list(measures.gram_errors),
            "gram_errors": list(measures.gram_errors.values()),
            "exemplar_kind": kind.kind,
            "autocorrelation_peak": kind.autocorrelation_peak,
            "dominant_period_px": kind.dominant_period_px,
            "quadrant_spread": kind.quadrant_spread,
            "exemplar_contrast": kind.contrast,
            "out_of_range": result.out_of_range,
        }


def _texture_values(task: Row, result: SynthesisResult) -> Row:
    png = io.BytesIO()
    image = tensor_to_pil(result.image_8bit)
    image.save(png, "PNG")
    (layout,) = luminance_layout(result.image_8bit[None].float() / 255)
    return {
        "image": {"bytes": png.getvalue(), "path": f"{task['task_id']}.png"},
        "height": image.height,
        "width": image.width,
        "layout": layout.cpu().numpy().tobytes(),
    }


def _loss_values(result: SynthesisResult) -> Row:
    return {
        "float_loss": result.float_loss.total,
        "delivered_loss": result.delivered_loss.total,
        "taps": list(result.taps),
        "float_gram_loss": list(result.float_loss.gram),
        "delivered_gram_loss": list(result.delivered_loss.gram),
        "float_spectrum_loss": result.float_loss.spectrum,
        "delivered_spectrum_loss": result.delivered_loss.spectrum,
        "objective_loss": result.objective_loss,
        "objective_taps": list(result.objective_taps),
        "loss_curve": [point._asdict() for point in result.loss_curve],
    }


def _effort_values(result: SynthesisResult) -> Row:
    return {
        "resumed_at": list(result.resumed_at),
        "evaluations": result.evaluations,
        "iterations": result.iterations,
        "stop_reason": result.stop_reason,
        "seconds": result.seconds,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"
