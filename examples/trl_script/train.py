"""Supervised fine-tuning with TRL, as in its own examples: `python train.py --config sft.yml`."""

from datasets import load_dataset
from trl import ModelConfig, ScriptArguments, SFTConfig, SFTTrainer, TrlParser, get_peft_config


def main() -> None:
    """Train a LoRA adapter, and save it."""
    script, training, model = TrlParser((ScriptArguments, SFTConfig, ModelConfig)).parse_args_and_config()
    rows = load_dataset("json", data_files=script.dataset_name, split="train").train_test_split(0.2, seed=0)
    training.model_init_kwargs = {"dtype": model.dtype}
    trainer = SFTTrainer(
        model=model.model_name_or_path,
        args=training,
        train_dataset=rows["train"],
        eval_dataset=rows["test"],
        peft_config=get_peft_config(model),
    )
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    main()
