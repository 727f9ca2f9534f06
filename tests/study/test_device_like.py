"""`check --device-like`: packs, memory and hours of a study for cards that are not here, from a configuration alone."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig
from typer.testing import CliRunner

from meshtune.cli.commands import app
from meshtune.errors import InputError
from meshtune.plan.card_forecast import padding
from meshtune.plan.locate import locate
from meshtune.plan.plan import Plan, build
from meshtune.plan.training import Elsewhere
from meshtune.study.check import check
from meshtune.training.memory.cards import Cards, cards
from meshtune.training.memory.check import largest
from meshtune.training.packed.limits import LEAST
from tests.conftest import WORDS
from tests.kill import command_study

# Llama-3.1-8B and -70B, by their published configurations.
SIZES = {
    "8B": {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "num_attention_heads": 32},
    "70B": {"hidden_size": 8192, "num_hidden_layers": 80, "intermediate_size": 28672, "num_attention_heads": 64},
}


def study_of(folder: Path, size: str, tokenizer: Path | None, model: str = "") -> Path:
    """A study of a folder that holds config.json, and a tokenizer where one is given, but no weights."""
    config = LlamaConfig(
        **SIZES[size], vocab_size=128256, num_key_value_heads=8, max_position_embeddings=131072, eos_token_id=1
    )
    config.architectures = ["LlamaForCausalLM"]
    config.save_pretrained(folder / size)
    for path in [] if tokenizer is None else tokenizer.glob("*token*"):
        shutil.copy(path, folder / size)
    rows = [
        {"instruction": f"{n}: repeat", "input": "", "output": " ".join(WORDS[: 1 + n % 12] * 4)} for n in range(90)
    ]
    (folder / "rows.json").write_text(json.dumps(rows))
    path = folder / "study.yaml"
    path.write_text(
        f"model: {{name: ./{size}{model}}}\ndata: {{sources: [{{path: rows.json}}], validation: 10, test: 10}}\n"
        "budget: {trials: 40, price_per_hour: 2}\n"
    )
    return path


def test_an_8b_model_on_cards_that_are_not_here(tmp_path: Path, tiny_model_folder: Path) -> None:
    """One H100, four A100 and one card of 24 GB: packs, memory with its parts, and hours; nothing is left behind.

    So large a base is bfloat16 there by itself.
    """
    study = study_of(tmp_path, "8B", tiny_model_folder)
    before = sorted(tmp_path.rglob("*"))
    text, facts = check(study, device_like=("H100", "4xA100", "24GB"))
    assert sorted(tmp_path.rglob("*")) == before
    h100, a100, small = facts["devices"]
    assert [each["device_like"] for each in facts["devices"]] == ["H100", "4xA100", "24GB"]
    assert h100["memory"]["predicted"]["base"] == 2 * 8_030_261_248
    assert h100["memory"]["fits"]
    assert a100["memory"]["fits"]
    assert not small["memory"]["fits"]
    assert small["advice"].startswith("the largest rank that fits is 64")
    assert small["fitting"]["256"] == 0 < small["fitting"]["64"] < small["fitting"]["4"]
    assert h100["fitting"]["256"] < h100["fitting"]["16"]
    assert not h100["memory"]["gradient_checkpointing"], "a second forward pass is not paid for"
    for each, count in ((h100, 1), (a100, 4), (small, 1)):
        assert 0 < each["largest_pack"] <= each["memory"]["available"] == each["cards"]["memory"]
        assert each["time"]["hours"] > 0
        assert each["time"]["price"] == pytest.approx(2 * each["time"]["hours"])
        assert (each["time"]["trials"], each["cards"]["count"]) == (40, count)
        assert each["time"]["assumed"]["share_of_peak"] == 0.4
        hours = list(each["gpu_hours_a_trial"].values())  # in packs where there are any, alone, padded
        assert 0 < hours[0] <= hours[-2] < hours[-1], "padding is computed too"
    assert a100["time"]["hours"] < 4 * h100["time"]["hours"] < small["time"]["hours"]
    assert small["time"]["left_out"] > 0 == h100["time"]["left_out"]
    for words in (
        "on 4 cards",
        "the largest trial: does not fit",
        "no card has measured that yet",
        "a usual block of",
        "GPU hours",
    ):
        assert words in text
    assert "with the transformers trainer, which pads rows for a trial" in text
    assert "as the L4: the slowest card of the table" in text
    assert "sampler    batch-gp\n" in text, "how many run at once is each card's own"
    json.dumps(facts)


def test_a_70b_model_in_few_bits(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Without the library that would hold it in few bits, and without a GPU."""
    study = study_of(tmp_path, "70B", tiny_model_folder, ", dtype: bfloat16, quantization: nf4")
    given = (
        "training.gradient_checkpointing=true",
        "space={rank: 16, learning_rate: {low: 1e-5, high: 1e-3}}",
    )
    text, facts = check(study, device_like=("H100", "24GB"), overrides=given)
    large, small = facts["devices"]
    assert large["fitting"]["16"] >= 4
    assert "with gradient checkpointing" in text
    assert large["time"]["hours"] > 0
    assert (small["fitting"], small["packs"], small["time"]) == ({"16": 0}, [], None)


def test_checkpoints_where_nothing_fits_without_or_where_they_pay(tmp_path: Path, tiny_model_folder: Path) -> None:
    """Not where there is room, nor where small passes are bound by products: a second forward pass takes time.

    A fast card's passes of 256 tokens are bound by launches, so that larger ones pay for it.
    """
    study = study_of(tmp_path, "8B", tiny_model_folder, ", dtype: bfloat16")

    def planned(memory: int, like: str = "L4") -> Plan:
        card = replace(cards(like).card, memory=memory)
        return build(locate(study), Elsewhere(Cards("a card", 1, card), tmp_path / f"{like}{memory}"))

    def chosen(plan: Plan) -> bool:
        again = plan.fixed["training"]["gradient_checkpointing"]
        assert isinstance(again, bool)
        return again

    roomy = planned(80 * 10**9)
    assert not chosen(roomy)
    assert roomy.training is not None
    at = roomy.training.memory

    def needed(again: bool) -> int:
        training = at.training.model_copy(update={"gradient_checkpointing": again, "pass_tokens": LEAST})
        return largest(roomy.space, replace(at, training=training)).memory.total

    assert needed(True) < needed(False)
    assert not chosen(planned(needed(False)))
    assert chosen(planned(needed(False), "H100"))
    small = planned(needed(False) - 1)
    assert chosen(small)
    assert small.training is not None
    assert small.training.data == roomy.training.data, "no row is dropped for it"


def test_a_folder_with_a_configuration_alone(tmp_path: Path) -> None:
    """Its tokens are counted by the embedded model's tokenizer, which is said."""
    study = study_of(tmp_path, "8B", None)
    try:
        text, _ = check(study, device_like=("H200",))
    except InputError as error:
        if "not installed" in str(error):
            pytest.skip("the embedded model is not installed")
        raise
    assert "counted by the embedded model's tokenizer" in text


def test_a_model_that_cannot_be_had_is_one_message(tmp_path: Path, tiny_model_folder: Path) -> None:
    path = study_of(tmp_path, "8B", tiny_model_folder)
    path.write_text(path.read_text().replace("./8B", "nobody/has-this"))
    with pytest.raises(InputError, match="`nobody/has-this` is not in the local cache") as refused:
        check(path, device_like=["H100"])
    assert len(refused.value.faults) == 1


def test_tokens_of_padded_batches() -> None:
    """Of batches whose rows are drawn: the mean of the longest over the mean."""
    assert padding([5, 5, 5], 2) == 1
    assert padding([1, 3], 1) == 1
    lengths = np.random.default_rng(0).integers(1, 400, 600)
    drawn = np.random.default_rng(1).choice(lengths, (20000, 4))
    assert padding(lengths.tolist(), 4) == pytest.approx(drawn.max(1).mean() / lengths.mean(), rel=0.01)


def test_the_command_line(tmp_path: Path, tiny_model_folder: Path) -> None:
    """`--json` is one object; a card that is not known is one message with those that are."""
    study = str(study_of(tmp_path, "8B", tiny_model_folder))
    done = CliRunner().invoke(app, ["check", study, "--json", "--device-like", "L40S"])
    assert done.exit_code == 0, done.output
    assert json.loads(done.stdout)["devices"][0]["cards"]["name"] == "L40S"
    with pytest.raises(InputError, match=r"`H1000` is no card that is known; there are B200, .*Did you mean `H100`"):
        check(Path(study), device_like=("H1000",))


def test_a_program_is_not_planned_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="--device-like: memory and time of a program"):
        check(command_study(tmp_path, trials=3), device_like=("H100",))


def test_goals_on_predicted_memory_are_counted_for_each_card(tmp_path: Path, tiny_model_folder: Path) -> None:
    study = study_of(tmp_path, "8B", tiny_model_folder)
    study.write_text(study.read_text() + "constraints: [predicted_memory <= 36 GiB]\n")
    text, facts = check(study, device_like=("H100", "24GB"))
    large, small = (device["allowed_share"] for device in facts["devices"])
    assert 0 < large < small <= 1  # smaller passes take less memory
    assert f"goals      {100 * large:.3g} % of the space's points keep them there" in text
