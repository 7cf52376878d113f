"""What `docs/cluster.md` and the heads of the launch files tell a reader to type."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
from pathlib import Path

import pytest

from pipeline.cli import app
from pipeline.measured import MeasuredSpeed, scale_levels
from texsynth import SynthesisConfig
from texsynth.levels import compute_levels
from texsynth.sensitivity import measuring_cost

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs/cluster.md"
PAGES = (PAGE, ROOT / "cluster.yaml", ROOT / "deploy/Dockerfile", ROOT / "deploy/runtime_env.yaml")
COMMAND = re.compile(
    r"\btexsynth ((?:run|plan|status|failures|cluster check|manifest (?:folder|dtd)) [^`'\n]*)"
)
INLINE = re.compile(r"(?<!`)`(?!`)[^`]+`(?!`)")

PLACEHOLDERS = {"MANIFEST": "m.csv", "P": "1.00", "S": "0.01", "N": "250"}


def read(page: Path) -> str:
    """Text in which a command that goes on in the next line is one line, comments aside."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".md":
        # Prose breaks lines inside `...`, blocks of commands do not.
        return INLINE.sub(lambda found: " ".join(found[0].split()), text)
    return re.sub(r"\\\n#? *", "", text)


def commands() -> list[str]:
    found = [command for page in PAGES for command in COMMAND.findall(read(page))]
    return sorted({command.partition("#")[0].strip() for command in found if "..." not in command})


def test_there_are_commands() -> None:
    assert len(commands()) >= 10
    assert any(command.startswith("run ") for command in commands())


@pytest.mark.parametrize("command", commands())
def test_every_command_is_one_that_texsynth_takes(command: str) -> None:
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(command)]
    app.parse_args(words, exit_on_error=False, print_error=False)


@pytest.mark.parametrize("place", re.findall(r"\]\(([^)#]+)\)", PAGE.read_text()))
def test_every_link_leads_to_a_file(place: str) -> None:
    assert (PAGE.parent / place).exists()


def test_every_way_to_launch_has_ten_steps() -> None:
    sections = PAGE.read_text(encoding="utf-8").split("\n## ")
    launching = [section for section in sections if section.startswith("Launching ")]
    assert len(launching) == 4
    for section in launching:
        steps = re.findall(r"^(\d+)\. ", section, re.M)
        assert steps == [str(number) for number in range(1, 11)]


def test_the_policies_are_json_and_the_roles_those_of_the_launch_file() -> None:
    page = PAGE.read_text(encoding="utf-8")
    policies = re.findall(r"^\w+='(\{.*?\})'$", page, re.M | re.S)
    assert len(policies) == 3
    assert all(json.loads(policy)["Statement"] for policy in policies)
    (made,) = re.findall(r"^for role in (.*); do$", page, re.M)
    launched = (ROOT / "cluster.yaml").read_text(encoding="utf-8")
    assert set(re.findall(r"IamInstanceProfile: \{ Name: (\S+) \}", launched)) == {*made.split()}


@pytest.mark.parametrize("test", re.findall(r"tests/\w+\.py", PAGE.read_text()))
def test_every_test_that_is_named_is_there(test: str) -> None:
    assert (ROOT / test).is_file()


@pytest.mark.parametrize(
    "row", re.findall(r"^\| (0[.\d]+) \| (\S+) \| (\S+) \|$", PAGE.read_text(), re.M)
)
def test_the_table_of_costs_is_what_plan_prints(row: tuple[str, str, str]) -> None:
    seconds, *expected = map(float, row)
    config = SynthesisConfig.preset("default")
    sizes = compute_levels(config, 256, 256)
    for evaluations, usd in zip((250, config.evaluations), expected, strict=True):
        budget = dataclasses.replace(config, evaluations=evaluations)
        speed = MeasuredSpeed(seconds_by_lanes={0: seconds}, side_px=256, device_name="")
        total = sum(
            (level.evaluations_per_task + measuring_cost(config)) * level.device_s_per_evaluation
            for level in scale_levels(speed, 0, budget, sizes)
        )
        assert float(f"{1000 * total / 3600:.3g}") == usd
