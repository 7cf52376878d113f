from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pipeline.prices import Price, PriceError, load_prices

Call = Callable[..., tuple[int, str, str]]
MakeManifest = Callable[..., Path]

EXAMPLE = Path(__file__).parents[2] / "deploy/prices.example.yaml"

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_number_is_the_price_of_a_device_hour() -> None:
    assert load_prices("1.25") == (Price(name="a device", usd_per_hour=1.25),)


@pytest.mark.parametrize("given", ["0", "-1", "nan", "inf"])
def test_a_number_that_is_no_price_is_refused(given: str) -> None:
    with pytest.raises(PriceError, match=f"price is '{given}', expected more than 0"):
        load_prices(given)


def test_the_example_is_a_table_and_says_that_it_is_an_example() -> None:
    prices = load_prices(str(EXAMPLE))
    assert [price.devices for price in prices] == [1, 1, 8]
    assert {price.source for price in prices} == {"example, not a price"}
    assert EXAMPLE.read_text().startswith("# EXAMPLE.")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[]", "at least 1 item"),
        ("- {name: a}", "0.usd_per_hour: Field required"),
        ("- {name: a, usd_per_hour: 1, gpu: 2}", "0.gpu: Extra inputs"),
        ("- {name: a, usd_per_hour: 0}", "0.usd_per_hour: Input should be greater than 0"),
        ("- {name: a, usd_per_hour: 1, devices: 0}", "0.devices: Input should be greater"),
        ("a: b", "the file: Input should be a valid list"),
        ("- [", "no YAML"),
    ],
)
def test_a_table_with_something_else_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "prices.yaml"
    path.write_text(text)
    with pytest.raises(PriceError, match=message):
        load_prices(str(path))


def test_a_file_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        PriceError,
        match=r"expected USD per device hour, such as 1\.25, or a YAML file, and there is no",
    ):
        load_prices(str(tmp_path / "absent.yaml"))


def plan(call: Call, manifest: Path, *words: str) -> Any:
    code, out, err = call(
        *("plan", str(manifest), "--weights", "random:0", "--size", "32", "--evaluations", "100"),
        *("--seconds-per-evaluation", "0.36", "--variations", "50", "--json", *words),
    )
    assert (code, err) == (0, "")
    return json.loads(out)


def test_a_cost_is_price_times_device_hours(call: Call, make_manifest: MakeManifest) -> None:
    manifest = make_manifest(["a", "b"])
    found = plan(call, manifest, "--price", "2")
    assert plan(call, manifest)["costs"] == []
    # 100 evaluations, those that measure weights among them, of 0.36 s each; a half is left over.
    hours = 0.01
    (cost,) = found["costs"]
    assert cost["usd_per_1000_textures"] == pytest.approx(1000 * hours * 2, rel=0.01)
    assert cost["usd_total"] == pytest.approx(100 * hours * 2, rel=0.01)


def test_a_machine_with_several_devices_divides_its_price(
    call: Call, make_manifest: MakeManifest
) -> None:
    costs = plan(call, make_manifest(["a"]), "--price", str(EXAMPLE))["costs"]
    one, spot, eight = (cost["usd_per_1000_textures"] for cost in costs)
    assert spot == pytest.approx(0.4 * one)
    assert eight == pytest.approx(9 / 8 * one)


def test_the_cost_is_said_with_its_price_date_and_source(
    call: Call, make_manifest: MakeManifest
) -> None:
    words = "plan", str(make_manifest(["a"])), "--weights", "random:0", "--size", "32"
    timing = "--seconds-per-evaluation", "0.36", "--evaluations", "100"
    _, out, _ = call(*words, *timing, "--price", str(EXAMPLE))
    costs = [line for line in out.splitlines() if line.startswith("cost")]
    assert len(costs) == 3
    assert costs[0].startswith("cost (estimate) at 1 USD per hour of a machine with one GPU, on ")
    assert "(2026-01-01, example, not a price): 9.95 USD per 1,000 textures" in costs[0]
    assert "with 8 devices" in costs[2]
    code, _, err = call(*words, "--price", "cheap")
    assert (code, "price is 'cheap'" in err) == (2, True)
