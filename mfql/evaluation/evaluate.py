"""`mfql evaluate`: scores a finished run's policy on episodes of its own, and films one."""

from __future__ import annotations

from io import BytesIO
from pathlib import Path
from typing import Any

import imageio.v3 as imageio
import numpy as np
import torch
from PIL import Image

from mfql.envs.isolated import reset_env
from mfql.envs.patience import Limited
from mfql.envs.pixels import NO_RENDERER, choose_renderer
from mfql.envs.trial import named
from mfql.errors import UserError, warn
from mfql.evaluation.policy import Policy, load_policy
from mfql.evaluation.rollout import SCORING, episode_key, run_episodes, start_seed
from mfql.evaluation.usage import suite_used
from mfql.evaluation.vector import EnvPool
from mfql.files import write_json, write_whole

# Filmed frames a second, and the longest film.
_FRAMES_PER_SECOND = 30
_MOST_FRAMES = 600
# Frames of a strip, and their height in pixels.
_STRIP_FRAMES, _STRIP_HEIGHT = 8, 160


def evaluate(
    run: Path, episodes: int, out: Path, video: Path | None, workers: int, strip: Path | None = None
) -> dict[str, Any]:
    """Score a policy and write what was found.

    The episodes are others than those of training's evaluations, and the same in every call.

    Args:
        run: the folder of a finished run.
        episodes: how many.
        out: JSON file with the means and every episode's result.
        video: GIF file of one episode, or None.
        workers: environment processes.
        strip: PNG file of a few frames of that episode side by side, or None.

    Raises:
        UserError: no policy in the folder, or no off-screen rendering for the video or the strip.
    """
    if video is not None or strip is not None:
        choose_renderer()
    policy = load_policy(run)
    description = policy.description
    with EnvPool(description, episodes, workers) as pool:
        found = run_episodes(
            policy.actor,
            policy.actor.agent.act_draw(),
            pool,
            [description["seed"]],
            episodes,
            SCORING,
            torch.device("cpu"),
        )
        found.say_broken(description["task"], pool.faults)
    result = {
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
    if video is not None or strip is not None:
        film(policy, video, strip)
    write_json(out, result)
    return result


def film(policy: Policy, video: Path | None, strip: Path | None = None) -> None:
    """Film one episode as an animated GIF, and show frames of it in one picture.

    Args:
        policy: acts.
        video: the GIF file, or None.
        strip: the PNG file: frames in equal steps from the episode's first to its last, side by side; or None.

    Raises:
        UserError: this machine cannot render off-screen.
    """
    frames = _frames(policy)
    if video is not None:
        _write(video, imageio.imwrite("<bytes>", frames, extension=".gif", fps=_FRAMES_PER_SECOND, loop=0))
    if strip is not None:
        chosen = np.linspace(0, len(frames) - 1, min(_STRIP_FRAMES, len(frames))).round().astype(int)
        width = round(frames.shape[2] * _STRIP_HEIGHT / frames.shape[1])
        small = [np.asarray(Image.fromarray(frames[at]).resize((width, _STRIP_HEIGHT))) for at in chosen]
        # A palette makes a third of the size; the report carries the picture inside.
        picture = Image.fromarray(np.hstack(small)).quantize(128)
        content = BytesIO()
        picture.save(content, "png", optimize=True)
        _write(strip, content.getvalue())


def _write(path: Path, content: bytes) -> None:
    with write_whole(path, "wb") as file:
        file.write(content)


def _frames(policy: Policy) -> np.ndarray:
    """Frames `[T, H, W, 3]` of one episode."""
    env = policy.make_env(render=True)
    frames: list[np.ndarray] = []
    what = f"the film of {policy.description['task']}"
    try:
        with Limited(lambda: f"{what}: step {len(frames)} of the episode of seed 0", lambda: len(frames)):
            observation, _ = reset_env(env, 0)
            ended = False
            while not ended and len(frames) < _MOST_FRAMES and np.isfinite(observation).all():
                frames.append(_render(env))
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
    try:
        return np.asarray(env.render())
    except Exception as error:  # Each GL backend raises errors of its own.
        raise UserError(f"cannot render off-screen: {error}", f"{NO_RENDERER} Or leave out the video.") from error
