"""What a measurement was made on, as the lines that head every result."""

from __future__ import annotations

import os
import platform
import subprocess
import sys

import torch

import texsynth


def describe_environment() -> list[str]:
    """Device, versions, commit and command, one line each, for the head of a result."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
    else:
        device = f"CPU, {os.cpu_count()} cores, {torch.get_num_threads()} threads, {_cpu_model()}"
    return [
        f"* device: {device}",
        f"* versions: texsynth {texsynth.__version__}, torch {torch.__version__}, "
        f"Python {platform.python_version()}",
        f"* commit: {_commit()}",
        f"* command: `{' '.join(['python -m', _module(), *sys.argv[1:]])}`",
    ]


def _module() -> str:
    main = sys.modules["__main__"].__spec__
    return main.name if main else sys.argv[0]


def _commit() -> str:
    command = ["git", "describe", "--always", "--dirty"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def _cpu_model() -> str:
    try:
        with open("/proc/cpuinfo", encoding="utf-8") as file:  # noqa: PTH123
            names = [line.split(":", 1)[1].strip() for line in file if "model name" in line]
    except OSError:
        names = []
    return names[0] if names else platform.processor()
