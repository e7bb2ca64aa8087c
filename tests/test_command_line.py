"""The command line itself: help, suggestions, `mfql list`, and what a mistyped path leaves."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mfql.cli import _parser, main
from mfql.errors import UserError
from mfql.evaluation.evaluate import _render, evaluate
from mfql.evaluation.film import require_format, write_film
from mfql.experiment.listing import _declared, _said_of
from mfql.extensions import method_names
from tests.support.training_runs import ROOT

CONFIG = str(ROOT / "config")
SCENE = "scene-play-singletask-task2-v0"


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of all its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from commands(command)


@pytest.mark.parametrize("command", list(commands(_parser())), ids=lambda command: command.prog)
def test_every_option_is_explained_with_its_default(command: argparse.ArgumentParser) -> None:
    said = "".join(command.format_help().split())
    for action in command._actions:
        if isinstance(action, argparse._SubParsersAction):
            assert len(action._choices_actions) == len(action.choices)  # Each has a line of its own.
            continue
        assert action.help, action
        if action.default not in (None, False, argparse.SUPPRESS, []):
            told = command._get_formatter()._expand_help(action)
            assert "default" in told, action
            assert "".join(told.split()) in said


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["trian"], "unknown command 'trian'\n  Did you mean train?"),
        (["data", "fecth"], "unknown command 'fecth'\n  Did you mean fetch?"),
        (["data", "fetch", "x", "--mirrror", "y"], "unknown option '--mirrror'\n  Did you mean --mirror?"),
        (["train", "--sede", "1"], "unknown option '--sede'\n  Did you mean --seeds?"),
        (["train", "--devise=cpu"], "unknown option '--devise'\n  Did you mean --device?"),
        (["plan", "--foo"], "unknown option '--foo'\n  Known: --allow-cpu, "),
        (["train", "--stage", "ofline"], "unknown stage 'ofline'\n  Did you mean offline?"),
        (["plan", "--configfil"], "expected one argument"),
        (
            ["list", "tasks", "--extension", "x"],
            "--extension comes before the command\n  Write mfql --extension ... list",
        ),
        (["train", "--checkpoint-seconds", "nan"], "nan is not a number from 0 on"),
        (["plan", "--gpu-memory", "0"], "0 is not a number above 0"),
        (["plan", "--gpu-memory", "24GB"], "'24GB' is not a number"),
        (["plan", "--verbos", "all", "--unti=x", "--confg", "y"], "unknown option '--confg'\n  Did you mean --config?"),
        (["list", "method"], "unknown value of kind 'method'\n  Did you mean methods?"),
        (["verify", "a", "b"], "'b' is an argument too many"),
    ],
)
def test_what_is_mistyped_is_answered_with_what_was_meant(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [[], ["data"], ["tune"], ["toy"]])
def test_without_a_command_the_help_is_printed(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"usage: {' '.join(['mfql', *arguments])} ")
    assert "show this help message" in printed


def test_the_version_is_the_installed_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert not ended.value.code
    assert capsys.readouterr().out == f"mfql {version('mfql')}\n"


def listed(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    assert main(["list", *arguments, "--config-dir", CONFIG]) == 0
    return capsys.readouterr().out


def test_tasks_are_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    assert f"\n{SCENE} " in listed(capsys, "tasks")
    said = listed(capsys, "tasks", "scene-play-singletask-v0").splitlines()
    assert said[0] == SCENE
    assert {"  dataset          scene-play-v0", "  environment      scene", "  discount         0.995"} <= set(said)
    assert "  scored by        success, last three of its evaluations" in said


def test_methods_are_listed_and_explained_those_of_an_extension_too(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MFQL_EXTENSIONS", str(lab / "mylab"))
    said = listed(capsys, "methods")
    assert "\nmfql " in said
    (own,) = [line for line in said.splitlines() if line.startswith("rwr ")]
    assert own.endswith(f"(of {lab / 'mylab'})")
    said = listed(capsys, "methods", "mfql+alpha=300", "--task", SCENE)
    first, second, *_ = said.splitlines()
    assert first == f"mfql+alpha=300, in {CONFIG}/methods/mfql.yaml"
    assert second.startswith("agent mfql: MFQL: a one-step MeanFlow policy")
    assert ["alpha", "300", "300", "300"] in [line.split() for line in said.splitlines()]
    said = listed(capsys, "tasks", "point")
    assert "point:mylab/Point-v0" in said
    assert "  online           yes\n" in said  # Of the paper it is none.


def test_a_suite_or_an_environment_is_listed_as_its_tasks(
    lab: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MFQL_EXTENSIONS", str(lab / "mylab"))
    names = [line.split()[0] for line in listed(capsys, "tasks", "own").splitlines()]
    assert names == ["task", "point", "point-hdf5", "point-minari", "pendulum"]
    names = [line.split()[0] for line in listed(capsys, "tasks", "scene").splitlines()]
    assert names == ["task", *(f"scene-play-singletask-task{number}-v0" for number in range(1, 6))]
    assert main(["list", "tasks", "owm", "--config-dir", CONFIG]) == 2
    assert "Did you mean own?" in capsys.readouterr().err


def test_settings_are_listed_and_explained(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [line.split() for line in listed(capsys, "settings", "--task", SCENE).splitlines()]
    assert ["tau", "number", "0.005", "0.005"] in rows
    said = listed(capsys, "settings", "discount", "--task", SCENE)
    assert said.startswith("discount: of future rewards.\n  type             number\n  range            in [0, 1)\n")
    assert f"  in mfql          0.995  ({SCENE}, offline)\n" in said
    assert "  type             mean | min\n" in listed(capsys, "settings", "q_agg")


def test_every_setting_of_every_method_has_an_explanation() -> None:
    for method in method_names(CONFIG):
        own = type(_declared(method, CONFIG, SCENE, "online" if method.startswith("rlpd") else "offline"))
        lacking = [key for key in own.__dataclass_fields__ if "says nothing" in _said_of(own, key)]
        assert not lacking, method


def test_help_waits_for_nothing_heavy() -> None:
    heavy = {"numpy", "torch", "pandas", "matplotlib", "jsonschema", "snakemake", "shtab", "yaml", "json"}
    heavy |= {"importlib.metadata"}
    code = f"import sys, mfql.cli; mfql.cli._parser().format_help(); sys.exit(sorted({heavy} & set(sys.modules)) or 0)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr


# What is given a path that is not there, each with the rest as it should be.
MISTYPED = [
    ["data", "describe", SCENE, "--out", "nowhere"],
    ["data", "describe", "scne", "--out", "data"],
    ["data", "fetch", "scene-play-v0", "--out", "data", "--from", "nowhere"],
    ["data", "fetch", "scene-play", "--out", "data"],
    ["data", "fetch", "scene-play-singletask-v0", "--out", "data"],
    ["data", "generate", "scene-play", "--out", "data"],
    ["data", "replay", SCENE, "--data", "nowhere", "--out", "made/replay.json"],
    ["data", "replay-table", "nowhere.json", "--out", "made/replay.csv"],
    ["train", "--method", "mfql-laptop", "--task", SCENE, "--stage", "offline", "--seeds", "0", "--data", "nowhere"],
    ["train", "--method", "mfql-lap", "--task", SCENE, "--stage", "offline", "--seeds", "0"],
    ["train", "--method", "mfql", "--task", SCENE, "--stage", "offline", "--seeds", "0", "--config-dir", "nowhere"],
    ["evaluate", "results/runs/mfql/scene/seed0/offline", "--out", "made/final.json"],
    ["export", "results/runs/mfql/scene/seed0/offline", "--to", "onnx", "--out", "made/policy.onnx"],
    ["tune", "choose", "nowhere.json", "--out", "made/proposal.yaml"],
    ["tune", "freeze", "nowhere.yaml"],
    ["tune", "search", "--configfile", "nowhere.yaml"],
    ["import-released", "nowhere.pkl", "--task", SCENE, "--out", "made/policy"],
    ["scores", "nowhere.json", "--out", "made/scores.csv"],
    ["aggregate", "nowhere.csv", "--out", "made"],
    ["report", "--scores", "nowhere.csv", "--aggregates", "nowhere", "--out", "made/report.html"],
    ["summary", "--aggregates", "nowhere", "--report", "report.html"],
    ["ablation", "draw", "nowhere.json", "--out", "made"],
    ["claims", "judge", "nowhere", "--out", "made"],
    ["claims", "parity", "nowhere.npz", "--out", "made/parity.csv"],
    ["ship", "nowhere", "--out", "made"],
    ["list", "methods", "--config-dir", "nowhere"],
    ["status", "nowhere"],
    ["verify", "nowhere"],
    ["clean", "nowhere"],
    ["toy", "train", "residual", "--size", "reduced", "--config", "nowhere.yaml", "--out", "made"],
    ["plan", "--configfile", "nowhere.yaml"],
]


@pytest.mark.parametrize("arguments", MISTYPED, ids=lambda arguments: " ".join(arguments[:3]))
def test_a_mistyped_path_or_name_leaves_nothing_behind(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "config").symlink_to(CONFIG)
    assert main(arguments) == 2
    assert "Traceback" not in capsys.readouterr().err
    assert os.listdir(tmp_path) == ["config"]


def test_a_score_is_not_computed_for_a_file_that_is_a_folder(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is a folder\n  Name the file, such as .*evaluation.json"):
        evaluate(tmp_path / "run", 1, tmp_path, None, 0)


class Rendered:
    """An environment that renders this."""

    def __init__(self, frame: object) -> None:
        self.frame = frame

    def render(self) -> object:
        if self.frame is NotImplementedError:
            raise NotImplementedError
        return self.frame


@pytest.mark.parametrize(
    ("frame", "said"),
    [
        (NotImplementedError, "the environment has no render()"),
        (None, "gives no frame [height, width, 3] of uint8, but object []"),
        (np.zeros((4, 4, 3)), "gives no frame [height, width, 3] of uint8, but float64 [4, 4, 3]"),
    ],
)
def test_an_environment_without_frames_is_not_taken_for_a_machine_that_cannot_render(frame: object, said: str) -> None:
    with pytest.raises(UserError, match=re.escape(said)) as caught:
        _render(Rendered(frame))
    assert "render_mode='rgb_array'" in str(caught.value)


FRAMES = np.zeros((6, 32, 48, 3), np.uint8)
FRAMES[..., 0] = 40 * np.arange(6)[:, None, None]


@pytest.mark.parametrize(("name", "kind"), [("film.gif", "GIF"), ("film.webp", "WEBP"), ("film.PNG", "PNG")])
def test_a_film_is_what_its_name_says(tmp_path: Path, name: str, kind: str) -> None:
    require_format(tmp_path / name)
    write_film(tmp_path / name, FRAMES)
    with Image.open(tmp_path / name) as film:
        assert (film.format, film.n_frames, film.size) == (kind, 6, (48, 32))


@pytest.mark.parametrize("name", ["film.avi", "film", "film.gif.txt"])
def test_another_format_is_refused_with_those_there_are(name: str) -> None:
    with pytest.raises(UserError, match=r"no format of films\n  Name it \.gif, "):
        require_format(Path(name))


def test_a_format_that_needs_ffmpeg_names_what_brings_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mfql.evaluation.film.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"pip install 'mfql\[video\]'"):
        require_format(Path("film.mp4"))
