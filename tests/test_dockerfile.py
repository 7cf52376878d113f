from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parent.parent
FILE = ROOT / "deploy/Dockerfile"
LINTER = shutil.which("hadolint", path=str(Path(sys.executable).parent))


@pytest.fixture
def text() -> str:
    return FILE.read_text(encoding="utf-8")


def lint(text: str) -> list[str]:
    assert LINTER is not None
    done = subprocess.run(
        [LINTER, "--no-color", "-"], input=text, capture_output=True, text=True, check=False
    )
    assert not done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(LINTER is None, reason="hadolint has no wheel for this machine")
def test_the_linter_has_nothing_to_say(text: str) -> None:
    assert lint(text) == []


@pytest.mark.skipif(LINTER is None, reason="hadolint has no wheel for this machine")
@pytest.mark.parametrize(
    ("old", "new", "rule"),
    [
        (r"FROM (\S+):\S+", r"FROM \1:latest", "DL3007"),
        (r"USER 10001", "USER root", "DL3002"),
        (r"wget=\S+", "wget", "DL3008"),
        (r"--no-cache-dir ", "", "DL3042"),
    ],
)
def test_the_linter_would_say_it(text: str, old: str, new: str, rule: str) -> None:
    changed, count = re.subn(old, new, text)
    assert count
    assert any(rule in line for line in lint(changed))


def test_versions_are_those_that_are_tested(text: str) -> None:
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    tested = dict(re.findall(r"^([\w.-]+)==(\S+)$", constraints, re.M))
    pinned = re.findall(r"\s'?([a-z]+)(?:\[[a-z,]+\])?==([0-9.]+)", text)
    assert {"ray", "torch", "torchvision"} <= {name for name, _ in pinned}
    assert [(name, tested[name]) for name, _ in pinned] == pinned
    installs = [line for line in text.replace("\\\n", " ").splitlines() if "pip install" in line]
    assert installs
    assert all("--constraint /opt/texsynth/constraints.txt" in line for line in installs)


def test_the_base_image_has_the_cuda_of_torch(text: str) -> None:
    (version,) = re.findall(r"^FROM nvidia/cuda:(\d+\.\d+)\.\d+-base-ubuntu\d\d\.\d\d$", text, re.M)
    constraints = (ROOT / "constraints.txt").read_text("utf-8")
    (tested,) = re.findall(r"^cuda-toolkit==(\d+\.\d+)\.", constraints, re.M)
    assert version == tested
    if torch.version.cuda is not None:
        assert torch.version.cuda == version


def test_python_is_one_that_the_package_takes(text: str) -> None:
    (version,) = set(re.findall(r"python3\.(\d+)", text))
    assert 11 <= int(version) < 14
    assert 'requires-python = ">=3.11,<3.14"' in (ROOT / "pyproject.toml").read_text("utf-8")


def test_it_ends_as_another_user_than_root_who_owns_the_weights(text: str) -> None:
    (user,) = re.findall(r"^USER (\d+)$", text, re.M)
    assert int(user) > 0
    assert f"--owner {user} /opt/texsynth/cache" in text
    assert text.index(f"USER {user}") < text.index("texsynth weights get")


def test_only_what_is_copied_is_sent_to_the_builder(text: str) -> None:
    copied = {word for line in re.findall(r"^COPY (.+)$", text, re.M) for word in line.split()[:-1]}
    ignored = (ROOT / "deploy/Dockerfile.dockerignore").read_text("utf-8").splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == copied
    assert all((ROOT / name).exists() for name in copied)


def test_the_commands_in_its_head_name_the_version(text: str) -> None:
    project = (ROOT / "pyproject.toml").read_text("utf-8")
    (version,) = re.findall(r'^version = "(.+)"$', project, re.M)
    assert set(re.findall(r"texsynth:(\d\S+)", text)) == {version}
