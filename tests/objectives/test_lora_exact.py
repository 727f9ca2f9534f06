"""The objective `lora` over a base in few bits, asked for losses with the base in float32."""

from pathlib import Path

import pytest
import torch

from meshtune.config.sections import ModelConfig, TrainingConfig
from meshtune.objectives.lora import LoraObjective, LoraSpec
from meshtune.trial import DataRef, Ending, Outcome, Request

POINT = {"rank": 4, "alpha": 8.0, "dropout": 0.0, "learning_rate": 0.01}


def test_it_goes_to_the_whole_base_and_back(tiny_model_folder: Path, tiny_data: DataRef, tmp_path: Path) -> None:
    """The adapter that is measured was trained over few bits; over them its losses repeat, trained anew too."""
    threads = torch.get_num_threads()
    training = TrainingConfig(batch_size=8, precision="float32", epochs=1)

    def objective(quantization: str | None) -> LoraObjective:
        model = ModelConfig.model_validate({"name": str(tiny_model_folder), "quantization": quantization})
        spec = LoraSpec(model=model, training=training, data=tiny_data, at="best", folder=str(tmp_path))
        return LoraObjective(spec, "cpu", 1)

    def loss(of: LoraObjective, request: Request) -> float:
        *_, outcome = of.evaluate([request])
        assert isinstance(outcome, Outcome)
        assert outcome.ending is Ending.COMPLETE, outcome.message
        assert outcome.loss is not None
        return outcome.loss

    measured = {
        what: Request(number, {}, seed=0, measure=what, adapter="adapters/0")
        for number, what in ((-1, "validation"), (-2, "float32"))
    }
    few, whole = objective("int8"), objective(None)
    trained = loss(few, Request(0, POINT, seed=0))
    assert loss(few, measured["validation"]) == pytest.approx(trained, abs=1e-5)
    exact = loss(few, measured["float32"])
    assert exact != trained
    assert exact == loss(whole, measured["float32"]) == loss(whole, measured["validation"])
    assert loss(few, Request(1, POINT, seed=0)) == trained
    torch.set_num_threads(threads)
