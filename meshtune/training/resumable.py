"""Hugging Face's Trainer with our order of rows, our loss, and checkpoints that are values instead of files.

`snapshot()` is everything that the next optimizer step depends on; a trainer that is given it as `saved` and resumes
takes that step bitwise as the first one would have, on the same device with the same number of threads. torch's random
generators are all that it saves of randomness: a model with code of its own that draws from others differs.
The methods that begin with an underscore are Trainer's own, where it would read its checkpoint's files.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from transformers import Trainer, TrainingArguments

from meshtune.data.store import epoch_order
from meshtune.training.loss import RowSet, collate, label_losses


class _Order(torch.utils.data.Sampler[int]):
    """The rows in the order of the epoch that Trainer has set."""

    def __init__(self, rows: int, seed: int):
        self.rows, self.seed, self.epoch = rows, seed, 0

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __len__(self) -> int:
        return self.rows

    def __iter__(self) -> Iterator[int]:
        return iter(epoch_order(self.rows, self.seed, self.epoch).tolist())


class ResumableTrainer(Trainer):  # type: ignore[misc]  # Trainer is untyped
    """One device's trainer of what requires gradients in `model`, an adapter.

    `saved`: what `snapshot` gave in an earlier process; set before a resume. `tokens`: trained on so far, padding left
    out. `step_loss`, `step_labels`: of the step so far, the mean over its labels and their number.
    """

    def __init__(self, model: Any, arguments: TrainingArguments, rows: RowSet):
        arguments._n_gpu = min(arguments.n_gpu, 1)  # else Trainer would split batches over all GPUs that it sees
        super().__init__(model, arguments, data_collator=collate, train_dataset=rows)
        self.model_accepts_loss_kwargs = True  # count the labels of all micro-batches of a step, for any model
        self.loss_is_scaled_for_ga = True  # and do not divide by the number of micro-batches
        self.tokens = 0
        self.step_loss = torch.zeros((), device=arguments.device)
        self.step_labels = 0
        self.saved: dict[str, Any] = {}

    def _get_train_sampler(self, train_dataset: Any = None) -> _Order:
        return _Order(len(self.train_dataset), self.args.seed)

    def compute_loss(
        self, model: Any, inputs: dict[str, torch.Tensor], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """The micro-batch's part of the mean over the label tokens of the step."""
        loss: torch.Tensor = label_losses(model, inputs).sum() / num_items_in_batch
        self.step_loss += loss.detach()
        self.step_labels = int(num_items_in_batch)
        self.tokens += int(inputs["attention_mask"].sum())
        return loss

    def trainable(self) -> dict[str, torch.Tensor]:
        """The adapter's weights by their names in the model."""
        return {name: weight for name, weight in self.model.named_parameters() if weight.requires_grad}

    def snapshot(self) -> dict[str, Any]:
        """Everything that the next step depends on."""
        scaler = self.accelerator.scaler
        device = self.args.device
        return {
            "adapter": {name: weight.detach() for name, weight in self.trainable().items()},
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.lr_scheduler.state_dict(),
            "scaler": None if scaler is None else scaler.state_dict(),
            "random": torch.get_rng_state(),
            "random_device": torch.cuda.get_rng_state(device) if device.type == "cuda" else None,
            "tokens": self.tokens,
        }

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        for name, weight in self.trainable().items():
            weight.copy_(self.saved["adapter"][name])
        self.tokens = self.saved["tokens"]

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        if self.saved:
            self.optimizer.load_state_dict(self.saved["optimizer"])
            self.lr_scheduler.load_state_dict(self.saved["scheduler"])

    def _load_scaler(self, checkpoint: str | None) -> None:
        if self.saved and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(self.saved["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called by Trainer once the first batches are drawn, which takes random numbers too."""
        if self.saved:
            torch.set_rng_state(self.saved["random"])
            if self.args.device.type == "cuda":
                torch.cuda.set_rng_state(self.saved["random_device"], self.args.device)
