"""A head that does no work and a worker, on this machine, asked for real."""

from __future__ import annotations

import importlib
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from pipeline.cluster import check, probe
from pipeline.cluster.check import CheckPlan, check_cluster
from pipeline.cluster.probe import EXCHANGED, NodeReport, Outcome, Token, probe_node, try_texture
from pipeline.cluster.verdict import find_problems
from pipeline.config import RunConfig
from pipeline.preflight import check_run
from pipeline.rundir import write_json_atomic

Call = Callable[..., tuple[int, str, str]]
MakeManifest = Callable[..., Path]
MakeConfig = Callable[..., RunConfig]


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    # Workers of Ray import what is tested from where this process does.
    root = str(Path(__file__).parents[3])
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [root, before]))
    head = {"num_cpus": 0, "num_gpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    cluster.add_node(num_cpus=1, num_gpus=0)
    try:
        yield cluster.address
    finally:
        ray.shutdown()
        cluster.shutdown()
        if before is None:
            del os.environ["PYTHONPATH"]
        else:
            os.environ["PYTHONPATH"] = before


def probe_of_a_module_that_only_the_driver_has(folder: Path) -> Callable[..., NodeReport]:
    (folder / "only_here.py").write_text(
        "from pipeline.cluster.probe import probe_node as real\n"
        "def probe_node(*arguments):\n    return real(*arguments)\n"
    )
    sys.path.insert(0, str(folder))
    try:
        found: Callable[..., NodeReport] = importlib.import_module("only_here").probe_node
        return found
    finally:
        sys.path.remove(str(folder))


@pytest.mark.slow
def test_two_nodes_are_fit_and_nothing_is_left_behind(
    address: str,
    call: Call,
    make_manifest: MakeManifest,
    quick_config: MakeConfig,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    manifest, out = make_manifest(["a"]), tmp_path / "runs" / "new"
    weights = quick_config().weights
    before = sorted(tmp_path.rglob("*"))
    code, text, err = call(
        *("cluster", "check", "--address", address, "--weights", weights, "--size", "32"),
        *("--manifest", str(manifest), "--out", str(out)),
    )
    assert (code, err) == (0, ""), text
    assert sorted(tmp_path.rglob("*")) == before
    lines = text.splitlines()
    assert lines[0].split()[:2] == ["node", "has"]
    assert lines[-1] == "all is well"
    (driver,) = [line for line in lines if line.startswith("driver")]
    nodes = [line for line in lines if re.search(r"\(\w{6}\) ", line)]
    assert len(nodes) == 2
    assert all(f"ray {ray.__version__}" in line for line in (driver, *nodes))
    assert sum(EXCHANGED in line for line in lines) == 3
    # Of the worker alone: the head does no work.
    assert len(re.findall(r"\d\.\d s$", text, re.M)) == 1

    plan = CheckPlan(
        config=quick_config(weights="absent.safetensors", device="cuda"),
        out=None,
        root="",
        task=None,
        timeout_s=60,
    )
    problems = find_problems(check_cluster(address, plan))
    assert [problem.split(":")[0] for problem in problems][:2] == ["driver", "cluster"]
    assert sum("absent.safetensors" in problem for problem in problems) == 3
    monkeypatch.setattr(check, "probe_node", probe_of_a_module_that_only_the_driver_has(tmp_path))
    bare = CheckPlan(config=quick_config(), out=None, root="", task=None, timeout_s=60)
    problems = find_problems(check_cluster(address, bare))
    assert sum("no answer: ModuleNotFoundError: No module" in problem for problem in problems) == 2
    monkeypatch.undo()
    hurried = CheckPlan(config=quick_config(), out=None, root="", task=None, timeout_s=0.001)
    problems = find_problems(check_cluster(address, hurried))
    assert sum("no answer: none in 0.001 s" in problem for problem in problems) == 2


def test_an_address_where_nothing_is(call: Call) -> None:
    code, _, err = call("cluster", "check", "--address", "127.0.0.1:9", "--weights", "random:0")
    assert (code, "address '127.0.0.1:9': [Errno 111]" in err) == (2, True)


@pytest.fixture
def token(tmp_path: Path) -> Token:
    made = Token(out=str(tmp_path), key="0123")
    write_json_atomic(tmp_path / made.name("driver"), {"key": made.key})
    return made


def test_a_node_sees_the_file_of_the_driver_and_writes_its_own(
    token: Token, weights_file: Path
) -> None:
    report = probe_node("n1", str(weights_file), token)
    assert report.run_directory == Outcome(value=EXCHANGED)
    assert (Path(token.out) / token.name("n1")).is_file()
    assert report.versions["ray"] == ray.__version__
    assert re.fullmatch(r"[0-9a-f]{64}", report.weights.value)
    assert probe_node("n1", str(weights_file), None).run_directory is None


def test_a_directory_that_is_not_shared_or_not_the_same_is_told(
    token: Token, weights_file: Path, tmp_path: Path
) -> None:
    elsewhere = Token(out=str(tmp_path / "elsewhere"), key=token.key)
    outcome = probe_node("n1", str(weights_file), elsewhere).run_directory
    assert outcome is not None
    assert "No such file" in outcome.error
    write_json_atomic(tmp_path / token.name("driver"), {"key": "4567"})
    outcome = probe_node("n1", str(weights_file), token).run_directory
    assert outcome is not None
    assert "the driver's file" in outcome.error


def test_a_directory_that_cannot_be_written_is_told(
    token: Token, weights_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, values: object) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(probe, "write_json_atomic", refuse)
    outcome = probe_node("n1", str(weights_file), token).run_directory
    assert outcome is not None
    assert outcome.error.startswith("PermissionError: [Errno 13] Permission denied")


def test_a_trial_needs_the_device_the_memory_and_the_image(
    quick_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = quick_config()
    assert try_texture(config, "", None, gpu=False).error == ""
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert "torch finds none" in try_texture(config, "", None, gpu=True).error
    monkeypatch.setattr("torch.cuda.get_device_name", lambda: "A10G")
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (20 * 2**30, 24 * 2**30))
    assert probe._describe_memory(2**30) == " on A10G, 20.0 of 24.0 GiB free, 16 lanes fit"
    monkeypatch.setattr("torch.cuda.mem_get_info", lambda: (2**20, 2**34))
    with pytest.raises(MemoryError, match=r"a lane takes 1\.0 GiB, 0\.0 of 16"):
        probe._describe_memory(2**30)


def test_a_trial_reads_the_first_image_of_the_manifest(
    quick_config: MakeConfig, make_manifest: MakeManifest
) -> None:
    for broken, error in (([], ""), (["a"], "ImageError")):
        manifest = make_manifest(["a"], broken=broken)
        checked = check_run(manifest, quick_config(), None)
        task = next(iter(checked.tasks.first(1)))
        outcome = try_texture(quick_config(), checked.record.root, task, gpu=False)
        assert error in outcome.error
        assert bool(outcome.error) is bool(error)
