"""Folders of healthy files, each made once, in which commands are called."""

from __future__ import annotations

import os
import pickle
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import yaml

from mfql.cli import main
from mfql.documents import read_json, write_json
from mfql.extensions import VARIABLE
from mfql.locks import locked
from tests.support.fake_results import write_final, write_quickstart, write_run
from tests.support.fuzz.judge import PORT
from tests.support.training_runs import MINIATURE, ROOT, SHORT, TASK, Workplace

SMALL_RUN = f"results/runs/small/{TASK}/seed0"
CONFIGURATION = {
    "name": "study",
    "offline": {"methods": ["small", "other"], "tasks": [TASK]},
    "online": {"methods": ["small"], "tasks": [TASK]},
    "seeds": [0, 1],
    "pixel_seeds": [0],
    "seeds_per_job": 2,
    "threads": 1,
    "data_dir": "data",
    "datasets_from": None,
    "datasets": {"pointmaze-medium-navigate-v0": {"source": "generate", "episodes": 3, "seed": 1}},
    "final_episodes": 0,
    "videos": [],
    "expected": None,
    "allow_cpu": True,
}
_SPEED: dict[str, Any] = {
    "machine": {"gpu": None, "cpu": "Example"},
    "date": "2026-11-22",
    "command": "python -m benchmarks run",
    "measurements": [
        {"device": "cpu", "stage": stage, "seeds": 1, "operations": size, "seconds": size / 1e10}
        for stage in ("offline", "online")
        for size in (1e6, 1e8)
    ],
}
# A run of the least time: evaluations of pointmaze take its 1000 steps each.
TINY = SHORT + "log_interval: 2\n"


def _called(*words: str | Path) -> None:
    """Run a command in this process; it must succeed."""
    status = main([str(word) for word in words])
    if status:
        raise RuntimeError(f"mfql {' '.join(map(str, words))} ended with {status}")


def _project(folder: Path) -> None:
    """What the project ships and commands read."""
    for name in ("config", "published"):
        shutil.copytree(ROOT / name, folder / name, dirs_exist_ok=True)
    shutil.copytree(MINIATURE, folder / "miniature")


def _study(folder: Path) -> None:
    """A finished study of real runs: two methods offline, one online after it, one run of earlier settings aside."""
    place = Workplace.make(folder)
    _project(folder)
    place.method("small", TINY + "batch_size: 8\n")
    place.train_here("small", "offline", (0,))
    place.method("small", TINY)
    place.method("other", TINY)
    for method in ("small", "other"):
        place.train_here(method, "offline", (0, 1))
    place.train_here("small", "online", (0, 1))
    (folder / "study.yaml").write_text(yaml.safe_dump(CONFIGURATION, sort_keys=False), encoding="utf-8")
    os.chdir(folder)
    files = sorted(map(str, Path("results/runs").glob("*/*/*/*/evaluation.json")))
    Path("runs.txt").write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
    _called("scores", "--from-file", "runs.txt", "--out", "results/study/scores.csv")
    failed = Path("results/runs/other", TASK, "seed7", "offline")
    write_json(failed / "failure.json", {"error": "the disk is full", "when": "2026-01-01T00:00:00+0000"})
    log = Path("logs/offline/other", TASK, "seed8.log")
    log.parent.mkdir(parents=True)
    log.write_text("mfql: note: something\nmfql: the data are gone\n  Fetch them.\n", encoding="utf-8")
    eight = CONFIGURATION | {"seeds": [8], "online": {"methods": [], "tasks": []}}
    Path("eight.yaml").write_text(yaml.safe_dump(eight, sort_keys=False), encoding="utf-8")
    final = SMALL_RUN + "/offline/final.json"
    _called("evaluate", SMALL_RUN + "/offline", "--episodes", "1", "--out", final, "--workers", "0", "--no-progress")
    _called("ship", "results/study", "--out", "shipped")


def _shelf(folder: Path) -> None:
    """A folder that stands for a Hub, with a run that was pushed into it, and nothing else."""
    with TemporaryDirectory() as made:
        place = Workplace.make(Path(made))
        _project(place.folder)
        place.method("small", TINY)
        place.train_here("small", "offline", (0,))
        os.chdir(place.folder)
        (folder / "shelf").mkdir(parents=True)
        _called("push", SMALL_RUN + "/offline", "lab/small", "--endpoint", folder / "shelf")
        os.chdir(folder)


def _interrupted(folder: Path) -> None:
    """A run offline and one online, both ended on the way, with two checkpoints each and an episode in a segment."""
    from mfql.training import online, step
    from tests.support.faults import before, call, receive

    place = Workplace.make(folder)
    _project(folder)
    place.method("small", TINY)
    place.method("long", "inherits: small\nonline_steps: 1010\neval_interval: 1010\n")
    place.method("next", "inherits: small\n")
    place.train_here("long", "offline", (0,))
    place.train_here("next", "offline", (0,))
    arguments = place.arguments("long", "online", [0], "results", "--checkpoint-seconds", "0", "--workers", "0")
    status, said = call(arguments, before((online.Environments, "finish", 1004), receive(signal.SIGTERM)))
    if status != 75:
        raise RuntimeError(said)
    arguments = place.arguments("small", "offline", [0], "results", "--checkpoint-seconds", "0", "--workers", "0")
    status, said = call(arguments, before((step.Step, "__call__", 7), receive(signal.SIGTERM)))
    if status != 75:
        raise RuntimeError(said)
    lock = place.run("small", 0, "offline").parent / "lock"
    with locked(lock):
        held = lock.read_bytes()
    lock.write_bytes(held)  # Of this process, which ends.


def _tables(folder: Path) -> None:
    """What comes after training, of runs that were never trained."""
    _project(folder)
    os.chdir(folder)
    files = write_quickstart(Path("results"))
    write_final(files[0], 91.0)
    _called("scores", *files, "--out", "results/quickstart/scores.csv")
    _called("aggregate", "results/quickstart/scores.csv", "--out", "results/quickstart/aggregate")
    rows = [f"{TASK},ours,offline,88,3,5,a notebook", f"{TASK},theirs,online,70,,,a page"]
    Path("outside.csv").write_text("\n".join(["task,method,stage,mean,std,seeds,source", *rows, ""]), encoding="utf-8")
    scores, out = "results/quickstart/scores.csv", "results/quickstart/verdict"
    of = ("--published", "published", "--tasks", "config/tasks.csv", "--results", "results")
    _called("verdict", "--scores", scores, *of, "--out", out)
    Path("expected.yaml").write_text(
        yaml.safe_dump({"mfql": {TASK: {"offline": {"score": [70, 100]}, "online": {"rise": [0, 90.0]}}}}),
        encoding="utf-8",
    )
    write_json("speed.json", _SPEED)
    methods = [
        {"part": "methods", "case": {"method": name}, "quantity": quantity, "value": 2.0}
        for name in ("mfql", "fql")
        for quantity in ("parameters", "update", "latency p50")
    ]
    device = _SPEED["machine"] | {"device": "cpu"}
    write_json("measured.json", {"measurements": methods, "quick": False, "machine": device, "date": "2026-11-22"})
    shutil.copy(ROOT / "docs/report.png", files[0].parent / "strip.png")
    Path("targets.txt").write_text("".join(f"{file}\n" for file in files), encoding="utf-8")
    panel = folder / "results/quickstart/toy/reduced/formulations/comparison"
    shutil.copytree(ROOT / "shipped/reduced/toy/reduced/formulations/comparison", panel)


def _shipped(folder: Path) -> None:
    """The shipped results with their claims' tables and ablations, and the page that shows them."""
    _project(folder)
    shutil.copytree(ROOT / "shipped" / "reduced", folder / "results" / "reduced")
    shutil.copy(ROOT / "docs/claims.md", folder / "claims.md")


def _ablation(folder: Path) -> None:
    """An ablation whose runs are finished."""
    from tests.support.ablations import drawn

    drawn(Workplace.make(folder), "bound_loss")


def _fixtures(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("reference", "baselines"):
        shutil.copy(ROOT / "tests" / "data" / f"{name}.npz", folder / f"{name}.npz")


def _toy(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    size = {
        "seeds": [0, 1], "offline_steps": 12, "batch_size": 16, "policy_hidden": 8, "policy_blocks": 1, "time_steps": 5,
        "evaluations": 2, "repeats": 2, "samples": 100, "transport_points": 50, "policy_learning_rate": 0.01,
    }  # fmt: skip
    document = {
        "methods": {"residual": {}, "gaussian": {"policy": "gaussian"}},
        "studies": {"all": {"panels": ["training"], "methods": ["residual", "gaussian"]}},
        "sizes": {"tiny": size},
    }
    Path("toy.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    for method in document["methods"]:
        _called(
            "toy",
            "train",
            method,
            "--size",
            "tiny",
            "--config",
            "toy.yaml",
            "--out",
            f"runs/{method}",
            "--device",
            "cpu",
        )


def _tuning(folder: Path) -> None:
    """A grid's runs, which were never trained, and what is proposed from them."""
    _project(folder)
    os.chdir(folder)
    from mfql.studies.tuning.choose import choose, write_proposal

    task = "scene-play-singletask-task2-v0"
    settings = {"num_candidates": 5, "time_steps": 50, "discount": 0.99, "offline_steps": 200_000}
    files = [
        write_run(
            Path("results"),
            [value] * 3,
            method=f"mfql-tuning+alpha={alpha}+num_candidates=5+time_steps=50",
            task=task,
            seed=seed,
            settings=settings | {"alpha": alpha},
        )
        for alpha, value in ((10, 40.0), (100, 60.0))
        for seed in (100, 101)
    ]
    write_proposal(choose(files, Path("config")), Path("proposal.yaml"))


# Of the section `tuning` of a configuration.
SEARCH = {
    "method": "mfql-miniature",
    "seeds": [100],
    "tasks": [TASK],
    "search": {
        "trials": 6,
        "at_once": 2,
        "spaces": {
            "mfql-miniature": {"alpha": {"low": 0.1, "high": 100, "log": True}, "num_candidates": [1, 2, 4]},
        },
    },
}


def _search(folder: Path) -> None:
    """A search's storage in the middle of it: scores, a point given up, one asked for; and a run that paused."""
    _project(folder)
    os.chdir(folder)
    from mfql.experiment.search import studies
    from mfql.studies.tuning.study import opened

    with opened(Path("search.db"), studies(SEARCH, "config"), "config") as (optimiser,):
        for number in range(2):
            for trial in optimiser.batch():
                trial.report(10.0 * trial.number, 10)
                trial.prune() if trial.number == 1 else trial.complete(20.0 * number)
        first, _ = optimiser.batch()
        first.complete(50.0)
    written = write_run(Path("results"), [10.0] * 3, method="small", task=TASK, seed=0)
    result = read_json(written) | {"status": "paused", "steps": 10}
    result["evaluations"] = result["evaluations"][:1]
    written.unlink()
    write_json(written.with_name("paused-10.json"), result)


def _carried(folder: Path) -> None:
    """An archive of a run, as a job without the run's folder finds it."""
    from mfql.experiment.carried import pack

    run = folder / SMALL_RUN / "offline"
    files = [run / "run" / name for name in ("manifest.json", "metrics.csv", "policy/policy.json")]
    for file in files:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"{file.name}\n" * 40, encoding="utf-8")
    pack(run / "run.tar", files)
    shutil.rmtree(run / "run")


def _lab(folder: Path) -> None:
    """The extension of docs/extend.md with its data in three layouts, Minari's datasets and LeRobot's."""
    import subprocess
    import sys

    from tests.support.page import COMMANDS, FILES

    _project(folder)
    for name, content in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")
    (command,) = [command for command in COMMANDS if command.endswith("collect.py")]
    (folder / "inner").mkdir()
    variables = os.environ | {"MINARI_DATASETS_PATH": str(folder / "minari"), "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, *command.split()[1:]], cwd=folder / "inner", env=variables, check=True)
    (folder / "inner").rmdir()
    record = (
        "import minari; from pathlib import Path; d = minari.load_dataset('mylab/point-v0');"
        "from minari.data_collector import EpisodeBuffer as B;"
        "e = [B(observations=list(x.observations), actions=list(x.actions), rewards=list(x.rewards),"
        " terminations=list(x.terminations), truncations=list(x.truncations))"
        " for x in list(d.iterate_episodes())[:12]];"
        "minari.create_dataset_from_buffers('mylab/arrow-v0', e, env=d.recover_environment(), data_format='arrow')"
    )
    variables["PYTHONPATH"] += f"{os.pathsep}{folder / 'mylab'}"
    subprocess.run([sys.executable, "-c", record], cwd=folder, env=variables, check=True)
    with open(folder / "mylab/tasks.csv", "a", encoding="utf-8") as file:
        file.write("point-arrow,point:mylab/Point-v0,minari:mylab/arrow-v0,normalized_return,-40,-5,0.98,10,4\n")
        for version in ("v2.1", "v3.0"):
            shutil.copytree(ROOT / "tests/data/lerobot" / version, folder / "mylab/data" / version)
            file.write(f"point-{version},point:mylab/Point-v0,data/{version},return,,,0.98,10,4\n")


def _replays(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    values = {"median": 1e-9, "p95": 2e-9, "max": 1e-6, "moved": 0.1}
    write_json(
        folder / "replay.json",
        {"task": TASK, "dataset": "pointmaze-medium-navigate-v0", "rows": 1000, "mujoco": "3.3.0", "sha256": "ab" * 32,
         "discrepancy": {"qpos": values, "qvel": values}},
    )  # fmt: skip


def _released(folder: Path) -> None:
    """A checkpoint of the authors' form: a pickle of nested dicts of arrays."""
    from mfql.parity import Fixture, load_fixture
    from tests.support.released import nested

    folder.mkdir(parents=True, exist_ok=True)
    fixture = Fixture(load_fixture(ROOT / "tests/data/reference.npz"))
    (folder / "params.pkl").write_bytes(pickle.dumps(nested(dict(fixture.weights))))


def _received(folder: Path) -> None:
    """A dataset that nobody described."""
    Workplace.make(folder)
    _project(folder)
    for described in (folder / "data").glob("*.json"):
        described.unlink()


def _policy(folder: Path) -> None:
    """A policy's folder, as somebody hands it on."""
    from tests.support.policies import POINTMAZE, write

    write(folder / "policy", POINTMAZE)


def _fetch(folder: Path) -> None:
    """A folder of published files, and the checksums by which they are known."""
    from dataclasses import asdict

    from mfql.data.checksums import Checksum

    Workplace.make(folder)
    (folder / "data").rename(folder / "source")
    for described in (folder / "source").glob("*.json"):
        described.unlink()
    known = {file.name: asdict(Checksum.of(file)) for file in sorted((folder / "source").glob("*.npz"))}
    write_json(folder / "datasets.lock.json", known)


def _begun_fetch(folder: Path) -> None:
    """The same, with half of the first file fetched from a server."""
    _fetch(folder)
    (folder / "data").mkdir()
    (file,) = (folder / "source").glob("*[!l]-v0.npz")
    part = folder / "data" / f".{file.name}.part"
    part.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    known = {"url": f"http://127.0.0.1:{PORT}/{file.name}", "size": file.stat().st_size, "validator": None}
    write_json(part.with_name(f"{part.name}.json"), {"file": part.name} | known)


def _d4rl(folder: Path) -> None:
    from tests.support.d4rl_files import write_rollouts

    folder.mkdir(parents=True, exist_ok=True)
    _project(folder)
    write_rollouts(folder / "data", "antmaze-umaze-v2", 3, 20)


def _pixels(folder: Path) -> None:
    """Short episodes of a pixel task, and their images unpacked."""
    from dataclasses import replace

    from mfql.data.description import describe
    from mfql.data.generate import collect_episode
    from mfql.data.layouts import OGBENCH
    from mfql.data.recipes import find_recipe
    from mfql.suites import load, split_paths
    from mfql.tasks import find_task

    _project(folder)
    data, name = folder / "data", "visual-cube-single-play-v0"
    data.mkdir()
    recipe = replace(find_recipe(name), steps=12)
    for split, path in split_paths(data, name).items():
        episodes = [collect_episode(recipe, 0, (split, number)) for number in range(2 if split == "train" else 1)]
        np.savez_compressed(path, **{key: np.concatenate([one[key] for one in episodes]) for key in episodes[0]})
    describe(data, name, split_paths(data, name), OGBENCH, "generated", 0)
    load(find_task("visual-cube-single-play-singletask-task1-v0", folder / "config"), data)


def _launch(folder: Path) -> None:
    """A working copy of the project with a finished study, as a launch finds it."""
    from tests.support.project import clone

    clone(folder)
    os.chdir(folder)
    document = yaml.safe_load((ROOT / "tests/miniature.yaml").read_text(encoding="utf-8")) | {"seeds": [0]}
    Path("study.yaml").write_text(yaml.safe_dump(document, sort_keys=False), encoding="utf-8")
    place = Path("results/miniature")
    (place / "aggregate").mkdir(parents=True)
    runs = [f"results/runs/{method}/{TASK}/seed0/offline/evaluation.json" for method in document["offline"]["methods"]]
    runs += [f"results/runs/{method}/{TASK}/seed0/online/evaluation.json" for method in document["online"]["methods"]]
    (place / "runs.txt").write_text("".join(f"{run}\n" for run in runs), encoding="utf-8")
    drawn = [place / "aggregate" / "curves" / name for name in ("panel.json", "figure.svg")]
    (place / "aggregate/panels.txt").write_text("".join(f"{path}\n" for path in drawn), encoding="utf-8")
    write_json("speed.json", _SPEED)


PLACES: dict[str, Callable[[Path], None]] = {
    "study": _study,
    "interrupted": _interrupted,
    "shelf": _shelf,
    "tables": _tables,
    "shipped": _shipped,
    "fixtures": _fixtures,
    "toy": _toy,
    "tuning": _tuning,
    "search": _search,
    "carried": _carried,
    "lab": _lab,
    "replays": _replays,
    "released": _released,
    "received": _received,
    "policy": _policy,
    "fetch": _fetch,
    "begun-fetch": _begun_fetch,
    "d4rl": _d4rl,
    "pixels": _pixels,
    "ablation": _ablation,
    "launch": _launch,
}


def make(name: str, folder: Path) -> Path:
    """Make a place in a folder that does not exist yet."""
    here, before = os.getcwd(), os.environ.get(VARIABLE)
    os.environ[VARIABLE] = str(MINIATURE)
    try:
        PLACES[name](folder)
    finally:
        os.chdir(here)
        if before is not None:
            os.environ[VARIABLE] = before
    return folder
