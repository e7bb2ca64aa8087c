"""A file in D4RL's layout through the whole workflow: from a folder that has it to the report, and its replay."""

from __future__ import annotations

import csv
import json
import re
from base64 import b64encode
from collections.abc import Callable
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from mfql.cli import main
from mfql.data.checksums import Checksum
from mfql.documents import write_json
from tests.support.d4rl_files import write_rollouts
from tests.support.project import NOTHING_TO_DO, Project, clone, jobs
from tests.support.training_runs import ROOT

pytestmark = pytest.mark.long  # They share a workflow that is run.

TASK = "antmaze-umaze-v2"
METHOD = "small"
SETTINGS = """
inherits: mfql-miniature
offline_steps: 20
online_steps: 15
eval_interval: 20
eval_episodes: 1
pretrain: {offline_steps: 20}
"""
# The released protocol, by whose rule a task without success never stops, even at a patience of one evaluation.
RELEASED = "released"
RELEASED_SETTINGS = """
inherits: mfql-released
early_stopping: 1
offline_steps: 20
batch_size: 16
policy_hidden: 8
policy_blocks: 1
critic_hidden: [16, 16]
num_candidates: 2
eval_interval: 5
eval_episodes: 1
log_interval: 10
"""


@dataclass(frozen=True)
class Small:
    """A working copy in which one D4RL task is fetched from a folder, trained, reported and replayed."""

    project: Project

    @classmethod
    def run(cls, folder: Path) -> Small:
        """Run the workflow to its end; what it prints is kept in a file."""
        project = clone(folder / "mfql")
        write_rollouts(folder / "published", TASK, episodes=3, steps=25)
        # What ships says another size of the published file.
        lock, file = project.folder / "config/datasets.lock.json", folder / "published" / f"{TASK}.hdf5"
        write_json(lock, {file.name: asdict(Checksum.of(file))})
        for method, settings in ((METHOD, SETTINGS), (RELEASED, RELEASED_SETTINGS)):
            (project.folder / f"config/methods/{method}.yaml").write_text(settings, encoding="utf-8")
        one = {"methods": [METHOD], "tasks": [TASK]}
        config = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text(encoding="utf-8"))
        config |= {
            "offline": one | {"methods": [METHOD, RELEASED]},
            "online": one,
            "seeds": [0, 1],
            "datasets_from": "../published",
        }
        (project.folder / "small.yaml").write_text(yaml.safe_dump(config | {"datasets": {}}), encoding="utf-8")
        printed = project.snakemake("replay", "--configfile", "small.yaml")
        printed += project.snakemake("all", "--configfile", "small.yaml")
        (project.folder / "printed.txt").write_text(printed, encoding="utf-8")
        return cls(project)

    @property
    def results(self) -> Path:
        return self.project.folder / "results"

    def listed(self) -> dict[str, int]:
        """Jobs by rule that Snakemake would run."""
        printed = self.project.snakemake("-n", "--quiet", "rules", "--configfile", "small.yaml")
        return jobs(printed)


@pytest.fixture(scope="session")
def small(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Small:
    """The working copy at its end, to be read or copied."""
    return Small(Project(made_once("d4rl", Small.run) / "mfql"))


def test_a_file_from_a_folder_is_trained_offline_and_online_and_reported(small: Small) -> None:
    assert re.search(r"data fetched +1\n", (small.project.folder / "printed.txt").read_text(encoding="utf-8"))
    lock = json.loads((small.project.folder / "config/datasets.lock.json").read_text(encoding="utf-8"))
    for stage in ("offline", "online"):
        run = small.results / f"runs/{METHOD}/{TASK}/seed1/{stage}"
        dataset = json.loads((run / "run/manifest.json").read_text(encoding="utf-8"))["dataset"]
        assert (dataset["source"], dataset["sha256"]) == ("downloaded", lock[f"{TASK}.hdf5"]["sha256"])
        assert json.loads((run / "run/manifest.json").read_text(encoding="utf-8"))["physics"]["corrected"] == [
            "contact margins"
        ]
        assert json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["metric"] == "normalized_return"
    assert TASK in (small.results / "miniature/scores.csv").read_text(encoding="utf-8")
    assert TASK in (small.results / "miniature/report.html").read_text(encoding="utf-8")


def test_by_the_released_protocol_a_d4rl_run_never_stops_early(small: Small) -> None:
    for seed in (0, 1):
        result = json.loads(
            (small.results / f"runs/{RELEASED}/{TASK}/seed{seed}/offline/evaluation.json").read_text(encoding="utf-8")
        )
        assert (result["metric"], result["status"], result["stopped_at"]) == ("normalized_return", "finished", None)
        assert [evaluation["step"] for evaluation in result["evaluations"]] == [0, 5, 10, 15, 20]
        # By the score's rule it had: no evaluation was better than the one before.
        returns = [evaluation["normalized_return"] for evaluation in result["evaluations"]]
        assert any(later <= earlier for earlier, later in pairwise(returns))
        log = (small.results / f"runs/{RELEASED}/{TASK}/seed{seed}/offline/run/metrics.csv").read_text(encoding="utf-8")
        assert log.splitlines()[-1].startswith("20,")


def test_replays_that_do_not_say_of_which_physics_they_are_are_made_anew(small: Small, tmp_path: Path) -> None:
    project = small.project.copy(tmp_path / "mfql")
    name = f"results/miniature/replay/{TASK}.json"
    # As an earlier version left both: the result, and Snakemake's record of a rule without parameters.
    replay, record = project.folder / name, project.folder / ".snakemake/metadata" / b64encode(name.encode()).decode()
    for path, changed in ((replay, {"dataset": ..., "simulation_version": ...}), (record, {"params": []})):
        known = json.loads(path.read_text(encoding="utf-8")) | changed
        path.write_text(json.dumps({key: value for key, value in known.items() if value is not ...}), encoding="utf-8")
    project.snakemake("replay", "--configfile", "small.yaml")
    found = json.loads(replay.read_text(encoding="utf-8"))
    assert (found["dataset"], found["simulation_version"]) == (TASK, 2)
    assert NOTHING_TO_DO in project.snakemake("-n", "replay", "--configfile", "small.yaml")


def test_replays_of_the_configurations_datasets_are_one_table_which_the_report_shows(small: Small) -> None:
    with open(small.results / "miniature/replay/replay.csv", encoding="utf-8", newline="") as file:
        rows = {row["quantity"]: row for row in csv.DictReader(file)}
    assert set(rows) == {"positions", "velocities"}
    # Recorded by this same simulator.
    assert all(float(row["median"]) < 5e-3 * float(row["moved"]) + 1e-6 for row in rows.values())
    assert {row["task"] for row in rows.values()} == {TASK}
    page = (small.results / "miniature/report.html").read_text(encoding="utf-8")
    section = page.partition("Recorded steps</h2>")[2].partition("</section>")[0]
    assert f"{float(rows['positions']['moved']):.1e}" in section


def test_a_plan_says_what_a_launch_then_does(
    small: Small, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = Small(small.project.copy(tmp_path / "mfql"))
    monkeypatch.chdir(copied.project.folder)

    def plan() -> str:
        assert main(["plan", "--configfile", "small.yaml"]) == 0
        return capsys.readouterr().out

    assert re.search(r"jobs +0\n", plan())
    assert NOTHING_TO_DO in copied.project.snakemake("--configfile", "small.yaml")

    Path(f"config/methods/{METHOD}.yaml").write_text(f"{SETTINGS}alpha: 2.0", encoding="utf-8")
    Path(f"results/runs/{METHOD}/{TASK}/seed0/online/evaluation.json").unlink()
    printed, listed = plan(), copied.listed()
    assert re.search(r"offline +1  2 runs: 2 trained anew\n", printed)
    assert re.search(r"online +1  2 runs: 2 trained anew\n", printed)
    assert "2 trained anew: alpha 1.0 -> 2.0 (" in printed
    assert "2 trained anew: alpha 1.0 -> 2.0, starts from another run (" in printed
    assert (listed["train_offline_0_1"], listed["train_online_0_1"]) == (1, 1)
    assert re.search(rf"jobs +{listed['total']}\n", printed)
