"""The sampler of a study: the one that the config names, or the one that `auto` stands for.

What `auto` stands for is chosen when the study opens and is one of its fixed keys from then on, whatever later changes.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from meshtune.config.sections import SamplerConfig, StudyConfig
from meshtune.errors import Fault, InputError
from meshtune.plan.goals import PlannedGoals
from meshtune.samplers.auto import Situation, choose
from meshtune.space.space import Space

REASON = "why_sampler"  # the record's note of why `auto` is this sampler


def sampler_of(
    config: StudyConfig,
    space: Space,
    start: Mapping[str, Any] | None,
    goals: PlannedGoals,
    block_size: int,
    notes: Mapping[str, Any],
) -> tuple[SamplerConfig, str | None]:
    """The sampler and, where `auto` chose it, the reason; `notes` are those of the record of a study that has begun."""
    section = config.sampler
    if section.name != "auto":
        return section, None
    if section.options:
        what = "`auto` takes none: name the sampler that they are for"
        raise InputError(Fault(what, key="sampler.options"))
    recorded = notes.get("fixed", {}).get("sampler", {})
    if recorded.get("name") == "import":
        what = "the study began with a sampler of your own: name it again, or give another --folder"
        raise InputError(Fault(what, key="sampler"))
    if recorded:
        name, options, reason = recorded["name"], recorded["options"], notes.get(REASON, "as the study began")
    else:
        situation = Situation(
            trials=config.budget.trials,
            dimension=len(space.dimensions),
            block_size=block_size,
            asynchronous=section.asynchronous,
            start=start is not None,
            objectives=len(goals.goals.objectives),
            constraints=len(goals.goals.measured),
            nomad=importlib.util.find_spec("PyNomad") is not None,
        )
        choice = choose(situation)
        name, options, reason = choice.name, {}, choice.reason
    return section.model_copy(update={"name": name, "options": options}), reason
