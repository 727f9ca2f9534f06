"""Settings of other fine-tuning tools: written from a study's training, and read as the start of a study.

`settings`, `notes` and `files` write for Axolotl, LLaMA-Factory, TRL, Unsloth and PEFT; `read` reads the YAML of the
first two. Nothing is run and none of these tools is imported; what they do with a key is their affair.
"""

from meshtune.export.foreign.keys import Left
from meshtune.export.foreign.tools import TOOLS, Read, files, notes, read, settings
from meshtune.export.foreign.training import ForeignStudy, settings_of

__all__ = ["TOOLS", "ForeignStudy", "Left", "Read", "files", "notes", "read", "settings", "settings_of"]
