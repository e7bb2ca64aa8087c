"""Training as its users meet it: killed and continued, packed and alone, diverged, refused."""

from __future__ import annotations

import json
import shutil
import signal

import imageio.v3 as imageio
import numpy as np
import pytest
import torch

from mfql.agents.update import Updater
from mfql.cli import EXIT_CONTINUE
from mfql.data.description import check_simulation
from mfql.errors import UserError
from mfql.evaluation.policy import load_policy
from mfql.methods import settings_hash
from mfql.training import device, loop
from mfql.training.checkpoint import Checkpoints, load_tensors
from mfql.training.memory import Memory
from tests.support.equal_runs import RESULT_FILES, assert_equal_runs, final_state
from tests.support.training_runs import METHOD, ROOT, SHORT, TASK, Workplace

pytestmark = pytest.mark.xdist_group("training")


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Workplace:
    place = Workplace.make(tmp_path_factory.mktemp("training"))
    place.train(METHOD, "pretrain", [0, 1])
    place.train(METHOD, "online", [0, 1])
    return place


@pytest.mark.slow
def test_a_run_killed_in_an_episode_a_checkpoint_and_an_evaluation_ends_as_if_undisturbed(place):
    start = place.folder / "killed" / "runs" / METHOD / TASK
    for seed in (0, 1):
        shutil.copytree(place.run(METHOD, seed, "pretrain").parent, start / f"seed{seed}" / "pretrain")
    arguments = place.arguments(METHOD, "online", [0, 1], "killed", "--checkpoint-seconds", "0")
    killer = str(ROOT / "tests" / "support" / "killed.py")
    for moment, count in (("step", 14), ("checkpoint", 9), ("evaluation", 40)):
        done = place.call([moment, str(count), *arguments], (killer,))
        assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
        assert Checkpoints(place.run(METHOD, 0, "online", "killed") / "checkpoint").steps()
        assert not (place.run(METHOD, 0, "online", "killed").parent / "evaluation.json").exists()
    done = place.call(arguments)
    assert done.returncode == 0, done.stderr
    for seed in (0, 1):
        assert_equal_runs(place.run(METHOD, seed, "online"), place.run(METHOD, seed, "online", "killed"))


@pytest.mark.slow
def test_a_run_asked_to_end_saves_and_asks_to_be_continued(place):
    start = place.folder / "asked" / "runs" / METHOD / TASK / "seed0"
    shutil.copytree(place.run(METHOD, 0, "pretrain").parent, start / "pretrain")
    shutil.copytree(place.run(METHOD, 1, "pretrain").parent, start.with_name("seed1") / "pretrain")
    arguments = place.arguments(METHOD, "online", [0, 1], "asked")
    done = place.call(["ask", "14", *arguments], (str(ROOT / "tests" / "support" / "killed.py"),))
    assert done.returncode == EXIT_CONTINUE, done.stderr
    assert Checkpoints(place.run(METHOD, 0, "online", "asked") / "checkpoint").steps() == [14]
    assert place.call(arguments).returncode == 0
    for seed in (0, 1):
        assert_equal_runs(place.run(METHOD, seed, "online"), place.run(METHOD, seed, "online", "asked"))


RELEASED = """
inherits: mfql-released
offline_steps: 20
pretrain: {offline_steps: 20}
online_steps: 30
online: {replay_rows: 1}
batch_size: 16
policy_hidden: 8
policy_blocks: 1
critic_hidden: [16, 16]
num_candidates: 2
alpha: 1.0
alpha_interval: 4
alpha_window: 2
eval_interval: 10
eval_episodes: 1
log_interval: 10
"""


@pytest.fixture
def released(place) -> Workplace:
    """A method by the released code's protocol, with a buffer that is full from the start, and its first part."""
    place.method("released", RELEASED)
    if not (place.run("released", 0, "pretrain", "released") / "evaluation.json").exists():
        place.train_here("released", "pretrain", (0,), "released")
    return place


@pytest.mark.slow
def test_updates_numbered_from_0_are_one_more_and_the_policy_is_evaluated_at_step_0(released):
    run = released.run("released", 0, "pretrain", "released")
    result = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))
    assert [evaluation["step"] for evaluation in result["evaluations"]] == [0, 10, 20]
    # What came before training is none of those that the score is the mean of.
    assert result["score"] == np.mean([evaluation["success"] for evaluation in result["evaluations"][1:]])
    assert result["steps"] == 20
    checkpoints = Checkpoints(run / "checkpoint")
    assert checkpoints.load(checkpoints.steps()[-1])["state"]["step"].item() == 21


def noted(events: list[str], function):
    """The function, which adds its name to the events when it is called."""

    def wrapped(*given, **more):
        events.append(function.__name__)
        return function(*given, **more)

    return wrapped


@pytest.mark.slow
def test_as_released_an_online_row_enters_before_the_update_and_a_continued_run_ends_as_if_undisturbed(
    released, monkeypatch
):
    for results in ("whole", "asked-released"):
        start = released.folder / results / "runs" / "released" / TASK / "seed0" / "pretrain"
        shutil.copytree(released.run("released", 0, "pretrain", "released").parent, start)
    events = []
    for owner, name in ((Memory, "append"), (Updater, "__call__")):
        monkeypatch.setattr(owner, name, noted(events, getattr(owner, name)))
    released.train_here("released", "online", (0,), "whole")
    assert events == ["append", "__call__"] * 30
    result = json.loads(
        (released.run("released", 0, "online", "whole") / "evaluation.json").read_text(encoding="utf-8")
    )
    assert [evaluation["step"] for evaluation in result["evaluations"]] == [10, 20, 30]
    arguments = released.arguments("released", "online", [0], "asked-released")
    done = released.call(["ask", "14", *arguments], (str(ROOT / "tests" / "support" / "killed.py"),))
    assert done.returncode == EXIT_CONTINUE, done.stderr
    assert released.call(arguments).returncode == 0
    runs = [released.run("released", 0, "online", results) for results in ("whole", "asked-released")]
    assert_equal_runs(*runs)
    final = [Checkpoints(run / "checkpoint") for run in runs]
    assert final[0].load(30)["state"]["step"].item() == 21 + 30


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(place, tmp_path):
    run = tmp_path / "checkpoint"
    shutil.copytree(place.run(METHOD, 0, "online") / "checkpoint", run)
    checkpoints = Checkpoints(run)
    before, last = checkpoints.steps()
    content = bytearray(checkpoints.path(last).read_bytes())
    content[len(content) // 2] ^= 1
    checkpoints.path(last).write_bytes(content)
    assert list(checkpoints.usable()) == [before]
    checkpoints.path(before).write_bytes(checkpoints.path(before).read_bytes()[:1000])
    assert checkpoints.usable() == {}


@pytest.mark.slow
def test_a_finished_seed_is_restored_and_only_the_missing_one_trains(place):
    shutil.copytree(place.folder / "results", place.folder / "grown")
    trained = place.run(METHOD, 0, "pretrain", "grown")
    dates = {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()}
    delivered = trained.parent / "evaluation.json"
    delivered.unlink()
    done = place.train(METHOD, "pretrain", [0, 1, 2], "grown")
    assert "restored: seeds 0, 1" in done.stdout
    assert delivered.read_bytes() == (trained / "evaluation.json").read_bytes()
    assert {path: path.stat().st_mtime_ns for path in trained.rglob("*") if path.is_file()} == dates
    assert (place.run(METHOD, 2, "pretrain", "grown") / "policy" / "policy.json").exists()


@pytest.mark.slow
def test_a_seed_that_begins_beside_a_continued_one_has_the_threads_that_are_asked_for(place, monkeypatch, capfd):
    monkeypatch.setattr(device, "usable_cores", lambda: 2)
    place.method("short", SHORT)
    place.train_here("short", "pretrain", (0,), "threads", threads=1)
    first = place.run("short", 0, "pretrain", "threads")
    (first / "evaluation.json").unlink()
    place.train_here("short", "pretrain", (0, 1), "threads", threads=2)
    runs = (first, place.run("short", 1, "pretrain", "threads"))
    assert [json.loads((run / "manifest.json").read_text(encoding="utf-8"))["threads"] for run in runs] == [1, 2]
    assert capfd.readouterr().err.count("threads: 1, not 2: the run began so") == 1


@pytest.mark.slow
def test_a_run_goes_on_compiled_or_not_as_it_began_and_the_manifest_says_which(place, monkeypatch, capfd):
    asked = []

    def update_of(agent, state, value_limit, *, compiled):
        asked.append(compiled)
        return Updater(agent, state, value_limit)

    monkeypatch.setattr(loop, "update_of", update_of)
    monkeypatch.setattr(device, "compiles", lambda: True)
    place.method("short", SHORT)
    for began, now in ((False, True), (True, False)):
        results = f"began-{began}"
        place.train_here("short", "pretrain", (0,), results, compiled=began)
        (place.run("short", 0, "pretrain", results) / "evaluation.json").unlink()
        place.train_here("short", "pretrain", (0, 1), results, compiled=now)
        said = [
            json.loads((place.run("short", seed, "pretrain", results) / "manifest.json").read_text(encoding="utf-8"))
            for seed in (0, 1)
        ]
        modes = {False: False, True: "ahead of time"}
        assert [one["compiled"] for one in said] == [modes[began], modes[now]]
    assert asked == [False, False, True, True, True, False]
    assert "not bit-equal" not in capfd.readouterr().out


@pytest.mark.slow
def test_a_seed_has_the_same_draws_alone_and_scores_for_any_number_of_workers(place):
    for workers in ("1", "2", "5"):
        place.train(METHOD, "pretrain", [1], f"workers{workers}", "--workers", workers)
    runs = [place.run(METHOD, 1, "pretrain", f"workers{workers}") for workers in ("1", "2", "5")]
    for name in RESULT_FILES:
        assert len({(run / name).read_bytes() for run in runs}) == 1
    packed = json.loads((place.run(METHOD, 1, "pretrain") / "evaluation.json").read_text(encoding="utf-8"))
    alone = json.loads((runs[0] / "evaluation.json").read_text(encoding="utf-8"))
    assert packed["identity"] == alone["identity"]


@pytest.mark.slow
def test_a_diverging_seed_ends_alone_and_the_job_succeeds(place):
    """A rate of 10^9 breaks every seed at once; the one that breaks alone is made so by a start of its own."""
    place.method("explodes", f"inherits: {METHOD}\ncritic_learning_rate: 1.0e+6\n")
    done = place.train("explodes", "offline", [0, 1], "diverged")
    assert done.returncode == 0
    result = json.loads(
        (place.run("explodes", 0, "offline", "diverged") / "evaluation.json").read_text(encoding="utf-8")
    )
    assert result["status"] == "diverged"
    assert 0 <= result["diverged_at"] < 60


@pytest.mark.long
def test_one_seed_of_three_diverges_and_the_others_are_scored(place):
    """The pretrained state of one seed is given a broken critic; online, it ends at once and the others go on."""
    shutil.copytree(place.folder / "results", place.folder / "broken")
    place.train(METHOD, "pretrain", [2], "broken")
    checkpoints = Checkpoints(place.run(METHOD, 1, "pretrain", "broken") / "checkpoint")
    step = checkpoints.steps()[-1]
    saved = load_tensors(checkpoints.path(step))
    saved["state"]["flat"]["critic"][0] = float("nan")
    checkpoints.save(step, saved)
    shutil.rmtree(place.folder / "broken" / "runs" / METHOD / TASK / "seed1" / "online")
    shutil.rmtree(place.folder / "broken" / "runs" / METHOD / TASK / "seed0" / "online")
    place.train(METHOD, "online", [0, 1, 2], "broken")
    results = [
        json.loads((place.run(METHOD, seed, "online", "broken") / "evaluation.json").read_text(encoding="utf-8"))
        for seed in range(3)
    ]
    assert [result["status"] for result in results] == ["finished", "diverged", "finished"]
    assert results[1]["diverged_at"] == 0
    assert results[1]["evaluations"] == []
    assert results[1]["score"] is None
    assert all(result["evaluations"][-1]["step"] == 40 for result in (results[0], results[2]))
    # The three runs that they start from are reported beside them.
    assert "1 of 6 runs diverged" in report_of(place, "broken", "online")


@pytest.mark.slow
def test_online_training_may_have_settings_that_its_start_had_not(place):
    """Its own alpha; state that its start has and it has not, and the other way round; another line of the log."""
    place.method(
        "staged",
        f"inherits: {METHOD}\npretrain: {{time_distribution: adaptive}}\n"
        "online: {alpha: 0.25, normalize_q: true, q_scale: running}\n",
    )
    for stage in ("pretrain", "online"):
        place.train_here("staged", stage, (0,), "staged")
    before, after = (final_state(place.run("staged", 0, stage, "staged")) for stage in ("pretrain", "online"))
    assert (before["own/alpha"].item(), after["own/alpha"].item()) == (1.0, 0.25)
    assert ("own/time_errors" in before, "own/time_errors" in after) == (True, False)
    assert after["own/q_scale"].item() > 0
    assert "training/q_scale" in (place.run("staged", 0, "online", "staged") / "metrics.csv").read_text(
        encoding="utf-8"
    )


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("alpha_window: 5", r"the method's state alpha_window have the shape \[20\] .* and \[5\]"),
        ("policy_hidden: 16", r"parameters of policy have the shape"),
    ],
)
def test_an_online_part_of_other_sizes_than_its_start_is_refused_by_name(place, change, named):
    name = f"resized-{change.partition(':')[0]}"
    place.method(name, f"inherits: {METHOD}\nonline: {{{change}}}\n")
    place.train_here(name, "pretrain", (0,), "resized")
    with pytest.raises(UserError, match=named) as error:
        place.train_here(name, "online", (0,), "resized")
    assert "one value for all stages" in str(error.value)


def report_of(place: Workplace, results: str, stage: str) -> str:
    """The text of the report that the command line makes of a stage's runs."""
    folder = place.folder / results
    files = [str(place.run(METHOD, seed, stage, results).parent / "evaluation.json") for seed in range(3)]
    scores, aggregates, page = str(folder / "scores.csv"), str(folder / "aggregate"), folder / "report.html"
    for command in (
        ["scores", *files, "--out", scores],
        ["aggregate", scores, "--out", aggregates],
        ["report", "--scores", scores, "--aggregates", aggregates, "--results", str(folder), "--out", str(page)],
    ):
        done = place.call(command)
        assert done.returncode == 0, done.stderr
    return page.read_text(encoding="utf-8")


@pytest.mark.slow
def test_changed_settings_move_the_earlier_run_aside_and_settings_changed_back_put_it_back(place):
    place.method("mine", f"inherits: {METHOD}\n")
    place.train("mine", "pretrain", [0], "aside")
    earlier = (place.run("mine", 0, "pretrain", "aside") / "evaluation.json").read_bytes()
    identity = json.loads(earlier)["identity"]
    manifest = json.loads((place.run("mine", 0, "pretrain", "aside") / "manifest.json").read_text(encoding="utf-8"))
    assert manifest["settings_hash"] == settings_hash("mine", TASK, "pretrain", place.folder / "config")
    place.method("mine", f"inherits: {METHOD}\n# a comment changes nothing\n")
    assert "restored" in place.train("mine", "pretrain", [0], "aside").stdout
    place.method("mine", f"inherits: {METHOD}\ntau: 0.25\n")
    assert "kept in" in place.train("mine", "pretrain", [0], "aside").stdout
    run = place.run("mine", 0, "pretrain", "aside")
    kept = run.with_name(f"run.{identity}")
    assert (kept / "evaluation.json").read_bytes() == earlier
    other = json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["identity"]
    before = files(kept)
    place.method("mine", f"inherits: {METHOD}\n")
    said = place.train("mine", "pretrain", [0], "aside").stdout
    assert f"run.{identity} is the run of these settings, and is put back" in said
    assert files(run) == before
    assert run.with_name("evaluation.json").read_bytes() == earlier
    assert sorted(path.name for path in run.parent.glob("run*")) == ["run", f"run.{other}"]


def files(folder):
    """Each file below a folder with its date."""
    return {path.relative_to(folder): path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
def test_a_dataset_that_changed_under_a_finished_run_is_refused(place):
    other = Workplace.make(place.folder / "other")
    shutil.copytree(place.folder / "results", other.folder / "results")
    path = other.run(METHOD, 0, "pretrain") / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["dataset"]["sha256"] = "0" * 64
    manifest["identity"] = "0" * 16
    path.write_text(json.dumps(manifest), encoding="utf-8")
    done = other.call(other.arguments(METHOD, "pretrain", [0]))
    assert done.returncode == 2
    assert "changed under" in done.stderr
    assert "Traceback" not in done.stderr


SHA = {"train": "0" * 64}


@pytest.mark.parametrize("version", [None, 1, 3])
def test_data_generated_in_another_physics_are_refused_before_they_are_read(version, place, tmp_path):
    task, dataset = "cube-single-play-singletask-task2-v0", "cube-single-play-v0"
    described = {"source": "generated", "sha256": SHA} | ({"simulation_version": version} if version else {})
    (tmp_path / f"{dataset}.json").write_text(json.dumps(described), encoding="utf-8")
    done = place.call([*place.arguments(METHOD, "offline", [0], task=task), "--data", str(tmp_path)])
    assert done.returncode == 2
    assert f"{dataset} in {tmp_path} was generated with simulation version {version or 1}, today's is 2" in done.stderr
    assert "Generate the dataset again" in done.stderr


@pytest.mark.parametrize(
    ("dataset", "described", "refused"),
    [
        ("cube-single-play-v0", {"source": "generated", "simulation_version": 1}, True),
        ("cube-single-play-v0", {"source": "generated", "simulation_version": 2}, False),
        ("cube-single-play-v0", {"source": "downloaded"}, False),
        ("scene-play-v0", None, False),
        ("pointmaze-medium-navigate-v0", {"source": "generated"}, False),
    ],
)
def test_data_are_refused_only_if_they_were_generated_in_another_physics(dataset, described, refused, tmp_path):
    if described is not None:
        (tmp_path / f"{dataset}.json").write_text(json.dumps({"sha256": SHA} | described), encoding="utf-8")
    try:
        check_simulation(tmp_path, dataset)
    except UserError:
        assert refused
    else:
        assert not refused


@pytest.mark.slow
def test_a_folder_in_use_is_refused(place):
    from mfql.locks import locked

    run = place.run(METHOD, 0, "pretrain")
    with locked(run.parent / "lock"):
        done = place.call(place.arguments(METHOD, "pretrain", [0]))
    assert done.returncode == 2
    assert "in use by process" in done.stderr


@pytest.mark.slow
def test_a_checkpoint_of_another_method_is_refused(place):
    place.method("another", f"inherits: {METHOD}\n")
    source = place.run(METHOD, 0, "pretrain")
    target = place.run("another", 0, "pretrain", "foreign")
    shutil.copytree(source / "checkpoint", target / "checkpoint")
    done = place.call(place.arguments("another", "pretrain", [0], "foreign"))
    assert done.returncode == 2
    assert "is of method mfql-miniature, not another" in done.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"--method": "mfqk"}, "mfqk"),
        ({"--task": "pointmaze-medium-navigate-singletask-task9-v0"}, "task9"),
        ({"--stage": "ofline"}, "Did you mean offline"),
        ({"--data": "/nonexistent"}, "/nonexistent"),
        ({"--results": "/proc/nowhere"}, "/proc/nowhere"),
    ],
)
def test_bad_arguments_are_refused_by_name_without_a_traceback(place, change, named):
    arguments = place.arguments(METHOD, "pretrain", [0])
    for flag, value in change.items():
        arguments[arguments.index(flag) + 1] = value
    done = place.call(arguments)
    assert done.returncode == 2
    assert named in done.stderr
    assert "Traceback" not in done.stderr


def test_a_policy_is_used_in_two_lines(place):
    policy = load_policy(place.run(METHOD, 0, "online").parent)
    action = policy(np.zeros(2))
    assert action.shape == (2,)
    assert np.abs(action).max() <= 1.0
    assert policy(np.zeros((7, 2))).shape == (7, 2)
    again = load_policy(place.run(METHOD, 0, "online").parent)
    assert np.array_equal(again(np.zeros(2)), action)
    with pytest.raises(ValueError, match=r"\[2\]"):
        policy(np.zeros(3))


@pytest.mark.slow
def test_evaluate_scores_a_run_anew_and_alike_each_time(place, tmp_path):
    run = str(place.run(METHOD, 0, "online").parent)
    for name, workers in (("a", "0"), ("b", "2")):
        done = place.call(["evaluate", run, "--episodes", "2", "--out", str(tmp_path / name), "--workers", workers])
        assert done.returncode == 0, done.stderr
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert json.loads((tmp_path / "a").read_text(encoding="utf-8"))["episodes"] == 2


@pytest.mark.slow
def test_every_declaration_of_the_interface_is_honoured(place):
    """A method outside the package: extra fields, a share of online rows, its own stages, two updates a step."""
    place.method("declares", f"agent: {ROOT / 'tests' / 'support' / 'declaring_agent.py'}\n" + DECLARING)
    place.train("declares", "pretrain", [0, 1], "declared")
    place.train("declares", "online", [0, 1], "declared")
    saved = Checkpoints(place.run("declares", 0, "online", "declared") / "checkpoint")
    final = saved.load(saved.steps()[-1])
    assert final["state"]["step"].item() == 20 + 2 * 15
    assert final["state"]["count"]["value"].item() == 20 + 2 * 15
    assert final["state"]["count"]["policy"].item() == (20 + 2 * 15) // 2
    tail = final["tail"]
    assert torch.equal(tail["next_actions"][:-1], tail["actions"][1:])
    torch.testing.assert_close(tail["mc_returns"], torch.full((15,), -10.0))  # -1 at every step, without an end
    done = place.call(place.arguments("declares", "offline", [0], "declared"))
    assert done.returncode == 2
    assert "no stage offline" in done.stderr


DECLARING = """
discount: 0.9
offline_steps: 30
pretrain: {offline_steps: 20}
online_steps: 15
batch_size: 8
eval_interval: 15
eval_episodes: 1
log_interval: 5
"""


FILM = """
import sys
from mfql import cli
from mfql.evaluation import evaluate
evaluate._MOST_FRAMES = 3  # software rendering takes half a second a frame
sys.exit(cli.main(sys.argv[1:]))
"""


@pytest.mark.slow
def test_a_policy_is_filmed_or_the_message_says_what_rendering_needs(place, tmp_path):
    run, video, strip = str(place.run(METHOD, 0, "online").parent), tmp_path / "video.gif", tmp_path / "strip.png"
    arguments = ["evaluate", run, "--episodes", "1", "--out", str(tmp_path / "a.json"), "--video", str(video)]
    arguments += ["--strip", str(strip)]
    done = place.call(arguments, ("-c", FILM))
    if done.returncode == 0:
        frames = imageio.imread(video)
        assert frames.shape == (3, 200, 200, 3)
        assert frames.std() > 1
        assert imageio.imread(strip).shape[:2] == (160, 3 * 160)
    else:
        assert done.returncode == 2
        assert "cannot render off-screen" in done.stderr
        assert "libegl1" in done.stderr
        assert not video.exists()
        assert not strip.exists()
