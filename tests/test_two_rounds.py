"""The paper's two rounds (`examples/two_rounds`) from one study.yaml: as in the paper, and with shifted values."""

import json
import shutil
from pathlib import Path

import pytest

from meshtune.study.status import status
from tests.kill import run

EXAMPLE = Path(__file__).parents[1] / "examples" / "two_rounds"


@pytest.mark.slow
@pytest.mark.parametrize(("values", "again"), [("as_is", 0), ("shifted", 4)])
def test_two_rounds(tmp_path: Path, values: str, again: int) -> None:
    shutil.copytree(EXAMPLE, tmp_path / "example")
    changes = (f"rounds.1.warm_start.values={values}", f"rounds.1.warm_start.again={again}")
    ended = run(tmp_path / "example" / "study.yaml", "--json", *(word for text in changes for word in ("--set", text)))
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout)
    old, new = (status(tmp_path / "example" / "study" / name, trials=True)["all"] for name in ("round1", "round2"))
    assert (len(old), len(new), told["trials"]["complete"]) == (50, 100, 100)
    ranks = [max(trial["hyperparameters"]["rank"] for trial in trials) for trials in (old, new)]
    assert ranks[0] == 128 < ranks[1]
    expected = {"study": "round1", "values": values, "complete": 50, "failed": 0, "outside": 0}
    assert told["warm_start"] == expected
    assert told["best"]["loss"] == min(trial["loss"] for trial in new)  # and not one of the first round
    known = [trial["hyperparameters"] for trial in old[1:]]  # the baseline is evaluated in any case
    repeated = [trial["hyperparameters"] for trial in new if trial["hyperparameters"] in known]
    best = min(old, key=lambda trial: trial["loss"])["hyperparameters"]
    assert (best in repeated, len(repeated) >= again) == (values == "shifted", True)
    assert told["agreement"][0]["points"] == 1 + len(repeated)
