"""The exemplars that a benchmark works on, and the options that name them."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from texsynth import TextureNetwork, load_exemplar, load_network


def add_options(parser: argparse.ArgumentParser, *, size: int) -> None:
    """Folder, pattern and size of the exemplars, and the weights, threads and device for them."""
    parser.add_argument("--exemplars", type=Path, required=True, help="folder of images")
    parser.add_argument("--pattern", default="*.*", help="which files of the folder")
    parser.add_argument("--weights", default="hed")
    parser.add_argument("--normalisation", help="of the network's input: none or imagenet")
    parser.add_argument("--size", type=int, default=size, help="px")
    parser.add_argument("--threads", type=int, help="of torch")
    parser.add_argument("--device", default="cpu")


def load_inputs(arguments: argparse.Namespace) -> tuple[dict[str, Tensor], TextureNetwork]:
    """What the options name: exemplars by name, and the network; torch's threads are set."""
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    network = load_network(
        arguments.weights, normalisation=arguments.normalisation, device=arguments.device
    )
    return load_exemplars(arguments), network


def load_exemplars(arguments: argparse.Namespace) -> dict[str, Tensor]:
    """Name to exemplar [3, size, size], by name of file; ends the program if there is none."""
    paths = sorted(arguments.exemplars.glob(arguments.pattern))
    if not paths:
        sys.exit(f"no {arguments.pattern} in {arguments.exemplars}")
    return {
        path.stem.removeprefix("exemplar_"): load_exemplar(path, arguments.size) for path in paths
    }
