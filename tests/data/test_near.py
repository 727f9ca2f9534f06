import random

import pytest

from meshtune.data.near import near, templated

LONG = [f"w{n}" for n in range(54)]  # 50 sequences of five words


def test_only_what_differs_little_is_near() -> None:
    training = [" ".join(LONG), "something else altogether that is long enough", "yes"]
    changed = [*LONG[:27], "other", *LONG[28:]]  # five sequences are others: 45 of 55 are shared
    held = [
        " ".join(LONG).upper(),
        ", ".join(LONG[:50]) + ".",
        " ".join(LONG[:30]),
        " ".join(changed),
        "Yes!",
        "no",
        "",
    ]
    assert near(held, training).tolist() == [True, True, False, True, True, False, False]
    assert near([], training).tolist() == []
    assert near(held, []).tolist() == [False] * 7


CAPITALS = {"France": "Paris", "Spain": "Madrid", "Peru": "Lima", "Togo": "Lome", "Kenya": "Nairobi", "Japan": "Tokyo"}


def test_rows_of_one_template_are_found_in_small_sets_and_among_numbers() -> None:
    rows = [f"What is the capital of {land}? The capital of {land} is {town}." for land, town in CAPITALS.items()]
    assert near(rows[:2], rows[2:]).tolist() == [False, False]  # too many of their phrases differ
    assert templated(rows[:2], lambda: iter(rows[2:])).tolist() == [True, True]
    sums = [f"What is {a} + {b}? {a + b}" for a in range(20) for b in range(20)]
    assert templated(sums[::40], lambda: (row for row in sums if row not in sums[::40])).all()
    other = ["A poem about rain, please.", "Which bird sings at night?", "yes", ""]
    assert not templated(other, lambda: [*rows, "Name three rivers of Asia.", "Who wrote it, and when?", "no"]).any()


@pytest.mark.parametrize("seed", range(3))
def test_the_search_finds_what_comparing_all_finds(seed: int) -> None:
    draw = random.Random(seed)
    texts = [[draw.choice(LONG[:12]) for _ in range(draw.randint(1, 40))] for _ in range(60)]
    held = []
    for words in texts[:40]:
        changed = list(words)
        for _ in range(draw.randint(0, 2)):
            changed[draw.randrange(len(changed))] = draw.choice(LONG)
        held.append(changed)

    def sequences(words: list[str]) -> set[tuple[str, ...]]:
        padded = words + [""] * (5 - len(words))
        return {tuple(padded[at : at + 5]) for at in range(len(padded) - 4)}

    def alike(one: list[str], other: list[str]) -> bool:
        a, b = sequences(one), sequences(other)
        return len(a & b) >= 0.8 * len(a | b)

    expected = [any(alike(one, other) for other in texts) for one in held]
    assert near([" ".join(one) for one in held], (" ".join(one) for one in texts)).tolist() == expected
    assert 0 < sum(expected) < len(expected)
