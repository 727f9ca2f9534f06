"""What the view says: numbers, the verdict, and lines without a terminal."""

import io
import json
import math
import re
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

import meshtune
from meshtune.cli.display import Display, JsonLines, print_rows, summary
from meshtune.cli.live import BARS, Panel, RunningTrial, sparkline
from meshtune.cli.watch import print_status
from meshtune.config import presets
from meshtune.record.log import Record
from meshtune.report.sentences import gain_of_best, load_lines, usage, verdict
from meshtune.study.loop import Finished, Opened, Proposed, Retried, Running, Stage, Started, TrialFinished
from meshtune.system.text import counted, duration, number, percent, point
from meshtune.trial import Ending, Outcome, Progress, Request

SOURCES = sorted(Path(meshtune.__file__).parent.rglob("*.py"))
BASELINE = {"trial": 0, "loss": 2.0, "test_loss": 2.1, "hyperparameters": {"rank": 16, "learning_rate": 2e-4}}
BEST = {"trial": 3, "loss": 1.8, "test_loss": 1.9, "hyperparameters": {"rank": 64, "learning_rate": 4.33e-4}}


LUCKY = {"count": 3, "above": {"mean": 0.1, "low": -0.1, "high": 0.3}}
TO_GAIN = {"mean": 4e-5, "low": -1e-4, "high": 3e-3, "trials": 20, "told": 30}


def status(low: float, high: float, **changed: Any) -> dict[str, Any]:
    difference = {"mean": (low + high) / 2, "low": low, "high": high, "rows": 50}
    untuned = {"loss": 3.0, "test_loss": 3.1}
    return {"best": BEST, "baseline": BASELINE, "untuned": untuned, "best_against_baseline": difference, **changed}


def few(rows: int) -> dict[str, Any]:
    return status(-0.3, -0.1, best_against_baseline={"mean": -0.2, "low": -0.21, "high": -0.19, "rows": rows})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (status(-0.3, -0.1), "The best beats the baseline by 0.2000 in test loss, 9.5 %"),
        (status(-0.3, 0.1), "does not beat the baseline beyond noise: its test loss is 0.1000 lower"),
        (status(-0.1, 0.3), "does not beat the baseline beyond noise: its test loss is 0.1000 higher"),
        (status(0.1, 0.3), "worse than the baseline by 0.2000"),
        (status(-0.41, -0.01), "wider than the gain: how large it is is not well known"),
        (few(2), "Only 2 test rows, too few to tell: on them the best is 0.2000 below the baseline (95 % interval of"),
        (few(30), "The best beats the baseline by 0.2000"),
        (status(-0.3, -0.1, best=BASELINE), "The baseline itself is the best"),
        (status(-0.3, -0.1, best=BASELINE, advised=True), "The advice was already the best: no trial beat"),
        (status(-0.3, -0.1, advised=True), "The best beats the advised baseline by 0.2000"),
        (status(-0.3, -0.1, seed_noise=LUCKY), "does not beat the baseline beyond the noise of seeds: its test loss"),
        (status(-0.3, -0.1, expected_gain=TO_GAIN), "Another 20 trials would be expected to gain 0 % of the loss (0 t"),
        (status(-0.3, -0.1, expected_gain={**TO_GAIN, "high": 1.2}), "of the loss (0 to 100 %)"),
        (status(-0.3, -0.1, expected_gain={**TO_GAIN, "high": 1.2}, objective="command"), "(0 to 120 %)"),
        (status(-0.3, -0.1, best=None), "No trial completed"),
        (status(-0.3, -0.1, best_against_baseline=None), "no test rows"),
        (status(-0.3, -0.1, baseline=None), "Best: trial 3, loss 1.8"),
    ],
)
def test_the_verdict(given: dict[str, Any], words: str) -> None:
    line = verdict(given)
    assert words in line
    assert "\n" not in line


def test_a_verdict_that_is_early_or_of_a_program_says_so() -> None:
    early = status(-0.3, -0.1, best_against_baseline=None, state="stopped")
    assert "not yet measured on the test rows" in verdict(early)
    program = verdict({**early, "objective": "command"})
    assert program.startswith("Best: trial 3, objective 1.8, the baseline has 2 (measured once: where the program is")
    without = {**early, "baseline": {**early["baseline"], "loss": None}}
    assert "objective 1.8, the baseline has none (" in verdict({**without, "objective": "command"})
    out = io.StringIO()
    summary(Console(file=out, width=80), {**early, "objective": "command"})
    assert "objective" in out.getvalue()
    assert "validation loss" not in out.getvalue()


@pytest.mark.parametrize(
    ("high", "words"),
    [
        (
            0.01,
            "Take trial 16 (`--trial recommended`): by all trials together its expected loss is the lowest (1.79 ±",
        ),
        (-0.01, "but take trial 3, the best: it is lower on the test rows, beyond noise."),
    ],
)
def test_the_recommendation_says_which_one_to_take_and_why(high: float, words: str) -> None:
    """Rows that the search never saw have the last word, where they tell the two apart."""
    recommended = {**BEST, "trial": 16, "expected": 1.79, "deviation": 0.01}
    gap = {"mean": high - 0.01, "low": high - 0.02, "high": high, "rows": 50}
    assert words in verdict(status(-0.3, -0.1, recommended=recommended, best_against_recommended=gap))


def noise(low: float, high: float) -> dict[str, Any]:
    return {"trial": 3, "count": 5, "deviation": 0.00512, "above": {"mean": (low + high) / 2, "low": low, "high": high}}


@pytest.mark.parametrize(
    ("seeds", "words"),
    [
        (
            noise(0.1, 0.3),
            "Over 5 other seeds its validation loss is on average 0.2000 below the baseline, beyond seed",
        ),
        (noise(-0.1, 0.3), "on average 0.1000 below the baseline, not beyond seed noise"),
        (noise(-0.3, 0.1), "on average 0.1000 above the baseline, not beyond seed noise"),
        (noise(-0.3, -0.1), "on average 0.2000 above the baseline (95 %"),
    ],
)
def test_the_verdict_says_what_replicates_do(seeds: dict[str, Any], words: str) -> None:
    plain = verdict(status(-0.3, -0.1))
    said = verdict(status(-0.3, -0.1, seed_noise=seeds))
    assert said.startswith(f"{plain} ") == (seeds["above"]["low"] > 0)  # else the first sentence says so too
    assert words in said
    assert verdict(status(-0.3, -0.1, seed_noise={**seeds, "above": None})) == plain


def test_what_was_spent_and_saved() -> None:
    assert usage(status(-0.3, -0.1)) == []
    found = {"tokens_saved": 1_234_567, "share_saved": 0.543, "promoted": [4], "seed_noise": noise(0.1, 0.3)}
    found |= {"energy": {"kilowatt_hours": 0.12345, "seconds": 1800.0}, "elapsed_seconds": 7200.0}
    assert dict(usage(found)) == {
        "tokens saved by stopping": "1,234,567 (54 %); 1 stopped trial was trained to the end",
        "seed noise": "0.0051, standard deviation of the loss over 5 other seeds of trial 3",
        "energy": "0.123 kWh, in 30 min of 2.0 h",
    }


def test_one_row_has_no_interval() -> None:
    one = {"mean": -0.2, "low": None, "high": None, "rows": 1}
    given = status(-0.3, -0.1, best_against_baseline=one)
    assert "0.2000 below the baseline in test loss: one row is too few" in verdict(given)
    out = io.StringIO()
    summary(Console(file=out, width=140), given)
    assert next(line for line in out.getvalue().splitlines() if line.startswith("baseline")).endswith("+0.2000")


def test_the_table_names_all_three_with_the_interval() -> None:
    out = io.StringIO()
    summary(Console(file=out, width=140), status(-0.3, -0.1))
    text = out.getvalue()
    titles = [line.split()[0] for line in text.splitlines()[1:] if not line.startswith(" ")]
    assert titles == ["untuned", "baseline", "best"]
    assert "+0.2000 [+0.1000, +0.3000]" in text
    assert "\n    rank 64 lr 4.33e-4\n" in text


MANY = {f"hyperparameter_{number}": number / 7 for number in range(12)}


@pytest.mark.parametrize("terminal", [True, False])
def test_no_number_of_the_table_is_cut_at_80_columns(terminal: bool) -> None:
    """In a terminal long hyperparameters go on in the next line; a file or a pipe gets each of them whole in one."""
    recommended = {**BEST, "trial": 16, "hyperparameters": MANY, "expected": 1.8, "deviation": 0.01}
    gap = {"mean": -1.0651, "low": -1.2749, "high": -0.8553, "rows": 50}
    given = status(-0.3, -0.1, recommended=recommended, best_against_untuned=gap, best_against_recommended=gap)
    given["metrics"] = {"trial-3": {"exact": {"mean": 0.4375, "items": 64}, "brief": {"mean": 1.0, "items": 64}}}
    out = io.StringIO()
    summary(Console(file=out, width=80, force_terminal=terminal), given)
    lines = out.getvalue().splitlines()
    assert len(lines[0]) <= 80
    assert all(words in lines[0] for words in ("validation loss", "test loss", "gain of best (95 %)"))
    row = next(line for line in lines if line.startswith("recommended (trial 16)"))
    assert row.split()[3:] == ["1.8", "1.9", "+1.0651", "[+0.8553,", "+1.2749]"]
    assert "…" not in out.getvalue()
    assert " ".join(out.getvalue().split()).count(point(MANY)) == 1
    assert (max(map(len, lines)) <= 80) is terminal
    assert "    exact 0.4375, brief 1 (means of 64 answers)" in lines


def test_what_users_name_is_no_markup() -> None:
    best = {**BEST, "hyperparameters": {"activation": "[/tanh]", "layer": "[red]"}}
    out = io.StringIO()
    console = Console(file=out, width=140)
    found = {**status(-0.3, -0.1, best=best), "folder": "/studies/[/a]", "state": "stopped", "trials": {}}
    print_status(found, console)
    panel = Panel(running={3: RunningTrial("trial 3  activation [/tanh]")})
    console.print(panel)
    with Display(console) as view:
        view.show(Stage("reading [/rows].jsonl"))
    for words in ("/studies/[/a]: stopped", "activation [/tanh] layer [red]", "trial 3  activation [/tanh]", "[/rows]"):
        assert words in out.getvalue()


def test_without_test_rows_the_table_has_no_empty_columns() -> None:
    out = io.StringIO()
    entries = {name: {**entry, "test_loss": None} for name, entry in (("best", BEST), ("baseline", BASELINE))}
    summary(Console(file=out, width=140), entries)
    assert "test loss" not in out.getvalue()


def test_three_lines_load_the_adapter() -> None:
    lines = load_lines({"folder": "/studies/a", "best": {**BEST, "adapter": "adapters/3"}})
    assert lines is not None
    assert len(lines.splitlines()) == 3
    assert "/studies/a/adapters/3" in lines
    assert load_lines({"folder": "/studies/a", "best": {**BEST, "adapter": None}}) is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (2e-4, "2e-4"),
        (0.0, "0"),
        (1.23456789, "1.2346"),
        (16, "16"),
        (4.33e-4, "4.33e-4"),
        (1.5e6, "1.5e6"),
        (-0.0, "0"),
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.13, "110"), (0.996, "100"), (0.61, "61"), (0.025, "2.5"), (2.4e-4, "0.024"), (12.34, "1,200"), (-0.1, "0")],
)
def test_percents(share: float, text: str) -> None:
    assert percent(share) == text


def test_no_zero_has_a_minus_sign() -> None:
    """A gain within rounding is none, and so are the ends of its interval."""
    tiny = {"mean": 1e-6, "low": -1e-6, "high": 3e-6, "rows": 50}
    assert gain_of_best(tiny) == "+0.0000 [+0.0000, +0.0000]"
    assert "interval of the gain +0.0000 to +0.0000" in verdict(status(0, 0, best_against_baseline=tiny))
    formats = [(path, found) for path in SOURCES for found in re.findall(r":\+[.\d{}a-z]*", path.read_text("utf-8"))]
    assert formats
    assert [(path.name, found) for path, found in formats if not found.startswith(":+z")] == []


def test_words() -> None:
    assert point({"alpha": 7584.4}) == "alpha 7584"
    assert point({"rank": 8, "learning_rate": 1e-5, "lr_scheduler": "cosine"}) == "rank 8 lr 1e-5 lr_scheduler cosine"
    assert [counted(count, "trial") for count in (0, 1, 1200)] == ["0 trials", "1 trial", "1,200 trials"]
    assert [duration(seconds) for seconds in (5, 89, 600, 7200)] == ["5 s", "89 s", "10 min", "2.0 h"]


def test_a_file_gets_lines_and_no_control_codes() -> None:
    out = io.StringIO()
    with Display(Console(file=out, width=120)) as view:
        view.show(Stage("preparing the data"))
        view.show(Started(Request(0, {}, seed=0)))
        view.show(Running(Progress(0, 1, step=1, steps=4, training_loss=2.5)))
        view.show(Finished("4 trials are done", complete=True))
    assert out.getvalue() == "preparing the data ..\nsearch finished: 4 trials are done\n"


@pytest.mark.parametrize("terminal", [True, False])  # where colours are forced, a file is taken for a terminal
def test_sentences_stand_whole_on_one_line(terminal: bool) -> None:
    """However narrow it is: logs are searched by line, and a terminal wraps by itself."""
    sentence = (
        "another 20 trials are expected to gain 0.024 % of the loss, which is less than the 0.1 % that was asked for"
    )
    crashed = Outcome(7, 1, Ending.CRASHED, message=sentence)
    out = io.StringIO()
    console = Console(file=out, width=80, force_terminal=terminal, no_color=True)
    view = Display(console)
    for event in (Stage(sentence), Retried(crashed), Finished(sentence, complete=True)):
        view.show(event)
    found = {**status(-0.3, -0.1), "folder": "/studies/a", "state": "finished", "reason": sentence, "trials": {}}
    print_status({**found, "objective": "lora", "order_checked": None, "expected_gain": TO_GAIN}, console)
    lines = [re.sub(r"\x1b\[[0-9;]*m", "", line) for line in out.getvalue().splitlines()]
    assert lines[:4] == [
        f"{sentence} ..",
        f"trial 7: attempt 1 crashed, trying again: {sentence}",
        f"search finished: {sentence}",
        f"/studies/a: finished ({sentence}); trials: none",
    ]
    assert lines[-2] == verdict({**found, "expected_gain": TO_GAIN})
    assert lines[-1] == "next: meshtune report /studies/a  (one page with all of it)"


class Clock:
    """Seconds that a test moves."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


def open_view(folder: Path, out: io.StringIO, clock: Clock) -> tuple[Display, Record]:
    """A study of six trials, two at once, of which the first took 10 s and two run."""
    space = presets.recommended()
    record = Record(f"sqlite:///{folder / 'study.db'}", "study", space, fixed={})
    view = Display(Console(file=out, width=120), clock)
    view.show(Opened(record, folder, "random", 2, 6, None, None))
    for rank in (4, 8, 16):
        hyperparameters = {**presets.RECOMMENDED_BASELINE, "rank": rank}
        view.show(Proposed(record.enqueue(hyperparameters, origin="enqueued", seed=0)))
    told = record.tell(Outcome(0, 1, Ending.COMPLETE, loss=1.0, seconds=10.0), elapsed=10.0)
    assert told is not None
    view.show(TrialFinished(told))
    return view, record


def test_the_time_left_follows_a_trial_that_takes_longer(tmp_path: Path) -> None:
    """The first took 10 s; one that runs has 20 steps of 30 s: nobody reads `25 s left` beside it."""
    out, clock = io.StringIO(), Clock()
    view, _ = open_view(tmp_path, out, clock)
    assert view._drawn().left == pytest.approx(5 * 10 / 2)
    for step in (2, 3, 4):  # it went on from a checkpoint
        clock.now += 30.0
        view.show(Running(Progress(1, 1, step=step, steps=24, training_loss=1.0)))
    assert view._drawn().left == pytest.approx(max(600.0, (600 + 4 * (10 + 720) / 2) / 2))
    clock.now += 15.0
    assert view._drawn().left == pytest.approx((585 + 4 * (10 + 720) / 2) / 2)


def test_a_trial_that_ended_without_a_loss_is_told_in_words(tmp_path: Path) -> None:
    out = io.StringIO()
    view, record = open_view(tmp_path, out, Clock())
    for trial, ending, why in ((1, Ending.STOPPED_EARLY, "stopped on request"), (2, Ending.TIMED_OUT, "")):
        told = record.tell(Outcome(trial, 1, ending, seconds=3.0, message=why), elapsed=20.0)
        assert told is not None
        view.show(TrialFinished(told))
    lines = out.getvalue().splitlines()
    assert "trial 1   stopped early  rank 8" in lines[-4]
    assert lines[-3] == "    stopped on request."
    assert "trial 2   timed out  rank 16" in lines[-2]


def test_a_file_is_told_now_and_then_where_a_long_trial_is(tmp_path: Path) -> None:
    out, clock = io.StringIO(), Clock()
    view, _ = open_view(tmp_path, out, clock)
    written = len(out.getvalue())
    for step in range(1, 8):
        clock.now += 25.0
        view.show(Running(Progress(1, 1, step=step, steps=24)))
    lines = out.getvalue()[written:].splitlines()
    assert lines[0].strip().startswith("trial 1 step 3 of 24; about ")
    assert len(lines) == 2


def test_json_lines_name_their_event() -> None:
    out = io.StringIO()
    with JsonLines(out) as view:
        view.show(Stage("preparing the data"))
        view.show(Running(Progress(0, 1, step=1, steps=4, training_loss=2.5)))
        view.show(Finished("4 trials are done", complete=True))
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    assert [line["event"] for line in lines] == ["stage", "running", "finished"]
    assert lines[1]["training_loss"] == 2.5


def test_sparklines() -> None:
    assert sparkline([]) == ""
    assert sparkline([math.inf]) == ""
    assert sparkline([1.0, 1.0]) == BARS[0] * 2
    assert sparkline([2.0, 1.0, 1.5]) == BARS[7] + BARS[0] + BARS[4]
    assert sparkline([1.0, 1.1, 1.2, 1.3, 1000.0])[:4] != BARS[0] * 4, "one trial that failed must not flatten the rest"
    assert sparkline([1.0, math.inf, 2.0]) == BARS[0] + " " + BARS[7]


@pytest.mark.parametrize(("best", "baseline", "words"), [(-3.0, 0.0, "3 below"), (1.0, 4.0, "75.0 % below")])
def test_the_panel_gives_no_share_of_what_may_be_negative(best: float, baseline: float, words: str) -> None:
    out = io.StringIO()
    panel = Panel(history=[best], best=best, best_trial=1, baseline=baseline)
    Console(file=out, width=160).print(panel)
    assert f", {words} the baseline" in out.getvalue()


def test_the_panel_cuts_nothing_at_80_columns() -> None:
    """However many trials there were: their sparkline has a line of its own."""
    panel = Panel(block=33, members=2, ended=1, history=[3.0, 2.5] * 50, best=2.5, best_trial=99, baseline=3.0)
    panel.done, panel.total, panel.elapsed, panel.left = 100, 120, 1800.0, 5400.0
    out = io.StringIO()
    Console(file=out, width=80).print(panel)
    assert "…" not in out.getvalue()
    assert "best 2.5000 (trial 99), 16.7 % below the baseline" in " ".join(out.getvalue().split())


def test_the_panel_says_where_the_run_stands() -> None:
    panel = Panel(block=3, members=4, ended=2, history=[3.0, 2.5, 2.7], best=2.5, best_trial=1, baseline=3.0)
    panel.done, panel.total, panel.elapsed, panel.left, panel.price = 3, 12, 1800.0, 5400.0, 2.0
    trial = RunningTrial("trial 3  rank 16")
    trial.take(Progress(3, 1, step=5, steps=10, training_loss=2.9))
    panel.running[3] = trial
    out = io.StringIO()
    Console(file=out, width=200).print(panel)
    text = out.getvalue()
    for words in (
        "trial 3  rank 16",
        "step 5 of 10",
        "2.9000",
        "3/12 trials",
        "block 3: 2 of 4",
        "best 2.5000 (trial 1)",
    ):
        assert words in text
    assert "16.7 % below the baseline" in text
    assert "30 min, about 1.5 h left" in text
    assert "1 spent of about 4" in text


def test_rows_without_colour(capsys: pytest.CaptureFixture[str]) -> None:
    """What is learned stands between marks; brackets in a row are text, not Rich's markup."""
    print_rows([[("<s>user\n[red] one", False), ("two</s>", True)], [("three", False)]])
    assert capsys.readouterr().out == (
        "\nrow 1, trained text between ⟦ and ⟧:\n<s>user\n[red] one⟦two</s>⟧\n"
        "\nrow 2, trained text between ⟦ and ⟧:\nthree\n"
    )


def test_escapes_of_rows_are_spelled(capsys: pytest.CaptureFixture[str]) -> None:
    print_rows([[("\x1b]0;owned\x07\u202eone\r\ntwo", False), ("\x1b[2J", True)]])
    assert capsys.readouterr().out.endswith("\n\\x1b]0;owned\\x07\\u202eone\ntwo⟦\\x1b[2J⟧\n")


def test_rows_with_colour(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    print_rows([[("one ", False), ("two", True)]])
    written = capsys.readouterr().out
    assert "\x1b[1;32mtwo\x1b[0m" in written
    assert "⟦" not in written
