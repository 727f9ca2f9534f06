"""The sampler of a study: the one that the config names, or the one that `auto` stands for.

What `auto` stands for is chosen when the study opens and is one of its fixed keys from then on, whatever later changes.
"""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from meshtune.config.sections import SamplerConfig, StudyConfig
from meshtune.errors import Fault, InputError
from meshtune.plan.fixed_keys import recorded_notes
from meshtune.plan.locate import Located
from meshtune.samplers.auto import Situation, choose
from meshtune.system.imported import portable

if TYPE_CHECKING:
    from meshtune.plan.plan import Prepared

REASON = "why_sampler"  # the record's note of why `auto` is this sampler


def fixed(config: SamplerConfig) -> dict[str, Any]:
    """What of it must not change once the study has begun."""
    return portable(config.fixed)


def with_sampler(study: Located, prepared: Prepared) -> Prepared:
    """The same study with its block size, its sampler and, where `auto` chose that, the reason."""
    config, notes = study.config.sampler, recorded_notes(study) or {}
    keys = notes.get("fixed", {})
    block_size = config.block_size or keys.get("block_size") or prepared.packing.block_size
    prepared = replace(prepared, sampler=config, block_size=int(block_size))
    if config.name != "auto":
        return prepared
    if config.options:
        what = "`auto` takes none: name the sampler that they are for"
        raise InputError(Fault(what, key="sampler.options"))
    recorded = keys.get("sampler", {})
    if recorded.get("name") == "import":
        what = "the study began with a sampler of your own: name it again, or give another --folder"
        raise InputError(Fault(what, key="sampler"))
    if recorded:
        name, options, reason = recorded["name"], recorded["options"], notes.get(REASON, "as the study began")
    else:
        choice = choose(_situation(study.config, prepared))
        name, options, reason = choice.name, {}, choice.reason
    sampler = SamplerConfig(name=name, options=options, block_size=config.block_size)
    return replace(prepared, sampler=sampler, why=reason, fixed={**prepared.fixed, "sampler": fixed(sampler)})


def _situation(config: StudyConfig, prepared: Prepared) -> Situation:
    return Situation(
        trials=config.budget.trials,
        dimension=len(prepared.space.dimensions),
        block_size=prepared.block_size,
        start=prepared.start is not None,
        objectives=len(prepared.guided.guidance.objectives),
        constraints=len(prepared.guided.guidance.measured),
        nomad=importlib.util.find_spec("PyNomad") is not None,
    )
