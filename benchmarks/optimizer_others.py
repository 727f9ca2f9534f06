"""Sides of the race from libraries of their own: BoTorch's batch method and HEBO, as their documentation uses them.

- BoTorch: eight scrambled Sobol points (the start in place of the first where there is one), then a `SingleTaskGP` with
  BoTorch's own priors over all values, and the greedy batch of `qLogNoisyExpectedImprovement`: 4 restarts of 128 raw
  samples, at most 100 iterations. Steps and choices are relaxed to the unit interval and rounded. A failed training
  counts as the worst success, as with batch-gp.
- HEBO: its own defaults, with powers, integers and categories declared as such. It leaves failed trainings out.

HEBO 0.3.6 asks for numpy below 1.25; it ran here in an environment of its own (`pip install --no-deps HEBO`, and what
it then lacks), whose results were joined with the others' by `--results`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from typing import Any

import numpy as np
from optimizer_sides import BUDGETS, Course, Regrets, Setting
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from problems import Problem
from scipy.stats import qmc

from meshtune.samplers.encoding import Encoding

OPENING = 8


def botorch(problem: Problem, seed: int, setting: Setting) -> Regrets:
    import torch
    from botorch.acquisition.logei import qLogNoisyExpectedImprovement
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import SingleTaskGP
    from botorch.optim import optimize_acqf
    from gpytorch.mlls import ExactMarginalLogLikelihood

    torch.manual_seed(seed)
    torch.set_num_threads(1)
    encoding, course = Encoding(problem.space), Course(problem, seed)
    lower, upper = np.array(encoding.lower), np.array(encoding.upper)
    bounds = torch.tensor([[0.0] * len(lower), [1.0] * len(lower)], dtype=torch.double)
    rows: list[np.ndarray] = []
    losses: list[float] = []

    def evaluate(block: Sequence[dict[str, Any]]) -> None:
        for params in block:
            rows.append((np.array(encoding.encode(params)) - lower) / (upper - lower))
            losses.append(course.evaluate(params))

    opening = qmc.Sobol(len(lower), rng=seed).random(OPENING).tolist()
    points = [encoding.decode(encoding.at(share)) for share in opening]
    evaluate([problem.start, *points[1:]] if setting.sensible else points)
    while len(course) < BUDGETS[-1]:
        values = np.array(losses)
        worst = np.nanmax(values) if np.isfinite(values).any() else 0.0
        values = np.where(np.isnan(values), worst, values)
        x = torch.tensor(np.array(rows), dtype=torch.double)
        y = torch.tensor(-(values - values.mean()) / (values.std() or 1.0), dtype=torch.double)[:, None]
        model = SingleTaskGP(x, y)
        fit_gpytorch_mll(ExactMarginalLogLikelihood(model.likelihood, model))
        found, _ = optimize_acqf(
            qLogNoisyExpectedImprovement(model, X_baseline=x, prune_baseline=True),
            bounds,
            q=min(setting.block, BUDGETS[-1] - len(course)),
            num_restarts=4,
            raw_samples=128,
            sequential=True,
            options={"maxiter": 100},
        )
        evaluate([encoding.decode(encoding.at(share)) for share in found.tolist()])
    return course.regrets()


def hebo(problem: Problem, seed: int, setting: Setting) -> Regrets:
    import torch
    from hebo.design_space.design_space import DesignSpace
    from hebo.optimizers.hebo import HEBO

    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    course = Course(problem, seed)
    optimizer = HEBO(DesignSpace().parse([declared(*each) for each in problem.space.items()]), scramble_seed=seed)

    def observe(proposed: Any) -> None:
        found = [course.evaluate(from_hebo(problem, row)) for row in proposed.to_dict("records")]
        optimizer.observe(proposed, np.array(found)[:, None])

    if setting.sensible:
        import pandas

        observe(pandas.DataFrame([to_hebo(problem)]))
    while len(course) < BUDGETS[-1]:
        observe(optimizer.suggest(n_suggestions=min(setting.block, BUDGETS[-1] - len(course))))
    return course.regrets()


def declared(name: str, distribution: BaseDistribution) -> dict[str, Any]:
    """As HEBO declares a variable; steps by their number."""
    match distribution:
        case FloatDistribution(low=low, high=high, step=float(step)):
            return {"name": name, "type": "int", "lb": 0, "ub": round((high - low) / step)}
        case FloatDistribution(low=low, high=high, log=log):
            return {"name": name, "type": "pow" if log else "num", "lb": low, "ub": high}
        case IntDistribution(low=low, high=high, log=log):
            return {"name": name, "type": "pow_int" if log else "int", "lb": low, "ub": high}
        case CategoricalDistribution(choices=choices):
            return {"name": name, "type": "cat", "categories": list(choices)}
    raise TypeError(f"no variable for {distribution}")


def from_hebo(problem: Problem, row: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, distribution in problem.space.items():
        match distribution:
            case FloatDistribution(low=low, high=high, step=float(step)):
                found[name] = min(low + round(row[name]) * step, high)
            case FloatDistribution(low=low, high=high):
                found[name] = min(max(float(row[name]), low), high)
            case IntDistribution():
                found[name] = round(row[name])
            case _:
                found[name] = row[name]
    return found


def to_hebo(problem: Problem) -> dict[str, Any]:
    row = dict(problem.start)
    for name, distribution in problem.space.items():
        if isinstance(distribution, FloatDistribution) and distribution.step:
            row[name] = math.floor((row[name] - distribution.low) / distribution.step + 0.5)
    return row
