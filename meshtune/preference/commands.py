"""The commands `meshtune prefer create`, `serve` and `analyze`, and how they find a preference study.

`create` plans a study: questions, the answers of two or more models, a balanced plan, and what it can see. `analyze`
opens the seal of a closed one, and writes what its votes say. What needs other packages is imported once these are
known to be there.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from meshtune.errors import InputError, need, need_training
from meshtune.plan.environment import versions
from meshtune.plan.locate import existing
from meshtune.preference.private import DATABASE

if TYPE_CHECKING:
    from meshtune.export.chosen import ChosenPoint
    from meshtune.preference.questions import Answer, Question

FOLDER = "preference"  # in a study's folder
PURPOSE = "the preference study"
UNTUNED = "untuned"


def find(path: Path) -> Path:
    """The folder of the preference study that `path` names: its own, its study's, or that study's YAML.

    Raises InputError where there is none.
    """
    for folder in (path, path / FOLDER):
        if (folder / DATABASE).is_file():
            return folder
    if path.is_file() or any(path.glob("*/study.yaml")):
        from meshtune.plan.locate import locate  # reads the study's config, which takes a while

        folder = locate(path).folder / FOLDER
        if (folder / DATABASE).is_file():
            return folder
    raise InputError(f"{path}: there is no preference study here. `meshtune prefer create` makes one")


@dataclass(frozen=True)
class CreateOptions:
    """What a preference study is made of.

    Attributes:
        study: whose models `words` answer, in its `folder`; not needed with `answers`, files of answers that are there.
        sample: how many of the questions. detect: the lead that is to be seen. asks: screening questions.
        out: a new folder; None: in the study's. seed: of the sample, the orders, the sides, and drawn answers.
        max_new_tokens: where an answer is cut. temperature: 0 decodes greedily.
    """

    study: Path | None
    questions: Path
    words: tuple[str, str] = ("best", "baseline")
    answers: Sequence[Path] = ()
    sample: int | None = None
    annotators: int = 10
    detect: float = 0.1
    asks: Sequence[str] = ()
    origin: str = "people"
    out: Path | None = None
    folder: Path | None = None
    seed: int = 0
    max_new_tokens: int = 512
    temperature: float = 0.0
    top_p: float = 1.0

    def check(self) -> None:
        """Raise InputError with all that is wrong."""
        faults = []
        if self.study is None and not self.answers:
            faults.append("name a study whose models answer, or files of answers with --answers")
        if self.study is None and self.out is None:
            faults.append("--out is needed: without a study there is no folder to put this in")
        if len(self.answers) == 1:
            faults.append("--answers: one file is given; a comparison needs those of two models or more")
        if not 0 < self.detect < 1:
            faults.append(f"--detect {self.detect}: a net preference between 0 and 1, such as 0.1 for 10 %")
        if not 0 <= self.temperature <= 5:
            faults.append(f"--temperature {self.temperature}: from 0 (greedy) to 5")
        if not 0 < self.top_p <= 1:
            faults.append(f"--top-p {self.top_p}: above 0, up to 1")
        if not 1 <= self.annotators <= 10_000:
            faults.append(f"--annotators {self.annotators}: 1 to 10000")
        if any(not ask.strip() for ask in self.asks) or len({*self.asks, "annotator"}) <= len(self.asks):
            faults.append("--ask: each is another question about the person, and `annotator` is taken by the pseudonym")
        if faults:
            raise InputError("\n".join(faults))


def create(options: CreateOptions, report: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Make the folder of a preference study; returns `folder`, `models`, `flags` and what `power` and `warnings` say.

    Raises InputError, StorageError.
    """
    need(PURPOSE, "markdown_it", extras="preference")
    from meshtune.preference import schema
    from meshtune.preference.design import what_it_sees
    from meshtune.preference.questions import read_questions, sample

    options.check()
    place = options.out
    if place is None:
        place = existing(options.study or Path(), folder=options.folder).folder / FOLDER
    schema.check_free(place)
    chosen = sample(read_questions(options.questions), options.sample, options.seed)
    found, made = _read_answers(options.answers) if options.answers else _new_answers(options, chosen, report)
    made |= {"questions": options.questions.name, "sample": len(chosen), "seed": options.seed}
    plan = schema.Plan(chosen, found, options.annotators, options.seed, options.origin, options.asks, made)
    schema.create(place, plan)
    answers = {name: [found[name][question.id] for question in chosen] for name in found}
    flags = {
        name: dict(Counter[str](answer.flag for answer in given if answer.flag)) for name, given in answers.items()
    }
    texts = [[answer.text for answer in of_one] for of_one in zip(*answers.values(), strict=True)]
    same = sum(len(set(of_one)) < len(of_one) for of_one in texts)
    seen = what_it_sees(len(chosen), options.annotators, len(found), options.detect)
    return {
        "folder": str(place.absolute()),
        "models": list(found),
        "questions": len(chosen),
        "annotators": options.annotators,
        "origin": options.origin,
        "flags": flags,
        "same_answers": same,
        "power": seen,
        "warnings": _warnings(seen, flags, same),
    }


def _read_answers(paths: Sequence[Path]) -> tuple[dict[str, dict[str, Answer]], dict[str, Any]]:
    """Answers by model name and question id, and which files they are of. Raises InputError."""
    from meshtune.preference.questions import read_answers

    given = [read_answers(path) for path in paths]
    if twice := [name for name, count in Counter(name for name, _ in given).items() if count > 1]:
        raise InputError(f"--answers: two files are of the model `{twice[0]}`; give each its `model_id`")
    return dict(given), {"answers": {name: path.name for (name, _), path in zip(given, paths, strict=True)}}


def _new_answers(
    options: CreateOptions, questions: Sequence[Question], report: Callable[[str], None]
) -> tuple[dict[str, dict[str, Answer]], dict[str, Any]]:
    """Answers of the study's models by name and question id, and how they were made. Raises InputError."""
    need_training()
    from meshtune.data.prompts import questions_as_tokens
    from meshtune.export.chosen import choose, kept_adapter
    from meshtune.training.generate import Sampling, answer_all

    study, limit = options.study or Path(), options.max_new_tokens
    points = {word: None if word == UNTUNED else choose(study, word, folder=options.folder) for word in options.words}
    known = next((point for point in points.values() if point is not None), None)
    if known is None:
        raise InputError("--a and --b are both `untuned`: name at least one trained model, such as best")
    names = _names(points)
    adapters = {names[w]: None if point is None else kept_adapter(point) for w, point in points.items()}
    data = known.study.config.data
    if data is None:
        raise InputError(f"{study}: the study has no `data`, so that it is not known how its models are asked")
    prompts, ends, tokenizer = questions_as_tokens([question.text for question in questions], data, known.model)
    drawn = Sampling(options.temperature, options.top_p, options.seed) if options.temperature > 0 else None
    report(f"answering {len(questions)} questions with {' and '.join(adapters)}")
    found = {}
    for name, given in answer_all(known.model, adapters, prompts, ends=ends, max_new_tokens=limit, sampling=drawn):
        found[name] = {
            question.id: _answer(question, tokens, tokenizer, limit)
            for question, tokens in zip(questions, given, strict=True)
        }
        report(f"{name} has answered")
    made = {
        "study": known.study.name,
        "model": known.model.model_dump(mode="json"),
        "points": {names[word]: _described(point) for word, point in points.items()},
        "decoding": "greedy" if drawn is None else asdict(drawn),
        "max_new_tokens": limit,
        "versions": versions(),
    }
    return found, made


def _answer(question: Question, tokens: Sequence[int], tokenizer: Any, limit: int) -> Answer:
    from meshtune.preference.questions import Answer, clean

    text = clean(str(tokenizer.decode(list(tokens), skip_special_tokens=True)).strip())
    return Answer(question.id, text, "cut" if len(tokens) >= limit else "" if text else "empty")


def _names(points: Mapping[str, ChosenPoint | None]) -> dict[str, str]:
    trials = [UNTUNED if point is None else point.name for point in points.values()]
    if len(set(trials)) < len(trials) or len(points) < 2:
        what = f"--a and --b name the same model ({trials[0]})"
        raise InputError(f"{what}: nothing beat the baseline, or one of them is to be another trial")
    return {
        word: word
        if point is None or point.name == word
        else f"{word} ({point.name})"
        if not word.isdecimal()
        else point.name
        for word, point in points.items()
    }


def _described(point: ChosenPoint | None) -> dict[str, Any]:
    if point is None:
        return {}
    loss = point.outcome.loss if point.outcome is not None else None
    return {"trial": point.trial, "hyperparameters": dict(point.hyperparameters), "loss": loss, "seed": point.seed}


def creation_text(result: Mapping[str, Any]) -> str:
    """What the command prints."""
    seen = result["power"]
    lines = [
        f"{' against '.join(result['models'])}; questions: {result['questions']}, annotators: {result['annotators']}"
    ]
    smallest = seen["smallest"]
    if smallest is None:
        lines.append("no net preference is seen with 80 % power")
    else:
        lines.append(f"the smallest net preference seen with 80 % power is {100 * smallest:.0f} %")
    lines.append("net preference  power here  questions needed  annotators needed  or both")
    for row in seen["needed"]:
        both = row["both"]
        cells = [
            f"{100 * row['lead']:.3g} %",
            f"{100 * row['power']:.0f} %",
            _count(row["questions"]),
            _count(row["annotators"]),
            "-" if both is None else f"{both[0]} questions, {both[1]} annotators",
        ]
        lines.append(f"{cells[0]:>14}  {cells[1]:>10}  {cells[2]:>16}  {cells[3]:>17}  {cells[4]}")
    assumed = seen["assumed"]
    lines.append(
        f"assumed: the preference varies by {assumed['question_sd']} over questions and {assumed['annotator_sd']} over"
        f" annotators (standard deviations), {100 * assumed['ties']:.0f} % ties; - means that no number is enough"
    )
    return "\n".join(lines)


def _warnings(seen: Mapping[str, Any], flags: Mapping[str, Mapping[str, int]], same: int) -> list[str]:
    found = []
    if seen["power"] < 0.8:
        found.append(
            f"a net preference of {100 * seen['detect']:.3g} % is seen with {100 * seen['power']:.0f} % power only:"
            " such a result of this study will most often be `no preference is shown`"
        )
    for name, counts in flags.items():
        found += [f"answers of {name} that are {flag}: {count}" for flag, count in counts.items()]
    if same:
        found.append(f"questions on which models gave the same answer: {same}")
    return found


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"


def serve(path: Path, *, host: str, port: int, url: str | None, as_json: bool) -> None:
    """Serve until interrupted; prints the links first. Raises InputError."""
    need(PURPOSE, "fastapi", "uvicorn", "markdown_it", extras="preference")
    from meshtune.preference import serve as server

    folder = find(path)
    if url is not None and (urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).netloc):
        raise InputError(f"--url {url}: give what people open, such as https://study.example.org")
    if urlsplit(url or "").path.strip("/"):
        raise InputError(f"--url {url}: the study must be at the top of its host, without a path behind it")

    def report(facts: dict[str, object]) -> None:
        if as_json:
            print(json.dumps(facts), flush=True)
        else:
            links = facts["links"]
            assert isinstance(links, dict)
            print("\n".join(f"{name}  {link}" for name, link in links.items()))
            print(f"admin  {facts['admin']}\nserving {facts['url']} until Ctrl-C", flush=True)

    if host not in server.LOCAL and not (url or "").startswith("https://"):
        print(
            f"meshtune: warning: {host} is reached by plain HTTP, which others on the way can read and change. Put a"
            " server with https before it (Caddy, nginx), and give its address with --url https://..",
            file=sys.stderr,
            flush=True,
        )
    server.serve(folder, host, port, url, report)


def analyze(path: Path, *, close: bool = False, origin: str | None = None, out: Path | None = None) -> dict[str, Any]:
    """Analyse a study, or a file of votes; returns the analysis with its `files` and `verdicts`.

    Args:
        close: close the study first. origin: which votes, where there are several kinds. out: the folder to write to.

    Raises InputError: nothing there, an open study, no votes.
    """
    need(PURPOSE, "statsmodels", "krippendorff", extras="preference")
    from meshtune.preference import votes, written
    from meshtune.preference.analysis import analyse, verdict

    if path.is_file() and path.suffix in (".jsonl", ".json"):
        if close:
            raise InputError(f"--close: {path} is a file of votes, no study that could be closed")
        study = votes.of_file(path)
        folder = out or path.with_name(f"{path.stem}-analysis")
    else:
        where = find(path)
        study = votes.of_study(where, close=close)
        folder = out or where / "analysis"
    analysis = analyse(study, origin)
    files = written.write(folder, study, analysis)
    verdicts = [verdict(pair, analysis["stamp"]) for pair in analysis["pairs"]]
    return {**analysis, "files": files, "verdicts": verdicts}


def analysis_text(result: Mapping[str, Any]) -> str:
    """What the command prints."""
    lines = [f"{text}." for text in result["verdicts"]]
    strengths = (result["bradley_terry"] or {}).get("strengths", ())
    if strengths:
        stamp = f"{result['stamp']}. " if result["stamp"] else ""
        each = (f"{one['name']} {one['value']:+z.2f} [{one['low']:+z.2f}, {one['high']:+z.2f}]" for one in strengths)
        lines.append(f"{stamp}strength (Bradley-Terry, log odds): {', '.join(each)}.")
    lines += [f"not counted: {count} votes of {name}" for name, count in result["left_out"].items()]
    return "\n".join([*lines, f"wrote {result['files']['index.html']}"])
