"""What each trial of a study is measured by beside its loss, as `check`, `prepare` and `tune` need it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from meshtune.config.goals import GuideConfig
from meshtune.config.sections import ModelConfig
from meshtune.errors import Fault, InputError
from meshtune.objectives import metrics
from meshtune.plan.goals import guidance_of
from meshtune.plan.locate import Located

if TYPE_CHECKING:
    from meshtune.objectives.measurements import Chosen, GuideSpec


@dataclass(frozen=True)
class Guides:
    """What is measured, on what, and what of it must not change once the study has begun."""

    spec: GuideSpec
    chosen: Chosen
    fixed: dict[str, Any]


def guides_of(study: Located, model: ModelConfig, answers: int) -> Guides | None:
    """What guides a study, chosen and kept in its folder; None: nothing that is measured.

    `answers`: validation rows that are answered. Raises InputError with why something cannot be measured.
    """
    from meshtune.objectives import measurements

    config = study.config
    measured = guidance_of(config)[1]
    if not measured:
        return None
    section = config.guide or GuideConfig()
    spec = measurements.GuideSpec(quantities=measured, **section.model_dump(exclude={"measure"}))
    fixed = spec.model_dump(mode="json")
    fixed["benchmarks"] = spec.benchmarks and Path(spec.benchmarks).name  # folders may be moved
    fixed["text"] = Path(spec.text).name
    if spec.metrics:
        if not answers:
            what = f"no row is answered, and {', '.join(spec.metrics)} is measured on answers: give some"
            raise InputError(Fault(what, key="generation.rows"))
        fixed["answers"] = metrics.stamp(config.metrics, answers, config.generation.max_new_tokens)
    return Guides(spec, measurements.choose(spec, model, study.folder, anew=not study.started), fixed)
