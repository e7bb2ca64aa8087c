"""Agents' files read where torch is not: what its placeholder bears, what it refuses, and that nothing of it stays."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from mfql.extensions import TRUSTED
from tests.support.processes import run
from tests.support.without_torch import BLOCK

ROOT = Path(__file__).parents[1]
TASK = "pointmaze-medium-navigate-singletask-task2-v0"
# What files of networks do with torch when they are imported.
AGENT = """
from __future__ import annotations

import contextlib
from abc import ABC
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, Optional, TypeVar, Union

import torch
import torch.nn.functional as F
import torch.utils.data
from torch import Tensor, nn
from torch.autograd import Function
from torch.distributions import Normal as Gaussian
from torch.optim.lr_scheduler import LambdaLR

import mfql.agents.mlp as networks
from mfql.agents.interface import Agent
from mfql.settings import Settings, require

T = TypeVar("T")
LOG_2PI = torch.log(torch.tensor(2.0) * torch.pi) / 2 - 1
TYPES = {torch.float32: "single", torch.float64: "double"}
Loss = Callable[[Tensor, Tensor], Tensor] | None
Maybe, Either = Optional[Tensor], Union[Tensor, float, None]
Array = Tensor | None
torch.backends.cudnn.benchmark = True
torch.set_default_dtype(torch.float32)
activation = nn.ReLU()


class Network(nn.Module):
    scale: Tensor = torch.ones(3)

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(2, 2)


class Deeper(Network, Generic[T]):
    pass


class Both(nn.Module, torch.utils.data.Dataset, ABC):
    pass


class Straight(Function):
    @staticmethod
    def forward(context, x):
        return x


straight = Straight.apply


@torch.no_grad()
def frozen(x: Tensor) -> Tensor:
    return F.relu(x)


@torch.compile(dynamic=False)
def compiled(x):
    return x


with torch.no_grad(), contextlib.suppress(ValueError):
    ZERO = torch.zeros(1)[0].clone()


@dataclass
class Point:
    x: Tensor = ZERO


@dataclass(frozen=True, kw_only=True)
class MineSettings(Settings):
    beta: float = 0.5
    gamma: float = DEFAULT

    def check(self):
        super().check()
        CHECK
        require("beta", self.beta, 0 < self.beta < 1, "in (0, 1)")


class Mine(Agent):
    settings_type = MineSettings
    stages = ("offline",)
    training_version = 4

    def update_draws(self): ...
    def act_draw(self): ...
    def learning_rates(self, step): ...
    def act(self, parameters, observations, noise): ...

    @torch.compile
    def losses(self, parameters, batch, draws, state): ...
"""
METHOD = """
agent: {agent}
offline_steps: 10
online_steps: 0
discount: 0.9
"""
SAYS = f"""
import json, sys
BLOCK
from mfql.declared import agent_class, agent_stages, declared_version
from mfql.methods import declared_settings
from mfql.errors import UserError

def said(method, task={TASK!r}):
    try:
        return declared_settings(method, task, "offline", "config")[1].as_dict()
    except UserError as error:
        return str(error)

def known():
    return sorted(name for name in sys.modules if name.split(".")[0] == "torch" or name.startswith("mfql.agents"))

"""


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A folder with a method `mine` of a trusted agent outside the package, whose file the function given writes."""
    monkeypatch.setenv(TRUSTED, str(tmp_path))
    config = tmp_path / "config"
    config.mkdir()
    for path in (ROOT / "config").iterdir():
        (config / path.name).symlink_to(path)
    (config / "methods").unlink()
    (config / "methods").mkdir()
    (config / "methods" / "mine.yaml").write_text(METHOD.format(agent=tmp_path / "mine.py"), encoding="utf-8")
    for path in (ROOT / "config" / "methods").iterdir():
        (config / "methods" / path.name).symlink_to(path)

    def write(default: str = "1.0", check: str = "", extra: str = "") -> Path:
        text = AGENT.replace("DEFAULT", default).replace("CHECK", check or "pass")
        (tmp_path / "mine.py").write_text(text + extra, encoding="utf-8")
        return tmp_path

    return write


def ask(folder: Path, code: str, *, torch: bool = False):
    """What a Python prints as JSON that has torch, or has not."""
    whole = SAYS.replace("BLOCK", "" if torch else BLOCK) + code
    done = run([sys.executable, "-c", whole], cwd=folder)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_file_full_of_torch_gives_its_settings_stages_and_version_with_their_checks(project):
    found = ask(
        project(),
        """
print(json.dumps([
    said("mine"), said("mine+beta=2"), agent_stages("mine.py"), declared_version("mine.py"), known(),
]))
""",
    )
    values, refused, stages, version, left = found
    assert (values["beta"], values["offline_steps"]) == (0.5, 10)
    assert refused.endswith("setting beta is 2.0\n  It must be in (0, 1).")
    assert (stages, version, left) == (["offline"], 4, [])


def test_a_later_import_of_torch_is_a_real_one(project):
    left, ours, shared, real, works, same = ask(
        project(),
        """
placed, before = agent_class("mine.py"), said("mine")
left = known()
import torch
from mfql.agents import interface
import mfql.agents.mfql
real = agent_class("mine.py")
module = sys.modules[real.__module__]
print(json.dumps([
    left,
    issubclass(placed, interface.Agent),
    issubclass(real, interface.Agent),
    isinstance(module.LOG_2PI, torch.Tensor),
    module.straight(torch.ones(1)).item() == 1.0 and isinstance(mfql.agents.mfql.torch.ones(1), torch.Tensor),
    before == said("mine"),
]))
""",
        torch=True,
    )
    assert left == []
    assert not ours
    assert (shared, real, works, same) == (True, True, True, True)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ({"default": "torch.pi"}, "the default of the setting gamma is torch.pi"),
        ({"default": "float(torch.pi)"}, "mine.py, line 80: NeedsTorch: the value of torch.pi is asked for"),
        ({"check": "assert torch.tensor(self.beta) > 0"}, "NeedsTorch: the value of torch.tensor is asked for"),
        ({"extra": "\nif torch.cuda.is_available():\n    pass\n"}, "the value of torch.cuda.is_available is asked for"),
        ({"extra": "\nassert not isinstance(1.0, torch.Tensor)\n"}, "the value of torch.Tensor is asked for"),
        ({"extra": "\nNAMES = [str(one) for one in torch.zeros(3)]\n"}, "the value of torch.zeros is asked for"),
        ({"extra": "\nNAME = f'{torch.float32}'\n"}, "the value of torch.float32 is asked for"),
        ({"extra": "\nassert torch.version.hip == None\n"}, "the value of torch.version.hip is asked for"),
        ({"extra": "\nMAJOR = int(torch.__version__.split('.')[0])\n"}, "torch has no __version__"),
    ],
    ids=lambda value: str(next(iter(value.values()))).strip()[:30] if isinstance(value, dict) else "",
)
def test_what_only_torch_knows_is_asked_of_torch_and_refused_where_there_is_none(project, written, asked):
    folder = project(**written)
    refused = ask(folder, 'print(json.dumps(said("mine")))')
    assert asked in refused
    assert "torch is not installed here" in refused
    found, imported = ask(folder, 'print(json.dumps([said("mine"), "torch" in sys.modules]))', torch=True)
    assert found["beta"] == 0.5
    assert imported


def test_a_package_that_is_not_there_is_named(project):
    folder = project(extra="\nimport no_such_package.layers\n")
    for torch in (False, True):
        refused = ask(folder, 'print(json.dumps(said("mine")))', torch=torch)
        assert f"{folder / 'mine.py'} imports no_such_package, which is not installed here" in refused


def test_a_module_that_an_agent_shares_is_kept_apart_as_well_and_others_stay(project):
    folder = project(extra="\nimport sys\nsys.path.insert(0, '.')\nimport shared, plain\n")
    (folder / "shared.py").write_text("from torch import nn\n\nclass Layer(nn.Module):\n    pass\n", encoding="utf-8")
    (folder / "plain.py").write_text("import json\n", encoding="utf-8")
    code = 'said("mine"); print(json.dumps([name in sys.modules for name in ("shared", "plain", "mfql_agent_mine")]))'
    assert ask(folder, code, torch=True) == [False, True, False]


def test_a_default_may_be_computed_and_an_imported_one_counts(project):
    folder = project(default="float(2**5)")
    assert ask(folder, 'print(json.dumps(said("mine")))')["gamma"] == 32.0


def test_the_toys_settings_are_checked_without_torch(project):
    code = """
import yaml
from mfql.experiment.toy import training_identity
document = yaml.safe_load(open("config/toy.yaml"))
identity = training_identity(document, "residual", "reduced", "config/toy.yaml")
try:
    training_identity(document, "residual+samples=0", "reduced", "config/toy.yaml")
except UserError as error:
    print(json.dumps([identity, str(error), known()]))
"""
    identity, refused, left = ask(project(), code)
    real = ask(project(), code.replace("import yaml", "import torch, yaml", 1), torch=True)
    assert (identity, refused) == tuple(real[:2])
    assert "setting samples is 0" in refused
    assert left == []
