"""`mfql import-released`: a policy that the authors' code trained, as one of this project's."""

from __future__ import annotations

from pathlib import Path

import torch

from mfql.agents.flax import load_checkpoint
from mfql.declared import agent_class
from mfql.envs.physics import described
from mfql.evaluation.policy import Actor, save_policy
from mfql.evaluation.usage import usage_of
from mfql.extensions import running_code
from mfql.files import hash_of, sha256
from mfql.methods import declared_settings
from mfql.suites import load
from mfql.tasks import find_task
from mfql.training.memory import Normaliser
from mfql.training.provenance import provenance
from mfql.training.train import policy_origin


@running_code()
def import_released(
    file: Path, method: str, task: str, stage: str, seed: int, data: Path, config_dir: Path, out: Path
) -> None:
    """Write the policy of a released checkpoint as a folder for `mfql.load_policy` and `mfql evaluate`.

    The statistics that observations are normalised with are not in such a file: they follow from the dataset, by the
    method's setting `observation_statistics`.

    Args:
        file: `params_N.pkl` of the released code; nothing of it is run.
        method: whose settings it was trained with, such as `mfql-released`.
        task, stage, seed: what it was trained on, as is to be written down.
        data: folder of the task's dataset.
        config_dir: folder with the task table and `methods/`.
        out: the folder to write.

    Raises:
        UserError: the file is no such checkpoint or does not fit the method, or the dataset is not at hand.
    """
    name, settings = declared_settings(method, task, stage, config_dir)
    dataset = load(find_task(task, config_dir), data)
    agent = agent_class(name)(settings, dataset.observations.shape[1:], dataset.actions.shape[-1])
    flat = load_checkpoint(agent, file)
    statistics = Normaliser.of(dataset, settings.observation_statistics)
    description = {"method": method, "agent": name, "task": task, "seed": seed, "stage": stage}
    description |= {"identity": hash_of(["released", sha256(file)]), "settings": settings.as_dict()}
    facts = {key: getattr(dataset, key) for key in ("name", "source", "sha256", "constant_dimensions")}
    session = provenance(torch.device("cpu"), name) | {"physics": described(task)}
    description |= policy_origin(name, facts, session) | {"score": None} | usage_of(task)
    actor = Actor(agent, flat, statistics.mean, statistics.std, torch.device("cpu"))
    save_policy(out, actor, 0, description)
