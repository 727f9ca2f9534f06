"""A tokenizer without a model, and a short way to write rows."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from meshtune.config.sections import ModelConfig
from tests.data.made import make_tokenizer


@pytest.fixture(scope="session")
def chat_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("chat-tokenizer")
    make_tokenizer(folder)
    return folder


@pytest.fixture(scope="session")
def chat_model(chat_folder: Path) -> ModelConfig:
    return ModelConfig(name=str(chat_folder))


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes rows as JSON Lines and gives the path."""

    def written(rows: Sequence[object], name: str = "rows.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        return str(path)

    return written
