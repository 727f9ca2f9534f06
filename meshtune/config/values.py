"""What the sections of study.yaml are made of: numbers, scalars, shares, and what of the user's own is imported."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator, model_validator

from meshtune.space.goals import in_bytes

Real = Annotated[float, Field(allow_inf_nan=False)]
PositiveReal = Annotated[float, Field(allow_inf_nan=False, gt=0)]


def _scalar(value: Any) -> bool | int | float | str:
    if not isinstance(value, bool | int | float | str):
        raise ValueError(f"{value!r} is not allowed; a number, text, true or false is")
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{value} is not a finite number")
    return value


Scalar = Annotated[bool | int | float | str, PlainValidator(_scalar)]


def _size(value: Any) -> int:
    """`20 GB` is 20,000,000,000 bytes."""
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    found = re.fullmatch(r"\s*(\d+\.?\d*|\.\d+)\s*([A-Za-z]+)\s*", value) if isinstance(value, str) else None
    size = 0 if found is None else round(float(found[1]) * in_bytes(found[2], value.strip()))
    if size <= 0:
        raise ValueError(f"`{value}` is not allowed; a size above 0 is, such as `20 GB`, or a whole number of bytes")
    return size


Size = Annotated[int, PlainValidator(_size)]


class Section(BaseModel):
    """A frozen section; unknown keys are faults."""

    model_config = ConfigDict(frozen=True, extra="forbid", serialize_by_alias=True)


def named(value: Any) -> Any:
    """`sampler: mads` is short for `sampler: {name: mads}`."""
    return {"name": value} if isinstance(value, str) else value


def of_study(value: Any) -> Any:
    """`warm_start: ../round1` is short for `warm_start: {study: ../round1}`."""
    return {"study": value} if isinstance(value, str) else value


def of_trackers(value: Any) -> Any:
    """`report_to: [mlflow]` is short for `report_to: {trackers: [mlflow]}`, and so is `report_to: mlflow`."""
    value = [value] if isinstance(value, str) else value
    value = {"trackers": value} if isinstance(value, list | tuple) else value
    if isinstance(value, Mapping) and isinstance(value.get("trackers"), list):
        value = {**value, "trackers": tuple(value["trackers"])}
    return value


def named_or_imported(value: Any) -> Any:
    """As `named`; `{import: module:Name}` is short for `{name: import, import: module:Name}`."""
    value = named(value)
    return {"name": "import", **value} if isinstance(value, Mapping) and value.get("import") else value


def _imported_as(value: str) -> str:
    if not re.fullmatch(r"([A-Za-z_][\w.]*|.+\.py):[A-Za-z_]\w*", value):
        raise ValueError(
            f"`{value}` is not allowed; package.module:Name or file.py:Name is, such as ./my_samplers.py:MySampler"
        )
    return value


Imported = Annotated[str, AfterValidator(_imported_as)]


class MayImport(Section):
    """A section whose `name` may be `import`: then `import` says what of the user's own is imported."""

    name: str
    imported: Imported | None = Field(default=None, alias="import")

    @property
    def shown(self) -> str:
        """What messages call it."""
        return self.imported or self.name

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.name == "import" and self.imported is None:
            example = "`{import: my_package.module:Name}` or `{import: ./file.py:Name}`"
            raise ValueError(f"`import` must be given, such as {example}")
        if self.name != "import" and self.imported is not None:
            raise ValueError(f"`name: {self.name}` and `import` are both given: remove one of them")
        return self


def share_or_rows(least: int) -> Callable[[Any], int | float]:
    """A check of a share, or of a number of rows from `least` on."""

    def check(value: Any) -> int | float:
        if isinstance(value, int | float) and not isinstance(value, bool):
            if value == 0 and least == 0:
                return 0
            if 0 < value < 1 or (isinstance(value, int) and value >= 1):
                return value
        zero = ", 0 for none" if least == 0 else ""
        allowed = f"a share between 0 and 1, a whole number of rows or {{path: FILE}}{zero}"
        raise ValueError(f"`{value}` is not allowed; allowed is {allowed}")

    return check
