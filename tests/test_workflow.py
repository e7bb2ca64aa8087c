"""The workflow, driven as a user drives it: snakemake itself, on the miniature configuration, with real training."""

from __future__ import annotations

import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from mfql.experiment.configuration import in_workflow
from tests.support.processes import run
from tests.support.project import NOTHING_TO_DO, Project, clone, evaluation, jobs
from tests.support.training_runs import ROOT, TASK


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """A fresh working copy."""
    return clone(tmp_path / "mfql")


@pytest.fixture(scope="session")
def finished(made_once: Callable[[str, Callable[[Path], object]], Path]) -> Project:
    """A working copy in which the miniature, of four seeds a job, ran to its end, to be copied."""
    return Project(made_once("finished", lambda folder: clone(folder).miniature()))


# --- before anything runs ---------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_default_configuration_lists_the_whole_paper_without_data(project: Project) -> None:
    printed = run([sys.executable, "-m", "snakemake", "-n", "--quiet", "rules"], cwd=project.folder)
    assert printed.returncode == 0, printed.stderr
    # 68 state tasks; for the 10 of D4RL that go online the pretrain part, twice as long, is a run of its own. 5 pixel
    # tasks, 4 seeds each.
    counts = jobs(printed.stdout + printed.stderr)
    assert (counts["train_offline_0_7"], counts["train_online_0_7"], counts["fetch"]) == (78, 15, 33)
    assert counts["train_offline_pixels"] == 20
    assert {"scores", "aggregate", "report"} <= counts.keys()
    # Scored anew where training packs them: 68 tasks offline and 15 online, and each pixel run.
    assert (counts["evaluate_0_7"], counts["evaluate_pixels"]) == (83, 20)
    assert not (project.folder / "data").exists()
    # `mfql plan` counts the same jobs.
    planned = project.mfql("plan", "--gpus", "1")
    rows = re.findall(r"^  (\w+(?: \w+)?) +(\d+)(?:  .*)?$", planned, re.MULTILINE)
    assert {stage: int(count) for stage, count in rows} == {
        "jobs": counts["total"],
        "data fetched": counts["fetch"],
        "offline": counts["train_offline_0_7"] + counts["train_offline_pixels"] - 10,
        "pretrain": 10,
        "online": counts["train_online_0_7"],
        "evaluation": counts["evaluate_0_7"] + counts["evaluate_pixels"],
        "report": 5,
        "target": counts["all"],
    }


@pytest.mark.slow
def test_generated_data_of_an_earlier_physics_are_made_anew_and_others_are_not(project: Project) -> None:
    cube = "cube-single-play-singletask-task1-v0"
    wanted = {"methods": ["mfql-miniature"], "tasks": [TASK, cube]}
    changes = {
        "offline": wanted,
        "online": {"methods": [], "tasks": []},
        "datasets": {"cube-single-play-v0": {"source": "generate", "episodes": 2, "seed": 0}},
    }
    (project.folder / "cube.json").write_text(json.dumps(changes), encoding="utf-8")
    for name in ("pointmaze-medium-navigate-v0", "cube-single-play-v0"):
        path = project.folder / f"data/episodes2-seed0/{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text('{"source": "generated"}', encoding="utf-8")
    for seed in range(4):  # Newer than the data, and so finished.
        path = project.folder / evaluation(seed)
        path.parent.mkdir(parents=True)
        path.write_text("{}", encoding="utf-8")
    printed = project.snakemake("-n", "offline", "--configfile", "tests/miniature.yaml", "cube.json")
    assert jobs(printed) == {"generate": 1, "train_offline_0_3": 1, "offline": 1, "total": 3}
    assert "mfql data generate cube-single-play-v0 --out data/episodes2-seed0-simulation2 " in printed
    assert f"--task {cube} --stage offline --seeds 0 1 2 3 --data data/episodes2-seed0-simulation2 " in printed


@pytest.mark.slow
def test_linter_has_nothing_to_say(project: Project) -> None:
    assert "Congratulations" in project.snakemake("--lint")


@pytest.mark.slow
@pytest.mark.parametrize("name", ["quickstart", "laptop"])
def test_smaller_configurations_plan(project: Project, name: str) -> None:
    assert "report" in project.snakemake("-n", "--configfile", f"config/{name}.yaml")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "option"),
    [
        ("threads=4", ""),
        ("allow_cpu=true", ""),
        ("datasets_from=https://mirror/data", " --mirror https://mirror/data"),
        ("datasets_from=$SECRET_MIRROR", " --mirror '$MFQL_MIRROR'"),
        ("datasets_from=a {b}", " --from 'a {b}'"),
    ],
)
def test_datasets_are_fetched_from_where_the_configuration_says(
    project: Project, change: str, option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET_MIRROR", "https://me:secret@mirror/data")
    printed = project.snakemake("-n", "--printshellcmds", "--config", change)
    assert f"mfql data fetch cube-single-play-v0 --out data{option} > " in printed
    assert "secret" not in printed


@pytest.mark.slow
def test_faulty_task_table_is_named(project: Project) -> None:
    table = project.folder / "config/tasks.csv"
    table.write_text(table.read_text(encoding="utf-8").replace(",success,", ",succes,", 1), encoding="utf-8")
    printed = project.snakemake("-n", fails=True)
    assert re.search(
        r'Error: config/tasks\.csv: \S+-v0: metric: "succes" is none of success, normalized_return', printed
    )
    assert "Traceback" not in printed


@pytest.mark.slow
def test_unknown_run_is_named(project: Project) -> None:
    printed = project.snakemake("-n", evaluation(0, method="mfqll"), fails=True)
    assert "unknown method 'mfqll'" in printed
    assert "Traceback" not in printed


@pytest.mark.slow
def test_paper_does_not_start_without_a_gpu_and_names_the_smaller_configurations(project: Project) -> None:
    printed = project.snakemake(fails=True)
    assert "paper, all: 764 runs, 0 of them finished" in printed
    assert "config/quickstart.yaml" in printed
    assert "config/laptop.yaml" in printed
    assert "--config allow_cpu=true" in printed
    assert "Traceback" not in printed
    assert not (project.folder / "results/runs").exists()


# --- from another folder than the project's ---------------------------------------------------------------------------


def files_of(kind: str, printed: str) -> set[str]:
    """The files that a dry run names as `input` or `output` of its jobs."""
    return {path for files in re.findall(rf"^    {kind}: (.*)$", printed, re.MULTILINE) for path in files.split(", ")}


@pytest.mark.parametrize("config_dir", ["config", "../project/config", "/project/config"])
def test_path_that_ships_is_found_beside_the_configurations_folder(config_dir: str) -> None:
    written = {"expected": "<workflow>/config/a.yaml", "outside_scores": ["b.csv", "<workflow>/b.csv"], "threads": 1}
    folder = os.path.normpath(f"{config_dir}/..")
    assert in_workflow(written, config_dir) == {
        "expected": os.path.normpath(f"{folder}/config/a.yaml"),
        "outside_scores": ["b.csv", os.path.normpath(f"{folder}/b.csv")],
        "threads": 1,
    }


@pytest.mark.long
def test_no_target_looks_for_what_ships_in_the_working_directory(tmp_path: Path) -> None:
    shipped = {
        path.relative_to(ROOT).as_posix()
        for folder in ("config", "containers", "published", "shipped", "tests/data")
        for path in (ROOT / folder).rglob("*")
        if path.is_file()
    }
    assert {"config/tasks.csv", "config/toy.yaml", "published/mfql.csv", "tests/data/reference.npz"} <= shipped
    here = Project(tmp_path / "here")
    # What has the same name here is of no use to anybody; with a task table `config` would be this folder's own.
    for name in shipped - {"config/tasks.csv"}:
        (here.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (here.folder / name).write_text("%", encoding="utf-8")
    options = ("--snakefile", str(ROOT / "workflow/Snakefile"), "--configfile", str(ROOT / "config/reduced.yaml"))
    options += ("--config", "expected=<workflow>/config/quickstart-expected.yaml")
    targets = set(re.findall(r"^(\w+)$", here.snakemake("--list-target-rules", *options), re.MULTILINE))
    assert {"all", "claims", "tune", "replay", "parity", "toy_paper", "ablation_alpha"} <= targets
    printed = here.snakemake("-n", "--forceall", *sorted(targets), *options)
    assert f"profile {ROOT}/workflow/profiles/default" in printed
    needed = files_of("input", printed) - files_of("output", printed)
    commands = re.findall(r"^Shell command: (.*)$", printed, re.MULTILINE)
    named = {word for command in commands for word in command.split() if (here.folder / word).exists()}
    project = os.path.relpath(ROOT, here.folder)
    assert {f"{project}/config/quickstart-expected.yaml", f"{project}/tests/data/reference.npz"} <= needed
    assert {f"{project}/config", f"{project}/published", f"{project}/config/toy.yaml"} <= named
    assert all((here.folder / path).is_file() for path in needed)
    assert all(path.startswith("../") for path in needed | named)


@pytest.mark.long
def test_test_folder_of_the_catalog_ends_with_report_and_verdict(project: Project) -> None:
    for name in ("config/config.yaml", "methods/mfql-test.yaml", "expected.yaml"):
        (project.folder / ".test" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / ".test" / name, project.folder / ".test" / name)
    before = sorted(project.folder.iterdir())
    command = ("--directory", ".test", "--configfile", ".test/config/config.yaml")
    project.snakemake(*command)
    assert sorted(project.folder.iterdir()) == before
    results = project.folder / ".test/results"
    assert (results / "test/report.html").stat().st_size > 10_000
    assert f"task,offline,mfql-test,{TASK}," in (results / "test/verdict/verdict.csv").read_text(encoding="utf-8")
    assert NOTHING_TO_DO in project.snakemake(*command)


HOOKS = {"onstart": "announce", "onsuccess": "conclude", "onerror": "explain"}


def importing(folder: Path, *statements: str) -> Project:
    """A workflow of somebody's own, of which the project's is a module with these further statements."""
    shutil.copytree(ROOT / ".test/methods", folder / "own/methods")
    configuration = {
        "name": "study",
        "offline": {"methods": ["mfql-test"], "tasks": [TASK]},
        "online": {"methods": [], "tasks": []},
        "seeds": [3],
        "threads": 1,
        "datasets": {"pointmaze-medium-navigate-v0": {"source": "generate", "episodes": 2, "seed": 0}},
        "final_episodes": 0,
        "extensions": ["own"],
    }
    (folder / "study.yaml").write_text(json.dumps({"mfql": configuration, "theirs": 1}), encoding="utf-8")
    lines = [
        'configfile: "study.yaml"',
        "module mfql:",
        f'    snakefile: "{ROOT}/workflow/Snakefile"',
        '    config: config["mfql"]',
        *(f"    {statement}" for statement in statements),
        "use rule * from mfql",
        "rule sizes:",
        "    default_target: True",
        "    input: rules.report.output, rules.verdict.output",
        '    output: "results/sizes.txt"',
        '    shell: "wc -c {input} > {output}"',
        *(line for hook, call in HOOKS.items() for line in (f"{hook}:", f"    mfql.{call}()")),
    ]
    (folder / "Snakefile").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Project(folder)


@pytest.mark.long
def test_module_of_another_workflow_ends_with_report_and_verdict(tmp_path: Path) -> None:
    study = importing(tmp_path / "study")
    given = {path.name for path in study.folder.iterdir()}
    printed = study.snakemake()
    assert "study, all: 1 run, 0 of them finished" in printed
    assert "Report: results/study/report.html\n1 run: 1 finished\n" in printed
    assert "results/study/report.html" in (study.folder / "results/sizes.txt").read_text(encoding="utf-8")
    assert (study.folder / "results/study/report.html").stat().st_size > 10_000
    assert f"task,offline,mfql-test,{TASK}," in (study.folder / "results/study/verdict/verdict.csv").read_text(
        encoding="utf-8"
    )
    assert list(study.trained()) == [f"mfql-test/{TASK}/seed3/offline/run"]
    assert {path.name for path in study.folder.iterdir()} - given == {".snakemake", "data", "logs", "results"}
    # No profile is at work here: a command that differs from one launch to the next would be a reason to run it again.
    assert NOTHING_TO_DO in study.snakemake()


@pytest.mark.slow
@pytest.mark.parametrize("statement", ['prefix: "mine"', 'replace_prefix: {"results/": "mine/"}'])
def test_prefix_of_a_module_is_refused(tmp_path: Path, statement: str) -> None:
    printed = importing(tmp_path / "study", statement).snakemake("-n", fails=True)
    assert "Error: the module has a `prefix:`" in printed
    assert "Traceback" not in printed


# --- what runs, and what does not run again ---------------------------------------------------------------------------


@pytest.mark.slow
def test_python_may_lie_in_a_folder_with_blanks_and_home_may_take_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "it's a lab").symlink_to(sys.prefix)
    project = replace(clone(tmp_path / "mfql"), python=tmp_path / "it's a lab/bin/python")
    (tmp_path / "home").touch()
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for variable in ("XDG_CACHE_HOME", "MPLCONFIGDIR"):
        monkeypatch.delenv(variable, raising=False)
    project.miniature("results/miniature/runs.txt")
    assert "seed0/offline/evaluation.json" in (project.folder / "results/miniature/runs.txt").read_text(
        encoding="utf-8"
    )
    assert (project.folder / ".cache/snakemake").is_dir()


@pytest.mark.long
def test_one_seed_runs_only_what_it_needs_and_once(project: Project) -> None:
    target, name = evaluation(2), f"offline mfql-miniature {TASK} seed 2"
    printed = project.miniature(target, config=("seeds_per_job=1",))
    assert list(project.trained()) == [f"mfql-miniature/{TASK}/seed2/offline/run"]
    assert NOTHING_TO_DO in project.miniature(target, config=("seeds_per_job=1",))
    # A line for each job as it starts and as it ends; what Snakemake says of them is in its log.
    times = re.findall(r"^\d\d:\d\d:\d\d  (.*)$", printed, re.MULTILINE)
    took, score = r"(?:\d+ min )?\d+ s", r"success \d+ %"
    for line, pattern in zip(
        times,
        [
            "started    generate 2 0 pointmaze-medium-navigate-v0",
            rf"finished   generate 2 0 pointmaze-medium-navigate-v0  {took}  \[1 of 2 jobs\]",
            f"started    {name}",
            rf"finished   {name}  {took}, {score}  \[2 of 2 jobs\]",
        ],
        strict=True,
    ):
        assert re.fullmatch(pattern, line), line
    assert len(printed.splitlines()) <= 25
    whole = ("reason: ", "Shell command: ", "Job stats:", "Select jobs")
    assert not any(words in printed for words in whole)
    logs = sorted((project.folder / ".snakemake/log").glob("*.log"))
    assert all(words in logs[0].read_text(encoding="utf-8") for words in whole)
    verbose = project.miniature("results/miniature/runs.txt", "--verbose")
    assert all(words in verbose for words in whole)


@pytest.mark.long
def test_seed_outside_the_configuration_runs_alone(project: Project) -> None:
    project.miniature(evaluation(7))
    assert list(project.trained()) == [f"mfql-miniature/{TASK}/seed7/offline/run"]


@pytest.mark.slow
def test_miniature_ends_with_its_report_and_nothing_left_to_do(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "mfql")
    results = project.folder / "results/miniature"
    assert (results / "report.html").stat().st_size > 10_000
    assert "mfql-miniature" in (results / "scores.csv").read_text(encoding="utf-8")
    stages = {name.split("/")[3] for name in project.trained()}
    assert stages == {"offline", "pretrain", "online"}
    printed = project.miniature()
    assert NOTHING_TO_DO in printed
    assert "Scores: mean over seeds" in printed
    assert "\nReport: results/miniature/report.html\n16 runs: 16 finished\n" in printed
    assert "Scores: mean over seeds" not in project.miniature("-n")
    assert "Report created" in project.miniature("--report", "collected.html")
    assert "benchmark.csv" in (project.folder / "collected.html").read_text(encoding="utf-8")


def change_a_plot(project: Project) -> Project:
    with open(project.folder / "results/miniature/aggregate/curves.svg", "a", encoding="utf-8") as file:
        file.write("<!-- changed -->")
    return project


def edit_the_training_rule(project: Project) -> Project:
    rules = project.folder / "workflow/rules/train.smk"
    edited = rules.read_text(encoding="utf-8").replace('"exec mfql{EXTENSIONS}', '"exec nice mfql{EXTENSIONS}')
    assert edited != rules.read_text(encoding="utf-8")
    rules.write_text(edited, encoding="utf-8")
    return project


def pack_by_two(project: Project) -> Project:
    settings = project.folder / "tests/miniature.yaml"
    settings.write_text(
        settings.read_text(encoding="utf-8").replace("seeds_per_job: 4", "seeds_per_job: 2"), encoding="utf-8"
    )
    return project


def lose_an_evaluation(project: Project) -> Project:
    (project.folder / evaluation(1)).unlink()
    return project


def edit_a_comment_of_the_settings(project: Project) -> Project:
    with open(project.folder / "tests/miniature/methods/mfql-miniature.yaml", "a", encoding="utf-8") as file:
        file.write("# a remark\n")
    return project


def renew_the_dates_of_the_data(project: Project) -> Project:
    for path in (project.folder / "data").rglob("*"):
        os.utime(path)
    return project


def copy_the_results_elsewhere(project: Project) -> Project:
    """Only results/, into a new working copy, with new dates in the least fortunate order: the latest stage first."""
    moved = clone(project.folder.with_name("elsewhere"))
    shutil.copytree(project.folder / "results", moved.folder / "results", copy_function=shutil.copy)
    for age, stage in enumerate(("offline", "pretrain", "online")):
        for path in moved.folder.glob(f"results/runs/*/*/seed*/{stage}/evaluation.json"):
            os.utime(path, (path.stat().st_atime, path.stat().st_mtime - 100 * age))
    return moved


@pytest.mark.long
@pytest.mark.parametrize(
    "change",
    [
        change_a_plot,
        edit_the_training_rule,
        pack_by_two,
        lose_an_evaluation,
        edit_a_comment_of_the_settings,
        renew_the_dates_of_the_data,
        copy_the_results_elsewhere,
    ],
)
def test_nothing_trains_after(change: Callable[[Project], Project], finished: Project, tmp_path: Path) -> None:
    project = change(finished.copy(tmp_path / "mfql"))
    before = project.trained()
    project.miniature()
    assert project.trained() == before
    assert (project.folder / evaluation(1)).exists()
    assert NOTHING_TO_DO in project.miniature()


@pytest.mark.long
def test_each_file_that_is_lost_is_made_again(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "mfql")
    results = project.folder / "results/miniature"
    listed = set((results / "aggregate/panels.txt").read_text(encoding="utf-8").splitlines())
    printed = project.miniature("-n", "--force")
    asked = files_of("input", printed[printed.rindex("rule all:") :]) | listed
    written = {path.relative_to(project.folder).as_posix() for path in results.rglob("*") if path.is_file()}
    assert written <= asked
    lost = [
        results / "aggregate/tasks.tex",
        results / "aggregate/curves" / TASK / "offline/figure.svg",
        results / "verdict/verdict.md",
        project.folder / evaluation(1, "pretrain"),
    ]
    for path in lost:
        path.unlink()
    before = project.trained()
    project.miniature()
    assert all(path.is_file() for path in lost)
    assert project.trained() == before
    assert NOTHING_TO_DO in project.miniature()


@pytest.mark.slow
def test_launch_that_fails_ends_with_what_failed_and_why(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "mfql")
    (project.folder / "data/episodes2-seed0/pointmaze-medium-navigate-v0.npz").write_bytes(b"no archive")
    printed = project.miniature("offline", config=("seeds=[0,1,2,3,4]",), fails=True)
    at = printed.rindex("2 jobs failed:")
    end, log = printed[at:], f"logs/offline/mfql-miniature/{TASK}/seed4.log"
    # And as it happens: what, after how long, its log, the status, what the log ends with.
    ended = r"\n    returned non-zero exit status 2\.\n    mfql: data/"
    assert re.search(rf"FAILED     offline mfql-miniature {TASK} seed 4  .* s  {log}{ended}", printed[:at])
    assert "CalledProcessError" not in printed
    assert f"  train_offline_4 mfql-miniature {TASK} offline  {log}\n    mfql: data/episodes2-seed0/" in end
    assert "is no readable .npz file" in end
    assert "\n10 runs: 2 failed, 8 finished\nMend the cause; the same command then goes on" in end


@pytest.mark.slow
def test_changed_setting_trains_its_stage_anew_and_keeps_the_old_run(finished: Project, tmp_path: Path) -> None:
    project = finished.copy(tmp_path / "mfql")
    settings = project.folder / "tests/miniature/methods/flow_bc-miniature.yaml"
    settings.write_text(
        settings.read_text(encoding="utf-8").replace("batch_size: 16", "batch_size: 8"), encoding="utf-8"
    )
    before = project.trained()
    project.miniature("offline")
    after = project.trained()
    changed = {name for name in after if after[name] != before.get(name)}
    assert {name.split("/")[0] for name in changed} == {"flow_bc-miniature"}
    manifest = project.folder / f"results/runs/flow_bc-miniature/{TASK}/seed0/offline/run/manifest.json"
    assert json.loads(manifest.read_text(encoding="utf-8"))["settings"]["batch_size"] == 8
    assert set(before.values()) <= set(after.values())


@pytest.mark.long
def test_sixth_seed_trains_alone(project: Project) -> None:
    offline_only = ("offline={methods: [mfql-miniature]}", "online={methods: []}")
    project.miniature("offline", config=("seeds=[0,1,2,3,4]", *offline_only))
    before = project.trained()
    assert len(before) == 5
    project.miniature("offline", config=("seeds=[0,1,2,3,4,5]", *offline_only))
    after = project.trained()
    assert [name for name in after if after[name] != before.get(name)] == [f"mfql-miniature/{TASK}/seed5/offline/run"]
