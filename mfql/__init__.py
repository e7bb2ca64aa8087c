"""One-step MeanFlow Q-learning: data, training, evaluation and the verdict against the published numbers."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mfql.evaluation.policy import load_policy

__all__ = ["load_policy"]


def __getattr__(name: str) -> Any:
    # Loaded when asked for: a launcher uses this package without torch.
    if name == "load_policy":
        from mfql.evaluation.policy import load_policy

        return load_policy
    raise AttributeError(f"module 'mfql' has no attribute {name!r}")
