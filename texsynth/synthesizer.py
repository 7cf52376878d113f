"""One exemplar at a time, interactively: synthesise, look, go on from where it stopped."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from texsynth.config import ConfigError, SynthesisConfig
from texsynth.features import TextureNetwork
from texsynth.images import (
    image_to_tensor,
    load_exemplar,
    tensor_to_pil,
    validate_images,
)
from texsynth.lanes import LaneBatch
from texsynth.levels import compute_levels
from texsynth.results import SynthesisResult, finish_task
from texsynth.scheduler import Progress
from texsynth.shapes import Size
from texsynth.synthesis import draw_first_start, make_batches
from texsynth.tasks import CurvePoint, Task
from texsynth.weights import load_network

NO_TEXTURE = "no texture yet: call synthesize() first"


class TextureSynthesizer:
    """Synthesises textures of one exemplar and keeps what is needed to go on.

    Args:
        exemplar: path of an image, a PIL image, or a tensor [3, H, W] in [0, 1].
        weights: a weights name or path as `load_network` takes it, or a loaded network.
        config: what is minimised; the `default` preset unless given.
        size: side, or (height, width), px, that a path is cropped and resized to.
        output_size: (height, width) of the textures, px; the exemplar's unless given.
        name: of the exemplar in file names; by default the file's, or `texture`.
        device: where the work is done.

    Attributes:
        exemplar: float32 [3, H, W].
        result: of the last call, a `SynthesisResult`; None before the first.
    """

    def __init__(
        self,
        exemplar: str | Path | Image.Image | np.ndarray | Tensor,
        weights: str | Path | TextureNetwork = "imagenet",
        *,
        config: SynthesisConfig | None = None,
        size: int | Size | None = 256,
        output_size: Size | None = None,
        name: str | None = None,
        device: str | torch.device = "cpu",
    ) -> None:
        if isinstance(exemplar, str | Path):
            self.name = name or Path(exemplar).stem
            self.exemplar = load_exemplar(exemplar, size)
        else:
            self.name = name or "texture"
            self.exemplar = image_to_tensor(exemplar).cpu()
        if not isinstance(weights, TextureNetwork):
            weights = load_network(weights)
        self.network: TextureNetwork = weights.to(device)
        self.output_size = output_size
        self.config = config or SynthesisConfig.preset("default")
        self.result: SynthesisResult | None = None
        self._task: Task | None = None
        self._batches: list[LaneBatch] = []

    @property
    def losses(self) -> list[CurvePoint]:
        """Loss curve of the current texture from its start; at most 64 points."""
        return [] if self._task is None else list(self._task.curve)

    @property
    def output_image(self) -> Image.Image:
        """The texture as it would be stored: 8 bits, rounded.

        Raises:
            RuntimeError: before the first `synthesize`.
        """
        return tensor_to_pil(self._require_result().image_8bit)

    def synthesize(
        self,
        *,
        seed: int = 0,
        evaluations: float | None = None,
        start: Tensor | None = None,
        progress: Callable[[Progress], None] | None = None,
    ) -> Image.Image:
        """A new texture, from a new start.

        Args:
            seed: of the start image; every seed gives another texture.
            evaluations: budget at full size; the config's unless given.
            start: [3, H, W], an image to start from instead of a drawn one.
            progress: called whenever the losses are looked at.

        Returns:
            The texture, as `output_image`; the one that `texsynth.synthesize` makes of this seed.

        Raises:
            ValueError: if exemplar or start have pixels that are not finite.
            ConfigError, TapError: if exemplar or texture are too small for the levels or taps.
        """
        exemplar = self.exemplar[None]
        validate_images(exemplar, "exemplar")
        exemplar_size = (exemplar.shape[-2], exemplar.shape[-1])
        sizes = compute_levels(self.config, *(self.output_size or exemplar_size), exemplar_size)
        batches = make_batches(self.network, self.config, sizes, exemplar_size)
        if start is None:
            start = draw_first_start(self.exemplar, seed, self.config, sizes)
        validate_images(start[None], "start")
        budget = self.config.evaluations if evaluations is None else evaluations
        _validate_budget(budget)
        task = Task(0, self.exemplar, start.float(), budget, seed, self.output_size)
        batches[0].admit([task])
        self._task, self._batches, self.result = task, batches, None
        return self._finish(task, progress)

    def optimize(
        self,
        evaluations: float,
        *,
        progress: Callable[[Progress], None] | None = None,
    ) -> Image.Image:
        """Go on with the current texture from where it stopped, the optimiser's history kept.

        What a time limit left of the coarser levels is done first; the limit counts anew.

        Args:
            evaluations: to be spent in addition, at full size.
            progress: called whenever the losses are looked at.

        Returns:
            The texture, as `output_image`.

        Raises:
            RuntimeError: before the first `synthesize`.
        """
        if self._task is None:
            raise RuntimeError(NO_TEXTURE)
        _validate_budget(evaluations)
        self._batches[0].resume(evaluations)
        return self._finish(self._task, progress)

    def save(self, directory: str | Path) -> tuple[Path, Path]:
        """Write `exemplar_NAME.png` and `synth_NAME.png`; return their paths.

        Args:
            directory: made if need be.

        Raises:
            RuntimeError: before the first `synthesize`.
        """
        texture = self.output_image
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        paths = (directory / f"exemplar_{self.name}.png", directory / f"synth_{self.name}.png")
        tensor_to_pil(self.exemplar).save(paths[0])
        texture.save(paths[1])
        return paths

    def show(self) -> None:
        """Open exemplar and texture side by side in the system's image viewer."""
        pair = [tensor_to_pil(self.exemplar), self.output_image]
        height = max(picture.height for picture in pair)
        sheet = Image.new("RGB", (sum(picture.width for picture in pair), height))
        for picture, left in zip(pair, (0, pair[0].width), strict=True):
            sheet.paste(picture, (left, 0))
        sheet.show()

    def _finish(self, task: Task, progress: Callable[[Progress], None] | None) -> Image.Image:
        """Run the levels that are left to their ends and measure the result."""
        while True:
            batch = self._batches[0]
            while batch.running:
                batch.advance()
                if progress is not None:
                    progress(Progress(task.index, task.curve[-1], task.budget))
            if task.stop_reason == "time_limit" or len(self._batches) == 1:
                break
            del self._batches[0]
            task.enter_next_level()
            self._batches[0].admit([task])
        self.result = finish_task(task, self.network)
        return self.output_image

    def _require_result(self) -> SynthesisResult:
        if self.result is None:
            raise RuntimeError(NO_TEXTURE)
        return self.result


def _validate_budget(evaluations: float) -> None:
    if not evaluations >= 1:
        raise ConfigError(f"evaluations is {evaluations!r}, expected at least 1")
