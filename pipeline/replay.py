"""One row of a run made again from its own columns, alone on one lane, beside the row as it is.

The exemplar is cut again where the row says, the weights are those of `run.json`, the seed is the
row's. A row that went on from checkpoints is interrupted where it was; one whose time was up ends
at as many evaluations. A failed row is worked on again to see its error.
"""

from __future__ import annotations

import traceback
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from pydantic import ValidationError

import texsynth
from pipeline.blends import load_blend, make_blend
from pipeline.committed import Scan, read_from_scan, read_rows
from pipeline.config import RunConfig
from pipeline.config_file import describe_validation
from pipeline.downloads import load_network
from pipeline.preflight import require_device
from pipeline.prepare import ExemplarSource, load_partner, prepare_tasks
from pipeline.report import remake_exemplar
from pipeline.resume import RunRecord, load_run_record
from pipeline.resynthesis import measure_delivered_loss, resynthesize
from pipeline.row_comparison import (
    RowComparison,
    Verdict,
    compare_rows,
    decode_png,
    find_circumstances,
)
from pipeline.rows import Row, RowMaker
from pipeline.rundir import RunDirectory, atomic_path
from pipeline.storage import AnyPath
from pipeline.tasks import TASK_COLUMNS
from texsynth.blend import Blend
from texsynth.config import ALGORITHM_VERSION, ConfigError
from texsynth.decoding import ImageError
from texsynth.images import image_to_tensor, tensor_to_pil


class ReplayError(ValueError):
    """A row that cannot be made again here."""


@dataclass(frozen=True, kw_only=True)
class Replay:
    """What came of it; also, by these names, the object that `texsynth replay --json` prints.

    Attributes:
        task_id: The task.
        status: Of the stored row.
        verdict: What the row made again is to the stored one.
        reason: Why, in one line.
        circumstances: What was not as it had been when the row was made.
        comparison: The numbers; None without two textures.
        stored_error: Error of the stored row.
        error: Error of the replay, with its traceback where it has no name here.
    """

    task_id: str
    status: str
    verdict: Verdict
    reason: str
    circumstances: tuple[str, ...] = ()
    comparison: RowComparison | None = None
    stored_error: str | None = None
    error: str | None = None


def load_row(run: RunDirectory, task_id: str) -> Row:
    """The committed row of a task, its image included; finalized or not.

    Raises:
        ReplayError: The task has no row that can be read.
    """

    def read(scan: Scan) -> Row:
        rows = scan.winners.filter(pc.equal(scan.winners["task_id"], pa.scalar(task_id)))
        for row in read_rows(scan, rows, scan.schema.names).to_pylist():
            return dict(row)
        some = scan.winners["task_id"].slice(0, 1).to_pylist()
        expected = f"expected one of {len(scan.winners)} tasks" + "".join(
            f", such as {name!r}" for name in some
        )
        unread = "".join(f"; not read: {p.path}: {p.reason}" for p in scan.problems)
        raise ReplayError(f"{run.path}: no committed row of task {task_id!r}, {expected}{unread}")

    return read_from_scan(run, read)


def replay_row(
    run: RunDirectory, row: Row, *, device: str | None = None, out: AnyPath | None = None
) -> Replay:
    """Make a row again and compare; the run directory stays as it is.

    Args:
        run: The run directory.
        row: From `load_row`.
        device: `cpu`, `cuda` or `cuda:N`; the run's unless given, CUDA where there is one.
        out: Folder or URI for the exemplar and the textures as PNG, made if need be.

    Raises:
        ReplayError: There is no `run.json`; the source file, the weights or the settings are not
            what the row was made with.
        RunRecordError: `run.json` is damaged.
        ConfigError, WeightsError: There is no such device or setting; the weights cannot be had.
        OSError: The pictures cannot be written.
    """
    record = load_run_record(run)
    if record is None:
        raise ReplayError(f"{str(run.path)!r} is no run directory: it has no {run.run_json.name}")
    chosen = device or record.config.get("device")
    try:
        config = RunConfig.model_validate({**record.config, "device": chosen, "executor": "inline"})
    except ValidationError as error:
        raise ConfigError(describe_validation(error)) from error
    require_device(config)
    _refuse_other_settings(row, record)
    network = load_network(
        config.weights,
        normalisation=config.normalisation,
        device=config.device or ("cuda" if torch.cuda.is_available() else "cpu"),
    )
    _refuse_other_weights(row, network)
    maker = _Maker(record, config, network, out)
    return _replay_error(row, maker) if row["image"] is None else _replay_texture(row, maker)


@dataclass(frozen=True)
class _Maker:
    """What rows of one run are made again with, and the folder for their pictures."""

    record: RunRecord
    config: RunConfig
    network: texsynth.TextureNetwork
    out: AnyPath | None

    def make(self, row: Row, exemplar: torch.Tensor, blend: Blend | None) -> Row:
        """The row as the run would make it now, alone on one lane."""
        synthesis, size = self.config.resolve_synthesis(), self.config.texture_size
        result = resynthesize(row, exemplar, synthesis, self.network, size, blend=blend)
        maker = RowMaker(self.record, self.config, self.network)
        made = maker.texture(row, result, exemplar, blend)
        self.save({"exemplar": exemplar, "replayed": result.image_8bit})
        self.save({} if blend is None else {"partner": blend.partners[0]})
        return made

    def save(self, pictures: dict[str, torch.Tensor]) -> None:
        """Write pictures [3, H, W] by name, if that was asked for."""
        if self.out is not None:
            self.out.mkdir(parents=True, exist_ok=True)
            for name, picture in pictures.items():
                with atomic_path(self.out / f"{name}.png") as path:
                    tensor_to_pil(picture).save(path, "PNG")


def _replay_texture(row: Row, maker: _Maker) -> Replay:
    """Make a texture again and compare it with the one that is stored."""
    exemplar = _cut_exemplar(row, maker)
    blend = _cut_partner(row, maker)
    made = maker.make(row, exemplar, blend)
    known = {name: row[name] for name in ("task_id", "status")}
    known["circumstances"] = find_circumstances(row, made)
    if made["status"] == "failed":
        return Replay(**known, verdict="different", reason="it fails here", error=_error_of(made))
    try:
        stored = _to_tensor(decode_png(row["image"]["bytes"]))
        maker.save({"stored": stored})
        measured = measure_delivered_loss(stored, exemplar, maker.network, blend)
    except (SyntaxError, ValueError, OSError) as error:
        reason = f"the stored image cannot be measured: {error}"
        return Replay(**known, verdict="different", reason=reason)
    comparison = compare_rows(row, made, measured)
    return Replay(
        **known, verdict=comparison.verdict, reason=comparison.reason, comparison=comparison
    )


def _replay_error(row: Row, maker: _Maker) -> Replay:
    """Work on a task that has no texture again, to see its error."""
    made: Row
    try:
        exemplar, made = _prepare(row, maker)
        if exemplar is not None:
            made = maker.make(row, exemplar, load_blend(made, maker.config.size))
    except ReplayError:
        raise
    except Exception as error:
        # Whatever it is, it is what the replay is for.
        trace = "".join(traceback.format_exception(error))
        made = {"error_type": type(error).__name__, "error": trace}
    verdict: Verdict = "different"
    if made.get("error_type") is None:
        reason = "it gives a texture here"
    elif made["error_type"] == row["error_type"]:
        verdict, reason = "the same error", f"it ends with {row['error_type']} again"
    else:
        reason = f"it ends with {made['error_type']} here, with {row['error_type']} in the run"
    return Replay(
        task_id=row["task_id"],
        status=row["status"],
        verdict=verdict,
        reason=reason,
        circumstances=find_circumstances(row, made),
        stored_error=_error_of(row),
        error=_error_of(made),
    )


def _error_of(row: Row) -> str | None:
    return f"{row['error_type']}: {row['error']}" if row.get("error_type") else None


def _cut_exemplar(row: Row, maker: _Maker) -> torch.Tensor:
    """The exemplar [3, H, W] of a texture, from where the row says."""
    try:
        png = remake_exemplar(
            row,
            maker.record.root,
            size=maker.config.size,
            allow_outside_root=maker.config.allow_outside_root,
            max_pixels=maker.config.max_pixels,
        )
    except ImageError as error:
        raise ReplayError(_where(row, str(error))) from error
    return _to_tensor(decode_png(png))


def _cut_partner(row: Row, maker: _Maker) -> Blend | None:
    """The partner of a blend, cut as the run does it; None where there is none."""
    if row["blend_exemplar_id"] is None:
        return None
    try:
        crop = load_partner(row, ExemplarSource(maker.record.root, maker.config))
    except (ImageError, OSError) as error:
        raise ReplayError(_where(row, f"partner {row['blend_path']!r}: {error}")) from error
    return make_blend(crop.pixels, row["blend_weight"])


def _prepare(row: Row, maker: _Maker) -> tuple[torch.Tensor | None, Row]:
    """The exemplar [3, H, W] of a task as the run prepares it; None where that fails, as `error`.

    Raises:
        ReplayError: The file is not the one that the run has read.
    """
    task = {name: row[name] for name in (*TASK_COLUMNS, "sha256") if name in row}
    source = ExemplarSource(maker.record.root, maker.config)
    (prepared,) = prepare_tasks(pa.Table.from_pylist([task]), source).to_pylist()
    if prepared["error_type"] is not None:
        return None, prepared
    expected, got = row["exemplar_sha256"], prepared["exemplar_sha256"]
    if expected not in (None, got):
        raise ReplayError(_where(row, f"sha256 is {got}, expected {expected}"))
    size = maker.config.size
    pixels = np.frombuffer(prepared["pixels"], np.uint8).reshape(size, size, 3)
    return _to_tensor(pixels), prepared


def _to_tensor(pixels: np.ndarray[Any, Any]) -> torch.Tensor:
    """[H, W, 3] of 8 bits as [3, H, W] in [0, 1]."""
    # Channels that lie last in memory, as in a picture, are convolved with another rounding.
    return image_to_tensor(pixels).contiguous()


def _refuse_other_settings(row: Row, record: RunRecord) -> None:
    """Raise where the settings of the row are not at hand."""
    if row["config_fingerprint"] != record.fingerprint:
        got, expected = record.fingerprint, row["config_fingerprint"]
        raise ReplayError(_where(row, f"run.json has fingerprint {got}, expected {expected}"))
    if record.identity.get("algorithm") != ALGORITHM_VERSION:
        expected = record.identity.get("algorithm")
        raise ReplayError(
            _where(row, f"this texsynth has algorithm {ALGORITHM_VERSION}, expected {expected}")
        )


def _refuse_other_weights(row: Row, network: texsynth.TextureNetwork) -> None:
    got, expected = network.weights_sha256, row["weights_sha256"]
    if got != expected:
        what = f"weights {network.weights_id!r} have sha256 {got} here, expected {expected}"
        raise ReplayError(_where(row, what))


def _where(row: Row, what: str) -> str:
    return f"task {row['task_id']!r}, image {row['path']!r}: {what}"
