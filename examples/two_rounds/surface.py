"""A program in place of a fine-tuning, for trying the two rounds in a minute: its loss looks like that of LoRA.

What matters most is the product of learning rate and alpha; a large rank helps a little; dropout costs a little, and
dropout 1 learns nothing. More epochs lower the loss and move the best product down. Nothing is trained here.
"""

import argparse
import json
import math
import random


def main() -> None:
    """Print the loss of a point as one line of JSON."""
    parser = argparse.ArgumentParser()
    for name, kind in (("rank", int), ("alpha", int), ("dropout", float), ("learning-rate", float), ("epochs", int)):
        parser.add_argument(f"--{name}", type=kind, required=True)
    parser.add_argument("--seed", type=int, default=0)
    print(json.dumps({"loss": loss(**vars(parser.parse_args()))}))


def loss(rank: int, alpha: int, dropout: float, learning_rate: float, epochs: int, seed: int) -> float:
    """The validation loss after so many epochs, with a little noise that follows from the point."""
    distance = math.log10(learning_rate * alpha * epochs) - math.log10(0.09)
    bowl = 0.03 * distance**2 if distance < 0 else 0.12 * distance**2
    capacity = 0.012 * (1 - math.log2(rank / 4) / 7) ** 2
    noise = random.Random(f"{rank} {alpha} {dropout} {learning_rate} {epochs} {seed}").gauss(0, 0.0005)
    return min(0.94 + 0.03 / epochs + bowl + capacity + 0.02 * dropout + noise, 1.5) if dropout < 1 else 1.5


if __name__ == "__main__":
    main()
