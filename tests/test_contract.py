"""An agent's contract: every agent of the project keeps it, and each way to break it is said before anything trains."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from mfql.agents.interface import load_agent
from mfql.cli import main
from mfql.extensions import agent_file
from mfql.methods import raw_settings
from mfql.settings import build_settings
from mfql.training.contract import require_contract
from tests.support.choices import CONFIG, METHODS, TASK, choices, solved
from tests.support.equal_runs import assert_equal_runs
from tests.support.own_tasks import BOUNDED, VECTOR, arrays, registered

CPU = torch.device("cpu")

MINE = '''
"""A policy towards the data's actions, and a value of what follows."""
import math
import random
from dataclasses import dataclass

import numpy as np
import torch

from mfql.agents.interface import Agent, Draw, Group
from mfql.agents.mlp import MLP, ActorSettings


@dataclass(frozen=True, kw_only=True)
class MineSettings(ActorSettings):
    noise: float = 0.1


class Mine(Agent):
    settings_type = MineSettings
    extra_fields = ("mc_returns",)

    def __init__(self, settings, observation_shape, action_dim):
        super().__init__(settings, observation_shape, action_dim)
        self.policy = MLP(self.observation_dim, settings.actor_hidden, action_dim)
        self.value = MLP(self.observation_dim, settings.actor_hidden, 1)
        self.groups = {"policy": Group(self.policy.layout), "value": Group(self.value.layout, target=True)}

    def update_draws(self):
        return {"noise": Draw("normal", (self.settings.batch_size, self.action_dim))}

    def learning_rates(self, step):
        return {"policy": 1e-3, "value": 1e-3}

    def initial_state(self, seeds):
        return {"scale": torch.ones(seeds)}

    def losses(self, parameters, batch, draws, state):
        values = self.value(parameters["value"], batch["observations"]).squeeze(2)
        with torch.no_grad():
            following = self.value(parameters["target_value"], batch["next_observations"]).squeeze(2)
        targets = batch["rewards"] + self.discount * batch["masks"] * following
        errors = (values - targets).square()
        value_loss = errors.mean(1)
        moved = batch["actions"] + self.settings.noise * draws["noise"]
        policy_loss = (self.act(parameters, batch["observations"], None) - moved).square().mean((1, 2))
        loss = value_loss + policy_loss / state["scale"]
        info = {"policy_loss": policy_loss, "value_loss": value_loss, "q": values.mean(1)}
        return loss, info

    def next_state(self, state, step, info):
        return {"scale": torch.lerp(state["scale"], info["policy_loss"], 0.1)}

    def act_draw(self):
        return None

    def act(self, parameters, observations, noise):
        return torch.tanh(self.policy(parameters["policy"], observations))

    def act_groups(self):
        return ("policy",)

    def diagnostics(self, parameters, batch, draws, state):
        return {"scale": state["scale"]}

    def data_values(self, parameters, batch):
        return self.value(parameters["value"], batch["observations"]).squeeze(2)
'''
METHOD = """
agent: mine
offline_steps: 4
online_steps: 0
discount: 0.9
batch_size: 16
actor_hidden: [8, 8]
learning_rate: 1.0e-3
eval_interval: 4
eval_episodes: 1
log_interval: 2
"""


class Place:
    """An extension with a task and an agent, in a temporary folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name in ("agents", "methods"):
            (folder / name).mkdir()
        (folder / "methods/mine.yaml").write_text(METHOD, encoding="utf-8")
        rows = arrays(60) | {"terminals": np.arange(60) % 6 == 5}
        np.savez(folder / "a.npz", **rows)  # type: ignore[arg-type]
        registered(folder, observations=VECTOR, actions=BOUNDED)

    @property
    def file(self) -> Path:
        return self.folder / "agents/mine.py"

    def run(self, results: str, seed: int) -> Path:
        """The folder of a run that the trainer owns."""
        return self.folder / results / f"runs/mine/mine/seed{seed}/offline/run"

    def write(self, *changes: tuple[str, str]) -> None:
        """The agent, with parts of its text replaced."""
        code = MINE
        for old, new in changes:
            assert old in code
            code = code.replace(old, new)
        self.file.write_text(code, encoding="utf-8")

    def train(self, results: str = "results", seeds: tuple[int, ...] = (0,)) -> int:
        return main(
            [
                "train", "--method", "mine", "--task", "mine", "--stage", "offline", "--seeds", *map(str, seeds),
                "--data", str(self.folder), "--results", str(self.folder / results), "--config-dir", str(CONFIG),
                "--device", "cpu", "--threads", "1", "--workers", "0", "--no-progress",
            ]
        )  # fmt: skip


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


VALUE_LOSS, LOSS = "value_loss = errors.mean(1)", 'loss = value_loss + policy_loss / state["scale"]'
RETURN, LOGGED = "return loss, info", '"q": values.mean(1)'
MOVED = 'moved = batch["actions"] + self.settings.noise * draws["noise"]'
ACT = 'return torch.tanh(self.policy(parameters["policy"], observations))'
DRAWS = 'return {"noise": Draw("normal", (self.settings.batch_size, self.action_dim))}'
RATES, GROUPS = 'return {"policy": 1e-3, "value": 1e-3}', 'return ("policy",)'
STATE = 'return {"scale": torch.ones(seeds)}'
NEXT = 'return {"scale": torch.lerp(state["scale"], info["policy_loss"], 0.1)}'
MADE = "self.groups = {"
FIELDS = 'extra_fields = ("mc_returns",)'
VALUES = 'return self.value(parameters["value"], batch["observations"]).squeeze(2)'
DIAGNOSED = 'return {"scale": state["scale"]}'
INIT = "super().__init__(settings, observation_shape, action_dim)"
Fault = tuple[str, str, str, str]
# What is replaced in the agent, by what, where that is found, and what is said of it.
FAULTS: dict[str, Fault] = {
    # a. Seeds that mix.
    "loss-shared": (VALUE_LOSS, "value_loss = errors.mean().expand(len(errors))", "losses", "mixes seeds: the loss of"),
    "target-scaled": (
        "errors = (values - targets)",
        "errors = (values - (targets - targets.mean()) / targets.std())",
        "losses",
        "mixes seeds: the loss of a seed is another beside a second seed, by ",
    ),
    "gradient-shared": (
        VALUE_LOSS,
        "first = torch.arange(len(errors)) == 0\n"
        "        value_loss = errors.mean(1).detach() + first * (errors - errors.detach()).mean()",
        "losses",
        "mixes seeds: the gradient of value of a seed",
    ),
    "log-shared": (LOGGED, '"q": values.mean().repeat(len(values))', "losses", "mixes seeds: the logged q"),
    "state-shared": (
        NEXT,
        'return {"scale": state["scale"] + info["policy_loss"].mean()}',
        "losses",
        "mixes seeds: the state scale of",
    ),
    "actions-shared": (
        ACT,
        f"observations = observations - observations.mean((0, 1))\n        {ACT}",
        "act",
        "mixes seeds: an action of",
    ),
    "diagnosed-shared": (
        DIAGNOSED,
        'return {"r": batch["rewards"].mean().repeat(len(state["scale"]))}',
        "diagnostics",
        "mixes",
    ),
    # b. Losses of other shapes.
    "loss-of-rows": (LOSS, "loss = errors", "losses", "a loss of the shape [2, 16] with 2 seeds and 16 rows"),
    "loss-of-one": (
        LOSS,
        "loss = (value_loss + policy_loss).sum(0, keepdim=True)",
        "losses",
        "a loss of the shape [1]",
    ),
    "loss-of-none": (LOSS, "loss = (value_loss + policy_loss).sum()", "losses", "a loss of the shape []"),
    "loss-of-columns": (LOSS, "loss = (value_loss + policy_loss).unsqueeze(1)", "losses", "a loss of the shape [2, 1]"),
    "loss-alone": (RETURN, "return loss", "losses", "gives a tensor of the shape [2]"),
    "loss-a-number": (
        RETURN,
        "return 1.0, info",
        "losses",
        "gives (a value of the type float, a value of the type dict)",
    ),
    "loss-whole": (RETURN, "return loss.long(), info", "losses", "gives a loss of torch.int64"),
    "loss-detached": (RETURN, "return loss.detach(), info", "losses", "no gradient for the group policy and value"),
    "group-detached": (VALUE_LOSS, "value_loss = errors.mean(1).detach()", "losses", "no gradient for the group value"),
    "objectives-added": (
        '"policy": Group(self.policy.layout)',
        '"policy": Group(self.policy.layout, weighting=lambda gramians: gramians[:, 0])',
        "losses",
        "gives a loss of the shape [2] with 2 seeds and 16 rows\n  It is [S, J], each seed's objectives",
    ),
    # c. Random numbers that are no arguments.
    "torch": (
        MOVED,
        'moved = batch["actions"] + torch.randn_like(batch["actions"])',
        "losses",
        "from the generator of torch",
    ),
    "numpy": (MOVED, f"{MOVED} * np.random.rand()", "losses", "draws random numbers from the generator of numpy"),
    "python": (MOVED, f"{MOVED} * random.random()", "losses", "from the generator of Python's random"),
    "own-generator": (
        MOVED,
        f"self.drawn = getattr(self, 'drawn', None) or np.random.default_rng(0)\n        {MOVED} * self.drawn.random()",
        "losses",
        "does not follow from its arguments: asked again, it gives the loss otherwise, by ",
    ),
    "counted": (
        VALUE_LOSS,
        "self.count = getattr(self, 'count', 0) + 1\n        value_loss = errors.mean(1) * self.count",
        "losses",
        "does not follow from its arguments",
    ),
    "fresh-entropy": (ACT, f"{ACT} * np.random.default_rng().random()", "act", "does not follow from its arguments"),
    "noise-of-actions": (ACT, f"{ACT} + 0.1 * torch.randn(2)", "act", "from the generator of torch"),
    "explored": (
        "    def act_groups",
        "    def explore(self, parameters, observations, noise):\n"
        "        return self.act(parameters, observations, None) + torch.rand(1)\n\n    def act_groups",
        "explore",
        "from the generator of torch",
    ),
    "initialised": (
        MADE,
        'self.value.layout.parameters["layer0.bias"] = Parameter((8,), lambda array, generator: array.normal_())\n'
        f"        {MADE}",
        "initial_state, or an initialiser of its groups,",
        "draws random numbers from the generator of torch",
    ),
    "made-at-random": (
        MADE,
        f"self.features = torch.nn.Linear(3, 8)\n        {MADE}",
        "__init__",
        "from the generator of torch",
    ),
    "made-by-entropy": (
        MADE,
        f"self.discount = np.random.default_rng().random()\n        {MADE}",
        "__init__",
        "made again, the agent gives the loss otherwise",
    ),
    # d. Contract errors.
    "init-raises": (
        MADE,
        f"self.half = 1 / (action_dim - 2)\n        {MADE}",
        "__init__",
        "ends with ZeroDivisionError",
    ),
    "init-without-super": (
        INIT,
        "pass",
        "__init__",
        "ends with AttributeError: 'Mine' object has no attribute 'observation_dim'",
    ),
    "no-groups": (MADE, "self.networks = {", "", "Mine: groups is None"),
    "group-a-layout": (
        MADE,
        'self.groups = {"policy": self.policy.layout} or {',
        "",
        "its group policy is a value of the type Layout",
    ),
    "no-act": ("def act(self,", "def actions(self,", "", "Mine lacks act\n"),
    "unknown-group": (
        'parameters["target_value"]',
        'parameters["target_values"]',
        "losses",
        "Did you mean target_value?",
    ),
    "unknown-field": ('batch["rewards"]', 'batch["reward"]', "losses", "Did you mean rewards?"),
    "unknown-draw": ('draws["noise"]', 'draws["noises"]', "losses", "Did you mean noise?"),
    "field-not-asked-for": (
        VALUE_LOSS,
        VALUE_LOSS + ' + 0 * batch["next_actions"].mean((1, 2))',
        "losses",
        'extra_fields = ("next_actions",)',
    ),
    "shapes-do-not-fit": (VALUE_LOSS, "value_loss = errors @ values", "losses", "ends with RuntimeError: "),
    "in-place": (
        VALUE_LOSS,
        "roots = (errors + 1).sqrt()\n        roots.mul_(2)\n        value_loss = roots.mean(1)",
        "losses",
        "ends with RuntimeError: ",
    ),
    "state-in-place": (
        VALUE_LOSS,
        f'{VALUE_LOSS}\n        state["scale"].add_(1.0)',
        "losses",
        "changes the state scale in place",
    ),
    "log-of-rows": (LOGGED, '"q": values.mean(0)', "losses", "logs q of the shape [16]"),
    "log-of-none": (LOGGED, '"q": values.mean()', "losses", "logs q of the shape [] with 2 seeds and 16 rows"),
    "log-a-number": (LOGGED, '"q": 1.0', "losses", "logs q, which is a value of the type float"),
    "log-a-truth": (LOGGED, '"q": values.mean(1) > 0', "losses", "logs q of torch.bool"),
    "draw-kind": (
        DRAWS,
        DRAWS.replace("normal", "gaussian"),
        "update_draws",
        "gives noise, a draw of the kind 'gaussian'\n  Kinds are normal, uniform, integer.",
    ),
    "draw-a-tuple": (
        DRAWS,
        'return {"noise": (16, 2)}',
        "update_draws",
        "gives noise, a value of the type tuple",
    ),
    "draw-of-none": (DRAWS, "return None", "update_draws", "gives None"),
    "draw-shape": (DRAWS, 'return {"noise": Draw("normal", 2)}', "update_draws", "gives noise, a draw of the shape 2"),
    "draw-named-rows": (DRAWS, 'return {"rows": Draw("normal", (2,))}', "update_draws", "names a draw rows"),
    "act-of-rows": (ACT, f"{ACT}.mean(2)", "act", "gives a tensor of the shape [2, 16] with 2 seeds and 16 rows"),
    "act-of-candidates": (ACT, f"{ACT}.unsqueeze(2)", "act", "gives a tensor of the shape [2, 16, 1, 2]"),
    "act-whole": (ACT, f"return {ACT[7:]}.long()", "act", "gives actions of torch.int64"),
    "act-half": (ACT, f"return {ACT[7:]}.bfloat16()", "act", "gives actions of torch.bfloat16"),
    "act-broken": (ACT, f"return {ACT[7:]} / 0", "act", "gives actions that are not finite"),
    "act-of-numpy": (ACT, f"return {ACT[7:]}.detach().numpy()", "act", "gives a value of the type ndarray"),
    "act-groups": (GROUPS, 'return ("polcy",)', "act_groups", "gives ('polcy',)"),
    "act-groups-a-text": (GROUPS, 'return ("policy")', "act_groups", "gives 'policy'"),
    "act-reads-another": (GROUPS, 'return ("value",)', "act", "act_groups names: add policy there"),
    "rates": (RATES, 'return {"polcy": 1e-3, "value": 1e-3}', "learning_rates", "gives none for the group policy"),
    "next-state-none": (NEXT, "return {}", "next_state", "gives no scale"),
    "next-state-shape": (
        NEXT,
        'return {"scale": info["policy_loss"].mean()}',
        "next_state",
        "gives scale as a tensor of the shape []",
    ),
    "next-state-raises": (
        NEXT,
        'return {"scale": info["polcy_loss"]}',
        "next_state",
        "ends with KeyError: 'polcy_loss'",
    ),
    "initial-state": (STATE, 'return {"scale": torch.ones(1)}', "initial_state", "gives scale of the shape [1]"),
    "diagnosed": (
        DIAGNOSED,
        'return {"scale": batch["rewards"]}',
        "diagnostics",
        "gives scale as a tensor of the shape [2, 16]",
    ),
    "diagnosed-raises": (DIAGNOSED, 'return {"scale": state["alpha"]}', "diagnostics", "ends with KeyError: 'alpha'"),
    "values": (VALUES, "return batch['rewards'].mean(1)", "data_values", "gives a tensor of the shape [2]"),
    "online-share": (FIELDS, "online_share = 2", "", "Mine: online_share is 2"),
    "updates": (FIELDS, "updates_per_step = 0", "", "Mine: updates_per_step is 0"),
    "fields": (FIELDS, 'extra_fields = ("mc_returns")', "", "with a comma after it: ('mc_returns',)"),
    "unknown-fields": (FIELDS, 'extra_fields = ("mc_return",)', "", "unknown name 'mc_return' in "),
    "no-settings": ("settings_type = MineSettings", "kind = MineSettings", "", "Mine has no settings_type"),
    "settings-no-class": ("settings_type = MineSettings", 'settings_type = "MineSettings"', "", "settings_type"),
    "settings-no-dataclass": ("@dataclass(frozen=True, kw_only=True)\n", "", "", "MineSettings is no dataclass"),
    "check-raises": (
        "    noise: float = 0.1",
        "    noise: float = 0.1\n\n    def check(self):\n        super().check()\n        math.log(self.noise - 0.1)",
        "",
        "MineSettings ends with ValueError",
    ),
}


@pytest.mark.parametrize("name", FAULTS)
def test_what_breaks_the_contract_is_said_before_anything_is_trained(place: Place, capsys, name: str) -> None:
    old, new, method, said = FAULTS[name]
    place.write(
        (old, new), ("agents.mlp import MLP", "agents.parameters import Parameter\nfrom mfql.agents.mlp import MLP")
    )
    assert place.train() == 2
    printed = capsys.readouterr().err
    print(printed)
    assert f"{place.file}: Mine.{method}" in printed if method else str(place.file) in printed
    assert said in printed
    assert "Traceback" not in printed
    assert not list(place.folder.glob("results/runs/*/*/*/*/run"))


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("unknown-group", 'parameters["target_values"]'),
        ("init-raises", "self.half = "),
        ("diagnosed-raises", 'state["alpha"]'),
        ("shapes-do-not-fit", "errors @ values"),
        ("check-raises", "math.log"),
    ],
)
def test_an_error_of_its_own_code_is_said_with_its_lines(place: Place, capsys, name: str, line: str) -> None:
    place.write(FAULTS[name][:2])
    assert place.train() == 2
    lines = place.file.read_text(encoding="utf-8").splitlines()
    (number,) = [number for number, text in enumerate(lines, 1) if line in text]
    assert f"\n  {place.file}, line {number}, in " in capsys.readouterr().err


KEPT = {
    "plain": [],
    "weighted": [
        (
            '"policy": Group(self.policy.layout)',
            '"policy": Group(self.policy.layout, weighting=lambda g: 0 * g[:, 0] + 1)',
        ),
        (LOSS, 'loss = torch.stack([value_loss, policy_loss / state["scale"]], 1)'),
    ],
    "needs many rows": [(VALUE_LOSS, "value_loss = errors.topk(12, 1).values.mean(1)")],
    "waits": [(LOSS, 'loss = value_loss + torch.where(state["step"] < 2, 0.0, 1.0) * policy_loss / state["scale"]')],
    "decides by the step": [(LOSS, f"{LOSS} if state['step'] < 2 else 0 * value_loss + policy_loss")],
    "changes its batch": [(VALUE_LOSS, f"{VALUE_LOSS}\n        batch['rewards'].mul_(2.0)")],
    "made of a number": [
        (MADE, f"self.fixed = torch.randn(3, generator=torch.Generator().manual_seed(0))\n        {MADE}")
    ],
    "keeps a constant": [(VALUE_LOSS, f"self.ones = torch.ones_like(errors)\n        {VALUE_LOSS}")],
    "draws by its arguments": [(MOVED, f"{MOVED} * torch.Generator().manual_seed(3).initial_seed()")],
    "state of rows": [
        (STATE, 'return {"scale": torch.ones(seeds), "rows": torch.zeros(seeds, self.settings.batch_size)}'),
        (LOGGED, f'{LOGGED}, "rows": errors.detach()'),
        (NEXT, NEXT[:-1] + ', "rows": info["rows"]}'),
    ],
    "no value of its data": [(VALUES, "return None"), (DIAGNOSED, "return {}")],
}


@pytest.mark.parametrize("name", KEPT)
def test_an_agent_that_keeps_it_trains(place: Place, capsys, name: str) -> None:
    place.write(*KEPT[name])
    assert place.train() == 0, capsys.readouterr().err


def test_a_run_has_the_same_numbers_without_the_check(place: Place, monkeypatch) -> None:
    place.write()
    assert place.train("checked", (0, 1)) == 0
    monkeypatch.setattr("mfql.training.train.require_contract", lambda *_: None)
    assert place.train("unchecked", (0, 1)) == 0
    for seed in (0, 1):
        assert_equal_runs(place.run("checked", seed), place.run("unchecked", seed))


def test_a_finished_run_is_restored_whatever_became_of_its_agent(place: Place) -> None:
    place.write()
    assert place.train() == 0
    place.write(FAULTS["torch"][:2])
    assert place.train() == 0


# --- the project's agents ---------------------------------------------------------------------------------------------

MORE = [
    "mfql-miniature+horizon=3",
    "fql-miniature+horizon=2",
    "ifql-miniature+horizon=2",
    "flow_bc-miniature+horizon=3",
    "mfql-miniature+precision=bf16",
    "mfql-miniature+derivative_interval=4",
    "mfql-miniature+generation_steps=2+sample_b=true",
    "mfql-miniature+acting_candidates=3",
    "mfql-miniature+row_before_update=true",
    "mfql-miniature+batch_size=1",
    "rlpd-miniature+updates_per_step=2",
]
PIXELS = "visual-cube-single-play-singletask-task1-v0"


def hold(method: str, task: str = TASK, sizes: tuple[tuple[int, ...], int] = ((69,), 21)) -> None:
    raw = raw_settings(method, task, "online", CONFIG)
    agent = raw.pop("agent")
    kind = load_agent(agent)
    require_contract(kind, agent_file(agent), build_settings(kind.settings_type, raw, method), *sizes, CPU)


@pytest.mark.parametrize("method", [f"{method}-miniature" for method in METHODS])
def test_every_method_of_the_project_keeps_it(method: str, capsys) -> None:
    hold(method)
    assert not capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", [*choices("-miniature"), *solved("-miniature"), *MORE])
def test_so_it_does_with_each_choice_of_a_setting(method: str, capsys) -> None:
    hold(method)
    assert not capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("method", [f"{method}-miniature" for method in METHODS])
def test_and_on_images(method: str) -> None:
    hold(method, PIXELS, ((64, 64, 9), 5))


def test_the_numbers_of_a_run_do_not_know_of_it() -> None:
    def state() -> list[object]:
        return [torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()]  # noqa: NPY002

    before = state()
    hold("mfql-miniature")
    assert state() == before


def test_a_loss_that_is_not_finite_is_said_and_hinders_nothing(place: Place, capsys) -> None:
    place.write((VALUE_LOSS, f"{VALUE_LOSS} / (batch['rewards'] > 2).sum(1)"))
    assert place.train() == 0
    assert f"{place.file}: Mine.losses gives a loss that is not finite on random rows" in capsys.readouterr().err


def test_what_asks_for_more_memory_than_there_is_is_refused_before(place: Place, capsys) -> None:
    place.write((DRAWS, DRAWS.replace("self.action_dim", "10**9")))
    assert place.train() == 2
    assert "an update of Mine of 2 seeds asks for" in capsys.readouterr().err
