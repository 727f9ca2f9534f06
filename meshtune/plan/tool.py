"""What a study plans whose trials another fine-tuning tool trains: its settings as they are, and what may move."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from meshtune.config.presets import RECOMMENDED_BASELINE
from meshtune.config.sections import StudyConfig, TrainerObjectiveConfig
from meshtune.errors import Fault, InputError
from meshtune.objectives import tools, trainer
from meshtune.objectives.build import ObjectiveSpec
from meshtune.plan.goals import measured_quantities
from meshtune.plan.locate import Located
from meshtune.space.space import Space
from meshtune.stopping.decisions import EarlyStopping
from meshtune.system import yaml_file


@dataclass(frozen=True)
class ToolPlan:
    """A section, and its file: `values`, of which `start` are the hyperparameters."""

    section: TrainerObjectiveConfig
    values: Mapping[str, Any]
    start: Mapping[str, Any]

    @classmethod
    def of(cls, config: StudyConfig) -> ToolPlan | None:
        """That of a study; None where none of these tools trains. Raises InputError with all that is wrong."""
        section = config.objective
        if not isinstance(section, TrainerObjectiveConfig):
            return None
        values = yaml_file.read_as_tools(Path(section.config))
        named = ["rank"] if isinstance(config.space, str) else list(config.space)
        own = section.command is not None
        if found := tools.faults(section.trainer, values, named, own_command=own):
            raise InputError([Fault(message, section.config) for message in found])
        return cls(section, values, tools.start(section.trainer, values))

    @property
    def fingerprint(self) -> str:
        """Of the settings."""
        return tools.fingerprint(self.values)

    def objective(self, study: Located, space: Space) -> ObjectiveSpec:
        """What the workers get. Raises InputError: the program is not there, or sets itself what trials change."""
        section, tool = self.section, tools.TOOLS[self.section.trainer]
        command = section.command or tool.command
        refuse_missing(command[0], section.directory)
        moved = {*RECOMMENDED_BASELINE, *space.fixed, *(dimension.name for dimension in space.dimensions)}
        values = {name: self.start[name] for name in moved if name in self.start}
        made = tools.settings(section.trainer, {}, values, **self._shared, seed=0)
        fixed = [key for key in made if any(part.split("=")[0] == f"--{key}" for part in command)]
        if fixed:
            what = f"`--{fixed[0]}` on the command line stands above each trial's settings: leave it out there"
            raise InputError(Fault(what, key="objective.command"))
        fields = {
            "tool": section.trainer,
            "values": dict(self.values),
            "command": list(command),
            "folder": str(study.folder.absolute()),
            "directory": section.directory,
            "at": section.at,
            "kept": section.checkpoints == "kept",
            "adapter": self._shared["adapter"],
            "also": list(measured_quantities(study.config)),
        }
        return ObjectiveSpec("trainer", fields)

    @property
    def _shared(self) -> dict[str, Any]:
        section = self.section
        trains = section.trainer == "trl-script" and section.command is not None
        adapter = trains or tools.TOOLS[section.trainer].adapter(self.values)
        return {"output": "", "at": section.at, "adapter": adapter}

    def early_stopping(self, config: StudyConfig, space: Space) -> EarlyStopping | None:
        """Where trials are stopped. Raises InputError where the tool evaluates at the end alone, or counts steps."""
        if config.early_stopping.rule == "none":
            return None
        if config.early_stopping.freeze:
            why = "trials of other tools start over where they go on, so nothing is saved: write `freeze: false`"
            raise InputError(Fault(why, key="early_stopping.freeze"))
        name = self.section.trainer
        passes = tools.epochs(name, self.values)
        what = None
        if passes is None:
            what = f"{self.section.config} counts `max_steps`: rungs are shares of epochs, so give these there"
        elif not tools.evaluates_within(name, self.values, passes):
            what = f"{self.section.config} evaluates at the end alone: add `eval_strategy: steps` and `eval_steps: 0.1`"
        if what is not None or passes is None:
            raise InputError(Fault(f"{what}; or write none", key="early_stopping"))
        searched = any(dimension.name == "epochs" for dimension in space.dimensions)
        epoch = round(trainer.PER_EPOCH * (1 if searched else passes))
        return EarlyStopping(config.early_stopping, 1, epoch, space=space)


def refuse_missing(program: str, directory: str) -> None:
    """Refuse a program that is not there: every trial would crash without it."""
    if "{" not in program and shutil.which(program) is None and not (Path(directory) / program).is_file():
        what = f"there is no program `{program}`, neither on the PATH nor in {directory}"
        raise InputError(Fault(what, key="objective.command.0"))
