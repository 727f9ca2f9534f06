"""`meshtune init`: a study.yaml out of a recipe, which starts from what is advised, where anything is."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from meshtune.config import file, presets
from meshtune.config.template import RECIPES, TemplateValues, given, text, write
from meshtune.errors import InputError, nearest
from meshtune.plan.advice import no_advice
from meshtune.system import yaml_file


def init(folder: Path, recipe: str | None, model: str | None, data: Path | None) -> Path:
    """Write `study.yaml` into a folder, which is made where it is missing; returns its path.

    Raises:
        InputError: an unknown recipe, data that are not there, or a study.yaml that is there already.
        StorageError: the folder cannot be written.
    """
    name = recipe or "default"
    if name not in RECIPES:
        raise InputError(f"unknown recipe `{name}`; there are {', '.join(RECIPES)}.{nearest(name, RECIPES)}")
    model, sources = given(model, data)
    chosen = RECIPES[name] if model is None else replace(RECIPES[name], model=model)
    if sources is not None:
        chosen = replace(chosen, sources=sources, mixture="union")
    return write(folder, text(_started(chosen, folder)))


def _started(recipe: TemplateValues, folder: Path) -> TemplateValues:
    """The recipe, with the reason where nothing can be advised. A model that is still to be fetched is taken for
    one of which something is known: all but a few have a config with their sizes.
    """
    config = file.parse(yaml_file.parse(text(recipe), folder).values, folder)
    why = no_advice(config, presets.build(config.space, lora=True), fetched=False)
    return recipe if why is None else replace(recipe, no_advice=why)
