from __future__ import annotations

import pytest
import torch

from benchmarks.arithmetic import VARIANTS


def read_settings() -> tuple[bool, bool, bool]:
    """Whether convolutions are deterministic and in TF32, and products in TF32."""
    cudnn = torch.backends.cudnn
    return cudnn.deterministic, cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("float32", (True, False, False)),
        ("float32, not deterministic", (False, False, False)),
        ("TF32 convolutions", (True, True, False)),
        ("TF32 convolutions and products", (True, True, True)),
    ],
)
def test_a_variant_is_what_it_says_and_leaves_nothing_behind(
    name: str, expected: tuple[bool, bool, bool]
) -> None:
    before = read_settings()
    with VARIANTS[name]():
        assert read_settings() == expected
    assert read_settings() == before
    assert len(VARIANTS) == 4
