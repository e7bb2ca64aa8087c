"""`mfql evaluate`: scores a finished run's policy on episodes of its own, and films one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from mfql.documents import write_json
from mfql.envs.isolated import reset_env
from mfql.envs.patience import Limited
from mfql.envs.pixels import NO_RENDERER, choose_renderer
from mfql.envs.trial import named
from mfql.errors import UserError, warn
from mfql.evaluation.film import require_format, write_film
from mfql.evaluation.policy import Policy, load_policy
from mfql.evaluation.rollout import SCORING, Episodes, episode_key, run_episodes, start_seed
from mfql.evaluation.usage import suite_used, warn_of_other_environment
from mfql.evaluation.vector import EnvPool
from mfql.files import write_whole
from mfql.settings import MOST_EPISODES

# The longest film.
_MOST_FRAMES = 600
# Frames of a strip, and their height in pixels.
_STRIP_FRAMES, _STRIP_HEIGHT = 8, 160


def evaluate(
    run: Path,
    episodes: int,
    out: Path,
    video: Path | None,
    workers: int,
    strip: Path | None = None,
    progress: bool = False,
) -> dict[str, Any]:
    """Score a policy and write what was found.

    The episodes are others than those of training's evaluations, and the same in every call.

    Args:
        run: the folder of a finished run.
        episodes: how many.
        out: JSON file with the means and every episode's result.
        video: file of one episode's film, in the format that its name says, or None.
        workers: environment processes.
        strip: PNG file of a few frames of that episode side by side, or None.
        progress: show a bar of the episodes' steps, and one of the film's frames, on a terminal.

    Raises:
        UserError: there are too many episodes, `out` is a folder, the video's name says no format of films, the folder
            has no policy, or neither this machine nor the environment renders what the video or the strip shows.
    """
    _require(episodes, out)
    if video is not None:
        require_format(video)
    if video is not None or strip is not None:
        choose_renderer()
    policy = load_policy(run)
    with _pool(policy, episodes, workers) as pool:
        result = _scores(policy, pool, episodes, progress)
    if video is not None or strip is not None:
        film(policy, video, strip, progress)
    write_json(out, result)
    return result


def evaluate_each(
    runs: Sequence[Path], episodes: int, outs: Sequence[Path], workers: int, progress: bool = False
) -> Iterator[dict[str, Any]]:
    """Score the policies of several runs, each as `evaluate` does; the environments are made once for all of a task.

    What is found of a run is given as soon as its file is written.

    Args:
        runs: folders of finished runs.
        episodes: of each.
        outs: a JSON file for each run.
        workers: environment processes.
        progress: show a bar of the episodes' steps on a terminal.

    Raises:
        UserError: as `evaluate`; a folder without a policy before any is scored.
    """
    for out in outs:
        _require(episodes, out)
    asked = [(load_policy(run), out) for run, out in zip(runs, outs, strict=True)]
    for _, alike in groupby(asked, key=lambda one: _environment(one[0])):
        policies = list(alike)
        with _pool(policies[0][0], episodes, workers) as pool:
            for policy, out in policies:
                found = _scores(policy, pool, episodes, progress)
                write_json(out, found)
                yield found


def _require(episodes: int, out: Path) -> None:
    if episodes > MOST_EPISODES:
        raise UserError(
            f"{episodes:,} episodes are more than {MOST_EPISODES:,}, each of which has an environment of its own",
            "Evaluate fewer; so many say no more of a policy than a hundredth of them.",
        )
    if out.is_dir():
        raise UserError(f"{out} is a folder", f"Name the file, such as {out / 'evaluation.json'}.")


def _environment(policy: Policy) -> str:
    """Tells policies apart that act in different environments."""
    description = policy.description
    return json.dumps([description["task"], description.get("environment", {})], sort_keys=True)


def _pool(policy: Policy, episodes: int, workers: int) -> EnvPool:
    warn_of_other_environment(policy.description)
    return EnvPool(policy.description, episodes, workers)


def _scores(policy: Policy, pool: EnvPool, episodes: int, progress: bool) -> dict[str, Any]:
    """What `mfql evaluate` writes of a policy."""
    description = policy.description
    with _bar(progress, "evaluation", "step", description) as bar:
        found = scored_episodes(policy, pool, episodes, lambda _: bar.update())
    return {
        **{key: description[key] for key in ("method", "task", "seed", "stage", "identity")},
        "episodes": episodes,
        **found.summary(0, suite_used(description).score_range(description["task"])),
        "each": {
            "seed": [start_seed(episode_key(description["seed"], episode), SCORING) for episode in range(episodes)],
            "success": found.success[0].tolist(),
            "return": found.returns[0].tolist(),
            "length": found.lengths[0].tolist(),
            **({"broken": found.broken[0].tolist()} if found.broken.any() else {}),
        },
    }


def scored_episodes(policy: Policy, pool: EnvPool, episodes: int, look: Callable[[np.ndarray], object]) -> Episodes:
    """Let a policy act in the episodes by which `mfql evaluate` scores it, and warn of those that broke.

    Args:
        policy: acts.
        pool: of as many environments as episodes, of its task.
        episodes: how many.
        look: gets the observations [episodes, ...] before each of the policy's looks at them.
    """

    def act(observations: np.ndarray, noise: Any) -> np.ndarray:
        look(observations[0])
        return policy.actor(observations, noise)

    found = run_episodes(
        act,
        policy.actor.agent.act_draw(),
        pool,
        [policy.description["seed"]],
        episodes,
        SCORING,
        torch.device("cpu"),
        policy.horizon,
    )
    of = policy.description
    found.say_broken(f"{of['task']} ({of['method']}, seed {of['seed']}, {of['stage']})", pool.faults)
    return found


def _bar(progress: bool, what: str, unit: str, description: Mapping[str, Any]) -> tqdm:
    """A bar of the steps of episodes, which end at the time limit at the latest; none where nobody looks."""
    total = description.get("environment", {}).get("time_limit")
    return tqdm(total=total, desc=what, unit=unit, leave=False, disable=None if progress else True)


def film(policy: Policy, video: Path | None, strip: Path | None = None, progress: bool = False) -> None:
    """Film one episode, and show frames of it in one picture.

    Args:
        policy: acts.
        video: the film's file, in the format that its name says, or None.
        strip: the PNG file: frames in equal steps from the episode's first to its last, side by side; or None.
        progress: show a bar of the frames on a terminal.

    Raises:
        UserError: this machine cannot render off-screen.
    """
    with _bar(progress, "film", "frame", policy.description) as bar:
        frames = _frames(policy, bar)
    if video is not None:
        write_film(video, frames)
    if strip is not None:
        chosen = np.linspace(0, len(frames) - 1, min(_STRIP_FRAMES, len(frames))).round().astype(int)
        width = round(frames.shape[2] * _STRIP_HEIGHT / frames.shape[1])
        small = [np.asarray(Image.fromarray(frames[at]).resize((width, _STRIP_HEIGHT))) for at in chosen]
        # A palette makes a third of the size; the report carries the picture inside.
        picture = Image.fromarray(np.hstack(small)).quantize(128)
        content = BytesIO()
        picture.save(content, "png", optimize=True)
        with write_whole(strip, "wb") as file:
            file.write(content.getvalue())


def _frames(policy: Policy, bar: tqdm) -> np.ndarray:
    """Frames `[T, H, W, 3]` of one episode."""
    env = policy.make_env(render=True)
    policy.reset()
    frames: list[np.ndarray] = []
    what = f"the film of {policy.description['task']}"
    try:
        with Limited(lambda: f"{what}: step {len(frames)} of the episode of seed 0", lambda: len(frames)):
            observation, _ = reset_env(env, 0)
            ended = False
            while not ended and len(frames) < _MOST_FRAMES and np.isfinite(observation).all():
                frames.append(_render(env))
                bar.update()
                try:
                    observation, _, terminated, truncated, _ = env.step(policy(observation))
                except UserError:
                    raise
                except Exception as error:  # Whatever the environment's own code raises.
                    warn(f"{what} ends at step {len(frames)}: {named(error)}")
                    break
                ended = terminated or truncated
    finally:
        env.close()
    return np.stack(frames)


def _render(env: Any) -> np.ndarray:
    """A frame `[H, W, 3]`.

    Raises:
        UserError: this machine cannot render off-screen, or the environment has no frames.
    """
    try:
        frame = np.asarray(env.render())
    except NotImplementedError as error:
        raise UserError("the environment has no render()", _NO_FRAMES) from error
    except Exception as error:  # Each GL backend raises errors of its own.
        raise UserError(f"cannot render off-screen: {error}", f"{NO_RENDERER} Or leave out the video.") from error
    if frame.ndim != 3 or frame.shape[2] != 3 or frame.dtype != np.uint8:
        found = f"{frame.dtype} {list(frame.shape)}"
        raise UserError(
            f"the environment's render() gives no frame [height, width, 3] of uint8, but {found}", _NO_FRAMES
        )
    return frame


_NO_FRAMES = "Have its render() give one with render_mode='rgb_array', or leave out the video."
