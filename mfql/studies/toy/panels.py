"""Figures and tables of a study on the toy, as panels of the report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, FixedLocator

from mfql.declared import training_version
from mfql.documents import read_object
from mfql.errors import UserError
from mfql.experiment.toy import AGENT, Study
from mfql.report.drawing import INK, drawing, grid, intervals, legend, line, logarithmic, rows, styles
from mfql.report.frames import read_frame
from mfql.report.intervals import Group, Interval, weighted
from mfql.report.panels import Text, write_panel
from mfql.studies.toy.metrics import near_modes
from mfql.studies.toy.settings import Training
from mfql.studies.toy.train import MANIFEST, METRICS, SAMPLES

# The columns that each table has beside method, generation steps and seed.
_OWN = {METRICS: ("step", "metric", "value"), SAMPLES: ("x", "y")}

METRIC_LABELS = {
    "distance": "distance",
    "modes": "modes covered, of 16",
    "near_modes": "share of samples near a mode",
    "out_of_bounds": "share outside [-1, 1]",
    "map_error": "error of the map",
    "field_error": "error of the average velocity",
}
_MEANINGS = (
    "Distance: root of the exact optimal transport cost between samples and data. Modes covered: those with at least "
    "half of the samples that the data have within two standard deviations of the centre. Near a mode: within two of "
    "any; 0.86 of the data, 0.50 of a uniform blur. Error of the map: root mean "
    "square distance between what a noise becomes and where its exact path ends; of the average velocity: that of its "
    "difference from the exact one."
)
_LARGEST = {"modes": 16.0, "near_modes": 1.0, "out_of_bounds": 1.0}
_EXTENT, _BINS = 1.25, 75


def write(study: Study, trainings: list[Training], runs: Path, out: Path, command: str) -> None:
    """Write the panels of a study: `comparison`, and those that the study names, each a folder of `out`.

    Args:
        study: what is compared.
        trainings: of its methods, in their order.
        runs: the folder of `mfql toy train`'s, one a method.
        out: where to.
        command: what makes them, for their readers.

    Raises:
        UserError: a method's files are absent, damaged, or of other settings; or a panel is of no known kind.
    """
    runs_of = [_read(runs / training.method, training) for training in trainings]
    table = pd.concat([run["metrics"] for run in runs_of], ignore_index=True)
    reference = table["label"].iloc[0]
    final = summary(table)
    seeds = f"Mean over {len(trainings[0].seeds)} seeds with 95 % intervals; {trainings[0].size} size."

    def text(title: str, question: str, caption: str) -> Text:
        return Text(f"{study.name}: {title} ({trainings[0].size} size)", question, f"{caption} {seeds}", command)

    write_panel(
        out / "comparison",
        _draw_comparison(final),
        final,
        text("samples against data", f"How near are the samples of each method to the data: {study.name}?", _MEANINGS),
        _for_people(final, table, reference),
    )
    for kind in study.panels:
        if kind == "samples":
            counts = _densities(runs_of)
            caption = "Density of the last samples of all seeds in [-1.25, 1.25]^2; the square is [-1, 1]^2."
            about = text("densities", "Which modes do the samples find, and what lies between them?", caption)
            write_panel(out / kind, _draw_densities(counts), counts, about)
        elif kind == "training":
            curves = _by_step(table)
            question = "How fast do samples come near, and how often do raw actions leave the bounds on the way?"
            about = text("through training", question, "By update; step 0 shows the initial weights.")
            write_panel(out / kind, _draw_training(curves), curves, about)
        elif kind == "cost":
            from mfql.studies.toy.cost import milliseconds_per_update

            found = _with_cost(final, milliseconds_per_update(trainings))
            question = "What does each way to the derivative cost, and how near does it come to the exact target?"
            caption = f"{_MEANINGS} Time of an update: median over rounds in which the methods take turns."
            about = text("the derivative's price", question, caption)
            write_panel(out / kind, _draw_cost(found), found, about, _cost_for_people(found))
        elif hasattr(trainings[0].settings, kind):
            curve = _over_setting(final, {run["method"]: run["settings"][kind] for run in runs_of}, kind)
            about = text(f"error over {kind}", f"How does the approximation error fall with {kind}?", _MEANINGS)
            write_panel(out / kind, _draw_over_setting(curve, kind), curve, about, _slopes(curve, kind))
        else:
            raise UserError(
                f"study {study.name}: panel {kind} is unknown", "Name samples, training, cost, or a setting."
            )


def summary(table: pd.DataFrame) -> pd.DataFrame:
    """The last metrics: label, method, generation_steps, metric, value, low, high, seeds."""
    last = table[table["step"] == table["step"].max()]
    rows = [
        {**dict(zip(("label", "method", "generation_steps", "metric"), key, strict=True)), **_interval(own)}
        for key, own in last.groupby(["label", "method", "generation_steps", "metric"], sort=False)
    ]
    return pd.DataFrame(rows)


def differences(table: pd.DataFrame, reference: str) -> dict[str, Interval]:
    """By how much the last distance of each other label exceeds the reference's."""
    last = table[(table["step"] == table["step"].max()) & (table["metric"] == "distance")]
    groups = {label: Group.of_scores(own["value"]) for label, own in last.groupby("label", sort=False)}
    return {
        str(label): weighted([group, groups[reference]], [1, -1])
        for label, group in groups.items()
        if label != reference
    }


def _interval(rows: pd.DataFrame) -> dict[str, float]:
    """The mean of one metric's rows, a seed each, with its interval within what the metric can be."""
    found = weighted([Group.of_scores(rows["value"])], [1]).clipped(0.0, _LARGEST.get(rows["metric"].iloc[0], np.inf))
    return {"value": found.value, "low": found.low, "high": found.high, "seeds": len(rows)}


def _read(folder: Path, training: Training) -> dict[str, Any]:
    manifest = read_object(folder / MANIFEST)
    if not isinstance(manifest.get("settings"), dict):
        raise UserError(f"{folder / MANIFEST} has no settings", "Train the toy again.")
    expected = {
        "settings": training.settings.as_dict(),
        "seeds": training.seeds,
        "training_version": training_version(AGENT),
    }
    # As JSON holds them: a tuple is a list there.
    found = manifest | {
        "settings": {k: tuple(v) if isinstance(v, list) else v for k, v in manifest["settings"].items()}
    }
    other = [name.replace("_", " ") for name, value in expected.items() if found.get(name) != value]
    again = f"mfql toy train {shlex.quote(training.method)} --size {training.size} --out {shlex.quote(str(folder))}"
    if other:
        raise UserError(f"{folder} was trained with other {' and '.join(other)}", f"Train it again: {again}")
    metrics, samples = (_table(folder / name, training, f"Train it again: {again}") for name in (METRICS, SAMPLES))
    keys = ["generation_steps", "step", "metric"]
    if (metrics.groupby(keys)["seed"].nunique() != len(training.seeds)).any() or metrics.duplicated(
        [*keys, "seed"]
    ).any():
        raise UserError(f"{folder / METRICS} has not each metric once of each seed", f"Train it again: {again}")
    metrics = pd.concat([metrics, _near_modes(samples, metrics["step"].max())], ignore_index=True)
    several = len(training.settings.generations) > 1
    for frame in (metrics, samples):
        frame["label"] = [
            f"{training.method}, {steps} step{'s' if steps > 1 else ''}" if several else training.method
            for steps in frame["generation_steps"]
        ]
    return {**manifest, "metrics": metrics, "samples": samples}


def _table(path: Path, training: Training, remedy: str) -> pd.DataFrame:
    """A table of a training.

    Raises:
        UserError: it is of another method, other seeds or generation steps, or has more rows of one seed than of
            another.
    """
    columns = ["method", "generation_steps", "seed", *_OWN[path.name]]
    table = read_frame(path, remedy, columns, ("method", "metric"), filled=columns[:3])
    rows = table["seed"].value_counts()
    if set(table["method"]) != {training.method} or set(rows.index) != set(training.seeds) or rows.nunique() != 1:
        raise UserError(f"{path} has not the same rows of each seed of {training.method}", remedy)
    if set(table["generation_steps"]) != set(training.settings.generations):
        raise UserError(f"{path} has other generation_steps than the settings of {training.method}", remedy)
    return table


def _near_modes(samples: pd.DataFrame, step: int) -> pd.DataFrame:
    """The share of the last samples near a mode, as rows of the metrics."""
    keys = ["method", "generation_steps", "seed"]
    rows = [
        {**dict(zip(keys, key, strict=True)), "value": near_modes(torch.from_numpy(own[["x", "y"]].to_numpy()))}
        for key, own in samples.groupby(keys, sort=False)
    ]
    return pd.DataFrame(rows).assign(step=step, metric="near_modes")


def _for_people(final: pd.DataFrame, table: pd.DataFrame, reference: str) -> pd.DataFrame:
    """One row a label: every metric with its interval, and the distance's difference from the reference's."""
    cells = final.assign(text=[_text(row) for row in final.to_dict("records")])
    wide = cells.pivot(index="label", columns="metric", values="text").reindex(final["label"].unique()).fillna("")
    wide = wide[[metric for metric in METRIC_LABELS if metric in wide]].rename(columns=METRIC_LABELS)
    beyond = differences(table, reference)
    wide.insert(
        1,
        f"distance beyond {reference}",
        [_text(vars(beyond[label])) if label in beyond else "" for label in wide.index],
    )
    return wide.rename_axis("method", axis=0).rename_axis(None, axis=1).reset_index()


def _text(row: Mapping[Any, Any]) -> str:
    """Value and interval; a value of a single seed has none."""
    value = f"{row['value']:.3g}"
    return value if np.isnan(row["low"]) else f"{value} [{row['low']:.3g}, {row['high']:.3g}]"


def _draw_comparison(final: pd.DataFrame) -> Figure:
    labels = list(final["label"].unique())
    style = styles(labels)
    with drawing():
        figure, panels = grid(2, 2, 1.0 + 0.32 * len(labels))
        for axes, metric in zip(panels, ("distance", "near_modes"), strict=True):
            for label, own in final[final["metric"] == metric].groupby("label", sort=False):
                intervals(axes, [labels.index(label)], own, style[str(label)])
            axes.set_xlabel(METRIC_LABELS[metric])
            rows(axes, labels, shown=axes is panels[0])
        panels[0].set_xlim(left=0)
        panels[1].set_xlim(0, 1)
        return figure


def _densities(runs: list[dict[str, Any]]) -> pd.DataFrame:
    """Counts of samples in squares: label, x, y (of the middle), count; squares without a sample are left out."""
    edges = np.linspace(-_EXTENT, _EXTENT, _BINS + 1)
    middles = (edges[:-1] + edges[1:]) / 2
    frames = []
    for run in runs:
        for label, own in run["samples"].groupby("label", sort=False):
            counts, _, _ = np.histogram2d(own["x"], own["y"], bins=[edges, edges])
            columns, rows = np.nonzero(counts)
            frames.append(
                pd.DataFrame(
                    {
                        "label": label,
                        "x": middles[columns],
                        "y": middles[rows],
                        "count": counts[columns, rows],
                    }
                )
            )
    return pd.concat(frames, ignore_index=True)


def _draw_densities(counts: pd.DataFrame) -> Figure:
    labels = list(counts["label"].unique())
    # One scale of colour for all: that of the densest square but for the few that collapsed samples fill.
    largest = counts["count"].quantile(0.98)
    with drawing():
        figure, panels = grid(len(labels), 4, height=2.5, width=2.3)
        for axes, label in zip(panels, labels, strict=True):
            own = counts[counts["label"] == label]
            image = np.zeros((_BINS, _BINS))
            places = ((own[["y", "x"]] + _EXTENT) / (2 * _EXTENT) * _BINS).astype(int)
            image[places["y"], places["x"]] = own["count"]
            axes.imshow(
                image, origin="lower", extent=(-_EXTENT, _EXTENT, -_EXTENT, _EXTENT), cmap="Blues", vmin=0, vmax=largest
            )
            axes.plot([-1, 1, 1, -1, -1], [-1, -1, 1, 1, -1], color=INK, linewidth=0.8, linestyle=":")
            axes.set_title(label.replace("+", "\n+"), loc="left")
            axes.set(xticks=[-1, 0, 1], yticks=[-1, 0, 1])
            axes.grid(visible=False)
        return figure


def _by_step(table: pd.DataFrame) -> pd.DataFrame:
    """Distance and share outside the bounds by step: label, metric, step, value, low, high, seeds."""
    wanted = table[table["metric"].isin(["distance", "out_of_bounds"])]
    rows = [
        {**dict(zip(("label", "metric", "step"), key, strict=True)), **_interval(own)}
        for key, own in wanted.groupby(["label", "metric", "step"], sort=False)
    ]
    return pd.DataFrame(rows)


def _draw_training(curves: pd.DataFrame) -> Figure:
    style = styles(curves["label"])
    with drawing():
        figure, panels = grid(2, 2, 3.6)
        for axes, metric in zip(panels, ("distance", "out_of_bounds"), strict=True):
            for label, own in curves[curves["metric"] == metric].groupby("label", sort=False):
                line(axes, own["step"], own, style[str(label)])
            axes.set_xscale("symlog", linthresh=10)
            axes.xaxis.set_major_locator(FixedLocator([0, 10, 100, 1000, 10_000]))
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
            axes.set_ylim(bottom=0)
            axes.set(xlabel="update", ylabel=METRIC_LABELS[metric])
        legend(figure, {label: style[label] for label in curves["label"].unique()}, 3)
        return figure


def _with_cost(final: pd.DataFrame, milliseconds: Mapping[str, float]) -> pd.DataFrame:
    """The summary with a column `milliseconds`, of an update."""
    return final.assign(milliseconds=final["method"].map(milliseconds))


def _cost_for_people(found: pd.DataFrame) -> pd.DataFrame:
    cells = found.assign(text=[_text(row) for row in found.to_dict("records")])
    wide = cells.pivot(index="label", columns="metric", values="text").reindex(found["label"].unique()).fillna("")
    own = found.drop_duplicates("label").set_index("label")["milliseconds"]
    wide.insert(0, "ms an update", own.map("{:.1f}".format))
    wide.insert(1, "of the first's", (own / own.iloc[0]).map("{:.2f}".format))
    metrics = [metric for metric in ("distance", "map_error", "field_error") if metric in wide]
    columns = ["ms an update", "of the first's", *metrics]
    return wide[columns].rename(columns=METRIC_LABELS).rename_axis("method").rename_axis(None, axis=1).reset_index()


def _draw_cost(found: pd.DataFrame) -> Figure:
    style = styles(found["label"])
    with drawing():
        figure, panels = grid(2, 2, 4.0)
        for axes, metric in zip(panels, ("distance", "map_error"), strict=True):
            for label, own in found[found["metric"] == metric].groupby("label", sort=False):
                intervals(axes, own["milliseconds"], own, style[str(label)], "y")
            axes.set(xlabel="milliseconds an update", ylabel=METRIC_LABELS[metric])
            axes.set_xlim(left=0)
            axes.set_ylim(bottom=0)
        legend(figure, {label: style[label] for label in found["label"].unique()}, 2)
        return figure


def _over_setting(final: pd.DataFrame, values: Mapping[str, float], kind: str) -> pd.DataFrame:
    """Errors over a setting; the value 0, of what is without a limit, becomes infinity."""
    errors = final[final["metric"].isin(["field_error", "map_error", "distance"])]
    at = errors["method"].map(values).astype(float)
    return errors.assign(**{kind: at.where(at > 0, np.inf)}).sort_values(["metric", kind])


def _draw_over_setting(curve: pd.DataFrame, kind: str) -> Figure:
    style = styles(METRIC_LABELS[name] for name in ("field_error", "map_error", "distance"))
    with drawing():
        figure, (axes,) = grid(1, 1, height=3.8, width=5.2)
        for name, own in curve.groupby("metric"):
            drawn = style[METRIC_LABELS[str(name)]]
            limited = own[np.isfinite(own[kind])]
            line(axes, limited[kind], limited, drawn)
            for limit in own.loc[~np.isfinite(own[kind]), "value"]:
                axes.axhline(limit, color=drawn.colour, linewidth=1, linestyle=":")
        for axis in ("x", "y"):
            logarithmic(axes, axis)
        axes.set(xlabel=kind, ylabel="error (dotted: without a limit)")
        axes.xaxis.set_major_locator(FixedLocator(sorted(set(curve.loc[np.isfinite(curve[kind]), kind]))))
        legend(figure, style, 2)
        return figure


def _slopes(curve: pd.DataFrame, kind: str) -> pd.DataFrame:
    """A row a value of the setting with every error, and one with the least-squares slopes of their logarithms."""
    cells = curve.assign(text=[_text(row) for row in curve.to_dict("records")])
    wide = cells.pivot(index=kind, columns="metric", values="text")
    wide.index = pd.Index([f"{value:g}" for value in wide.index], name=kind)
    limited = curve[np.isfinite(curve[kind])]
    wide.loc["slope"] = [
        f"{np.polyfit(np.log(own[kind]), np.log(own['value']), 1)[0]:.2f}"
        for _, own in limited.groupby("metric", sort=True)
    ]
    return wide.rename(columns=METRIC_LABELS).rename_axis(None, axis=1).reset_index()
