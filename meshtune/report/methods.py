"""The paragraph for a paper's methods section, and what to cite, as BibTeX: made from a study's status alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from meshtune._version import __version__
from meshtune.data.embedded import PUBLISHED
from meshtune.report.sentences import loss_name
from meshtune.report.trials import Status, searched
from meshtune.system.text import counted, duration, number, point

# As in CITATION.cff, which no installed package has; a test holds them together.
TITLE, AUTHORS, YEAR = "meshtune", "The meshtune developers", 2026

OWN = f"""@software{{meshtune,
  title = {{{TITLE}}},
  author = {{{{{AUTHORS}}}}},
  year = {{{YEAR}}},
  version = {{{__version__}}}
}}"""
PAPER = """@misc{tribes2023hyperparameter,
  title = {Hyperparameter Optimization for Large Language Model Instruction-Tuning},
  author = {Tribes, Christophe and Benarroch-Lelong, Sacha and Lu, Peng and Kobyzev, Ivan},
  year = {2023},
  eprint = {2312.00949},
  archivePrefix = {arXiv}
}"""
NOMAD = """@article{audet2022algorithm,
  title = {Algorithm 1027: {NOMAD} version 4: Nonlinear optimization with the {MADS} algorithm},
  author = {Audet, Charles and Le Digabel, S{\\'e}bastien and Rochon Montplaisir, Viviane and Tribes, Christophe},
  journal = {ACM Transactions on Mathematical Software},
  volume = {48},
  number = {3},
  year = {2022}
}"""
OPTUNA = """@inproceedings{akiba2019optuna,
  title = {Optuna: A Next-generation Hyperparameter Optimization Framework},
  author = {Akiba, Takuya and Sano, Shotaro and Yanase, Toshihiko and Ohta, Takeru and Koyama, Masanori},
  booktitle = {Proceedings of the 25th ACM SIGKDD International Conference on Knowledge Discovery and Data Mining},
  year = {2019}
}"""
OPTUNAS = {"tpe", "nsga2", "gp", "cma-es", "grid", "random", "qmc"}
CALLED = {
    "mads": "MADS as in NOMAD 4",
    "batch-gp": "Bayesian optimization in blocks with a Gaussian process",
    "tpe": "the tree-structured Parzen estimator",
    "nni-tpe": "the tree-structured Parzen estimator of NNI",
    "nsga2": "NSGA-II",
    "gp": "Bayesian optimization with a Gaussian process",
    "cma-es": "CMA-ES",
    "grid": "a grid",
    "random": "random search",
    "qmc": "a quasi-random sequence",
}


PAPERS_NAMES = {"lora_plus_ratio": "LoRA+'s ratio", "neftune_alpha": "NEFTune's alpha"}


def references(samplers: Sequence[Any]) -> str:
    """BibTeX entries of the software, the method and the samplers."""
    entries = [OWN, PAPER]
    entries += [NOMAD] if "mads" in samplers else []
    entries += [OPTUNA] if OPTUNAS & set(map(str, samplers)) else []
    return "\n\n".join(entries) + "\n"


def paragraph(status: Status, data: Mapping[str, Any] | None) -> str:
    """What was searched, how, for how long, how the best was chosen, and what it is worth on unseen rows."""
    parts = [_search(status), _trials(status), _rows(data), _choice(status), _evidence(status), _seeds(status)]
    return " ".join(filter(None, parts))


def _search(status: Status) -> str:
    names = [PAPERS_NAMES.get(name, name.replace("_", " ")) for name in searched(status)]
    listed = ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else "the hyperparameters"
    sampler = str(status["sampler"])
    model = f"{PUBLISHED}, of which a 4-bit copy was used" if status.get("model") == "embedded" else status.get("model")
    of = f" of LoRA adapters for the model {model}," if model else ""
    version = status["versions"].get("meshtune", __version__)
    how = CALLED.get(sampler, f"the sampler {sampler}")
    seed = f", seed {status['seed']}" if status["seed"] is not None else ""
    return f"We searched {listed}{of} with {how} (meshtune {version}{seed})."


def _trials(status: Status) -> str:
    count, done = len(status["all"]), status["trials"]["complete"]
    words = f"The search made {counted(count, 'trial')}, of which {done} completed"
    words += f", within {duration(status['elapsed_seconds'])}"
    tokens = f" and {status['tokens']:,} training tokens" if status["tokens"] else ""
    stopped = sum(trial["ending"] == "stopped_early" for trial in status["all"])
    return f"{words}{tokens}" + (f"; {stopped} were stopped early." if stopped else ".")


def _rows(data: Mapping[str, Any] | None) -> str:
    if data is None:
        return ""
    train, validation, test = (data["summary"][side]["rows"] for side in ("train", "validation", "test"))
    tested = f", and {test:,} more the test loss" if test else ""
    return f"Adapters were trained on {train:,} rows; {validation:,} others gave the validation loss{tested}."


def _choice(status: Status) -> str:
    best = status["best"]
    if best is None:
        return ""
    of = " (the mean over label tokens)" if status.get("objective") != "command" else ""
    chosen = f"We took the trial with the lowest {loss_name(status)}{of}, {number(best['loss'])}"
    return f"{chosen}: {point(best['hyperparameters'])}."


def _evidence(status: Status) -> str:
    best, baseline, difference = status["best"], status["baseline"], status.get("best_against_baseline")
    if not best or not baseline or best["trial"] == baseline.get("trial"):
        return ""
    if not difference:
        return f"The baseline has {number(baseline['loss'])}." if baseline["loss"] is not None else ""
    losses = f"On {difference['rows']:,} test rows that the search never saw its loss is {number(best['test_loss'])}"
    sign = 1 if difference["mean"] <= 0 else -1
    gain = f"{'lower' if sign > 0 else 'higher'} by {abs(difference['mean']):.4f}"
    if difference["low"] is not None:
        low, high = sorted(-sign * difference[key] for key in ("low", "high"))
        gain += f" (95 % interval over rows {low:z.4f} to {high:z.4f})"
    return f"{losses}, against {number(baseline['test_loss'])} of the baseline: {gain}."


def _seeds(status: Status) -> str:
    noise = status.get("seed_noise")
    if not noise:
        return ""
    return (
        f"Trained again with {noise['count']} other seeds it has {number(noise['mean'])} on average,"
        f" with a standard deviation of {number(noise['deviation'], 2)}."
    )
