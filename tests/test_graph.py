"""The plan's jobs and runs against the table of Snakemake's own dry run, target by target."""

from __future__ import annotations

import io
import os
import re
import shutil
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import pytest
import yaml
from snakemake.cli import main as snakemake

from mfql.cli import main
from mfql.plan import graph
from mfql.plan.launch import STAGES, Launch, stage_of
from mfql.plan.outlook import Outlooks
from tests.support.project import clone, evaluation, jobs
from tests.support.training_runs import ROOT, TASK

pytestmark = pytest.mark.slow

MINIATURE = ("--configfile", "tests/miniature.yaml")
OTHER = "pointmaze-medium-navigate-singletask-task3-v0"
RUN = f"results/runs/mfql-miniature/{TASK}"
PATHS = [
    evaluation(0),
    evaluation(3, "online"),
    evaluation(2, "pretrain"),
    evaluation(9),  # of a seed that the configuration does not name
    evaluation(0, method="mfql-miniature+alpha=3"),
    evaluation(100, method="mfql-miniature+alpha=1"),  # of tuning
    f"results/runs/mfql-laptop/{OTHER}/seed1/offline/evaluation.json",
    "results/runs/mfql/visual-cube-single-play-singletask-task1-v0/seed0/offline/evaluation.json",
    f"{RUN}/seed1/offline/final.json",
    f"{RUN}/seed1/online/video.gif",
    f"{RUN}/seed7/offline/strip.png",
    "results/miniature/runs.txt",
    "results/miniature/scores.csv",
    "results/miniature/aggregate/curves.svg",
    "results/miniature/verdict/benchmark.tex",
    "results/miniature/report.html",
    "results/miniature/ablations/alpha/panel.json",
    "results/miniature/ablations/q_agg/plan.json",
    "results/miniature/toy/reduced/formulations/comparison/panel.json",
    "results/miniature/toy/paper/width/policy_hidden/figure.svg",
    "results/toy-runs/reduced/residual/samples.csv",
    "data/episodes2-seed0/pointmaze-medium-navigate-v0.json",
    "data/cube-single-play-v0.json",
    f"results/miniature/replay/{TASK}.json",
    "results/miniature/tuning/proposal.yaml",
    "results/miniature/claims/parity.csv",
]
CONFINED = [
    ("--until", "scores"),
    ("--until", "train_offline_0_3"),
    ("--until", evaluation(1)),
    ("--omit-from", "train_online_0_3"),
    ("--omit-from", "aggregate", "verdict"),
    ("report", "--omit-from", evaluation(0, "pretrain")),
    ("tune", "--until", "list_tuning_runs"),
    ("toy", "--omit-from", "train_toy_reduced"),
    ("offline", "tune", "--until", "generate"),
]


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working copy without results, in which this process then is."""
    project = clone(tmp_path / "mfql").folder
    shutil.copytree(ROOT / "tests/data", project / "tests/data")
    monkeypatch.chdir(project)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return project


@pytest.fixture
def begun(empty: Path) -> Path:
    """One in which some of everything is there, each file later than those that it is made from."""
    made = [
        "data/episodes2-seed0/pointmaze-medium-navigate-v0.json",
        *(evaluation(seed) for seed in range(4)),
        *(evaluation(seed, "pretrain") for seed in range(4)),
        *(evaluation(seed, method="flow_bc-miniature") for seed in range(2)),
        *(evaluation(seed, method="mfql-miniature+alpha=3+num_candidates=2+time_steps=10") for seed in (100, 101)),
        evaluation(9),
        f"{RUN}/seed1/offline/final.json",
        "results/miniature/runs.txt",
        "results/miniature/ablations/alpha/plan.json",
        *(f"results/toy-runs/reduced/residual/{name}" for name in ("metrics.csv", "samples.csv", "manifest.json")),
        f"results/miniature/replay/{TASK}.json",
    ]
    for age, name in enumerate(reversed(made)):
        path = empty / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}", encoding="utf-8")
        os.utime(path, (path.stat().st_atime, path.stat().st_mtime - age))
    return empty


def dry_run(*arguments: str) -> str:
    """All that `snakemake -n` prints."""
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as ended:
        snakemake([*arguments, "--dry-run"])
    assert ended.value.code == 0, said.getvalue()
    return said.getvalue()


def listed(arguments: Sequence[str]) -> tuple[int, int, int]:
    """Jobs, training jobs and the runs that they train, by a dry run's table and by the files that it names."""
    printed = dry_run(*arguments)
    table = jobs(printed.partition("\n\n[")[0])
    trained = [number for rule, number in table.items() if rule.startswith(("train_offline", "train_online"))]
    outputs = re.findall(r"^rule train_o\w+:\n(?:    input: .*\n)?    output: (.*)$", printed, re.MULTILINE)
    runs = {path for line in outputs for path in line.split(", ")}
    return table.get("total", 0), sum(trained), len(runs)


def planned(arguments: Sequence[str], capsys: pytest.CaptureFixture[str]) -> tuple[int, int, int]:
    """The same by `mfql plan`."""
    assert main(["plan", *arguments, "--gpus", "1"]) == 0
    printed = capsys.readouterr().out
    counts = dict(re.findall(r"^  (\w+(?: \w+){0,2}) +(\d+)(?:  .*)?$", printed, re.MULTILINE))
    total = int(counts.pop("jobs"))
    assert sum(map(int, counts.values())) == total
    assert "other" not in counts  # Every rule has a stage.
    trained = sum(int(counts.get(stage, 0)) for stage in ("offline", "pretrain", "online"))
    return total, trained, sum(map(int, re.findall(r"^  (?:offline|pretrain|online) +\d+  (\d+) runs:", printed, re.M)))


def target_rules() -> list[str]:
    """What `snakemake --list-target-rules` names, but for the claims, which are about another configuration."""
    names = re.findall(r"^(\w+)$", dry_run("--list-target-rules", *MINIATURE), re.MULTILINE)
    assert {"all", "tune", "claims", "judge_claims", "ablation_alpha", "toy_paper"} <= set(names)
    return sorted({*names} - {"claims", "judge_claims"})


def handed_over() -> tuple[int, int, int]:
    """The same by the jobs that the last dry run of this process found, as a launch hands them over."""
    (workflow, config, config_dir), *_ = graph._read
    outlooks = Outlooks(config, Path("results"), Path("config/datasets.lock.json"))
    launch = Launch(graph.graph_of(workflow, config, config_dir, None), config_dir, outlooks)
    assert not launch.counts["other"]
    return sum(launch.counts.values()), len(launch.jobs), sum(len(job.outlooks) for job in launch.jobs)


@pytest.mark.long
def test_every_target_rule_counts_as_snakemake_counts_it(begun: Path) -> None:
    found = {}
    for name in target_rules():
        found[name] = listed([name, *MINIATURE])
        assert handed_over() == found[name], name
    # Two points of the grid on a task of one's own, of which one is there; its list, its choice and the target.
    assert found["tune"] == (4, 1, 2)


@pytest.mark.parametrize("project", ["empty", "begun"])
def test_files_count_as_snakemake_counts_them(project: str, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue(project)
    for path in PATHS:
        expected = listed([path, *MINIATURE])
        assert handed_over() == expected, path


def test_a_plan_counts_as_snakemake_counts(begun: Path, capsys: pytest.CaptureFixture[str]) -> None:
    some = (["all"], ["offline"], ["tune"], ["replay", "parity"], PATHS[:1], PATHS[4:7])
    for asked in (*some, *CONFINED):
        arguments = [*asked, *MINIATURE]
        assert planned(arguments, capsys) == listed(arguments), asked


def test_claims_count_as_snakemake_counts_them(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["claims", "--configfile", "config/reduced.yaml"]
    assert planned(arguments, capsys) == listed(arguments)


def test_every_rule_of_the_workflow_has_a_stage(empty: Path) -> None:
    names = {line.split()[0] for line in dry_run("--list", *MINIATURE).splitlines() if re.match(r"\w+$", line)}
    assert {"fetch", "train_offline_pixels", "video", "plan_ablation", "toy_paper_width"} <= names
    for name in names:
        job = graph.Job(name, {"stage": "online"}, ("file",), True, {})
        assert stage_of(job) in set(STAGES) - {"other", "target"} or name in TARGETS


TARGETS = {"all", "offline", "online", "replay", "tune", "ablations", "toy", "toy_studies", "toy_paper", "claims"}


@pytest.mark.parametrize(
    ("target", "configfile"),
    [
        ("tune", "config/config.yaml"),
        ("toy_paper", "tests/miniature.yaml"),
        ("ablation_alpha", "config/config.yaml"),
        (f"results/runs/mfql/{TASK}/seed9/offline/evaluation.json", "tests/miniature.yaml"),
    ],
)
def test_without_a_gpu_no_target_of_gpu_size_starts(
    empty: Path, capsys: pytest.CaptureFixture[str], target: str, configfile: str
) -> None:
    assert main(["plan", target, "--configfile", configfile]) == 3
    assert "wants a GPU" in capsys.readouterr().out
    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said), pytest.raises(SystemExit) as ended:
        snakemake([target, "--configfile", configfile, "--cores", "1"])
    assert ended.value.code != 0
    assert "Nothing was started." in str(ended.value.code) + said.getvalue()


@pytest.mark.parametrize("method", ["mfql", "fql"])
def test_training_by_hand_has_the_guard_of_a_launch(
    empty: Path, capsys: pytest.CaptureFixture[str], method: str
) -> None:
    by_hand = ["train", "--method", method, "--task", TASK, "--stage", "offline", "--seeds", "0", "1"]
    assert main(by_hand) == 3
    printed = capsys.readouterr().out
    assert re.search(r"about [\d,]+ CPU-hours: \d+ days on", printed)
    assert "This configuration wants a GPU, and this machine has none. config/quickstart.yaml takes minutes" in printed
    assert "To go on all the same: --allow-cpu" in printed
    assert not (empty / "results/runs").exists()
    # It then goes on to what it lacks here, as does one of a small size by itself.
    assert main([*by_hand, "--allow-cpu"]) == 2
    assert main(["train", "--method", "mfql-miniature", *by_hand[3:]]) == 2
    assert capsys.readouterr().err.count("pointmaze-medium-navigate-v0") >= 2


def test_jobs_of_a_launch_are_not_judged_again(empty: Path) -> None:
    printed = dry_run("offline", *MINIATURE, "--printshellcmds")
    assert re.search(r"mfql --extension tests/miniature train --method mfql-miniature .* --allow-cpu > ", printed)


def test_trackers_of_the_configuration_reach_the_jobs(empty: Path) -> None:
    printed = dry_run("offline", *MINIATURE, "--config", "trackers=[wandb,mlflow]", "--printshellcmds")
    assert re.search(r" train --method mfql-miniature .* --allow-cpu --track wandb --track mlflow > ", printed)


# --- a cluster's queue ------------------------------------------------------------------------------------------------

PROFILE = {
    "executor": "slurm",
    "jobs": 7,
    "resources": {"runtime": 1100, "mem_mb": 30_000},
    "default-resources": {"runtime": 10, "mem_mb": 1000},
}


@pytest.mark.parametrize(
    ("scopes", "pooled"),
    [
        ({}, {"runtime": 2}),
        ({"runtime": "local"}, {}),
        ({"runtime": "local", "mem_mb": "global"}, {"mem_mb": 2}),
        ({"runtime": "global", "mem_mb": "global"}, {"runtime": 2, "mem_mb": 2}),
    ],
)
def test_a_profile_that_pools_is_named_with_the_remedy(
    empty: Path, capsys: pytest.CaptureFixture[str], scopes: dict[str, str], pooled: dict[str, int]
) -> None:
    folder = empty / "profiles/mine"
    folder.mkdir()
    scoped = {"set-resource-scopes": scopes} if scopes else {}
    (folder / "config.yaml").write_text(yaml.safe_dump(PROFILE | scoped), encoding="utf-8")
    assert main(["plan", "ablation_alpha", *MINIATURE, "--workflow-profile", "profiles/mine"]) == 0
    printed = capsys.readouterr().out
    assert "at most 7 jobs in the queue at once" in printed
    found = re.findall(r"THE PROFILE POOLS (\w+): .*: (\d+) at once\n(.*)\n", printed)
    assert {resource: int(number) for resource, number, _ in found} == pooled
    assert all(f"set-resource-scopes: {{{resource}: local}}" in remedy for resource, _, remedy in found)


@pytest.mark.parametrize("option", ["--profile", "--workflow-profile"])
def test_no_pipe_is_waited_for_in_the_place_of_a_profile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    monkeypatch.chdir(tmp_path)
    os.mkfifo("config.v8+.yaml")
    assert main(["plan", option, "."]) == 2
    assert "config.v8+.yaml: it is a named pipe, no file" in capsys.readouterr().err


def test_jobs_on_this_machine_have_no_queue(empty: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", *MINIATURE, "--snakemake", "--jobs", "3"]) == 0
    assert "in the queue" not in capsys.readouterr().out
