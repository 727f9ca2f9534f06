"""Checking HumanEval's canonical solutions in the sandbox, against one bare process a problem without any.

Both sides use the same interpreter, two at once, interleaved problem set by problem set. A bare process runs prompt,
solution and test together, as is usual, and is believed when it exits with 0. Prints one JSON line: seconds for the
whole set (medians), and the ratio theirs / ours (1: the sandbox costs nothing; the target is at least 1 / 1.5) with its
spread over repeats.

    python benchmarks/sandbox.py DATA/HumanEval.jsonl.gz [--repeats 7] [--limit N]
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import subprocess
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from meshtune.evaluation.sandbox import bubblewrap
from meshtune.evaluation.sandbox.judge import CodeProblem, available, check_many

WORKERS = 2


def ours(problems: Sequence[CodeProblem]) -> None:
    verdicts = check_many([(problem, problem.canonical_solution) for problem in problems], WORKERS)
    failed = [problem.task_id for problem, verdict in zip(problems, verdicts, strict=True) if not verdict.passed]
    if failed:
        raise SystemExit(f"canonical solutions did not pass: {failed}")


def bare(problem: CodeProblem) -> None:
    program = f"{problem.prompt}{problem.canonical_solution}\n{problem.test}\ncheck({problem.entry_point})\n"
    command = [str(bubblewrap.interpreter()), *bubblewrap.OPTIONS, "-c", program]
    subprocess.run(command, check=True, env=bubblewrap.ENVIRONMENT, stdin=subprocess.DEVNULL, capture_output=True)


def theirs(problems: Sequence[CodeProblem]) -> None:
    with ThreadPoolExecutor(WORKERS) as threads:
        list(threads.map(bare, problems))


def seconds(side: Callable[[Sequence[CodeProblem]], None], problems: Sequence[CodeProblem]) -> float:
    begin = time.perf_counter()
    side(problems)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="HumanEval.jsonl or HumanEval.jsonl.gz")
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--limit", type=int, help="only the first N problems")
    arguments = parser.parse_args()
    if (reason := available()) is not None:
        raise SystemExit(reason)
    opened = gzip.open if arguments.data.suffix == ".gz" else open
    with opened(arguments.data, "rt", encoding="utf-8") as lines:
        problems = [CodeProblem(**json.loads(line)) for line in lines][: arguments.limit]
    times = [(seconds(ours, problems), seconds(theirs, problems)) for _ in range(arguments.repeats)]
    ratios = sorted(bare / sandboxed for sandboxed, bare in times)
    result = {
        "name": "sandbox",
        "ours": round(statistics.median(sandboxed for sandboxed, _ in times), 3),
        "theirs": round(statistics.median(bare for _, bare in times), 3),
        "ratio": round(statistics.median(ratios), 3),
        "low": round(ratios[0], 3),
        "high": round(ratios[-1], 3),
        "setting": f"{len(problems)} canonical solutions, {WORKERS} at once, seconds for all",
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main()
