"""Publishing a scale of the paper's recipe: what is said of it, its page, and what is refused."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from benchmarks import paper_claims, paper_ours, paper_page, paper_runs

POINT = {"rank": 8, "dropout": 0.1, "alpha": 32, "learning_rate": 1e-5}


def trial(number: int, rank: int, loss: float) -> dict[str, Any]:
    of_it = {"training_losses": [3.0, 2.5, loss + 0.1], "losses": [loss + 0.5, loss + 0.001, loss]}
    point = {**POINT, "rank": rank, "learning_rate": 10 ** -(3 + number % 3)}
    return {"trial": number, "ending": "complete", "loss": loss, "hyperparameters": point, **of_it}


def study(name: str) -> dict[str, Any]:
    """Six trials, the fifth of which is the best; larger ranks have lower losses."""
    losses = [2.0, 1.9, 1.8, 1.7, 1.5, 1.6]
    trials = [trial(number, 2 ** (number + 2), loss) for number, loss in enumerate(losses)]
    best = {"loss": 1.5, "test_loss": 1.55, "trial": 4, "hyperparameters": {**POINT, "rank": 64, "alpha": 64}}
    space = [{"name": "rank", "low": 4, "high": 512, "log": True, "choices": None, "power_of": 2, "integer": True}]
    return {
        "sampler": name,
        "seed": 0,
        "model": "embedded",
        "trials": {"complete": 6},
        "space": space,
        "untuned": {"loss": 2.2},
        "baseline": {"loss": 2.0, "hyperparameters": POINT},
        "best": best,
        "against_baseline": {"mean": -0.5, "low": -0.7, "high": -0.3, "rows": 32},
        "versions": {"meshtune": "1", "torch": "2"},
        "machine": {"cores": 2, "processor": "some"},
        "all": trials,
    }


@pytest.fixture
def published(tmp_path: Path) -> Path:
    """A scale whose scores are those of the paper's Table 4."""
    folder = tmp_path / "small"
    folder.mkdir()
    for name, paper in (("mads", "nomad"), ("tpe", "tpe")):
        shutil.copyfile(paper_claims.PAPER / f"table4_{paper}.csv", folder / f"{name}-candidates.csv")
    facts = {
        "scale": "small",
        "date": "2026-12-02",
        "best": 10,
        "steps": {"round1": 60.0, "mads": 60.0, "tpe": 60.0, "mads-scores": 60.0, "tpe-scores": 60.0},
        "studies": {name: study(name) for name in ("round1", "mads", "tpe")},
        "choices": {"mads": {"said": ["Nothing is chosen."], "notes": ["BBH is left out: no signal."]}},
        "mads_less_tpe": {"mean": 0.01, "low": -0.02, "high": 0.04, "rows": 32},
    }
    (folder / "facts.json").write_text(json.dumps(facts))
    (folder / "figure3.svg").write_text("<svg/>")
    return folder


def test_what_is_said_of_a_claim_has_the_papers_own_figures_where_the_scores_are_the_papers(published: Path) -> None:
    said = {claim: paper_ours.said(published.parent, claim) for claim in paper_ours.CLAIMS}
    assert "NNI-TPE, 20 models, loss's rank with the score: MMLU -0.65 [-0.86, -0.24]" in said["alignment"]
    assert "MADS less NNI-TPE, 10 best, points: MMLU +0.16 [-0.12, +0.44]" in said["optimizers"]
    assert "MADS's 10 best less the default, points: MMLU +2.68 [+1.52, +3.84]" in said["tuned"]
    assert "MADS's best less the default, test loss: -0.5000 [-0.7000, -0.3000] (32 rows)" in said["tuned"]
    assert "+0.0100 [-0.0200, +0.0400] (32 rows)" in said["losses"]
    assert "MADS: rank with loss over 6 trials -0.94" in said["ranks"]
    assert "ranks of the four best: 64, 128, 32, 16" in said["ranks"]
    assert "round one: the best is number 5 of 6" in said["last"]
    assert "mean of 6 trials: -0.0010 [-0.0010, -0.0010]; 6 of them" in said["third epoch"]
    assert "alpha 64, alpha's bound" in said["point"]
    assert "from the first step to the last epoch, with the loss, 6 trials: -1.00" in said["drop"]
    assert paper_ours.said(published, "tuned").startswith("Nothing yet")
    assert "| no | no |" in paper_ours.pieces(published.parent).splitlines()[2]


def test_comparisons_are_counted_by_what_their_intervals_say(published: Path) -> None:
    found = {claim: paper_ours.verdict(published.parent, claim) for claim in paper_ours.CLAIMS}
    assert found["tuned"] == "3 for, 3 open"  # the test losses of both, and MMLU
    assert found["alignment"] == "5 against, 3 open"
    assert found["optimizers"] == "1 for, 3 open"
    assert found["losses"] == "1 open"
    assert found["third epoch"] == "1 for"
    assert found["last"] == "3 against"
    assert paper_ours.verdict(published, "tuned") == "nothing yet"


def test_todays_way_is_counted_until_the_best_loss_of_both_rounds_over_the_seeds_of_a_size(published: Path) -> None:
    facts = json.loads((published / "facts.json").read_text())
    for each in facts["studies"].values():
        each["tokens"] = 600
    ours = {"seed": 0, "tokens": 300, "best": {"loss": 1.4, "test_loss": 1.6}}
    for seed, losses in enumerate(([1.6, 1.5, 1.4], [1.4], [1.7])):
        scale = "small" + (f"-{seed}" if seed else "")
        trials = [{"tokens": 100, "ending": "complete", "loss": loss} for loss in losses]
        (published.parent / scale).mkdir(exist_ok=True)
        ours = {**ours, "seed": seed, "all": trials}
        (published.parent / scale / "facts.json").write_text(json.dumps({**facts, "today": ours}))
    lines = paper_ours.today(published.parent).splitlines()
    assert lines[2] == "| small | 0 | 1.5000 | 1.5500 | 1,200 | 1.4000 | 1.6000 | 300 | 200 | 16.7 % |"
    assert lines[3].endswith("| 100 | 8.3 % |")
    assert lines[4].endswith("| never | - |")
    assert lines[-1] == "`small`, median of 3 seeds: 16.7 %. The aim, at most 25 %, is reached."
    assert "median of" not in paper_ours.today(published)


def test_no_right_answer_on_either_side_leaves_a_difference_open(published: Path) -> None:
    path = published / "mads-candidates.csv"
    lines = [line.split(",") for line in path.read_text().splitlines()]
    at = lines[0].index("humaneval")
    for line in lines[1:]:
        line[at] = line[at] if line[0] == "items" else "0.00"
    path.write_text("\n".join(map(",".join, lines)) + "\n")
    assert "HumanEval +0.00 [-2.29, +2.29]" in paper_ours.said(published.parent, "tuned")  # Newcombe's, 0 of 164 twice


def test_the_page_shows_ours_beside_the_papers_and_what_is_not_done(published: Path) -> None:
    page = paper_page.page("small", published)
    assert "or not done yet: mads-choice, tpe-choice, comparison, figure3, today." in page
    assert page.count("Statistics of the best candidates, in points (ours)") == 1
    assert page.count("Statistics of the best candidates, in points (the paper's)") == 1
    assert page.count("(the paper's)\n") == page.count("(ours)\n") == 3
    assert "MADS here: 7 of the 20 models shown are Pareto-optimal, those ranked 2, 4, 6, 7, 8, 94, 95 by loss." in page
    assert "NNI-TPE in the paper: 10 of the 20" in page
    assert "SIMULATED VOTES" in page
    assert "| rank | 4 to 512, powers of two | 2^(r+1), r = 1..8 | 8 |" in page
    assert "Nothing is chosen." in page


def test_a_row_of_the_data_or_a_path_is_not_published(tmp_path: Path) -> None:
    data, folder, page = tmp_path / "items.jsonl", tmp_path / "small", tmp_path / "small.md"
    row = "What is the capital of the country that lies to the north of this one?"
    data.write_text(json.dumps({"text": row}) + "\n")
    folder.mkdir()
    page.write_text("nothing")
    (folder / "report.html").write_text("<p>What is said of the capital of a country</p>")
    paper_runs.check(folder, page, ["/place/of/somebody"], [data])
    (folder / "report.html").write_text(f"<p>so: {row.replace(' the ', chr(10) + 'the ')}</p>")
    with pytest.raises(SystemExit, match="a row of the data"):
        paper_runs.check(folder, page, [], [data])
    page.write_text("see /place/of/somebody/out")
    with pytest.raises(SystemExit, match="must not be published"):
        paper_runs.check(folder, page, ["/place/of/somebody"], [])


def test_todays_way_is_counted_by_tokens_until_the_papers_best_losses(published: Path) -> None:
    """MADS needs 10 trials of 10 tokens to its best, TPE 5 of its 6; today's third trial is as low as both."""
    facts = json.loads((published / "facts.json").read_text())
    for name in (*facts["studies"], "today"):
        each = facts["studies"].get(name) or study(name)
        each |= {
            "tokens": 60,
            "elapsed_seconds": 60.0,
            "against_untuned": each["against_baseline"],
            "date": "2026-12-02",
        }
        for one in each["all"]:
            one["tokens"] = 10
    facts["studies"]["mads"]["all"][4]["loss"] = facts["studies"]["mads"]["best"]["loss"] = 1.45
    facts["today"] = each
    facts["processor"] = {"today": 80.0}
    each["all"][2]["loss"] = each["best"]["loss"] = 1.4
    (published / "facts.json").write_text(json.dumps(facts))
    page = paper_page.page("small", published)
    assert "| the paper's: MADS, both rounds | 1.45 | 110 | 120 | 30 | 25.0 % |" in page
    assert "| the paper's: NNI's TPE | 1.5 | 50 | 60 | 30 | 50.0 % |" in page
    assert "until their best loss, is reached.**" in page
    assert "not scored | 60 s | 80 s |" in page
    assert "So far it has" not in page
    each["all"][2]["loss"] = each["best"]["loss"] = 1.46
    each["trials"] |= {"complete": 4}
    (published / "facts.json").write_text(json.dumps(facts))
    page = paper_page.page("small", published)
    assert "| 1.45 | 110 | 120 | never so low | - |" in page
    assert "So far it has 4 of its 6 trials." in page
    assert "until their best loss, is missed.**" in page


def test_steps_are_added_to_what_is_published() -> None:
    stored = {"date": "2026-12-01", "killed": 3, "begun": ["questions", "today"], "steps": {"round1": 1.0}}
    stored |= {"studies": {"round1": {"seed": 0}}, "choices": {"mads": {"chosen": None}}}
    new = {"date": "2026-12-02", "killed": 0, "begun": [], "steps": {"today": 2.0}, "processor": {"today": 4.0}}
    found = paper_runs.added(stored, {**new, "studies": {}, "choices": {}, "today": {"seed": 0}})
    assert found == {
        **stored,
        "begun": ["questions"],
        "steps": {"round1": 1.0, "today": 2.0},
        "processor": {"today": 4.0},
        "today": {"seed": 0},
    }
