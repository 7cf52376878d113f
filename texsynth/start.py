"""The image that a task starts from, and what it begins a finer level with.

Drawn from the task's own generator on the CPU.

Random phase: Galerne, Gousseau, Morel, "Random Phase Textures: Theory and Synthesis" (IEEE TIP
2011): the same random phases are added to those of all three channels, which keeps spectra and
colour correlations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from texsynth.config import Start
from texsynth.images import resize
from texsynth.shapes import Images
from texsynth.spectrum import compute_spectrum, project_onto_spectrum


def draw_starts(canvas: Images, seeds: Sequence[int], start: Start) -> Images:
    """One start image per lane, of the size of the canvas.

    Args:
        canvas: [B, 3, H, W], the exemplars or what stands for them at another size
            (`texsynth.canvas`).
        seeds: B seeds, each of its own lane's generator, so that no lane depends on another.
        start: `noise` is sigmoid(N(0, 1)), as the public reference implementation starts;
            `random_phase` has the canvas' mean, spectrum and colour correlations.

    Returns:
        [B, 3, H, W] on the canvas' device, of its dtype; random phase may leave [0, 1].
    """
    images = []
    for exemplar, seed in zip(canvas.cpu(), seeds, strict=True):
        generator = torch.Generator().manual_seed(seed)
        noise = torch.randn(exemplar.shape, generator=generator, dtype=torch.float32)
        noise = noise.to(exemplar.dtype)
        if start == "noise":
            images.append(noise.sigmoid())
            continue
        # The phase of white noise is uniform and has the symmetry of a real image's spectrum.
        phase = torch.fft.rfft2(noise[0]).sgn()
        phase[0, 0] = 1
        spectrum = torch.fft.rfft2(exemplar) * phase
        images.append(torch.fft.irfft2(spectrum, s=exemplar.shape[-2:]))
    return torch.stack(images).to(canvas)


def refine(
    images: Images, canvas: Images, seeds: Sequence[int], *, periodic: bool = False
) -> Images:
    """Images at a finer level: enlarged, with random-phase detail, and with the exact spectrum.

    The detail is that of a random-phase image of the exemplar which the coarser level cannot hold.
    Projected onto the exemplar's spectrum, the image has no spectrum term to begin the level with;
    what that brings beside enlarging alone: benchmarks/convergence.

    Args:
        images: [B, 3, h, w], of the coarser level.
        canvas: [B, 3, H, W], of the finer one.
        seeds: B seeds of the tasks; the detail has a stream of its own at every level.
        periodic: whether the images go on at their opposite edges.

    Returns:
        [B, 3, H, W]; may leave [0, 1].
    """
    size, coarser = canvas.shape[-2:], images.shape[-2:]
    own_seeds = [(seed + max(size)) % 2**63 for seed in seeds]
    drawn = draw_starts(canvas, own_seeds, "random_phase")
    coarse = resize(drawn, *coarser, periodic=periodic)
    detail = drawn - resize(coarse, *size, periodic=periodic)
    enlarged = resize(images, *size, periodic=periodic)
    return project_onto_spectrum(enlarged + detail, compute_spectrum(canvas))
