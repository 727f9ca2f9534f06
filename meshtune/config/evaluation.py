"""The section `evaluation:` of study.yaml: which candidates are scored on which benchmarks, and how."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Field, PositiveInt, ValidationError, field_validator, model_validator

from meshtune.config.values import Real, Section
from meshtune.errors import Fault, InputError


class EvaluationConfig(Section):
    """What `meshtune evaluate` does unless its options say otherwise; the search knows nothing of it."""

    protocol: Literal["instruct-eval", "harness"] = "instruct-eval"
    benchmarks: tuple[str, ...] = ()  # names; of the harness, its tasks; none: all that the data hold
    data: str | None = None  # a folder (absolute once read); null: the Hugging Face hub
    tasks: str | None = None  # a folder of the harness's YAML tasks (absolute once read)
    limit: PositiveInt | None = None  # items of a benchmark
    best: Annotated[int, Field(ge=0)] = 5
    worst: Annotated[int, Field(ge=0)] = 0
    temperature: Annotated[Real, Field(ge=0)] = 0.0
    samples: PositiveInt = 1  # answers to each problem of HumanEval
    pass_at: tuple[PositiveInt, ...] = ()
    guided: str | None = None  # a file of items that guided the search (absolute once read)
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0  # of the subset and of sampled answers

    @field_validator("benchmarks")
    @classmethod
    def _once(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        return tuple(dict.fromkeys(names))

    @model_validator(mode="after")
    def _samples(self) -> Self:
        faults = []
        if self.temperature == 0 and (self.samples > 1 or self.pass_at):
            what = f"`samples: {self.samples}`" if self.samples > 1 else "`pass_at`"
            faults.append(f"greedy answers are all the same, so {what} needs a `temperature` above 0, such as 0.8")
        short = [k for k in self.pass_at if k > self.samples]
        if short:
            faults.append(f"pass@{short[0]} needs at least {short[0]} `samples`, and there are {self.samples}")
        if self.tasks is not None and self.protocol != "harness":
            faults.append("`tasks` are those of the harness: write `protocol: harness`")
        if faults:
            raise ValueError("; ".join(faults))
        return self


def changed(section: EvaluationConfig, given: Mapping[str, Any]) -> EvaluationConfig:
    """The section with some keys as a command line gives them. Raises InputError with all faults."""
    try:
        return EvaluationConfig.model_validate({**section.model_dump(), **given})
    except ValidationError as error:
        faults = error.errors(include_url=False)
    found = [(fault.get("ctx", {}).get("error", fault["msg"]), fault["loc"]) for fault in faults]
    raise InputError([Fault(str(what), key=".".join(["evaluation", *map(str, place)])) for what, place in found])
