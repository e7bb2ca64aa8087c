"""The toy's configuration file: methods, the studies that compare them, and sizes.

This module needs no torch, so that a launcher can list a study's trainings.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from mfql.declared import training_version
from mfql.documents import read_yaml
from mfql.errors import unknown
from mfql.experiment.schema import check
from mfql.extensions import project_path
from mfql.files import hash_of
from mfql.methods import split_method
from mfql.placeholder import without_torch
from mfql.settings import Settings, build_settings, identified

# Whose network and losses the toy trains.
AGENT = "flow_bc"


@dataclass(frozen=True)
class Study:
    """What is compared.

    Args:
        name: of the study.
        methods: the first is that which the others are held against.
        panels: what is drawn beside the comparison: `samples`, `training`, `cost`, or a setting, to draw errors over.
    """

    name: str
    methods: list[str]
    panels: list[str]


def read_study(path: str | Path, name: str) -> Study:
    """A study of the configuration.

    Raises:
        UserError: the file is no such configuration, or has no such study.
    """
    studies = read_configuration(path)["studies"]
    if name not in studies:
        raise unknown("study", name, list(studies), str(path))
    return Study(name, list(studies[name]["methods"]), list(studies[name].get("panels", [])))


def method_values(document: Mapping[str, Any], method: str, size: str, where: str) -> dict[str, Any]:
    """What a method has at a size: the size's values, replaced by the method's own, replaced by those in its name.

    Raises:
        UserError: there is no such method or size.
    """
    base, changed = split_method(method)
    for kind, name, known in (("method", base, document["methods"]), ("size", size, document["sizes"])):
        if name not in known:
            raise unknown(kind, name, list(known), where)
    return {**document["sizes"][size], **document["methods"][base], **changed}


def training_settings(
    document: Mapping[str, Any], method: str, size: str, where: str
) -> tuple[Settings, list[int] | None]:
    """A training's settings with their defaults, of the class `ToySettings`, and its seeds as the file has them.

    Raises:
        UserError: there is no such method or size, or a setting is unknown, of a wrong type or out of range.
    """
    values = method_values(document, method, size, where)
    seeds = values.pop("seeds", None)

    def checked() -> Settings:
        kind = import_module("mfql.studies.toy.settings").ToySettings
        return build_settings(kind, values, f"{where}: {method} at size {size}")

    return without_torch(checked), seeds


def training_identity(document: Mapping[str, Any], method: str, size: str, where: str) -> str:
    """Changes with all that changes a training's numbers: settings with their defaults, seeds, declared versions.

    Raises:
        UserError: as of `training_settings`.
    """
    settings, seeds = training_settings(document, method, size, where)
    return hash_of([identified(settings.as_dict()), seeds, training_version(AGENT)])


def read_configuration(path: str | Path) -> dict[str, Any]:
    """The sections methods, studies and sizes of a configuration of the toy.

    Raises:
        UserError: it cannot be read, or is none.
    """
    document: dict[str, Any] = read_yaml(project_path(path), "Give a configuration of the toy: config/toy.yaml.")
    check(document, "toy", lambda _: str(path), "docs/toy.md")
    return document
