"""`warm_start`: what `check` says, what `tune` keeps, and what is refused."""

import json
import shutil
from pathlib import Path

import pytest

from meshtune.config import presets
from meshtune.errors import InputError, StudyMismatch
from meshtune.plan.locate import locate
from meshtune.plan.warm_start import warm_start
from meshtune.record.log import Record
from meshtune.record.trials import RecordedTrial
from meshtune.report.write import report
from meshtune.space.space import Space
from meshtune.study.check import check
from meshtune.study.loop import Stage
from meshtune.study.status import status
from meshtune.study.tune import tune, write_effective
from meshtune.trial import Ending, Outcome
from tests.kill import command, command_study, record_of, run


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished study of 12 trials; some lie above x = 3 or failed."""
    path = command_study(tmp_path_factory.mktemp("earlier"), sampler="random", trials=12, processes=1)
    ended = run(path, "--set", "worker.attempts=1")
    assert ended.returncode == 0, ended.stderr
    return path


def beside(folder: Path, earlier: Path) -> Path:
    """A study up to x = 3 that starts from a copy of the earlier one, both in a folder."""
    shutil.copytree(earlier.parent, folder / "round1")
    path = command_study(folder / "round2", sampler="tpe", trials=6, block=2, processes=1)
    narrower = path.read_text().replace("x: {low: -5, high: 5}", "x: {low: -5, high: 3}")
    path.write_text(narrower + "warm_start: ../round1\n")
    return path


@pytest.fixture
def later(tmp_path: Path, earlier: Path) -> Path:
    """One that has not begun."""
    return beside(tmp_path, earlier)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, earlier: Path) -> Path:
    """One that ran without interruption."""
    path = beside(tmp_path_factory.mktemp("finished"), earlier)
    list(tune(locate(path)))
    return path


def counts(earlier: Path) -> dict[str, int]:
    """What a study up to x = 3 knows of the earlier one."""
    trials = record_of(earlier)
    inside = [trial for trial in trials if trial["hyperparameters"]["x"] <= 3]
    complete = sum(trial["ending"] == "complete" for trial in inside)
    return {"complete": complete, "failed": len(inside) - complete, "outside": len(trials) - len(inside)}


def test_check_counts_what_will_be_known(later: Path, earlier: Path) -> None:
    found = counts(earlier)
    assert found["complete"] > 2
    assert found["outside"] > 0
    text, facts = check(later)
    assert facts["warm_start"] == {"study": "round1", "values": "as_is", **found}
    assert f"warm start {found['complete']} earlier trials of round1 are used from the start" in text
    assert f"{found['outside']} lie outside this space" in text or found["outside"] == 1
    assert not (later.parent / "study").exists()


@pytest.mark.slow
def test_a_study_keeps_what_it_knows_and_goes_on_without_the_other(
    later: Path, finished: Path, earlier: Path, tmp_path: Path
) -> None:
    events = list(tune(locate(later, overrides=("budget.trials=4",))))
    said = [event.text for event in events if isinstance(event, Stage) and "earlier trials" in event.text]
    assert len(said) == 1
    assert said[0].startswith(f"{counts(earlier)['complete']} earlier trials of round1 are used from the start")
    shutil.rmtree(tmp_path / "round1")
    assert check(later)[1]["warm_start"]["complete"] == counts(earlier)["complete"]
    assert not [event for event in tune(locate(later)) if isinstance(event, Stage) and "earlier trials" in event.text]
    assert record_of(later) == record_of(finished)
    told = status(later, trials=True)
    assert len(told["all"]) == told["trials"]["proposed"] == 6  # known points are no trials
    assert told["warm_start"]["study"] == "round1"


def test_known_points_change_the_search(later: Path, finished: Path) -> None:
    later.write_text(later.read_text().replace("warm_start: ../round1\n", ""))
    list(tune(locate(later)))
    informed, cold = ([trial["hyperparameters"] for trial in record_of(path)] for path in (finished, later))
    assert informed[0] == cold[0]  # the baseline
    assert informed[1:] != cold[1:]
    assert status(later)["warm_start"] is None


def test_the_report_names_what_was_known(finished: Path) -> None:
    page = Path(report([finished])["page"]).read_text()
    assert "known from the start" in page
    assert "trials of round1, their values as they are" in page


def test_it_is_a_fixed_key(later: Path) -> None:
    list(tune(locate(later, overrides=("budget.trials=2",))))
    text = later.read_text()
    later.write_text(text.replace("warm_start: ../round1\n", ""))
    with pytest.raises(StudyMismatch, match=r"warm_start\.study: the study has 'round1', now given None"):
        list(tune(locate(later)))
    later.write_text(text.replace("../round1", "../round0"))
    with pytest.raises(StudyMismatch, match=r"warm_start\.study: the study has 'round1', now given 'round0'"):
        list(tune(locate(later)))


def test_a_study_that_has_begun_takes_no_points_later(later: Path) -> None:
    text = later.read_text()
    later.write_text(text.replace("warm_start: ../round1\n", ""))
    list(tune(locate(later, overrides=("budget.trials=2",))))
    later.write_text(text)
    with pytest.raises(StudyMismatch, match=r"warm_start\.study: the study has None, now given 'round1'"):
        list(tune(locate(later)))
    assert Record(f"sqlite:///{later.parent / 'study' / 'study.db'}", "study").earlier_trials == ()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (("../round1", "../none"), r"warm_start: no study to start from: .*none"),
        (("../round1", "study.yaml"), "this study has not been started"),
        (("high: 3}", "high: -4.9999}"), r"outside this space: `x` in \d+ of \d+: \S+ is outside -5 to -4\.9999"),
        (("k: {low: 0, high: 6, integer: true}", "k: 7"), r"`k` in 12 of 12: .*7, at which the space fixes it"),
    ],
)
def test_what_cannot_be_used_is_one_message(later: Path, change: tuple[str, str], words: str) -> None:
    later.write_text(later.read_text().replace(*change).replace("baseline: {x: 1.0, y: 0.5, k: 3}\n", ""))
    for refused in (lambda: check(later), lambda: list(tune(locate(later)))):
        with pytest.raises(InputError, match=words) as raised:
            refused()
        assert len(raised.value.faults) == 1
    assert not (later.parent / "study").exists()


def test_a_study_of_which_nothing_has_finished_and_the_study_itself(later: Path, tmp_path: Path) -> None:
    path = tmp_path / "round1" / "study" / "study.db"
    path.unlink()
    located = locate(tmp_path / "round1" / "study.yaml")
    Record(f"sqlite:///{path}", "study", fixed={"a": 1})
    assert located.started
    with pytest.raises(InputError, match="no trial of it has finished yet"):
        check(later)
    shutil.copytree(tmp_path / "round1" / "study", later.parent / "study")
    later.write_text(later.read_text().replace("../round1", "study"))
    with pytest.raises(InputError, match="this is the study itself"):
        check(later)


def test_on_the_command_line(later: Path) -> None:
    done = command("check", later, "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["warm_start"]["study"] == "round1"
    wrong = command("check", later, "--set", "sampler=random")
    assert wrong.returncode == 2
    assert "warm_start: the sampler `random` cannot start from earlier trials" in wrong.stderr


def of_model(folder: Path, name: str, hidden_size: int | None, kind: str, more: str = "") -> Path:
    """A study.yaml of a model whose config alone is there."""
    model = folder / f"{name}-model"
    model.mkdir(exist_ok=True)
    (model / "config.json").write_text(json.dumps({"hidden_size": hidden_size, "model_type": kind}))
    path = folder / f"{name}.yaml"
    path.write_text(f"model: {model}\ndata: {{sources: [{{path: rows.jsonl}}]}}\n{more}")
    return path


def begun(path: Path, space: Space) -> list[RecordedTrial]:
    """The study with two trials that ended."""
    study = locate(path)
    assert study.config.model is not None
    fixed = {"model": {"name": study.config.model.name}, "space": space.describe(), "objective": {}}
    study.folder.mkdir()
    write_effective(study)
    record = Record(study.url, study.name, space, fixed=fixed)
    for number, rate in enumerate((1e-4, 2e-4)):
        point = {"rank": 16, "alpha": 32, "dropout": 0.0, "learning_rate": rate}
        record.enqueue(point, origin="enqueued", seed=0)
        record.tell(Outcome(number, 1, Ending.COMPLETE, loss=2.0 - number), elapsed=1.0)
    return record.finished


@pytest.mark.parametrize(
    ("hidden_size", "kind", "rates", "moved", "said"),
    [
        (4096, "qwen3", "", True, "size"),
        (4096, "qwen3", ", rates: as_is", False, "start"),
        (1024, "qwen3", "", False, "start"),
        (4096, "qwen3_5", "", True, "(qwen3 there, qwen3.5 here), and by size alone they gained 0.05 % of the loss "
         "on 175 pairs of such models"),
        (4096, "llama", "", True, "(qwen3 there, llama here), and by size alone they gained 0.05 % of the loss "
         "on 175 pairs of such models"),
        (1024, "strange", "", False, "are used from the start. Rates may differ: the two models are not known to be of "
         "one family and generation (qwen3 there, unknown here)"),
        (1024, "strange", ", rates: as_is", False, "start"),
        (None, "qwen3", "", False, "start. Their learning rates stay as they were, since no config here tells the size "
         "of large-model"),
    ],
)  # fmt: skip
def test_rates_are_moved_by_the_models_sizes_and_strangers_are_named(
    tmp_path: Path, hidden_size: int | None, kind: str, rates: str, moved: bool, said: str
) -> None:
    space = presets.recommended()
    trials = begun(of_model(tmp_path, "small", 1024, "qwen3"), space)
    large = of_model(tmp_path, "large", hidden_size, kind, f"warm_start: {{study: small{rates}, again: 1}}\n")
    found = warm_start(locate(large), space)
    times = found.facts.get("rates_times", 1.0)
    assert (0.7 < times < 1.0) == moved
    assert (f", their learning rates times {times:.3g} for a model of another size" in str(found)) == moved
    assert str(found).endswith(said)
    kept = [trial.user_attrs["hyperparameters"]["learning_rate"] for trial in found.trials]
    assert kept == pytest.approx([times * trial.hyperparameters["learning_rate"] for trial in trials])
    assert found.best(space, None)[0]["learning_rate"] == pytest.approx(2e-4 * times)
