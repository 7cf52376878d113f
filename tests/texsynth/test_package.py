from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import texsynth

ROOT = Path(__file__).parents[2]
BLOCKED = (
    *("ray", "pyarrow", "pandas", "cyclopts", "rich", "pydantic", "jinja2", "matplotlib", "h5py"),
    *("skimage", "yaml", "duckdb", "datasets", "pipeline"),
)
IMPORT_WITHOUT = f"""
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {BLOCKED!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
import texsynth
for name in texsynth.__all__:
    getattr(texsynth, name)
try:
    import ray
except ModuleNotFoundError:
    print("blocked")
"""


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


def test_texsynth_works_without_the_libraries_of_the_pipeline() -> None:
    done = run_python(IMPORT_WITHOUT)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "blocked\n"


def sources(package: str) -> list[Path]:
    return sorted((ROOT / package).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Full names of the modules that a file imports, at its top or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(), path)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield "." * node.level + (node.module or "")


def importers(package: str, libraries: set[str]) -> dict[str, set[str]]:
    """File to those of the libraries that it imports."""
    found = {
        path.relative_to(ROOT).as_posix(): {name.partition(".")[0] for name in imported(path)}
        & libraries
        for path in sources(package)
    }
    return {path: names for path, names in found.items() if names}


def test_texsynth_knows_nothing_of_the_pipeline() -> None:
    assert len(sources("texsynth")) > 10
    libraries = {"pipeline", "ray", "pyarrow", "pandas", "cyclopts", "rich", "pydantic", "jinja2"}
    assert importers("texsynth", libraries) == {}


def test_only_the_job_imports_ray() -> None:
    allowed = {"pipeline/job.py"}
    files = importers("pipeline", {"ray"})
    assert {path for path in files if not path.startswith("pipeline/cluster/")} <= allowed


def test_imports_are_absolute() -> None:
    """So that the two tests above see them all."""
    relative = [
        (path.name, name)
        for package in ("texsynth", "pipeline")
        for path in sources(package)
        for name in imported(path)
        if name.startswith(".")
    ]
    assert relative == []


def test_the_check_of_imports_sees_lazy_ones(tmp_path: Path) -> None:
    source = "def f():\n    import ray.data\n    from pipeline.job import g\n"
    (tmp_path / "lazy.py").write_text(source)
    assert list(imported(tmp_path / "lazy.py")) == ["ray.data", "pipeline.job"]


def test_public_names_are_listed_once_and_resolve() -> None:
    names = texsynth.__all__
    assert len(set(names)) == len(names)
    for name in names:
        assert getattr(texsynth, name) is not None


def test_what_the_root_exports_is_listed() -> None:
    exported = {
        name
        for name, value in vars(texsynth).items()
        if not name.startswith("_") and not isinstance(value, ModuleType)
    }
    assert exported <= set(texsynth.__all__)


@pytest.mark.parametrize("name", [n for n in texsynth.__all__ if not n.startswith("_")])
def test_public_names_are_documented(name: str) -> None:
    value = getattr(texsynth, name)
    if callable(value):
        assert value.__doc__, f"{name} has no docstring"
        assert not value.__doc__.startswith(f"{name}("), f"{name} has a generated docstring"


@pytest.mark.parametrize("path", sources("texsynth"), ids=lambda path: path.stem)
def test_modules_say_what_they_hold(path: Path) -> None:
    name = "texsynth" if path.stem == "__init__" else f"texsynth.{path.stem}"
    assert importlib.import_module(name).__doc__
