"""Another fine-tuning tool as the black box.

The programs here write what the tools' own sources write: Transformers' `trainer_state.json` and printed lines (as TRL
and Axolotl have them, with the evaluation before the first step of Axolotl), and LLaMA-Factory's `trainer_log.jsonl`
(`train/callbacks.py`). Axolotl and LLaMA-Factory themselves are not run; TRL is, in `tests/test_trl_script.py`.
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from meshtune.config.sections import ToolName
from meshtune.objectives import tools, trainer_log
from meshtune.objectives.trainer import TrainerObjective, TrainerSpec
from meshtune.objectives.trainer_log import Log, Reader
from meshtune.testing.objectives import ObjectiveContract
from meshtune.trial import AT_ONCE, Decision, Ending, Outcome, Progress, Request, Rung, Verdict

POINT = {"rank": 8, "alpha": 16, "dropout": 0.0, "learning_rate": 0.01}
# A training whose loss falls to the square of (rate - 0.02) in units of 0.01, over the epochs; `do` breaks it.
TOOL = r"""
import json, os, signal, sys, time, yaml
path, kind = sys.argv[1:3]
own = yaml.safe_load(open(path))
out, epochs = own["output_dir"], own.get("num_epochs", own.get("num_train_epochs"))
os.makedirs(out)
do, end = own.get("do"), (100 * own["learning_rate"] - 2) ** 2 + own["seed"] / 1000
history = []

def log(step, **entry):
    history.append({**entry, "epoch": step / 2, "step": step})
    if kind == "llamafactory":
        with open(f"{out}/trainer_log.jsonl", "a") as file:
            line = {"current_steps": step, "total_steps": 2 * epochs, **entry, "epoch": step / 2, "percentage": 50.0}
            file.write(json.dumps(line) + "\n")
    else:
        shown = {name: f"{value:.4g}" if isinstance(value, float) else value for name, value in entry.items()}
        print({**shown, "epoch": f"{step / 2:.4g}"})

def save(step):
    folder = out if step is None else f"{out}/checkpoint-{step}"
    os.makedirs(folder, exist_ok=True)
    open(f"{folder}/{'config' if do == 'whole' else 'adapter_config'}.json", "w").write("{}")
    if step is not None:
        json.dump({"log_history": history, "global_step": step}, open(f"{folder}/trainer_state.json", "w"))

if kind == "axolotl":
    log(0, eval_loss=9.5, eval_runtime=0.1)
for step in range(1, 2 * epochs + 1):
    if do == "memory" and step == 2:
        sys.exit("torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has ..")
    if do == "crash" and step == 2:
        raise ValueError("no such column: text")
    log(step, loss=float("nan") if str(do)[:3] == "nan" else 3.0 - step / 10, num_tokens=64 * step)
    loss = float("nan") if do == "eval-nan" else end + 1 / (7 * step)
    log(step, eval_loss=loss, eval_runtime=0.1, eval_mean_token_accuracy=0.75)
    save(step)
    if do in ("wait", "nan-wait"):
        def ended(*_):
            open(f"{os.path.dirname(path)}/ended", "w").close()
            sys.exit(1)
        signal.signal(signal.SIGTERM, ended)
        sys.stdout.flush()
        time.sleep(600)
save(None)
"""
VALUES: dict[ToolName, dict[str, Any]] = {
    "axolotl": {
        **{"base_model": "m", "adapter": "lora", "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0},
        **{"learning_rate": 0.01, "num_epochs": 2, "val_set_size": 0.1, "evals_per_epoch": 2, "saves_per_epoch": 1},
    },
    "llamafactory": {
        **{"model_name_or_path": "m", "stage": "sft", "finetuning_type": "lora", "lora_rank": 8, "val_size": 0.1},
        **{"learning_rate": "1e-2", "num_train_epochs": 2},
    },
    "trl-script": {
        **{"model_name_or_path": "m", "use_peft": True, "lora_r": 8, "lora_alpha": 16, "lora_dropout": 0.0},
        **{"learning_rate": 0.01, "num_train_epochs": 2, "eval_strategy": "epoch", "dataset_name": "rows"},
    },
}


def objective(folder: Path, tool: ToolName = "trl-script", **fields: Any) -> TrainerObjective:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "tool.py").write_text(TOOL)
    command = (sys.executable, str(folder / "tool.py"), "{config}", tool)
    values = {**VALUES[tool], **fields.pop("values", {})}
    spec = {"at": "best", "kept": True, "adapter": True, **fields}
    return TrainerObjective(TrainerSpec(tool, values, command, str(folder), str(folder), **spec))


def outcome(one: TrainerObjective, request: Request | None = None) -> Outcome:
    (found,) = [event for event in one.evaluate([request or Request(3, POINT, seed=0)]) if isinstance(event, Outcome)]
    return found


class TestContract(ObjectiveContract):
    def make(self, folder: Path) -> TrainerObjective:
        return objective(folder, "llamafactory")

    def good(self, trial: int) -> Request:
        return Request(trial, {**POINT, "learning_rate": 0.01 + trial / 1000}, seed=0)

    def bad(self, trial: int) -> Request:
        return Request(trial, {**POINT, "do": "crash"}, seed=0)


@pytest.mark.parametrize("tool", VALUES)
def test_the_loss_is_that_of_the_tools_own_log(tmp_path: Path, tool: ToolName) -> None:
    """Exactly, also where it is printed to four digits; the evaluation before the first step does not count."""
    found = outcome(objective(tmp_path, tool))
    assert (found.ending, found.message) == (Ending.COMPLETE, "")
    assert found.losses == tuple(1 + 1 / (7 * step) for step in range(1, 5))
    assert found.loss == 1 + 1 / 28
    assert found.adapter == "trainer/trial-3/output"
    assert found.extra == {"eval_mean_token_accuracy": 0.75} or tool == "llamafactory"
    assert sorted(path.name for path in (tmp_path / found.adapter).glob("checkpoint-*")) == []
    written = yaml.safe_load((tmp_path / "trainer" / "trial-3" / "config.yml").read_text())
    own = {key: value for key, value in VALUES[tool].items() if "_per_epoch" not in key}
    assert written.items() >= {**own, "learning_rate": 0.01}.items()


def test_checkpoints_may_be_dropped(tmp_path: Path) -> None:
    found = outcome(objective(tmp_path, kept=False))
    assert (found.ending, found.adapter) == (Ending.COMPLETE, None)
    assert [path.name for path in (tmp_path / "trainer" / "trial-3").iterdir()] == ["config.yml"]


@pytest.mark.parametrize(
    ("do", "ending", "words"),
    [
        ("memory", Ending.OUT_OF_MEMORY, "CUDA out of memory. Tried to allocate"),
        ("crash", Ending.CRASHED, "no such column: text"),
        ("nan", Ending.DIVERGED, "a training loss was not finite"),
        ("eval-nan", Ending.DIVERGED, "eval_loss was nan"),
    ],
)
def test_endings_are_told_apart_by_the_log(tmp_path: Path, do: str, ending: Ending, words: str) -> None:
    found = outcome(objective(tmp_path), Request(3, {**POINT, "do": do}, seed=0))
    assert found.ending is ending
    assert words in found.message
    assert found.adapter is None


def test_a_diverged_training_is_ended(tmp_path: Path) -> None:
    """At once: it would go on for long."""
    found = outcome(objective(tmp_path), Request(3, {**POINT, "do": "nan-wait"}, seed=0))
    assert found.ending is Ending.DIVERGED
    assert (tmp_path / "trainer" / "trial-3" / "ended").exists()


def test_a_tool_that_is_never_evaluated_is_named(tmp_path: Path) -> None:
    one = objective(tmp_path)
    (tmp_path / "tool.py").write_text("print({'train_loss': '1.0', 'epoch': '1'})")
    found = outcome(one)
    assert (found.ending, found.retry) == (Ending.CRASHED, False)
    assert "has an `eval_loss`" in found.message


@pytest.mark.parametrize("tool", VALUES)
def test_a_trial_ends_at_a_rung_by_its_log(tmp_path: Path, tool: ToolName) -> None:
    """The first evaluation at or behind a rung is the rung's; the program is asked to end, and does so by itself."""
    request = Request(3, {**POINT, "do": "wait"}, seed=0, thresholds=((200, 9.0), (400, 1.0), (800, None)))
    found = outcome(objective(tmp_path, tool), request)
    assert (found.ending, found.loss) == (Ending.STOPPED_EARLY, 1.143)
    assert found.rungs == ((200, 1.143), (400, 1.143))
    assert (tmp_path / "trainer" / "trial-3" / "ended").exists()
    assert not (tmp_path / "trainer" / "trial-3" / "output").exists()
    promoted = outcome(objective(tmp_path, tool), replace(request, hyperparameters=POINT, promote=True))
    assert (promoted.ending, len(promoted.losses)) == (Ending.COMPLETE, 4)


@pytest.mark.parametrize(
    ("verdict", "ending"), [(Verdict.GOES_ON, Ending.COMPLETE), (Verdict.STOPS, Ending.STOPPED_EARLY)]
)
def test_it_is_decided_while_it_runs(tmp_path: Path, verdict: Verdict, ending: Ending) -> None:
    """Each rung is asked for once, and an answer that was given before is not asked for again."""
    request = Request(3, POINT, seed=0, asks=True, thresholds=((500, None), (1000, None)))
    one, asked = objective(tmp_path), list[tuple[int, int, float]]()

    def answered(request: Request) -> Iterator[Progress | Outcome]:
        for event in one.evaluate([request]):
            if isinstance(event, Rung):
                asked.extend(event.losses)
                given = tuple((trial, tokens, verdict) for trial, tokens, _ in event.losses)
                one.decide(Decision(event.pack, event.attempt, given))
            else:
                yield event

    (found,) = [event for event in answered(request) if isinstance(event, Outcome)]
    assert found.ending is ending
    assert [rung[:2] for rung in asked[:2]] == [(3, 500), (3, 1000)][: len(asked)]
    known = tuple((tokens, verdict) for tokens, _ in request.thresholds)
    before = len(asked)
    (again,) = [event for event in answered(replace(request, decided=known)) if isinstance(event, Outcome)]
    assert (again.ending, len(asked)) == (ending, before)


def test_a_person_has_it_stopped(tmp_path: Path) -> None:
    """The tool ends by itself, between its rungs; the loss is the last that its log has."""
    one, ended = objective(tmp_path, values={"do": "wait"}), list[Outcome]()
    for event in one.evaluate([Request(3, POINT, seed=0)]):
        if isinstance(event, Progress) and event.validation_loss is not None:
            one.decide(Decision(3, 1, ((3, AT_ONCE, Verdict.STOPS),)))
        ended += [event] if isinstance(event, Outcome) else []
    (found,) = ended
    assert (found.ending, found.rungs, len(found.losses)) == (Ending.STOPPED_EARLY, (), 1)
    assert found.loss == found.losses[0]
    assert list(tmp_path.glob("**/ended"))


@pytest.mark.parametrize("tool", VALUES)
def test_a_trials_file_is_the_users_own_with_its_values(tool: ToolName) -> None:
    own = {**VALUES[tool], "warmup_steps": 5, "hub_model_id": "me/x", "push_to_hub": True, "other": [1, {"a": None}]}
    point: dict[str, Any] = {"rank": 64, "alpha": 3, "dropout": 0.1, "learning_rate": 1e-5, "warmup_ratio": 0.1}
    point |= {"lr_scheduler": "constant", "target_modules": "q_proj,v_proj", "epochs": 3, "batch_size": 2}
    point |= {"other_key": 7}
    made = tools.settings(tool, own, point, seed=5, output="/out", at="last", adapter=True)
    names = tools.TOOLS[tool].keys
    for name in ("rank", "alpha", "dropout", "learning_rate", "epochs", "batch_size", "warmup_ratio"):
        assert made[names[name]] == point[name]
    assert made[names["lr_scheduler"]] == "constant_with_warmup"
    assert made["other"] == [1, {"a": None}]
    assert (made["other_key"], made["seed"], made["output_dir"], made["push_to_hub"]) == (7, 5, "/out", False)
    assert "hub_model_id" not in made
    assert "load_best_model_at_end" not in made
    targets = {"axolotl": "lora_target_modules", "llamafactory": "lora_target", "trl-script": "lora_target_modules"}
    assert made[targets[tool]] == ("q_proj,v_proj" if tool == "llamafactory" else ["q_proj", "v_proj"])
    every = tools.settings(tool, made, {"target_modules": "all-linear"}, seed=5, output="/out", at="best", adapter=True)
    assert tools.start(tool, every)["target_modules"] == "all-linear"
    assert every["metric_for_best_model"] == "eval_loss"
    assert VALUES[tool].items() >= {k: v for k, v in own.items() if k in VALUES[tool]}.items()  # as it was


def test_evaluation_and_saving_go_together() -> None:
    """Whatever says when: Axolotl's evaluations of an epoch, of which one in one epoch is none; steps; nothing."""

    def when(tool: ToolName, **values: Any) -> list[Any]:
        made = tools.settings(tool, values, {}, seed=0, output="", at="last", adapter=True)
        assert made["eval_strategy"] == made["save_strategy"]
        assert made.get("eval_steps") == made.get("save_steps")
        return [made["eval_strategy"], made.get("eval_steps")]

    assert when("axolotl", evals_per_epoch=2, num_epochs=2, saves_per_epoch=1) == ["steps", 0.25]
    assert when("axolotl", evals_per_epoch=1, num_epochs=1) == ["epoch", None]
    assert when("axolotl", eval_steps=20) == ["steps", 20]
    assert when("axolotl") == when("llamafactory") == ["epoch", None]
    assert when("llamafactory", eval_strategy="steps", eval_steps=50, save_steps=500) == ["steps", 50]
    assert when("trl-script", eval_strategy="steps", logging_steps=5) == ["steps", 5]


def test_start_is_what_the_file_trains_with() -> None:
    assert (
        tools.start("llamafactory", {"lora_rank": 4, "learning_rate": "1e-4"}).items()
        >= {**{"rank": 4, "alpha": 8, "learning_rate": 1e-4, "epochs": 3, "target_modules": "all-linear"}}.items()
    )
    found = tools.start("axolotl", {"lora_r": 32, "lora_target_modules": ["q_proj", "v_proj"], "loraplus_lr_ratio": 16})
    assert (found["rank"], found["target_modules"], found["loraplus_lr_ratio"]) == (32, "q_proj,v_proj", 16)


@pytest.mark.parametrize(
    ("tool", "left", "words"),
    [
        ("axolotl", "val_set_size", "add `val_set_size: 0.05`, or `test_datasets`"),
        ("llamafactory", "val_size", "add `val_size: 0.05`, or `eval_dataset`"),
        ("trl-script", "eval_strategy", "add `eval_strategy: epoch`, and rows to evaluate on"),
        ("trl-script", "dataset_name", "names no rows: it has neither `dataset_name` nor `datasets`, so there is no"),
        ("axolotl", "adapter", "trains no LoRA adapter, so `rank` of the space would change nothing"),
        ("axolotl", "base_model", "has no `base_model`, so these are no settings of Axolotl"),
    ],
)
def test_what_cannot_be_tuned_is_one_message(tool: ToolName, left: str, words: str) -> None:
    values = {key: value for key, value in VALUES[tool].items() if key != left}
    (message,) = tools.faults(tool, values, ["rank"], own_command=False)
    assert words in message


def test_trl_splits_rows_off_several_data_sets() -> None:
    values = {**VALUES["trl-script"], "datasets": [{"path": "a"}]}
    (message,) = tools.faults("trl-script", values, [], own_command=False)
    assert "splits no rows off its `datasets`" in message
    assert not tools.faults("trl-script", {**values, "test_split_size": 0.1}, [], own_command=False)
    assert not tools.faults("trl-script", values, [], own_command=True)  # a script may have them elsewhere


def test_names_of_the_space_are_keys() -> None:
    names = ["lerning_rate", "init_lora_weights"]
    found = tools.faults("llamafactory", VALUES["llamafactory"], names, own_command=False)
    assert "Did you mean `learning_rate`?" in found[0]
    assert found[1] == "`init_lora_weights` of the space has no key of LLaMA-Factory"


def read(output: Path, *printed: Path) -> Log:
    """All that stands in a trial's output folder and in what it printed."""
    reader = Reader(output, *printed)
    while reader.read():
        continue
    return reader.log


@pytest.mark.parametrize(
    ("text", "losses"),
    [
        ("{'eval_loss': 1.2345678, 'eval_runtime': 2.0, 'epoch': 1.0}", [1.2345678]),  # Transformers 4
        ("100%|#| 2/2\r{'eval_loss': '1.235', 'epoch': '0.5'}\n{'loss': '2', 'epoch': '1'}", [1.235]),
        ("{'eval_loss': nan, 'epoch': 1.0}", [float("nan")]),
        ("{'eval_loss': '1.2', 'epo", []),  # half written
        ("{'eval_other_loss': '1.2', 'epoch': '1'} eval_loss = 1.5", []),
        ('{"eval_loss": 1.5, "epoch": 2}', [1.5]),
        ("{'loss': 2, 'epoch': 0.5} {'eval_loss': 1.5, 'epoch': inf} {'eval_loss': 1.4, 'epoch': nan}", [1.5, 1.4]),
        ("{" + "'loss' " * 2000 + "\n{'eval_loss': 1.5, 'epoch': 2}", [1.5]),
        ("{'eval_loss': 1.5, 'epoch': 2, 'x': '" + "x" * trainer_log.ENTRY + "'}", []),  # none is so long
    ],
)
def test_printed_lines(tmp_path: Path, text: str, losses: list[float]) -> None:
    (tmp_path / "out").write_text(text)
    found = read(tmp_path / "none", tmp_path / "out", tmp_path / "missing")
    assert repr([one.loss for one in found.evaluations]) == repr(losses)


def test_what_is_printed_only_follows_what_is_exact(tmp_path: Path) -> None:
    history = [{"eval_loss": 1.23456, "epoch": 1.0}]
    (tmp_path / "checkpoint-1").mkdir()
    (tmp_path / "checkpoint-1" / "trainer_state.json").write_text(json.dumps({"log_history": history}))
    (tmp_path / "trainer_state.json").write_text("{half")
    (tmp_path / "out").write_text("{'eval_loss': '1.235', 'epoch': '1'}\n{'eval_loss': '1.1', 'epoch': '2'}\n")
    assert [one.loss for one in read(tmp_path, tmp_path / "out").evaluations] == [1.23456, 1.1]


def test_what_grows_is_read_once(tmp_path: Path) -> None:
    """A tool may print megabytes a second; entries that are cut in two, and bytes that are no text, change nothing."""
    out = tmp_path / "out"
    reader, first, entry = (
        Reader(tmp_path, out),
        b"{'loss': 2.0, 'epoch': 1}",
        b"{'eval_loss': 1.5, 'epoch': 1}",
    )
    out.write_bytes(b"\xff\xfe\x00" + first + entry[:9])
    assert not reader.read()
    assert (reader.log.training_loss, reader.log.evaluations) == (2.0, ())
    out.write_bytes(b"\xff\xfe\x00" + first.replace(b"2.0", b"nan") + entry + b"\xc3")
    assert not reader.read()
    assert [one.loss for one in reader.log.evaluations] == [1.5]
    assert not reader.log.broken  # the changed bytes are not read again


def test_a_long_log_is_read_in_pieces(tmp_path: Path) -> None:
    """So that a sign of life comes between them."""
    out, entry = tmp_path / "out", b"{'eval_loss': 1.5, 'epoch': 1}"
    out.write_bytes(b"x" * (trainer_log.PIECE - 7) + entry + b"x" * trainer_log.PIECE + entry)
    reader = Reader(tmp_path, out)
    assert [reader.read(), len(reader.log.evaluations)] == [True, 0]
    assert [reader.read(), len(reader.log.evaluations)] == [True, 1]
    assert [reader.read(), len(reader.log.evaluations)] == [False, 2]
    assert len(read(tmp_path, out).evaluations) == 2


@pytest.mark.parametrize("text", ["[" * 200_000, '{"log_history": [{"1": ', "[1]", '{"log_history": 7}', "\0"])
def test_a_damaged_state_is_passed_over(tmp_path: Path, text: str) -> None:
    (tmp_path / "trainer_state.json").write_text(text)
    (tmp_path / "checkpoint-1" / "trainer_state.json").mkdir(parents=True)
    (tmp_path / "out").write_text("{'eval_loss': '1.5', 'epoch': '1'}")
    assert [one.loss for one in read(tmp_path, tmp_path / "out").evaluations] == [1.5]


def test_numbers_that_nothing_can_compute_with_are_left_out(tmp_path: Path) -> None:
    entry = "{'eval_loss': 1.5, 'epoch': 1, 'num_tokens': 1%s, 'eval_x': 1e300, 'eval_\\x1b': 2, 5: 1}"
    (tmp_path / "out").write_text(entry.replace(", 5: 1", "") % ("0" * 30) + entry % "")
    (found,) = read(tmp_path, tmp_path / "out").evaluations
    assert (found.tokens, dict(found.extra)) == (0, {"eval_\\x1b": 2.0})


def test_bars_without_line_feeds_are_lines(tmp_path: Path) -> None:
    """As bars are, which only return the carriage; what is shown of a log is short."""
    bars = "".join(f"\r{n}%|##  | {n}/9" for n in range(9))
    (tmp_path / "err").write_text(f"{bars}\rtorch.OutOfMemoryError: CUDA{bars}")
    assert trainer_log.out_of_memory(tmp_path / "err") == "torch.OutOfMemoryError: CUDA"
    one = objective(tmp_path)
    (tmp_path / "tool.py").write_text("import sys; print('no such file: rows'); sys.exit(3)")
    out = tmp_path / "logs" / "trial-3.out"
    assert outcome(one).message == f"exit code 3: no such file: rows (see {out})"  # nothing is in its errors
    (tmp_path / "tool.py").write_text("import sys; sys.stderr.write('x' * 500_000); sys.exit(3)")
    assert len(outcome(one).message) < 500 + len(str(out))
