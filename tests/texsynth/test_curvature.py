from __future__ import annotations

import pytest
import torch
from torch import Tensor

from texsynth.curvature import CurvatureHistory, dot

Pair = tuple[Tensor, Tensor]
UNKNOWNS = 7


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def hessian() -> Tensor:
    root = draw(UNKNOWNS, UNKNOWNS, seed=99)
    return root @ root.T + torch.eye(UNKNOWNS, dtype=torch.float64)


def draw_pairs(lanes: int, seed: int) -> Pair:
    """Steps and their changes of the gradient of a convex quadratic, scaled by lane."""
    step = draw(lanes, UNKNOWNS, seed=seed)
    scale = torch.arange(1, lanes + 1, dtype=torch.float64)[:, None]
    return step, scale * step @ hessian()


def dense_inverse_hessian(pairs: list[Pair]) -> Tensor:
    """H <- V^T H V + rho s s^T, V = I - rho y s^T, rho = 1 / s.y: Nocedal & Wright, eq. 6.17."""
    identity = torch.eye(UNKNOWNS, dtype=torch.float64)
    if not pairs:
        return identity
    s, y = pairs[-1]
    inverse = (s @ y) / (y @ y) * identity
    for s, y in pairs:
        rho = 1 / (s @ y)
        v = identity - rho * torch.outer(y, s)
        inverse = v.T @ inverse @ v + rho * torch.outer(s, s)
    return inverse


def two_loop_recursion(pairs: list[Pair], vector: Tensor) -> Tensor:
    """Algorithm 7.4 of Nocedal & Wright, line by line."""
    q, alphas = vector.clone(), []
    for s, y in reversed(pairs):
        alphas.append((s @ q) / (s @ y))
        q = q - alphas[-1] * y
    if pairs:
        s, y = pairs[-1]
        q = (s @ y) / (y @ y) * q
    for (s, y), alpha in zip(pairs, reversed(alphas), strict=True):
        beta = (y @ q) / (s @ y)
        q = q + s * (alpha - beta)
    return q


def fill(history: CurvatureHistory, pushes: int, seed: int = 0) -> list[list[Pair]]:
    """Push pairs that each lane takes or not at random; what each lane should then remember."""
    lanes, capacity, _ = history.s.shape
    remembered: list[list[Pair]] = [[] for _ in range(lanes)]
    generator = torch.Generator().manual_seed(seed)
    for push in range(pushes):
        step, change = draw_pairs(lanes, seed=1000 * seed + push)
        # Lane 0 takes no pair, the last takes every one: the counts drift apart.
        shares = torch.linspace(0, 1, lanes)
        accepted = torch.rand(lanes, generator=generator) < shares
        history.push(step, change, accepted)
        for lane in accepted.nonzero().flatten().tolist():
            remembered[lane] = [*remembered[lane], (step[lane], change[lane])][-capacity:]
    return remembered


@pytest.mark.parametrize("pushes", [0, 1, 3, 4, 5, 9, 14])
def test_product_is_that_of_both_oracles(pushes: int) -> None:
    """Empty, part-filled and wrapped rings side by side: K = 4, five lanes."""
    history = CurvatureHistory.empty(draw(5, UNKNOWNS), 4)
    remembered = fill(history, pushes)
    assert history.stored.tolist() == [len(pairs) for pairs in remembered]
    vector = draw(5, UNKNOWNS, seed=7)
    product = history.inverse_hessian_product(vector)
    for lane, pairs in enumerate(remembered):
        dense = dense_inverse_hessian(pairs) @ vector[lane]
        torch.testing.assert_close(product[lane], dense, rtol=1e-9, atol=1e-9)
        literal = two_loop_recursion(pairs, vector[lane])
        torch.testing.assert_close(product[lane], literal, rtol=1e-9, atol=1e-9)


def test_lanes_had_different_counts() -> None:
    """Guards the test above: it would prove little if all rings were alike."""
    history = CurvatureHistory.empty(draw(5, UNKNOWNS), 4)
    fill(history, 5)
    assert len(set(history.stored.tolist())) >= 3
    assert len(set(history.head.tolist())) >= 3


def test_newest_pair_satisfies_the_secant_equation() -> None:
    history = CurvatureHistory.empty(draw(5, UNKNOWNS), 4)
    remembered = fill(history, 9)
    newest = torch.stack([pairs[-1][1] if pairs else draw(UNKNOWNS) for pairs in remembered])
    product = history.inverse_hessian_product(newest)
    for lane, pairs in enumerate(remembered):
        if pairs:
            torch.testing.assert_close(product[lane], pairs[-1][0], rtol=1e-9, atol=1e-9)


def test_without_pairs_the_product_is_the_vector() -> None:
    vector = draw(3, UNKNOWNS)
    history = CurvatureHistory.empty(vector, 4)
    assert torch.equal(history.inverse_hessian_product(vector), vector)
    history.push(*draw_pairs(3, seed=0), torch.zeros(3, dtype=torch.bool))
    assert torch.equal(history.inverse_hessian_product(vector), vector)


def test_forgotten_lanes_start_afresh() -> None:
    history = CurvatureHistory.empty(draw(3, UNKNOWNS), 4)
    always = torch.ones(3, dtype=torch.bool)
    for seed in range(6):
        history.push(*draw_pairs(3, seed), always)
    vector = draw(3, UNKNOWNS, seed=7)
    before = history.inverse_hessian_product(vector)
    history.forget(torch.tensor([False, True, False]))
    after = history.inverse_hessian_product(vector)
    assert history.stored.tolist() == [4, 0, 4]
    assert torch.equal(after[1], vector[1])
    assert torch.equal(after[[0, 2]], before[[0, 2]])
    step, change = draw_pairs(3, seed=50)
    history.push(step, change, always)
    expected = two_loop_recursion([(step[1], change[1])], vector[1])
    torch.testing.assert_close(history.inverse_hessian_product(vector)[1], expected)


def test_cleared_lanes_are_as_at_first_and_others_as_they_were() -> None:
    history, vector = CurvatureHistory.empty(draw(3, UNKNOWNS), pairs=4), draw(3, UNKNOWNS, seed=5)
    kept = fill(history, 6)
    before = history.inverse_hessian_product(vector)
    history.clear(torch.tensor([2, 0]))
    assert (history.stored[[0, 2]] == 0).all()
    assert (history.head[[0, 2]] == 0).all()
    after = history.inverse_hessian_product(vector)
    assert torch.equal(after[[0, 2]], vector[[0, 2]])
    assert torch.equal(after[1], before[1])
    for number in range(3):
        pair = draw_pairs(3, seed=40 + number)
        history.push(*pair, torch.tensor([True, False, True]))
        for lane in (0, 2):
            kept[lane] = [*(kept[lane] if number else []), (pair[0][lane], pair[1][lane])]
    for lane in range(3):
        expected = two_loop_recursion(kept[lane], vector[lane])
        product = history.inverse_hessian_product(vector)[lane]
        torch.testing.assert_close(product, expected, rtol=1e-9, atol=1e-9)


def test_a_refused_pair_changes_nothing_even_if_it_is_nan() -> None:
    history = CurvatureHistory.empty(draw(2, UNKNOWNS), 4)
    always = torch.ones(2, dtype=torch.bool)
    for seed in range(3):
        history.push(*draw_pairs(2, seed), always)
    vector = draw(2, UNKNOWNS, seed=7)
    before = history.inverse_hessian_product(vector)
    nan = torch.full((2, UNKNOWNS), torch.nan, dtype=torch.float64)
    history.push(nan, nan, ~always)
    torch.testing.assert_close(history.inverse_hessian_product(vector), before, rtol=1e-14, atol=0)


def test_lanes_do_not_see_each_other() -> None:
    def product(poison: float) -> Tensor:
        history = CurvatureHistory.empty(draw(3, UNKNOWNS), 4)
        for seed in range(6):
            step, change = draw_pairs(3, seed)
            step[1] *= poison
            history.push(step, change, torch.ones(3, dtype=torch.bool))
        return history.inverse_hessian_product(draw(3, UNKNOWNS, seed=7))

    clean, poisoned = product(1.0), product(torch.nan)
    assert poisoned[1].isnan().all()
    assert torch.equal(poisoned[[0, 2]], clean[[0, 2]])


def test_scalars_are_float64_for_float32_vectors() -> None:
    history = CurvatureHistory.empty(draw(2, UNKNOWNS).float(), 4)
    step, change = (part.float() for part in draw_pairs(2, 0))
    history.push(step, change, torch.ones(2, dtype=torch.bool))
    assert history.sy.dtype == history.yy.dtype == torch.float64
    product = history.inverse_hessian_product(change)
    assert product.dtype == torch.float32
    torch.testing.assert_close(product, step, rtol=1e-5, atol=1e-5)


def test_dot_accumulates_in_float64() -> None:
    """2^24 + 1 + ... + 1 stays 2^24 when it is summed in float32."""
    ones = torch.ones(2, 1001)
    ones[:, 0] = 2.0**12
    assert dot(ones, ones).tolist() == [2.0**24 + 1000] * 2
