"""What machines have and cost, from a dated table (cluster/prices.yaml, or one of the same form).

machines = read_prices().machines
machines["g6.xlarge"].on_demand
"""

from datetime import date
from pathlib import Path

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

TABLE = Path(__file__).parents[1] / "prices.yaml"


class PriceError(Exception):
    """A price table cannot be used; the message names it."""


class Machine(BaseModel):
    """One kind of machine that a cloud rents out."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    cpus: int = Field(gt=0)
    memory_gib: float = Field(gt=0)
    gpus: int = Field(0, ge=0)
    gpu: str = ""
    gpu_memory_gib: float = Field(0, ge=0)
    on_demand: float = Field(gt=0)
    """USD an hour."""
    spot: float | None = Field(None, gt=0)
    """USD an hour, when the table was written."""

    @model_validator(mode="after")
    def _spot_is_cheaper(self) -> "Machine":
        if self.spot is not None and self.spot > self.on_demand:
            raise ValueError(f"spot {self.spot} is above on_demand {self.on_demand}")
        return self


class PriceTable(BaseModel):
    """Machines by the names that their clouds give them."""

    model_config = ConfigDict(frozen=True, extra="forbid")
    date: date
    places: dict[str, str] = {}
    """The region of each cloud that the prices are of."""
    machines: dict[str, Machine]


def read_prices(path: str | Path | None = None) -> PriceTable:
    """The repository's table, or another one; PriceError says what is wrong with it."""
    file = Path(path or TABLE)
    try:
        return PriceTable.model_validate(yaml.safe_load(file.read_text()))
    except OSError as error:
        raise PriceError(f"{file}: the price table cannot be read ({error.strerror}); check --prices") from error
    except (yaml.YAMLError, ValidationError) as error:
        raise PriceError(f"{file}: not a price table ({error}); see cluster/prices.yaml for the form") from error
