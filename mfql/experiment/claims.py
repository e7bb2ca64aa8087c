"""The paper's claims as data: what each says, where it is shown here, and what would show that it holds.

`config/claims.yaml` has them; docs/claims.md explains the keys. This module needs neither pandas nor torch, so that a
launcher can tell which tables the claims read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import jsonschema

from mfql.documents import read_yaml
from mfql.errors import UserError, unknown
from mfql.extensions import project_path

FILE = "claims.yaml"
GROUPS = {
    "mechanism": "The three mechanisms",
    "experiment": "The first three experiments",
    "headline": "The headline results",
    "failure": "The failure signatures",
    "beyond": "Beyond the paper",
}
CONFIDENCE = ("high", "moderate", "low", "against", "none")

_TEXT = {"type": "string", "minLength": 1}
_ROW = {"type": "object", "minProperties": 1, "additionalProperties": {"type": ["string", "number"]}}
_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "required": ["configuration", "tables", "claims"],
    "properties": {
        "configuration": _TEXT,
        "tables": {"type": "object", "additionalProperties": _TEXT},
        "claims": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": False,
                "required": ["group", "says", "paper", "full_size"],
                "properties": {
                    "group": {"enum": list(GROUPS)},
                    **dict.fromkeys(("says", "target", "expect", "full_size", "not_testable"), _TEXT),
                    "minutes": {"type": "number", "exclusiveMinimum": 0},
                    "any_size": {"type": "boolean"},
                    "paper": {
                        "type": "object",
                        "additionalProperties": False,
                        "required": ["confidence", "because"],
                        "properties": {"confidence": {"enum": list(CONFIDENCE)}, "because": _TEXT},
                    },
                    "others": _TEXT,
                    "checks": {
                        "type": "array",
                        "minItems": 1,
                        "items": {
                            "type": "object",
                            "additionalProperties": False,
                            "required": ["says", "table", "of", "must"],
                            "properties": {
                                "says": _TEXT,
                                "table": _TEXT,
                                "of": _ROW,
                                "than": _ROW,
                                "as": {"enum": ["difference", "ratio"]},
                                "column": _TEXT,
                                "same": _TEXT,
                                "must": {
                                    "type": "object",
                                    "additionalProperties": False,
                                    "minProperties": 1,
                                    "maxProperties": 1,
                                    "properties": {
                                        "exceed": {"type": "number"},
                                        "stay_below": {"type": "number"},
                                    },
                                },
                            },
                            "dependentRequired": {"as": ["than"], "than": ["as"], "same": ["than"]},
                        },
                    },
                },
                "oneOf": [
                    {"required": ["checks", "target", "minutes", "expect"]},
                    {"required": ["not_testable"], "not": {"required": ["checks"]}},
                ],
            },
        },
    },
}


@dataclass(frozen=True)
class Check:
    """A comparison that a claim stands or falls with.

    Args:
        says: what it shows, in words.
        table: name of the table that it reads.
        of: column -> cell of the one row whose quantity it is about.
        than: of the row that it is compared with; None compares with a number alone.
        form: `difference` or `ratio` of the two; None without `than`.
        column: of the quantity; its interval is in `low` and `high`, of another than `value` in `COLUMN_low` and
            `COLUMN_high`.
        relation, bound: `exceed` or `stay_below`, and the number.
        same: a column in which the two rows must agree, such as the device that both were timed on; None for none.
    """

    says: str
    table: str
    of: Mapping[str, Any]
    than: Mapping[str, Any] | None
    form: str | None
    column: str
    relation: str
    bound: float
    same: str | None = None

    @property
    def must(self) -> str:
        """What is asked, for people."""
        what = self.form or "value"
        return f"{what} {'above' if self.relation == 'exceed' else 'below'} {self.bound:g}"


@dataclass(frozen=True)
class Claim:
    """A claim of the paper.

    Args:
        name: its key.
        group: one of `GROUPS`.
        says: the claim.
        paper_confidence, paper_because: how sure the paper's evidence makes one of it, and what that evidence is.
        full_size: what only the paper's size can tell.
        target: the Snakemake target that makes its tables; empty where it is not testable here.
        minutes: that the target takes on two cores.
        expect: what is expected, with tolerance.
        any_size: whether what is shown here is the claim itself and not a smaller one.
        others: what third parties found; empty for nothing.
        not_testable: why it is not testable here; empty where it is.
    """

    name: str
    group: str
    says: str
    paper_confidence: str
    paper_because: str
    full_size: str
    target: str = ""
    minutes: float = 0.0
    expect: str = ""
    any_size: bool = False
    others: str = ""
    not_testable: str = ""
    checks: tuple[Check, ...] = field(default=())


@dataclass(frozen=True)
class Claims:
    """The claims, and what they are judged by.

    Args:
        configuration: the name of that whose runs the checks are about.
        tables: file by name, relative to a results folder `results/NAME`.
        claims: in the order of the file.
    """

    configuration: str
    tables: Mapping[str, str]
    claims: tuple[Claim, ...]


def read_claims(config_dir: str | Path = "config") -> Claims:
    """The claims of a configuration's folder.

    Raises:
        UserError: the file is absent or faulty; names the claim and the key.
    """
    path = project_path(config_dir) / FILE
    content = read_yaml(path, "docs/claims.md explains the keys.")
    fault = jsonschema.exceptions.best_match(jsonschema.Draft202012Validator(_SCHEMA).iter_errors(content))
    if fault is not None:
        where = ": ".join([str(path), *map(str, fault.absolute_path)])
        raise UserError(f"{where}: {fault.message}", "docs/claims.md explains the keys.")
    claims = tuple(_claim(name, entry) for name, entry in content["claims"].items())
    for claim in claims:
        for check in claim.checks:
            if check.table not in content["tables"]:
                raise unknown("table", check.table, list(content["tables"]), f"{path}: {claim.name}")
    return Claims(content["configuration"], content["tables"], claims)


def require_configuration(claims: Claims, name: str) -> None:
    """Refuse a configuration that the claims are not about: it would train for days and judge little.

    Raises:
        UserError: it is not that of the claims.
    """
    if name != claims.configuration:
        raise UserError(
            f"the claims are about the runs of the configuration {claims.configuration}, not of {name}",
            f"Add --configfile config/{claims.configuration}.yaml, or write config/claims.yaml for {name}.",
        )


def needed_files(claims: Claims) -> list[str]:
    """What must be made before the claims are judged, relative to `results/NAME`.

    Of a panel it is the description, which is written last.
    """
    used = {check.table for claim in claims.claims for check in claim.checks}
    files = [Path(file) for name, file in claims.tables.items() if name in used]
    return [str(file.with_name("panel.json") if file.name == "data.csv" else file) for file in files]


def _claim(name: str, entry: Mapping[str, Any]) -> Claim:
    values = {key: entry[key] for key in entry if key not in ("paper", "checks")}
    return Claim(
        name=name,
        **values,
        paper_confidence=entry["paper"]["confidence"],
        paper_because=entry["paper"]["because"],
        checks=tuple(map(_check, entry.get("checks", []))),
    )


def _check(entry: Mapping[str, Any]) -> Check:
    ((relation, bound),) = entry["must"].items()
    return Check(
        entry["says"],
        entry["table"],
        entry["of"],
        entry.get("than"),
        entry.get("as"),
        entry.get("column", "value"),
        relation,
        float(bound),
        entry.get("same"),
    )
