"""`prepare`: everything here that a node without network needs, and nothing that its device decides."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from meshtune.errors import InputError
from meshtune.plan.locate import locate
from meshtune.study.loop import Stage
from meshtune.study.prepare import prepare
from meshtune.study.tune import tune
from tests.evaluation import made
from tests.kill import command_study, meshtune
from tests.test_kill_lora import lora_study

ROOT = Path(__file__).parents[2]


def cache(home: Path, model: Path, *, weights: bool = True) -> None:
    """The local cache of the hub, holding the model as `owner/tiny`, as `huggingface_hub` lays it out."""
    entry = home / "hub" / "models--owner--tiny"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(
        model, entry / "snapshots" / commit, ignore=None if weights else shutil.ignore_patterns("*.safetensors")
    )
    (entry / "refs").mkdir()
    (entry / "refs" / "main").write_text(commit)


def cache_rows(home: Path, name: str, split: str, rows: list[dict[str, str]]) -> None:
    """The local cache of `datasets`, holding a data set of the hub as it lays it out."""
    import datasets

    (home / "rows.json").write_text(json.dumps(rows))
    datasets.load_dataset("json", data_files={split: str(home / "rows.json")}, cache_dir=str(home / "made"))
    (info,) = (home / "made").rglob("dataset_info.json")
    told = json.loads(info.read_text())
    owner, _, plain = name.partition("/")
    info.write_text(json.dumps({**told, "config_name": "default", "dataset_name": plain, "builder_name": "parquet"}))
    (info.parent / f"json-{split}.arrow").rename(info.parent / f"{plain}-{split}.arrow")
    target = home / "datasets" / f"{owner}___{plain}" / "default" / "0.0.0"
    target.mkdir(parents=True)
    info.parent.rename(target / "0123456789abcdef")


SEVERAL = """
import json, sys
from tests.kill import command
for arguments in json.loads(sys.argv[1]):
    done = command(*arguments)
    print(json.dumps([done.returncode, done.stderr]))
"""


def call(*arguments: object, home: Path) -> "subprocess.CompletedProcess[str]":
    """The command on a machine without network, where such a one can be made."""
    return alone_with(home, *meshtune(*arguments))


def alone_with(home: Path, *program: str) -> "subprocess.CompletedProcess[str]":
    alone = ["unshare", "--net", "--map-root-user"]
    able = shutil.which("unshare") and not subprocess.run([*alone, "true"], capture_output=True, check=False).returncode
    environment = {**os.environ, "HF_HOME": str(home), "HF_HUB_OFFLINE": "1", "MESHTUNE_CACHE": str(home / "meshtune")}
    command = [*(alone if able else []), *program]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=ROOT)


def test_it_tokenizes_once_trains_nothing_and_opens_no_record(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = lora_study(tmp_path / "one", tiny_model_folder)
    lines, facts = prepare(path)
    data = path.parent / "study" / "data"
    assert facts["data"]["rows"] == {"train": 40, "validation": 10, "test": 10}
    assert facts["data"]["place"] == str(data)
    assert facts["data"]["bytes"] == sum(file.stat().st_size for file in data.iterdir())
    assert facts["model"]["place"] == str(tiny_model_folder)
    assert facts["model"]["bytes"] > (tiny_model_folder / "model.safetensors").stat().st_size
    assert f"HF_HOME={facts['caches']['HF_HOME']}" in lines
    assert f"HF_HUB_OFFLINE=1 meshtune tune {path}" in lines
    assert [found.name for found in data.parent.iterdir()] == ["data"]
    made = (data / "manifest.json").stat().st_mtime_ns
    assert prepare(path) == (lines, facts)
    assert (data / "manifest.json").stat().st_mtime_ns == made


def test_damaged_rows_are_made_again_and_it_says_so(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = lora_study(tmp_path / "one", tiny_model_folder)
    _, facts = prepare(path)
    tokens = path.parent / "study" / "data" / "train.tokens.npy"
    os.truncate(tokens, 200)
    lines, again = prepare(path)
    assert f"\n           made again, since {tokens}: is missing or damaged (" in lines
    assert again["data"]["fingerprint"] == facts["data"]["fingerprint"]
    assert prepare(path)[1] == facts
    os.truncate(tokens, 200)
    with contextlib.closing(tune(locate(path))) as events:
        stages = [event.text for event in itertools.islice(events, 2) if isinstance(event, Stage)]
    assert stages[1].startswith(f"the data were made again, since {tokens}: ")


def test_a_login_node_needs_no_device_of_the_compute_nodes(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = lora_study(tmp_path / "one", tiny_model_folder)
    other = (f"model={{name: {tiny_model_folder}, device: cuda}}", "training.precision=float16")
    _, there = prepare(path, overrides=other, folder=tmp_path / "there")
    _, here = prepare(path, folder=tmp_path / "here")
    assert there["data"]["fingerprint"] == here["data"]["fingerprint"]


def test_a_command_needs_nothing_and_faults_are_found(tmp_path: Path) -> None:
    path = command_study(tmp_path)
    assert prepare(path)[0].startswith("nothing to prepare")
    assert not (tmp_path / "study").exists()
    with pytest.raises(InputError, match="smapler"):
        prepare(path, overrides=("smapler=mads",))


def test_a_model_that_is_not_here_or_only_in_part_is_one_message(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = lora_study(tmp_path / "one", tiny_model_folder)
    cache(tmp_path / "home", tiny_model_folder, weights=False)
    asked = [["prepare", str(path), "--set", f"model=owner/{name}"] for name in ("absent", "tiny")]
    done = alone_with(tmp_path / "home", sys.executable, "-c", SEVERAL, json.dumps(asked))
    assert done.returncode == 0, done.stderr
    absent, part = map(json.loads, done.stdout.splitlines())
    assert absent[0] == part[0] == 2
    assert "`owner/absent` is not in the local cache" in absent[1]
    assert "of the model `owner/tiny` only a part is in the local cache" in part[1]
    assert "Traceback" not in absent[1] + part[1]
    assert not (path.parent / "study").exists()


def test_benchmarks_are_read_where_the_study_names_them(tiny_model_folder: Path, tmp_path: Path) -> None:
    path = lora_study(tmp_path / "one", tiny_model_folder)
    assert prepare(path)[1]["benchmarks"] is None
    made.make_all(tmp_path / "files")
    lines, facts = prepare(path, overrides=(f"evaluation.data={tmp_path / 'files'}",))
    assert [name.partition(":")[0] for name in facts["benchmarks"]] == ["mmlu", "bbh", "drop", "humaneval"]
    assert "\nbenchmarks mmlu: 2 subjects, 12 items, not the published 14,042\n           bbh: 2 tasks" in lines
    with pytest.raises(InputError, match="Did you mean `mmlu`"):
        prepare(path, overrides=(f"evaluation={{data: {tmp_path / 'files'}, benchmarks: [mmlo]}}",))


@pytest.mark.slow
def test_benchmarks_of_the_hub_come_from_the_local_cache(tiny_model_folder: Path, tmp_path: Path) -> None:
    path, home = lora_study(tmp_path / "one", tiny_model_folder), tmp_path / "home"
    home.mkdir()
    rows = [{key: text.format(n=n, m=n + 1) for key, text in made.PROBLEM.items()} for n in range(3)]
    cache_rows(home, "openai/openai_humaneval", "test", rows)
    named = call("prepare", path, "--set", "evaluation.benchmarks=[humaneval]", "--json", home=home)
    assert named.returncode == 0, named.stderr
    assert json.loads(named.stdout)["benchmarks"] == ["humaneval: 3 items, not the published 164"]
    absent = call("prepare", path, "--set", "evaluation.benchmarks=[humaneval, drop]", home=home)
    assert absent.returncode == 2
    assert "`ucinlp/drop` is not in the local cache, and the Hugging Face hub cannot be reached" in absent.stderr
    assert "Traceback" not in absent.stderr


@pytest.mark.slow
def test_what_was_prepared_is_tuned_without_any_network(tiny_model_folder: Path, tmp_path: Path) -> None:
    path, home = lora_study(tmp_path / "one", tiny_model_folder), tmp_path / "home"
    cache(home, tiny_model_folder)
    prepared = call("prepare", path, "--set", "model=owner/tiny", "--json", home=home)
    assert prepared.returncode == 0, prepared.stderr
    facts = json.loads(prepared.stdout)
    assert facts["caches"]["HF_HOME"] == str(home)
    assert facts["model"]["bytes"] > (tiny_model_folder / "model.safetensors").stat().st_size
    tuned = call("tune", path, "--set", "model=owner/tiny", "--trials", 2, "--json", home=home)
    assert tuned.returncode == 0, tuned.stderr
    assert json.loads(tuned.stdout)["trials"]["complete"] == 2
