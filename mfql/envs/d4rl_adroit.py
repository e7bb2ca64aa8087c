"""D4RL's Adroit tasks: a hand of 24 joints turns a pen, hammers a nail, opens a door, moves a ball.

Observations, rewards and goals follow D4RL 1.1's environments of version 0, which its datasets of version 1 use. The
model files are D4RL's own, without the one attribute that MuJoCo 4 refuses and that has no part in the physics. Lengths
are metres, angles radians.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from types import MappingProxyType

import mujoco
import numpy as np

from mfql.envs import physics
from mfql.envs.d4rl_package import package_folder
from mfql.envs.d4rl_simulation import Simulation
from mfql.errors import UserError

# `apirate` belonged to the interface of a discontinued product.
_REFUSED = re.compile(rb'\sapirate="[^"]*"')


def compile_model(scene: str) -> mujoco.MjModel:
    """The model of `pen`, `hammer`, `door` or `relocate`, with D4RL's actuator gains and the data's physics.

    Raises:
        UserError: `d4rl` is not installed, its model files are incomplete, or their physics cannot be corrected.
    """
    suite = package_folder() / "hand_manipulation_suite"
    files = {path.name: _REFUSED.sub(b"", path.read_bytes()) for path in (suite / "assets").glob("*.xml")}
    for folder in ("meshes", "textures"):
        files |= {path.name: path.read_bytes() for path in (suite / "Adroit" / "resources" / folder).glob("*.*")}
    try:
        model = mujoco.MjModel.from_xml_string(files[f"DAPG_{scene}.xml"].decode(), files)
    except (KeyError, ValueError) as error:
        raise UserError(f"the model of {scene} in {suite} cannot be loaded: {error}", "Reinstall d4rl==1.1.") from error
    # Films of 256 pixels gain nothing from the file's shadows and samples, and software renders them ten times slower.
    model.vis.quality.shadowsize, model.vis.quality.offsamples = 1024, 4
    for first, last, gain in (("A_WRJ1", "A_WRJ0", 10.0), ("A_FFJ3", "A_THJ0", 1.0)):
        rows = slice(model.actuator(first).id, model.actuator(last).id + 1)
        model.actuator_gainprm[rows, :3] = (gain, 0.0, 0.0)
        model.actuator_biasprm[rows, :3] = (0.0, -gain, 0.0)
    physics.correct(model)
    return model


class Pen(Simulation):
    """Turn the pen in the hand to the target's direction; a dropped pen ends the episode."""

    recorded = MappingProxyType({"infos/desired_orien": 4})
    azimuth, distance = -45.0, 1.0

    def __init__(self, model: mujoco.MjModel) -> None:
        # The model's own sites give the lengths: both pens are rigid.
        self._length = _distance(model.site("object_top").pos, model.site("object_bottom").pos)
        self._target_length = _distance(model.site("target_top").pos, model.site("target_bottom").pos)
        super().__init__(model, [model.body("target").quat])

    def draw(self) -> None:
        """The target's direction: turned about x and y by up to 1 rad each."""
        x, y = self.np_random.uniform(-1.0, 1.0, 2)
        self.placement = [_quaternion(x, y)]

    def observation(self) -> np.ndarray:
        """Hand 24, pen's place 3, velocity 6 and direction 3, target's direction 3, differences 3 and 3."""
        place, direction, wanted = self._pen()
        away = place - self.data.site("eps_ball").xpos
        return np.concatenate(
            [self.data.qpos[:-6], place, self.data.qvel[-6:], direction, wanted, away, direction - wanted]
        )

    def judge(self) -> tuple[float, bool, bool]:
        """Nearness and alignment; bonuses for both; -5 for a pen below 0.075."""
        place, direction, wanted = self._pen()
        away = float(np.linalg.norm(place - self.data.site("eps_ball").xpos))
        alignment = float(direction @ wanted)
        near, dropped = away < 0.075, bool(place[2] < 0.075)
        achieved = near and alignment > 0.95
        reward = alignment - away + 10.0 * (near and alignment > 0.9) + 50.0 * achieved - 5.0 * dropped
        return reward, achieved, dropped

    def _pen(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The pen's place and direction, and the direction wanted."""
        site = self.data.site
        direction = (site("object_top").xpos - site("object_bottom").xpos) / self._length
        wanted = (site("target_top").xpos - site("target_bottom").xpos) / self._target_length
        return self.data.body("Object").xpos, direction, wanted


class Hammer(Simulation):
    """Take the hammer and drive the nail into the board."""

    recorded = MappingProxyType({"infos/board_pos": 3})
    azimuth, distance = 45.0, 2.0

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model, [model.body("nail_board").pos])

    def draw(self) -> None:
        """The height of the board."""
        board = self.placement[0].copy()
        board[2] = self.np_random.uniform(0.1, 0.25)
        self.placement = [board]

    def observation(self) -> np.ndarray:
        """Arm, hand and nail 27, hammer's velocity 6 within ±1, palm 3, hammer 3 and its turn 3, nail 3, impact 1."""
        data = self.data
        hammer = data.body("Object")
        return np.concatenate(
            [
                data.qpos[:-6],
                np.clip(data.qvel[-6:], -1.0, 1.0),
                data.site("S_grasp").xpos,
                hammer.xpos,
                _euler_angles(hammer.xquat),
                data.site("S_target").xpos,
                np.clip(data.sensor("S_nail").data, -1.0, 1.0),
            ]
        )

    def judge(self) -> tuple[float, bool, bool]:
        """Palm to hammer, hammer's head to nail, nail to goal, little speed; bonuses for lifting and for driving."""
        data = self.data
        hammer, tool, nail = data.body("Object").xpos, data.site("tool").xpos, data.site("S_target").xpos
        left = _distance(nail, data.site("nail_goal").xpos)
        reward = -0.1 * _distance(data.site("S_grasp").xpos, hammer) - _distance(tool, nail) - 10.0 * left
        reward -= 1e-2 * float(np.linalg.norm(data.qvel))
        lifted = bool(hammer[2] > 0.04 and tool[2] > 0.04)
        reward += 2.0 * lifted + 25.0 * (left < 0.02) + 75.0 * (left < 0.01)
        return reward, left < 0.01, False


class Door(Simulation):
    """Turn the latch and pull the door open."""

    recorded = MappingProxyType({"infos/door_body_pos": 3})

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model, [model.body("frame").pos])

    def draw(self) -> None:
        """Where the door stands."""
        self.placement = [self.np_random.uniform((-0.3, 0.25, 0.252), (-0.2, 0.35, 0.35))]

    def observation(self) -> np.ndarray:
        """Arm and hand 27, latch 1, hinge 1, palm 3, handle 3, their difference 3, whether open (1 or -1) 1."""
        palm, handle, hinge = self._places()
        joints = self.data.qpos
        opened = 1.0 if hinge > 1.0 else -1.0
        return np.concatenate([joints[1:-2], joints[-1:], [hinge], palm, handle, palm - handle, [opened]])

    def judge(self) -> tuple[float, bool, bool]:
        """Palm to handle, hinge to a quarter turn, little speed; bonuses as it opens."""
        palm, handle, hinge = self._places()
        reward = -0.1 * _distance(palm, handle) - 0.1 * (hinge - 1.57) ** 2 - 1e-5 * float(np.sum(self.data.qvel**2))
        reward += 2.0 * (hinge > 0.2) + 8.0 * (hinge > 1.0) + 10.0 * (hinge > 1.35)
        return reward, hinge >= 1.35, False

    def _places(self) -> tuple[np.ndarray, np.ndarray, float]:
        """The palm's and the handle's place and the hinge's angle."""
        data = self.data
        return data.site("S_grasp").xpos, data.site("S_handle").xpos, float(data.joint("door_hinge").qpos[0])


class Relocate(Simulation):
    """Take the ball to the target."""

    recorded = MappingProxyType({"infos/obj_pos": 3, "infos/target_pos": 3})

    def __init__(self, model: mujoco.MjModel) -> None:
        super().__init__(model, [model.body("Object").pos, model.site("target").pos])

    def draw(self) -> None:
        """Where on the table the ball lies, and where in the air the target is."""
        ball = self.placement[0].copy()
        ball[:2] = self.np_random.uniform((-0.15, -0.15), (0.15, 0.3))
        self.placement = [ball, self.np_random.uniform((-0.2, -0.2, 0.15), (0.2, 0.2, 0.35))]

    def recorded_placement(self, qpos: np.ndarray, arrays: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Files tell where the ball is, which its joints may have moved from where it was placed."""
        return [arrays["infos/obj_pos"] - qpos[-6:-3], arrays["infos/target_pos"]]

    def observation(self) -> np.ndarray:
        """Arm and hand 30, then the differences palm - ball, palm - target, ball - target, 3 each."""
        palm, ball, target = self._places()
        return np.concatenate([self.data.qpos[:-6], palm - ball, palm - target, ball - target])

    def judge(self) -> tuple[float, bool, bool]:
        """Palm to ball; once lifted, both to the target; bonuses for a ball near it."""
        palm, ball, target = self._places()
        left = _distance(ball, target)
        reward = -0.1 * _distance(palm, ball)
        if ball[2] > 0.04:
            reward += 1.0 - 0.5 * _distance(palm, target) - 0.5 * left
        reward += 10.0 * (left < 0.1) + 20.0 * (left < 0.05)
        return reward, left < 0.1, False

    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Where palm, ball and target are."""
        data = self.data
        return data.site("S_grasp").xpos, data.body("Object").xpos, data.site("target").xpos


SCENES: Mapping[str, Callable[[mujoco.MjModel], Simulation]] = {
    "pen": Pen,
    "hammer": Hammer,
    "door": Door,
    "relocate": Relocate,
}


def _distance(first: np.ndarray, second: np.ndarray) -> float:
    return float(np.linalg.norm(first - second))


def _quaternion(x: float, y: float) -> np.ndarray:
    """The quaternion of a turn by `x` about the x axis, then by `y` about the turned y axis."""
    about_x = np.array([np.cos(x / 2), np.sin(x / 2), 0.0, 0.0])
    about_y = np.array([np.cos(y / 2), 0.0, np.sin(y / 2), 0.0])
    both = np.empty(4)
    mujoco.mju_mulQuat(both, about_x, about_y)
    return both


def _euler_angles(quaternion: np.ndarray) -> np.ndarray:
    """The turn as angles about x, then the turned y, then the turned z, [3]; at y = ±pi/2 the angle about x is 0."""
    flat = np.empty(9)
    mujoco.mju_quat2Mat(flat, quaternion)
    turn = flat.reshape(3, 3)
    cosine = np.hypot(turn[2, 2], turn[1, 2])
    y = np.arctan2(turn[0, 2], cosine)
    if cosine > 4.0 * np.finfo(np.float64).eps:
        return np.array([np.arctan2(-turn[1, 2], turn[2, 2]), y, np.arctan2(-turn[0, 1], turn[0, 0])])
    return np.array([0.0, y, np.arctan2(turn[1, 0], turn[1, 1])])
