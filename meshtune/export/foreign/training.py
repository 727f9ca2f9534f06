"""What the settings of another tool are written from: one chosen training of a study, complete.

Values only. Whatever was resolved while the study ran (precision, prompt style, row formats) comes in as a fact, so
that nothing is loaded here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.config.sections import DataConfig, ModelConfig, RowsFile, SourceConfig, StudyConfig
from meshtune.data.embedded import PUBLISHED
from meshtune.errors import InputError
from meshtune.training.recipe import Recipe, recipe

SINGLE_TURN = ("alpaca", "dolly", "prompt-completion", "prompt-response")
VERBATIM = ("prompt-completion", "prompt-response")
RESPONSE = {"prompt-completion": "completion", "prompt-response": "response"}


@dataclass(frozen=True)
class Source:
    """One source of rows as another tool finds it.

    Attributes:
        path: a file, or "" where `dataset` is an id of the Hugging Face hub, with its `subset` and `split`.
        format: of the rows, resolved (never `auto`).
        share: of the mixture, or None. assumed: whether the format is a guess, since it was not resolved.
    """

    path: str
    dataset: str
    subset: str | None
    split: str
    format: str
    share: float | None = None
    assumed: bool = False

    @property
    def kind(self) -> str:
        """What `datasets.load_dataset` calls the file: json, csv or parquet."""
        suffixes = [suffix.lower() for suffix in Path(self.path).suffixes if suffix.lower() != ".gz"]
        return {".csv": "csv", ".parquet": "parquet"}.get(suffixes[-1] if suffixes else "", "json")


@dataclass(frozen=True)
class ForeignStudy:
    """One training of a study.

    Attributes:
        recipe: the hyperparameters and the training section together; `precision` is resolved where it is known.
        max_length: in tokens; meshtune drops rows that are longer.
        prompt: `chat` (the model's own template) or `alpaca`.
        facts: where it comes from: `study` (name), `trial` (number), `loss`, `baseline_loss`, `untuned_loss`,
            `test_loss`, `epoch` (from 1, whose adapter was kept), `train_rows`; each may be missing, or None.
    """

    model: ModelConfig
    data: DataConfig
    sources: tuple[Source, ...]
    recipe: Recipe
    max_length: int
    prompt: str
    facts: Mapping[str, Any]

    @property
    def model_name(self) -> str:
        """The model as other tools find it."""
        return PUBLISHED if self.model.name == "embedded" else self.model.name

    @property
    def turns_differ(self) -> bool:
        """Whether rows may have several answers, so that `train_on: all` and `last` differ."""
        return any(source.format not in SINGLE_TURN for source in self.sources)

    @property
    def validation_size(self) -> int | float:
        """Validation rows: a share or a number; the usual share where they stand in a file of their own."""
        return 0.1 if isinstance(self.data.validation, RowsFile) else self.data.validation

    @property
    def validation_rows(self) -> Source | None:
        """The file of the validation rows, where they have one; without a format, that of the first source."""
        rows = self.data.validation
        if not isinstance(rows, RowsFile):
            return None
        row_format = self.sources[0].format if rows.format == "auto" else rows.format
        return Source(rows.path, "", None, "train", row_format, assumed=rows.format == "auto")


def settings_of(
    config: StudyConfig, hyperparameters: Mapping[str, Any], max_length: int, facts: Mapping[str, Any]
) -> ForeignStudy:
    """The study and one of its points, for `settings` and `files`.

    Args:
        hyperparameters: decoded ones: rank, alpha, dropout, learning_rate, and what else the space moves.
        max_length: the number of tokens that `auto` became.
        facts: those of `ForeignStudy.facts`; also `precision` and `prompt`, which `auto` became, and `formats`, the
            format of each source by its name. What is missing is taken from the config.

    Raises:
        InputError: the study tunes a command, or a hyperparameter is not one of a LoRA fine-tuning.
    """
    if config.model is None or config.data is None:
        raise InputError("this study tunes a command: it has no model and no data that another tool could train on")
    training = config.training.model_copy(update={"precision": facts.get("precision", config.training.precision)})
    formats = facts.get("formats") or {}
    prompt = facts.get("prompt") or config.data.prompt
    sources = tuple(_source(source, formats.get(source.name, source.format)) for source in config.data.sources)
    return ForeignStudy(
        model=config.model,
        data=config.data,
        sources=sources,
        recipe=recipe(training, hyperparameters, config.seed),
        max_length=max_length,
        prompt="alpaca" if prompt == "alpaca" else "chat",
        facts=facts,
    )


def _source(source: SourceConfig, row_format: str) -> Source:
    path = f"{source.embedded}.jsonl" if source.embedded else source.path or ""
    assumed = row_format == "auto" and source.embedded is None
    known = "alpaca" if row_format == "auto" else row_format
    return Source(path, source.dataset or "", source.subset, source.split, known, source.share, assumed)
