"""How near one step of all lanes comes to what the device can do, and what a lane takes of memory.

    python -m benchmarks.roofline [--size 256] [--weights hed] [--device cuda] [--lanes 1,2,4]

A tick is one `lbfgs_step` of all lanes at full size, with a full history and, as the preset has
them, weights by sensitivity. It is set against the
bare convolutions of its own forward and backward pass, each called with the tensors that the
network gives it, and against a large matrix product of the same dtype. FLOP are those that
`torch.utils.flop_counter` counts: of convolutions and matrix products, two per multiplication.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.calibrate_hed import load_calibration_images
from benchmarks.environment import describe_environment
from benchmarks.lane_memory import measure_peak
from pipeline.calibration import memory_bytes
from texsynth import SynthesisConfig, TextureNetwork, TextureObjective, load_network
from texsynth.config import PresetName
from texsynth.gram import GramMetric, compute_gram, gram_term
from texsynth.lbfgs import LBFGSState, lbfgs_init, lbfgs_select, lbfgs_step
from texsynth.levels import compute_levels
from texsynth.memory import SHARE_OF_FREE_MEMORY, estimate_lane_bytes
from texsynth.precision import exact_arithmetic
from texsynth.shapes import Images
from texsynth.start import draw_starts

Run = Callable[[], object]

FEWEST_ROUNDS, MOST_ROUNDS = 3, 100
"""Times that each piece is measured, however long it takes."""
CPU_MEMORY_RUNS = 2
"""Lane counts at which a CPU's memory is measured: such runs are slow, and peaks are linear."""
MATRIX_SIDE = {"cpu": 1024, "cuda": 8192}
COUNTED = ("network", "gram", "convolutions", "matrix product")
"""Pieces whose FLOP are counted; those of L-BFGS are none of an evaluation's."""

aten = torch.ops.aten


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What was measured at one lane count.

    Args:
        lanes: B.
        flop: by piece, of all lanes together.
        seconds: by piece, median of all rounds.
        lane_bytes: by what the peak grew for each lane since the lane count before; None if
            unmeasured.
        estimated_bytes: of a lane, by `texsynth.memory`.
    """

    lanes: int
    flop: Mapping[str, int]
    seconds: Mapping[str, float]
    lane_bytes: float | None
    estimated_bytes: int

    @property
    def evaluation_flop(self) -> int:
        """Of all lanes."""
        return self.flop["network"] + self.flop["gram"]

    def speed(self, piece: str) -> float:
        """FLOP per second; a tick has those of its evaluation."""
        flop = self.evaluation_flop if piece == "tick" else self.flop[piece]
        return flop / self.seconds[piece]

    def share(self, piece: str) -> float:
        """Of the seconds of a tick."""
        return self.seconds[piece] / self.seconds["tick"]

    def columns(self) -> dict[str, float | None]:
        """What is printed, by name."""
        matrix, convolutions = self.speed("matrix product"), self.speed("convolutions")
        return {
            "lanes": self.lanes,
            "GFLOP per evaluation": self.evaluation_flop / self.lanes / 1e9,
            "tick, s": self.seconds["tick"],
            "tick, GFLOP/s": self.speed("tick") / 1e9,
            "convolutions, GFLOP/s": convolutions / 1e9,
            "matrix product, GFLOP/s": matrix / 1e9,
            "tick / convolutions": self.speed("tick") / convolutions,
            "tick / matrix product": self.speed("tick") / matrix,
            "network / convolutions": self.speed("network") / convolutions,
            "outside the network": 1 - self.share("network"),
            "Gram": self.share("gram"),
            "spectrum, range": self.share("spectrum"),
            "L-BFGS": self.share("lbfgs"),
            "MB per lane": self.lane_bytes and self.lane_bytes / 1e6,
            "estimated MB": self.estimated_bytes / 1e6,
            "estimated / measured": self.lane_bytes and self.estimated_bytes / self.lane_bytes,
        }


class _Convolutions(TorchDispatchMode):
    """Notes the arguments of the convolutions that run within: tensors, stride and the rest."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.calls: list[tuple[Any, ...]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func is aten.convolution.default:
            self.calls.append(args)
        return func(*args, **(kwargs or {}))


class Pieces:
    """A tick of equal lanes, and its parts, each ready to be run by itself.

    Args:
        network: shared by all lanes.
        config: of the synthesis.
        exemplar: [1, 3, H, W].
        lane: of `make_lane`; left as it is.
        lanes: B.
    """

    def __init__(
        self,
        network: TextureNetwork,
        config: SynthesisConfig,
        exemplar: Images,
        lane: LBFGSState,
        lanes: int,
    ) -> None:
        self._network = network
        self._config = config
        same = torch.zeros(lanes, dtype=torch.int64, device=exemplar.device)
        self._objective = make_objective(network, config, exemplar).select(same)
        self.state = lbfgs_select(lane, same)
        self._images = self.state.point.clone().requires_grad_()
        with torch.no_grad(), _Convolutions() as convolutions:
            maps = network(self._images, self._objective.taps)
        self._convolutions = convolutions.calls
        self._maps = [tap.detach().requires_grad_() for tap in maps]
        self._targets = [compute_gram(tap) / 2 for tap in maps]
        side = MATRIX_SIDE[exemplar.device.type]
        self._matrix = torch.rand((side, side)).to(self._convolutions[-1][0])

    def runs(self) -> dict[str, Run]:
        """What is timed, by name."""
        return {
            "tick": self.tick,
            "network": self.network,
            "convolutions": self.convolutions,
            "matrix product": self.matrix_product,
            "gram": self.gram,
            "spectrum": self.spectrum,
            "lbfgs": self.lbfgs,
        }

    def tick(self) -> None:
        """One step of all lanes."""
        evaluate = self._objective.value_and_gradient
        self.state = lbfgs_step(self.state, evaluate, self._config.optimizer)

    def lbfgs(self) -> None:
        """A step without its evaluation: a lower value at the same gradient, so no new pair."""
        known = self.state.value - self.state.value.abs(), self.state.gradient
        lbfgs_step(self.state, lambda point: known, self._config.optimizer)

    def network(self) -> object:
        """The maps of the taps, and the gradient that given ones of them pass to the images."""
        # Not by a call: the FLOP counter follows those, and then `grad` refuses a leaf.
        maps = self._network.forward(self._images, self._objective.taps)
        return torch.autograd.grad(maps, self._images, [tap.detach() for tap in self._maps])

    def gram(self) -> object:
        """The Gram terms of given maps, with gradients."""
        metric = self._objective._metric
        metrics: Sequence[GramMetric | None] = metric.gram if metric else [None] * len(self._maps)
        triples = zip(self._maps, self._targets, metrics, strict=True)
        terms = torch.stack([gram_term(*triple) for triple in triples])
        return torch.autograd.grad(terms.sum(), self._maps)

    def spectrum(self) -> object:
        """The spectrum term and the range penalty, with gradients."""
        objective = self._objective
        terms = objective._spectrum_term(self._images) + objective._range_term(self._images)
        if not terms.requires_grad:
            return None
        return torch.autograd.grad(terms.sum(), self._images)

    @torch.no_grad()
    def convolutions(self) -> None:
        """The network's convolutions and their gradients with respect to the input, no more."""
        for features, weight, bias, *rest in self._convolutions:
            out = aten.convolution(features, weight, bias, *rest)
            wanted = [True, False, False]
            aten.convolution_backward(out, features, weight, [len(weight)], *rest, wanted)

    def matrix_product(self) -> Tensor:
        """Of a square matrix with itself."""
        return self._matrix @ self._matrix


def make_objective(
    network: TextureNetwork, config: SynthesisConfig, exemplar: Images
) -> TextureObjective:
    """What one lane minimises, weighted as at the start if the config wants it."""
    objective = TextureObjective(network, exemplar, config)
    if config.weighting != "none":
        objective.even_out(draw_starts(exemplar, [0], config.start))
    return objective


def make_lane(network: TextureNetwork, config: SynthesisConfig, exemplar: Images) -> LBFGSState:
    """One lane whose history is full, or that has had twice as many evaluations as fill it."""
    objective = make_objective(network, config, exemplar)
    state = lbfgs_init(draw_starts(exemplar, [0], config.start), config.optimizer)
    for _ in range(2 * config.optimizer.history):
        state = lbfgs_step(state, objective.value_and_gradient, config.optimizer)
        if state.history.stored.item() == config.optimizer.history:
            break
    return state


def count_flop(run: Run) -> int:
    """FLOP of one run."""
    with FlopCounterMode(display=False) as counter:
        run()
    return int(counter.get_total_flops())


def time_runs(runs: Mapping[str, Run], seconds: float, device: torch.device) -> dict[str, float]:
    """Median seconds of each, measured in turn so that a drift of the machine meets all alike.

    Args:
        runs: by name; each is run once before it is timed.
        seconds: to be spent on each, on average.
        device: waited for before and after a run.
    """
    for run in runs.values():
        run()
    samples: dict[str, list[float]] = {name: [] for name in runs}
    end = time.perf_counter() + seconds * len(runs)
    for number in range(MOST_ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() > end:
            break
        for name, run in runs.items():
            _synchronise(device)
            begun = time.perf_counter()
            run()
            _synchronise(device)
            samples[name].append(time.perf_counter() - begun)
    return {name: statistics.median(times) for name, times in samples.items()}


def _synchronise(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


class Roofline:
    """Measures one lane count after another.

    Args:
        network: on the device.
        config: of the synthesis.
        size: side, px.
        seconds: to be spent on each piece of a tick.
    """

    def __init__(
        self, network: TextureNetwork, config: SynthesisConfig, size: int, seconds: float
    ) -> None:
        self._network = network
        self._config = config
        self._seconds = seconds
        self._exemplar = load_calibration_images(size)[:1].to(network.device)
        self._lane_bytes = estimate_lane_bytes(network, config, compute_levels(config, size, size))
        self._peaks: dict[int, int] = {}
        with exact_arithmetic():
            self._lane = make_lane(network, config, self._exemplar)

    def fits(self, lanes: int) -> bool:
        """Whether the estimate for so many lanes is within the memory that lanes may take."""
        torch.cuda.empty_cache()
        memory = SHARE_OF_FREE_MEMORY * memory_bytes(self._network.device)
        return lanes * self._lane_bytes <= memory

    def measure(self, lanes: int) -> Measurement:
        """Time and memory of so many lanes.

        Raises:
            torch.OutOfMemoryError: if they do not fit on a GPU after all.
        """
        lane_bytes = self._measure_growth(lanes)
        with exact_arithmetic():
            runs = Pieces(self._network, self._config, self._exemplar, self._lane, lanes).runs()
            return Measurement(
                lanes=lanes,
                flop={name: count_flop(runs[name]) for name in COUNTED},
                seconds=time_runs(runs, self._seconds, self._network.device),
                lane_bytes=lane_bytes,
                estimated_bytes=self._lane_bytes,
            )

    def _measure_growth(self, lanes: int) -> float | None:
        """Of the peak, per lane since the lane count before."""
        if self._network.device.type == "cpu" and len(self._peaks) == CPU_MEMORY_RUNS:
            return None
        before = max(self._peaks, default=None)
        peak = measure_peak(self._network, self._config, self._exemplar, lanes)
        self._peaks[lanes] = peak
        return None if before is None else (peak - self._peaks[before]) / (lanes - before)


def parse_arguments() -> argparse.Namespace:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--size", type=int, default=256, help="px")
    parser.add_argument("--weights", default="hed")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--lanes", default="1,2,4,8,16,32", help="lane counts")
    parser.add_argument("--history", type=int, default=100)
    parser.add_argument("--preset", choices=get_args(PresetName), default="default")
    parser.add_argument("--seconds", type=float, default=2.0, help="for each piece of a tick")
    parser.add_argument("--json", type=Path, help="write the measurements here")
    return parser.parse_args()


def table_row(measured: Measurement) -> str:
    """One line of the table; a dash for what was not measured."""
    cells = []
    for value in measured.columns().values():
        digits = ",.0f" if value is not None and value >= 1000 else ".3g"
        cells.append("-" if value is None else f"{value:{digits}}")
    return f"| {' | '.join(cells)} |"


def main() -> None:
    """Print a table as Markdown, row by row."""
    arguments = parse_arguments()
    config = SynthesisConfig.preset(arguments.preset)
    optimizer = dataclasses.replace(config.optimizer, history=arguments.history)
    config = dataclasses.replace(config, optimizer=optimizer)
    network = load_network(arguments.weights, device=arguments.device)
    taps = network.resolve_taps(config.taps, arguments.size, arguments.size)
    head = [*describe_environment(), f"* weights: {network.weights_id}; taps: {', '.join(taps)}"]
    print("# One tick against the device\n\n" + "\n".join(head) + "\n", flush=True)
    roofline = Roofline(network, config, arguments.size, arguments.seconds)
    measurements: list[Measurement] = []
    skipped = []
    for lanes in sorted({int(word) for word in arguments.lanes.split(",")}):
        try:
            measured = roofline.measure(lanes) if roofline.fits(lanes) else None
        except torch.OutOfMemoryError:
            measured = None
        if measured is None:
            skipped.append(lanes)
            continue
        if not measurements:
            names = measured.columns()
            print(f"| {' | '.join(names)} |\n|{' ---: |' * len(names)}")
        print(table_row(measured), flush=True)
        measurements.append(measured)
    if skipped:
        print(f"\nSkipped, for want of memory: {', '.join(map(str, skipped))} lanes.")
    if arguments.json:
        records = [dataclasses.asdict(m) | {"columns": m.columns()} for m in measurements]
        found = {"environment": head, "measurements": records, "skipped": skipped}
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
