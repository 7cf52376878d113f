"""Every command where a run, its manifest, its images and its weights are in a bucket."""

from __future__ import annotations

import io
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from rich.console import Console
from torch.utils.data import DataLoader

from pipeline import StreamedTextures, SyntheticTextures
from pipeline.config import RunConfig
from pipeline.manifest import load_manifest
from pipeline.object_store import open_filesystem
from pipeline.object_tree import list_names, list_tree
from pipeline.query import load_images
from pipeline.run import run_manifest
from pipeline.rundir import RunDirectory
from pipeline.storage import ObjectPath
from pipeline.verify import verify_run

Call = Callable[..., tuple[int, str, str]]

pytestmark = pytest.mark.usefixtures("one_thread")

SPLITS = {"a": "train,test", "b": "val,train", "e": "train,train"}
QUICK = ("--weights", "PLACE/w.safetensors", "--size", "32", "--evaluations", "10")
QUICK += ("--executor", "inline", "--seconds-per-evaluation", "1")
NOWHERE = "s3://no-such-bucket/x"


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, weights_file: Path, one_thread: None) -> ObjectPath:
    """A bucket with manifest, images, weights and a finished run of a, b and a broken e."""
    scheme = os.environ.get("TEXSYNTH_TEST_STORE", "s3")
    request.getfixturevalue(f"{scheme}_server")
    name = f"made-{secrets.token_hex(6)}"
    open_filesystem(scheme).mkdir(name)
    bucket = ObjectPath(f"{scheme}://{name}")
    lines = ["exemplar_id,path,category,split,split_2"]
    for number, (exemplar, splits) in enumerate(SPLITS.items()):
        pixels = np.random.default_rng(number).integers(0, 256, (40, 48, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        (bucket / f"{exemplar}.png").write_bytes(b"no" if exemplar == "e" else file.getvalue())
        lines.append(f"{exemplar},{exemplar}.png,noise,{splits}")
    (bucket / "m.csv").write_bytes("\n".join(lines).encode())
    (bucket / "w.safetensors").upload(weights_file)
    values = {"weights": f"{bucket}/w.safetensors", "size": 32, "evaluations": 10}
    config = RunConfig.model_validate(values | {"executor": "inline"}).resolved()
    run_manifest(f"{bucket}/m.csv", f"{bucket}/run", config, Console(file=io.StringIO()))
    return bucket


def copy(source: ObjectPath, target: Path | ObjectPath) -> Path | ObjectPath:
    for name in list_names(source):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_bytes((source / name).read_bytes())
    return target


@pytest.fixture
def local(place: ObjectPath, tmp_path: Path) -> Path:
    """The run on a disk; manifest, images and weights stay in the bucket."""
    return Path(str(copy(place / "run", tmp_path / "run")))


@pytest.fixture
def own(place: ObjectPath, bucket: ObjectPath) -> ObjectPath:
    """The run in a bucket of the test's own, to be changed."""
    copy(place / "run", bucket / "run")
    return bucket / "run"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("status", "RUN"), 0),
        (("failures", "RUN"), 3),
        (("query", "RUN", "SELECT * FROM metrics"), 0),
        (("leakcheck", "RUN", "--against", "PLACE/m.csv"), 3),
        (("calibrate", "RUN"), 0),
        (("replay", "RUN", "a-c0-v0"), 0),
        (("replay", "RUN", "e-c0-v0"), 0),
        (("plan", "PLACE/m.csv", "--out", "RUN", *QUICK), 0),
    ],
    ids=lambda value: "-".join(value[:3:2]) if isinstance(value, tuple) else None,
)
def test_what_is_said_of_a_run_is_what_is_said_of_it_on_a_disk(
    place: ObjectPath, local: Path, call: Call, words: tuple[str, ...], expected: int
) -> None:
    said = []
    for run in (place / "run", local):
        named = [word.replace("RUN", str(run)).replace("PLACE", str(place)) for word in words]
        code, out, err = call(*named)
        assert (code, err) == (expected, "")
        said.append(out.replace(str(run), "RUN"))
    if words[0] == "status":
        # On a disk its log would be one file.
        assert not [text for text in said if "problem" in text]
        said = [text.partition("last error")[0] for text in said]
    assert said[0] == said[1]
    assert said[0]


@pytest.mark.slow
def test_runs_of_two_buckets_are_compared(place: ObjectPath, own: ObjectPath, call: Call) -> None:
    code, out, err = call("compare", place / "run", own)
    assert (code, err) == (0, "")
    assert "2 pairs" in out


def test_a_run_in_a_bucket_is_proved(place: ObjectPath, call: Call) -> None:
    code, out, err = call("verify", place / "run")
    assert (code, err) == (0, "")
    assert "exemplars: 2 sources read" in out


@pytest.mark.parametrize(
    "words",
    [
        pytest.param(("finalize", "RUN"), marks=pytest.mark.slow),
        pytest.param(("reflag", "RUN", "--rule", "noisy: evaluations > 0"), marks=pytest.mark.slow),
        pytest.param(("retry", "RUN"), marks=pytest.mark.slow),
    ],
    ids=lambda words: words[0],
)
def test_commands_that_change_a_run_leave_a_good_one(
    own: ObjectPath, call: Call, words: tuple[str, ...]
) -> None:
    code, out, err = call(*(word.replace("RUN", str(own)) for word in words))
    assert (code, err) == (3 if words[0] == "retry" else 0, "")
    assert out
    assert all(check.ok for check in verify_run(RunDirectory(own), images=False))


def test_the_safe_part_of_a_run_is_a_run(place: ObjectPath, bucket: ObjectPath, call: Call) -> None:
    out = bucket / "parts" / "second"
    words = ("filter", place / "run", "--out", out, "--partition", "2")
    code, said, err = call(*words)
    assert (code, said.splitlines()[0], err) == (0, f"1 texture in {out}", "")
    assert [path.name for path in out.parent.iterdir()] == ["second"]
    assert all(check.ok for check in verify_run(RunDirectory(out)))
    before = {path.uri: path.stat() for path in list_tree(out)}
    code, _, err = call(*words)
    assert (code, err) == (
        2,
        f"error: out '{out}' is there already, expected a path where nothing is\n",
    )
    assert {path.uri: path.stat() for path in list_tree(out)} == before


def test_a_report_is_put_beside_its_assets(own: ObjectPath, call: Call) -> None:
    report = own / "report"
    named = []
    for _ in range(2):
        assert call("report", own) == (0, f"{report}/index.html\n", "")
        (assets,) = report.glob("assets-*")
        assert f"{assets.name}/data.js" in (report / "index.html").read_text()
        assert assets.name not in named
        named.append(assets.name)
        files = {path.suffix for path in assets.iterdir()}
        assert files == {".js", ".css", ".png", ".jpg"}
        assert {path.name for path in report.iterdir()} == {"index.html", assets.name}


@pytest.mark.parametrize("output", ["csv", "parquet"])
def test_an_answer_is_an_object(
    place: ObjectPath, bucket: ObjectPath, call: Call, output: str
) -> None:
    answer = bucket / f"answer.{output}"
    words = ("--format", output, "--output", answer)
    assert call("query", place / "run", "SELECT task_id FROM metrics", *words) == (0, "", "")
    found = answer.read_bytes()
    if output == "parquet":
        assert pq.read_table(io.BytesIO(found))["task_id"].to_pylist()[0] == "a-c0-v0"
    else:
        assert found.decode().split() == ["task_id", "a-c0-v0", "b-c0-v0", "e-c0-v0"]
    assert call("query", place / "run", "SELECT 1 AS one", *words) == (0, "", "")
    assert answer.read_bytes() != found


def test_pictures_of_a_replay_are_objects(
    place: ObjectPath, bucket: ObjectPath, call: Call
) -> None:
    assert call("replay", place / "run", "a-c0-v0", "--out", bucket / "seen")[0] == 0
    stored = load_images(RunDirectory(place / "run"), ["a-c0-v0"])["a-c0-v0"]
    with Image.open(io.BytesIO((bucket / "seen" / "stored.png").read_bytes())) as picture:
        assert picture.tobytes() == stored.tobytes()
    assert list_names(bucket) == {f"seen/{n}.png" for n in ("exemplar", "stored", "replayed")}


def test_weights_are_fetched_from_a_bucket(place: ObjectPath, call: Call, tmp_path: Path) -> None:
    code, said, err = call("weights", "get", place / "w.safetensors")
    assert (code, err) == (0, "")
    assert said.startswith("w.safetensors: vgg19, ")
    picture = tmp_path / "a.png"
    picture.write_bytes((place / "a.png").read_bytes())
    words = ("--weights", place / "w.safetensors", "--size", "32", "--evaluations", "2")
    assert call("synthesize", picture, "--out", tmp_path / "out", *words)[0] == 0
    assert (tmp_path / "out" / "synth_a.png").is_file()


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_textures_are_loaded_from_a_bucket(place: ObjectPath) -> None:
    textures = SyntheticTextures(f"{place}/run")
    stored = load_images(RunDirectory(place / "run"), ["a-c0-v0", "b-c0-v0"])
    assert [image.tobytes() for image, _ in textures] == [i.tobytes() for i in stored.values()]
    streamed = StreamedTextures(f"{place}/run", transform=np.array)
    loaded = DataLoader(streamed, batch_size=None, num_workers=2)
    found = {np.asarray(image).tobytes() for image, _ in loaded}
    assert found == {image.tobytes() for image in stored.values()}


def test_a_manifest_is_an_object(bucket: ObjectPath, call: Call, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (32, 32)).save(tmp_path / "photos" / "a.png")
    words = ("manifest", "folder", tmp_path / "photos", "--out")
    code, said, _ = call(*words, bucket / "m.parquet")
    assert code == 0
    assert f"next: texsynth run {bucket}/m.parquet --out runs/m --root {tmp_path}/photos" in said
    assert f"or copy what is in {tmp_path}/photos to {bucket}, and leave out --root" in said
    assert load_manifest(bucket.uri + "/m.parquet").table["path"].to_pylist() == ["a.png"]
    code, _, err = call(*words, bucket / "m.txt")
    assert (code, f"manifest '{bucket}/m.txt': suffix '.txt'" in err) == (2, True)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (("manifest", "folder", NOWHERE, "--out", "m.csv"), "DIRECTORY: '{}' is a URI, .*images"),
        (("manifest", "dtd", "--root", NOWHERE, "--out", "m.csv"), "--root: '{}' .*images"),
        (("manifest", "demo", "--out", f"{NOWHERE}.csv"), "--out: '{}.csv' .*beside it"),
        (("demo", "--out", NOWHERE), "--out: '{}' .*beside it"),
        (("synthesize", "a.png", NOWHERE, "--out", "o"), "IMAGES: '{}' .*from a disk"),
        (("synthesize", "a.png", "--out", NOWHERE), "--out: '{}' .*to a disk"),
        (("score", "a.png", NOWHERE), "TEXTURE: '{}' .*from a disk"),
        (("run", "m.csv", "--out", "o", "--config", NOWHERE), "--config: '{}' .*from a disk"),
        (("plan", "m.csv", "--measured", NOWHERE), "--measured: '{}' .*from a disk"),
        (("cluster", "check", NOWHERE), "FILE: '{}' .*from a disk"),
    ],
    ids=lambda value: "-".join(value[:3]) if isinstance(value, tuple) else None,
)
def test_what_takes_no_uri_says_so(call: Call, words: tuple[str, ...], reason: str) -> None:
    code, out, err = call(*words)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert "expected a local path: " in err
    assert re.search(reason.format(NOWHERE), err)
