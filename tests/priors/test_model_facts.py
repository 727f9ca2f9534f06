"""A model's hidden size and family, out of its config."""

import json
from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.priors.model_facts import model_facts


def test_the_embedded_model() -> None:
    assert model_facts("embedded") == (576, "smollm2")


@pytest.mark.parametrize(
    ("folder", "config", "facts"),
    [
        ("Qwen3-8B", {"hidden_size": 4096, "model_type": "qwen3"}, (4096, "qwen3")),
        ("mine", {"text_config": {"hidden_size": 640}, "model_type": "gemma3"}, (640, "gemma3")),
        ("mine", {"n_embd": 768, "model_type": "gpt2"}, (768, "other")),
        ("Meta-Llama-3-8B", {"hidden_size": 4096, "model_type": "llama"}, (4096, "llama3")),
    ],
)
def test_a_folder(folder: str, config: dict[str, object], facts: tuple[int, str], tmp_path: Path) -> None:
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "config.json").write_text(json.dumps(config))
    assert model_facts(str(tmp_path / folder)) == facts


def test_the_hubs_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    snapshot = tmp_path / "models--meta-llama--Llama-3.1-8B" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").write_text('{"hidden_size": 4096, "model_type": "llama"}')
    assert model_facts("meta-llama/Llama-3.1-8B") == (4096, "llama3.1")
    with pytest.raises(InputError, match="no folder `meta-llama/none`"):
        model_facts("meta-llama/none")


@pytest.mark.parametrize("text", ["{", "[]", '{"hidden_size": "x"}', "{}"])
def test_a_config_that_says_nothing(text: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json.*(cannot be read|has no hidden size)"):
        model_facts(str(tmp_path))


def test_no_config_at_all(tmp_path: Path) -> None:
    (tmp_path / "model.gguf").write_bytes(b"")
    for name in (str(tmp_path), str(tmp_path / "model.gguf")):
        with pytest.raises(InputError, match=r"config\.json"):
            model_facts(name)
