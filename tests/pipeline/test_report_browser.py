"""The report in a real browser, opened from the disk."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from pipeline.report import write_report
from pipeline.resume import RunRecord, write_run_record
from pipeline.rundir import RunDirectory
from pipeline.schema import row_schema, rows_to_table
from pipeline.shards import commit_rows

webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed")

from selenium.webdriver.chrome.service import Service  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402
from selenium.webdriver.support.ui import Select, WebDriverWait  # noqa: E402

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="no chromium with its chromedriver on this machine"
)

Browser = Any
Row = dict[str, Any]
EVIL = """'"></script></h3><img src=x onerror="window.caught=1">\0&amp;"""
SIDE = 32
MANY = 60
"""More exemplars than fit on a page of the gallery."""


def draw(seed: int, side: int = SIDE) -> bytes:
    pixels = np.random.default_rng(seed).integers(0, 256, (side, side, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def make_row(exemplar: str, variation: int, **values: Any) -> Row:
    seed = int(hashlib.sha256(f"{exemplar}{variation}".encode()).hexdigest()[:6], 16)
    row: Row = {
        **{"task_id": f"{exemplar}-c0-v{variation}", "exemplar_id": exemplar, "crop": 0},
        **{"variation": variation, "seed": 0, "attempts": 1, "status": "ok", "path": "a.png"},
        **{"exemplar_sha256": hashlib.sha256(draw(0)).hexdigest(), "category": "bark"},
        **{"crop_left": 0, "crop_top": 0, "crop_side": SIDE, "height": SIDE, "width": SIDE},
        **{"image": {"bytes": draw(seed), "path": "x.png"}, "preset": "default"},
        **{"config_fingerprint": "0", "weights": "random:0", "texsynth_version": "0"},
        **{"torch_version": "0", "finished_at": datetime(2026, 1, 2, tzinfo=UTC)},
        "loss_curve": [{"evaluations": k, "loss": 9.0 - k, "side": 8 + k // 4} for k in range(8)],
    }
    return row | values


def copied(score: float) -> Row:
    return {"displacement_score": score, "copy_displacement_threshold": 0.5}


def write_run(folder: Path, rows: list[Row]) -> Path:
    run = RunDirectory(folder / "run")
    run.create()
    images = folder / "images"
    images.mkdir()
    (images / "a.png").write_bytes(draw(0))
    record = RunRecord(
        **{"config": {}, "identity": {}, "versions": {}, "weights": "random:0"},
        **{"weights_sha256": "0" * 64, "manifest": "m.csv", "manifest_sha256": "0" * 64},
        **{"root": str(images), "carried": pa.schema([]), "created_at": "2026-01-02T00:00:00"},
    )
    write_run_record(run, record)
    commit_rows(run, rows_to_table(rows, row_schema()))
    return write_report(run)


@pytest.fixture(scope="module")
def small_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [
        make_row("pine", 0, delivered_loss=10.0, **copied(0.2)),
        make_row("pine", 1, delivered_loss=900.0, **copied(0.9)),
        make_row("oak", 0, delivered_loss=500.0, **copied(0.7)),
        make_row(EVIL, 0, delivered_loss=70.0, category=EVIL, stop_reason=EVIL, **copied(0.6)),
        make_row("gone", 0, status="failed", image=None, width=None, error=EVIL, category=EVIL),
    ]
    return write_run(tmp_path_factory.mktemp("small & <b>'"), rows)


@pytest.fixture(scope="module")
def large_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    rows = [make_row(f"e{k:03d}", 0, delivered_loss=float(k)) for k in range(MANY)]
    return write_run(tmp_path_factory.mktemp("large"), rows)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--window-size=1200,900"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[[Path], Browser]]:
    """Opens a page; after the test nothing may have been logged or fetched but files beside it."""

    def open_it(path: Path) -> Browser:
        browser.get_log("performance")
        browser.get(path.as_uri())
        # On a busy machine the driver may be back before the page's own script is through.
        WebDriverWait(browser, 20).until(lambda _: find(browser, "#count").text)
        return browser

    yield open_it
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [e["params"]["request"]["url"] for e in events if e["method"] == SENT]
    assert sent
    assert [url for url in sent if not url.startswith("file:///")] == []


SENT = "Network.requestWillBeSent"


def find(browser: Browser, selector: str) -> Any:
    return browser.find_element("css selector", selector)


def names(browser: Browser) -> list[str]:
    # At once: elements found one by one may be replaced meanwhile.
    script = "return [...document.querySelectorAll('.card h3')].map(title => title.innerText)"
    found: list[str] = browser.execute_script(script)
    return found


def choose(browser: Browser, name: str, value: str) -> None:
    Select(find(browser, f"#controls [name={name}]")).select_by_value(value)


def wait_for(browser: Browser, text: str) -> None:
    WebDriverWait(browser, 5).until(lambda _: find(browser, "#count").text == text)


def test_the_page_opens_and_shows_texts_as_texts(
    open_page: Callable[[Path], Browser], small_page: Path
) -> None:
    browser = open_page(small_page)
    assert names(browser)[:2] == ["pine bark", "oak bark"]
    assert len(browser.find_elements("css selector", ".card")) == 4
    titles = browser.execute_script(
        "return [...document.querySelectorAll('.card h3')].map(title => title.textContent)"
    )
    assert f"{EVIL} {EVIL}" in titles
    assert browser.execute_script("return window.caught") is None
    assert browser.find_elements("css selector", "img[src=x]") == []
    count = find(browser, "#count")
    assert count.text == "5 rows of 4 exemplars"
    assert count.get_attribute("aria-live") == "polite"
    sizes = browser.execute_async_script(
        "const done = arguments[0]; const image = new Image();"
        "image.onload = () => done([image.naturalWidth, image.naturalHeight]);"
        "image.src = document.querySelector('.tile').style.backgroundImage.slice(5, -2);"
    )
    assert sizes == [512, 512]


def test_filters_say_how_many_rows_are_left(
    open_page: Callable[[Path], Browser], small_page: Path
) -> None:
    browser = open_page(small_page)
    find(browser, "#controls [name=text]").send_keys("PINE")
    wait_for(browser, "2 rows of 1 exemplar")
    choose(browser, "flag", "flagged")
    wait_for(browser, "1 row of 1 exemplar")
    assert len(browser.find_elements("css selector", ".card li.other")) == 1
    assert "copy of its exemplar" in find(browser, ".card .reasons").text
    find(browser, "#controls [type=reset]").click()
    wait_for(browser, "5 rows of 4 exemplars")
    choose(browser, "status", "failed")
    wait_for(browser, "1 row of 1 exemplar")
    choose(browser, "flag", "0:copy")
    wait_for(browser, "Nothing matches these filters.")
    assert names(browser) == []
    find(browser, "#controls [type=reset]").click()
    choose(browser, "category", "0")
    wait_for(browser, "2 rows of 2 exemplars")
    find(browser, ".failures [data-status]").click()
    wait_for(browser, "1 row of 1 exemplar")
    assert browser.execute_script("return document.activeElement.id") == "textures"
    find(browser, ".categories [data-category=bark]").click()
    wait_for(browser, "3 rows of 2 exemplars")


def test_order_by_any_measure(open_page: Callable[[Path], Browser], small_page: Path) -> None:
    browser = open_page(small_page)
    choose(browser, "category", "1")
    wait_for(browser, "3 rows of 2 exemplars")
    # Low displacement scores are the bad ones.
    for measure, order, first in (
        ("displacement_score", "worst", "pine"),
        ("displacement_score", "best", "pine"),
        ("delivered_loss", "worst", "pine"),
        ("delivered_loss", "best", "pine"),
    ):
        choose(browser, "sort", measure)
        choose(browser, "order", order)
        assert names(browser)[0] == f"{first} bark"
    find(browser, "#controls [name=text]").send_keys("v0")
    wait_for(browser, "2 rows of 2 exemplars")
    choose(browser, "order", "worst")
    assert names(browser) == ["oak bark", "pine bark"]
    choose(browser, "sort", "displacement_score")
    assert names(browser) == ["pine bark", "oak bark"]


def test_enlarging_by_keyboard(open_page: Callable[[Path], Browser], small_page: Path) -> None:
    browser = open_page(small_page)
    tile = browser.find_elements("css selector", ".card .tile")[2]
    assert tile.accessible_name == "Variation 1 of pine, delivered loss 900, enlarge"
    tile.send_keys(Keys.ENTER)
    dialog = find(browser, "dialog")
    assert dialog.is_displayed()
    assert dialog.accessible_name == "pine"
    alternatives = "return [...document.querySelectorAll('dialog img')].map(image => image.alt)"
    shown = ["Exemplar pine", "Variation 0 of pine", "Variation 1 of pine"]
    assert browser.execute_script(alternatives) == shown
    widths = "return [...document.querySelectorAll('dialog img')].map(image => image.naturalWidth)"
    WebDriverWait(browser, 5).until(lambda _: browser.execute_script(widths) == [SIDE] * 3)
    assert "displacement score 0.2 < 0.5" in dialog.text
    assert browser.execute_script("return dialog.contains(document.activeElement)")
    find(browser, "dialog [name=spectra]").send_keys(Keys.SPACE)
    assert len(browser.find_elements("css selector", "dialog .spectrum")) == 2
    assert len(browser.find_elements("css selector", "dialog .curve path")) == 3
    find(browser, "dialog h2").send_keys(Keys.ARROW_RIGHT)
    assert dialog.accessible_name == "oak"
    find(browser, "dialog h2").send_keys(Keys.ARROW_LEFT)
    assert dialog.accessible_name == "pine"
    find(browser, "dialog h2").send_keys(Keys.ESCAPE)
    assert not dialog.is_displayed()
    label = browser.execute_script("return document.activeElement.getAttribute('aria-label')")
    assert label.startswith("Variation 0 of pine")


def test_pages_of_a_large_gallery(open_page: Callable[[Path], Browser], large_page: Path) -> None:
    browser = open_page(large_page)
    assert names(browser)[0] == f"e{MANY - 1:03d} bark"
    assert len(names(browser)) == 48
    find(browser, "#pages [name=next]").click()
    assert names(browser)[-1] == "e000 bark"
    assert "Page 2 of 2" in find(browser, "#pages").text
    assert not find(browser, "#pages [name=next]").is_enabled()
    # From the first card of this page the dialog goes on to the page before.
    find(browser, ".tile").click()
    find(browser, "dialog [name=previous]").click()
    find(browser, "dialog [name=close]").click()
    assert "Page 1 of 2" in find(browser, "#pages").text


def test_the_policy_forbids_the_network(browser: Browser, small_page: Path) -> None:
    browser.get(small_page.as_uri())
    refused = browser.execute_async_script(
        "const done = arguments[0];"
        "document.addEventListener('securitypolicyviolation', event => done(event.blockedURI));"
        "new Image().src = 'http://127.0.0.1:9/x.png';"
    )
    assert refused.startswith("http://127.0.0.1:9/")
    browser.get_log("browser")


@pytest.mark.parametrize("width", [360, 1400])
def test_nothing_is_wider_than_the_window(browser: Browser, small_page: Path, width: int) -> None:
    size = {"width": width, "height": 800, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    browser.get(small_page.as_uri())
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
