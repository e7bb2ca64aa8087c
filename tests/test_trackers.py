"""Trackers, by the real libraries offline: one curve a run, equal to its log, whatever happens to either side."""

from __future__ import annotations

import csv
import getpass
import json
import os
import shutil
import signal
import socket
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest

from mfql import cli
from mfql.errors import UserError
from mfql.experiment.owned import own_files, remove_files
from mfql.experiment.run import flat_settings
from mfql.training import tracking
from mfql.training.trackers import TRACKERS, Ending, require_trackers
from tests.support import wandb_file
from tests.support.equal_runs import assert_equal_runs
from tests.support.training_runs import ROOT, Workplace

pytestmark = pytest.mark.xdist_group("trackers")

METHOD = "tracked"
# Rows of the log at each second step, an evaluation at each sixth, so that a step has rows of both.
SETTINGS = """
inherits: flow_bc-miniature
offline_steps: 12
eval_interval: 6
eval_episodes: 1
log_interval: 2
"""
SEEDS = [0, 1]


@pytest.fixture(autouse=True)
def _nothing_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(("WANDB_", "MLFLOW_", "TRACKIO_")):
            monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Workplace:
    """A run of two seeds without trackers."""
    place = Workplace.make(tmp_path_factory.mktemp("trackers"))
    place.method(METHOD, SETTINGS)
    place.train_here(METHOD, "offline", tuple(SEEDS), "plain")
    return place


@pytest.fixture(scope="module")
def continued(place: Workplace) -> Workplace:
    """The same with trackers, killed in the second evaluation, when they have rows of the first, and continued."""
    arguments = place.arguments(
        METHOD, "offline", SEEDS, "killed", "--checkpoint-seconds", "0", "--track", "wandb,mlflow"
    )
    killer = str(ROOT / "tests" / "support" / "killed.py")
    done = place.call(["tracked", "1100", *arguments], (killer,))
    assert done.returncode == -signal.SIGKILL, done.stdout + done.stderr
    shutil.copytree(place.folder / "killed", place.folder / "at-kill")
    done = place.call(arguments)
    assert done.returncode == 0, done.stderr
    assert "warning" not in done.stderr
    return place


def log_of(run: Path) -> dict[str, list[tuple[int, float]]]:
    """The points of each metric, as the log has them."""
    found = defaultdict(list)
    with open(run / "metrics.csv", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            found[row["metric"]].append((int(row["step"]), float(row["value"])))
    return found


def mlflow_run(run: Path):
    """The client of a run's own store, and the one run that it has."""
    from mlflow import MlflowClient

    client = MlflowClient(f"sqlite:///{run / 'mlflow' / 'mlflow.db'}")
    experiment = client.get_experiment_by_name("mfql")
    (found,) = client.search_runs([experiment.experiment_id])
    return client, found


def mlflow_points(run: Path) -> dict[str, list[tuple[int, float]]]:
    client, found = mlflow_run(run)
    histories = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    return {name: [(point.step, point.value) for point in points] for name, points in histories.items()}


def wandb_points(run: Path) -> dict[str, list[tuple[int, float]]]:
    (file,) = run.glob("wandb/*/*.wandb")
    found = defaultdict(list)
    for step, values in wandb_file.history(file):
        for name, value in values.items():
            found[name].append((step, float(value)))
    return found


def same(one: dict[str, list[tuple[int, float]]], other: dict[str, list[tuple[int, float]]]) -> bool:
    """Whether points are equal, those that are no numbers too."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_killed_and_continued_run_is_one_curve_equal_to_its_log(continued: Workplace, seed: int) -> None:
    run = continued.run(METHOD, seed, "offline", "killed")
    log = log_of(run)
    assert [step for step, _ in log["training/flow_loss"]] == [2, 4, 6, 8, 10, 12]
    assert same(wandb_points(run), log)
    points = mlflow_points(run)
    assert points.pop("score") == [(12, json.loads((run / "evaluation.json").read_text(encoding="utf-8"))["score"])]
    assert same(points, log)


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_a_continued_run_is_the_run_that_was_begun(continued: Workplace, seed: int) -> None:
    before, now = (continued.run(METHOD, seed, "offline", results) for results in ("at-kill", "killed"))
    (_, begun), (_, ended) = mlflow_run(before), mlflow_run(now)
    assert begun.info.run_id == ended.info.run_id
    assert (begun.info.status, ended.info.status) == ("RUNNING", "FINISHED")
    # What the kill found in the log beyond the last checkpoint, step 12, no tracker had.
    assert max(step for step, _ in log_of(before)["training/flow_loss"]) == 12
    seen = {step for points in mlflow_points(before).values() for step, _ in points}
    assert seen
    assert max(seen) <= 10
    names = [next(run.glob("wandb/*/*.wandb")).name for run in (before, now)]
    assert names[0] == names[1]


@pytest.mark.slow
def test_seeds_that_train_together_are_as_many_runs(continued: Workplace) -> None:
    runs = [continued.run(METHOD, seed, "offline", "killed") for seed in SEEDS]
    files = [next(run.glob("wandb/*/*.wandb")) for run in runs]
    assert len({file.name for file in files}) == len(SEEDS)
    assert len({wandb_file.run_of(file).run_group for file in files}) == 1
    assert [mlflow_run(run)[1].data.tags["seed"] for run in runs] == ["0", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_settings_and_score_are_told(continued: Workplace, seed: int) -> None:
    run = continued.run(METHOD, seed, "offline", "killed")
    told = flat_settings(json.loads((run / "manifest.json").read_text(encoding="utf-8")))
    assert (told["method"], told["seed"], told["stage"], told["offline_steps"]) == (METHOD, seed, "offline", 12)
    (file,) = run.glob("wandb/*/*.wandb")
    record = wandb_file.run_of(file)
    config = {item.key: json.loads(item.value_json) for item in record.config.update if item.key != "_wandb"}
    assert config == told
    assert list(record.tags) == [METHOD, told["task"], "offline"]
    assert wandb_file.summary(file)["status"] == "finished"
    _, found = mlflow_run(run)
    assert found.data.params == {
        name: value if isinstance(value, str) else json.dumps(value) for name, value in told.items()
    }
    assert found.data.tags["status"] == "finished"


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_trained_does_not_depend_on_trackers(continued: Workplace, seed: int) -> None:
    assert_equal_runs(continued.run(METHOD, seed, "offline", "plain"), continued.run(METHOD, seed, "offline", "killed"))


@pytest.mark.slow
def test_nothing_is_said_of_machine_person_or_code_and_nothing_reported(continued: Workplace) -> None:
    run = continued.run(METHOD, 0, "offline", "killed")
    (file,) = run.glob("wandb/*/*.wandb")
    assert wandb_file.run_of(file).host == ""
    kinds = {record.WhichOneof("record_type") for record in wandb_file.records(file)}
    assert kinds <= {"header", "run", "telemetry", "summary", "history", "exit", "final", "footer"}
    written = [path for path in file.parent.rglob("*") if path.is_file() and path.parent.name != "logs"]
    assert written == [file]
    assert os.fsencode(continued.folder) not in file.read_bytes()
    assert '"disable-analytics":true' in (file.parent / "logs" / "debug-core.log").read_text(encoding="utf-8")
    _, found = mlflow_run(run)
    assert found.info.user_id in ("unknown", "")
    said = json.dumps(found.data.to_dictionary())
    assert not any(
        word in said for word in (str(continued.folder), f'"{socket.gethostname()}"', f'"{getpass.getuser()}"')
    )


@pytest.mark.slow
def test_all_that_trackers_write_is_the_trainers_own(continued: Workplace, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(continued.run(METHOD, 0, "offline", "killed"), run)
    found = own_files(run)
    assert found.others == []
    tracked = [path for path in found.own if path.relative_to(run).parts[0] in TRACKERS]
    assert {path.relative_to(run).parts[0] for path in tracked} == {"wandb", "mlflow"}
    remove_files(tracked, run)
    assert not (run / "wandb").exists()
    assert not (run / "mlflow").exists()


@pytest.mark.slow
def test_a_server_that_is_away_is_said_once_and_training_is_as_without_it(place: Workplace, monkeypatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    done = place.train(METHOD, "offline", SEEDS, "away", "--track", "mlflow")
    assert done.stderr.count("warning") == 2
    assert done.stderr.count("mfql: warning: mlflow fails for ") == 1
    assert done.stderr.count("mfql: warning: mlflow lacks the end of 2 runs, such as ") == 1
    assert_equal_runs(place.run(METHOD, 0, "offline", "plain"), place.run(METHOD, 0, "offline", "away"))
    assert not (place.run(METHOD, 0, "offline", "away") / "mlflow").exists()


def test_a_tracker_that_hangs_is_ended(place: Workplace, monkeypatch, capfd) -> None:
    run = place.run(METHOD, 0, "offline", "plain")
    monkeypatch.setattr(tracking, "_PATIENCE", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with tracking.tracked(["mlflow"], [run]) as tell:
            tell([(run / "metrics.csv").stat().st_size])
    assert "mlflow: what follows 1 run took too long and was ended" in capfd.readouterr().err


def test_a_tracker_that_dies_is_said(place: Workplace, monkeypatch, capfd) -> None:
    # As it does where its Python lacks something.
    monkeypatch.setattr(
        tracking, "start_module", lambda *_: (subprocess.Popen(["false"]), os.open(os.devnull, os.O_RDONLY))
    )
    with tracking.tracked(["wandb"], [place.run(METHOD, 0, "offline", "plain")]):
        pass
    assert "wandb: what follows 1 run ended by itself (1)" in capfd.readouterr().err


def test_how_a_session_ends_is_told(place: Workplace, monkeypatch) -> None:
    ended = []
    monkeypatch.setattr(tracking._Follower, "end", lambda follower, ending: ended.append(ending))
    monkeypatch.setattr(tracking._Follower, "wait", lambda follower, until: None)
    run = place.run(METHOD, 0, "offline", "plain")
    with tracking.tracked(["mlflow"], [run]):
        pass
    for error in (UserError("away"), KeyboardInterrupt()):
        with pytest.raises(type(error)), tracking.tracked(["mlflow"], [run]):
            raise error
    assert ended == [Ending.FINISHED, Ending.FAILED, Ending.INTERRUPTED]


def test_a_run_that_pauses_is_no_failure_and_not_finished(place: Workplace) -> None:
    more = ("--pause-at", "6", "--track", "mlflow")
    done = place.call(place.arguments(METHOD, "offline", [0], "paused", *more))
    assert (done.returncode, done.stderr) == (0, "")
    assert mlflow_run(place.run(METHOD, 0, "offline", "paused"))[1].info.status == "KILLED"


def test_a_library_that_is_not_installed_is_said_before_training(place: Workplace, capsys) -> None:
    arguments = place.arguments(METHOD, "offline", [0], "none", "--track", "trackio")
    assert cli.main(arguments) == 2
    assert capsys.readouterr().err == (
        "mfql: this needs the package trackio, which is not installed\n  pip install 'mfql[trackio]'\n"
    )
    assert not (place.folder / "none").exists()


def test_a_folder_of_its_name_is_no_library(tmp_path: Path, monkeypatch) -> None:
    (tmp_path / "trackio").mkdir()
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(UserError, match="needs the package trackio"):
        require_trackers(["trackio"])


def test_a_mistyped_tracker_is_named(place: Workplace, capsys) -> None:
    assert cli.main(place.arguments(METHOD, "offline", [0], "none", "--track", "mlflow,wanbd")) == 2
    assert "unknown tracker 'wanbd'" in (said := capsys.readouterr().err)
    assert "Did you mean wandb?" in said


def test_the_configuration_knows_the_trackers() -> None:
    import yaml

    schema = yaml.safe_load((ROOT / "mfql/experiment/schemas/config.yaml").read_text(encoding="utf-8"))
    assert set(schema["properties"]["trackers"]["items"]["enum"]) == set(TRACKERS)


def test_tensorboard_compares_runs_by_their_settings(place: Workplace) -> None:
    from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
    from tensorboard.context import RequestContext
    from tensorboard.plugins.base_plugin import TBContext
    from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
    from tensorboard.plugins.hparams import metadata as hparams

    run = place.run(METHOD, 0, "offline", "plain")
    told = flat_settings(json.loads((run / "manifest.json").read_text(encoding="utf-8")))
    board = EventAccumulator(str(run / "tensorboard")).Reload()
    content = board.SummaryMetadata(hparams.SESSION_START_INFO_TAG).plugin_data.content
    begun = hparams.parse_session_start_info_plugin_data(content).hparams
    assert begun["offline_steps"].number_value == told["offline_steps"]
    assert begun["method"].string_value == METHOD
    assert begun.keys() == told.keys()
    assert hparams.SESSION_END_INFO_TAG in board.summary_metadata
    (text,) = board.Tensors("settings/text_summary")
    assert "| offline_steps | 12 |" in text.tensor_proto.string_val[0].decode()
    # The tab itself: both seeds, with their scores.
    folder = str(place.folder / "plain")
    provider = MultiplexerDataProvider(EventMultiplexer().AddRunsFromDirectory(folder).Reload(), folder)
    context, request = backend_context.Context(TBContext(data_provider=provider)), RequestContext()
    experiment = context.experiment_from_metadata(
        request, "", True, context.hparams_metadata(request, ""), context.hparams_from_data_provider(request, "", 0)
    )
    wanted = api_pb2.ListSessionGroupsRequest(
        start_index=0,
        slice_size=10,
        allowed_statuses=[api_pb2.STATUS_SUCCESS],
        col_params=[api_pb2.ColParams(metric=info.name) for info in experiment.metric_infos],
    )
    answer = list_session_groups.Handler(request, context, "", wanted).run()
    found = {
        group.hparams["seed"].number_value: {value.name.tag: value.value for value in group.metric_values}
        for group in answer.session_groups
    }
    scores = {}
    for seed in SEEDS:
        result = json.loads(
            (place.run(METHOD, seed, "offline", "plain") / "evaluation.json").read_text(encoding="utf-8")
        )
        scores[seed] = {"score": result["score"], "evaluation/success": result["evaluations"][-1]["success"]}
    assert found == scores
