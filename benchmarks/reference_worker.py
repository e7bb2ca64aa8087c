"""Runs updates of the authors' JAX code, as many as each line of standard input says, and prints the seconds they took.

It imports jax, numpy, absl and the checkout alone, so that it runs in an environment of its own.
`benchmarks/reference.py` starts it. What a user can mend ends it with one line on standard error and status 1.
"""

from __future__ import annotations

import ast
import importlib
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

# The first update compiles; the second does so again where `create` makes its state of other types than `update`.
_WARM_UP_UPDATES = 2


def main(checkout: str, where: str, observation_dim: int, action_dim: int, batch_size: int, changes: list[str]) -> None:
    """Answer each number on standard input with the seconds of so many updates, all of them compiled before."""
    # In place of this script's own folder, whose profile.py would be imported for Python's.
    sys.path[0] = checkout
    import jax  # type: ignore[import-not-found, unused-ignore]

    module_name, _, class_name = where.partition(":")
    module = importlib.import_module(module_name)
    agent_class, get_config = _of(module, class_name), _of(module, "get_config")
    _define_flags(Path(checkout))
    config = get_config()
    _change(config, changes)
    batch = _batch(observation_dim, action_dim, batch_size)
    agent: Any = agent_class.create(0, batch["observations"], batch["actions"], config)

    def updated(calls: int) -> float:
        nonlocal agent
        info: Any = None
        began = time.perf_counter()
        for _ in range(calls):
            agent, info = agent.update(batch)
        jax.block_until_ready((agent, info))
        return time.perf_counter() - began

    updated(_WARM_UP_UPDATES)
    print("ready", flush=True)
    for line in sys.stdin:
        print(updated(int(line)), flush=True)


def _of(module: Any, name: str) -> Any:
    if not hasattr(module, name):
        agents = [key for key, value in vars(module).items() if hasattr(value, "create") and hasattr(value, "update")]
        sys.exit(f"{module.__name__} has no {name}; agents in it: {', '.join(sorted(agents)) or 'none'}")
    return getattr(module, name)


def _define_flags(checkout: Path) -> None:
    """Define the command-line flags of the checkout's own `main*.py`, as if they were called without arguments.

    An agent may read them. The scripts are read, not imported: they import trackers and simulators. Of two that define
    the same flag the first by name counts. What absl itself does not define, such as files of configuration, is passed
    over, and so is what takes more than literals.
    """
    try:
        from absl import flags  # type: ignore[import-untyped, import-not-found, unused-ignore]
    except ModuleNotFoundError:
        return  # Nor can an agent read any then.
    for script in sorted(checkout.glob("main*.py")):
        for function, given, named in _definitions(script):
            if hasattr(flags, function) and (given[0] if given else named["name"]) not in flags.FLAGS:
                getattr(flags, function)(*given, **named)
    flags.FLAGS.mark_as_parsed()


def _definitions(script: Path) -> Iterator[tuple[str, list[Any], dict[str, Any]]]:
    """The calls of functions `DEFINE_...` in a script whose arguments are literals."""
    for node in ast.walk(ast.parse(script.read_text(encoding="utf-8"))):
        if not isinstance(node, ast.Call):
            continue
        called = node.func
        function = called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")
        if function.startswith("DEFINE_"):
            try:
                given = [ast.literal_eval(one) for one in node.args]
                named = {str(one.arg): ast.literal_eval(one.value) for one in node.keywords}
            except ValueError:
                continue
            yield function, given, named


def _change(config: Any, changes: list[str]) -> None:
    """Make the `KEY=VALUE` changes of an agent's configuration; a key that is none would change nothing."""
    for change in changes:
        key, _, value = change.partition("=")
        if key not in config:
            sys.exit(f"{change!r} is no KEY=VALUE of the agent's configuration, which has {', '.join(sorted(config))}")
        try:
            config[key] = _value(value)
        except TypeError as error:  # ConfigDict has a type for each key.
            sys.exit(f"{change!r}: {error}")


def _value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def _batch(observation_dim: int, action_dim: int, size: int) -> dict[str, np.ndarray]:
    import numpy as np

    rng = np.random.default_rng(0)
    observations, following = rng.standard_normal((2, size, observation_dim), dtype=np.float32)
    return {
        "observations": observations,
        "actions": rng.uniform(-1, 1, (size, action_dim)).astype(np.float32),
        "next_observations": following,
        "rewards": -np.ones(size, np.float32),
        "masks": np.ones(size, np.float32),
        "terminals": np.zeros(size, np.float32),
    }


def _read_flag(error: AttributeError) -> bool:
    """Whether it was absl's flags that lacked an attribute."""
    return type(getattr(error, "obj", None)).__name__ == "FlagValues"


if __name__ == "__main__":
    try:
        main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]), sys.argv[6:])
    except ModuleNotFoundError as error:
        sys.exit(f"neither the checkout nor {sys.executable} has the module {error.name!r}")
    except AttributeError as error:
        if not _read_flag(error):
            raise
        sys.exit(f"the agent reads the flag {error.name!r}, which no main*.py of the checkout defines by literals")
