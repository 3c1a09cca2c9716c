"""Loss functions: classes (cross-entropy) and numbers (squared and absolute error)."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from tinyattn import backends
from tinyattn.engine.operation import operation
from tinyattn.engine.variable import Tensor
from tinyattn.ops import creation
from tinyattn.ops.activations import logsigmoid
from tinyattn.ops.choices import masked_fill
from tinyattn.ops.copies import cast
from tinyattn.ops.elementwise import abs as _abs
from tinyattn.ops.elementwise import square
from tinyattn.ops.indexing import check_indices
from tinyattn.ops.promotion import floating, opmath
from tinyattn.ops.shape import reshape_result
from tinyattn.ops.softmaxes import log_softmax
from tinyattn.ops.synonyms import older_reduction


def _reduce(losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return losses.mean()
    if reduction == "sum":
        return losses.sum()
    if reduction == "none":
        return losses
    raise ValueError(f"reduction={reduction!r}; expected 'mean', 'sum' or 'none'")


# --- classes ---


def _picked(xp: Any, rows: Any, target: Any) -> Any:
    """Pick the target's element of each row: (rows, classes), (rows,) -> (rows,)."""
    n = target.shape[0]
    return xp.reshape(xp.gather(rows, 1, xp.reshape(target, (n, 1))), (n,))


@operation(
    traits="valley",
    definition=lambda xp, x, target: -_picked(xp, xp.log_softmax(x, 1), target),
    fresh=True,
    # (softmax(x) - one_hot(target)) g, in one kernel on a GPU
    backward=lambda xp, g, x, target: (xp.cross_entropy_backward(g, x, target), None),
)
def _cross_entropy(xp: Any, x: Any, target: Any) -> Any:
    return xp.cross_entropy(x, target)


@older_reduction("ignore_index")
@opmath
def cross_entropy(
    input: Tensor,
    target: Any,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Compute -log softmax(input)[target], the negative log-likelihood of the target classes.

    input: scores (classes,), (batch, classes) or (batch, classes, ...). target: class numbers, of the input's shape
    without the class axis, or probabilities, of the input's shape. weight: one factor a class, (classes,).
    ignore_index: targets of this number give zero loss and gradient. reduction: "mean" (divided by the summed
    weights of the targets not ignored; NaN if there are none), "sum" or "none"; size_average and reduce are its older
    names. label_smoothing: the share of the target probability that is spread evenly over all classes, 0 to 1.
    Raises ValueError for shapes that do not fit, TypeError for targets of another dtype, IndexError for a class out of
    range. As torch.nn.functional.cross_entropy.

    Example:
        >>> scores, classes = ta.tensor([[2.0, 0.0], [0.0, 0.0]]), ta.tensor([0, 1])
        >>> ta.cross_entropy(scores, classes, reduction="none")
        tensor([0.1269, 0.6931])
    """
    target = creation.as_tensor(target)
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: label_smoothing={label_smoothing}; expected 0 to 1")
    if target.dtype.kind == "f":
        if ignore_index >= 0:
            raise RuntimeError(f"cross_entropy: ignore_index={ignore_index} with probabilities as targets, not classes")
        return _soft_cross_entropy(input, target, weight, reduction, label_smoothing)
    rows, labels, shape = _class_rows("cross_entropy", input, target, weight)
    safe, ignored = _without_ignored("cross_entropy", labels, ignore_index, rows.shape[1])
    losses = _cross_entropy(*floating(rows), safe)
    if label_smoothing == 0:
        return _weighted(losses, safe, ignored, weight, reduction, shape)
    log_p = log_softmax(rows, 1)
    spread = -(log_p if weight is None else log_p * weight).sum(1) / rows.shape[1]  # (rows,)
    hard = losses if weight is None else losses * weight[safe]
    mixed = hard * (1 - label_smoothing) + spread * label_smoothing
    mixed = mixed if ignored is None else masked_fill(mixed, ignored, 0.0)
    if reduction == "mean":
        return mixed.sum() / _counted(mixed, safe, ignored, weight)
    return _reduce(reshape_result(mixed, shape), reduction)


def _soft_cross_entropy(input: Tensor, target: Tensor, weight: Any, reduction: str, smoothing: float) -> Tensor:
    if target.shape != input.shape:
        raise RuntimeError(
            f"cross_entropy: probabilities of shape {tuple(target.shape)} for scores of shape {tuple(input.shape)}; "
            "they must be equal (class numbers must be integers)"
        )
    dim = 0 if input.ndim == 1 else 1
    classes = input.shape[dim]
    mixed: Any = target * (1 - smoothing) + smoothing / max(classes, 1) if smoothing else target
    terms = -log_softmax(input, dim) * mixed
    if weight is not None:
        terms = terms * weight.reshape(-1, *(1 for _ in input.shape[dim + 1 :]))
    losses = terms.sum(dim)
    if reduction == "mean":  # over samples, not over weights
        return losses.sum() / max(losses.numel(), 1) if losses.numel() else losses.mean()
    return _reduce(losses, reduction)


def _nll_rule(xp: Any, g: Any, x_shape: tuple[int, ...], target: Any) -> Any:
    return xp.ungather(xp.reshape(-g, (-1, 1)), 1, xp.reshape(target, (-1, 1)), x_shape)


@operation(traits="chooses", fresh=True, x=_nll_rule)
def _nll(xp: Any, x: Any, target: Any) -> Any:
    return -_picked(xp, x, target)


@older_reduction("ignore_index")
@opmath
def nll_loss(
    input: Tensor, target: Any, weight: Tensor | None = None, ignore_index: int = -100, reduction: str = "mean"
) -> Tensor:
    """Compute -input[target] of log-probabilities; other arguments as `cross_entropy`. As torch.nn.functional.nll_loss.

    Example:
        >>> ta.nll_loss(ta.tensor([[-0.5, -1.0]]), ta.tensor([1]))
        tensor(1.)
    """
    rows, labels, shape = _class_rows("nll_loss", input, creation.as_tensor(target), weight)
    safe, ignored = _without_ignored("nll_loss", labels, ignore_index, rows.shape[1])
    losses = _nll(rows, safe) if rows.shape[0] else rows.sum(1)
    return _weighted(losses, safe, ignored, weight, reduction, shape)


def _class_rows(name: str, input: Tensor, target: Tensor, weight: Any) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Return the scores as (rows, classes), the labels as (rows,), and the labels' original shape."""
    scores, shape = input.array.shape, target.array.shape
    axis = 0 if len(scores) == 1 else 1
    expected = scores[:axis] + scores[axis + 1 :]
    if len(scores) == 1 and shape == (1,):  # PyTorch takes that for one number, too
        shape = ()
    if not scores or shape != expected:
        raise ValueError(
            f"{name}: scores of shape {scores} (axis {axis} holds the classes) need class numbers of shape "
            f"{expected if scores else '(batch,)'}, got {shape}"
        )
    if target.dtype.kind not in "iu":
        raise TypeError(f"{name}: class numbers have dtype {target.dtype}; expected integers")
    classes = scores[axis]
    if weight is not None and tuple(weight.shape) != (classes,):
        raise ValueError(f"{name}: weight has shape {tuple(weight.shape)}; expected one number a class, ({classes},)")
    rows = input if input.ndim == 2 else input.movedim(axis, -1).reshape(target.numel(), classes)
    return rows, target if target.ndim == 1 else target.reshape(-1), shape


@backends.keeps_gpu
def _without_ignored(name: str, labels: Tensor, ignore_index: int, classes: int) -> tuple[Tensor, Any]:
    """Return the labels with class 0 instead of those ignored, and where these are: None if nowhere. (On a GPU that is
    not looked up, since reading it would synchronise.)"""
    ignored = None
    if backends.of(labels.array).perhaps(lambda: labels.array == ignore_index):
        ignored = labels == ignore_index
        labels = masked_fill(labels, ignored, 0)
    check_indices(name, labels.array, classes, "class")
    return labels, ignored


def _weighted(losses: Tensor, safe: Tensor, ignored: Any, weight: Any, reduction: str, shape: Any) -> Tensor:
    """Apply the class weights, zero the ignored losses, and reduce."""
    if weight is None and ignored is None:
        return _reduce(losses if losses.shape == shape else reshape_result(losses, shape), reduction)
    if weight is not None:
        losses = losses * weight[safe]
    losses = losses if ignored is None else masked_fill(losses, ignored, 0.0)
    if reduction == "mean":
        return losses.sum() / _counted(losses, safe, ignored, weight)
    return _reduce(reshape_result(losses, shape), reduction)


def _counted(losses: Tensor, safe: Tensor, ignored: Any, weight: Any) -> Any:
    """The number of the losses not ignored, or the sum of their classes' weights."""
    if weight is None:
        return losses.numel() if ignored is None else cast(~ignored, losses.dtype).sum()
    return (weight[safe] if ignored is None else cast(~ignored, losses.dtype) * weight[safe]).sum()


def one_hot(tensor: Any, num_classes: int = -1) -> Tensor:
    """Encode class numbers (...) as int64 vectors (..., num_classes), 1 at the class and 0 elsewhere.

    num_classes=-1: the largest class number plus one. Raises TypeError for numbers that are not integers,
    IndexError for one out of range. As torch.nn.functional.one_hot.

    Example:
        >>> ta.one_hot(ta.tensor([2, 0]), 3)
        tensor([[0, 0, 1],
                [1, 0, 0]])
    """
    index = creation.as_tensor(tensor)
    if index.dtype.kind not in "iu":
        raise TypeError(f"one_hot: class numbers have dtype {index.dtype}; expected integers")
    if num_classes == -1:
        if not index.numel():
            raise ValueError("one_hot: num_classes=-1 needs at least one class number; give num_classes")
        num_classes = int(index.max().item()) + 1
    if num_classes < 1:
        raise ValueError(f"one_hot: num_classes={num_classes}; expected at least 1")
    check_indices("one_hot", index.array, num_classes, "class")
    classes = creation.arange(num_classes, device=index.device)
    return cast(index.reshape(*index.shape, 1) == classes, "int64")


# --- numbers ---


def shaped(name: str, target: Any, input: Tensor) -> Tensor:
    """The target as a tensor. Raises ValueError if it has another shape than the input."""
    target = creation.as_tensor(target)
    if target.shape != input.shape:
        raise ValueError(f"{name}: target {tuple(target.shape)} and input {tuple(input.shape)} must have one shape")
    return target


def like(name: str, target: Any, input: Tensor) -> Tensor:
    """The target as a tensor, with a warning if broadcasting it would compare each number with others."""
    target = creation.as_tensor(target)
    if target.shape != input.shape:
        warnings.warn(
            f"{name}: target {tuple(target.shape)} is broadcast to input {tuple(input.shape)}; usually both have one "
            "shape",
            UserWarning,
            stacklevel=5,
        )
    return target


@older_reduction()
@opmath
def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: str = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Compute -(t log s(x) pos_weight + (1 - t) log(1 - s(x))) weight, with s the sigmoid, without overflow.

    input: logits x. target: probabilities t, of the same shape. weight, pos_weight: broadcast to it. As
    torch.nn.functional.binary_cross_entropy_with_logits.

    Example:
        >>> F.binary_cross_entropy_with_logits(ta.tensor([0.0]), ta.tensor([1.0]))
        tensor(0.6931)
    """
    target = shaped("binary_cross_entropy_with_logits", target, input)
    negative = -logsigmoid(-input)  # -log(1 - s(x)), as s(-x) = 1 - s(x)
    positive = logsigmoid(input)
    if pos_weight is not None:
        positive = positive * pos_weight
    losses = (1 - target) * negative - target * positive
    if target.dtype.kind == "f":  # PyTorch's result has the target's dtype
        losses = cast(losses, target.dtype)
    return _reduce(losses if weight is None else losses * weight, reduction)


def pair(name: str, input: Tensor, target: Any) -> tuple[Tensor, Tensor]:
    """Both as floats; a 0-d one counts as much for the dtype as one with axes, as in PyTorch."""
    target = like(name, target, input)
    if "f" not in input.dtype.kind + target.dtype.kind:  # a difference of uint8 would wrap around
        input, target = floating(input, target)
    input, target = (x.to(y.dtype) if x.dtype.kind == "b" else x for x, y in ((input, target), (target, input)))
    if input.dtype != target.dtype:
        return input.reshape(input.shape or (1,) * target.ndim), target.reshape(target.shape or (1,) * input.ndim)
    return input, target


def paired(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Give a loss input and target as `pair` returns them, and compute float16 in float32."""
    computed = opmath(function)

    @functools.wraps(function)
    def call(input: Tensor, target: Any, *args: Any, **options: Any) -> Tensor:
        return computed(*pair(function.__name__, input, target), *args, **options)

    return call


@older_reduction()
@paired
def mse_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """Compute (input - target) ** 2 and reduce it ("mean", "sum" or "none"). As torch.nn.functional.mse_loss.

    Example:
        >>> ta.mse_loss(ta.tensor([1.0, 2.0]), ta.tensor([1.0, 4.0]))
        tensor(2.)
    """
    return _reduce(square(input - target), reduction)


@opmath
def _absolute_error(input: Tensor, target: Tensor, reduction: str) -> Tensor:
    return _reduce(_abs(input - target), reduction)


@older_reduction()
def l1_loss(input: Tensor, target: Any, reduction: str = "mean") -> Tensor:
    """Compute |input - target| and reduce it ("mean", "sum" or "none"). As torch.nn.functional.l1_loss.

    Example:
        >>> ta.l1_loss(ta.tensor([1.0, 2.0]), ta.tensor([1.0, 4.0]))
        tensor(1.)
    """
    target = creation.as_tensor(target)
    if input.dtype.kind in "iu" and target.dtype.kind in "iu":  # 0 - 1 is 255 in uint8
        exact = _abs(cast(input, "int64") - cast(like("l1_loss", target, input), "int64"))
        return _reduce(cast(exact, np.promote_types(input.dtype, target.dtype)), reduction)  # a 0-d one counts too
    return _absolute_error(*pair("l1_loss", input, target), reduction)
