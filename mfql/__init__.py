"""One-step MeanFlow Q-learning: data, training, evaluation and the verdict against the published numbers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfql.evaluation.policy import load_policy
    from mfql.suites import make_env

    __version__: str

__all__ = ["__version__", "load_policy", "make_env"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: a launcher uses this package without torch and without environments.
    if name not in __all__:
        raise AttributeError(f"module 'mfql' has no attribute {name!r}")
    if name == "__version__":
        from importlib.metadata import version

        return version("mfql")
    from mfql.errors import naming_extras

    with naming_extras():
        if name == "load_policy":
            from mfql.evaluation.policy import load_policy

            return load_policy
        from mfql.suites import make_env

        return make_env
