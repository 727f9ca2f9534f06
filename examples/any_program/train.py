"""A program that meshtune tunes: a small network fitted to a curve. It prints its loss as one line of JSON."""

import argparse
import json
import math
import random


def main() -> None:
    """Fit sin(3x) on [-1, 1] by stochastic gradient descent and print the mean squared error."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True)
    parser.add_argument("--width", type=int, required=True)
    parser.add_argument("--activation", choices=["tanh", "relu"], required=True)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    chance = random.Random(arguments.seed)
    hidden = [(chance.gauss(0, 2), chance.gauss(0, 1), chance.gauss(0, 0.3)) for _ in range(arguments.width)]
    points = [(x / 10, math.sin(3 * x / 10)) for x in range(-10, 11)]
    losses = []
    for _ in range(60):
        total = 0.0
        for x, y in chance.sample(points, len(points)):
            outs = [_activate(a * x + b, arguments.activation) for a, b, _ in hidden]
            error = sum(c * out for (_, _, c), (out, _) in zip(hidden, outs, strict=True)) - y
            total += error**2
            if not math.isfinite(total) or total > 1e12:
                print(json.dumps({"ending": "diverged"}))
                return
            hidden = [
                (
                    a - arguments.rate * error * c * slope * x,
                    b - arguments.rate * error * c * slope,
                    c - arguments.rate * error * out,
                )
                for (a, b, c), (out, slope) in zip(hidden, outs, strict=True)
            ]
        losses.append(total / len(points))
    print(json.dumps({"loss": losses[-1], "losses": losses[9::10]}))


def _activate(value: float, activation: str) -> tuple[float, float]:
    """The unit's output and its slope."""
    if activation == "relu":
        return max(value, 0.0), float(value > 0)
    return math.tanh(value), 1 - math.tanh(value) ** 2


if __name__ == "__main__":
    main()
