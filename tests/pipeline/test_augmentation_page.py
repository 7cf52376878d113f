"""The commands and the snippet of docs/augmentation.md, as printed, on a small data set."""

from __future__ import annotations

import re
import shlex
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder

from examples.augment_dtd import main as augment_dtd

Call = Callable[..., tuple[int, str, str]]
PAGE = (Path(__file__).parents[2] / "docs" / "augmentation.md").read_text(encoding="utf-8")
SPLITS = ("train", "train", "val", "test")

pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """DTD's layout in ./DATA: eight photographs of two categories, in ten partitions."""
    root = tmp_path / "DATA" / "dtd" / "dtd"
    (root / "labels").mkdir(parents=True)
    lists: dict[str, str] = {}
    for number in range(8):
        category = ("banded", "woven")[number % 2]
        name = f"{category}/{category}_{number:04d}.jpg"
        blocks = np.random.default_rng(number).integers(0, 256, (8, 9, 3), np.uint8)
        (root / "images" / category).mkdir(parents=True, exist_ok=True)
        Image.fromarray(blocks).resize((72, 64)).save(root / "images" / name)
        for partition in range(1, 11):
            file = f"{SPLITS[(number // 2 + partition) % 4]}{partition}.txt"
            lists[file] = lists.get(file, "") + f"{name}\n"
    for file, text in lists.items():
        (root / "labels" / file).write_text(text)
    monkeypatch.chdir(tmp_path)
    return root


def read_commands() -> list[list[str]]:
    """The words of every command on the page, in its order."""
    blocks = re.findall(r"```console\n(.*?)```", PAGE, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return [shlex.split(line, comments=True) for line in lines]


@pytest.mark.usefixtures("data")
def test_every_command_and_the_snippet_work_as_printed(
    call: Call,
    weights_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    quick = ["--weights", str(weights_file), "--size", "32", "--evaluations", "3"]
    quick += ["--executor", "inline", "--set", "flag_rules={accepted: status = 'ok'}"]
    done = []
    for words in read_commands():
        if words[0] == "texsynth":
            code, out, err = call(*words[1:], *(quick if words[1] == "run" else []))
            assert code == 0, (words, out, err)
            done.append(words[1])
        else:
            assert words[:3] == ["python", "-m", "examples.augment_dtd"]
            small = ["--weights", str(weights_file), "--partitions", "1", "--seeds", "1"]
            monkeypatch.setattr(sys, "argv", [*words[2:], *small])
            augment_dtd()
            assert "| real + textures |" in capsys.readouterr().out
    assert done == ["manifest", "run", "leakcheck", "filter", "run", "export", "run"]
    assert len(ImageFolder("textures")) == 4 * 3
    (snippet,) = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    names: dict[str, torch.utils.data.DataLoader[torch.Tensor]] = {}
    exec(compile(snippet, "augmentation.md", "exec"), names)
    (batch,) = names["loader"]
    assert batch[0].shape == (4 + 1, 3, 64, 64)
