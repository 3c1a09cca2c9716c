"""PyTorch's own sample inputs for every operation both engines have."""

from __future__ import annotations

import itertools
import warnings
from typing import Any

import gpus
import pytest
import torch
from oracle import compare, to_ours
from torch.testing._internal.common_methods_invocations import op_db

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn.compat import functions, layers, matrices

ON_EVERY_DEVICE = True

NAMES = """
    add sub mul div neg pow abs exp log log1p expm1 sqrt rsqrt reciprocal square sin cos tanh sigmoid erf clamp
    floor_divide remainder bitwise_and bitwise_or bitwise_xor bitwise_not
    maximum minimum where masked_fill eq ne lt le gt ge logical_not logical_and logical_or sign isfinite
    sum mean var std var_mean std_mean amax amin max min prod logsumexp cumsum argmax argmin
    reshape view flatten transpose permute expand broadcast_to squeeze unsqueeze cat stack split chunk unbind
    flip roll tril triu movedim index_select gather matmul mm bmm outer einsum softmax log_softmax clone
    zeros ones full arange eye zeros_like ones_like full_like
    acos addcdiv addcmul addmm addmv allclose argsort argwhere asin atan atan2 baddbmm bincount bucketize cdist ceil
    clamp_max clamp_min column_stack cosh count_nonzero cumprod diag diag_embed diagonal dot dstack equal expand_as
    fliplr flipud floor fmod frac hstack index_add index_copy index_fill isclose isinf isnan lerp log10 log2 logical_xor
    masked_scatter masked_select median meshgrid mv nan_to_num narrow nonzero norm repeat repeat_interleave round
    scatter scatter_add searchsorted select sinh sort take take_along_dim tan tensor_split tile topk trace trunc unflatten
    unique vstack view_as reshape_as any all new_zeros new_ones new_full swapaxes moveaxis isfinite unfold
    linalg.vector_norm nn.functional.normalize nn.functional.cosine_similarity nn.functional.pairwise_distance
    contiguous aminmax bitwise_left_shift bitwise_right_shift broadcast_shapes broadcast_tensors cartesian_prod cross diff
    erfinv exp2 histc index_put inner isin linspace logaddexp logit nanmean nansum put ravel std t tensordot
    tril_indices triu_indices split_with_sizes sum_to_size __rlshift__ __rrshift__
    atan2 argmin clamp true_divide
    acosh asinh atanh atleast_1d atleast_2d atleast_3d block_diag combinations copysign cummax cummin deg2rad diagflat
    diagonal_scatter dsplit fmax fmin heaviside hsplit hypot isneginf isposinf kron kthvalue
    linalg.multi_dot linalg.qr linalg.solve linalg.inv matrix_exp dist addr addbmm nn.functional.local_response_norm nn.functional.channel_shuffle logaddexp2 logcumsumexp mode nanmedian nanquantile nn.functional.embedding_bag
    nn.functional.multi_margin_loss nn.functional.multilabel_margin_loss nn.functional.multilabel_soft_margin_loss
    nn.functional.multi_margin_loss nn.functional.multilabel_margin_loss nn.functional.multilabel_soft_margin_loss
    quantile rad2deg rot90 scatter_reduce select_scatter sgn signbit sinc slice_scatter trapezoid trapz
    unique_consecutive vander corrcoef vsplit xlogy chain_matmul
    __getitem__ __radd__ __rmul__ __rsub__ __rdiv__ __rpow__ __rmatmul__ __rmod__ __rand__ __ror__ __rxor__
    nn.functional.pad nn.functional.relu nn.functional.gelu nn.functional.silu nn.functional.softplus
    nn.functional.logsigmoid nn.functional.linear nn.functional.embedding nn.functional.cross_entropy
    nn.functional.nll_loss nn.functional.binary_cross_entropy_with_logits nn.functional.mse_loss
    nn.functional.l1_loss nn.functional.layer_norm nn.functional.one_hot
    nn.functional.scaled_dot_product_attention nn.functional.conv1d nn.functional.conv2d
    nn.functional.conv_transpose1d nn.functional.conv_transpose2d nn.functional.unfold nn.functional.fold
    nn.functional.batch_norm nn.functional.group_norm nn.functional.instance_norm nn.functional.rms_norm
    nn.functional.adaptive_avg_pool1d nn.functional.adaptive_avg_pool2d nn.functional.adaptive_max_pool1d nn.functional.adaptive_max_pool2d
    nn.functional.avg_pool1d nn.functional.avg_pool2d nn.functional.max_pool1d nn.functional.max_pool2d
    nn.functional.conv3d nn.functional.conv_transpose3d nn.functional.avg_pool3d nn.functional.max_pool3d nn.functional.adaptive_avg_pool3d nn.functional.adaptive_max_pool3d
    nn.functional.relu6 nn.functional.leaky_relu nn.functional.elu nn.functional.selu nn.functional.mish
    nn.functional.hardswish nn.functional.hardtanh nn.functional.prelu nn.functional.glu
    nn.functional.softsign nn.functional.tanhshrink nn.functional.hardshrink nn.functional.softshrink nn.functional.threshold
    nn.functional.softmin
    nn.functional.huber_loss nn.functional.smooth_l1_loss nn.functional.gaussian_nll_loss nn.functional.poisson_nll_loss
    nn.functional.binary_cross_entropy nn.functional.kl_div nn.functional.cosine_embedding_loss
    nn.functional.margin_ranking_loss nn.functional.hinge_embedding_loss nn.functional.soft_margin_loss
    nn.functional.triplet_margin_loss
    logspace
    nn.functional.interpolate nn.functional.pixel_shuffle nn.functional.pixel_unshuffle nn.functional.bilinear
""".split()
COMPAT = {  # what only models written for PyTorch use
    **functions.FUNCTIONS, **matrices.METHODS, "polygamma": lambda x, n: functions.polygamma(n, x),
    **{f"linalg.{name}": function for name, function in matrices.LINALG.items()},
    **{f"nn.functional.{name}": function for name, function in [*layers.FUNCTIONAL.items(), ("pdist", functions.pdist)]},
}  # fmt: skip
NAMES += """
    digamma erfc lgamma renorm index_reduce float_power msort rsub cholesky logdet pinverse linalg.cholesky linalg.det
    linalg.eigvalsh linalg.matrix_norm linalg.pinv linalg.slogdet linalg.svdvals nn.functional.max_unpool1d
    nn.functional.max_unpool2d nn.functional.max_unpool3d nn.functional.pdist
""".split()
LESS_EXACT = (
    "nn.functional.scaled_dot_product_attention",
    "nn.functional.binary_cross_entropy",
    "digamma",  # of 1e-9 there
)  # in PyTorch, their second derivatives
ROUGH_32 = ("logcumsumexp",)  # its gradient in PyTorch's float32: 3e-3 off beside 10000, where ours is 2e-7 off
VALUES = ("topk", "kthvalue", "mode")  # which of equal elements is named is nobody's rule
OPS = [
    op
    for op in op_db
    if op.name in NAMES
    and op.variant_test_name not in ("triton_optimized", "complex", "nuc", "without_cudnn", "singular", "hermitian")
]


def theirs(op: Any) -> Any:
    """PyTorch's function, in the form in which its answer is the only right one."""
    if op.name in ("sort", "argsort"):  # equal elements keep their order
        return lambda x, *args, **options: op.op(
            x, **{**dict(zip(("dim", "descending"), args, strict=False)), **options, "stable": True}
        )
    if op.name == "matrix_exp":  # in float32, PyTorch's is off by 0.002 of an element beside elements of 100,000
        return lambda x: op.op(x.double()).to(x.dtype)
    return (lambda *args, **options: op.op(*args, **options).values) if op.name in VALUES else op.op


def ours(name: str) -> Any:
    """Our function, with its arguments in the order in which PyTorch's samples give them."""
    if name == "where":
        return lambda x, condition, other: ta.where(condition, x, other)
    if name == "einsum":
        return lambda operands, equation: ta.einsum(equation, *operands)
    if name in ("nn.functional.embedding", "nn.functional.embedding_bag"):
        look_up = getattr(F, name.removeprefix("nn.functional."))
        return lambda weight, index, **options: look_up(index, weight, **options)
    if name in VALUES:
        return lambda *args, **options: getattr(ta, name)(*args, **options).values
    if name.startswith("__"):
        method = {"__rdiv__": "__rtruediv__"}.get(name, name)
        return lambda x, *args: getattr(x, method)(*args)
    if name in COMPAT:
        return COMPAT[name]
    if name.startswith("linalg."):
        return getattr(ta.linalg, name.removeprefix("linalg."))
    if not name.startswith("nn.") and not hasattr(ta, name):
        return lambda x, *args, **options: getattr(x, name)(*args, **options)
    return getattr(F, name.removeprefix("nn.functional.")) if name.startswith("nn.") else getattr(ta, name)


MANY = """
    unique unique_consecutive quantile nanquantile combinations scatter_reduce nn.functional.embedding_bag
    nn.functional.max_pool1d nn.functional.max_pool2d nn.functional.gaussian_nll_loss nn.functional.interpolate
    nn.functional.max_unpool2d nn.functional.max_unpool3d nn.functional.max_pool3d linalg.matrix_norm logspace diff cdist
""".split()  # hundreds of samples each, or large ones


@pytest.mark.parametrize(
    "dtype", [torch.float64, pytest.param(torch.float32, marks=pytest.mark.slow)], ids=["float64", "float32"]
)
@pytest.mark.parametrize(
    "op",
    [pytest.param(op, marks=pytest.mark.slow) if op.name in MANY else op for op in OPS],
    ids=[f"{op.name}-{op.variant_test_name}".strip("-") for op in OPS],
)
def test_sample_inputs(op: Any, dtype: torch.dtype, device: str) -> None:
    if dtype not in op.supported_dtypes("cpu"):
        dtype = torch.int64
    torch.manual_seed(0)
    failures, count = [], 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        samples = list(op.sample_inputs("cpu", dtype, requires_grad=op.supports_autograd and dtype.is_floating_point))
    if device == "cuda" and gpus.FAKE:  # which takes a hundred times as long
        samples = samples[:: max(len(samples) // 30, 1)]
    for i, sample in enumerate(samples):
        if "memory_format" in sample.kwargs or "out" in sample.kwargs:
            continue
        if sample.kwargs.get("dropout_p"):
            continue  # another random stream
        kwargs = {k: v for k, v in sample.kwargs.items() if k not in ("layout", "pin_memory")}
        count += 1
        second = dtype is torch.float64 and op.supports_gradgrad and op.name not in LESS_EXACT
        try:
            orders = 0 if op.name in ROUGH_32 and dtype is torch.float32 else 2 if second else 1
            compare(ours(op.name), theirs(op), (sample.input, *sample.args), kwargs, orders=orders)
        except Exception as error:
            shown = [tuple(t.shape) if isinstance(t, torch.Tensor) else t for t in (sample.input, *sample.args)]
            failures.append(f"sample {i} {shown} {kwargs}: {type(error).__name__}: {str(error).strip()[:400]}")
    assert count, "no sample was run"
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(failures[:6])


NO_VIEWS = ("sum_to_size",)  # that of a number over nothing is the number


def tensors_in(results: Any) -> list[Any]:
    return [t for each in results for t in tensors_in(each)] if isinstance(results, list | tuple) else [results]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::UserWarning")  # PyTorch's, of what is deprecated
def test_results_share_the_memory_of_the_input_only_where_pytorchs_do(device: str) -> None:
    wrong, count, most = set(), 0, 5 if device == "cuda" and gpus.FAKE else 20
    for op in OPS:
        if op.name in NO_VIEWS or torch.float64 not in op.supported_dtypes("cpu"):
            continue
        for sample in itertools.islice(
            op.sample_inputs("cpu", torch.float64, requires_grad=op.supports_autograd), most
        ):
            if not isinstance(sample.input, torch.Tensor) or {"out", "memory_format", "layout"} & {*sample.kwargs}:
                continue
            x = sample.input.detach().clone()
            y = to_ours(x)
            its = theirs(op)(x, *sample.args, **sample.kwargs)
            mine = ours(op.name)(y, *map(to_ours, sample.args), **to_ours(sample.kwargs))
            for a, b in zip(tensors_in(its), tensors_in(mine), strict=True):
                if isinstance(a, torch.Tensor) and a.numel():
                    count += 1
                    shared = a.untyped_storage().data_ptr() == x.untyped_storage().data_ptr()
                    if shared != (y.storage is b.storage):
                        wrong.add(f"{op.name} {tuple(x.shape)} {sample.args} {sample.kwargs}: PyTorch's {shared}")
    assert count > 500 and not wrong, "\n".join(sorted(wrong))


def detached(x: Any) -> Any:
    """The same tensors as leaves: some of PyTorch's inputs are views of what requires the gradient."""
    if isinstance(x, torch.Tensor):
        return x.detach().requires_grad_(x.requires_grad)
    return type(x)(map(detached, x)) if isinstance(x, list | tuple) and not isinstance(x, torch.Size) else x


def rounds_up(a: torch.Tensor, b: torch.Tensor) -> bool:
    """Whether somewhere a / b is rounded up to an integer, so that it holds b one time more often than a does."""
    with torch.no_grad():
        return bool(((a - torch.fmod(a, b)) / b).round().ne((a / b).trunc()).any())


def not_ours(op: Any, inputs: Any, kwargs: Any) -> bool:
    """Whether PyTorch's answer is none for us: dtypes, dropout, methods of numbers, megabytes; below."""
    held = [t for t in inputs if isinstance(t, torch.Tensor)]
    whole = not any(t.is_floating_point() for t in held)
    return (
        any(isinstance(t, complex) or getattr(t, "dtype", None) in (torch.complex128, torch.bfloat16) for t in inputs)
        or bool(kwargs.get("dropout_p"))
        or (op.name.startswith("__") and not isinstance(inputs[0], torch.Tensor))
        or any(t.numel() > 20_000 for t in held)
        # fractions of integers, which PyTorch cuts to integers first: refused here, as by add()
        or (whole and any(isinstance(kwargs.get(name), float) for name in ("alpha", "beta")))
        # the gradient by the divisor, which PyTorch lacks, or (of fmod) counts by a quotient that rounds up to an integer
        or (op.name in ("remainder", "__rmod__") and held[-1].requires_grad)
        or (op.name == "fmod" and len(held) > 1 and held[1].requires_grad and rounds_up(*held))
        # outside of 0 to 1 there is no value, and infinities have no slope; a sum of booleans over nothing stays boolean
        or (op.name == "logit" and not ((inputs[0] > 0) & (inputs[0] < 1)).all())
        or (op.name in ("logaddexp", "copysign") and not all(t.isfinite().all() for t in held))
        # the gradient by the sign, which is 0
        or (op.name == "copysign" and held[-1].requires_grad and not held[0].requires_grad)
        # steps of integers, which PyTorch rounds before it cuts
        or (op.name in ("linspace", "logspace") and kwargs.get("dtype") == torch.int64)
        or (op.name == "sum_to_size" and inputs[0].dtype == torch.bool)
        # at 0 log 0, the slope by the second is 0 here and NaN in PyTorch
        or (op.name == "xlogy" and any(((inputs[0] == 0) & (t == 0)).any() for t in held[1:]))
        # a slice that was overwritten: its gradient is 0 here, and that of the last in PyTorch
        or (op.name == "index_copy" and inputs[2].numel() > inputs[2].unique().numel())
    )


# PyTorch's gradients at NaN depend on the place of the element in memory
NOT_AT_NAN = [f"nn.functional.{name}" for name in "elu hardshrink hardtanh prelu relu6 selu softshrink".split()]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, where + - * make infinities
@pytest.mark.parametrize("op", OPS, ids=[f"{op.name}-{op.variant_test_name}".strip("-") for op in OPS])
def test_reference_inputs(op: Any) -> None:
    """The larger set that PyTorch keeps for its references: infinities, NaN, integers, booleans, odd strides."""
    failures, count = [], 0
    for dtype in (torch.float64, torch.int64, torch.bool):
        if dtype not in op.supported_dtypes("cpu"):
            continue
        torch.manual_seed(0)
        gradients = dtype.is_floating_point and op.supports_autograd
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                samples = list(op.reference_inputs("cpu", dtype, requires_grad=gradients))
            except (RuntimeError, ValueError):
                continue  # some generators know floats alone
        for i, sample in enumerate(samples[:: max(len(samples) // 80, 1)]):
            inputs = (detached(sample.input), *detached(sample.args))
            kwargs = {k: v for k, v in sample.kwargs.items() if k not in ("layout", "pin_memory", "memory_format")}
            if not_ours(op, inputs, kwargs):
                continue
            if op.name in NOT_AT_NAN and gradients and inputs[0].isnan().any():
                inputs = (inputs[0].detach(), *inputs[1:])
            count += 1
            try:
                orders = 0 if op.name == "digamma" else 1  # its gradient beside SciPy's: test_pytorch_names.py
                compare(ours(op.name), theirs(op), inputs, kwargs, orders=orders)
            except Exception as error:
                failures.append(f"{dtype} sample {i}: {type(error).__name__}: {str(error).strip()[:400]}")
    assert count or op.name == "broadcast_shapes", "no sample was run"  # whose samples are no tensors
    assert not failures, f"{len(failures)} of {count}:\n" + "\n".join(failures[:6])
