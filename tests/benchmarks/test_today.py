"""What the race against the plain way counts, from made-up pieces."""

from typing import Any

from benchmarks import today


def piece(seconds: float, *losses: float) -> dict[str, Any]:
    """Trials of 10 tokens and 10 seconds each, one after the other."""
    trials = [
        {"loss": loss, "begun": 10.0 * n, "ended": 10.0 * (n + 1) - 1, "tokens": 10} for n, loss in enumerate(losses)
    ]
    return {"seconds": seconds, "trials": trials}


def test_until_the_best_loss_of_the_other() -> None:
    ours, theirs = piece(40, 3.0, 1.9, 1.5), piece(40, 3.0, 2.5, 2.0)
    assert today.until(ours, today.best(theirs)) == (19.0, 20, True)
    assert today.until(theirs, today.best(ours)) == (40, 30, False)
    line = today.line("plain-threads", [(ours, theirs)], "made up")
    assert (line["ours"], line["theirs"], line["ratio"]) == (19.0, 29.0, 1.53)
    assert (line["tokens_ratio"], line["reached"]) == (1.5, 1)
