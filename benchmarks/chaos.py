"""Kill whatever there is, again and again, and ask whether a study notices: python benchmarks/chaos.py

A study of a tiny, real model runs undisturbed on this machine; the same study runs again under faults, each at a random
moment once so many further trials have ended. `local`: the coordinator or a process that trains is killed, or stands
still for some seconds (SIGSTOP). `ray`, on a cluster of two nodes that is started here: also the program that speaks
with Ray, an actor's process, a node (its raylet), and the cluster's head, with which all of it goes; what is lost is
put back. Where the coordinator ends, the same command is run again.

Both records must be equal: points, losses, endings, blocks, packs. So no trial is lost, none is told twice, and the
best is the same. Ends with a JSON line a worker: `ours` and `theirs` are complete trials, under faults and without;
`same` says whether the records are equal. Exits with 1 where they are not. Each fault is a line in `faults.jsonl` of
the folder; with `--folder`, a run that was broken off goes on there.

    python benchmarks/chaos.py [--worker local ray] [--trials 200] [--kills 40] [--seed 0] [--folder FOLDER]
"""

from __future__ import annotations

import argparse
import contextlib
import json
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from meshtune.study.status import status
from meshtune.testing.processes import alive, descendants, gone
from tests.conftest import WORDS, make_tiny_model
from tests.kill import meshtune, record_of
from tests.ray_nodes import RayNodes, running, strike, until

FAULTS = {
    "local": ("worker", "coordinator", "frozen worker", "frozen coordinator"),
    "ray": ("worker", "node", "coordinator", "actor", "frozen worker", "driver", "head"),
}
PROGRAMS = {
    "worker": "meshtune.workers.child",
    "driver": "meshtune.workers.ray_driver",
    "actor": "ray::_Actor",
}
MOMENT = 1.5  # seconds, at most, from the trial that a fault waits for
FROZEN = 4.0  # seconds, at most, that something stands still
AGAIN = 75  # what a study exits with that stopped before its end
LONGEST = 900.0  # seconds without a further trial


def study(folder: Path, model: Path, worker: str, trials: int) -> Path:
    """A study.yaml whose trials take parts of a second, in packs of four."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = [" ".join(WORDS[: 1 + n % len(WORDS)]) for n in range(60)]
    rows = [{"instruction": f"{n}: repeat", "input": "", "output": text} for n, text in enumerate(texts)]
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    path = folder / "study.yaml"
    path.write_text(
        f"model: {model}\n"
        "data: {sources: [{path: rows.jsonl}], validation: 10, test: 10}\n"
        "training: {epochs: 4, batch_size: 4, precision: float32, checkpoint_minutes: 0.01}\n"
        "space: {rank: {low: 2, high: 16, power_of: 2}, learning_rate: {low: 1e-4, high: 1e-1, log: true}}\n"
        "baseline: {rank: 4, alpha: 32, learning_rate: 1e-3}\n"
        "sampler: {name: tpe, block_size: 8}\n"
        f"budget: {{trials: {trials}}}\n"
        "generation: {rows: 0}\n"
        f"worker: {{{worker}, processes: 2, threads: 1, pack: 4, attempts: 10}}\n",
        encoding="utf-8",
    )
    return path


class Run:
    """The study's command, started again where it was ended before its time.

    Attributes:
        ended: trials, as the command says it. family: all processes of it that were ever seen.
    """

    def __init__(self, path: Path):
        self._path, self.family = path, set[int]()
        self.start()

    def start(self) -> None:
        """Run the command."""
        command = meshtune("tune", self._path, "--json")
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.ended, self._words = 0, list[str]()
        self._reader = threading.Thread(target=self._read, args=(self.process, self._words), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str], words: list[str]) -> None:
        assert process.stderr is not None
        for line in process.stderr:
            try:
                event = json.loads(line)
            except ValueError:
                words.append(line.rstrip())
                continue
            if event["event"] == "opened":
                self.ended = event["done"]
            self.ended += event["event"] == "trialfinished"

    def code(self) -> int | None:
        """Its exit code, once it has ended and all that it said is read."""
        code = self.process.poll()
        if code is not None:
            self._reader.join(10)
        return code

    def look(self) -> set[int]:
        """Its processes now."""
        now = {self.process.pid} | descendants(self.process.pid)
        self.family |= now
        return now

    def reach(self, wanted: int) -> bool:
        """Wait until so many trials have ended; False where the study is complete before."""
        before, moved = -1, time.monotonic()
        while self.ended < wanted:
            self.look()
            if (code := self.code()) == 0:
                return False
            if code is not None:
                if code not in (AGAIN, -signal.SIGKILL):
                    raise SystemExit(f"the study ended with exit code {code}: {' | '.join(self._words[-8:])}")
                self.start()
            if self.ended > before:
                before, moved = self.ended, time.monotonic()
            if time.monotonic() - moved > LONGEST:
                raise TimeoutError(f"no trial ended for {LONGEST:g} s: {' | '.join(self._words[-5:])}")
            time.sleep(0.2)
        return True


def cause(fault: str, run: Run, cluster: RayNodes | None, chance: random.Random) -> bool:
    """One fault; False where the study ended before there was anything to strike."""
    what = fault.removeprefix("frozen ")
    if cluster is not None and what in ("node", "head"):
        cluster.kill(0 if what == "head" else 1)
        time.sleep(chance.uniform(0, FROZEN))
        cluster.start()
        return True
    chosen = list[int]()

    def found() -> bool:
        within = [run.process.pid] if what == "coordinator" else running(run.look(), PROGRAMS[what])
        chosen[:] = within or (running(cluster.family(), PROGRAMS[what]) if cluster is not None else [])
        return bool(chosen) or run.code() is not None

    until(found)
    if run.code() is not None:
        return False
    victim = chance.choice(chosen)
    if fault == what:
        strike([victim], signal.SIGKILL)
        return True
    strike([victim], signal.SIGSTOP)
    time.sleep(chance.uniform(0.5, FROZEN))
    strike([victim], signal.SIGCONT)
    return True


def disturbed(path: Path, worker: str, cluster: RayNodes | None, trials: int, kills: int, seed: int) -> Counter[str]:
    """Run the study to its end under faults; how many there were of each kind, those of earlier runs included."""
    log = path.parent / "faults.jsonl"
    before = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    run = Run(path)
    try:
        for number in range(len(before), kills):
            chance = random.Random(f"{seed}/{number}")
            fault = FAULTS[worker][number % len(FAULTS[worker])]
            if not run.reach((number + 1) * trials // (kills + 1)):
                break
            time.sleep(chance.uniform(0, MOMENT))
            run.look()
            if not cause(fault, run, cluster, chance):
                break
            before.append({"number": number, "fault": fault, "trials": run.ended, "time": time.strftime("%H:%M:%S")})
            with log.open("a", encoding="utf-8") as file:
                file.write(json.dumps(before[-1]) + "\n")
            print(f"{worker}: fault {number + 1} of {kills}: {fault}, after {run.ended} trials", flush=True)
        run.reach(trials + 1)
    finally:
        strike([run.process.pid], signal.SIGKILL)
    if not gone(run.family):
        raise SystemExit(f"processes outlived the study: {sorted(filter(alive, run.family))}")
    return Counter(entry["fault"] for entry in before)


def compared(worker: str, calm: Path, path: Path, faults: Counter[str], trials: int, seed: int) -> bool:
    """Print the line of a worker; whether both records are equal."""
    records = [record_of(each) for each in (path, calm)]
    complete = [sum(trial["ending"] == "complete" for trial in record) for record in records]
    orders = [trial["order"] for trial in status(path, trials=True)["all"]]
    best = [(status(each)["best"] or {}).get("trial") for each in (path, calm)]
    same = records[0] == records[1] and sorted(orders) == list(range(trials)) and best[0] == best[1]
    ratio = complete[0] / complete[1]
    line = {"name": "chaos", "ours": complete[0], "theirs": complete[1], "ratio": ratio, "low": ratio, "high": ratio}
    counts = ", ".join(f"{count} {fault}" for fault, count in sorted(faults.items()))
    setting = f"{worker}, {trials} trials, {sum(faults.values())} faults ({counts}), seed {seed}"
    print(json.dumps({**line, "setting": setting, "same": same, "best": best}), flush=True)
    return same


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worker", nargs="+", choices=FAULTS, default=list(FAULTS))
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--kills", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0, help="of the moments and the victims")
    parser.add_argument("--folder", type=Path, help="where to run, and to go on; default: a temporary folder")
    given = parser.parse_args()
    print(f"seed {given.seed}", flush=True)
    with contextlib.ExitStack() as stack:
        folder = given.folder or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        folder = folder.absolute()
        if not (folder / "model" / "config.json").exists():
            make_tiny_model(folder / "model")
        calm = study(folder / "calm", folder / "model", "name: local", given.trials)
        subprocess.run(meshtune("tune", calm), check=True, capture_output=True)
        print("the undisturbed study has ended", flush=True)
        same = True
        for worker in given.worker:
            cluster = RayNodes() if worker == "ray" else None
            try:
                place = "name: local" if cluster is None else f"name: ray, address: '{cluster.address}'"
                path = study(folder / worker, folder / "model", place, given.trials)
                faults = disturbed(path, worker, cluster, given.trials, given.kills, given.seed)
            finally:
                if cluster is not None:
                    cluster.kill()
            same &= compared(worker, calm, path, faults, given.trials, given.seed)
    raise SystemExit(0 if same else 1)


if __name__ == "__main__":
    main()
