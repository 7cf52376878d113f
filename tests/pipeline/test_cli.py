from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from PIL import Image

from pipeline.cli import main
from pipeline.query import load_images, load_metrics
from pipeline.replay import load_row
from pipeline.resume import load_run_record
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def quick(weights_file: Path) -> list[str]:
    options = f"--size 32 --evaluations 10 --executor inline --weights {weights_file}"
    return options.split()


@pytest.mark.parametrize(
    ("read", "arguments"),
    [(True, ["config", "show"]), (False, ["config", "show"]), (False, ["--help"])],
    ids=["read", "not-read", "not-read-rich"],
)
def test_output_that_is_no_longer_read_is_no_error(read: bool, arguments: list[str]) -> None:
    """As by `head`: no message, and the exit code of a process that SIGPIPE ends."""
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        text = process.stdout.read() if read else b""
        process.stdout.close()
        complaint = process.stderr.read()
        code = process.wait(60)
    assert (code, bool(text), complaint) == ((0, True, b"") if read else (141, False, b""))


@pytest.mark.parametrize(
    "command", ["run", "plan", "replay", "synthesize", "report", "manifest", "demo"]
)
def test_help_names_every_option_in_plain_words(call: Call, command: str) -> None:
    code, out, _ = call(command, "--help")
    assert code == 0
    assert f"Usage: texsynth {command}" in out
    assert not any(
        word in out for word in ("PosixPath", "default: ()", "default: []", "synthesis ")
    )
    if command == "run":
        for option in ("--out", "--evaluations", "--lanes", "--retry", "--executor", "--set"):
            assert option in out


def test_the_version_and_the_list_of_commands(call: Call) -> None:
    assert call("--version")[1].strip()[0].isdigit()
    code, out, _ = call()
    assert code == 0
    for command in (
        "manifest",
        "run",
        "plan",
        "replay",
        "report",
        "synthesize",
        "demo",
        "weights",
        "config",
    ):
        assert f" {command} " in out


def test_from_images_to_report(call: Call, quick: list[str], tmp_path: Path) -> None:
    for name in ("wool/a", "wool/b", "bark/c"):
        path = tmp_path / "images" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.effect_noise((48, 40), 60).convert("RGB").save(path)
    (tmp_path / "images/bark/d.png").write_bytes(b"broken")
    manifest, out = tmp_path / "m.csv", tmp_path / "a run"
    code, text, _ = call("manifest", "folder", tmp_path / "images", "--out", manifest)
    assert code == 0
    assert "4 exemplars in 2 categories (1 missing or broken)" in text
    code, text, _ = call("run", manifest, "--out", out, *quick)
    assert code == 3
    assert "4 tasks: 1 failed, 3 ok (4 in this run)" in text
    assert "ImageError: image 'images/bark/d.png'" in text
    assert "--retry failed" in text
    assert f"texsynth report '{out}'" in text
    assert (
        sorted(pd.read_parquet(out / "metrics.parquet")["category"]) == ["bark"] * 2 + ["wool"] * 2
    )
    code, text, _ = call("report", out)
    assert code == 0
    assert Path(text.strip().replace("\n", "")).read_text().startswith("<!doctype html>")
    assert call("run", manifest, "--out", out, *quick)[0] == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["run"], "MANIFEST"),
        (["run", "m.csv"], "--out"),
        (["run", "m.csv", "--out", "r", "--banana"], "Unknown option: --banana"),
        (["run", "m.csv", "--out", "r", "--size", "3"], "size is '3': input should be greater"),
        (["run", "m.csv", "--out", "r", "--set", "x=1"], "unknown setting x; known: "),
        (["run", "m.csv", "--out", "r"], "manifest 'm.csv': no such file"),
        (["run", "m.csv", "--out", "r", "--config", "no.yaml"], "config file 'no.yaml'"),
        (["plan"], "MANIFEST"),
        (["plan", "m.csv", "--banana"], "Unknown option: --banana"),
        (["plan", "m.csv", "--size", "3"], "size is '3': input should be greater"),
        (["plan", "m.csv", "--set", "x=1"], "unknown setting x; known: "),
        (["plan", "m.csv"], "manifest 'm.csv': no such file"),
        (["synthesize", "--out", "r"], "no image given"),
        (["synthesize", "no.png", "--out", "r"], "images ['no.png']: no such file"),
        (["report", "r"], "'r' is no run directory"),
        (["verify", "r"], "'r' is no run directory"),
        (["verify", "."], "is no run directory, expected a folder that `texsynth run` made"),
        (["manifest", "folder", "no", "--out", "m.csv"], "'no' is not a folder"),
        (["manifest", "demo", "--out", "m.txt"], "suffix '.txt', expected .csv or .parquet"),
        (["weights", "get", "no"], "weights 'no'"),
        (["config", "show", "no"], "default"),
        (["banana"], 'Unknown command "banana"'),
    ],
)
def test_bad_usage_is_one_message_and_code_2_and_writes_nothing(
    call: Call,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("error: ")
    assert message in err
    assert "Traceback" not in err
    assert list(tmp_path.iterdir()) == []


def test_a_defect_keeps_its_traceback(call: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> str:
        raise ZeroDivisionError

    monkeypatch.setattr("pipeline.cli.weights.cache_directory", fail)
    with pytest.raises(ZeroDivisionError):
        call("weights", "list")


def test_a_plan_says_what_a_run_would_cost(
    call: Call, make_manifest: Callable[..., Path], quick: list[str], tmp_path: Path
) -> None:
    manifest, out = make_manifest(["a", "b", "c"]), tmp_path / "r"
    assert call("run", manifest, "--out", out, *quick)[0] == 0
    arguments = [manifest, *quick, "--out", out, "--variations", "2"]
    code, text, err = call("plan", *arguments)
    assert (code, err) == (0, "")
    for part in (
        "3 exemplars x 1 crop x 2 variations = 6, in 1 category; 3 done, 3 left\n",
        "at most 10 of full size per task (5 at 32 px), 30 in all; a plateau ends a task earlier\n",
        "lanes: 4 per actor, ",
        " of physical memory\n",
        "disk: 9 KiB, 3 KiB per texture",
        "speed (estimate; cpu, threads: ",
        " textures per device hour\n",
        " device hours, ",
        " hours with 1 actor on this machine's cores\n",
    ):
        assert part in text
    assert "scaled by area" not in text
    assert "warning" not in text
    assert "warning: more lanes than fit" in call("plan", *arguments, "--lanes", "1000000")[1]
    code, text, err = call("plan", *arguments, "--json")
    assert (code, err) == (0, "")
    planned = json.loads(text)
    assert (planned["tasks"], planned["tasks_done"], planned["tasks_left"]) == (6, 3, 3)
    assert planned["evaluations_total"] == 3 * planned["evaluations_per_task"]
    assert planned["output_bytes_total"] == 3 * planned["output_bytes_per_task"]
    assert planned["levels"][0].keys() == {
        "side_px",
        "evaluations_per_task",
        "device_s_per_evaluation",
        "measured_at_px",
    }
    hours = 3 * planned["device_s_per_task"] / 3600
    assert planned["device_hours_total"] == pytest.approx(hours)


def test_a_run_is_verified_and_a_damaged_one_says_how_to_mend_it(
    call: Call, make_manifest: Callable[..., Path], quick: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "a run"
    manifest = make_manifest(["a", "b"], broken=["b"])
    assert call("run", manifest, "--out", out, *quick)[0] == 3
    code, text, _ = call("verify", out)
    assert code == 0
    lines = text.splitlines()
    assert all(line.startswith("ok ") for line in lines)
    assert "ok      tasks: 2 of 2 tasks with a row" in lines
    assert "ok      images: 1 PNG decoded" in lines
    (textures,) = (out / "textures").iterdir()
    textures.write_bytes(textures.read_bytes()[:-1])
    code, text, _ = call("verify", out, "--no-images", "--json")
    assert code == 3
    values = json.loads(text)
    assert not values["ok"]
    checks = {check["name"]: check for check in values["checks"]}
    assert checks["images"]["found"] == "not checked: --no-images"
    assert textures.name in checks["files"]["problems"][0]
    code, text, _ = call("verify", out)
    assert code == 3
    assert "problem files: 1 file, 0 rows" in text
    assert "to mend: move the file away; its tasks are done again" in text
    textures.rename(tmp_path / "aside")
    assert call("run", manifest, "--out", out, *quick)[0] == 3
    assert call("verify", out)[0] == 0


def test_a_row_is_made_again_and_compared(
    call: Call, make_manifest: Callable[..., Path], quick: list[str], tmp_path: Path
) -> None:
    out, pictures = tmp_path / "a run", tmp_path / "pictures"
    manifest = make_manifest(["a", "b"], broken=["b"])
    assert call("run", manifest, "--out", out, *quick)[0] == 3
    code, text, err = call("replay", out, "a-c0-v0", "--out", pictures)
    assert (code, err) == (0, "")
    lines = text.splitlines()
    assert lines[0] == "a-c0-v0 (ok): identical: every pixel, loss and count is the same"
    assert lines[1] == "  pixels: 0.00% differ, by 0 of 255 at most, 0 on average"
    assert "  stop_reason: budget stored, budget here" in lines
    assert len(list(pictures.iterdir())) == 3
    code, text, _ = call("replay", out, "b-c0-v0", "--json")
    assert code == 0
    values = json.loads(text)
    assert (values["verdict"], values["comparison"]) == ("the same error", None)
    assert "ImageError: image 'images/b.png'" in values["error"]
    source = tmp_path / "images" / "b.png"
    source.write_bytes((tmp_path / "images" / "a.png").read_bytes())
    code, text, _ = call("replay", out, "b-c0-v0")
    assert code == 3
    assert text.startswith("b-c0-v0 (failed): different: it gives a texture here")
    assert "  in the run: ImageError: image 'images/b.png'" in text
    code, text, err = call("replay", out, "c-c0-v0")
    assert (code, text) == (2, "")
    assert "no committed row of task 'c-c0-v0', expected one of 2 tasks" in err


@pytest.mark.usefixtures("one_thread")
def test_a_row_that_a_process_died_of_is_made_again_with_a_warning(
    call: Call, make_manifest: Callable[..., Path], quick: list[str], tmp_path: Path
) -> None:
    out = tmp_path / "run"
    assert call("run", make_manifest(["a"]), "--out", out, *quick)[0] == 0
    run = RunDirectory(out)
    row = load_row(run, "a-c0-v0")
    row |= {
        "status": "quarantined",
        "error_type": "ProcessDeathError",
        "error": "died",
        "image": None,
    }
    row["attempts"] += 1
    record = load_run_record(run)
    assert record is not None
    commit_rows(run, rows_to_table([row], row_schema(record.carried)))
    code, text, err = call("replay", out, "a-c0-v0")
    assert code == 3
    assert "it gives a texture here" in text
    assert err == "a process died of this task: this one may, too\n"


@pytest.mark.parametrize("preset", ["default", "reference"])
def test_what_config_show_prints_is_a_config_file(
    call: Call, make_manifest: Callable[..., Path], quick: list[str], tmp_path: Path, preset: str
) -> None:
    code, text, _ = call("config", "show", preset)
    assert code == 0
    assert yaml.safe_load(text)["preset"] == preset
    (tmp_path / "shown.yaml").write_text(text)
    manifest = make_manifest(["a"])
    with_file = [*quick, "--config", str(tmp_path / "shown.yaml")]
    assert call("run", manifest, "--out", tmp_path / "r", *quick, "--preset", preset)[0] == 0
    code, text, _ = call("run", manifest, "--out", tmp_path / "r", *with_file)
    assert code == 0
    assert "(0 in this run)" in text


def test_weights_are_listed_and_checked(call: Call, weights_file: Path) -> None:
    code, text, _ = call("weights", "list")
    assert code == 0
    assert all(name in text for name in ("imagenet", "hed", "PATH", "random:SEED", "cache: "))
    code, text, _ = call("weights", "get", weights_file)
    assert code == 0
    assert text.startswith("small.safetensors: vgg19, tensors' sha256 ")


def test_single_images_give_two_pictures_each(
    call: Call, make_manifest: Callable[..., Path], weights_file: Path, tmp_path: Path
) -> None:
    make_manifest(["a", "b"])
    options = f"--size 32 --evaluations 3 --device cpu --weights {weights_file}".split()
    images = [tmp_path / "images/a.png", tmp_path / "images/b.png"]
    code, text, _ = call("synthesize", *images, "--out", tmp_path / "new", *options)
    assert code == 0
    assert text.count("stopped by budget") == 2
    names = sorted(path.name for path in (tmp_path / "new").iterdir())
    assert names == ["exemplar_a.png", "exemplar_b.png", "synth_a.png", "synth_b.png"]
    with Image.open(tmp_path / "new/synth_a.png") as texture:
        assert texture.size == (32, 32)
    code, _, err = call("synthesize", *images, "--out", images[0], *options)
    assert code == 2
    assert "a.png" in err


def test_a_single_image_gives_the_seamless_texture_that_a_run_makes(
    call: Call, make_manifest: Callable[..., Path], weights_file: Path, tmp_path: Path
) -> None:
    manifest = make_manifest(["a"])
    options = f"--size 40 --evaluations 12 --device cpu --weights {weights_file}".split()
    size, tileable = ["--output-size", "48x56"], ["--tileable"]
    run = tmp_path / "run"
    settings = [*options, *size, *tileable, "--executor", "inline", "--lanes", "1"]
    assert call("run", manifest, "--out", run, *settings)[0] == 0
    seed = str(load_metrics(run)["seed"][0])
    pixels = {}
    for name, more in (("same", tileable), ("seamed", ["--no-tileable"])):
        words = ["synthesize", tmp_path / "images/a.png", "--out", tmp_path / name]
        assert call(*words, *options, *size, *more, "--seed", seed)[0] == 0
        with Image.open(tmp_path / name / "synth_a.png") as texture:
            assert texture.size == (56, 48)
            pixels[name] = np.asarray(texture, int)
    (stored,) = load_images(run, ["a-c0-v0"]).values()
    off = {name: np.abs(np.asarray(stored, int) - image).mean() for name, image in pixels.items()}
    assert 20 * off["same"] < off["seamed"], off
    code, _, err = call(*words[:2], "--out", tmp_path / "none", *options, "--output-size", "9")
    assert (code, "expected sides of at least 16 px" in err) == (2, True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_run_that_a_signal_stops_says_how_to_go_on(
    make_manifest: Callable[..., Path],
    quick: list[str],
    tmp_path: Path,
    number: signal.Signals,
    code: int,
) -> None:
    out = tmp_path / "r"
    command = [sys.executable, "-c", "from pipeline.cli import main; main()", "run"]
    command += [str(make_manifest(["a"])), "--out", str(out), *quick]
    command[command.index("10")] = "1e6"
    command += ["--set", "synthesis.plateau_tolerance=0"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen(command, text=True, **pipes)
    while not list(out.glob("attempts/*.json")) and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, number)
    text, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert f"stopped by {number.name}: the same command goes on" in text
    assert "once more to stop at once" in err
    assert "Traceback" not in text + err
    assert not list(out.glob("attempts/*.json"))


def test_a_bare_value_error_is_a_defect(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(preset: str) -> None:
        raise ValueError("not enough values to unpack")

    monkeypatch.setattr("pipeline.cli.config.RunConfig", fail)
    monkeypatch.setattr(sys, "argv", ["texsynth", "config", "show"])
    with pytest.raises(ValueError, match="not enough values"):
        main()
