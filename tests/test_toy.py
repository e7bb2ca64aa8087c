"""The toy: its exact flow, its metrics, and from a configuration to panels."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pandas as pd
import pytest
import torch
import yaml

from mfql.cli import main
from mfql.experiment import toy as studies
from mfql.experiment.toy import read_study
from mfql.report.panels import read_panels
from mfql.studies.toy import metrics, mixture
from mfql.studies.toy.panels import differences
from mfql.studies.toy.settings import read_training
from tests.support.project import clone

ROOT = Path(__file__).parents[1]
TINY = """
methods:
  residual: {}
  flow_matching: {formulation: velocity, derivative: none, generations: [1, 3]}
  gaussian: {policy: gaussian}
  exact: {policy: exact}
studies:
  all: {panels: [samples, training], methods: [residual, flow_matching, gaussian, exact]}
  cost: {panels: [cost], methods: [residual, residual+derivative=difference]}
  data: {panels: [data_size], methods: [residual, residual+data_size=10, residual+data_size=20]}
  strange: {panels: [nonsense], methods: [residual]}
sizes:
  tiny: {seeds: [0, 1], offline_steps: 12, batch_size: 16, policy_hidden: 8, policy_blocks: 1, time_steps: 5,
         evaluations: 2, repeats: 2, samples: 100, transport_points: 50, policy_learning_rate: 0.01}
  fast: {seeds: [0], offline_steps: 12, batch_size: 16, policy_hidden: 8, policy_blocks: 1, time_steps: 5,
         evaluations: 2, repeats: 1, samples: 50, transport_points: 50, policy_learning_rate: 1.0e+40}
"""


@pytest.fixture
def tiny(tmp_path):
    path = tmp_path / "toy.yaml"
    path.write_text(TINY, encoding="utf-8")
    return path


def train(config: Path, method: str, folder: Path, *more: str, size: str = "tiny") -> int:
    arguments = ["toy", "train", method, "--size", size, "--config", str(config), "--out", str(folder)]
    return main([*arguments, "--device", "cpu", *more])


def panels(config: Path, study: str, runs: Path, out: Path) -> int:
    arguments = ["toy", "panels", study, "--size", "tiny", "--config", str(config), "--runs", str(runs)]
    return main([*arguments, "--out", str(out), "--command", "snakemake toy"])


def test_the_velocity_is_the_conditional_mean_found_by_brute_force():
    axis = torch.linspace(-1.4, 1.4, 561, dtype=torch.float64)
    actions = torch.cartesian_prod(axis, axis)
    away = torch.cdist(actions, mixture.CENTRES)
    density = torch.exp(-away.square() / (2 * mixture.SPREAD**2)).sum(1)
    at = torch.tensor([[0.3, -0.6], [1.1, 0.2], [0.0, 0.05]], dtype=torch.float64)
    times = torch.tensor([[0.2], [0.6], [0.9]], dtype=torch.float64)
    noise = (at.unsqueeze(1) - (1 - times.unsqueeze(1)) * actions) / times.unsqueeze(1)
    weights = density * torch.exp(-noise.square().sum(-1) / 2)
    weights = weights / weights.sum(1, keepdim=True)
    expected = (weights.unsqueeze(-1) * (noise - actions)).sum(1)
    torch.testing.assert_close(mixture.velocity(at, times), expected, rtol=0, atol=1e-6)


def test_the_exact_map_has_converged_and_takes_noise_to_the_mixture():
    noise = torch.randn(1500, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    ones = torch.ones(1500, 1)
    ends = mixture.path_end(noise, ones)
    assert (mixture.path_end(noise[:200], ones[:200], steps=400) - ends[:200]).abs().max() < 1e-4
    shares = metrics.shares_of_modes(ends)
    assert (shares - (1 - torch.exp(torch.tensor(-2.0))) / 16).abs().max() < 0.02
    assert float(ends.var()) == pytest.approx(mixture.VARIANCE, rel=0.05)
    assert metrics.modes_covered(ends) == 16


def test_the_exact_average_velocity_satisfies_the_meanflow_identity():
    """u = v - t du/dt along the marginal path, the derivative by a central difference."""
    at = torch.tensor([[0.4, -0.2], [-0.9, 0.7]], dtype=torch.float64)
    times = torch.tensor([[0.5], [0.8]], dtype=torch.float64)
    step, along = 1e-4, mixture.velocity(at, times)
    ahead, behind = (mixture.average_velocity(at + side * step * along, times + side * step) for side in (1.0, -1.0))
    derivative = (ahead - behind) / (2 * step)
    torch.testing.assert_close(mixture.average_velocity(at, times), along - times * derivative, rtol=0, atol=1e-3)


def test_distance_is_the_root_of_the_mean_length_that_points_must_move():
    points = torch.rand(40, 2, generator=torch.Generator().manual_seed(1))
    moved = points[torch.randperm(40)] + torch.tensor([0.0, 9.0])
    assert metrics.distance(points, moved) == pytest.approx(3.0, rel=1e-5)


def test_modes_are_covered_where_the_samples_are():
    grid = mixture.CENTRES.repeat_interleave(10, 0)
    assert metrics.modes_covered(grid) == 16
    assert metrics.modes_covered(grid[:50]) == 5
    assert metrics.modes_covered(torch.zeros(100, 2)) == 0


def test_a_training_writes_tidy_metrics_that_depend_on_the_seed_alone(tiny, tmp_path, capsys):
    assert train(tiny, "flow_matching", tmp_path / "a") == 0
    assert train(tiny, "flow_matching", tmp_path / "b") == 0
    for name in ("metrics.csv", "samples.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    table = pd.read_csv(tmp_path / "a" / "metrics.csv")
    assert list(table) == ["method", "generation_steps", "seed", "step", "metric", "value"]
    assert set(table["metric"]) == {"distance", "modes", "out_of_bounds", "map_error"}
    assert set(table["step"]) == {0, 10, 12}
    assert set(table["generation_steps"]) == {1, 3}
    tiny.write_text(TINY.replace("seeds: [0, 1]", "seeds: [1]"), encoding="utf-8")
    assert train(tiny, "flow_matching", tmp_path / "alone") == 0
    alone = pd.read_csv(tmp_path / "alone" / "metrics.csv").set_index(["generation_steps", "step", "metric"])["value"]
    among = table[table["seed"] == 1].set_index(["generation_steps", "step", "metric"])["value"]
    pd.testing.assert_series_equal(alone, among, rtol=1e-3, atol=1e-3)
    manifest = json.loads((tmp_path / "a" / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["settings"]["derivative"] == "none"
    assert manifest["parameters"] > 0


@pytest.mark.slow
def test_a_compiled_training_is_the_same_but_for_rounding(tiny, tmp_path, capsys):
    found = {}
    for compiled in ("off", "on"):
        folder = tmp_path / compiled
        assert train(tiny, "residual", folder, "--compile", compiled) == 0
        assert json.loads((folder / "manifest.json").read_text(encoding="utf-8"))["compiled"] == (compiled == "on")
        found[compiled] = pd.read_csv(folder / "samples.csv")
    pd.testing.assert_frame_equal(found["on"], found["off"], rtol=1e-4, atol=1e-4)


def test_average_velocities_are_compared_with_the_exact_ones(tiny, tmp_path):
    assert train(tiny, "residual+sample_b=true", tmp_path / "sampled") == 0
    assert "field_error" in set(pd.read_csv(tmp_path / "sampled" / "metrics.csv")["metric"])


@pytest.mark.slow
def test_a_study_becomes_panels_with_its_numbers_and_command(tiny, tmp_path):
    for method in read_study(tiny, "all").methods:
        assert train(tiny, method, tmp_path / "runs" / method) == 0
    assert panels(tiny, "all", tmp_path / "runs", tmp_path / "results" / "toy" / "tiny" / "all") == 0
    found = {panel.folder.name: panel for panel in read_panels(tmp_path / "results")}
    assert set(found) == {"comparison", "samples", "training"}
    assert {panel.section for panel in found.values()} == {"toy"}
    assert {panel.text.command for panel in found.values()} == {"snakemake toy"}
    table = found["comparison"].table
    assert list(table["method"]) == [
        "residual", "flow_matching, 1 step", "flow_matching, 3 steps", "gaussian", "exact"
    ]  # fmt: skip
    data = pd.read_csv(found["comparison"].folder / "data.csv")
    assert set(data.loc[data["metric"] == "distance", "seeds"]) == {2}
    exact = data[(data["label"] == "exact") & (data["metric"] == "distance")].iloc[0]
    assert exact["low"] < exact["value"] < exact["high"]
    counts = pd.read_csv(found["samples"].folder / "data.csv")
    assert counts.loc[counts["label"] == "exact", "count"].sum() == 200


@pytest.mark.slow
def test_cost_and_errors_over_a_setting_are_drawn(tiny, tmp_path):
    for study, panel, column in (("cost", "cost", "milliseconds"), ("data", "data_size", "data_size")):
        for method in read_study(tiny, study).methods:
            train(tiny, method, tmp_path / "runs" / method)
        assert panels(tiny, study, tmp_path / "runs", tmp_path / study) == 0
        drawn = pd.read_csv(tmp_path / study / panel / "data.csv")
        assert (drawn[column] > 0).all()
    slopes = pd.read_csv(tmp_path / "data" / "data_size" / "table.csv", index_col=0)
    assert list(slopes.index.astype(str)) == ["10", "20", "inf", "slope"]


def test_a_difference_is_of_the_seeds_means():
    rows = [("a", 0, 0.2), ("a", 1, 0.4), ("b", 0, 0.5), ("b", 1, 0.5)]
    table = pd.DataFrame(rows, columns=["label", "seed", "value"]).assign(step=9, metric="distance")
    found = differences(table, "a")
    assert set(found) == {"b"}
    assert found["b"].value == pytest.approx(0.2)
    assert found["b"].low < 0.2 < found["b"].high


def test_what_is_wrong_is_said_and_nothing_is_written(tiny, tmp_path, capsys):
    def said(status: int) -> str:
        assert status == 2
        return capsys.readouterr().err

    assert "unknown method 'residul'" in said(train(tiny, "residul", tmp_path / "x"))
    assert "unknown size 'small'" in said(train(tiny, "residual", tmp_path / "x", size="small"))
    assert "setting sample_b" in said(train(tiny, "flow_matching+sample_b=true", tmp_path / "x"))
    assert "transport_points" in said(train(tiny, "residual+transport_points=101", tmp_path / "x"))
    assert "diverged at update" in said(train(tiny, "residual", tmp_path / "x", size="fast"))
    assert "unknown study 'alll'" in said(panels(tiny, "alll", tmp_path / "runs", tmp_path / "x"))
    assert "does not exist" in said(panels(tiny, "all", tmp_path / "runs", tmp_path / "x"))
    train(tiny, "residual", tmp_path / "runs" / "residual")
    assert "panel nonsense is unknown" in said(panels(tiny, "strange", tmp_path / "runs", tmp_path / "y"))
    tiny.write_text(TINY.replace("batch_size: 16", "batch_size: 8"), encoding="utf-8")
    capsys.readouterr()
    refused = said(panels(tiny, "data", tmp_path / "runs", tmp_path / "x"))
    assert "other settings" in refused
    assert f"mfql toy train residual --size tiny --out {tmp_path / 'runs' / 'residual'}" in refused
    assert not (tmp_path / "x").exists()


def test_samples_of_other_code_are_not_drawn(tiny, tmp_path, capsys):
    folder = tmp_path / "runs" / "residual"
    train(tiny, "residual", folder)
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    for other in ({"training_version": [0, 1]}, {}):
        (folder / "manifest.json").write_text(
            json.dumps({key: value for key, value in manifest.items() if key != "training_version"} | other),
            encoding="utf-8",
        )
        assert panels(tiny, "data", tmp_path / "runs", tmp_path / "x") == 2
        assert "other training version" in capsys.readouterr().err
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    for table, changed in (("metrics", "another,"), ("samples", "another,"), ("metrics", "")):
        path = folder / f"{table}.csv"
        whole = path.read_text(encoding="utf-8")
        head, first, rest = whole.split("\n", 2)
        row = first.replace("residual,", changed) if changed else f"{first}\n{first}"
        path.write_text(f"{head}\n{row}\n{rest}", encoding="utf-8")
        assert panels(tiny, "data", tmp_path / "runs", tmp_path / "x") == 2
        assert f"{table}.csv has not" in capsys.readouterr().err
        path.write_text(whole.replace("residual,1,", "residual,1.5,", 1), encoding="utf-8")
        assert panels(tiny, "data", tmp_path / "runs", tmp_path / "x") == 2
        assert f"{table}.csv has other generation_steps than the settings" in capsys.readouterr().err
        path.write_text(whole, encoding="utf-8")


def test_a_training_is_another_with_other_seeds_or_versions(monkeypatch):
    path = ROOT / "config" / "toy.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))

    def identity():
        return studies.training_identity(document, "residual", "reduced", str(path))

    known = [identity()]
    document["sizes"]["reduced"]["seeds"] = [0]
    known.append(identity())
    monkeypatch.setattr(studies, "training_version", lambda agent: [1, 99])
    known.append(identity())
    assert len(set(known)) == 3


@pytest.mark.parametrize("size", ["reduced", "paper"])
def test_the_configuration_that_is_shipped_is_sound(size):
    path = ROOT / "config" / "toy.yaml"
    document = yaml.safe_load(path.read_text(encoding="utf-8"))
    for study in document["studies"]:
        trainings = [read_training(path, method, size) for method in read_study(path, study).methods]
        for panel in read_study(path, study).panels:
            assert panel in ("samples", "training", "cost") or hasattr(trainings[0].settings, panel)


@pytest.mark.slow
def test_the_workflow_trains_each_method_once_for_its_studies(tmp_path):
    printed = clone(tmp_path).snakemake("-n", "toy", "--configfile", "config/quickstart.yaml", "--forceall")
    counts = dict(line.split() for line in printed.splitlines() if re.fullmatch(r"((?:train_)?toy\w*)\s+\d+", line))
    assert counts == {
        "train_toy_reduced": "8",
        "toy_reduced_formulations": "1",
        "toy_reduced_sampled_b": "1",
        "toy": "1",
    }
