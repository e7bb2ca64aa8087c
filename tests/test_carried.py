"""Archives of what jobs hand on where they share no folder, and the rules that declare them then; docs/cluster.md."""

from __future__ import annotations

import os
import re
import tarfile
from pathlib import Path

import pytest
import yaml

from mfql.cli import main
from mfql.documents import read_json, write_json
from mfql.errors import UserError
from mfql.experiment.carried import pack, pack_panels, pack_run, unpack
from mfql.experiment.run import OUTPUTS, RunFolder
from mfql.locks import locked
from mfql.operations.ending import answer_of, failure_of
from mfql.plan.graph import FailedJob, Graph, Job
from tests.support.project import Project, clone, jobs
from tests.support.training_runs import ROOT, TASK

_RUNS = rf"results/runs/mfql-miniature/{TASK}/seed0"
_STORAGE = ("--default-storage-provider", "pretended", "--default-storage-prefix", "far://away")


def written(path: Path, text: str = "") -> Path:
    """A file with its folders."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text or path.name, encoding="utf-8")
    return path


def names(archive: Path) -> list[str]:
    """What an archive holds."""
    with tarfile.open(archive) as tar:
        return tar.getnames()


def finished_run(results: Path, stage: str) -> RunFolder:
    """The files of a run, which nobody reads here."""
    run = RunFolder(results, "mfql", "task", 3, stage)
    for name in ("manifest.json", *OUTPUTS, "checkpoint/step-000000005.pt", "checkpoint/step-000000010.pt"):
        written(run.trained / name)
    written(run.folder / "evaluation.json")
    return run


def test_what_was_packed_lies_elsewhere_as_it_was(tmp_path: Path) -> None:
    file = written(tmp_path / "here/run/policy/policy.json", "a policy")
    os.utime(file, (10, 10))
    pack(tmp_path / "here/run.tar", [file])
    (tmp_path / "there").mkdir()
    os.rename(tmp_path / "here/run.tar", tmp_path / "there/run.tar")
    unpack(tmp_path / "there/run.tar")
    found = tmp_path / "there/run/policy/policy.json"
    assert found.read_text(encoding="utf-8") == "a policy"
    assert found.stat().st_mtime == 10


def test_an_archive_does_not_say_who_packed_it(tmp_path: Path) -> None:
    pack(tmp_path / "run.tar", [written(tmp_path / "file")])
    with tarfile.open(tmp_path / "run.tar") as tar:
        member = tar.next()
    assert (member.uid, member.gid, member.uname, member.gname) == (0, 0, "", "")


def test_a_file_that_is_there_is_left_alone_and_a_changed_one_replaced(tmp_path: Path) -> None:
    same, changed = written(tmp_path / "same"), written(tmp_path / "changed")
    pack(tmp_path / "run.tar", [same, changed])
    before = same.stat().st_ino
    written(changed, "another text")
    unpack(tmp_path / "run.tar")
    assert same.stat().st_ino == before
    assert changed.read_text(encoding="utf-8") == "changed"


def test_a_run_is_packed_without_checkpoints_and_an_earlier_stage_with_its_last(tmp_path: Path) -> None:
    for stage in ("pretrain", "online"):
        pack_run(finished_run(tmp_path, stage))
    pretrain, online = (RunFolder(tmp_path, "mfql", "task", 3, stage).folder for stage in ("pretrain", "online"))
    assert names(pretrain / "run.tar") == ["run/manifest.json", *(f"run/{name}" for name in OUTPUTS)]
    assert names(online / "run.tar") == names(pretrain / "run.tar")
    assert names(pretrain / "checkpoint.tar") == ["run/checkpoint/step-000000010.pt"]
    assert not (online / "checkpoint.tar").exists()


def test_panels_and_all_results_are_put_in_place_together(tmp_path: Path) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    pack_run(finished_run(here, "offline"))
    aggregates = here / "study/aggregate"
    panel = written(aggregates / "curves/panel.json")
    written(aggregates / "panels.txt", f"{panel}\n")
    pack_panels(aggregates)
    for archive in here.rglob("*.tar"):
        target = there / archive.relative_to(here)
        target.parent.mkdir(parents=True, exist_ok=True)
        os.rename(archive, target)
    assert main(["carry", "unpack", "--results", str(there), "--study", "study"]) == 0
    run = RunFolder(there, "mfql", "task", 3, "offline")
    assert sorted(path.name for path in run.trained.iterdir()) == [
        "evaluation.json",
        "manifest.json",
        "metrics.csv",
        "policy",
    ]
    assert (there / "study/aggregate/curves/panel.json").is_file()


@pytest.mark.parametrize("name", ["../outside", "/outside", "inside/../../outside"])
def test_nothing_is_unpacked_outside_an_archives_folder(tmp_path: Path, name: str) -> None:
    archive = tmp_path / "inner/run.tar"
    archive.parent.mkdir()
    with tarfile.open(archive, "w") as tar:
        tar.addfile(tarfile.TarInfo(name))
    with pytest.raises(UserError, match="no file below its folder"):
        unpack(archive)
    assert [path.name for path in tmp_path.rglob("*")] == ["inner", "run.tar"]


def test_no_link_is_packed_or_written_through(tmp_path: Path) -> None:
    written(tmp_path / "inner/run/file")
    pack(tmp_path / "inner/run.tar", [tmp_path / "inner/run/file"])
    os.rename(tmp_path / "inner/run", tmp_path / "elsewhere")
    (tmp_path / "inner/run").symlink_to(tmp_path / "elsewhere")
    written(tmp_path / "elsewhere/file", "somebody's")
    with pytest.raises(UserError, match="is a link"):
        unpack(tmp_path / "inner/run.tar")
    with pytest.raises(UserError, match="is a link"):
        pack(tmp_path / "inner/other.tar", [tmp_path / "inner/run/file"])
    assert (tmp_path / "elsewhere/file").read_text(encoding="utf-8") == "somebody's"


def test_a_run_of_other_settings_is_moved_aside_and_not_written_over(tmp_path: Path) -> None:
    run = finished_run(tmp_path, "offline")
    manifest, own = run.trained / "manifest.json", {"method": "mfql", "task": "task", "seed": 3, "stage": "offline"}
    write_json(manifest, own | {"identity": "packed"})
    pack_run(run)
    write_json(manifest, own | {"identity": "trained here"})
    written(run.trained / "metrics.csv", "trained for days")
    unpack(run.folder / "run.tar")
    assert read_json(manifest)["identity"] == "packed"
    assert (run.trained / "metrics.csv").read_text(encoding="utf-8") == "metrics.csv"
    aside = run.folder / "run.trained here"
    assert (aside / "metrics.csv").read_text(encoding="utf-8") == "trained for days"
    write_json(manifest, own | {"identity": "in training"})
    with locked(run.lock), pytest.raises(UserError, match="is in use"):
        unpack(run.folder / "run.tar")
    assert read_json(manifest)["identity"] == "in training"


@pytest.mark.parametrize(
    "headers", [{"mtime": "1e30"}, {"mtime": "1e400"}, {"mtime": "nan"}, {"path": "a\0b"}], ids=str
)
def test_an_archive_with_impossible_dates_or_names_is_refused(tmp_path: Path, headers: dict[str, str]) -> None:
    with tarfile.open(tmp_path / "run.tar", "w", format=tarfile.PAX_FORMAT) as tar:
        member = tarfile.TarInfo("file")
        member.pax_headers = headers
        tar.addfile(member)
    with pytest.raises(UserError, match=r"run\.tar is cut or damaged"):
        unpack(tmp_path / "run.tar")


def test_a_name_that_no_folder_takes_is_refused(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "run.tar", "w") as tar:
        tar.addfile(tarfile.TarInfo("a" * 5000))
    with pytest.raises(UserError, match="File name too long"):
        unpack(tmp_path / "run.tar")


def test_a_cut_archive_is_refused_with_what_to_do(tmp_path: Path) -> None:
    pack(tmp_path / "run.tar", [written(tmp_path / "file", "text " * 1000)])
    content = (tmp_path / "run.tar").read_bytes()
    (tmp_path / "file").unlink()
    (tmp_path / "run.tar").write_bytes(content[:2000])
    with pytest.raises(UserError, match="cut or damaged"):
        unpack(tmp_path / "run.tar")
    assert not (tmp_path / "file").exists()
    (tmp_path / "run.tar").unlink()
    with pytest.raises(UserError, match=r"run\.tar is absent"):
        unpack(tmp_path / "run.tar")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A working copy whose Snakemake has a storage plugin."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests/support/storage"), prepend=os.pathsep)
    return clone(tmp_path / "mfql")


def declared(printed: str, rule: str) -> dict[str, set[str]]:
    """The files that the first job of a rule reads and writes, of those that a storage holds."""
    block = re.search(rf"^rule {rule}:\n((?:    .*\n)+)", printed, re.MULTILINE)[1]
    said = dict(re.findall(r"^    (input|output): (.*)$", block, re.MULTILINE))
    return {kind: set(re.findall(r"far://away/(\S+) \(", files)) for kind, files in said.items()}


@pytest.mark.slow
def test_with_a_storage_jobs_declare_what_they_hand_on(project: Project) -> None:
    changes = ("seeds=[0]", "seeds_per_job=1", "final_episodes=1", "trajectories=1")
    printed = project.miniature("-n", *_STORAGE, config=changes)
    assert "miniature/config" not in printed
    online = declared(printed, "train_online_0")
    assert online["input"] >= {f"{_RUNS}/pretrain/{name}" for name in ("evaluation.json", "run.tar", "checkpoint.tar")}
    assert "data/episodes2-seed0/pointmaze-medium-navigate-v0.tar" in online["input"]
    assert online["output"] == {f"{_RUNS}/online/{name}" for name in ("evaluation.json", "run.tar")}
    for rule in ("scores", "verdict", "report"):
        runs = {f"{_RUNS}/{stage}/run.tar" for stage in ("offline", "pretrain", "online")}
        assert declared(printed, rule)["input"] >= runs
    assert "results/miniature/aggregate/panels.tar" in declared(printed, "report")["input"]
    # What is the project's comes with the sources.
    assert not [path for path in declared(printed, "verdict")["input"] if not path.startswith("results/")]
    commands = re.findall(r"^Shell command: (.*)$", printed, re.MULTILINE)
    assert not [command for command in commands if re.search(r" (results|data|logs)/", command)]


@pytest.mark.slow
def test_without_a_storage_there_are_the_same_jobs_and_no_archives(project: Project) -> None:
    plain, stored = project.miniature("-n"), project.miniature("-n", *_STORAGE)
    assert jobs(plain) == jobs(stored)
    assert ".tar" not in plain
    assert "mfql carry" not in plain


@pytest.mark.slow
def test_a_plan_of_a_storage_counts_jobs_alone(project: Project) -> None:
    said = project.mfql("plan", "--configfile", "tests/miniature.yaml", "--snakemake", *_STORAGE)
    assert re.search(r"^miniature, all: \d+ jobs, whose files lie in far://away$", said, re.MULTILINE)


def test_the_kubernetes_profile_leaves_gpus_to_rules_and_writes_limits() -> None:
    """Of the plugin's own specification `make check-storage` says more."""
    profile = yaml.safe_load((ROOT / "profiles/kubernetes/config.yaml").read_text(encoding="utf-8"))
    assert profile["default-resources"].keys() >= {"gpu_manufacturer", "scale"}
    assert profile["default-resources"]["scale"] == 0
    assert "gpu" not in profile["default-resources"]
    slurm = (ROOT / "profiles/slurm/config.yaml").read_text(encoding="utf-8")
    common = yaml.safe_load(f"# --- as in{slurm.partition('# --- as in')[2]}")
    assert {name: profile.get(name) for name in common if name != "latency-wait"}.items() <= common.items()


def test_a_launch_on_a_storage_says_where_its_page_lies() -> None:
    made = Job("report", {}, ("results/miniature/report.html", "results/miniature/summary.txt"), True, {})
    graph = Graph("all", {"name": "miniature"}, Path("config"), (made,), None, Path(), "far://away")
    assert answer_of(graph) == "\nWritten: far://away/results/miniature/report.html"


def test_of_a_job_that_failed_there_its_log_is_named() -> None:
    graph = Graph("all", {"name": "miniature"}, Path("config"), (), None, Path(), "far://away")
    said = failure_of(graph, [FailedJob("train 0", ("far://away/logs/train.log",))])
    assert "train 0  far://away/logs/train.log\n    its log lies in the storage\n" in said
