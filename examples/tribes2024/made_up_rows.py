"""Rows of made-up words, as many and as long as the paper's Table 2 says of Alpaca (70 %) and Dolly (30 %).

For `meshtune check --device-like`, which counts tokens, where the data sets are not at hand:

    python made_up_rows.py rows.json [COUNT]
"""

import json
import random
import sys
from pathlib import Path

COUNT = 67_012  # the paper's 53,610 and 13,402
LENGTHS = ((0.7, 27.8, 64.6), (0.3, 118.1, 91.3))  # Table 2: share, mean words of a question and of an answer
WORDS = "the of and to model language with answer question is for data training people make each".split()  # noqa: SIM905


def main(path: str, count: str = str(COUNT)) -> None:
    """Write the rows."""
    numbers = random.Random(0)
    rows = []
    for number in range(int(count)):
        _, asked, answered = LENGTHS[numbers.random() >= LENGTHS[0][0]]
        question, answer = (max(1, int(numbers.expovariate(1 / mean))) for mean in (asked, answered))
        text = f"{number} " + " ".join(numbers.choices(WORDS, k=question))
        rows.append({"instruction": text, "input": "", "output": " ".join(numbers.choices(WORDS, k=answer))})
    Path(path).write_text(json.dumps(rows), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
