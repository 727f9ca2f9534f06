"""What the comparison of real searches counts, from made-up ones."""

import json
from pathlib import Path
from typing import Any

from benchmarks import stopping_live


def status(tokens: int, losses: tuple[float, float], rungs: int) -> dict[str, Any]:
    trials = [{"rungs": [[10, 3.0]] * rungs}, {"rungs": []}]
    best = {"loss": losses[0], "test_loss": losses[1]}
    return {"all": trials, "trials": {"complete": 1}, "tokens": tokens, "best": best}


def test_two_searches_over_two_seeds(tmp_path: Path) -> None:
    pairs = []
    for seed, (ours, theirs) in enumerate((((50, (2.0, 2.5), 3), (100, (2.1, 2.4), 0)),) * 2):
        (tmp_path / f"seed-{seed}").mkdir()
        for rule, given in (("model", ours), ("none", theirs)):
            (tmp_path / f"seed-{seed}" / f"{rule}-20.json").write_text(json.dumps(status(*given)))
        pairs.append(tuple(stopping_live.searched(tmp_path, seed, rule, 20, None) for rule in ("model", "none")))
    found = stopping_live.line("made up", [(ours, theirs) for ours, theirs in pairs])
    assert (found["ours"], found["theirs"], found["ratio"], found["low"], found["high"]) == (50, 100, 2.0, 2.0, 2.0)
    assert (found["validation"], found["test"]) == ([-0.1, -0.1], [0.1, 0.1])
    assert (found["trials"], found["ended"], found["rungs"]) == ([[2, 2]] * 2, [[1, 1]] * 2, [[3, 0]] * 2)
