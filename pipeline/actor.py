"""One worker of a run: holds one network, synthesises blocks of tasks, commits rows as they end.

A plain class: Ray Data makes actors of it, a for-loop can drive it as well. Whatever goes wrong
with a task becomes a row with its error; the worker lives on.
"""

from __future__ import annotations

import datetime
import io
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch

import texsynth
from pipeline.config import RunConfig
from pipeline.resume import RunRecord, RunRecordError, load_run_record
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema
from pipeline.shards import ShardWriter
from texsynth.config import REFERENCE_SIDE, REFERENCE_TAPS, REFERENCE_THRESHOLD
from texsynth.images import image_to_tensor, tensor_to_pil
from texsynth.memory import choose_lanes
from texsynth.quality import chroma_noise, displacement_score, layout_correlation
from texsynth.synthesis import SynthesisResult, compute_levels, synthesize

SUMMARY = pa.schema([("task_id", pa.string()), ("status", pa.string()), ("seconds", pa.float64())])
"""The small row that flows on for each task; the row itself has been committed."""


class NonFiniteLossError(ArithmeticError):
    """A synthesis whose loss is NaN or infinite."""


class SynthesisActor:
    """Turns prepared tasks into committed rows.

    Args:
        run_path: run directory; its `run.json` says what is to be done.
        device: `cpu`, `cuda` or `cuda:N`; None takes CUDA where there is one.
        threads: of torch on the CPU; None leaves them as they are.

    Raises:
        RunRecordError: if the run directory has no readable `run.json`.
        WeightsError: if the weights cannot be had here, or are not those that the run began with.
    """

    def __init__(
        self, run_path: str, device: str | None = None, threads: int | None = None
    ) -> None:
        if threads is not None:
            torch.set_num_threads(threads)
        self._run = RunDirectory(Path(run_path))
        record = load_run_record(self._run)
        if record is None:
            raise RunRecordError(f"no run.json in {run_path!r}; it is written before work starts")
        self._record = record
        self._config = RunConfig.model_validate(record.config)
        self._synthesis = self._config.resolve_synthesis()
        device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self._network = texsynth.load_network(
            self._config.weights, normalisation=self._config.normalisation, device=device
        )
        _require_same_weights(self._network, record)
        self._lanes = self._choose_lanes()
        self._writer = ShardWriter(
            self._run, row_schema(record.carried), flush_seconds=self._config.flush_seconds
        )

    def __call__(self, tasks: pa.Table) -> pa.Table:
        """Synthesise a block of tasks; all its rows are committed on return.

        Args:
            tasks: columns of a task, `attempts`, and those of `pipeline.prepare.PREPARED`.

        Returns:
            One row of SUMMARY per task.
        """
        summaries = []
        for row in self._rows(tasks.to_pylist()):
            self._writer.add(row)
            summaries.append({name: row.get(name) for name in SUMMARY.names})
        self._writer.flush()
        return pa.Table.from_pylist(summaries, SUMMARY)

    def close(self) -> None:
        """Commit what is left and end the writer's thread."""
        self._writer.close()

    def _choose_lanes(self) -> int:
        if self._config.lanes != "auto":
            return self._config.lanes
        sizes = compute_levels(self._synthesis, self._config.size, self._config.size)
        return choose_lanes(self._network, self._synthesis, sizes)

    def _rows(self, tasks: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
        broken = [task for task in tasks if task["error_type"] is not None]
        for task in broken:
            yield self._failed_row(task, task["error_type"], task["error"])
        waiting = {task["task_id"]: task for task in tasks if task["error_type"] is None}
        try:
            yield from self._synthesize(waiting, self._lanes)
        except Exception as error:
            # One task must not take its neighbours along: each is tried by itself, then named.
            self._release_memory()
            lanes_failed = f"{type(error).__name__} beside other tasks"
            for task in list(waiting.values()):
                yield from self._synthesize_alone(task, lanes_failed)

    def _synthesize_alone(self, task: dict[str, Any], before: str) -> Iterator[dict[str, Any]]:
        try:
            yield from self._synthesize({task["task_id"]: task}, 1)
        except Exception as error:
            self._release_memory()
            trace = "".join(traceback.format_exception(error))
            yield self._failed_row(task, type(error).__name__, f"after {before}: {trace}")

    def _synthesize(
        self, waiting: dict[str, dict[str, Any]], lanes: int
    ) -> Iterator[dict[str, Any]]:
        """Rows of the tasks as they end; a task leaves `waiting` when its row is made."""
        if not waiting:
            return
        tasks = list(waiting.values())
        exemplars = torch.stack([self._exemplar(task) for task in tasks])
        results = synthesize(
            exemplars,
            [task["seed"] for task in tasks],
            self._synthesis,
            self._network,
            lanes=lanes,
            device=self._network.device,
        )
        for result in results:
            task = tasks[result.index]
            row = self._row(task, result, exemplars[result.index])
            del waiting[task["task_id"]]
            yield row

    def _exemplar(self, task: dict[str, Any]) -> torch.Tensor:
        size = self._config.size
        pixels = np.frombuffer(task["pixels"], np.uint8).reshape(size, size, 3)
        return image_to_tensor(pixels)

    def _row(
        self, task: dict[str, Any], result: SynthesisResult, exemplar: torch.Tensor
    ) -> dict[str, Any]:
        if not np.isfinite(result.float_loss.total):
            error = NonFiniteLossError(f"the loss is {result.float_loss.total}")
            row = self._failed_row(task, type(error).__name__, str(error))
            names = ("stop_reason", "evaluations", "iterations", "seconds")
            return row | {name: getattr(result, name) for name in names}
        return (
            self._task_values(task)
            | _texture_values(task, result)
            | _loss_values(result)
            | self._quality_values(result, exemplar)
            | {"status": "ok", "loss_threshold": self._loss_threshold(result)}
        )

    def _failed_row(self, task: dict[str, Any], error_type: str, error: str) -> dict[str, Any]:
        return self._task_values(task) | {
            "status": "failed",
            "error_type": error_type,
            "error": error,
        }

    def _task_values(self, task: dict[str, Any]) -> dict[str, Any]:
        """What the task brought along, and where it was done."""
        carried = {k: v for k, v in task.items() if k not in ("pixels", "error_type", "error")}
        return carried | {
            "attempts": task["attempts"] + 1,
            "finished_at": datetime.datetime.now(datetime.UTC),
            "preset": self._config.preset,
            "config_fingerprint": self._record.fingerprint,
            "weights": self._network.weights_id,
            "weights_sha256": self._network.weights_sha256,
            "device": _device_name(self._network.device),
            "texsynth_version": texsynth.__version__,
            "torch_version": torch.__version__,
            "copy_displacement_threshold": self._config.copy_displacement_threshold,
            "copy_layout_threshold": self._config.copy_layout_threshold,
        }

    def _loss_threshold(self, result: SynthesisResult) -> float | None:
        """The user's; else 1500 where the published losses speak of the same thing."""
        if self._config.loss_threshold is not None:
            return self._config.loss_threshold
        published = (
            self._network.weights_id == "imagenet"
            and self._config.normalisation in (None, "none")
            and self._config.size == REFERENCE_SIDE
            and result.taps == REFERENCE_TAPS
        )
        return REFERENCE_THRESHOLD if published else None

    def _quality_values(self, result: SynthesisResult, exemplar: torch.Tensor) -> dict[str, Any]:
        device = self._network.device
        texture = (result.image_8bit[None].float() / 255).to(device)
        original = exemplar[None].to(device)
        at_zero, largest = layout_correlation(texture, original)
        return {
            "displacement_score": displacement_score(texture, original).item(),
            "layout_correlation": at_zero.item(),
            "layout_correlation_shifted": largest.item(),
            "chroma_noise": chroma_noise(texture).item(),
            "exemplar_chroma_noise": chroma_noise(original).item(),
            "out_of_range": result.out_of_range,
        }

    def _release_memory(self) -> None:
        if self._network.device.type == "cuda":
            torch.cuda.empty_cache()


def _texture_values(task: dict[str, Any], result: SynthesisResult) -> dict[str, Any]:
    png = io.BytesIO()
    image = tensor_to_pil(result.image_8bit)
    image.save(png, "PNG")
    return {
        "image": {"bytes": png.getvalue(), "path": f"{task['task_id']}.png"},
        "height": image.height,
        "width": image.width,
    }


def _loss_values(result: SynthesisResult) -> dict[str, Any]:
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
        "evaluations": result.evaluations,
        "iterations": result.iterations,
        "stop_reason": result.stop_reason,
        "seconds": result.seconds,
    }


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def _require_same_weights(network: texsynth.TextureNetwork, record: RunRecord) -> None:
    if network.weights_sha256 != record.weights_sha256:
        raise texsynth.WeightsError(
            f"weights {network.weights_id!r} have sha256 {network.weights_sha256} here, the run "
            f"began with {record.weights_sha256}"
        )
