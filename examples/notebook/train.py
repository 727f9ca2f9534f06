"""A program that takes a moment: linear regression by gradient descent. It prints its losses as one line of JSON."""

import argparse
import json

import numpy as np

EPOCHS = 20


def main() -> None:
    """Fit on 60 noisy rows, and print the mean squared error on 40 others after each fifth epoch."""
    parser = argparse.ArgumentParser()
    for name in ("learning_rate", "momentum", "weight_decay"):
        parser.add_argument(f"--{name}", type=float, required=True)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    rng = np.random.default_rng(given.seed)
    x = rng.normal(size=(100, 20))
    y = x @ (rng.normal(size=20) * (np.arange(20) < 5)) + rng.normal(size=100)
    weights, velocity, losses = np.zeros(20), np.zeros(20), []
    for _ in range(EPOCHS):
        gradient = x[:60].T @ (x[:60] @ weights - y[:60]) / 60 + given.weight_decay * weights
        velocity = given.momentum * velocity - given.learning_rate * gradient
        weights = weights + velocity
        losses.append(float(np.mean((x[60:] @ weights - y[60:]) ** 2)))
    if not losses[-1] < 1e3:
        print(json.dumps({"ending": "diverged", "message": f"the error grew to {losses[-1]:.3g}"}))
    else:
        print(json.dumps({"loss": losses[-1], "losses": losses[4::5]}))


if __name__ == "__main__":
    main()
