"""Episodes of random actions, recorded with Minari's collector as its documentation has it; `write.sh` calls this.

Pendulum has observations of float32 and episodes that are cut off; InvertedPendulum float64, and episodes that end.
"""

import gymnasium
import minari

for env_id, limit in {"Pendulum-v1": 7, "InvertedPendulum-v5": 8}.items():
    for form in ("hdf5", "arrow"):
        env = gymnasium.make(env_id, max_episode_steps=limit)
        env = minari.DataCollector(env, data_format=form)
        env.action_space.seed(0)
        for seed in range(4):
            env.reset(seed=seed)
            over = False
            while not over:
                _, _, terminated, truncated, _ = env.step(env.action_space.sample())
                over = terminated or truncated
        env.create_dataset(
            dataset_id=f"{env_id.partition('-')[0].lower()}/{form}-v0",
            algorithm_name="random",
            author="",
            author_email="",
            code_permalink="",
        )
        env.close()
