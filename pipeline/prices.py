"""What textures cost: prices of machines, which are the user's, and the time that a plan found."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

if TYPE_CHECKING:
    from pipeline.plan import RunPlan

TEXTURES = 1000
"""That a cost is given for."""


class PriceError(ValueError):
    """A price that is no number and no table of prices."""


class Price(BaseModel):
    """Of one kind of machine, as somebody found it one day.

    Attributes:
        name: of the machine, and how it is paid for.
        usd_per_hour: of a whole machine.
        devices: GPUs of the machine that get an actor each; 1 without GPUs.
        found_on: when.
        source: where.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    name: str
    usd_per_hour: Annotated[float, Field(gt=0)]
    devices: Annotated[int, Field(ge=1)] = 1
    found_on: date | None = None
    source: str | None = None


PRICES = TypeAdapter(Annotated[list[Price], Field(min_length=1)])


class Cost(BaseModel):
    """Of a run on one kind of machine, USD, while its devices are busy and nothing else.

    Attributes:
        price: of the machine.
        usd_per_1000_textures: at the plan's speed.
        usd_total: of the tasks left.
    """

    model_config = ConfigDict(frozen=True)

    price: Price
    usd_per_1000_textures: float
    usd_total: float


def load_prices(given: str) -> tuple[Price, ...]:
    """A price per device hour, such as 1.25, or the path of a YAML list of machines.

    Raises:
        PriceError: if it is neither, or the list has other fields than `Price`.
    """
    try:
        return (Price(name="a device", usd_per_hour=float(given)),)
    except ValidationError as error:
        raise PriceError(f"price is {given!r}, expected more than 0 USD per device hour") from error
    except ValueError:
        pass
    path = Path(given)
    if not path.is_file():
        raise PriceError(
            f"price is {given!r}, expected USD per device hour, such as 1.25, or a YAML file, and "
            "there is no such file"
        )
    try:
        table = yaml.safe_load(path.read_text(encoding="utf-8"))
        return tuple(
            TypeAdapter(Annotated[list[Price], Field(min_length=1)]).validate_python(table)
        )
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise PriceError(f"prices of {given!r}: {where}: {first['msg']}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise PriceError(f"prices of {given!r} are no YAML: {error}") from error


def compute_costs(plan: RunPlan, prices: Sequence[Price]) -> tuple[Cost, ...]:
    """The costs of a planned run, one for each price."""
    costs = []
    for price in prices:
        usd_per_device_hour = price.usd_per_hour / price.devices
        costs.append(
            Cost(
                price=price,
                usd_per_1000_textures=TEXTURES
                * usd_per_device_hour
                / plan.textures_per_device_hour,
                usd_total=plan.device_hours_total * usd_per_device_hour,
            )
        )
    return tuple(costs)
