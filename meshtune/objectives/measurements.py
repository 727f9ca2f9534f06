"""What is measured of every trial beside its loss: which quantities, on which text, and on which benchmark items.

Quantities are `perplexity` of general text, `<benchmark>` (the share of right answers) and `<benchmark>.gold` (how
likely the right answer is, as the benchmark tells it), and the user's metrics by their names. What they are measured on
is chosen once, before the first trial, and kept in `<study>/guides/set.json`: the text as tokens, so that neither
another Python nor an edited file changes it; of benchmarks the names of the items and a hash of their content.

Nothing here loads a model: `measuring.py` measures, `measurement_files.py` has what was measured.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from meshtune.config.sections import ModelConfig
from meshtune.config.values import Section
from meshtune.data import embedded, tokens
from meshtune.data.tokenizer import load_tokenizer, window
from meshtune.errors import Fault, InputError
from meshtune.evaluation import layout
from meshtune.evaluation.benchmarks import registry
from meshtune.evaluation.benchmarks.items import Benchmark
from meshtune.evaluation.sandbox import judge
from meshtune.objectives.measurement_files import FOLDER
from meshtune.space.goals import BENCHMARKS, GOLD, PERPLEXITY
from meshtune.system import whole_file

EMBEDDED = "embedded"
SEED = 0  # of the choice of items
WINDOW, WINDOWS = 256, 8  # tokens of a window of text, and how many there are at most
LARGEST = 20_000_000  # bytes of a file of text, which is tokenized as a whole
_SET = "set.json"
_BATCH = 1024  # tokens, for an estimate


class MeasurementSpec(Section):
    """What is measured: names of quantities; the folder of the benchmarks' files (absolute); items of each benchmark at
    most; the text of the perplexity, `embedded` or a file (absolute).
    """

    quantities: tuple[str, ...] = ()
    benchmarks: str | None = None
    limit: int = 40
    text: str = EMBEDDED

    @property
    def benchmark_names(self) -> tuple[str, ...]:
        """The benchmarks that are asked."""
        names = {name.removesuffix(GOLD) for name in self.quantities}
        return tuple(name for name in BENCHMARKS if name in names)

    @property
    def metrics(self) -> tuple[str, ...]:
        """The user's metrics among the quantities."""
        known = {PERPLEXITY, *BENCHMARKS, *(name + GOLD for name in BENCHMARKS)}
        return tuple(name for name in self.quantities if name not in known)


@dataclass(frozen=True)
class MeasurementSet:
    """What the quantities are measured on.

    Attributes:
        windows: of text, as tokens; each begins with what the tokenizer puts first. source: of the text.
        sets: of each benchmark what it is called, a hash of its content, and the names of its items.
        benchmarks: with these items alone; none where only their names were read.
    """

    windows: tuple[tuple[int, ...], ...] = ()
    source: str = ""
    sets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    benchmarks: tuple[Benchmark, ...] = ()

    def lines(self) -> list[str]:
        """For people, a line each."""
        text = f"{sum(map(len, self.windows)):,} tokens of {self.source}"
        return [text] * bool(self.windows) + [f"{one['set']} ({one['digest']})" for one in self.sets.values()]


def faults(spec: MeasurementSpec) -> list[Fault]:
    """Why some quantity cannot be measured here; reads the files."""
    found = list[Fault]()
    for read_all in (_text, _benchmarks):
        try:
            read_all(spec)
        except InputError as error:
            found += error.faults
    return found


def choose(spec: MeasurementSpec, model: ModelConfig, folder: Path, *, anew: bool = False) -> MeasurementSet:
    """What the quantities are measured on: as the study in `folder` has it, or chosen and kept there now.

    `anew`: whatever is kept there, since nothing was measured on it.

    Raises:
        InputError: it cannot be had, or the benchmarks' files hold other items than those that are kept.
        StorageError: it cannot be written.
    """
    path = folder / FOLDER / _SET
    known = None if anew or not path.exists() else read(folder)
    if known is None and (wrong := faults(spec)):
        raise InputError(wrong)
    found = _benchmarks(spec)
    sets = {
        one.name: {"set": one.set_name, "digest": one.digest, "items": [item.id for item in one.items]} for one in found
    }
    if known is not None:
        if known.sets.keys() != sets.keys() or bool(known.windows) != (PERPLEXITY in spec.quantities):
            what = "the study began with other measured quantities: give those back, or start another with `--folder`"
            raise InputError(Fault(what, path))
        other = [name for name, one in sets.items() if one["digest"] != known.sets[name]["digest"]]
        if other:
            what = f"the data of {', '.join(other)} are not those that the search began with: give those back"
            raise InputError(Fault(what, spec.benchmarks, key="guide.benchmarks"))
        return replace(known, benchmarks=found)
    source = "the standard library's documentation" if spec.text == EMBEDDED else Path(spec.text).name
    chosen = MeasurementSet(_windows(_text(spec), model), source, sets, found)
    with whole_file.writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        whole_file.write(path, json.dumps({"windows": chosen.windows, "source": source, "sets": sets}))
    return chosen


def computed(chosen: MeasurementSet, model: ModelConfig) -> int:
    """Tokens that are computed to measure an adapter, those of its own answers left out."""
    found = sum(map(len, chosen.windows))
    if chosen.benchmarks:
        tokenizer = load_tokenizer(model)
        room = window(model, tokenizer)
        for benchmark in chosen.benchmarks:
            asked = layout.asks(benchmark, tokenizer, window=room)
            for batch in layout.batches(asked, tokens=_BATCH, memory=16 * _BATCH):
                found += batch.prefix + sum(ask.tail(batch.prefix) * ask.rows for ask in batch.asks)
    return found


def read(folder: Path) -> MeasurementSet:
    """What the study in `folder` measures on; nothing where it measures nothing. Raises InputError."""
    path = folder / FOLDER / _SET
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        windows = tuple(tuple(map(int, window)) for window in values["windows"])
        return MeasurementSet(windows, values["source"], values["sets"])
    except FileNotFoundError:
        return MeasurementSet()
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InputError(Fault(f"cannot be read ({error})", path)) from error


def items(folder: Path) -> dict[str, set[str]]:
    """The items that the study in `folder` measures on, by benchmark. Raises InputError."""
    return {name: set(one["items"]) for name, one in read(folder).sets.items()}


def _benchmarks(spec: MeasurementSpec) -> tuple[Benchmark, ...]:
    """The benchmarks that are asked, each with the items that are used: at most half, so that some are left to score.

    Raises InputError.
    """
    if not spec.benchmark_names:
        return ()
    if spec.benchmarks is None:
        what = f"{', '.join(spec.benchmark_names)} cannot be measured: name the folder that holds the data"
        raise InputError(Fault(what, key="guide.benchmarks"))
    run_code = [one.name for one in registry.ALL if one.name in spec.benchmark_names and one.runs_code]
    if run_code and (why := judge.available()) is not None:
        what = f"{run_code[0]} runs code that the models wrote, in a sandbox that this machine does not have: {why}"
        raise InputError(Fault(what, key="guide.benchmarks"))
    found = registry.load(spec.benchmark_names, Path(spec.benchmarks), judge.code_check(workers=1))
    few = [one.name for one in found if len(one.items) < 2]
    if few:
        what = f"{', '.join(few)} has one item: half of a benchmark guides at most, so two are needed"
        raise InputError(Fault(what, spec.benchmarks))
    return tuple(one.limited(min(spec.limit, len(one.items) // 2), SEED) for one in found)


def _text(spec: MeasurementSpec) -> str:
    """The text of the perplexity, "" where none is wanted. Raises InputError."""
    if PERPLEXITY not in spec.quantities:
        return ""
    if spec.text == EMBEDDED:
        return embedded.documentation()
    path = Path(spec.text)
    try:
        if path.stat().st_size > LARGEST:
            what = f"has more than {LARGEST:,} bytes: {WINDOWS * WINDOW:,} tokens of it are read, so give a part of it"
            raise InputError(Fault(what, path, key="guide.text"))
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(Fault("is not UTF-8 text", path, key="guide.text")) from error
    except OSError as error:
        what = f"cannot be read ({error.strerror}); a file of text is needed, or `{EMBEDDED}`"
        raise InputError(Fault(what, path, key="guide.text")) from error
    if len(text.split()) < 2:
        raise InputError(Fault("holds no text", path, key="guide.text"))
    return text


def _windows(text: str, model: ModelConfig) -> tuple[tuple[int, ...], ...]:
    """Windows of the text, evenly spaced where it is longer than all of them; none of no text."""
    if not text:
        return ()
    tokenizer = load_tokenizer(model)
    first, found = tokens.lead(tokenizer), tokens.tokenize(tokenizer, [text])[0]
    size = min(WINDOW, window(model, tokenizer) or WINDOW) - len(first)
    count = min(WINDOWS, -(-len(found) // size))
    last = len(found) - size
    spaced = last > (count - 1) * size
    starts = [round(number * last / (count - 1)) if spaced else number * size for number in range(count)]
    return tuple((*first, *found[start : start + size]) for start in starts)
