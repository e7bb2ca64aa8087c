"""Training on the toy: all seeds of a method together, with looks at the samples on the way."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from torch import Tensor
from tqdm import tqdm

from mfql.agents.flow_bc import FlowBC
from mfql.agents.interface import Draw, count_parameters
from mfql.agents.meanflow import FlowPolicy, raw_actions, scaled_noise
from mfql.agents.parameters import Views
from mfql.agents.update import initial_state, views_of
from mfql.declared import training_version
from mfql.documents import write_json
from mfql.draws import DrawStream, generator
from mfql.errors import UserError
from mfql.experiment.toy import AGENT
from mfql.files import write_whole
from mfql.studies.toy import metrics, mixture
from mfql.studies.toy.settings import ToySettings, Training
from mfql.training.compiled import update_of
from mfql.training.provenance import provenance

METRICS, SAMPLES, MANIFEST = "metrics.csv", "samples.csv", "manifest.json"
# The first look after an update; step 0 shows the weights as they begin.
_FIRST_LOOK = 10


def train(
    training: Training, device: torch.device, folder: Path, *, compiled: bool = False, progress: bool = True
) -> None:
    """Train, and write `metrics.csv`, `samples.csv` and, last, `manifest.json` into a folder.

    Columns of the metrics: method, generation_steps, seed, step, metric, value. Metrics: `distance`, `modes`,
    `out_of_bounds` (share of coordinates outside [-1, 1]); of flows `map_error`, the root mean square of the distance
    between what a noise becomes and where its exact path ends; of average velocities `field_error`, that of their
    difference from the exact ones.

    Args:
        compiled: compile the update, which changes results in rounding alone.

    Raises:
        UserError: training diverged, or the update is to be compiled and cannot be.
    """
    settings = training.settings
    looks = [Look(settings, seed, device) for seed in training.seeds]
    tables: dict[str, list[pd.DataFrame]] = {METRICS: [], SAMPLES: []}
    seconds = 0.0
    flow = settings.policy == "flow"
    model = Flow(settings, training.seeds, device, compiled=compiled) if flow else Known(KNOWN[settings.policy])
    name = f"{training.method}, {training.size} size"
    for step in tqdm(look_steps(settings), desc=name, unit="look", disable=not progress):
        started = time.perf_counter()
        model.train_to(step)
        seconds += time.perf_counter() - started
        final = step == settings.offline_steps
        for row, look in enumerate(looks):
            for found, samples in look.at(model, row, final=final):
                own = {"method": training.method, "generation_steps": found.pop("generation_steps"), "seed": look.seed}
                metrics_of = {"step": step, "metric": list(found), "value": list(found.values())}
                tables[METRICS].append(pd.DataFrame({**own, **metrics_of}))
                if final:
                    x, y = samples.double().cpu().numpy().T
                    tables[SAMPLES].append(pd.DataFrame({**own, "x": x, "y": y}))
    (folder / MANIFEST).unlink(missing_ok=True)  # Without it the folder is none of a finished training.
    for name, frames in tables.items():
        with write_whole(folder / name) as file:
            pd.concat(frames).to_csv(file, index=False)
    manifest = {
        "method": training.method,
        "size": training.size,
        "seeds": training.seeds,
        "settings": settings.as_dict(),
        "training_version": training_version(AGENT),
        "parameters": model.parameters,
        "seconds_per_update": seconds / settings.offline_steps,
        "compiled": flow and compiled,
        **provenance(device, AGENT),
    }
    write_json(folder / MANIFEST, manifest)


def look_steps(settings: ToySettings) -> list[int]:
    """The steps at which samples are looked at: 0, and from step 10 to the last in geometric progression."""
    steps = np.geomspace(min(_FIRST_LOOK, settings.offline_steps), settings.offline_steps, settings.evaluations)
    return sorted({0, settings.offline_steps, *(round(step) for step in steps)})


class Flow:
    """A flow policy without observations, of several seeds, in training.

    Args:
        settings: of the training.
        seeds: one for each position of the leading axis.
        device: where it trains.
        compiled: compile the update.
    """

    def __init__(
        self, settings: ToySettings, seeds: list[int], device: torch.device, *, compiled: bool = False
    ) -> None:
        self.settings, self.step = settings, 0
        self.agent = FlowBC(settings, (0,), 2)
        self.parameters = count_parameters(self.agent)
        generators = [generator(torch.device("cpu"), seed, "initial") for seed in seeds]
        self.state = initial_state(self.agent, generators, device)
        self._update = update_of(self.agent, self.state, float("inf"), compiled=compiled)
        drawn = {"rows": Draw("integer", (settings.batch_size,)), **self.agent.update_draws()}
        if settings.data_size == 0:
            drawn["scores"] = Draw("normal", (settings.batch_size, 2))
        self._stream = DrawStream(drawn, seeds, "toy/update", device)
        self._dataset = torch.stack([data(seed, "dataset", max(settings.data_size, 1), device) for seed in seeds])
        self._observations = torch.zeros((len(seeds), settings.batch_size, 0), device=device)

    def train_to(self, step: int) -> None:
        """Updates up to a step.

        Raises:
            UserError: a loss is not finite.
        """
        for index in range(self.step, step):
            draws = self._stream.at(index)
            rows, scores = draws.pop("rows"), draws.pop("scores", None)
            if scores is None:
                chosen = (rows % self.settings.data_size).unsqueeze(-1).expand(-1, -1, 2)
                actions = self._dataset.gather(1, chosen)
            else:
                actions = mixture.points(rows, scores)
            self._update({"observations": self._observations, "actions": actions}, draws)
        self.step = step
        if not self.state.active.all():
            raise UserError(
                f"a seed diverged at update {int(self.state.diverged_at.max())}", "Lower policy_learning_rate."
            )

    def samples(self, row: int, noise: Tensor, steps: int) -> Tensor:
        """What noise `[N, 2]` becomes in so many steps, of one seed."""
        # Another number of steps has the same weights.
        policy = FlowPolicy(replace(self.settings, generation_steps=steps), 0, 2)
        with torch.no_grad():
            return raw_actions(policy, self._views(row), noise.new_zeros((1, len(noise), 0)), noise[None])[0]

    def average_velocity(self, row: int, at: Tensor, times: Tensor) -> Tensor | None:
        """The average velocity from 0 to t of points `[N, 2]` at `[N, 1]`; None where the network does not tell."""
        settings = self.settings
        if settings.formulation not in ("residual", "velocity") or settings.derivative == "none":
            return None
        given = torch.cat([torch.zeros_like(times), times], -1) if settings.sample_b else times
        with torch.no_grad():
            output = self.agent.policy(self._views(row), at.new_zeros((1, len(at), 0)), at[None], given[None])[0]
        return at - output if settings.formulation == "residual" else output

    def _views(self, row: int) -> Views:
        return views_of(self.agent, {"policy": self.state.flat["policy"][row : row + 1]})["policy"]


def _gaussian(noise: Tensor) -> Tensor:
    """The normal distribution with the data's mean and covariance: what maximum likelihood tends to."""
    return math.sqrt(mixture.VARIANCE) * noise


def _exact(noise: Tensor) -> Tensor:
    """The exact map: other samples of the data's own distribution, the least distance to be had."""
    return mixture.path_end(noise, torch.ones_like(noise[:, :1]))


KNOWN: dict[str, Callable[[Tensor], Tensor]] = {"gaussian": _gaussian, "exact": _exact}


class Known:
    """A distribution that needs no training, as a function of normal noise."""

    parameters = 0

    def __init__(self, function: Callable[[Tensor], Tensor]) -> None:
        self._function = function

    def train_to(self, step: int) -> None:
        """Do nothing: the distribution is known."""

    def samples(self, row: int, noise: Tensor, steps: int) -> Tensor:
        """The function of the noise `[N, 2]`."""
        return self._function(noise)

    def average_velocity(self, row: int, at: Tensor, times: Tensor) -> None:
        """A known distribution has no average velocity: None."""


class Look:
    """A fixed look at one seed: the same noise and data at every step, and where the exact paths of the noise end.

    Args:
        settings: of the training.
        seed: whose noise and data.
        device: where.
    """

    def __init__(self, settings: ToySettings, seed: int, device: torch.device) -> None:
        self.settings, self.seed = settings, seed
        sets = range(settings.repeats)
        self._noise = [_noise(settings, seed, f"noise/{one}", settings.samples, device) for one in sets]
        self._data = [data(seed, f"data/{one}", settings.samples, device) for one in sets]
        ones = torch.ones((settings.samples, 1), device=device)
        self._ends = mixture.path_end(self._noise[0], ones)
        source = generator(device, seed, "toy", "times")
        times = torch.randint(1, settings.time_steps + 1, (settings.samples, 1), generator=source, device=device)
        self._times = times / settings.time_steps
        ends = data(seed, "field", settings.samples, device)
        self._points = torch.lerp(ends, _noise(settings, seed, "field noise", settings.samples, device), self._times)
        self._velocities = mixture.average_velocity(self._points, self._times)

    def at(self, model: Flow | Known, row: int, *, final: bool) -> Iterator[tuple[dict[str, float], Tensor]]:
        """The metrics of a model with each number of steps of generation, and its samples `[N, 2]`."""
        sets = self.settings.repeats if final else 1
        for steps in self.settings.generations:
            samples = [model.samples(row, noise, steps) for noise in self._noise[:sets]]
            distances = [self._distance(own, of_data) for own, of_data in zip(samples, self._data, strict=False)]
            found: dict[str, float] = {
                "generation_steps": steps,
                "distance": float(np.mean(distances)),
                "modes": metrics.modes_covered(torch.cat(samples)),
                "out_of_bounds": float((torch.cat(samples).abs() > 1.0).double().mean()),
            }
            if isinstance(model, Flow):
                found["map_error"] = metrics.root_mean_square(samples[0].double() - self._ends)
            velocities = model.average_velocity(row, self._points, self._times)
            if velocities is not None:
                found["field_error"] = metrics.root_mean_square(velocities.double() - self._velocities)
            yield found, samples[0]

    def _distance(self, samples: Tensor, of_data: Tensor) -> float:
        points = self.settings.transport_points
        return metrics.distance(samples[:points], of_data[:points])


def data(seed: int, purpose: str, size: int, device: torch.device) -> Tensor:
    """Points of the mixture `[size, 2]`, float32."""
    source = generator(device, seed, "toy", purpose)
    components = torch.randint(0, len(mixture.CENTRES), (size,), generator=source, device=device)
    return mixture.points(components, torch.randn((size, 2), generator=source, device=device))


def _noise(settings: ToySettings, seed: int, purpose: str, size: int, device: torch.device) -> Tensor:
    source = generator(device, seed, "toy", purpose)
    draw = torch.randn if settings.noise_type == "normal" else torch.rand
    return scaled_noise(settings, draw((size, 2), generator=source, device=device))
