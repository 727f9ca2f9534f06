"""Time and tokens until the plain way's best loss: meshtune as it comes and `plain_way.py`, interleaved, in one call.

Both sides have the same model, rows, splits, prompt, labels, box, epochs, batches and number of trials, and are timed
from the start of their program: data are prepared before, and nothing is scored. The plain way runs in the precision
that takes less processor time, by one trial of each, and in two layouts: one process on all cores, and one a core. Each
seed runs ours and both layouts in turn. A line a layout: `theirs` and `ours` are seconds until the layout's best loss
(medians over seeds), `ratio` the median of theirs / ours. `processor_ratio` is the same of the processor time that the
programs and their children had used until then, which other work on the machine touches little: where it is busy, read
that one. `tokens_ratio` is the same of tokens of the trials begun until then. Of two layouts read the smaller ratio. A
seed in which ours never came so far counts with all its time; `reached` says how many did.

A piece that was killed is begun anew, since its time is what counts; finished ones are kept in FOLDER. So a full run
may be made in parts:

    python -m benchmarks.today FOLDER [--seeds 3] [--trials 20] [--rows 160] [--model embedded] [--cores 2]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import psutil
import yaml

from meshtune.system import whole_file

HERE = Path(__file__).parent
SIDES = ("ours", "plain-threads", "plain-processes")
SPACE = {  # the quickstart's
    "rank": {"low": 4, "high": 32, "power_of": 2},
    "scale": {"low": 0.25, "high": 32, "log": True},
    "dropout": [0, 0.05, 0.1],
    "step": {"low": 1e-3, "high": 1, "log": True},
}
EPOCHS, BATCH = 2, 4  # two, so that the plain way's pruner has something to stop
EVERY = 0.5  # seconds between two readings of the processor time


def study(options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """Of a seed, as its YAML says it: the quickstart's data and space, and for all else what `meshtune init` writes,
    but for early stopping: measuring at rungs would take as long as so short a training.
    """
    shares = {"python-stdlib-describe": 0.7, "python-stdlib-signature": 0.3}
    held_out = max(2, options.rows // 5)
    return {
        "model": options.model,
        "data": {
            "sources": [{"embedded": name, "share": share} for name, share in shares.items()],
            "mixture": "cap",
            "rows": options.rows,
            "validation": held_out,
            "test": 0,
        },
        "training": {"epochs": EPOCHS, "batch_size": BATCH},
        "space": SPACE,
        "budget": {"trials": options.trials},
        "worker": {"name": "local", "processes": options.cores},
        "generation": {"rows": 0},
        "baseline": "advised",  # as `meshtune init` writes it
        "seed": seed,
    }


def rows_file(folder: Path) -> Path:
    """The rows of the study in a folder, for the plain way; made by `meshtune prepare`."""
    from meshtune.data import build
    from meshtune.data.store import Rows
    from meshtune.data.tokenizer import load_tokenizer
    from meshtune.plan.locate import locate
    from meshtune.training.models import embedded_folder

    path = folder / "rows.json"
    if path.exists():
        return path
    config = locate(folder / "study.yaml").config
    assert config.model is not None
    assert config.data is not None
    ref = build.prepare(config.data, config.model, config.seed, folder / "data-of-both").ref
    tokenizer = load_tokenizer(config.model)
    pad = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else tokenizer.eos_token_id
    name = str(embedded_folder()) if config.model.name == "embedded" else config.model.name
    made: dict[str, Any] = {"model": name, "pad": pad, "epochs": EPOCHS, "batch_size": BATCH}
    for side in ("train", "validation"):
        rows = Rows.open(ref, side)
        made[side] = [_item(*rows[number]) for number in range(len(rows))]
    made["tokens"] = sum(len(row["input_ids"]) for row in made["train"])
    made["fingerprint"] = ref.fingerprint
    whole_file.write(path, json.dumps(made))
    return path


def _item(tokens: Any, trained: Any) -> dict[str, list[int]]:
    pairs = zip(tokens.tolist(), trained.tolist(), strict=True)
    labels = [token if learned else -100 for token, learned in pairs]
    return {"input_ids": tokens.tolist(), "attention_mask": [1] * len(labels), "labels": labels}


def run(commands: Sequence[Sequence[str]], threads: int) -> tuple[float, list[tuple[float, float]]]:
    """When these programs were started together, and their processor time by seconds since then, the last of all."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, (str(HERE.parent), environment.get("PYTHONPATH"))))
    begun, before, clock = time.time(), _reaped(), [(0.0, 0.0)]
    children = [subprocess.Popen(command, env=environment, stdout=sys.stderr) for command in commands]
    for child in children:
        while child.poll() is None:
            used = _reaped() - before + sum(processor(other.pid) for other in children)
            clock.append((time.time() - begun, max(used, clock[-1][1])))
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(EVERY)
    if failed := [child for child in children if child.wait()]:
        raise SystemExit(f"a side failed, with {failed[0].returncode}; its message is above")
    return begun, [*clock, (time.time() - begun, max(_reaped() - before, clock[-1][1]))]


def _reaped() -> float:
    """Processor time of all children of this process that ended, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def processor(pid: int) -> float:
    """Processor time of a running program and its children: 0 if it has ended."""
    used = 0.0
    with contextlib.suppress(psutil.NoSuchProcess):
        root = psutil.Process(pid)
        for process in (root, *root.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess):
                used += sum(process.cpu_times()[:4])  # its own, and that of its children that ended
    return used


def plain(folder: Path, options: argparse.Namespace, seed: int, *, processes: int, precision: str) -> dict[str, Any]:
    """The plain way in a folder of its own: so many processes on the cores."""
    log, threads = folder / "plain.log", options.cores // processes
    given = [str(rows_file(folder.parent)), str(log), f"--trials={options.trials}", f"--precision={precision}"]
    given += [f"--threads={threads}", f"--seed={seed}"]
    program = [sys.executable, str(HERE / "plain_way.py"), *given]
    begun, clock = run([[*program, f"--worker={worker}"] for worker in range(processes)], threads)
    backend = optuna.storages.journal.JournalFileBackend(str(log))
    trials = optuna.load_study(study_name="plain", storage=optuna.storages.JournalStorage(backend)).trials
    real = [trial for trial in trials if trial.number < options.trials]  # one more of each process was not trained
    return {"clock": clock, "trials": [_trial(trial, begun) for trial in real]}


def ours(folder: Path, options: argparse.Namespace, seed: int) -> dict[str, Any]:
    """`meshtune tune`, as a user starts it, on data that were prepared."""
    path = folder / "study.yaml"
    whole_file.write(path, yaml.safe_dump(study(options, seed)))
    run([[sys.executable, "-m", "meshtune.cli", "prepare", str(path)]], options.cores)
    fingerprint = json.loads(rows_file(folder.parent).read_text(encoding="utf-8"))["fingerprint"]
    made = json.loads(next(folder.glob("**/manifest.json")).read_text(encoding="utf-8"))["fingerprint"]
    if made != fingerprint:
        raise SystemExit(f"the two sides of seed {seed} have other rows")
    begun, clock = run([[sys.executable, "-m", "meshtune.cli", "tune", str(path)]], 1)
    import meshtune  # heavy, and of no use to the plain way

    database = next(folder.glob("**/study.db"))
    storage = f"sqlite:///{database}"
    (name,) = optuna.get_all_study_names(storage)
    trials = optuna.load_study(study_name=name, storage=storage).trials
    tokens = [trial["tokens"] or 0 for trial in meshtune.load(database.parent).trials.to_dict("records")]
    found = [_trial(trial, begun) for trial in trials]
    return {"clock": clock, "trials": [{**of, "tokens": count} for of, count in zip(found, tokens, strict=True)]}


def _trial(trial: optuna.trial.FrozenTrial, begun: float) -> dict[str, Any]:
    ended, started = trial.datetime_complete, trial.datetime_start
    complete = trial.state == optuna.trial.TrialState.COMPLETE
    return {
        "loss": trial.value if complete else None,
        "begun": started.timestamp() - begun if started else None,
        "ended": ended.timestamp() - begun if ended else None,
        "tokens": trial.user_attrs.get("tokens", 0),
    }


def until(found: dict[str, Any], loss: float) -> tuple[float, float, int, bool]:
    """Until a trial ended with so low a loss: seconds, processor time, tokens of the trials begun; and if one did."""
    trials = found["trials"]
    ends = [trial["ended"] for trial in trials if trial["loss"] is not None and trial["loss"] <= loss]
    seconds = min(ends, default=found["clock"][-1][0])
    tokens = sum(trial["tokens"] for trial in trials if trial["begun"] is not None and trial["begun"] <= seconds)
    used = float(np.interp(seconds, *zip(*found["clock"], strict=True)))
    return seconds, used, tokens, bool(ends)


def best(found: dict[str, Any]) -> float:
    return min(trial["loss"] for trial in found["trials"] if trial["loss"] is not None)


def line(layout: str, pairs: Sequence[tuple[dict[str, Any], dict[str, Any]]], setting: str) -> dict[str, Any]:
    """Of one layout: each seed's (ours, theirs)."""
    mine = [until(our, best(their)) for our, their in pairs]
    theirs = [until(their, best(their)) for _, their in pairs]
    seconds, used, tokens = ([b[of] / max(a[of], 1e-9) for a, b in zip(mine, theirs, strict=True)] for of in range(3))
    ends = [[their["clock"][-1] for their in side] for side in zip(*pairs, strict=True)]
    return {
        "name": f"today: seconds to the best loss of {layout}",
        "ours": _median([a[0] for a in mine]),
        "theirs": _median([b[0] for b in theirs]),
        "ratio": _median(seconds, 2),
        "low": round(min(seconds), 2),
        "high": round(max(seconds), 2),
        "processor": [_median([each[1] for each in side]) for side in (mine, theirs)],
        "processor_ratio": _median(used, 2),
        "processor_low": round(min(used), 2),
        "processor_high": round(max(used), 2),
        "tokens": [_median([each[2] for each in side]) for side in (mine, theirs)],
        "tokens_ratio": _median(tokens, 2),
        "reached": sum(a[3] for a in mine),
        "whole": [_median([seconds for seconds, _ in side]) for side in ends],
        "whole_processor": [_median([used for _, used in side]) for side in ends],
        "best": [_median([best(each) for each in side], 4) for side in zip(*pairs, strict=True)],
        "setting": setting,
    }


def _median(values: Sequence[float], digits: int = 1) -> float:
    return round(statistics.median(values), digits)


def precision(folder: Path, options: argparse.Namespace) -> str:
    """The one in which one trial of the plain way takes less processor time."""
    path = folder / "precision.json"
    if not path.exists():
        pilot = argparse.Namespace(**{**vars(options), "trials": 1})
        used = {}
        for name in ("float32", "bfloat16"):
            own = folder / "seed-0" / f"pilot-{name}"
            shutil.rmtree(own, ignore_errors=True)
            own.mkdir()
            used[name] = plain(own, pilot, 0, processes=1, precision=name)["clock"][-1][1]
        whole_file.write(path, json.dumps(used))
    found: dict[str, float] = json.loads(path.read_text(encoding="utf-8"))
    return min(found, key=lambda name: found[name])


def pieces(folder: Path, options: argparse.Namespace) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """All of them, those that are missing run now."""
    for seed in range(options.seeds):
        own = folder / f"seed-{seed}"
        own.mkdir(parents=True, exist_ok=True)
        whole_file.write(own / "study.yaml", yaml.safe_dump(study(options, seed)))
        rows_file(own)
        for side in SIDES:
            path = own / f"{side}.json"
            if not path.exists():
                chosen, place = precision(folder, options), own / side
                shutil.rmtree(place, ignore_errors=True)
                place.mkdir()
                count = options.cores if side == "plain-processes" else 1
                if side == "ours":
                    found = ours(place, options, seed)
                else:
                    found = plain(place, options, seed, processes=count, precision=chosen)
                whole_file.write(path, json.dumps(found))
            yield seed, side, json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--rows", type=int, default=160, help="of training and validation together, a fifth held out")
    parser.add_argument("--model", default="embedded")
    parser.add_argument("--cores", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    folder = options.folder.absolute()
    by_side: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
    for seed, side, found in pieces(folder, options):
        by_side[side].append(found)
        seconds, used = found["clock"][-1]
        said = f"seed {seed}, {side}: {seconds:.0f} s, {used:.0f} s of processor time, best {best(found):.4f}"
        print(said, file=sys.stderr, flush=True)
    setting = f"{options.model}, {options.rows} rows, {EPOCHS} epochs, {options.trials} trials, {options.cores} cores, "
    setting += f"{options.seeds} seeds, plain way in {precision(folder, options)}"
    for layout in SIDES[1:]:
        print(json.dumps(line(layout, list(zip(by_side["ours"], by_side[layout], strict=True)), setting)), flush=True)


if __name__ == "__main__":
    main()
