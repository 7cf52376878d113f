"""Our loss against numbers that the public reference implementation printed.

The weights are drawn by a formula (normal weights of variance 2 / (9 C_in), biases of standard
deviation 0.05, from numpy's Philox(19)), so that no file is needed.

What is determined and what is not. Values, terms and gradients agree to float32 rounding. Of the
L-BFGS trajectory the first two evaluations do. The first step has L1 length 1, 5e-6 per pixel, so
that y of the first pair is a difference of nearly equal float32 gradients; the second step takes
away 90 % of the loss and more, and its length hangs on s.y: 10 % of s.y more or less change the
third value by a quarter to a factor of three. There the rounding of the reference's own projection
decides. Measured for evaluation 3 against the printed number, cracked_0063 / blotchy_0025: our
float32 -3 % / -60 %, our float64 -6 % / -56 %, the projection as X / |X| * |I| in float32 -3 % /
-73 %, and as z / |z| * I with z = X conj(I) -0.1 % / -17 %. The last is the paper's form and the
reference's: of the groupings tried it alone gives the printed losses and gradients to 5e-7
(tests/benchmarks/test_reference_algorithm.py); why 17 % are left is not known. Ours has no
projection to round. Then the trajectories come together again (evaluation 5: -0.2 % / -0.3 %) and
part slowly: the lowest loss so far stays within 0.9 to 1.6 times the printed one at every fourth
evaluation up to the 40th, the 40th itself 11 to 18 % / 6 to 7 % above it.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import accumulate
from typing import Any

import pytest
import torch
from torch import Tensor

from texsynth import SynthesisConfig, TextureNetwork, TextureObjective
from texsynth.images import resize
from texsynth.lbfgs import lbfgs_init, lbfgs_step

pytestmark = pytest.mark.shared
NAMES = ["cracked_0063", "blotchy_0025"]
REFERENCE = SynthesisConfig.preset("reference")
ROUNDING = 2e-5
"""Measured: 7e-6 or less."""


@pytest.mark.parametrize("image", ["published_synthesis", "uniform_noise"])
@pytest.mark.parametrize("name", NAMES)
def test_terms_and_gradient_are_the_references(
    formula_network: TextureNetwork,
    load_result: Callable[[str], Tensor],
    uniform_noise: Tensor,
    golden: dict[str, Any],
    name: str,
    image: str,
) -> None:
    expected = golden[name][image]
    objective = TextureObjective(formula_network, load_result(f"exemplar_{name}"), REFERENCE)
    synthesis = load_result(f"synth_{name}")
    images = (synthesis if image == "published_synthesis" else uniform_noise).requires_grad_()
    terms = objective(images)
    (gradient,) = torch.autograd.grad(terms.total.sum(), images)
    assert len(objective.taps) == 6
    assert terms.gram[0].tolist() == pytest.approx(expected["gram_layers"], rel=ROUNDING)
    assert terms.total.item() == pytest.approx(expected["total"], rel=ROUNDING)
    assert terms.spectrum.item() == pytest.approx(expected["spectrum"], rel=ROUNDING)
    assert gradient.norm().item() == pytest.approx(expected["grad_l2"], rel=ROUNDING)
    assert gradient.double().sum().item() == pytest.approx(expected["grad_sum"], rel=ROUNDING)


def values_of_ours(objective: TextureObjective, start: Tensor, evaluations: int) -> list[float]:
    values: list[float] = []

    def evaluate(x: Tensor) -> tuple[Tensor, Tensor]:
        value, gradient = objective.value_and_gradient(x)
        values.append(value.item())
        return value, gradient

    state = lbfgs_init(start, REFERENCE.optimizer)
    for _ in range(evaluations):
        state = lbfgs_step(state, evaluate, REFERENCE.optimizer)
    return values


def values_of_torch(objective: TextureObjective, start: Tensor, evaluations: int) -> list[float]:
    """torch.optim.LBFGS as the reference drives it: 20 evaluations to a call."""
    values: list[float] = []
    variables = start.clone().requires_grad_()
    optimizer = torch.optim.LBFGS([variables])

    def closure() -> float:
        value, variables.grad = objective.value_and_gradient(variables)
        values.append(value.item())
        return values[-1]

    while len(values) < evaluations:
        optimizer.step(closure)
    return values[:evaluations]


@pytest.mark.parametrize("name", NAMES)
def test_trajectory_is_that_of_torch_in_float64(
    formula_tensors: dict[str, Tensor],
    load_result: Callable[[str], Tensor],
    uniform_noise: Tensor,
    name: str,
) -> None:
    """Into the second call of the optimiser, at 16 px, where float64 is cheap; measured: 1e-12."""
    first_two = [key for key in formula_tensors if key.split(".")[1] in ("0", "2")]
    tensors = {key: formula_tensors[key] for key in first_two}
    network = TextureNetwork("vgg19", tensors, weights_id="formula", weights_sha256="").double()
    exemplar = resize(load_result(f"exemplar_{name}"), 16, 16).double()
    config = SynthesisConfig.preset("reference", taps=("relu1_1", "pool1"))
    objective = TextureObjective(network, exemplar, config)
    start = uniform_noise[..., :16, :16].double()
    expected = values_of_torch(objective, start, 25)
    assert values_of_ours(objective, start, 25) == pytest.approx(expected, rel=1e-9)
    assert expected[-1] < 0.01 * expected[0]


LOOSE = 2.0
"""Factor between the lowest losses so far (measured: 0.9 to 1.6)."""


def assert_follows(values: list[float], printed: list[float]) -> None:
    """What is determined tightly; then the lowest loss so far, within a factor."""
    assert values[:2] == pytest.approx(printed[:2], rel=1e-5)  # measured: 3e-7
    assert values[4] == pytest.approx(printed[4], rel=0.02)  # measured: 0.0025
    lowest, expected = list(accumulate(values, min)), list(accumulate(printed, min))
    for evaluation in range(4, len(values) + 1, 4):
        ratio = lowest[evaluation - 1] / expected[evaluation - 1]
        assert 1 / LOOSE < ratio < LOOSE, f"evaluation {evaluation}"


def test_trajectory_follows_the_reference(
    formula_network: TextureNetwork,
    load_result: Callable[[str], Tensor],
    uniform_noise: Tensor,
    golden: dict[str, Any],
) -> None:
    objective = TextureObjective(formula_network, load_result("exemplar_cracked_0063"), REFERENCE)
    values = values_of_ours(objective, uniform_noise, 5)
    assert_follows(values, golden["cracked_0063"]["lbfgs_evaluations"][:5])


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NAMES)
def test_whole_trajectory_follows_the_reference(
    formula_network: TextureNetwork,
    load_result: Callable[[str], Tensor],
    uniform_noise: Tensor,
    golden: dict[str, Any],
    name: str,
) -> None:
    objective = TextureObjective(formula_network, load_result(f"exemplar_{name}"), REFERENCE)
    values = values_of_ours(objective, uniform_noise, 40)
    assert_follows(values, golden[name]["lbfgs_evaluations"])
    by_torch = values_of_torch(objective, uniform_noise, 10)
    # Measured in float32: 2e-3; in float64 (above) they agree to 1e-12.
    assert values[:10] == pytest.approx(by_torch, rel=1e-2)
