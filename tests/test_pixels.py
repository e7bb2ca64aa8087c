"""Pixel tasks: encoder, stacked frames, random crops, rendering with a shared model, and a run end to end."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import mfql
from mfql.agents.encoders import ImpalaEncoder
from mfql.agents.mfql import MFQL, MFQLSettings
from mfql.agents.parameters import Layout
from mfql.agents.update import initial_state, views_of
from mfql.cli import main
from mfql.data.description import describe
from mfql.data.generate import collect_episode
from mfql.data.layouts import OGBENCH
from mfql.data.paths import description_path
from mfql.data.pixels import stacked_indices
from mfql.data.recipes import find_recipe
from mfql.data.unpacked import unpacked_images
from mfql.envs.isolated import reset_env
from mfql.envs.pixels import FRAMES
from mfql.errors import UserError
from mfql.evaluation.evaluate import evaluate
from mfql.operations.verify import Current, Kind
from mfql.operations.verify import _of_images as images_of
from mfql.suites import load, make_env, split_paths, suite_of
from mfql.tasks import find_task
from mfql.training.images import shifted
from mfql.training.loop import Execution
from mfql.training.train import Job, train
from tests.support.plain_loop import played

ROOT = Path(__file__).parents[1]
TASK = "visual-cube-single-play-singletask-task1-v0"
DATASET = "visual-cube-single-play-v0"
STEPS = 12


def random_views(layout: Layout, seeds: int) -> dict[str, torch.Tensor]:
    generators = [torch.Generator().manual_seed(seed) for seed in range(seeds)]
    flat = layout.initial(generators)
    return layout.views(flat + 0.05 * torch.randn(flat.shape, generator=torch.Generator().manual_seed(9)))


def same_convolution(image: np.ndarray, kernel: np.ndarray, bias: np.ndarray) -> np.ndarray:
    """[H, W, in] to [H, W, out], by its definition, kernel [out, in, 3, 3]."""
    height, width, _ = image.shape
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    found = np.zeros((height, width, len(kernel)))
    for row in range(3):
        for column in range(3):
            found += padded[row : row + height, column : column + width] @ kernel[:, :, row, column].T
    return found + bias


def same_pooling(image: np.ndarray) -> np.ndarray:
    """The largest of 3 x 3 at every second pixel, from the pixel on: flax pads an even size at its far end alone."""
    height, width, _ = image.shape
    padded = np.pad(image, ((0, 1), (0, 1), (0, 0)), constant_values=-np.inf)
    windows = [padded[row : row + height : 2, column : column + width : 2] for row in range(3) for column in range(3)]
    return np.max(windows, axis=0)


def test_the_encoder_is_impala_by_its_definition():
    encoder = ImpalaEncoder((8, 8, 6), (3, 4), 5)
    views = random_views(Layout(encoder.parameters), 1)
    arrays = {name.removeprefix("encoder."): view[0].double().numpy() for name, view in views.items()}
    image = np.random.default_rng(0).integers(0, 256, (8, 8, 6))

    def convolve(x, name):
        return same_convolution(x, arrays[f"{name}.kernel"], arrays[f"{name}.bias"])

    x = image / 255.0
    for stage in ("stage0", "stage1"):
        x = same_pooling(convolve(x, f"{stage}.conv"))
        x = x + convolve(np.maximum(convolve(np.maximum(x, 0), f"{stage}.residual0"), 0), f"{stage}.residual1")
    x = np.maximum(x, 0).reshape(-1) @ arrays["dense.kernel"] + arrays["dense.bias"]
    expected = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))

    exact = {name: view.double() for name, view in views.items()}
    found = encoder(exact, torch.from_numpy(image).to(torch.uint8)[None, None])
    np.testing.assert_allclose(found[0, 0].numpy(), expected, rtol=1e-12, atol=1e-12)


def test_the_published_encoder_has_its_size():
    encoder = ImpalaEncoder((64, 64, 9), (16, 32, 32), 512)
    convolutions = 9 * (9 * 16 + 16 * 32 + 32 * 32 + 2 * (16 * 16 + 2 * 32 * 32)) + 3 * (16 + 32 + 32)
    assert Layout(encoder.parameters).count == convolutions + 8 * 8 * 32 * 512 + 512


def test_a_seed_is_encoded_alone_as_among_others():
    encoder = ImpalaEncoder((16, 16, 9), (4, 4), 6)
    views = random_views(Layout(encoder.parameters), 3)
    images = torch.randint(0, 256, (3, 5, 16, 16, 9), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    together = encoder(views, images)
    for seed in range(3):
        alone = encoder({name: view[seed : seed + 1] for name, view in views.items()}, images[seed : seed + 1])
        torch.testing.assert_close(alone[0], together[seed], rtol=1e-5, atol=1e-6)


def test_an_image_size_that_the_stages_cannot_halve_is_refused():
    with pytest.raises(ValueError, match="60 x 64; 3 stages need multiples of 8"):
        ImpalaEncoder((60, 64, 9), (16, 32, 32), 512)


def test_policy_and_critic_train_encoders_of_their_own():
    options = MFQLSettings(
        offline_steps=10, online_steps=0, discount=0.9, alpha=1.0, batch_size=4, num_candidates=2,
        policy_hidden=8, policy_blocks=1, critic_hidden=(8,), encoder_channels=(2, 2), encoder_features=6,
        zero_init=False,
    )  # fmt: skip
    agent = MFQL(options, (8, 8, 9), 2)
    state = initial_state(agent, [torch.Generator().manual_seed(0)], torch.device("cpu"))
    leaves = {name: flat.requires_grad_(name in agent.groups) for name, flat in state.flat.items()}
    parameters = views_of(agent, leaves)
    random = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (2, 1, 4, 8, 8, 9), generator=random, dtype=torch.uint8)
    batch = {
        "observations": images[0], "next_observations": images[1],
        "actions": torch.rand(1, 4, 2, generator=random) - 0.5,
        "rewards": torch.zeros(1, 4), "masks": torch.ones(1, 4),
    }  # fmt: skip
    draws = {name: torch.rand(1, *draw.shape, generator=random) for name, draw in agent.update_draws().items()}

    seen = agent.encode(parameters["critic"], batch["observations"])
    value_loss, flow_loss, _ = agent.policy_losses(parameters, batch, seen.detach(), draws, state.own)
    policy_loss = value_loss + flow_loss
    of_policy = torch.autograd.grad(policy_loss.sum(), list(leaves.values())[:2], allow_unused=True)
    assert agent.groups["policy"].layout.views(of_policy[0])["encoder.stage0.conv.kernel"].abs().sum() > 0
    assert of_policy[1] is None or of_policy[1].abs().sum() == 0

    critic_loss, _ = agent.critic_loss(parameters, batch, seen, draws)
    of_critic = torch.autograd.grad(critic_loss.sum(), [leaves["policy"], leaves["critic"]], allow_unused=True)
    assert of_critic[0] is None
    assert agent.groups["critic"].layout.views(of_critic[1])["encoder.dense.kernel"].abs().sum() > 0


@given(st.lists(st.integers(1, 7), min_size=1, max_size=6))
def test_frames_are_stacked_within_their_trajectory(lengths):
    last = np.concatenate([np.arange(length) == length - 1 for length in lengths])
    expected, image = [], 0
    for length in lengths:
        window = [image] * FRAMES
        for _ in range(length):
            window = [*window[1:], image]
            expected.append(window)
            image += 1
    np.testing.assert_array_equal(stacked_indices(last), expected)


@given(
    hnp.arrays(np.uint8, (2, 3, 6, 5, 4)),
    hnp.arrays(np.float32, (2, 3, 2), elements=st.floats(0, 1, exclude_max=True, width=32)),
    st.tuples(st.floats(0, 0.75, width=32), st.floats(0, 0.75, width=32)),
)
def test_a_crop_is_a_cut_of_the_padded_image(images, places, augment):
    batch = {"observations": torch.from_numpy(images), "next_observations": torch.from_numpy(images[::-1].copy())}
    draws = {"shift": torch.from_numpy(places), "augment": torch.tensor(augment)}
    found = shifted(batch, draws, 0.5)
    for name, original in batch.items():
        padded = np.pad(original.numpy(), ((0, 0), (0, 0), (3, 3), (3, 3), (0, 0)), mode="edge")
        for seed, row in np.ndindex(2, 3):
            top, left = np.floor(places[seed, row] * 7).astype(int) if augment[seed] < 0.5 else (3, 3)
            cut = padded[seed, row, top : top + 6, left : left + 5]
            np.testing.assert_array_equal(found[name][seed, row].numpy(), cut)


@pytest.fixture(scope="module")
def data(rendering, tmp_path_factory) -> Path:
    """Short episodes of the real environment by the real collector, in OGBench's layout."""
    folder = tmp_path_factory.mktemp("pixels")
    recipe = replace(find_recipe(DATASET), steps=STEPS)
    for split, path in split_paths(folder, DATASET).items():
        episodes = [collect_episode(recipe, 0, (split, number)) for number in range(2 if split == "train" else 1)]
        np.savez_compressed(path, **{name: np.concatenate([one[name] for one in episodes]) for name in episodes[0]})
    describe(
        folder,
        DATASET,
        split_paths(folder, DATASET),
        OGBENCH,
        "generated",
        0,
    )
    return folder


@pytest.mark.slow
def test_described_images_are_counted_and_no_dimensions_of_theirs_are_named(data, capsys):
    path = description_path(data, DATASET)
    before = path.read_text(encoding="utf-8")
    assert main(["data", "describe", TASK, "--out", str(data), "--config-dir", str(ROOT / "config")]) == 0
    assert path.read_text(encoding="utf-8") == before
    out = capsys.readouterr().out
    assert "train: " in out
    assert "  observations [64, 64, 9], actions [5]" in out
    assert "do not vary" not in out


@pytest.mark.slow
def test_loaded_rows_are_ogbenchs_with_the_frames_before_them(data):
    import ogbench

    loaded = load(find_task(TASK, ROOT / "config"), data)
    _, train_split, _ = ogbench.make_env_and_datasets(TASK, dataset_path=str(data / f"{DATASET}.npz"))
    rows = np.arange(len(loaded))
    assert loaded.observations.shape == (2 * (STEPS - 1), 64, 64, 9)
    np.testing.assert_array_equal(loaded.observations[rows][..., -3:], train_split["observations"])
    np.testing.assert_array_equal(loaded.next_observations[rows][..., -3:], train_split["next_observations"])
    for name in ("rewards", "masks", "terminals"):
        np.testing.assert_array_equal(getattr(loaded, name), train_split[name])
    following = rows[loaded.terminals == 0]
    np.testing.assert_array_equal(loaded.next_observations[following], loaded.observations[following + 1])


def black(content: bytes) -> bytes:
    return content[:128] + bytes(len(content) - 128)


def one_bit(content: bytes) -> bytes:
    return content[:-5] + bytes([content[-5] ^ 1]) + content[-4:]


@pytest.mark.parametrize("change", [black, one_bit, lambda content: content[:-100], lambda content: b""])
def test_unpacked_images_that_are_not_the_files_are_found_and_unpacked_anew(tmp_path, change, capsys):
    images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 3), np.uint8)
    for path in split_paths(tmp_path, DATASET).values():
        np.savez_compressed(path, observations=images)
    described = {"source": "generated", "sha256": {"train": "0" * 64}}
    description_path(tmp_path, DATASET).write_text(json.dumps(described), encoding="utf-8")
    path = split_paths(tmp_path, DATASET)["train"]
    np.testing.assert_array_equal(unpacked_images(path), images)
    (copy,) = (tmp_path / "unpacked").glob("*.npy")
    copy.write_bytes(change(copy.read_bytes()))
    current = Current(ROOT / "config", tmp_path)
    current.dataset(DATASET, None)
    assert [(one.kind, one.where) for one in images_of(current)] == [(Kind.ALTERED, str(copy))]
    np.testing.assert_array_equal(unpacked_images(path), images)
    assert f"warning: {copy} is not what {path} holds" in capsys.readouterr().err
    assert list(images_of(current)) == []
    unpacked_images(path)
    assert capsys.readouterr().err == ""


@pytest.mark.slow
def test_black_images_beside_a_dataset_are_not_trained_on(data, tmp_path):
    folder = tmp_path / "data"
    shutil.copytree(data, folder)
    task = find_task(TASK, ROOT / "config")
    images = load(task, folder).observations.images.copy()
    for copy in (folder / "unpacked").glob("*.npy"):
        copy.write_bytes(black(copy.read_bytes()))
    np.testing.assert_array_equal(load(task, folder).observations.images, images)


@pytest.mark.slow
def test_rendering_is_chosen_even_after_mujoco_was_imported(rendering):
    program = f"import mujoco; from mfql.suites import make_env; make_env({TASK!r}).close(); print('rendered')"
    without = {name: value for name, value in os.environ.items() if name not in ("MUJOCO_GL", "DISPLAY")}
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, encoding="utf-8", env=without, cwd=ROOT)
    assert done.stdout == "rendered\n", done.stderr


@pytest.mark.slow
def test_environments_that_share_a_model_show_what_one_alone_shows(rendering):
    alone = make_env(TASK)
    first, second = suite_of(TASK).make_many(TASK, 2)
    reset_env(first, 1)
    shown, _ = reset_env(second, 2)
    expected, _ = reset_env(alone, 2)
    np.testing.assert_array_equal(shown, expected)
    assert shown.shape == (64, 64, 9)
    for action in np.random.default_rng(0).uniform(-1, 1, (2, 5)).astype(np.float32):
        first.step(-action)
        np.testing.assert_array_equal(second.step(action)[0], alone.step(action)[0])
    for env in (alone, first, second):
        env.close()


@pytest.mark.long
def test_a_pixel_task_trains_and_evaluates_end_to_end(data, tmp_path, monkeypatch):
    monkeypatch.setattr(gymnasium.spec("visual-cube-single-singletask-task1-v0"), "max_episode_steps", 6)
    config = tmp_path / "config"
    shutil.copytree(ROOT / "config", config)
    small = {
        "inherits": "mfql-miniature",
        "offline_steps": 4,
        "eval_interval": 4,
        "eval_episodes": 1,
        "log_interval": 2,
    }
    (config / "methods" / "small.yaml").write_text(yaml.safe_dump(small), encoding="utf-8")
    job = Job("small", TASK, "offline", (0,), data, tmp_path / "results", config)
    train(job, Execution(torch.device("cpu"), workers=0, progress=False))

    run = job.run(0).folder
    found = evaluate(run, 1, tmp_path / "final.json", None, workers=0)
    assert found["each"]["length"] == [6]
    policy = mfql.load_policy(run)
    assert played(policy, policy.make_env(), 1) == found["each"]
    policy = mfql.load_policy(run)
    env = make_env(TASK)
    observation, _ = reset_env(env, 0)
    assert policy(observation).shape == (5,)
    assert policy(np.stack([observation, observation])).shape == (2, 5)
    with pytest.raises(ValueError, match=r"this policy takes \[64, 64, 9\]"):
        policy(observation[..., :3])
    with pytest.raises(ValueError, match="images of float64"):
        policy(observation / 255.0)
    assert policy.description["observation_frames"] == 3
    env.close()
    with pytest.raises(UserError, match="is not trained online"):
        train(replace(job, stage="online"), Execution(torch.device("cpu"), workers=0, progress=False))
