"""Episodes of a point, as LeRobot's own writer has them; `write.sh` calls this with two of its versions."""

import shutil
import sys
from pathlib import Path

import numpy as np
from lerobot.datasets.lerobot_dataset import CODEBASE_VERSION, LeRobotDataset

LIMIT = 40
VECTOR = {"dtype": "float32", "shape": (2,), "names": ["x", "y"]}
FEATURES = {
    "observation.state": VECTOR,
    "observation.environment_state": VECTOR,
    "observation.image": {"dtype": "image", "shape": (4, 4, 3), "names": ["height", "width", "channels"]},
    "action": VECTOR,
    "next.reward": {"dtype": "float32", "shape": (1,), "names": None},
    "next.done": {"dtype": "bool", "shape": (1,), "names": None},
    "next.success": {"dtype": "bool", "shape": (1,), "names": None},
}


def episode(rng, gain):
    """Steps towards a goal, noisy, or away from it: the frames, without what is seen after the last action."""
    position, goal = rng.uniform(-1.0, 1.0, (2, 2))
    frames = []
    for step in range(LIMIT):
        action = np.clip(gain * (goal - position) + rng.normal(0.0, 0.1, 2), -0.2, 0.2).astype(np.float32)
        frame = {"observation.state": position, "observation.environment_state": goal, "action": action}
        position = np.clip(position + action, -2.0, 2.0)
        reached = bool(np.linalg.norm(position - goal) < 0.1)
        frames.append({name: value.astype(np.float32) for name, value in frame.items()})
        frames[-1] |= {
            "next.reward": np.array([float(reached) - 1.0], np.float32),
            "next.done": np.array([reached or step == LIMIT - 1]),
            "next.success": np.array([reached]),
        }
        if reached:
            break
    return frames


def main(folder, recorded):
    rng = np.random.default_rng(0)
    episodes = [episode(rng, gain) for gain in (0.2, 0.2, -0.2, 0.2, 0.2)]
    dataset = LeRobotDataset.create("lab/point", fps=10, features=FEATURES, root=folder, use_videos=False)
    if CODEBASE_VERSION == "v3.0":
        dataset.meta.update_chunk_settings(data_files_size_in_mb=0.004)  # Several files.
    for frames in episodes:
        for frame in frames:
            seen = {"observation.image": np.zeros((4, 4, 3), np.uint8)}
            if CODEBASE_VERSION == "v3.0":
                dataset.add_frame({**frame, **seen, "task": "reach the goal"})
            else:
                dataset.add_frame({**frame, **seen}, task="reach the goal")
        dataset.save_episode()
    if CODEBASE_VERSION == "v3.0":
        dataset.finalize()
    shutil.rmtree(folder / "images", ignore_errors=True)  # Its files have them, too.
    names = [name for name in FEATURES if name != "observation.image"]
    rows = {name: np.stack([frame[name] for frames in episodes for frame in frames]) for name in names}
    np.savez_compressed(recorded, **rows, lengths=[len(frames) for frames in episodes])


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
