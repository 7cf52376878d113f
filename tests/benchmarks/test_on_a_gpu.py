"""The commands of the suite are commands that exist, with options that they take."""

from __future__ import annotations

import argparse
import importlib
from pathlib import Path
from unittest.mock import patch

import pytest

from benchmarks import on_a_gpu
from benchmarks.on_a_gpu import STEPS, Step, fill, run_step

OPTIONS = argparse.Namespace(
    exemplars=Path("photos"), out=Path("out"), weights="hed", normalisation="imagenet"
)


class ParsedError(Exception):
    """The options were taken."""


@pytest.mark.parametrize("name", [name for name in STEPS if name != "tests"])
def test_the_options_of_a_step_are_taken(name: str) -> None:
    module, *words = fill(STEPS[name].arguments, OPTIONS)
    parse = argparse.ArgumentParser.parse_args

    def stop(parser: argparse.ArgumentParser, *_: object) -> None:
        assert parse(parser, words).device == "cuda"
        raise ParsedError

    with patch.object(argparse.ArgumentParser, "parse_args", stop), pytest.raises(ParsedError):
        importlib.import_module(module).main()


def test_the_tests_that_need_a_gpu_are_where_the_suite_looks() -> None:
    root = Path(on_a_gpu.__file__).parent.parent
    places = [root / word for word in STEPS["tests"].arguments.split() if word.startswith("tests/")]
    marked = [path for path in (root / "tests").rglob("test_*.py") if ".gpu" in path.read_text()]
    named = {place for place in places if place.is_file()}
    named |= {path for place in places if place.is_dir() for path in place.glob("test_*.py")}
    assert {path for path in marked if "mark.gpu" in path.read_text()} - {Path(__file__)} <= named


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [("no_such_module", "exit code 1"), ("json.tool --help", "done")],
)
def test_a_step_says_how_it_went(tmp_path: Path, arguments: str, expected: str) -> None:
    options = argparse.Namespace(**vars(OPTIONS) | {"out": tmp_path})
    assert run_step("step", Step(60, arguments), options).startswith(expected)


def test_a_step_that_takes_too_long_is_ended(tmp_path: Path) -> None:
    options = argparse.Namespace(**vars(OPTIONS) | {"out": tmp_path})
    step = Step(0.2, "http.server 0 --bind 127.0.0.1")
    assert "not done within" in run_step("step", step, options)
