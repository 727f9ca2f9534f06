"""What describes the objective `lora`, to plan a study with it: neither the trainers nor PEFT are loaded."""

from __future__ import annotations

from typing import Literal

from pydantic import AliasChoices, Field

from meshtune.config.sections import MetricConfig, ModelConfig, TrainingConfig
from meshtune.config.values import Scalar, Section
from meshtune.objectives.answers import Answering
from meshtune.objectives.measurements import MeasurementSpec
from meshtune.trial import DataRef


class LoraSpec(Section):
    """What crosses to the worker: the model, the training, the data, the epoch that counts, the study's folder."""

    model: ModelConfig
    training: TrainingConfig
    data: DataRef
    at: Literal["best", "last"]
    folder: str
    answers: int = 0  # validation rows that are answered when that is asked for
    max_new_tokens: int = 128
    # What is measured of each complete trial, and of the untuned model; specs of earlier versions call it `guides`.
    measurements: MeasurementSpec | None = Field(None, validation_alias=AliasChoices("measurements", "guides"))
    rung_rows: int = 64  # validation rows that are measured at rungs
    metrics: dict[str, MetricConfig] = Field(default_factory=dict)
    variants: tuple[dict[str, Scalar], ...] = ({},)  # of hyperparameters that decide whether a trial can be packed

    @property
    def answering(self) -> Answering:
        """How validation rows are answered."""
        return Answering(self.model, self.data, self.metrics, self.answers, self.max_new_tokens)
