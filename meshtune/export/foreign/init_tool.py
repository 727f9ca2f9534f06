"""`meshtune init --from FILE --keep-tool`: a study.yaml whose trials the file's own tool trains.

Nothing is carried over, so nothing can be lost: the file stays as it is, and is named. What it trains with is the
baseline. It runs where `init` ran, since that is where the paths in such files are usually relative to.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from meshtune.config import file
from meshtune.config.sections import ToolName
from meshtune.config.template import write
from meshtune.errors import Fault, InputError
from meshtune.objectives import tools
from meshtune.system import yaml_file
from meshtune.system.text import point

_OF_TRL = ("model_name_or_path", "dataset_name", "datasets", "use_peft", "output_dir", "learning_rate")
_TEXT = """\
# A study of the {tool} training in {name}: each trial runs {tool} itself, with other hyperparameters.
# `meshtune check` finds every fault in this file; `meshtune tune` runs it, and continues it after any interruption.
# What is commented out shows its default. The documentation's page "Tune what you already train" explains every key.

objective:
  trainer: {trainer}
  config: {config}
                               # stays as it is; a trial's values, seed and output folder take the place of its own
  {command}
  directory: {directory}  # where it runs
  # at: best                   # the loss that counts: of the best evaluation | last
  # checkpoints: kept          # of the best `training.keep_adapters` trials | dropped

# The baseline is what the file trains with: {start}.
{space}
budget:
  trials: 30                   # with the baseline
  # hours: null
  # trial_hours: null          # a longer trial ends as timed_out

# early_stopping: none         # default: trials end at an evaluation where others were better; let it evaluate often
# training: {{keep_adapters: 5}}
# worker: {{processes: null}}    # null: one a visible GPU

seed: {seed}
"""
_ADAPTER = """\
space: recommended             # rank, alpha / rank, dropout, learning rate x alpha; or a mapping such as the one below,
# space:                       # which may also have any other key of the file
#   rank: {low: 4, high: 128, power_of: 2}
#   learning_rate: {low: 1e-5, high: 1e-2, log: true}
"""
_OTHER = """\
space:                         # any key of the file
  learning_rate: {{low: {low:.1e}, high: {high:.1e}, log: true}}
"""


def tool_of(values: Mapping[str, Any]) -> ToolName | None:
    """The tool whose file these values are; None: of none that is known."""
    if "base_model" in values:
        return "axolotl"
    if "model_name_or_path" in values and {"finetuning_type", "stage"} & set(values):
        return "llamafactory"
    return "trl-script" if len(set(_OF_TRL) & set(values)) > 1 else None


def init_tool(path: Path, folder: Path) -> Path:
    """Write `study.yaml` into a folder; returns its path.

    Raises:
        InputError: there is a study.yaml already, or the file is of no known tool, or cannot be tuned.
        StorageError: the folder cannot be written.
    """
    if not path.is_file():
        wrong = "is a folder" if path.is_dir() else "there is no such file"
        raise InputError(Fault(f"{wrong}; give the YAML file of a training's settings", path))
    values = yaml_file.read_as_tools(path)
    name = tool_of(values)
    if name is None:
        raise InputError(Fault("are no settings of Axolotl, LLaMA-Factory or TRL, by their keys", path))
    tool, found = tools.TOOLS[name], tools.start(name, values)
    adapter = tool.adapter(values)
    shown = ("rank", "alpha", "dropout", "learning_rate") if adapter else ("learning_rate",)
    searched = ["rank"] if adapter else ["learning_rate"]
    if faults := tools.faults(name, values, searched, own_command=True):  # `check` knows whether there is one
        raise InputError([Fault(message, path) for message in faults])
    rate = found["learning_rate"]
    command = f"command: {json.dumps(list(tool.command))}"
    there = shutil.which(tool.command[0]) is not None
    own = '# or [python3, train.py, --config, "{config}"], for a script of your own\n  ' if name == "trl-script" else ""
    seed = values.get("seed")
    text = _TEXT.format(
        tool=tool.shown,
        name=" ".join(path.name.split()),
        trainer=name,
        config=json.dumps(str(path.absolute()), ensure_ascii=False),
        command=own + f"# {command}" if there else own + f"{command}  # not found here: name the one that trains",
        directory=json.dumps(str(Path.cwd()), ensure_ascii=False),
        start=point({key: found[key] for key in shown}),
        space=_ADAPTER if adapter else _OTHER.format(low=rate / 10, high=rate * 10),
        seed=seed if isinstance(seed, int) and not isinstance(seed, bool) and 0 <= seed < 2**31 else 0,
    )
    file.parse(yaml_file.parse(text, path).values, folder)  # nothing is written that `check` would refuse
    return write(folder, text)
