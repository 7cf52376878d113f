"""`hf://` is read from, through a stand-in of ours for the few addresses of the Hub that this asks.

What it answers follows what `huggingface_hub` sends and expects; it knows one state by two
names, no large-file storage, and nobody's rights.
"""

from __future__ import annotations

import hashlib
import json
import re
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import huggingface_hub.constants
import pytest

from pipeline.object_store import StorageError, open_filesystem
from pipeline.storage import ObjectPath, download

REPOSITORY = "datasets/someone/textures"
COMMIT = "(?:main|0123abc)"
HOME = ObjectPath(f"hf://{REPOSITORY}")

Call = Callable[..., tuple[int, str, str]]


class Hub(BaseHTTPRequestHandler):
    """Gives information about the repository, listings of its folders, and ranges of its files."""

    folder: Path
    asked: Counter[str]

    def do_GET(self) -> None:
        place = unquote(urlsplit(self.path).path)
        if found := re.fullmatch(rf"/api/{REPOSITORY}(/revision/{COMMIT})?", place):
            self._answer(json.dumps({"id": REPOSITORY.partition("/")[2]}).encode(), "information")
        elif found := re.fullmatch(rf"/api/{REPOSITORY}/tree/{COMMIT}/?(.*)", place):
            self._list(found[1])
        elif found := re.fullmatch(rf"/{REPOSITORY}/resolve/{COMMIT}/(.+)", place):
            self._read(self.folder / found[1])
        else:
            self._refuse("RepoNotFound")

    def _list(self, name: str) -> None:
        folder = self.folder / name
        if not folder.is_dir():
            self._refuse("EntryNotFound")
            return
        entries = []
        for path in sorted(folder.iterdir()):
            place = {"path": str(path.relative_to(self.folder))}
            if path.is_dir():
                entries.append({**place, "type": "directory", "oid": "0", "size": 0})
            else:
                data = path.read_bytes()
                digest = hashlib.sha1(data).hexdigest()
                entries.append({**place, "type": "file", "oid": digest, "size": len(data)})
        self._answer(json.dumps(entries).encode(), "listing")

    def _read(self, path: Path) -> None:
        if not path.is_file():
            self._refuse("EntryNotFound")
            return
        data = path.read_bytes()
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range") or "")
        if found:
            first, last = int(found[1]), min(int(found[2]), len(data) - 1)
            heads = {"Content-Range": f"bytes {first}-{last}/{len(data)}"}
            self._answer(data[first : last + 1], "range", 206, heads)
        else:
            self._answer(data, "file")

    def _refuse(self, code: str) -> None:
        self._answer(b"{}", code, 404, {"X-Error-Code": code})

    def _answer(
        self, data: bytes, what: str, status: int = 200, heads: dict[str, str] | None = None
    ) -> None:
        self.asked.update([what])
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **(heads or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """A Hub with one data set, which holds what lies in the fixture's `folder`."""
    (tmp_path / "hub").mkdir()
    handler = type("Served", (Hub,), {"folder": tmp_path / "hub", "asked": Counter()})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
        # The package reads HF_ENDPOINT when it is imported, which other tests have done.
        url = f"http://127.0.0.1:{server.server_port}"
        template = url + "/{repo_id}/resolve/{revision}/{filename}"
        values = {
            "ENDPOINT": url,
            "HUGGINGFACE_CO_URL_TEMPLATE": template,
            "HF_HUB_OFFLINE": False,
        }
        for name, value in values.items():
            monkeypatch.setattr(huggingface_hub.constants, name, value)
        yield handler
        open_filesystem("hf").clear_instance_cache()
        server.shutdown()


def test_files_are_listed_and_read(hub: type[Hub], tmp_path: Path) -> None:
    (hub.folder / "images").mkdir()
    (hub.folder / "images" / "a.png").write_bytes(b"0123456789")
    (hub.folder / "rows.csv").write_text("path\n")
    assert [path.name for path in HOME.iterdir()] == ["images", "rows.csv"]
    assert (HOME / "images").is_dir()
    picture = HOME / "images" / "a.png"
    found = picture.stat()
    assert (found.st_size, found.version) == (10, hashlib.sha1(b"0123456789").hexdigest())
    assert picture.read_bytes() == b"0123456789"
    with picture.open() as file:
        file.seek(3)
        assert file.read(4) == b"3456"
    download(picture, tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"0123456789"
    hub.asked.clear()
    for _ in range(3):
        with picture.open() as file:
            file.read()
    assert hub.asked == {"range": 3}, "the folder is listed once, for all that are read from it"
    pinned = ObjectPath(f"{HOME}@0123abc")
    assert (pinned / "images" / "a.png").read_bytes() == b"0123456789"
    assert [path.uri for path in pinned.iterdir()] == [f"{pinned}/images", f"{pinned}/rows.csv"]
    # What is committed by others is seen at the next look.
    (hub.folder / "rows.csv").write_text("path\na.png\n")
    (hub.folder / "new").write_bytes(b"")
    assert [path.name for path in HOME.iterdir()] == ["images", "new", "rows.csv"]
    assert (HOME / "rows.csv").read_text() == "path\na.png\n"


@pytest.mark.usefixtures("hub")
def test_what_is_not_there_is_named() -> None:
    with pytest.raises(FileNotFoundError, match=r"textures/none"):
        (HOME / "none").read_bytes()
    with pytest.raises(FileNotFoundError, match=r"someone/other/a"):
        ObjectPath("hf://datasets/someone/other/a").read_bytes()
    assert list((HOME / "none").iterdir()) == []


@pytest.mark.usefixtures("hub")
def test_nothing_is_written() -> None:
    refused = pytest.raises(StorageError, match=r"textures/a: cannot write there: .*'hf upload'")
    with refused:
        (HOME / "a").write_bytes(b"")
    with refused:
        (HOME / "a").unlink()
    with refused:
        (HOME / "a").upload(Path(__file__))


def test_a_run_reads_everything_from_the_hub_and_its_finished_folder_is_read_there(
    hub: type[Hub],
    weights_file: Path,
    make_manifest: Callable[..., Path],
    tmp_path: Path,
    call: Call,
) -> None:
    make_manifest(["a", "b"]).rename(hub.folder / "manifest.csv")
    (tmp_path / "images").rename(hub.folder / "images")
    (hub.folder / "weights.safetensors").write_bytes(weights_file.read_bytes())
    options = ["--weights", f"{HOME}/weights.safetensors", "--size=32", "--evaluations=5"]
    run = ["run", f"{HOME}/manifest.csv", *options, "--executor=inline", "--out"]
    code, _, err = call(*run, f"{HOME}/run")
    assert (code, "'hf upload'" in err, "Traceback" in err) == (2, True, False), err
    assert not hub.asked, "it is refused before anything is read"
    code, _, err = call(*run, str(tmp_path / "run"))
    assert code == 0, err
    (tmp_path / "run").rename(hub.folder / "run")
    assert call("verify", f"{HOME}/run")[0] == 0
    assert "finished" in call("status", f"{HOME}/run")[1]
    code, out, err = call("query", f"{HOME}/run", "SELECT count(*) AS rows FROM metrics")
    assert (code, "2" in out) == (0, True), err
