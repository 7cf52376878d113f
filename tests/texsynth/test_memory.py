from __future__ import annotations

import copy
import dataclasses
import itertools
import math
from typing import Any

import pytest
import torch

from benchmarks.lane_memory import measure_peak
from texsynth import LBFGSConfig, SynthesisConfig, TapError, TextureNetwork, load_network, tiling
from texsynth.levels import compute_levels
from texsynth.memory import (
    CPU_LANES,
    EVALUATION_MATRICES,
    EVALUATION_VECTORS,
    METRIC_MATRICES,
    MOST_LANES,
    SHARE_OF_FREE_MEMORY,
    STATE_VECTORS,
    choose_history,
    choose_lanes,
    estimate_lane_bytes,
)

SIZES = [(32, 48), (64, 96)]


def config_of(history: int = 20, **changes: Any) -> SynthesisConfig:
    return SynthesisConfig(optimizer=LBFGSConfig(history=history), **changes)


@pytest.mark.parametrize(
    ("free_lanes", "chosen"), [(0.0, 1), (0.99, 1), (1.01, 1), (2.99, 2), (17.01, 17), (1e6, 64)]
)
def test_as_many_lanes_as_fit_into_the_share_from_1_to_64(
    network: TextureNetwork, free_lanes: float, chosen: int
) -> None:
    config = config_of()
    lane = estimate_lane_bytes(network, config, SIZES)
    free = int(free_lanes * lane / SHARE_OF_FREE_MEMORY)
    assert choose_lanes(network, config, SIZES, free_bytes=free) == chosen
    assert MOST_LANES == 64


@pytest.mark.parametrize(("fits", "chosen"), [(0, 0), (1, 1), (13, 13), (20, 20), (40, 20)])
def test_the_longest_history_that_fits(network: TextureNetwork, fits: int, chosen: int) -> None:
    config = config_of(history=20)
    lane = estimate_lane_bytes(network, config_of(history=max(1, fits)), SIZES)
    # One byte more or less than that lane takes, of what may be taken.
    free = math.ceil((lane if fits else lane - 1) / SHARE_OF_FREE_MEMORY)
    if not fits:
        free -= 2
    assert choose_history(network, config, SIZES, free_bytes=free) == chosen


def test_a_cpu_has_four_lanes(network: TextureNetwork) -> None:
    assert choose_lanes(network, config_of(history=1000), SIZES) == CPU_LANES == 4


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_is_asked_for_its_free_memory(network: TextureNetwork) -> None:
    on_gpu = copy.deepcopy(network).to("cuda")
    free, _ = torch.cuda.mem_get_info()
    # So large that fewer fit than one actor may have.
    sizes = [(4096, 4096)]
    expected = choose_lanes(network, config_of(), sizes, free_bytes=free)
    assert choose_lanes(on_gpu, config_of(), sizes) == pytest.approx(expected, abs=1)


def test_a_pair_of_the_history_is_two_images_at_each_level(network: TextureNetwork) -> None:
    one, two = (estimate_lane_bytes(network, config_of(history), SIZES) for history in (500, 501))
    images = 4 * 3 * (32 * 48 + 64 * 96)
    products = 2 * 2 * 8 * (501**2 - 500**2)
    assert two - one == 2 * images + products


def test_the_backward_pass_holds_most_where_maps_and_gradients_are_most(
    network: TextureNetwork,
) -> None:
    def estimate(*taps: str) -> int:
        config = config_of(1, taps=taps, spectrum="none", weighting="none")
        return estimate_lane_bytes(network, config, [(64, 96)])

    whole = 4 * 64 * 64 * 96
    # relu1_2 is as large as relu1_1: one map more is held.
    assert estimate("relu1_2") - estimate("relu1_1") == whole
    # pool1 is a quarter: as its gradient comes by, less is held than at relu1_2.
    assert estimate("pool1") == estimate("relu1_2")
    # At relu2_2: two maps of 64 channels, and at a quarter of the size 64 and twice 128, whose
    # gradients are two more, instead of two of 64 with two gradients; another Gram matrix, too.
    matrices = 4 * (1 + EVALUATION_MATRICES) * (128**2 - 64**2)
    assert estimate("pool2") - estimate("pool1") == 0.25 * whole + matrices
    # The gradient of a shallow tap waits for that of the deep one; and its Gram matrices.
    matrices = 4 * (1 + EVALUATION_MATRICES) * 64**2
    assert estimate("relu1_1", "pool1") - estimate("pool1") == whole + matrices


def test_weights_are_kept_at_each_level_and_count_if_matrices_are_most(
    network: TextureNetwork,
) -> None:
    def estimate(side: int, weighting: Any) -> int:
        config = config_of(1, taps=("relu1_1", "pool2"), weighting=weighting)
        return estimate_lane_bytes(network, config, [(side // 2, side // 2), (side, side)])

    matrix = 4 * (64**2 + 128**2)
    weights = 2 * METRIC_MATRICES * matrix
    assert estimate(128, "sensitivity") - estimate(128, "none") == weights
    assert estimate(8, "sensitivity") - estimate(8, "none") > weights


@pytest.mark.parametrize(("spectrum", "numbers"), [("none", 0), ("gray", 1), ("colour", 6)])
def test_the_target_spectrum_is_kept(network: TextureNetwork, spectrum: Any, numbers: int) -> None:
    config = config_of(1, spectrum="none")
    bare = estimate_lane_bytes(network, config, [(64, 96)])
    config = dataclasses.replace(config, spectrum=spectrum)
    assert estimate_lane_bytes(network, config, [(64, 96)]) - bare == 4 * numbers * 64 * 49


def test_a_size_too_small_for_any_tap_is_refused(network: TextureNetwork) -> None:
    with pytest.raises(TapError, match="image of 15x15 px"):
        estimate_lane_bytes(network, config_of(), [(15, 15)])


def test_a_lane_grows_as_the_area_of_the_texture_whatever_its_exemplar() -> None:
    vgg, config = load_network("random:0"), config_of(100)
    sides = [256, 512, 1024]
    lanes = [
        estimate_lane_bytes(vgg, config, compute_levels(config, side, side, (128, 128)), (128, 128))
        for side in sides
    ]
    for before, after in itertools.pairwise(lanes):
        assert after / before == pytest.approx(4, rel=0.05)
    # The exemplar decides on the taps: to pool3, not to pool5.
    own = estimate_lane_bytes(vgg, config, compute_levels(config, 1024, 1024))
    assert own > lanes[-1]
    assert choose_lanes(vgg, config, [(1024, 1024)], (128, 128), free_bytes=80 * 2**30) > 1


def test_a_small_texture_of_a_large_exemplar_needs_the_room_for_its_targets(
    network: TextureNetwork,
) -> None:
    def estimate(side: int) -> int:
        return estimate_lane_bytes(network, config_of(), [(32, 32)], (side, side))

    assert estimate(32) == estimate_lane_bytes(network, config_of(), [(32, 32)])
    assert estimate(1024) - estimate(512) == pytest.approx(4 * (3 * 64 + 3) * (1024**2 - 512**2))


def test_a_texture_by_tiles_has_the_maps_of_one_tile(network: TextureNetwork) -> None:
    def estimate(side: int, tile_px: int | None) -> int:
        config = config_of(1, tile_px=tile_px, spectrum="none", weighting="none")
        return estimate_lane_bytes(network, config, [(side, side)], (64, 64))

    # Everything but the maps grows with the area, whether there are tiles or not.
    images = 4 * 3 * (STATE_VECTORS + 2 + EVALUATION_VECTORS)
    assert estimate(1024, 128) - estimate(512, 128) == images * (1024**2 - 512**2)
    assert estimate(512, 128) < 0.5 * estimate(512, None)
    assert choose_lanes(network, config_of(tile_px=128), [(512, 512)]) == 1


def test_2048_px_fit_into_16_gib_with_half_the_history() -> None:
    vgg = load_network("random:0")
    free = 16 * 2**30 * SHARE_OF_FREE_MEMORY

    def estimate(history: int, **changes: Any) -> int:
        config = config_of(history, **changes)
        sizes = compute_levels(config, 2048, 2048, (256, 256))
        return estimate_lane_bytes(vgg, config, sizes, (256, 256))

    assert estimate(50) < free < estimate(100)
    assert estimate(50, tile_px=None) > free


@pytest.mark.slow
@pytest.mark.parametrize("tileable", [False, True])
def test_the_estimate_with_tiles_is_what_the_allocator_gives_out(
    tileable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    # As far above the bound as a large texture is above the true one.
    monkeypatch.setattr(tiling, "LARGEST_WHOLE", 128 * 128)
    monkeypatch.setattr(tiling, "AUTO_TILE_PX", 128)
    vgg = load_network("random:0")
    exemplar = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    config = config_of(10, taps=("pool1", "pool2"), levels=1, tileable=tileable)
    measured = measure_peak(vgg, config, exemplar, 1, (256, 256))
    estimated = estimate_lane_bytes(vgg, config, [(256, 256)], (64, 64))
    assert estimated == pytest.approx(measured, rel=0.15)
    monkeypatch.setattr(tiling, "LARGEST_WHOLE", 256 * 256)
    assert measure_peak(vgg, config, exemplar, 1, (256, 256)) > 1.5 * measured
