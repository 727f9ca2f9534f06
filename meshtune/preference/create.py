"""`meshtune prefer create`: questions, the answers of two or more models, a balanced plan, and what it can see."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from meshtune.errors import InputError
from meshtune.plan.locate import existing
from meshtune.preference.locate import FOLDER, need_preference

LEADS = (0.05, 0.10, 0.20)


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
    from meshtune.preference.schema import Plan
    from meshtune.preference.schema import create as write

    _check(study, answers, out, detect, temperature, top_p, annotators, asks)
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
    seen = design(len(chosen), annotators, len(found), detect)
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


def design(questions: int, annotators: int, models: int, detect: float) -> dict[str, Any]:
    """What the design can see, each pair of models taking its share of the votes."""
    from meshtune.preference import power

    pairs = models * (models - 1) // 2
    people = max(1, annotators // pairs)  # that judge one pair on one question
    return {
        "assumed": {
            "question_sd": power.ASSUMED.questions,
            "annotator_sd": power.ASSUMED.annotators,
            "ties": power.ASSUMED.ties,
        },
        "detect": detect,
        "power": power.power(detect, questions, people),
        "smallest": power.smallest(questions, people),
        "needed": [
            {
                "lead": lead,
                "power": power.power(lead, questions, people),
                "questions": power.questions_needed(lead, people),
                "annotators": _times(power.annotators_needed(lead, questions), pairs),
                "both": _both(lead, pairs),
            }
            for lead in sorted({*LEADS, detect})
        ],
    }


def as_text(result: Mapping[str, Any]) -> str:
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


def _check(
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


def _both(lead: float, pairs: int) -> tuple[int, int] | None:
    """The fewest votes that see the lead, as questions and annotators, among designs of a usual shape."""
    from meshtune.preference.power import questions_needed

    usual = (5, 10, 15, 20, 30, 40, 60, 80, 120)
    designs = [(count, people) for people in usual if (count := questions_needed(lead, people)) is not None]
    if not designs:
        return None
    questions, people = min(designs, key=lambda shape: shape[0] * shape[1])
    return questions, people * pairs


def _times(count: int | None, pairs: int) -> int | None:
    return None if count is None else count * pairs


def _count(count: int | None) -> str:
    return "-" if count is None else f"{count:,}"
