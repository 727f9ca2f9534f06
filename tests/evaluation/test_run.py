"""Whole runs over several candidates: what is stored, what goes on after a kill, and what is refused."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from meshtune.errors import InputError
from meshtune.evaluation import scoring, store
from meshtune.evaluation.adapters import Candidate, check
from meshtune.evaluation.benchmarks.items import Benchmark
from meshtune.evaluation.run import AnswerSettings, BenchmarkRunner, place_of

HOW = AnswerSettings("tiny")


@pytest.fixture
def small(benchmarks: Sequence[Benchmark]) -> list[Benchmark]:
    return [replace(benchmark.limited(4, 0), new_tokens=min(6, benchmark.new_tokens)) for benchmark in benchmarks]


def files(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): path.read_text() for path in sorted(folder.rglob("*.jsonl"))}


def copied(candidate: Candidate, to: Path) -> Path:
    """A copy of its adapter."""
    assert candidate.adapter is not None
    return Path(shutil.copytree(candidate.adapter, to))


def resettled(candidate: Candidate, to: Path, settings: str) -> Candidate:
    """One with a copy of its adapter that has other settings."""
    (copied(candidate, to) / "adapter_config.json").write_text(settings)
    return Candidate("other", to)


def run_all(
    base: Any, tokenizer: Any, candidates: Any, benchmarks: Any, folder: Path, how: AnswerSettings = HOW
) -> list[Any]:
    return list(BenchmarkRunner(base, tokenizer, 512, benchmarks, folder, how).ask(candidates))


def test_every_prompt_answer_and_verdict_is_stored(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], small: list[Benchmark], tmp_path: Path
) -> None:
    before = {name: weight.clone() for name, weight in base.state_dict().items()}
    events = run_all(base, tokenizer, candidates, small, tmp_path)
    assert (events[-1].candidate, events[-1].benchmark, events[-1].done, events[-1].total) == (
        "trial-2",
        "humaneval",
        4,
        4,
    )
    for candidate in candidates:
        for benchmark in small:
            lines = store.read(place_of(tmp_path, benchmark, candidate, HOW))
            assert set(lines) == {(item.id, 0) for item in benchmark.items}
            for item in benchmark.items:
                line = lines[item.id, 0]
                assert line["prompt"] == benchmark.prompt(item, line["shots"])
                assert benchmark.judge([(item, line["answer"])])[0].correct == line["correct"]
                assert line["log_likelihoods"].keys() == set(item.choices or (item.gold,))
            result = scoring.score(benchmark, lines)
            assert 0 <= result.verdict.value <= 1
            assert result.likelihood is not None
    assert len({text.partition("\n")[2] for text in files(tmp_path).values()}) == 12  # all differ
    assert all(torch.equal(weight, before[name]) for name, weight in base.state_dict().items())


def test_a_killed_run_goes_on_to_the_same_files(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], small: list[Benchmark], tmp_path: Path
) -> None:
    run_all(base, tokenizer, candidates[:2], small[:2], tmp_path / "whole")
    going = BenchmarkRunner(base, tokenizer, 512, small[:2], tmp_path / "killed", HOW).ask(candidates[:2])
    for _ in range(3):
        next(going)
    going.close()
    for path in (tmp_path / "killed").rglob("*.jsonl"):
        path.write_bytes(path.read_bytes()[:-30])  # the last line was being written
    assert files(tmp_path / "killed") != files(tmp_path / "whole")
    run_all(base, tokenizer, candidates[:2], small[:2], tmp_path / "killed")
    ended, whole = files(tmp_path / "killed"), files(tmp_path / "whole")
    assert {name: sorted(text.splitlines()) for name, text in ended.items()} == {
        name: sorted(text.splitlines()) for name, text in whole.items()
    }
    events = run_all(base, tokenizer, candidates[:2], small[:2], tmp_path / "killed")
    assert [event.done for event in events] == [event.total for event in events] == [4] * 4  # nothing is asked twice


def test_answers_of_another_adapter_are_not_taken(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], small: list[Benchmark], tmp_path: Path
) -> None:
    run_all(base, tokenizer, [candidates[1]], small[:1], tmp_path)
    first = files(tmp_path)
    run_all(base, tokenizer, [replace(candidates[2], name="trial-1")], small[:1], tmp_path)
    assert files(tmp_path).keys() == first.keys()
    assert files(tmp_path) != first


def test_other_items_and_other_decoding_stand_beside(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], small: list[Benchmark], tmp_path: Path
) -> None:
    run_all(base, tokenizer, candidates[:1], small[:1], tmp_path)
    run_all(base, tokenizer, candidates[:1], [small[0].limited(2, 0)], tmp_path)
    run_all(base, tokenizer, candidates[:1], small[:1], tmp_path, replace(HOW, temperature=0.1))
    assert len(files(tmp_path)) == 3


def test_samples_of_code(base: Any, tokenizer: Any, small: list[Benchmark], tmp_path: Path) -> None:
    how = AnswerSettings("tiny", temperature=0.8, samples=3)
    run_all(base, tokenizer, [Candidate("untuned", None)], [small[3]], tmp_path, how)
    lines = store.read(place_of(tmp_path, small[3], Candidate("untuned", None), how))
    assert len(lines) == 12
    result = scoring.score(small[3], lines, samples=3, ks=(1, 3))
    assert result.others["pass@1"].value == result.verdict.value == 0


@pytest.mark.parametrize("how", [HOW, AnswerSettings("tiny", temperature=0.8, samples=2)])
def test_a_diverged_adapter_is_wrong_and_has_no_likelihood(
    base: Any,
    tokenizer: Any,
    candidates: Sequence[Candidate],
    small: list[Benchmark],
    tmp_path: Path,
    how: AnswerSettings,
) -> None:
    assert candidates[1].adapter is not None
    folder = shutil.copytree(candidates[1].adapter, tmp_path / "adapter")
    weights = load_file(folder / "adapter_model.safetensors")
    lost = {name: torch.full_like(weight, torch.nan) for name, weight in weights.items()}
    save_file(lost, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    diverged = Candidate("diverged", folder)
    run_all(base, tokenizer, [diverged], small, tmp_path / "out", how)
    assert not any("NaN" in text for text in files(tmp_path / "out").values())
    for benchmark in small:
        lines = store.read(place_of(tmp_path / "out", benchmark, diverged, how))
        result = scoring.score(benchmark, lines, samples=how.samples_of(benchmark))
        assert (result.verdict.value, result.likelihood) == (0.0, None)


def test_items_that_never_fit_are_wrong_and_reported(
    base: Any, tokenizer: Any, small: list[Benchmark], tmp_path: Path
) -> None:
    tiny = replace(small[0], prompt_tokens=30)
    run_all(base, tokenizer, [Candidate("untuned", None)], [tiny], tmp_path)
    lines = store.read(place_of(tmp_path, tiny, Candidate("untuned", None), HOW))
    result = scoring.score(tiny, lines)
    assert (result.too_long, result.verdict.value, result.likelihood) == (4, 0.0, None)
    assert "does not fit" in next(iter(lines.values()))["reason"]


def test_an_adapter_of_another_base_is_refused(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], small: list[Benchmark], tmp_path: Path
) -> None:
    from transformers import LlamaConfig, LlamaForCausalLM

    wider = LlamaForCausalLM(
        LlamaConfig(vocab_size=300, hidden_size=48, intermediate_size=64, num_hidden_layers=2, num_attention_heads=4)
    )
    with pytest.raises(InputError, match="is an adapter of another base") as raised:
        run_all(wider, tokenizer, candidates, small, tmp_path)
    assert len(raised.value.faults) == 2
    (tmp_path / "empty").mkdir()
    weights = copied(candidates[1], tmp_path / "cut") / "adapter_model.safetensors"
    weights.write_bytes(weights.read_bytes()[:300])
    for name in ("empty", "cut"):
        with pytest.raises(InputError, match="holds no whole adapter"):
            run_all(base, tokenizer, [Candidate("x", tmp_path / name)], small, tmp_path)
    assert not files(tmp_path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ("{}", "none of LoRA's"),
        ('{"peft_type": "LORA", "r": "4", "lora_alpha": 16}', "none of LoRA's"),
        ("[]", "is no object"),
    ],
)
def test_settings_that_are_none_of_an_adapters_are_refused(
    base: Any, candidates: Sequence[Candidate], tmp_path: Path, settings: str, message: str
) -> None:
    other = resettled(candidates[1], tmp_path / "other", settings)
    with pytest.raises(InputError, match=f"holds no whole adapter.*{message}"):
        check([other], base)


def test_an_adapter_that_names_another_base_is_refused(
    base: Any, candidates: Sequence[Candidate], tmp_path: Path
) -> None:
    """Its shapes may be the same; the same base in a folder elsewhere is none."""
    assert candidates[1].adapter is not None
    config = json.loads((candidates[1].adapter / "adapter_config.json").read_text())

    def naming(name: str | None, to: str) -> Candidate:
        return resettled(candidates[1], tmp_path / to, json.dumps({**config, "base_model_name_or_path": name}))

    check([naming(f"/elsewhere/{Path(base.name_or_path).name}", "elsewhere"), naming(None, "nameless")], base)
    with pytest.raises(InputError, match=r"of another base, as adapter_config\.json says: `some/other`"):
        check([naming("some/other", "other")], base)


def test_an_adapter_without_some_of_its_weights_is_refused(
    base: Any, candidates: Sequence[Candidate], tmp_path: Path
) -> None:
    folder = copied(candidates[1], tmp_path / "half")
    weights = load_file(folder / "adapter_model.safetensors")
    half = {name: weight for name, weight in weights.items() if ".layers.0." in name}
    assert 0 < len(half) < len(weights)
    save_file(half, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(InputError, match=r"holds no weights of 7 of its modules, such as `model\.layers\.1\."):
        check([Candidate("half", folder)], base)


def test_answers_of_an_adapter_with_other_settings_are_not_taken_over(
    base: Any, tokenizer: Any, candidates: Sequence[Candidate], small: list[Benchmark], tmp_path: Path
) -> None:
    one = Candidate("one", copied(candidates[1], tmp_path / "one"))
    weights = tmp_path / "one" / "adapter_model.safetensors"
    save_file(load_file(weights), weights, metadata={"format": "pt"})  # as PEFT writes it: ours holds a sum
    run_all(base, tokenizer, [one], small[:1], tmp_path)
    before = store.read(place_of(tmp_path, small[0], one, HOW))
    path = tmp_path / "one" / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "lora_alpha": 160}))
    assert store.read(place_of(tmp_path, small[0], one, HOW)) == {}
    run_all(base, tokenizer, [one], small[:1], tmp_path)
    after = store.read(place_of(tmp_path, small[0], one, HOW))
    assert before.keys() == after.keys()
    assert all(before[key]["log_likelihoods"] != after[key]["log_likelihoods"] for key in before)


def test_a_file_of_something_else_is_refused(base: Any, tokenizer: Any, small: list[Benchmark], tmp_path: Path) -> None:
    run_all(base, tokenizer, [Candidate("untuned", None)], small[:1], tmp_path)
    (path,) = tmp_path.rglob("*.jsonl")
    path.write_text(path.read_text() + json.dumps({"row": 1}) + "\n")
    with pytest.raises(InputError, match="is no answer of meshtune"):
        run_all(base, tokenizer, [Candidate("untuned", None)], small[:1], tmp_path)
