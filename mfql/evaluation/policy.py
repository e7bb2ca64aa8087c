"""A trained policy on disk, and in two lines: `policy = mfql.load_policy(folder)`, `action = policy(observation)`."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor

from mfql.agents.interface import Agent, Draw, Parameters, load_agent
from mfql.agents.update import views_of
from mfql.draws import DrawStream
from mfql.errors import UserError
from mfql.files import read_json, sha256, write_json, write_whole
from mfql.settings import build_settings

WEIGHTS, DESCRIPTION = "policy.safetensors", "policy.json"


class Actor:
    """Acts for several seeds at once.

    Args:
        agent: the method.
        flat: flat parameters `[S, P]` of the groups that acting reads; looked up anew at each call.
        mean, std: of raw observations `[D]`; images (uint8) are not normalised.
        device: where the parameters are.
        prepared: the parameters, where they are fixed; see `fixed`.
    """

    def __init__(
        self,
        agent: Agent,
        flat: Mapping[str, Tensor],
        mean: np.ndarray,
        std: np.ndarray,
        device: torch.device,
        prepared: Parameters | None = None,
    ) -> None:
        self.agent, self.flat, self.device = agent, flat, device
        self.mean, self.std = mean, std
        self._prepared = prepared

    @torch.no_grad()
    def fixed(self) -> Actor:
        """The same actor for as long as its weights stay as they are; it acts faster."""
        prepared = self.agent.prepared(self._parameters())
        return Actor(self.agent, self.flat, self.mean, self.std, self.device, prepared)

    def _parameters(self) -> Parameters:
        return self._prepared or views_of(self.agent, {name: self.flat[name] for name in self.agent.act_groups()})

    def __call__(self, observations: np.ndarray, noise: Tensor | None) -> np.ndarray:
        """Raw observations `[S, B, ...]` and noise to actions `[S, B, A]`; zeros from a broken network."""
        return self._actions(self.agent.act, observations, noise)

    def explore(self, observations: np.ndarray, noise: Tensor | None) -> np.ndarray:
        """The same with the actions of online training."""
        return self._actions(self.agent.explore, observations, noise)

    @torch.no_grad()
    def _actions(self, choose: Callable[..., Tensor], observations: np.ndarray, noise: Tensor | None) -> np.ndarray:
        if observations.dtype != np.uint8:
            observations = ((observations - self.mean) / self.std).astype(np.float32)
        actions = choose(self._parameters(), torch.from_numpy(observations).to(self.device), noise)
        return torch.nan_to_num(actions).cpu().numpy()


class Policy:
    """A trained policy. Calling it with an observation gives an action.

    Args:
        actor: acts for one seed.
        description: what `policy.json` holds: agent, settings, method, task, seed, stage, sizes.
        seed: of the noise; call n uses the n-th draw, so that two policies with the same seed act alike.
    """

    def __init__(self, actor: Actor, description: dict[str, Any], seed: int = 0) -> None:
        self.actor, self.description = actor, description
        self._seed, self._calls = seed, 0
        self._streams: dict[int, DrawStream] = {}

    def __call__(self, observation: np.ndarray) -> np.ndarray:
        """One observation or several to actions `[A]` or `[B, A]` within [-1, 1].

        Args:
            observation: `[D]` or `[B, D]`; of a pixel task stacked images `[H, W, C]` or `[B, H, W, C]` uint8, as
                `mfql.envs.make.make_env` shows them.

        Raises:
            ValueError: another shape.
        """
        expected = self.actor.agent.observation_shape
        pixels = len(expected) == 3
        observations = np.asarray(observation, dtype=np.uint8 if pixels else np.float32)
        single = observations.ndim == len(expected)
        if observations.shape[-len(expected) :] != expected or observations.ndim > len(expected) + 1:
            sizes = ", ".join(map(str, expected))
            raise ValueError(f"observations of shape {observations.shape}; this policy takes [{sizes}] or [B, {sizes}]")
        batch = observations[None] if single else observations
        actions = self.actor(batch[None], self._noise(len(batch)))[0]
        return actions[0] if single else actions

    def _noise(self, batch: int) -> Tensor | None:
        draw = self.actor.agent.act_draw()
        if draw is None:
            return None
        if batch not in self._streams:
            shaped = {"noise": Draw(draw.kind, (batch, *draw.shape))}
            self._streams[batch] = DrawStream(shaped, [self._seed], f"policy/{batch}", self.actor.device)
        noise = self._streams[batch].at(self._calls)["noise"]
        self._calls += 1
        return noise


def acting_seconds(actor: Actor, row: int, calls: int = 20) -> float:
    """The median time of one action for one observation on the processor, as a loaded policy takes it.

    Args:
        actor: acts for several seeds.
        row: which of them is timed.
        calls: how often it acts; a tenth as many more before, which do not count.
    """
    flat = {name: actor.flat[name][row : row + 1].cpu() for name in actor.agent.act_groups()}
    single = Actor(actor.agent, flat, actor.mean, actor.std, torch.device("cpu")).fixed()
    policy = Policy(single, {})
    observation = np.zeros(actor.agent.observation_shape)
    seconds = []
    for _ in range(calls + calls // 10):
        began = time.perf_counter()
        policy(observation)
        seconds.append(time.perf_counter() - began)
    return float(np.median(seconds[calls // 10 :]))


def save_policy(folder: Path, actor: Actor, row: int, description: dict[str, Any]) -> None:
    """Write one seed's policy: weights as safetensors, the rest as JSON, the JSON last."""
    views = views_of(actor.agent, {name: actor.flat[name][row : row + 1] for name in actor.agent.act_groups()})
    arrays = {
        f"{group}.{name}": view[0].cpu().contiguous()
        for group, named in views.groups.items()
        for name, view in named.items()
    }
    with write_whole(folder / WEIGHTS, "wb") as file:
        file.write(save(arrays))
    write_json(
        folder / DESCRIPTION,
        {
            **description,
            "observation_shape": list(actor.agent.observation_shape),
            "action_dim": actor.agent.action_dim,
            "observation_mean": actor.mean.tolist(),
            "observation_std": actor.std.tolist(),
        },
    )


def load_policy(folder: str | Path, *, seed: int = 0, device: str = "cpu") -> Policy:
    """The policy of a run's folder, or of a `policy` folder itself.

    Args:
        folder: `results/runs/{method}/{task}/seed{seed}/{stage}`, its `run`, or a folder with the two files.
        seed: of the noise.
        device: where it acts.

    Raises:
        UserError: there is no policy, or its files do not fit each other.
    """
    path = _policy_folder(Path(folder))
    _refuse_altered(path)
    description = read_json(path / DESCRIPTION)
    kind = load_agent(description["agent"])
    settings = build_settings(kind.settings_type, description["settings"], str(path / DESCRIPTION))
    agent = kind(settings, tuple(description["observation_shape"]), description["action_dim"])
    try:
        arrays = load_file(path / WEIGHTS)
        flat = {name: _flat(agent, name, arrays) for name in agent.act_groups()}
    except (OSError, SafetensorError, KeyError, RuntimeError) as error:
        raise UserError(
            f"{path / WEIGHTS} does not hold the weights of {DESCRIPTION}: {error}", "Copy the folder again."
        ) from error
    mean, std = (np.array(description[key], dtype=np.float32) for key in ("observation_mean", "observation_std"))
    target = torch.device(device)
    actor = Actor(agent, {name: value.to(target) for name, value in flat.items()}, mean, std, target)
    return Policy(actor.fixed(), description, seed)


def _refuse_altered(folder: Path) -> None:
    """Of a policy that lies in its run's folder, the manifest there knows the files; altered weights would act."""
    manifest = folder.parent / "manifest.json"
    known = read_json(manifest).get("outputs", {}) if manifest.exists() else {}
    for name in (WEIGHTS, DESCRIPTION):
        expected = known.get(f"policy/{name}")
        if expected is not None and sha256(folder / name) != expected:
            raise UserError(
                f"{folder / name} is altered: it is not the file that {manifest} knows",
                "Put the right file back; or delete evaluation.json beside the manifest and train again with the same "
                "command: the policy is made again from the last checkpoint.",
            )


def _policy_folder(folder: Path) -> Path:
    for candidate in (folder, folder / "policy", folder / "run" / "policy"):
        if (candidate / DESCRIPTION).exists():
            return candidate
    raise UserError(
        f"{folder} holds no policy",
        "Give the folder of a finished run, such as results/runs/METHOD/TASK/seed0/offline.",
    )


def _flat(agent: Agent, group: str, arrays: dict[str, Tensor]) -> Tensor:
    layout = agent.groups[group.removeprefix("target_")].layout
    flat = torch.zeros(1, layout.width)
    for name, view in layout.views(flat).items():
        view.copy_(arrays[f"{group}.{name}"])
    return flat
