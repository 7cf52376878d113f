"""What a user meets first: the README's code, the wheel, and words that must agree."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

import texsynth

CHECKOUT = Path(__file__).parents[1]
README = (CHECKOUT / "README.md").read_text(encoding="utf-8")
SNIPPETS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_the_readme_snippet_runs(capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(SNIPPETS[0], "README.md", "exec"), {})
    lines = capsys.readouterr().out.splitlines()
    assert sorted(line.split()[0] for line in lines) == ["0", "1"]
    assert all("torch.Size([3, 64, 64])" in line for line in lines)


def test_the_readme_has_two_snippets_of_at_most_eight_lines_and_is_short() -> None:
    """The second, which trains, runs in tests/pipeline/test_dataset.py."""
    assert len(SNIPPETS) == 2
    for snippet in SNIPPETS:
        assert len([line for line in snippet.splitlines() if line.strip()]) <= 8
    assert len(README.splitlines()) <= 200


def test_every_local_link_of_the_readme_exists() -> None:
    targets = re.findall(r"\]\((?!https?://)([^)#]+)\)", README)
    assert targets
    assert [target for target in targets if not (CHECKOUT / target).exists()] == []


def test_the_version_is_one() -> None:
    with (CHECKOUT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["project"]["version"] == texsynth.__version__


def test_the_wheel_works_outside_the_checkout(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    assert (site / "texsynth" / "py.typed").is_file()
    for name in ("report.html.j2", "report.css", "report.js"):
        assert (site / "pipeline" / "templates" / name).is_file()
    assert not (site / "tests").exists()
    code = (
        "import sys, pipeline.cli as cli; print(cli.__file__); "
        "sys.argv[1:] = ['config', 'show']; cli.main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert str(site) in done.stdout
    assert "preset: default" in done.stdout
