"""meshtune: finds the best LoRA hyperparameters for your model and data, and shows how sure it is."""

__version__ = "0.1.0"
