"""What the race is run on: the five LoRA surfaces of surfaces.py and four more, each with its space, start and noise.

- The five of `surfaces.py`: made up, four variables, constant noise of 0.005.
- `bowl`: a flat bowl along log(rate x alpha), four variables; its noise grows from 0.002 at the bottom to 0.018 where
  nothing is learned. `seven`: the same with warm-up, weight decay and a choice of three schedules.
- `measured`: the space `recommended`, a Gaussian process over the losses of the trainings in `curves/embedded.jsonl`
  (the better epoch; the mean where a point has two seeds); noise as between the baseline's twenty seeds.
- `nmt`: a real table of translation models, six variables: 604 of 648 cells, the others fail; no noise.

No sampler had a say in the last four. `measured` is a process with Matern's kernel, as are most samplers of that kind:
that favours them. `nmt` is read from the folder in the variable MESHTUNE_TABLES (`nmt_so-en.hyps`, `.evals` of
github.com/Este1le/hpo_nmt), and left out where it is not there. Its loss is 1 - BLEU / 100; regrets below .001, a tenth
of a point of BLEU, count as that.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from learning_curves import RANGES, TABLE
from learning_curves import Surface as Smooth
from learning_curves import unit as place_of
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from scipy.stats import qmc
from surfaces import ALPHA, DROPOUT, FLOOR, LEARNING_RATE, NOISE, RANK_LOG2, SENSIBLE, SURFACES, UNTUNED, Surface

from meshtune.config import presets
from meshtune.record.distributions import distributions
from meshtune.samplers.encoding import Encoding

Params = Mapping[str, Any]
TABLES = Path(os.environ.get("MESHTUNE_TABLES", Path(__file__).parents[2] / "shared" / "data" / "surfaces"))
SPACE: dict[str, BaseDistribution] = {
    "rank_log2": IntDistribution(*RANK_LOG2),
    "dropout": FloatDistribution(DROPOUT[0], DROPOUT[1], step=DROPOUT[2]),
    "alpha": IntDistribution(*ALPHA, log=True),
    "learning_rate": FloatDistribution(*LEARNING_RATE, log=True),
}
QUIET = 0.002  # noise at the bottom of the bowl
SCHEDULES = {"constant": 0.012, "linear": 0.004, "cosine": 0.0}  # how much worse
GAP = 0.2  # of the floor below the least loss of `measured`, in distances of the median from it, as in learning_curves
NMT = ("bpe_log2", "layers_log2", "embedding_log2", "feed_forward_log2", "heads_log2", "rate")
NMT_RATES = (0.0003, 0.0006, 0.001)


@dataclass(frozen=True)
class Problem:
    """A function to minimise.

    Attributes:
        space, start: Optuna's distributions, and what a careful user starts from.
        loss: without noise; nan where the training fails. noise: its standard deviation at a point.
        floor: the least loss. worst: what counts where every training has failed. least: regrets below are that.
        quiet: the noise near the least loss, in nats; nan where the loss is not in nats.
    """

    name: str
    space: dict[str, BaseDistribution]
    start: dict[str, Any]
    loss: Callable[[Params], float]
    noise: Callable[[Params], float]
    floor: float
    worst: float
    least: float = 1e-4
    quiet: float = math.nan


def hyperparameters(params: Params) -> dict[str, float]:
    """As the five surfaces read them."""
    return {**params, "rank": 2 ** params["rank_log2"]}


def sensible(**more: Any) -> dict[str, Any]:
    """What a careful user sets today."""
    start = dict(SENSIBLE)
    return {"rank_log2": int(math.log2(start.pop("rank"))), **start, **more}


def constant(noise: float, _: Params) -> float:
    return noise


def lora(surface: Surface) -> Problem:
    return Problem(
        surface.name,
        SPACE,
        sensible(),
        lambda params: surface(hyperparameters(params)),
        partial(constant, NOISE),
        FLOOR,
        UNTUNED,
        quiet=NOISE,
    )


def flat(params: Params) -> float:
    """The bowl, above its bottom: 0.16 at four decades from the valley."""
    u = math.log10(params["learning_rate"] * params["alpha"]) + 1.6
    rank, doublings = params["rank_log2"] - 5, math.log2(params["alpha"]) - params["rank_log2"]
    return float(0.01 * u**2 + 0.001 * rank**2 + 0.0005 * (doublings - 1) ** 2 + 0.3 * (params["dropout"] - 0.05) ** 2)


def more(params: Params) -> float:
    """What three further variables add."""
    decay = math.log10(params["weight_decay"]) + 2
    return float(0.5 * (params["warmup"] - 0.06) ** 2 + 0.003 * decay**2 + SCHEDULES[params["schedule"]])


def growing(loss: Callable[[Params], float], params: Params) -> float:
    return QUIET + 0.1 * (loss(params) - FLOOR)


def bowl() -> Problem:
    def loss(params: Params) -> float:
        return FLOOR + flat(params)

    return Problem("bowl", SPACE, sensible(), loss, partial(growing, loss), FLOOR, UNTUNED, quiet=QUIET)


def seven() -> Problem:
    def loss(params: Params) -> float:
        return FLOOR + flat(params) + more(params)

    space = SPACE | {
        "warmup": FloatDistribution(0.0, 0.2),
        "weight_decay": FloatDistribution(1e-4, 0.3, log=True),
        "schedule": CategoricalDistribution(tuple(SCHEDULES)),
    }
    start = sensible(warmup=0.03, weight_decay=1e-4, schedule="linear")
    return Problem("seven", space, start, loss, partial(growing, loss), FLOOR, UNTUNED, quiet=QUIET)


def measured() -> Problem:
    """A surrogate of this project's own trainings."""
    _, *lines = [json.loads(line) for line in TABLE.read_text(encoding="utf-8").splitlines()]
    by_point: dict[int, list[dict[str, Any]]] = {}
    for line in lines:
        if line["ending"] == "complete":
            by_point.setdefault(line["point"], []).append(line)
    baseline = [min(line["losses"]) for line in by_point.pop(-1)]
    means = np.array([np.mean([min(line["losses"]) for line in of]) for of in by_point.values()])
    bottom = means.min() - GAP * (np.median(means) - means.min())
    smooth = Smooth(np.array([place_of(of[0]["params"]) for of in by_point.values()]), np.log(means - bottom))

    def loss(params: Params) -> float:
        return float(bottom + math.exp(smooth(place_of(params))))

    space = distributions(presets.recommended())
    start = presets.recommended().encode(presets.RECOMMENDED_BASELINE)
    assert set(space) == set(RANGES)
    noise = float(np.std(baseline, ddof=1))
    floor, worst = lowest(space, loss), float(np.median(means))
    return Problem("measured", space, start, loss, partial(constant, noise), floor, worst, noise / 50, noise)


def lowest(space: dict[str, BaseDistribution], loss: Callable[[Params], float]) -> float:
    """The least loss, by 8,192 Sobol points and five rounds about the best ten."""
    encoding, rng = Encoding(space), np.random.default_rng(0)

    def at(shares: np.ndarray) -> np.ndarray:
        return np.array([loss(encoding.decode(encoding.at(row))) for row in shares.tolist()])

    best = qmc.Sobol(len(encoding.lower), rng=0).random(2**13)
    losses = at(best)
    for width in (0.1, 0.05, 0.02, 0.01, 0.005):
        best = best[np.argsort(losses)[:10]]
        best = np.concatenate(
            [best, np.clip(best.repeat(40, axis=0) + rng.normal(0, width, (400, best.shape[1])), 0, 1)]
        )
        losses = at(best)
    return float(losses.min())


def nmt() -> Problem:
    """Translation models from Somali to English; see the module."""
    cells, scores = (
        [line.split() for line in (TABLES / f"nmt_so-en.{kind}").read_text(encoding="utf-8").splitlines()]
        for kind in ("hyps", "evals")
    )
    table = {tuple(map(float, cell)): 1 - float(score[0]) / 100 for cell, score in zip(cells, scores, strict=True)}

    def loss(params: Params) -> float:
        bpe, layers, embedding, feed_forward, heads, rate = (params[name] for name in NMT)
        cell = (1000.0 * 2**bpe, 2.0**layers, 2.0**embedding, 2.0**feed_forward, 2.0**heads, NMT_RATES[rate])
        return table.get(cell, math.nan)

    bounds = ((0, 5), (0, 2), (8, 10), (10, 11), (3, 4), (0, 2))
    space: dict[str, BaseDistribution] = {name: IntDistribution(*ends) for name, ends in zip(NMT, bounds, strict=True)}
    start = dict(zip(NMT, (3, 1, 9, 11, 3, 1), strict=True))
    losses = list(table.values())
    return Problem(
        "nmt", space, start, loss, partial(constant, 0.0), min(losses), float(np.median(losses)), least=0.001
    )


PROBLEMS: dict[str, Callable[[], Problem]] = {
    **{surface.name: partial(lora, surface) for surface in SURFACES},
    "bowl": bowl,
    "seven": seven,
    "measured": measured,
    "nmt": nmt,
}
INDEX = {name: index for index, name in enumerate(PROBLEMS)}  # a part of the noise's seed


@cache
def problem(name: str) -> Problem:
    """By its name; made once."""
    return PROBLEMS[name]()


def there(name: str) -> bool:
    """Whether it can be made here."""
    return name != "nmt" or (TABLES / "nmt_so-en.hyps").exists()
