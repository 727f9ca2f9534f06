"""A study that MADS searches in several ways, and what is asked of its trials.

As a program, one process of several: python -m tests.shared_study URL STUDY SPACE SEED TRIALS [hold | PROCESSES].
"""

import math
import sys
import time
from collections.abc import Callable
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FrozenTrial

from meshtune.samplers import MadsSampler
from meshtune.samplers.mads.ledger import NOTE

SPACES: dict[str, dict[str, BaseDistribution]] = {
    "integers": {  # 48 points, so that repeats would happen
        "a": IntDistribution(0, 5),
        "b": CategoricalDistribution((0, 1, 2, 3)),
        "flag": CategoricalDistribution((False, True)),
    },
    "mixed": {
        "n": IntDistribution(1, 64, log=True),
        "s": FloatDistribution(0.0, 1.0, step=0.25),
        "x": FloatDistribution(-5.0, 5.0),
    },
}


def objective(trial: optuna.Trial) -> float:
    """A valley over either space, its best value 0."""
    space = SPACES["integers" if trial.study.study_name.startswith("integers") else "mixed"]
    p = {name: trial._suggest(name, distribution) for name, distribution in space.items()}
    if "a" in p:
        return float((p["a"] - 4) ** 2 + (p["b"] - 2) ** 2 + (not p["flag"]))
    return float((math.log2(p["n"]) - 3) ** 2 + (p["s"] - 0.5) ** 2 + (p["x"] - 1) ** 2)


def hold(trial: optuna.Trial) -> float:
    """Never ends; says that it has begun."""
    objective(trial)
    print(trial.number, flush=True)
    time.sleep(600)
    raise AssertionError("not killed")


def met(processes: int) -> Callable[[optuna.Trial], float]:
    """The first trial of each process ends when so many processes have begun one."""

    def begun(study: optuna.Study) -> set[str]:
        return {note(trial)["by"] for trial in study.get_trials(deepcopy=False) if NOTE in trial.system_attrs}

    def meet(trial: optuna.Trial) -> float:
        loss = objective(trial)
        while len(begun(trial.study)) < processes:
            time.sleep(0.05)
        return loss

    return meet


def note(trial: FrozenTrial) -> dict[str, Any]:
    return dict(trial.system_attrs[NOTE])


def fills(trials: list[FrozenTrial]) -> int:
    """Trials beyond the block. One after another there are none, unless a block waits for a trial that never ends."""
    return sum("fill" in note(trial) for trial in trials)


def points(trials: list[FrozenTrial]) -> set[tuple[tuple[str, Any], ...]]:
    return {tuple(sorted(trial.params.items())) for trial in trials}


def main() -> None:
    url, name, space, seed, trials, *rest = sys.argv[1:]
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = MadsSampler(search_space=SPACES[space], seed=int(seed))
    study = optuna.load_study(study_name=name, storage=url, sampler=sampler)
    how = objective if not rest else hold if rest == ["hold"] else met(int(rest[0]))
    study.optimize(how, n_trials=int(trials))


if __name__ == "__main__":
    main()
