"""The matrix products of an update: which there are, and how fast the machine computes just those."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

# Where the two factors stand among an operation's arguments.
_FACTORS = {torch.ops.aten.mm: 0, torch.ops.aten.bmm: 0, torch.ops.aten.addmm: 1, torch.ops.aten.baddbmm: 1}


@dataclass(frozen=True)
class Product:
    """A batch of products `[batch, rows, inner] x [batch, inner, columns]`, each factor in one of two layouts."""

    batch: int
    rows: int
    inner: int
    columns: int
    left_transposed: bool
    right_transposed: bool
    dtype: torch.dtype

    @classmethod
    def of(cls, left: Tensor, right: Tensor) -> Product:
        """The product of two factors with two or three axes."""
        batch = left.shape[0] if left.dim() == 3 else 1
        return cls(
            batch, left.shape[-2], left.shape[-1], right.shape[-1], _transposed(left), _transposed(right), left.dtype
        )

    @property
    def operations(self) -> int:
        """Floating-point operations: a multiplication and an addition each."""
        return 2 * self.batch * self.rows * self.inner * self.columns

    def factors(self, device: torch.device) -> tuple[Tensor, Tensor]:
        """Random factors in the same layout."""
        return (
            _random(self.batch, self.rows, self.inner, self.left_transposed, self.dtype, device),
            _random(self.batch, self.inner, self.columns, self.right_transposed, self.dtype, device),
        )


def _transposed(factor: Tensor) -> bool:
    return factor.stride(-1) != 1 and factor.stride(-2) == 1


def _random(batch: int, rows: int, columns: int, transposed: bool, dtype: torch.dtype, device: torch.device) -> Tensor:
    shape = (batch, columns, rows) if transposed else (batch, rows, columns)
    array = torch.randn(shape, device=device).to(dtype)
    return array.transpose(1, 2) if transposed else array


class _Recorder(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.products: list[Product] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        first = _FACTORS.get(func.overloadpacket)
        if first is not None:
            self.products.append(Product.of(args[first], args[first + 1]))
        return func(*args, **(kwargs or {}))


def record(update: Callable[[], object]) -> tuple[list[Product], int]:
    """The matrix products of one eager update, in order, and the operations that torch's own counter finds."""
    with FlopCounterMode(display=False) as counter, _Recorder() as recorder:
        update()
    return recorder.products, counter.get_total_flops()


class ProductsAlone:
    """Computes products on random arrays, each on its own as in the update, and nothing else; call it to do so once."""

    def __init__(self, products: Sequence[Product], device: torch.device) -> None:
        self._factors = [product.factors(device) for product in products]
        self._results = [torch.bmm(*pair) for pair in self._factors]
        # On a GPU the update is a captured graph, too: launched one by one, small products would wait for the host. It
        # keeps the precision that is set as it is captured.
        self._captures = device.type == "cuda"
        self._run: Callable[[], None] | None = None

    def __call__(self) -> None:
        """All products once."""
        if self._run is None:
            self._run = self._captured() if self._captures else self._compute
        self._run()

    def _compute(self) -> None:
        for (left, right), result in zip(self._factors, self._results, strict=True):
            torch.bmm(left, right, out=result)

    def _captured(self) -> Callable[[], None]:
        self._compute()  # What a library prepares at its first call cannot be captured.
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._compute()
        return graph.replay
