"""The plain way: the search that people write with Optuna, Trainer and PEFT, on rows that are tokenized already.

TPE with a median pruner, over the same box as meshtune (step = learning rate x alpha too, though most people would
search the rate alone: so that no side reaches points that the other cannot); rows grouped by length; validation by
tokens after each epoch. One process, on as many threads as it is given; several share one study. `today.py` runs it
beside meshtune. Frozen: it is not tuned for a benchmark.

    python benchmarks/plain_way.py ROWS.json STUDY.log --trials 20 --precision bfloat16 --threads 1 --seed 0
"""

import argparse
import json
import tempfile
from pathlib import Path

import optuna
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, DataCollatorForSeq2Seq, Trainer, TrainerCallback, TrainingArguments


def main(o):
    torch.set_num_threads(o.threads)
    data = json.loads(Path(o.rows).read_text())  # model, pad, epochs, batch_size, and rows of train and validation

    class Pad:
        padding_side = "right"

        def pad(self, rows, **_):
            n = max(len(r["input_ids"]) for r in rows)
            fill = {"input_ids": data["pad"], "attention_mask": 0}
            return {k: torch.tensor([r[k] + [fill[k]] * (n - len(r[k])) for r in rows]) for k in fill}

    def loss_by_tokens(model, rows, size=8):
        total = labels = 0
        model.eval()
        rows = sorted(rows, key=lambda r: len(r["input_ids"]))
        with torch.inference_mode():
            for at in range(0, len(rows), size):
                batch = DataCollatorForSeq2Seq(Pad(), return_tensors="pt")(rows[at : at + size])
                count = int((batch["labels"][:, 1:] != -100).sum())
                total, labels = total + float(model(**batch).loss) * count, labels + count
        return total / labels

    def objective(trial):
        if trial.number >= o.trials:  # the other process began the last one
            trial.study.stop()
            raise optuna.TrialPruned
        rank = 2 ** trial.suggest_int("log2_rank", 2, 5)
        scale = trial.suggest_float("scale", 0.25, 32, log=True)
        alpha, step = rank * scale, trial.suggest_float("step", 1e-3, 1, log=True)  # learning rate x alpha
        lora = LoraConfig(
            task_type="CAUSAL_LM", r=rank, lora_alpha=alpha, target_modules="all-linear",
            lora_dropout=trial.suggest_categorical("dropout", [0.0, 0.05, 0.1]),
        )  # fmt: skip
        model = get_peft_model(AutoModelForCausalLM.from_pretrained(data["model"], dtype=torch.float32), lora)
        with tempfile.TemporaryDirectory() as folder:
            arguments = TrainingArguments(
                folder, num_train_epochs=data["epochs"], per_device_train_batch_size=data["batch_size"], use_cpu=True,
                learning_rate=step / alpha, lr_scheduler_type="cosine",
                warmup_steps=0.03, bf16=o.precision == "bfloat16", train_sampling_strategy="group_by_length",
                save_strategy="no", report_to="none", disable_tqdm=True, dataloader_pin_memory=False, seed=o.seed,
            )  # fmt: skip

            class AfterEpoch(TrainerCallback):
                def on_epoch_end(self, args, state, control, **_):
                    trial.report(loss := loss_by_tokens(model, data["validation"]), round(state.epoch))
                    trial.set_user_attr("tokens", round(state.epoch * data["tokens"]))
                    losses.append(loss)
                    control.should_training_stop = trial.should_prune()
                    model.train()

            losses = []
            collate = DataCollatorForSeq2Seq(Pad(), return_tensors="pt")
            Trainer(model, arguments, collate, train_dataset=data["train"], callbacks=[AfterEpoch()]).train()
        if len(losses) < data["epochs"]:
            raise optuna.TrialPruned
        return min(losses)

    sampler, pruner = optuna.samplers.TPESampler(seed=o.seed * 100 + o.worker), optuna.pruners.MedianPruner()
    storage = JournalStorage(JournalFileBackend(o.study))
    study = optuna.create_study(
        storage=storage, sampler=sampler, pruner=pruner, study_name="plain", load_if_exists=True
    )
    study.optimize(objective)


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("rows")
    parser.add_argument("study")
    for name, kind, usual in (("trials", int, 20), ("threads", int, 1), ("seed", int, 0), ("worker", int, 0)):
        parser.add_argument(f"--{name}", type=kind, default=usual)
    parser.add_argument("--precision", default="bfloat16")
    main(parser.parse_args())
