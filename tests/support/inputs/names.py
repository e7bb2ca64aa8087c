"""Names and paths as people give them."""

from __future__ import annotations

import yaml

from mfql.experiment.configuration import check_configuration
from mfql.experiment.find import canonical_path
from mfql.tasks import find_task
from tests.support.inputs.lab import Lab, Said, given, said_by
from tests.support.training_runs import ROOT

SCENE = "scene-play-singletask-task2-v0"


def configured(lab: Lab, change: str) -> Said:
    """What the check of every launch says of a configuration with this change."""
    file = lab.folder / "study.yaml"
    file.write_text(change, encoding="utf-8")
    default = yaml.safe_load((ROOT / "config" / "config.yaml").read_text(encoding="utf-8"))
    changed = yaml.safe_load(change)
    merged = default | {
        key: default[key] | value if isinstance(value, dict) else value for key, value in changed.items()
    }
    return said_by(lambda: check_configuration(merged, [file]))


def target(path: str) -> Said:
    """What is said of a target below `results/runs`."""
    return said_by(lambda: canonical_path(f"results/runs/{path}", "config", ["mfql+alpha=30+q_agg=min"]))


@given("a task by OGBench's name without a number, `scene-play-singletask-v0`, in a configuration")
def _(lab: Lab) -> Said:
    return configured(lab, "offline: {tasks: [scene-play-singletask-v0]}")


@given("the same in a target below `results/runs`")
def _(lab: Lab) -> Said:
    return target("mfql/scene-play-singletask-v0/seed0/offline/evaluation.json")


@given("the same where no table has the task that it means")
def _(lab: Lab) -> Said:
    return configured(lab, "offline: {tasks: [visual-scene-play-singletask-v0]}")


@given("a task's name with a word missing, another number, capitals or `_`")
def _(lab: Lab) -> Said:
    return configured(lab, "offline: {tasks: [Cube_double_singletask_task2_v0]}")


@given("a method where a task belongs")
def _(lab: Lab) -> Said:
    return configured(lab, "offline: {tasks: [mfql]}")


@given("a task where a method belongs")
def _(lab: Lab) -> Said:
    return configured(lab, f"offline: {{methods: [{SCENE}]}}")


@given("a dataset where a task belongs")
def _(lab: Lab) -> Said:
    return lab.mfql("data", "describe", "scene-play-v0", "--out", lab.folder / "data")


@given("a dataset without its version, for `mfql data fetch`")
def _(lab: Lab) -> Said:
    return lab.mfql("data", "fetch", "antmaze-large-navigate", "--out", lab.folder / "fetched")


@given("a task where a dataset belongs, for `mfql data fetch`")
def _(lab: Lab) -> Said:
    return lab.mfql("data", "fetch", SCENE, "--out", lab.folder / "fetched")


@given("a task by OGBench's name without a number, for `mfql data fetch`")
def _(lab: Lab) -> Said:
    return lab.mfql("data", "fetch", "scene-play-singletask-v0", "--out", lab.folder / "fetched")


@given("a task twice, by its own name and OGBench's")
def _(lab: Lab) -> Said:
    return configured(lab, f"offline: {{tasks: [scene-play-singletask-v0, {SCENE}]}}")


@given("an environment and one of its tasks")
def _(lab: Lab) -> Said:
    return configured(lab, f"offline: {{tasks: [scene, {SCENE}]}}")


@given("a value in a method's name that has a point and no fraction, `mfql+alpha=30.0`")
def _(lab: Lab) -> Said:
    return configured(lab, "offline: {methods: [mfql+alpha=30.0]}")


@given("a method twice, in two writings of a value")
def _(lab: Lab) -> Said:
    return configured(lab, "offline: {methods: [mfql+alpha=30, mfql+alpha=3e1]}")


@given("a method twice, with its values in two orders")
def _(lab: Lab) -> Said:
    return configured(lab, "offline: {methods: [mfql+alpha=30+q_agg=min, mfql+q_agg=min+alpha=30]}")


@given("a target with a configured method's values in another order")
def _(lab: Lab) -> Said:
    return target(f"mfql+q_agg=min+alpha=30.0/{SCENE}/seed0/offline/evaluation.json")


@given("a method in capitals")
def _(lab: Lab) -> Said:
    return configured(lab, "offline: {methods: [MFQL]}")


@given("`seed007` in a target")
def _(lab: Lab) -> Said:
    return target(f"mfql/{SCENE}/seed007/offline/evaluation.json")


@given("a stage in capitals in a target")
def _(lab: Lab) -> Said:
    return target(f"mfql/{SCENE}/seed0/Offline/evaluation.json")


@given("a mistyped file of a run in a target")
def _(lab: Lab) -> Said:
    return target(f"mfql/{SCENE}/seed0/offline/evaluations.json")


@given("`--seeds 007`")
def _(lab: Lab) -> Said:
    return lab.mfql("train", "--method", "tiny", "--task", "point", "--stage", "offline", "--seeds", "007")


@given("`--seeds 1_0`")
def _(lab: Lab) -> Said:
    return lab.mfql("train", "--method", "tiny", "--task", "point", "--stage", "offline", "--seeds", "1_0")


@given("`seeds: [1.0, 2]`")
def _(lab: Lab) -> Said:
    return configured(lab, "seeds: [1.0, 2]")


@given("`seeds: [1, 1]`")
def _(lab: Lab) -> Said:
    return configured(lab, "seeds: [1, 1]")


@given('`seeds: ["1", 1]`')
def _(lab: Lab) -> Said:
    return configured(lab, 'seeds: ["1", 1]')


@given('`seeds: "0-3"`')
def _(lab: Lab) -> Said:
    return configured(lab, 'seeds: "0-3"')


@given("a dataset without its version in `datasets`")
def _(lab: Lab) -> Said:
    return configured(lab, "datasets: {scene-play: {source: fetch}}")


@given("a mistyped command, `mfql trian`")
def _(lab: Lab) -> Said:
    return lab.mfql("trian")


@given("a mistyped option, `--sede 1`")
def _(lab: Lab) -> Said:
    return lab.mfql("train", "--sede", "1")


@given("a mistyped value of an option, `--stage ofline`")
def _(lab: Lab) -> Said:
    return lab.mfql("train", "--stage", "ofline")


@given("a mistyped `--data`, for `mfql train`")
def _(lab: Lab) -> Said:
    options = ("--seeds", "0", "--data", lab.folder / "nowhere", "--results", lab.folder / "results")
    said = lab.mfql("train", "--method", "mfql-laptop", "--task", SCENE, "--stage", "offline", *options)
    assert not (lab.folder / "results").exists()
    return said


@given("a task of an extension that is not named")
def _(lab: Lab) -> Said:
    return said_by(lambda: find_task("point", "config"))


@given("a film by a name that says no format, `--video film.avi`")
def _(lab: Lab) -> Said:
    return lab.mfql("evaluate", "results", "--out", lab.folder / "final.json", "--video", lab.folder / "film.avi")
