"""The notebook, on a small study whose policy has learnt nothing; `run_notebook.py` runs it on real results."""

from __future__ import annotations

from pathlib import Path

import nbformat
import numpy as np
import pytest
import torch
from run_notebook import NOTEBOOK, run_notebook

from mfql.agents.flow_bc import FlowBC, FlowBCSettings
from mfql.agents.update import initial_state
from mfql.evaluation.policy import Actor, save_policy
from mfql.methods import raw_settings
from mfql.report.scores import collect, write_scores
from mfql.settings import build_settings
from tests.support.fake_results import TASK, write_quickstart

POINTMAZE_SIZES = ((2,), 2)  # of an observation and an action


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Results of two methods, with a policy beside the best run."""
    write_scores(collect(write_quickstart(tmp_path)), tmp_path / "quickstart" / "scores.csv")
    raw = raw_settings("flow_bc-miniature", TASK, "offline", NOTEBOOK.parents[1] / "config")
    settings = build_settings(FlowBCSettings, {key: value for key, value in raw.items() if key != "agent"}, "this test")
    agent = FlowBC(settings, *POINTMAZE_SIZES)
    cpu = torch.device("cpu")
    state = initial_state(agent, [torch.Generator().manual_seed(0)], cpu)
    actor = Actor(agent, state.flat, np.zeros(2, np.float32), np.ones(2, np.float32), cpu)
    run = {"method": "mfql", "agent": "flow_bc", "task": TASK, "seed": 2, "stage": "offline", "identity": "none"}
    folder = tmp_path / "runs" / "mfql" / TASK / "seed2" / "offline" / "run" / "policy"
    save_policy(folder, actor, 0, run | {"settings": settings.as_dict()})
    return tmp_path


@pytest.mark.slow
def test_every_cell_runs(results: Path) -> None:
    outputs = [str(cell.get("outputs")) for cell in run_notebook(results)["cells"]]
    assert "image/png" in outputs[6]  # the learning curves
    assert "array(" in outputs[10]  # the action
    assert "'success'" in outputs[12]


def test_the_notebook_is_kept_without_outputs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(notebook)
    assert not any(cell.get("outputs") or cell.get("execution_count") for cell in notebook["cells"])
