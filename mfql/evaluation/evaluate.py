"""`mfql evaluate`: scores a finished run's policy on episodes of its own, and films one."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch

from mfql.envs.make import make_env, reset_env
from mfql.envs.pixels import NO_RENDERER, choose_renderer
from mfql.envs.scores import score_range
from mfql.envs.vector import EnvPool
from mfql.errors import UserError
from mfql.evaluation.policy import Policy, load_policy
from mfql.evaluation.rollout import run_episodes
from mfql.files import write_json, write_whole

# Filmed frames a second, and the longest film.
_FRAMES_PER_SECOND = 30
_MOST_FRAMES = 600


def evaluate(run: Path, episodes: int, out: Path, video: Path | None, workers: int) -> dict[str, Any]:
    """Score a policy and write what was found.

    The episodes are others than those of training's evaluations, and the same in every call.

    Args:
        run: the folder of a finished run.
        episodes: how many.
        out: JSON file with the means and every episode's result.
        video: GIF file of one episode, or None.
        workers: environment processes.

    Raises:
        UserError: no policy in the folder, or no off-screen rendering for the video.
    """
    if video is not None:
        choose_renderer()
    policy = load_policy(run)
    description = policy.description
    with EnvPool(description["task"], episodes, workers) as pool:
        found = run_episodes(
            policy.actor,
            policy.actor.agent.act_draw(),
            pool,
            [description["seed"]],
            episodes,
            "scoring",
            torch.device("cpu"),
        )
    result = {
        **{key: description[key] for key in ("method", "task", "seed", "stage", "identity")},
        "episodes": episodes,
        **found.summary(0, score_range(description["task"])),
        "each": {
            "success": found.success[0].tolist(),
            "return": found.returns[0].tolist(),
            "length": found.lengths[0].tolist(),
        },
    }
    if video is not None:
        film(policy, description["task"], video)
    write_json(out, result)
    return result


def film(policy: Policy, task: str, path: Path) -> None:
    """Film one episode as an animated GIF.

    Raises:
        UserError: this machine cannot render off-screen.
    """
    frames = _frames(policy, task)
    encoded = imageio.imwrite("<bytes>", frames, extension=".gif", fps=_FRAMES_PER_SECOND, loop=0)
    with write_whole(path, "wb") as file:
        file.write(encoded)


def _frames(policy: Policy, task: str) -> np.ndarray:
    """Frames `[T, H, W, 3]` of one episode."""
    env = make_env(task, render=True)
    try:
        observation, _ = reset_env(env, 0)
        frames: list[np.ndarray] = []
        ended = False
        while not ended and len(frames) < _MOST_FRAMES:
            frames.append(_render(env))
            observation, _, terminated, truncated, _ = env.step(policy(observation))
            ended = terminated or truncated
    finally:
        env.close()
    return np.stack(frames)


def _render(env: Any) -> np.ndarray:
    try:
        return np.asarray(env.render())
    except Exception as error:  # Each GL backend raises errors of its own.
        raise UserError(f"cannot render off-screen: {error}", f"{NO_RENDERER} Or leave out the video.") from error
