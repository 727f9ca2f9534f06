"""The commands `meshtune prefer create`, `serve` and `analyze`, and how they find a preference study.

`create` plans a study: questions, the answers of two or more models, a balanced plan, and what it can see. `analyze`
opens the seal of a closed one, and writes what its votes say. What needs other packages is imported once these are
known to be there.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from meshtune.errors import InputError, MissingExtra, extra
from meshtune.plan.locate import existing
from meshtune.preference.private import DATABASE

FOLDER = "preference"  # in a study's folder


def need_preference(*packages: str) -> None:
    """Raise MissingExtra where a package of the extra `preference` is not installed."""
    for package in packages:
        if importlib.util.find_spec(package) is None:
            raise MissingExtra("the preference study", package, extra("preference"))


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


def create(
    study: Path | None,
    questions: Path,
    *,
    words: tuple[str, str] = ("best", "baseline"),
    answers: Sequence[Path] = (),
    sample: int | None = None,
    annotators: int = 10,
    detect: float = 0.1,
    asks: Sequence[str] = (),
    origin: str = "people",
    out: Path | None = None,
    folder: Path | None = None,
    seed: int = 0,
    max_new_tokens: int = 512,
    temperature: float = 0.0,
    top_p: float = 1.0,
    report: Callable[[str], None] = lambda text: None,
) -> dict[str, Any]:
    """Make the folder of a preference study; returns `folder`, `models`, `flags` and what `power` and `warnings` say.

    Args:
        study: whose models `words` answer; not needed with `answers`, files of answers that are there already.
        sample: how many of the questions. detect: the lead that is to be seen. asks: screening questions.

    Raises InputError, StorageError.
    """
    need_preference("scipy", "markdown_it")
    from meshtune.preference import questions as files
    from meshtune.preference.design import what_it_sees
    from meshtune.preference.schema import Plan
    from meshtune.preference.schema import create as write

    _check_creation(study, answers, out, detect, temperature, top_p, annotators, asks)
    place = out if out is not None else _place(study, folder)
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise InputError(f"{place} is not empty, and nothing in it is overwritten: name another folder with --out")
    chosen = files.sample(files.read_questions(questions), sample, seed)
    made: dict[str, Any]
    if answers:
        given = [files.read_answers(path) for path in answers]
        twice = [name for name, count in Counter(name for name, _ in given).items() if count > 1]
        if twice:
            raise InputError(f"--answers: two files are of the model `{twice[0]}`; give each its `model_id`")
        found, made = (
            dict(given),
            {"answers": {name: path.name for (name, _), path in zip(given, answers, strict=True)}},
        )
    else:
        from meshtune.preference.generate import answers_of

        assert study is not None  # checked above
        found, made = answers_of(
            study,
            words,
            chosen,
            folder=folder,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_p=top_p,
            seed=seed,
            report=report,
        )
    made |= {"questions": questions.name, "sample": len(chosen), "seed": seed}
    write(place, Plan(chosen, found, annotators, seed, origin, asks, made))
    flags = {name: _flags([found[name][q.id] for q in chosen]) for name in found}
    texts = [[found[name][question.id].text for name in found] for question in chosen]
    same = sum(len(set(of_one)) < len(of_one) for of_one in texts)
    seen = what_it_sees(len(chosen), annotators, len(found), detect)
    return {
        "folder": str(place.absolute()),
        "models": list(found),
        "questions": len(chosen),
        "annotators": annotators,
        "origin": origin,
        "flags": flags,
        "same_answers": same,
        "power": seen,
        "warnings": _warnings(seen, flags, same, detect),
    }


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


def _check_creation(
    study: Path | None,
    answers: Sequence[Path],
    out: Path | None,
    detect: float,
    temperature: float,
    top_p: float,
    annotators: int,
    asks: Sequence[str],
) -> None:
    faults = []
    if study is None and not answers:
        faults.append("name a study whose models answer, or files of answers with --answers")
    if study is None and out is None:
        faults.append("--out is needed: without a study there is no folder to put this in")
    if len(answers) == 1:
        faults.append("--answers: one file is given; a comparison needs those of two models or more")
    if not 0 < detect < 1:
        faults.append(f"--detect {detect}: a net preference between 0 and 1, such as 0.1 for 10 %")
    if not 0 <= temperature <= 5:
        faults.append(f"--temperature {temperature}: from 0 (greedy) to 5")
    if not 0 < top_p <= 1:
        faults.append(f"--top-p {top_p}: above 0, up to 1")
    if not 1 <= annotators <= 10_000:
        faults.append(f"--annotators {annotators}: 1 to 10000")
    if any(not ask.strip() for ask in asks) or len({*asks, "annotator"}) <= len(asks):
        faults.append("--ask: each is another question about the person, and `annotator` is taken by the pseudonym")
    if faults:
        raise InputError("\n".join(faults))


def _place(study: Path | None, folder: Path | None) -> Path:
    assert study is not None  # checked above
    return existing(study, folder=folder).folder / FOLDER


def _flags(given: Sequence[Any]) -> dict[str, int]:
    return {flag: count for flag, count in Counter(answer.flag for answer in given).items() if flag}


def _warnings(seen: Mapping[str, Any], flags: Mapping[str, Mapping[str, int]], same: int, detect: float) -> list[str]:
    found = []
    if seen["power"] < 0.8:
        found.append(
            f"a net preference of {100 * detect:.3g} % is seen with {100 * seen['power']:.0f} % power only: such a"
            " result of this study will most often be `no preference is shown`"
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
    need_preference("fastapi", "uvicorn", "jinja2", "markdown_it")
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
    need_preference("statsmodels", "krippendorff", "jinja2")
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
        each = (f"{one['name']} {one['value']:+.2f} [{one['low']:+.2f}, {one['high']:+.2f}]" for one in strengths)
        lines.append(f"{stamp}strength (Bradley-Terry, log odds): {', '.join(each)}.")
    lines += [f"not counted: {count} votes of {name}" for name, count in result["left_out"].items()]
    return "\n".join([*lines, f"wrote {result['files']['index.html']}"])
