"""Generated datasets: protocol, files, and independence of how they are made."""

import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import psutil
import pytest

from mfql.data import generate as generating
from mfql.data.collect_manipulation import cube_stays_visible
from mfql.data.collect_maze import cells_at, free_cells, is_corridor
from mfql.data.generate import collect_episode, generate
from mfql.data.paths import description_path
from mfql.data.recipes import find_recipe, recipes
from mfql.errors import UserError
from mfql.files import sha256
from mfql.suites import split_paths
from tests.support.processes import started, until

POINT = "pointmaze-medium-navigate-v0"
STEPS = 130
STATS = Path(__file__).parent / "data" / "generator_stats.npz"


def collect(
    dataset: str, job: tuple[str, int] = ("train", 0), steps: int = STEPS, seed: int = 0
) -> dict[str, np.ndarray]:
    """A short episode of a dataset."""
    return collect_episode(replace(find_recipe(dataset), steps=steps), seed, job)


episode = cache(collect)


def forget_environments() -> None:
    generating._collector.cache_clear()


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert list(one) == list(other)
    for name, array in one.items():
        np.testing.assert_array_equal(array, other[name], err_msg=name)


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    generate(POINT, folder, episodes=3, progress=False)
    return folder


@pytest.mark.slow
def test_two_workers_write_the_same_bytes_as_one(made, tmp_path):
    generate(POINT, tmp_path, episodes=3, workers=2, progress=False)
    names = sorted(path.name for path in made.iterdir())
    assert names == [f"{POINT}-val.npz", f"{POINT}.json", f"{POINT}.npz"]
    for name in names:
        assert (tmp_path / name).read_bytes() == (made / name).read_bytes()


def test_workers_end_with_a_killed_parent_and_no_file_is_left(tmp_path):
    script = (
        "from mfql.data.generate import generate\n"
        f"if __name__ == '__main__': generate({POINT!r}, {str(tmp_path / 'out')!r}, workers=2, progress=False)"
    )
    (tmp_path / "script.py").write_text(script, encoding="utf-8")
    path = os.pathsep.join(entry or os.getcwd() for entry in sys.path)
    environment = {**os.environ, "PYTHONPATH": path}
    with started(
        [sys.executable, tmp_path / "script.py"], env=environment, stderr=subprocess.PIPE, encoding="utf-8"
    ) as parent:
        generator = psutil.Process(parent.pid)

        def workers_and_resource_tracker() -> list[psutil.Process]:
            return children if len(children := generator.children()) == 3 else []

        children = until(workers_and_resource_tracker, parent, lambda: parent.stderr.read())
        parent.kill()
        parent.wait()
        psutil.wait_procs(children)  # They end by themselves, or the test does not.
    assert list((tmp_path / "out").iterdir()) == []


def test_an_episode_does_not_depend_on_how_many_there_are(made, tmp_path):
    more, fewer = (np.load(generate(POINT, tmp_path / str(n), episodes=n, progress=False)) for n in (2, 1))
    whole = np.load(made / f"{POINT}.npz")
    for name in whole.files:
        np.testing.assert_array_equal(whole[name][:2002], more[name])
        np.testing.assert_array_equal(whole[name][:1001], fewer[name])


@pytest.mark.slow
@pytest.mark.parametrize("dataset", ["scene-play-v0", "cube-single-noisy-v0"])
def test_an_episode_does_not_depend_on_those_before_it(dataset):
    first = episode(dataset)
    second = collect(dataset, ("train", 1))
    assert_same(first, collect(dataset))
    forget_environments()
    assert_same(second, collect(dataset, ("train", 1)))


def test_number_split_and_seed_make_other_episodes():
    episodes = [
        collect(POINT, job, seed=seed)
        for job, seed in ((("train", 0), 0), (("train", 1), 0), (("val", 0), 0), (("train", 0), 1))
    ]
    assert len({one["observations"].tobytes() for one in episodes}) == 4


@pytest.mark.parametrize(
    "dataset", [POINT, "cube-single-play-v0", "cube-single-noisy-v0", "scene-play-v0", "puzzle-3x3-play-v0"]
)
def test_arrays_and_types_are_the_official_ones(dataset):
    made = episode(dataset)
    assert made["terminals"].tolist() == [False] * (STEPS - 1) + [True]
    kinds = {f"{name}:{array.dtype}:{'x'.join(map(str, array.shape[1:]))}" for name, array in made.items()}
    with np.load(STATS) as stats:
        assert kinds == set(stats[f"{dataset}/keys"])
        assert set(stats[f"{dataset}/episode_length"]) == {find_recipe(dataset).steps}


def test_files_hold_the_official_arrays_and_a_true_description(made):
    paths = split_paths(made, POINT)
    description = json.loads(description_path(made, POINT).read_text(encoding="utf-8"))
    with np.load(paths["train"]) as train, np.load(paths["val"]) as val:
        assert train.files == ["observations", "actions", "terminals", "qpos", "qvel"]
        assert np.flatnonzero(train["terminals"]).tolist() == [1000, 2001, 3002]
        assert description["rows"] == {"train": len(train["actions"]), "val": len(val["actions"])}
    assert description["sha256"] == {split: sha256(path) for split, path in paths.items()}
    expected = {"dataset": POINT, "source": "generated", "episodes": 3, "val_episodes": 1, "steps": 1001, "seed": 0}
    expected["simulation_version"] = 1
    assert {name: description[name] for name in expected} == expected
    assert set(description["versions"]) == {"mfql", "ogbench", "mujoco", "numpy"}


def test_point_mazes_reach_goal_after_goal():
    made = collect(POINT, steps=1001)
    cells = {tuple(cell) for cell in np.round(made["observations"] / 4).astype(int)}
    assert len(cells) > 10
    np.testing.assert_array_equal(made["observations"], made["qpos"])
    assert np.abs(made["actions"]).max() == 1.0


def test_stitch_walks_four_cells_and_stays():
    made = collect("pointmaze-medium-stitch-v0", steps=201)
    cells = np.round(made["observations"] / 4)
    assert 2 <= np.abs(cells[-1] - cells[0]).sum() <= 4
    assert np.abs(made["observations"][-80:] - made["observations"][-1]).max() < 4.0


def test_the_play_oracle_lifts_the_cube_and_the_noisy_one_acts_at_random_now_and_then():
    play = episode("cube-single-play-v0")
    assert play["qpos"][:, 16].max() > 0.08
    noisy = episode("cube-single-noisy-v0")
    assert noisy["qpos"][:, 16].max() > 0.08
    assert np.abs(np.diff(noisy["actions"], axis=0)).mean() > 2 * np.abs(np.diff(play["actions"], axis=0)).mean()


def test_puzzle_buttons_are_pressed():
    states = episode("puzzle-3x3-play-v0")["button_states"]
    assert len(np.unique(states, axis=0)) > 1


def test_making_a_maze_leaves_no_file(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    forget_environments()
    collect(POINT)
    assert list(tmp_path.iterdir()) == []


def test_official_sizes():
    sizes = {name: (recipe.episodes, recipe.steps) for name, recipe in recipes().items()}
    assert (
        sizes["cube-single-play-v0"]
        == sizes["scene-noisy-v0"]
        == sizes["pointmaze-teleport-navigate-v0"]
        == (1000, 1001)
    )
    assert sizes["cube-triple-play-v0"] == sizes["puzzle-4x5-noisy-v0"] == (3000, 1001)
    assert sizes["cube-quadruple-noisy-v0"] == sizes["puzzle-4x6-play-v0"] == (5000, 1001)
    assert sizes["pointmaze-giant-navigate-v0"] == (500, 2001)
    assert sizes["pointmaze-giant-stitch-v0"] == (5000, 201)


def test_corridors_and_distances_in_a_maze():
    maze = np.array([[int(cell) for cell in row] for row in ("1111111", "1000001", "1011101", "1000001", "1111111")])
    corridors = {cell for cell in free_cells(maze) if is_corridor(maze, cell)}
    assert corridors == set(free_cells(maze)) - {(1, 1), (1, 5), (3, 1), (3, 5)}
    assert sorted(cells_at(maze, (1, 1), 4)) == [(1, 5), (3, 3)]
    assert cells_at(maze, (1, 1), 7) == []


def test_a_scenes_cube_may_leave_the_table_for_the_drawer_alone():
    on_table, in_drawer = [0.4, 0.1, 0.02], [0.33, -0.36, 0.066]
    assert cube_stays_visible(np.array([on_table, in_drawer]))
    assert not cube_stays_visible(np.array([on_table, [0.4, 0.29, 0.02]]))
    assert not cube_stays_visible(np.array([on_table, [0.4, -0.31, 0.02]]))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"dataset": "pointmaze-medum-navigate-v0"}, "Did you mean .*pointmaze-medium-navigate-v0"),
        ({"dataset": "antmaze-large-navigate-v0"}, r"(?s)cannot be generated.*mfql data fetch"),
        ({"dataset": POINT, "episodes": 0}, "episodes is 0"),
        ({"dataset": POINT, "workers": 0}, "workers is 0"),
        ({"dataset": POINT, "seed": -1}, "seed is -1"),
    ],
)
def test_bad_arguments_are_named(arguments, message, tmp_path):
    with pytest.raises(UserError, match=message):
        generate(folder=tmp_path / "new", **arguments)
    assert not (tmp_path / "new").exists()


def test_a_folder_that_cannot_be_written_is_refused_before_collecting(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match=f"cannot write {tmp_path / 'file'}"):
        generate(POINT, tmp_path / "file", episodes=1)


def test_the_progress_bar_counts_episodes(tmp_path, capsys):
    generate(POINT, tmp_path, episodes=1)
    assert "2/2" in capsys.readouterr().err


def test_numpy_writes_the_same_bytes_at_any_time():
    """`sha256` identifies a dataset only if the archive holds no time stamp."""
    import zipfile

    file = io.BytesIO()
    np.savez_compressed(file, a=np.zeros(3))
    assert [entry.date_time for entry in zipfile.ZipFile(file).infolist()] == [(1980, 1, 1, 0, 0, 0)]


def described(folder: Path, source: str) -> None:
    """Have a dataset's description say another source of the files that lie there."""
    path = description_path(folder, POINT)
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps(content | {"source": source}), encoding="utf-8")


def others_bytes(folder: Path) -> None:
    (folder / f"{POINT}.npz").write_bytes(b"mine")


def others_bytes_without_a_description(folder: Path) -> None:
    others_bytes(folder)
    description_path(folder, POINT).unlink()


def other_rows_without_a_description(folder: Path) -> None:
    description_path(folder, POINT).unlink()
    path = folder / f"{POINT}-val.npz"
    with np.load(path) as arrays:
        np.savez_compressed(path, **{name: rows[1:] for name, rows in arrays.items()})


def fetched(folder: Path) -> None:
    described(folder, "downloaded")


def linked(folder: Path) -> None:
    (folder / f"{POINT}.npz").rename(folder / "elsewhere")
    (folder / f"{POINT}.npz").symlink_to("elsewhere")


@pytest.mark.parametrize(
    "change", [others_bytes, others_bytes_without_a_description, other_rows_without_a_description, fetched, linked]
)
def test_what_was_not_generated_is_not_written_over(change, made, tmp_path, monkeypatch):
    folder = tmp_path / "data"
    shutil.copytree(made, folder)
    change(folder)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    monkeypatch.setattr(generating, "_collect", lambda *_: pytest.fail("It began to collect."))
    with pytest.raises(UserError, match="is in the way: nothing says that it was generated"):
        generate(POINT, folder, episodes=3, progress=False)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


@pytest.mark.parametrize("is_described", [True, False])
def test_what_was_generated_is_made_again(is_described, made, tmp_path):
    """Without its description too, which a workflow removes before it makes it again, or a kill left unwritten."""
    folder = tmp_path / "data"
    shutil.copytree(made, folder)
    if not is_described:
        description_path(folder, POINT).unlink()
    generate(POINT, folder, episodes=1, progress=False)
    assert json.loads(description_path(folder, POINT).read_text(encoding="utf-8"))["episodes"] == 1
