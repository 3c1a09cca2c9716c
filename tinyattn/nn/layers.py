"""Layers of one operation each, with the names, shapes and initial values of torch.nn."""

from __future__ import annotations

import math
from typing import Any

from tinyattn.nn import functional as F
from tinyattn.nn import init
from tinyattn.nn.applied import Applied
from tinyattn.nn.module import Module, Parameter
from tinyattn.tensors import Tensor


class Linear(Module):
    """Compute x @ weight.T + bias: (..., in_features) -> (..., out_features). As torch.nn.Linear.

    weight (out_features, in_features) and bias (out_features,) are initialised uniformly in ± 1 / sqrt(in_features);
    bias=False leaves the bias out. Raises RuntimeError for an input of another size.

    >>> nn.Linear(3, 2)(ta.ones(5, 3)).shape
    (5, 2)
    """

    _shown = "in_features={0.in_features}, out_features={0.out_features}, bias={bias}"
    weight: Parameter
    bias: Parameter | None

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        super().__init__()
        self.in_features, self.out_features = in_features, out_features
        bias_shape = out_features if bias else None
        self._add_parameters(device, dtype, weight=(out_features, in_features), bias=bias_shape)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))  # that is, ± 1 / sqrt(in_features)
        if self.bias is not None:
            bound = 1 / math.sqrt(max(self.in_features, 1))
            init.uniform_(self.bias, -bound, bound)

    def forward(self, input: Tensor) -> Tensor:
        """Return input @ weight.T + bias: (..., in_features) -> (..., out_features)."""
        return F.linear(input, self.weight, self.bias)


class LinearGELU(Linear):
    """Compute gelu(linear(x)) as one operation, with fewer passes over memory.

    Arguments, parameters and shapes as for `Linear`; approximate as for `GELU`. torch.nn has no such layer.

    >>> nn.LinearGELU(3, 2)(ta.ones(5, 3)).shape
    (5, 2)
    """

    _shown = Linear._shown + ", approximate={0.approximate!r}"

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
        """Return gelu(input @ weight.T + bias): (..., in_features) -> (..., out_features)."""
        return F.linear_gelu(input, self.weight, self.bias, self.approximate)


class _Norm(Module):
    """Base of the normalisations: a weight, ones, and a bias, zeros; each may be absent."""

    weight: Parameter | None
    bias: Parameter | None

    def reset_parameters(self) -> None:
        """Set weight to one and bias to zero."""
        for name, value in (("weight", 1.0), ("bias", 0.0)):
            if getattr(self, name, None) is not None:
                init.constant_(getattr(self, name), value)


class LayerNorm(_Norm):
    """Normalise to mean 0 and variance 1 over the last axes, then scale and shift. As torch.nn.LayerNorm.

    normalized_shape: the sizes of these axes. weight, ones, and bias, zeros, have this shape; elementwise_affine=False
    leaves out both, bias=False the bias. eps: added to the variance. The output has the input's shape; raises
    RuntimeError if that does not end in normalized_shape.
    Ba, Kiros and Hinton 2016, "Layer normalization".

    >>> nn.LayerNorm(3, eps=0.0)(ta.tensor([1.0, 1.0, 4.0]))
    tensor([-0.7071, -0.7071,  1.4142], grad_fn=<layer_norm>)
    """

    _shown = "{0.normalized_shape}, eps={0.eps}, elementwise_affine={0.elementwise_affine}, bias={bias}"

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
        weight, bias_ = (shape if wanted else None for wanted in (elementwise_affine, elementwise_affine and bias))
        self._add_parameters(device, dtype, weight=weight, bias=bias_)
        self.reset_parameters()

    def forward(self, input: Tensor) -> Tensor:
        """Normalise the axes of normalized_shape, the last ones; the shape stays."""
        return F.layer_norm(input, self.normalized_shape, self.weight, self.bias, self.eps)


# --- without ---


class _DropoutNd(Applied, function=F.dropout):
    """Base of the dropouts. Raises ValueError for a probability p outside [0, 1]; without effect in evaluation."""

    def __init__(self, p: float = 0.5, inplace: bool = False) -> None:
        self._set_up(locals())
        if not 0 <= self.p <= 1:
            raise ValueError(f"{type(self).__name__}: p={self.p}; a probability lies between 0 and 1")

    def forward(self, input: Tensor) -> Tensor:
        return self._function(input, self.p, self.training, self.inplace)

    def extra_repr(self) -> str:
        return f"p={self.p}, inplace={self.inplace}"


# fmt: off
class Dropout(_DropoutNd, function=F.dropout): ...
class Dropout1d(_DropoutNd, function=F.dropout1d): ...
class Dropout2d(_DropoutNd, function=F.dropout2d): ...
class Dropout3d(_DropoutNd, function=F.dropout3d): ...
class AlphaDropout(_DropoutNd, function=F.alpha_dropout): ...
# fmt: on


class Bilinear(Module):
    """Compute x1 @ weight[o] @ x2 + bias[o]: (..., in1_features), (..., in2_features) -> (..., out_features).

    weight (out_features, in1_features, in2_features) and bias are initialised uniformly in ± 1 / sqrt(in1_features).
    As torch.nn.Bilinear.

    >>> nn.Bilinear(2, 3, 4)(ta.ones(5, 2), ta.ones(5, 3)).shape
    (5, 4)
    """

    _shown = "in1_features={0.in1_features}, in2_features={0.in2_features}, out_features={0.out_features}, bias={bias}"
    bias: Parameter | None

    def __init__(
        self,
        in1_features: int,
        in2_features: int,
        out_features: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        self.in1_features, self.in2_features, self.out_features = in1_features, in2_features, out_features
        shape = (out_features, in1_features, in2_features)
        self._add_parameters(device, dtype, weight=shape, bias=out_features if bias else None)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Draw new initial values."""
        bound = 1 / math.sqrt(max(self.in1_features, 1))
        for parameter in self.parameters():
            init.uniform_(parameter, -bound, bound)

    def forward(self, input1: Tensor, input2: Tensor) -> Tensor:
        """Combine (..., in1_features) and (..., in2_features) to (..., out_features)."""
        return F.bilinear(input1, input2, self.weight, self.bias)


class Identity(Module):
    """Return the input; all arguments of the constructor are ignored. As torch.nn.Identity.

    >>> nn.Identity(54, unused=True)(ta.ones(2)).tolist()
    [1.0, 1.0]
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__()

    def forward(self, input: Tensor) -> Tensor:
        """Return the input itself."""
        return input
