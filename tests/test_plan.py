"""The plan of a launch: what it counts, what it says of runs that are there, and when it refuses."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from mfql.cli import main
from mfql.experiment.configuration import find_run
from mfql.experiment.run import Fate, RunFolder, changes, describe_run, go_on_together
from mfql.methods import declared_settings
from mfql.plan import EXIT_WANTS_GPU, planned_runs
from mfql.plan.cost import MeasuredSpeed, find_speed, hours_of, operations_of
from mfql.plan.launch import TrainingJob
from mfql.plan.outlook import Outlook
from mfql.plan.sizes import dataset_bytes
from tests.support.processes import run
from tests.support.project import clone

ROOT = Path(__file__).parents[1]
CONFIG = ROOT / "config"
TASK = "pointmaze-medium-navigate-singletask-task2-v0"
LARGE = "cube-double-play-singletask-task2-v0"
DATASET = "pointmaze-medium-navigate-v0"
METHOD = "mfql-quickstart"
NONE = {"methods": [], "tasks": []}


@pytest.fixture
def project(tmp_path, monkeypatch) -> Path:
    """A working copy, without results, and the folder in which `mfql plan` is asked."""
    folder = clone(tmp_path / "mfql").folder
    monkeypatch.chdir(folder)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return folder


@pytest.fixture
def config(project):
    def write(**changes) -> str:
        content = yaml.safe_load((CONFIG / "quickstart.yaml").read_text(encoding="utf-8"))
        path = project / "changed.yaml"
        path.write_text(yaml.safe_dump(content | changes), encoding="utf-8")
        return str(path)

    return write


@pytest.fixture
def plan(config, capsys):
    """Plan the quickstart with these changes; returns what is printed."""

    def run(*arguments: str, status: int = 0, **changes) -> str:
        assert main(["plan", *arguments, "--speed", "speed", "--configfile", config(**changes)]) == status
        captured = capsys.readouterr()
        return captured.out + captured.err

    return run


def jobs(printed: str) -> dict[str, int]:
    """Jobs by stage."""
    return {
        name: int(count) for name, count in re.findall(r"^  (\w+(?: \w+)?) +(\d+)(?:  .*)?$", printed, re.MULTILINE)
    }


# --- jobs -------------------------------------------------------------------------------------------------------------


def test_jobs_are_counted_by_stage(plan):
    printed = plan()
    expected = {
        "data generated": 1,
        "offline": 2,
        "pretrain": 1,
        "online": 1,
        "evaluation": 3,
        "report": 7,  # Two of them trajectories.
        "target": 1,
    }
    assert jobs(printed) == expected | {"jobs": 16}


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        ("offline", {"data generated": 1, "offline": 2, "target": 1}),
        (
            f"results/runs/{METHOD}/{TASK}/seed1/online/evaluation.json",
            {"data generated": 1, "pretrain": 1, "online": 1},
        ),
        (
            f"results/runs/{METHOD}/{TASK}/seed9/offline/final.json",
            {"data generated": 1, "offline": 1, "evaluation": 1},
        ),
    ],
)
def test_a_target_counts_what_it_needs_alone(plan, target, expected):
    counted = jobs(plan(target))
    assert counted.pop("jobs") == sum(expected.values())
    assert counted == expected


def test_a_reader_that_has_seen_enough_is_no_error():
    command = f"{sys.executable} -u -m mfql.cli ablation list | head -n 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, encoding="utf-8", check=True)
    assert (len(done.stdout.splitlines()), done.stdout.splitlines()[-1], done.stderr) == (2, "0", "")


def test_a_reused_offline_run_counts_once():
    paper = {"methods": ["mfql"], "tasks": [LARGE]}
    runs = planned_runs({"offline": paper, "online": paper, "seeds": [0]}, CONFIG)
    assert [run.stage for run in runs] == ["offline", "online"]


# --- the machine ------------------------------------------------------------------------------------------------------


def test_a_full_size_configuration_stops_without_a_gpu_and_names_the_smaller_ones(plan):
    paper = {"methods": ["mfql"], "tasks": [LARGE]}
    changes = {"offline": paper, "online": paper, "seeds": list(range(8)), "datasets": {}}
    printed = plan(status=EXIT_WANTS_GPU, **changes)
    assert "config/quickstart.yaml" in printed
    assert "allow_cpu=true" in printed
    plan("--allow-cpu", **changes)
    assert "2 GPU" in plan("--gpus", "2", **changes)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (("--configfile", "absent.yaml"), "absent.yaml"),
        (("--configfile", "workflow/Snakefile"), "workflow/Snakefile"),
        (("--config", "seeds=three"), 'configuration: seeds: "three" is not a list\n  Write a list of different '),
        (("nonsense",), "unknown target 'nonsense'"),
        (("--until", "nonsense"), "unknown target 'nonsense'"),
        (("results/runs/mfqll/scene-play-singletask-task2-v0/seed7/offline/evaluation.json",), "'mfqll'"),
        (("claims",), "the claims are about the runs of the configuration reduced, not of paper"),
        (("--profile", "elsewhere"), "elsewhere"),
        (("--snakemake", "--nonsense"), "unrecognized arguments: --nonsense"),
        (("--snakemake", "--list"), "looks for no jobs"),
    ],
)
def test_what_snakemake_refuses_is_named_without_a_traceback(project, capsys, arguments, named):
    assert main(["plan", *arguments]) == 2
    said = capsys.readouterr()
    assert named in said.err
    assert "Traceback" not in said.err
    assert not said.out


@pytest.mark.parametrize(
    ("words", "named"),
    [
        (("--configfile", "absent.yaml"), "cannot read absent.yaml"),
        (("-n", "--configfile=absent.yaml", "offline"), "cannot read absent.yaml"),
        (("--configfile", "config/quickstart.yaml", "offline"), "no file offline\n  Name targets before it."),
        (("--configfiles", "config/quickstart.yaml", "workflow/Snakefile", "-n"), "workflow/Snakefile"),
    ],
)
def test_a_launch_refuses_what_is_no_configuration_before_snakemake_begins(project, capsys, words, named):
    assert main(["run", *words]) == 2
    said = capsys.readouterr()
    assert named in said.err
    assert not said.out


def test_a_folder_without_a_workflow_has_the_projects(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["plan", "--configfile", "config/quickstart.yaml"]) == 0
    assert "quickstart, all: 12 runs, 0 of them finished" in capsys.readouterr().out
    assert not list(tmp_path.glob("results"))


def test_a_machine_without_torch_plans(config):
    command = "import sys; sys.modules['torch'] = None; from mfql.cli import main; sys.exit(main(sys.argv[1:]))"
    arguments = ["plan", "--configfile", config()]
    done = run([sys.executable, "-c", command, *arguments])
    assert done.returncode == 0, done.stderr
    assert "offline" in done.stdout


# --- hours and bytes --------------------------------------------------------------------------------------------------


def test_a_paper_sized_update_costs_what_the_networks_say():
    """About 21 GFLOP at observation 29, action 8, batch 256, K 5 after the exact shortcuts, within a quarter."""
    run = find_run({"seeds": [0]}, CONFIG, "mfql", "antmaze-large-navigate-singletask-task1-v0", "offline")
    assert operations_of(run) == pytest.approx(21e9, rel=0.25)


def speed_file(folder: Path, **changes) -> Path:
    one = {"device": "cuda", "seeds": 8, "operations": 2e10}
    content = {
        "machine": {"gpu": "NVIDIA H100", "cpu": "Xeon"},
        "date": "2026-11-22",
        "command": "make bench",
        "measurements": [one | {"stage": "offline", "seconds": 0.01}, one | {"stage": "online", "seconds": 0.02}],
    }
    path = folder / "speed"
    path.write_text(json.dumps(content | changes), encoding="utf-8")
    return path


def test_hours_come_from_measured_speed_where_there_is_some(plan, project):
    paper = {"methods": ["mfql"], "tasks": [LARGE]}
    changes = {"offline": paper, "online": NONE, "datasets": {}}
    assert "rule of thumb" in plan("offline", "--gpus", "1", **changes)
    speed_file(project)
    printed = plan("offline", "--gpus", "1", **changes)
    assert "measured on NVIDIA H100 on 2026-11-22 by `make bench`" in printed
    assert "matrix products" in plan("offline", "--allow-cpu", **changes)
    # A million updates at 0.01 s, and evaluations.
    assert 2.7 < float(re.search(r"about ([\d.]+) GPU-hours", printed)[1]) < 3.5


@settings(deadline=None)
@given(seeds=st.integers(1, 64), more=st.integers(1, 64))
def test_more_seeds_never_take_less_time(seeds, more):
    run = find_run({"seeds": [0]}, CONFIG, "mfql", LARGE, "offline")
    speed = MeasuredSpeed("", {"offline": [(1e10, 0.004), (16e10, 0.01)]})
    assert speed.seconds(run, seeds) <= speed.seconds(run, seeds + more)
    assert speed.seconds(run, 640) == pytest.approx(10 * speed.seconds(run, 64))


def training_job(stage: str) -> TrainingJob:
    run = find_run({"seeds": [0]}, CONFIG, "mfql", LARGE, stage)
    return TrainingJob(run, (Outlook(RunFolder(Path(), "mfql", LARGE, 0, stage), Fate.NEW, "", (), ""),), True)


@pytest.mark.parametrize(
    ("threads", "cores", "measured", "elapsed", "cpu"),
    [
        (1, 2, 1, 2.0, 4.0),
        (2, 2, 1, 4.0, 8.0),
        (2, 5, 2, 2.0, 8.0),
        (4, 2, 1, 4.0, 8.0),
        (1, 8, 1, 1.0, 4.0),
        # A step that was measured on more cores than a job has, or nobody knows on how many, takes these.
        (1, 8, 4, 2.0, 16.0),
        (1, 2, None, 4.0, 8.0),
    ],
)
def test_without_a_gpu_as_many_jobs_train_at_once_as_find_cores(threads, cores, measured, elapsed, cpu):
    job, speed = training_job("offline"), MeasuredSpeed("", {"offline": [(1.0, 1e-3)]}, measured)
    alone = hours_of([job], 0.0, speed, threads, 0, threads).elapsed
    hours = hours_of([job] * 4, 0.0, speed, threads, 0, cores)
    assert (hours.gpu, hours.elapsed, hours.cpu) == (0.0, pytest.approx(elapsed * alone), pytest.approx(cpu * alone))


def test_what_starts_from_a_run_waits_for_it():
    first, second = training_job("offline"), training_job("online")
    speed = MeasuredSpeed("", {"offline": [(1.0, 1e-3)], "online": [(1.0, 2e-3)]}, 1)
    alone = [hours_of([job], 0.0, speed, 1, 0, 8).elapsed for job in (first, second)]
    assert min(alone) > 0
    assert hours_of([second, first], 0.0, speed, 1, 0, 8).elapsed == pytest.approx(sum(alone))


@pytest.mark.parametrize("measurements", [3, [{"device": "cuda"}], [{"device": "cuda", "stage": "later"}]])
def test_a_faulty_file_of_measured_speed_is_named(plan, project, measurements):
    speed_file(project, measurements=measurements)
    assert "no file of measured speed" in plan("--gpus", "1", status=2)


def test_speed_of_another_device_is_not_used(tmp_path):
    assert not isinstance(find_speed(speed_file(tmp_path), gpus=0), MeasuredSpeed)


def test_recorded_sizes_are_used_and_files_in_place_are_no_download(plan, project):
    lock = {f"{DATASET}{split}.npz": {"bytes": size, "sha256": "0" * 64} for split, size in (("", 7e9), ("-val", 1e9))}
    (project / "config" / "datasets.lock.json").write_text(json.dumps(lock), encoding="utf-8")
    published = {"datasets": {DATASET: {"source": "fetch"}}}
    assert "8 GB to download" in plan("offline", **published)
    assert "8 GB to take from /some/folder" in plan("offline", **published, datasets_from="/some/folder")
    (project / "data").mkdir()
    (project / "data" / f"{DATASET}.npz").touch()
    printed = plan("offline", **published)
    assert "1 GB to download" in printed
    assert "estimated from" not in printed


def test_an_estimated_size_is_near_that_of_the_file():
    """100 episodes of the point maze, as the quickstart generates them, are 2.2 MB."""
    assert dataset_bytes(DATASET, episodes=100) == pytest.approx(2.23e6, rel=0.5)


# --- runs that are there ----------------------------------------------------------------------------------------------


class Folder:
    """Run folders as the trainer leaves them."""

    def __init__(self, project: Path) -> None:
        self.results, self.data = project / "results", project / "data" / "episodes100-seed0"
        self.data.mkdir(parents=True)
        self.describe_data("a" * 64)

    def describe_data(self, sha256: str) -> None:
        (self.data / f"{DATASET}.json").write_text(
            json.dumps({"source": "generated", "sha256": {"train": sha256}}), encoding="utf-8"
        )

    def leave(self, seed: int, finished: bool = True, steps: tuple[int, ...] = (), **changes) -> RunFolder:
        agent, declared = declared_settings(METHOD, TASK, "offline", CONFIG)
        folder = RunFolder(self.results, METHOD, TASK, seed, "offline")
        data = {"name": DATASET, "sha256": "a" * 64}
        version = changes.pop("version", None)
        manifest = describe_run(folder, agent, declared.as_dict() | changes, data, None)
        if version is not None:
            manifest |= {"training_version": version, "identity": "earlier"}
        (folder.trained / "checkpoint").mkdir(parents=True)
        (folder.trained / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
        for step in steps:
            folder.checkpoints.path(step).touch()
        if finished:
            (folder.trained / "evaluation.json").write_text("{}", encoding="utf-8")
            (folder.folder / "evaluation.json").write_text("{}", encoding="utf-8")
        return folder


@pytest.fixture
def runs(project):
    return Folder(Path())


ONE_METHOD = {"offline": {"methods": [METHOD], "tasks": [TASK]}, "online": NONE}


def test_finished_runs_leave_nothing_to_do(plan, runs):
    for seed in range(3):
        runs.leave(seed)
    printed = plan("offline", **ONE_METHOD)
    assert "3 runs, 3 of them finished" in printed
    assert jobs(printed) == {"jobs": 0}


def test_a_lost_result_is_delivered_again_and_trains_nothing(plan, runs):
    for seed in range(3):
        run = runs.leave(seed)
    (run.folder / "evaluation.json").unlink()
    printed = plan("offline", **ONE_METHOD)
    assert "3 runs: 3 finished" in printed
    assert "about 0.0 CPU-hours" in printed


def test_a_killed_run_goes_on_from_its_last_checkpoint(plan, runs):
    for seed in range(3):
        runs.leave(seed, finished=False, steps=(2000, 4000))
    assert f"3 continued ({METHOD}/{TASK}/seed0/offline from step 4000" in plan("offline", **ONE_METHOD)


def test_a_changed_setting_or_training_version_is_the_reason_to_train_anew(plan, runs):
    runs.leave(0, alpha=77.0)
    runs.leave(1, version=[0, 1])
    printed = plan("offline", **ONE_METHOD)
    assert "1 new, 2 trained anew" in printed
    assert re.search(r"1 trained anew: alpha 77\.0 -> [\d.]+ \(", printed)
    assert "1 trained anew: training version [0, 1] -> [1, 1] (" in printed
    assert f"new           {RunFolder(runs.results, METHOD, TASK, 2, 'offline').folder}" in plan(
        "--verbose", **ONE_METHOD
    )


@pytest.mark.parametrize(("finished", "expected"), [(True, "1 of them finished"), (False, "1 continued (")])
def test_an_earlier_run_of_the_settings_that_hold_again_is_no_new_one(plan, runs, finished, expected):
    folder = runs.leave(0, finished=finished, steps=(2000,))
    folder.trained.rename(folder.trained.with_name(f"run.{folder.manifest()['identity']}"))
    runs.leave(0, alpha=77.0)
    printed = plan("offline", **ONE_METHOD)
    assert expected in printed
    assert "trained anew" not in printed


def test_changed_data_are_refused_and_hold_up_the_seeds_of_the_job(plan, runs):
    runs.leave(0)
    runs.describe_data("b" * 64)
    printed = plan("offline", **ONE_METHOD)
    assert f"1 refused: dataset {'a' * 16} -> {'b' * 16}" in printed
    assert "2 more share a job" in printed


def test_a_damaged_manifest_is_named_and_does_not_stop_the_plan(plan, runs):
    (runs.leave(0).trained / "manifest.json").write_text("{", encoding="utf-8")
    assert "manifest.json is not valid JSON" in plan("offline", **ONE_METHOD)


def test_runs_whose_data_are_not_there_yet_are_judged_by_their_settings(plan, runs):
    runs.leave(0)
    (runs.data / f"{DATASET}.json").unlink()
    assert "2 new, 1 finished" in plan("offline", **ONE_METHOD)


@settings(deadline=None)
@given(
    st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(0, 2), st.lists(st.integers(0, 1)))),
    st.dictionaries(st.sampled_from("abc"), st.one_of(st.integers(0, 2), st.lists(st.integers(0, 1)))),
    st.sampled_from(["x" * 64, "y" * 64]),
    st.sampled_from([None, {"stage": "offline", "identity": "p"}, {"stage": "offline", "identity": "q"}]),
)
def test_a_run_changed_if_and_only_if_its_identity_did(before, now, sha256, parent):
    folder = RunFolder(Path("results"), "m", "t", 0, "online")
    was = describe_run(folder, "mfql", before, {"name": "d", "sha256": "x" * 64}, None)
    wanted = describe_run(folder, "mfql", now, {"name": "d", "sha256": sha256}, parent)
    assert bool(changes(was, wanted)) == (was["identity"] != wanted["identity"])


@settings(deadline=None)
@given(st.dictionaries(st.integers(0, 4), st.sets(st.integers(1, 3), max_size=2), min_size=1))
def test_seeds_of_a_job_go_on_from_a_step_that_each_has(checkpoints):
    groups = go_on_together(checkpoints)
    assert sorted(seed for group in groups for seed in group) == sorted(checkpoints)
    for group in groups:
        assert len(set(group.values())) == 1
        assert all(step in checkpoints[seed] if step else not checkpoints[seed] for seed, step in group.items())
    if common := set.intersection(*map(set, checkpoints.values())):
        assert set(groups[0].values()) == {max(common)}


def test_a_fate_is_told_from_the_folder(runs):
    folder = runs.leave(0, steps=(10,))
    manifest = folder.manifest()
    assert folder.fate(manifest) is Fate.FINISHED
    (folder.trained / "evaluation.json").unlink()
    assert folder.fate(manifest) is Fate.CONTINUED
    assert folder.fate(manifest | {"identity": "other"}) is Fate.RETRAINED
    other = manifest | {"identity": "other", "dataset": manifest["dataset"] | {"sha256": "b" * 64}}
    assert folder.fate(other) is Fate.REFUSED


@pytest.mark.parametrize(("source", "fate"), [("generated", Fate.RETRAINED), ("downloaded", Fate.REFUSED)])
def test_other_data_are_on_purpose_where_they_were_generated_in_an_earlier_physics(runs, source, fate):
    folder = runs.leave(0)
    manifest = folder.manifest()
    data = manifest["dataset"] | {"source": source}
    del manifest["simulation_version"]  # As in a manifest from before there was one.
    (folder.trained / "manifest.json").write_text(json.dumps(manifest | {"dataset": data}), encoding="utf-8")
    wanted = {"identity": "other", "dataset": data | {"sha256": "b" * 64}}
    assert folder.fate(manifest | wanted | {"simulation_version": 2}) is fate
    assert folder.fate(manifest | wanted | {"simulation_version": 1}) is Fate.REFUSED


CUBE, CUBE_DATA = "cube-single-play-singletask-task1-v0", "cube-single-play-v0"
ONE_CUBE = {
    "offline": {"methods": [METHOD], "tasks": [CUBE]},
    "online": NONE,
    "datasets": {CUBE_DATA: {"source": "generate", "episodes": 100, "seed": 0}},
}


def test_data_of_an_earlier_physics_are_generated_anew_beside_them(plan, runs):
    (runs.data / f"{CUBE_DATA}.json").write_text(
        json.dumps({"source": "generated", "sha256": {"train": "a" * 64}}), encoding="utf-8"
    )
    printed = plan("offline", **ONE_CUBE)
    assert jobs(printed) == {"jobs": 3, "data generated": 1, "offline": 1, "target": 1}
    assert f"generated anew: {CUBE_DATA}: simulation version 1 -> 2; earlier data stay in {runs.data}\n" in printed
    assert "3 runs: 3 new" in printed


def test_data_of_another_physics_in_the_place_of_todays_are_refused_as_in_training(plan, runs):
    folder = runs.data.with_name(f"{runs.data.name}-simulation2")
    folder.mkdir()
    (folder / f"{CUBE_DATA}.json").write_text(
        json.dumps({"source": "generated", "sha256": {"train": "a" * 64}}), encoding="utf-8"
    )
    printed = plan("offline", **ONE_CUBE)
    assert f"3 refused: {CUBE_DATA} in {folder} was generated with simulation version 1, today's is 2" in printed
    assert "data generated" not in printed
