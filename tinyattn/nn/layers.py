"""Layers of one operation each, with the names, shapes and initial values of torch.nn."""

from __future__ import annotations

import math
from typing import Any

from tinyattn.nn import functional as F
from tinyattn.nn import init
from tinyattn.nn.module import Module, Parameter
from tinyattn.ops import creation
from tinyattn.tensors import Tensor

__all__ = [
    "Dropout", "Embedding", "Flatten", "Identity", "LayerNorm", "Linear", "LinearGELU",
]  # fmt: skip


# --- with parameters ---


class Linear(Module):
    """Compute x @ weight.T + bias: (..., in_features) -> (..., out_features). As torch.nn.Linear.

    weight (out_features, in_features) and bias (out_features,) are initialised uniformly in ± 1 / sqrt(in_features);
    bias=False leaves the bias out. Raises RuntimeError for an input of another size.

    Example:
        >>> nn.Linear(3, 2)(ta.ones(5, 3)).shape
        (5, 2)
    """

    weight: Parameter
    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        self.weight = Parameter(creation.empty(out_features, in_features, device=device, dtype=dtype))
        unset = Parameter(creation.empty(out_features, device=device, dtype=dtype)) if bias else None
        self.register_parameter("bias", unset)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # that is, ± 1 / sqrt(in_features)
        if self.bias is not None:
            bound = 1 / math.sqrt(max(self.in_features, 1))
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        return F.linear(input, self.weight, self.bias)

    def extra_repr(self) -> str:
        bias = self.bias is not None
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={bias}"


class LinearGELU(Linear):
    """Compute gelu(linear(x)) as one operation, with fewer passes over memory.

    Arguments, parameters and shapes as for `Linear`; approximate as for `GELU`. torch.nn has no such layer.

    Example:
        >>> nn.LinearGELU(3, 2)(ta.ones(5, 3)).shape
        (5, 2)
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        approximate: str = "none",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(in_features, out_features, bias, device, dtype)
        self.approximate = approximate

    def forward(self, input: Tensor) -> Tensor:
        return F.linear_gelu(input, self.weight, self.bias, self.approximate)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, approximate={self.approximate!r}"


class Embedding(Module):
    """Look up rows of a table: integers (...) -> (..., embedding_dim). As torch.nn.Embedding.

    weight (num_embeddings, embedding_dim) is initialised normally; the row padding_idx is zero and has no gradient.
    Raises ValueError for a padding_idx outside the table, IndexError for such an input.

    Example:
        >>> nn.Embedding(10, 4)(ta.tensor([[1, 2, 2]])).shape
        (1, 3, 4)
    """

    weight: Parameter

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        padding_idx: int | None = None,
        *,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        if padding_idx is not None:
            if not -num_embeddings <= padding_idx < num_embeddings:
                raise ValueError(f"padding_idx={padding_idx} is out of range for {num_embeddings} embeddings")
            padding_idx %= num_embeddings
        self.num_embeddings, self.embedding_dim, self.padding_idx = num_embeddings, embedding_dim, padding_idx
        self.weight = Parameter(creation.empty(num_embeddings, embedding_dim, device=device, dtype=dtype))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.normal_(self.weight)
        if self.padding_idx is not None:
            init.zeros_(self.weight.detach()[self.padding_idx])

    def forward(self, input: Tensor) -> Tensor:
        return F.embedding(input, self.weight, self.padding_idx)

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class LayerNorm(Module):
    """Normalise to mean 0 and variance 1 over the last axes, then scale and shift. As torch.nn.LayerNorm.

    normalized_shape: the sizes of these axes. weight, ones, and bias, zeros, have this shape; elementwise_affine=False
    leaves out both, bias=False the bias. eps: added to the variance. The output has the input's shape; raises
    RuntimeError if that does not end in normalized_shape.
    Ba, Kiros and Hinton 2016, "Layer normalization".

    Example:
        >>> nn.LayerNorm(3, eps=0.0)(ta.tensor([1.0, 1.0, 4.0]))
        tensor([-0.7071, -0.7071,  1.4142], grad_fn=<layer_norm>)
    """

    weight: Parameter | None
    bias: Parameter | None

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        shape = (normalized_shape,) if isinstance(normalized_shape, int) else tuple(normalized_shape)
        self.normalized_shape, self.eps, self.elementwise_affine = shape, eps, elementwise_affine
        for name, wanted in (("weight", elementwise_affine), ("bias", elementwise_affine and bias)):
            unset = Parameter(creation.empty(shape, device=device, dtype=dtype)) if wanted else None
            self.register_parameter(name, unset)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Set weight to one and bias to zero."""
        if self.weight is not None:
            init.ones_(self.weight)
        if self.bias is not None:
            init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)

    def extra_repr(self) -> str:
        affine, bias = self.elementwise_affine, self.bias is not None
        return f"{self.normalized_shape}, eps={self.eps}, elementwise_affine={affine}, bias={bias}"


# --- without ---


class Dropout(Module):
    """In training, zero each element with probability p and scale the rest by 1 / (1 - p). As torch.nn.Dropout.

    Any shape. Raises ValueError for a p outside [0, 1].
    Srivastava et al. 2014, "Dropout: a simple way to prevent neural networks from overfitting".

    Example:
        >>> nn.Dropout(0.5).eval()(ta.ones(3)).tolist()
        [1.0, 1.0, 1.0]
    """

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        super().__init__()
        if not 0 <= p <= 1:
            raise ValueError(f"Dropout: p={p}; a probability lies between 0 and 1")
        self.p, self.inplace = p, inplace

    def forward(self, input: Tensor) -> Tensor:
        return F.dropout(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


class Identity(Module):
    """Return the input; all arguments of the constructor are ignored. As torch.nn.Identity.

    Example:
        >>> nn.Identity(54, unused=True)(ta.ones(2)).tolist()
        [1.0, 1.0]
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        return input


class Flatten(Module):
    """Merge the axes from start_dim to end_dim into one. As torch.nn.Flatten.

    Raises IndexError for an axis that the input does not have.

    Example:
        >>> nn.Flatten()(ta.ones(2, 3, 4)).shape
        (2, 12)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1) -> None:
        super().__init__()
        self.start_dim, self.end_dim = start_dim, end_dim

    def forward(self, input: Tensor) -> Tensor:
        return input.flatten(self.start_dim, self.end_dim)

    def extra_repr(self) -> str:
        return f"start_dim={self.start_dim}, end_dim={self.end_dim}"
