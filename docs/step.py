"""A training step of the article's model: 114 calls of NumPy on 5,419,712 bytes."""

from __future__ import annotations

import math

import numpy as np
from numpy import (
    add, copyto, divide, equal, greater_equal, less, less_equal, logical_or, matmul, maximum, minimum, multiply,
    sqrt, subtract, take, tanh, vecdot,
)

memory = np.empty(5419776, np.uint8)
memory = memory[-memory.__array_interface__["data"][0] % 64 :]


def part(offset, shape, dtype="float32", strides=None, of=memory):
    """A part of the memory, whose values come and go: the same bytes have several names."""
    return np.ndarray(shape, dtype, of, offset, strides)

arrays = np.load(__file__.removesuffix(".py") + ".npz")
fc_bias = arrays['fc_bias']  # 10
fc_weight = arrays['fc_weight']  # 10x64
norm_bias = arrays['norm_bias']  # 64
norm_weight = arrays['norm_weight']  # 64
attention_hidden_bias = arrays['attention_hidden_bias']  # 1
attention_hidden_weight = arrays['attention_hidden_weight']  # 1x64
position = arrays['position']  # 784x64
embedding_weight = arrays['embedding_weight']  # 10x64
range_784 = np.arange(784, dtype='int64')  # 784
constant = arrays['constant']  # 10x10
ones_64 = np.ones((64,), 'float32')  # 64
range_64 = np.arange(64, dtype='int64')  # 64
ones_784 = np.ones((784,), 'float32')  # 784
range_7840 = np.arange(7840, dtype='int64')  # 7840
ones_2048 = np.ones((2048,), 'float32')  # 2048
ones_3 = np.ones((3,), 'float64')  # 3
ones_1696 = np.ones((1696,), 'float32')  # 1696
ones_128 = np.ones((128,), 'float32')  # 128
ones_6 = np.ones((6,), 'float64')  # 6
ones_16 = np.ones((16,), 'float32')  # 16
ones_10 = np.ones((10,), 'float32')  # 10
x0 = part(0, (64, 28, 28))
x1 = part(200704, (64,), 'int64')
d_fc_bias = part(56640, (10,))
d_fc_weight = part(73472, (10, 64))
d_norm_bias = part(76288, (64,))
d_norm_weight = part(76032, (64,))
d_attention_hidden_bias = part(45632, (1,))
d_attention_hidden_weight = part(45312, (1, 64))
d_position = part(312064, (784, 64))
d_embedding_weight = part(42752, (10, 64))
x0_2 = part(0, (64, 784))
a = part(201216, ())
b = part(201280, ())
ge = part(201344, (), 'bool')
le = part(201344, (), 'bool')
le_2 = part(201216, (), 'bool')
a_2 = part(201408, (64, 784))
index = part(402112, (64, 784), 'int64')
embedding_weight_2 = part(0, (10, 1, 64), of=embedding_weight)
add_2 = part(803520, (10, 784, 64))
b_2 = part(803520, (7840, 64))
attention_hidden_weight_T = part(0, (64, 1), strides=(4, 256), of=attention_hidden_weight)
attention_hidden_out = part(0, (7840, 1))
attention_hidden_x = part(0, (10, 784, 1))
reshape_2 = part(31360, (784,), 'int64')
reshape_3 = part(2810560, (64, 784), 'int64')
getitem = part(201216, (1, 64, 784), strides=(4, 3136, 4))
x = part(0, (1, 10, 784))
a_3 = part(3211968, (1, 64, 784))
low = part(37632, (), 'int64')
high = part(37696, (), 'int64')
softmax = part(37760, (), 'bool')
softmax_2 = part(37632, (), 'bool')
b_3 = part(3412672, (64, 784, 10))
a_4 = part(3211968, (64, 1, 784), strides=(3136, 200704, 4))
matmul_2 = part(37632, (64, 1, 10))
a_5 = part(37632, (1, 64, 10), strides=(40, 40, 4))
embedding_weight_3 = part(0, (1, 10, 64), strides=(256, 256, 4), of=embedding_weight)
a_6 = part(40192, (1, 64, 64))
position_2 = part(0, (1, 784, 64), strides=(256, 256, 4), of=position)
b_4 = part(56576, (1, 64, 64))
rows = part(40192, (64, 64))
norm_layer_norm = part(56576, (64,))
norm_means = part(56576, (64, 1))
norm_layer_norm_2 = part(56832, (64,))
norm_layer_norm_3 = part(56832, (64, 1), strides=(4, 0))
norm_y = part(57088, (64, 64))
fc_weight_T = part(0, (64, 10), strides=(4, 256), of=fc_weight)
fc_out = part(73472, (64, 10))
fc_a = part(56576, (64,), 'bool')
fc_linear = part(56640, (), 'bool')
fc_low = part(56576, (), 'int64')
fc_high = part(56640, (), 'int64')
fc_linear_2 = part(56704, (), 'bool')
fc_linear_3 = part(56576, (), 'bool')
x_2 = part(56576, (64,))
mean_2 = part(76032, (1,), 'float64')
mean_3 = part(56576, ())
mean_4 = part(76032, (), 'float64')
g = part(56640, ())
d__out = part(76032, (64, 10))
d__one_hot = part(73472, (64, 10), 'bool')
d__mean = part(56640, (64, 1), strides=(0, 0))
d_fc_u = part(78592, (64, 64))
d__a = part(76032, (10, 64), strides=(4, 40))
d__x = part(76032, (1, 64, 10), strides=(0, 40, 4))
d_fc_linear = part(56640, (1, 10))
d_norm_a = part(57088, (64, 64))
d_norm_layer_norm = part(76032, (64,))
d_norm_layer_norm_2 = part(76288, (64,))
d_norm_means = part(76288, (64, 1))
d_norm_layer_norm_3 = part(76032, (64, 1), strides=(4, 0))
d_norm_layer_norm_4 = part(94976, (64, 64))
d_norm_x = part(40192, (1, 64, 64), strides=(0, 256, 4))
d_norm_layer_norm_5 = part(76032, (1, 64))
d_fc_x = part(78592, (1, 64, 64), strides=(0, 256, 4))
d_norm_layer_norm_6 = part(76288, (1, 64))
d_norm_a_2 = part(94976, (1, 64, 64), strides=(256, 256, 4))
position_3 = part(0, (1, 64, 784), strides=(256, 4, 256), of=position)
d__total = part(111360, (1, 64, 784))
a_7 = part(3211968, (1, 784, 64), strides=(200704, 4, 3136))
d__matmul = part(312064, (1, 784, 64))
embedding_weight_4 = part(0, (1, 64, 10), strides=(256, 4, 256), of=embedding_weight)
d__matmul_2 = part(40192, (1, 64, 10))
a_8 = part(37632, (1, 10, 64), strides=(40, 4, 40))
d__matmul_3 = part(42752, (1, 10, 64))
d__a_2 = part(40192, (64, 1, 10), strides=(40, 2560, 4))
b_5 = part(3412672, (64, 10, 784), strides=(31360, 4, 40))
d__matmul_4 = part(512768, (64, 1, 784))
d__g = part(512768, (1, 64, 784), strides=(3136, 3136, 4))
d__softmax = part(512768, (1, 64, 784))
d__x_2 = part(512768, (64, 784))
d__out_2 = part(37632, (64,))
d__softmax_2 = part(37632, (1, 64, 1))
d__getitem = part(76544, (1, 10, 784))
d__getitem_2 = part(3412672, (1, 64, 784), 'int64', strides=(8, 6272, 8))
range_7840_2 = part(0, (1, 10, 784), 'int64', of=range_7840)
d__g_2 = part(76544, (10, 784, 1))
d__a_3 = part(76544, (7840, 1))
d_attention_hidden_linear = part(2810560, (7840, 64))
d__a_4 = part(76544, (1, 7840), strides=(4, 4))
d__tanh = part(76544, (1, 3, 2048))
d_attention_hidden_parts = part(45568, (1, 3))
d_attention_hidden_x = part(45632, (1, 3), 'float64')
d_attention_hidden_out = part(45568, (1,), 'float64')
d__x_3 = part(101120, (1, 1696), strides=(0, 4))
d_attention_hidden_out_2 = part(45632, (1,))
d_attention_hidden_linear_2 = part(45696, (1,), 'float64')
d_attention_hidden_linear_3 = part(45568, (1,), 'float64', strides=(0,))
d_attention_hidden_linear_4 = part(2810560, (10, 6, 128, 64), strides=(200704, 32768, 256, 4))
d__chains = part(56704, (10, 6, 64))
d__x_4 = part(0, (10, 6, 64), 'float64')
d__out_3 = part(45696, (10, 64), 'float64')
d_attention_hidden_x_2 = part(3007168, (10, 16, 64), strides=(200704, 256, 4))
d__add = part(50816, (10, 64))
d__add_2 = part(56704, (10, 64), 'float64')
d__g_3 = part(50816, (10, 64))
d_attention_hidden_x_3 = part(2810560, (1, 10, 50176))
d__add_3 = part(76544, (1, 50176))
d__g_4 = part(76544, (784, 64))
n_9 = np.array(9, 'float32')
n_0_5 = np.array(0.5, 'float32')
n_64 = np.array(64, 'float32')
n_0_00064 = np.array(0.00064, 'float32')
n_8 = np.array(8.0, 'float32')
n_64_2 = np.array(64.0, 'float64')
n_1 = np.array(1.0, 'float32')
n_0_015625 = np.array(0.015625, 'float32')
n_minus_64 = np.array(-64, 'float32')
n_1_2 = np.array(1, 'float32')


class Changed(Exception):
    """The data takes another branch than in the step that was recorded."""

LEAST = 0.001
SAFE = 1e+25

def _top(x: Array, dim: int) -> Array:
    if x.ndim == 0:
        return x
    if x.size == 0:
        return np.max(x, axis=dim, keepdims=True, initial=-np.inf)
    return np.max(x, axis=dim, keepdims=True)

_LONG = 2048

def _ones(n: int, dtype: Any) -> Array:
    ones = np.ones(n, dtype)
    ones.flags.writeable = False
    return ones

_CHAIN = 128
_LONG_WIDE = 256

def _rows(x: Array) -> Array:
    """(..., n) -> (...,), in float64."""
    n, longest = x.shape[-1], _LONG_WIDE if x.dtype == np.float64 else _LONG
    if n <= longest:
        out = x @ _ones(n, x.dtype) if n <= _CHAIN and x.ndim == 2 else np.vecdot(x, _ones(n, x.dtype))
        return out.astype(np.float64, copy=False)
    cut = n // longest * longest
    parts = np.vecdot(x[..., :cut].reshape(*x.shape[:-1], -1, longest), _ones(longest, x.dtype))
    out = _rows(parts.astype(np.float64, copy=False))
    return out + _rows(x[..., cut:]) if cut < n else out


def row_sums(x: Array) -> Array:
    """(..., width) -> (..., 1)"""
    if x.size == 0:
        return np.zeros((*x.shape[:-1], 1), x.dtype)
    rows = x.reshape(-1, x.shape[-1])
    sums = rows @ _ones(rows.shape[1], x.dtype) if rows.shape[1] <= _LONG else _rows(rows).astype(x.dtype)
    return sums.reshape(*x.shape[:-1], 1)

BLOCK = 262144

def rows_at_once(width: int) -> int:
    """How many rows of `width` elements make a block."""
    return max(BLOCK // max(width, 1), 1)


def rows_(count: int, width: int) -> Iterator[slice]:
    """Slices of `count` rows, each `width` elements long."""
    step = rows_at_once(width)
    return (slice(start, start + step) for start in range(0, count, step))


def _softmax_of_rows(x: Array) -> Array:
    out = np.empty_like(x)
    xs, ys = (a.reshape(-1, x.shape[-1]) for a in (x, out))
    for part in rows_(*xs.shape):
        y = np.exp(xs[part], out=ys[part])
        total = row_sums(y)
        if not (total.min() > LEAST and total.max() < SAFE):
            np.exp(xs[part] - _top(xs[part], 1), out=y)
            total = row_sums(y)
        y *= np.reciprocal(total, out=total)
    return out


def row_dots(a: Array, b: Array) -> Array:
    """(rows, width) (rows, width) -> (rows,); the sums of products, in float64 if the rows are long."""
    rows, width = a.shape
    if width <= _LONG:
        return np.vecdot(a, b)
    cut = width // _LONG * _LONG
    parts = np.vecdot(*(each[:, :cut].reshape(rows, -1, _LONG) for each in (a, b)))
    out = _rows(parts.astype(np.float64, copy=False))
    return out + np.vecdot(a[:, cut:], b[:, cut:]) if cut < width else out


def row_means(x: Array) -> Array:
    """(rows, width) -> (rows, 1)"""
    means = row_sums(x)
    means /= x.shape[1]
    return means


def _center_again(h: Array, r: Array, means: Array) -> None:
    """Subtract the mean that is left, a rounding error of the first, where it is all there is of a constant row.

    The error is a few roundings of the mean, so it needs no look where all means are below two standard deviations.
    """
    width = h.shape[1]
    if not (np.square(means[:, 0]) * (width / 4) > r).any():
        return
    rest = row_means(h)
    if (np.square(rest[:, 0]) * width > r * (8 * np.finfo(h.dtype).eps) ** 2).any():
        h -= rest
        r[...] = row_dots(h, h)


def axes_of(x: Array, dim: Dim) -> tuple[int, ...]:
    """`dim` as non-negative integers; None: all axes."""
    ndim = x.ndim
    dims = range(ndim) if dim is None else (dim,) if isinstance(dim, int) else dim
    return tuple([d % ndim for d in dims]) if ndim else ()


def _of_dtype(wide: Array, x: Array, dim: Dim, keepdim: bool) -> Array:
    """A reduction of `x` over `dim` in float64, rounded to its dtype."""
    return wide.astype(x.dtype) if keepdim else wide.squeeze(axes_of(x, dim)).astype(x.dtype)

_NARROW = 64
_MANY = 64
_SHORT = 256
_WIDE = 1024

def _middle(x: Array) -> Array:
    """(outer, n, inner) -> (outer, inner), in float64."""
    outer, n, inner = x.shape
    if inner == 1:
        return _rows(x[..., 0])[:, None]
    if n <= _CHAIN:
        if outer > _MANY and n * inner < _SHORT:  # many products, each too small to be worth a call
            return _rows(np.ascontiguousarray(x.swapaxes(1, 2)).reshape(-1, n)).reshape(outer, inner)
        return np.matmul(_ones(n, x.dtype), x).astype(np.float64, copy=False)
    side = min(_WIDE // inner, n // _CHAIN) if inner < _NARROW else 1
    if side > 1:  # several rows beside each other
        cut = n // side * side
        wide = _middle(x[:, :cut].reshape(outer, -1, side * inner))
        out = _middle(wide.reshape(outer, side, inner))
    else:
        cut = n // _CHAIN * _CHAIN
        chains = np.matmul(_ones(_CHAIN, x.dtype), x[:, :cut].reshape(outer, -1, _CHAIN, inner))
        out = _middle(chains.astype(np.float64, copy=False))
    return out + _middle(x[:, cut:]) if cut < n else out


def _dense(x: Array, added: tuple[int, ...]) -> Array:
    """The sum of a contiguous array over the axes `added`, which stay with size 1, in float64."""
    shape = [1 if d in added else n for d, n in enumerate(x.shape)]
    groups: list[list[int]] = []  # [size, whether it is added up]: neighbours of one kind are one axis
    for d, n in enumerate(x.shape):
        if n == 1:
            continue
        if groups and groups[-1][1] == (d in added):
            groups[-1][0] *= n
        else:
            groups.append([n, d in added])
    inner = 1
    for n, reduced in reversed(groups):
        if reduced:
            x = _middle(x.reshape(-1, n, inner))
        else:
            inner *= n
    return x.reshape(shape).astype(np.float64, copy=False)

_FEW = 1024
_FEW_WIDE = 64

def _few(x: Array) -> int:
    return _FEW_WIDE if x.dtype == np.float64 else _FEW


def _in_memory_order(x: Array, axes: tuple[int, ...]) -> tuple[list[int], Array, tuple[int, ...]]:
    """The axes from the largest stride to the smallest, `x` transposed so, and where `axes` are then."""
    order = sorted(range(x.ndim), key=lambda d: -abs(x.strides[d]))
    return order, x.transpose(order), tuple(i for i, d in enumerate(order) if d in axes)

_PIECE = 65536

def _parts(shape: tuple[int, ...]) -> Iterator[tuple[slice, ...]]:
    if not shape:
        yield ()
        return
    rest = math.prod(shape[1:])
    step = max(_PIECE // max(rest, 1), 1)
    for start in range(0, shape[0], step):
        for tail in _parts(shape[1:]) if rest > _PIECE else [tuple(slice(n) for n in shape[1:])]:
            yield slice(start, min(start + step, shape[0])), *tail


def _pieces(shape: tuple[int, ...], added: tuple[int, ...]) -> Iterator[tuple[tuple[slice, ...], tuple[slice, ...]]]:
    """Indices of pieces of an array, each with the index of their sums, whose axes `added` have size 1."""
    for part in _parts(shape):
        yield part, tuple(slice(1) if d in added else each for d, each in enumerate(part))


def total(x: Array, dim: Dim, few: int | None = None) -> Array:
    """The sum of floating-point numbers over `dim`, in float64; the axes stay, with size 1.

    few: so many elements may be added one after the other in float64.
    """
    if x.size <= (few or _few(x)):
        return np.add.reduce(x, dim, np.float64, keepdims=True)
    axes = axes_of(x, dim)
    if x.flags.c_contiguous and x.dtype != np.float16:
        return _dense(x, axes)
    shape = [1 if d in axes else n for d, n in enumerate(x.shape)]
    repeats = tuple(d for d in axes if x.strides[d] == 0)  # broadcast: n equal numbers make one product
    factor = math.prod(x.shape[d] for d in repeats)
    x = x[tuple(slice(1) if d in repeats else slice(None) for d in range(x.ndim))]
    order, y, added = _in_memory_order(x, axes)
    if y.dtype != np.float16 and y.flags.c_contiguous:
        out = _dense(y, added)
    elif y.dtype != np.float16 and y.ndim - 1 in added and y.strides[-1] == y.itemsize and y.shape[-1] >= _NARROW:
        out = _dense(_rows(y)[..., None], added)  # rows with gaps between them
    else:
        out = np.zeros([shape[d] for d in order])
        for part, place in _pieces(y.shape, added):
            out[place] += _dense(np.ascontiguousarray(y[part], np.result_type(y, np.float32)), added)
    out = out.transpose(np.argsort(order))
    return out * factor if repeats else out


def sum_along(x: Array, dim: Dim = None, keepdim: bool = False) -> Array:
    if x.dtype.kind != "f":
        return np.sum(x, axis=dim, keepdims=keepdim, dtype=np.int64)  # NumPy would count uint8 in uint64
    return _of_dtype(total(x, dim), x, dim, keepdim)


def log_softmax(x: Array, dim: int) -> Array:
    shifted = np.asarray(x - _top(x, dim))
    exponents = np.exp(shifted)
    shifted -= np.log(sum_along(exponents, dim, keepdim=True)) if shifted.ndim else 0
    return shifted


def cross_entropy(x: Array, target: Array) -> Array:
    """Compute -log softmax(x)[target]: (rows, classes), (rows,) -> (rows,)."""
    out = np.empty(len(target), x.dtype)
    for part in rows_(*x.shape):
        scores, classes = x[part], target[part]
        total = row_sums(np.exp(scores))[:, 0]
        if x.dtype != np.float16 and total.min() > LEAST and total.max() < SAFE:  # without the rows' maxima
            np.log(total, out=total)
            np.subtract(total, scores[np.arange(len(classes)), classes], out=out[part])
        else:
            out[part] = -log_softmax(scores, 1)[np.arange(len(classes)), classes]
    return out

_BLOCK = 32768
_FEW_ = 64
_SPARSE = 16

def _in_order(index: Array, size: int) -> tuple[Array, Array]:
    """The stable order of indices below `size`, and the indices in it; a number that holds index and place sorts ten
    times as fast as argsort."""
    shift = len(index).bit_length()
    if size.bit_length() + shift > 62:
        order = np.argsort(index, kind="stable")
        return order, index[order]
    keys = np.left_shift(index, shift, dtype=np.int64, casting="unsafe")
    keys += np.arange(len(index))
    keys.sort()
    return keys & ((1 << shift) - 1), keys >> shift


def _add_at(buffer: Array, positions: Array, values: Array) -> None:
    """Add `values` at `positions` of the flattened buffer; in float64 if many may come to one position."""
    values, positions = np.broadcast_to(values, positions.shape).reshape(-1), positions.reshape(-1)
    flat = buffer.reshape(-1)
    if buffer.dtype != np.float32 or values.size <= _FEW_:
        np.add.at(flat, positions, values)
        return
    if values.size < flat.size // _SPARSE:  # without float64 zeros as large as the buffer
        order, ordered = _in_order(positions, flat.size)
        begins = np.concatenate(([True], ordered[1:] != ordered[:-1]))
        flat[ordered[begins]] += np.bincount(np.cumsum(begins) - 1, values.take(order)).astype(np.float32)
        return
    piece = max(flat.size, _BLOCK)  # bincount makes float64 of what it is given
    sums = np.bincount(positions[:piece], values[:piece], flat.size)
    for start in range(piece, values.size, piece):
        part = slice(start, start + piece)
        sums += np.bincount(positions[part], values[part], flat.size)
    flat += sums.astype(np.float32)

_FLUSH_EVERY = 128

def _to_minimise(p: Array, g: Array, weight_decay: float, maximize: bool) -> Array:
    """The gradient of what shall fall: the loss (or minus the gain) plus weight_decay/2 * |p|^2."""
    if not weight_decay:
        return np.negative(g) if maximize else g
    out = np.multiply(p, weight_decay, out=np.empty_like(p))
    return (np.subtract if maximize else np.add)(out, g, out=out)


def pieces(most: int, arrays: Sequence[Array]) -> Iterator[tuple[Array, ...]]:
    """Stretches of at most `most` elements of contiguous arrays of one size."""
    flat = [array.reshape(-1) for array in arrays]
    for start in range(0, arrays[0].size, most):
        yield tuple(array[start : start + most] for array in flat)


def stretches(*arrays: Array) -> Iterator[tuple[Array, ...]]:
    """The same stretch of every array (of one size) in turn; all at once where one is not contiguous."""
    size = arrays[0].size
    if size <= BLOCK or not all(array.flags.c_contiguous for array in arrays):
        yield arrays
        return
    yield from pieces(BLOCK, arrays)

_BLOCK_ = 65536
_FEW__ = 512

def _converted(x: Array, dtype: Any, convert: Callable[[Array, Array], None] | None) -> Array:
    """Convert block by block, and by NumPy what has few elements; the order in memory stays."""
    if convert is None or x.size < _FEW__:
        return x.astype(dtype)
    if not x.flags.c_contiguous:
        return _converted(x.T, dtype, convert).T if x.flags.f_contiguous else _converted(x.copy(), dtype, convert)
    out = np.empty(x.shape, dtype)
    source, target = x.reshape(-1), out.reshape(-1)
    for start in range(0, x.size, _BLOCK_):
        convert(source[start : start + _BLOCK_], target[start : start + _BLOCK_])
    return out

_BEYOND = np.float32(65536.0)
_INFINITY = np.int32(2139095040)

def _widen(x: Array, out: Array) -> None:
    bits = np.left_shift(x.view(np.int16), 13, out=out.view(np.int32), dtype=np.int32)  # the sign fills the gap
    bits &= np.int32(-0x70002000)  # sign; exponent and fraction, where float32 has them
    out *= np.float32(2.0**112)  # the biases of the exponents are 15 and 127
    if x.view(np.int16).max() >= 0x7C00 or x.view(np.uint16).max() >= 0xFC00:  # infinity and NaN
        bits[np.abs(out) >= _BEYOND] |= _INFINITY


def widen(x: Array) -> Array:
    """Return float16 as float32, and every other dtype as it is."""
    return _converted(x, np.float32, _widen) if x.dtype == np.float16 else x


def adam_step(
    param: Array,
    grad: Array,
    exp_avg: Array,
    exp_avg_sq: Array,
    max_exp_avg_sq: Array | None,
    step: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float,
    decoupled: bool,
    maximize: bool,
) -> None:
    """Step number `step` (from 1) of Adam or AdamW, in place in `param` and its moments.

    All arrays have one shape; `max_exp_avg_sq` is None without amsgrad. The same numbers as `adam_definition` but for
    rounding: the bias corrections are taken out of the root and the quotient, which saves two passes over the arrays.
    """
    lr, beta1, beta2, weight_decay = float(lr), float(beta1), float(beta2), float(weight_decay)
    root = math.sqrt(1.0 - beta2**step)
    rate, floor = lr * root / (1.0 - beta1**step), float(eps) * root
    shrink = 1.0 - lr * weight_decay if decoupled else 1.0
    penalty = 0.0 if decoupled else weight_decay
    tops = () if max_exp_avg_sq is None else (max_exp_avg_sq,)
    for whole, g, m, v, *top in stretches(param, grad, exp_avg, exp_avg_sq, *tops):
        p, g = widen(whole), widen(g)
        g = _to_minimise(p, g, penalty, maximize)
        if shrink != 1.0:
            p *= shrink
        scratch = np.multiply(g, 1.0 - beta1, out=np.empty_like(p))
        m *= beta1
        m += scratch
        np.square(g, out=scratch)  # quicker than g * g
        scratch *= 1.0 - beta2
        v *= beta2
        v += scratch
        if top:
            v = np.maximum(top[0], v, out=top[0])
        np.sqrt(v, out=scratch)
        scratch += floor
        np.divide(m, scratch, out=scratch)
        scratch *= rate
        p -= scratch
        if p is not whole:
            whole[...] = p
        if step % _FLUSH_EVERY == 0:
            m[np.abs(m, out=scratch) < np.finfo(m.dtype).tiny] = 0.0



def compute():
    # AttentionModel: amin
    minimum.reduce(x0_2, axis=(0, 1), out=a)
    # AttentionModel: amax
    maximum.reduce(x0_2, axis=(0, 1), out=b)
    # AttentionModel: ge
    greater_equal(a, 0, out=ge)
    if not ge: raise Changed('AttentionModel: ge')
    # AttentionModel: le
    less_equal(a, b, out=le)
    if not le: raise Changed('AttentionModel: le')
    less_equal(b, 1, out=le_2)
    if not le_2: raise Changed('AttentionModel: le')
    # AttentionModel: mul
    multiply(x0_2, n_9, out=a_2)  # 64x784
    # AttentionModel: add
    add(a_2, n_0_5, out=a_2)  # 64x784
    # AttentionModel: cast
    copyto(index, a_2, casting='unsafe')  # 64x784
    # AttentionModel: add
    add(embedding_weight_2, position, out=add_2)  # 10x784x64
    # attention.hidden: linear
    matmul(b_2, attention_hidden_weight_T, out=attention_hidden_out)  # 7840x1
    add(attention_hidden_out, attention_hidden_bias, out=attention_hidden_out)  # 7840x1
    # AttentionModel: tanh
    tanh(attention_hidden_x, out=attention_hidden_x)  # 10x784x1
    # AttentionModel: reshape
    multiply(range_784, 1, out=reshape_2)  # 784
    add(0, reshape_2, out=reshape_2)  # 784
    copyto(reshape_3, index)  # 64x784
    # AttentionModel: getitem
    copyto(getitem, x[:, reshape_3, reshape_2])  # 1x64x784
    # AttentionModel: softmax
    a_3[...] = _softmax_of_rows(getitem)  # 1x64x784
    minimum.reduce(index, axis=None, out=low)
    maximum.reduce(index, axis=None, out=high)
    greater_equal(low, 0, out=softmax)
    if not softmax: raise Changed('AttentionModel: softmax')
    less(high, 10, out=softmax_2)
    if not softmax_2: raise Changed('AttentionModel: softmax')
    # AttentionModel: embedding
    take(constant, index, axis=0, out=b_3)  # 64x784x10
    # AttentionModel: matmul
    matmul(a_4, b_3, out=matmul_2)  # 64x1x10
    matmul(a_5, embedding_weight_3, out=a_6)  # 1x64x64
    matmul(a_3, position_2, out=b_4)  # 1x64x64
    # AttentionModel: add
    add(a_6, b_4, out=a_6)  # 1x64x64
    # norm: layer_norm
    matmul(rows, ones_64, out=norm_layer_norm)  # 64
    divide(norm_means, n_64, out=norm_means)  # 64x1
    subtract(rows, norm_means, out=rows)  # 64x64
    vecdot(rows, rows, out=norm_layer_norm_2)  # 64
    _center_again(rows, norm_layer_norm_2, norm_means)  # 64
    add(norm_layer_norm_2, n_0_00064, out=norm_layer_norm_2)  # 64
    sqrt(norm_layer_norm_2, out=norm_layer_norm_2)  # 64
    divide(n_8, norm_layer_norm_2, out=norm_layer_norm_2)  # 64
    multiply(rows, norm_layer_norm_3, out=rows)  # 64x64
    multiply(rows, norm_weight, out=norm_y)  # 64x64
    add(norm_y, norm_bias, out=norm_y)  # 64x64
    # fc: linear
    matmul(norm_y, fc_weight_T, out=fc_out)  # 64x10
    add(fc_out, fc_bias, out=fc_out)  # 64x10
    equal(x1, -100, out=fc_a)  # 64
    logical_or.reduce(fc_a, axis=None, dtype='bool', out=fc_linear)
    if fc_linear: raise Changed('fc: linear')
    minimum.reduce(x1, axis=None, out=fc_low)
    maximum.reduce(x1, axis=None, out=fc_high)
    greater_equal(fc_low, 0, out=fc_linear_2)
    if not fc_linear_2: raise Changed('fc: linear')
    less(fc_high, 10, out=fc_linear_3)
    if not fc_linear_3: raise Changed('fc: linear')
    # cross_entropy
    x_2[...] = cross_entropy(fc_out, x1)  # 64
    # mean
    add.reduce(x_2, keepdims=True, axis=(0,), dtype='float64', out=mean_2)  # 1
    divide(mean_2, n_64_2, out=mean_2)  # 1
    copyto(mean_3, mean_4)
    g[...] = n_1
    # d mean
    multiply(g, n_0_015625, out=g)
    # d cross_entropy
    d__out[...] = _softmax_of_rows(fc_out)  # 64x10
    d__one_hot[...] = 0  # 64x10
    d__one_hot[range_64, x1] = True  # 64x10
    subtract(d__out, d__one_hot, out=d__out)  # 64x10
    multiply(d__out, d__mean, out=d__out)  # 64x10
    # d fc: linear
    matmul(d__out, fc_weight, out=d_fc_u)  # 64x64
    matmul(d__a, norm_y, out=d_fc_weight)  # 10x64
    matmul(ones_64, d__x, out=d_fc_linear)  # 1x10
    # d norm: layer_norm
    multiply(d_fc_u, norm_weight, out=d_norm_a)  # 64x64
    vecdot(d_norm_a, rows, out=d_norm_layer_norm)  # 64
    divide(d_norm_layer_norm, n_minus_64, out=d_norm_layer_norm)  # 64
    matmul(d_norm_a, ones_64, out=d_norm_layer_norm_2)  # 64
    divide(d_norm_means, n_64, out=d_norm_means)  # 64x1
    subtract(d_norm_a, d_norm_means, out=d_norm_a)  # 64x64
    multiply(rows, d_norm_layer_norm_3, out=d_norm_layer_norm_4)  # 64x64
    add(d_norm_a, d_norm_layer_norm_4, out=d_norm_a)  # 64x64
    multiply(d_norm_a, norm_layer_norm_3, out=d_norm_layer_norm_4)  # 64x64
    multiply(d_fc_u, rows, out=rows)  # 64x64
    matmul(ones_64, d_norm_x, out=d_norm_layer_norm_5)  # 1x64
    matmul(ones_64, d_fc_x, out=d_norm_layer_norm_6)  # 1x64
    # d AttentionModel: matmul
    matmul(d_norm_a_2, position_3, out=d__total)  # 1x64x784
    matmul(a_7, d_norm_a_2, out=d__matmul)  # 1x784x64
    matmul(d_norm_a_2, embedding_weight_4, out=d__matmul_2)  # 1x64x10
    matmul(a_8, d_norm_a_2, out=d__matmul_3)  # 1x10x64
    matmul(d__a_2, b_5, out=d__matmul_4)  # 64x1x784
    # d AttentionModel: permute
    add(d__total, d__g, out=d__total)  # 1x64x784
    # d AttentionModel: softmax
    multiply(d__total, a_3, out=d__softmax)  # 1x64x784
    vecdot(d__x_2, ones_784, out=d__out_2)  # 64
    subtract(d__total, d__softmax_2, out=d__total)  # 1x64x784
    multiply(a_3, d__total, out=a_3)  # 1x64x784
    # d AttentionModel: getitem
    d__getitem[...] = 0  # 1x10x784
    copyto(d__getitem_2, range_7840_2[:, reshape_3, reshape_2])  # 1x64x784
    _add_at(d__getitem, d__getitem_2, a_3)  # 1x10x784
    # d AttentionModel: tanh
    multiply(attention_hidden_x, attention_hidden_x, out=attention_hidden_x)  # 10x784x1
    subtract(n_1_2, attention_hidden_x, out=attention_hidden_x)  # 10x784x1
    multiply(d__g_2, attention_hidden_x, out=d__g_2)  # 10x784x1
    # d attention.hidden: linear
    multiply(d__a_3, attention_hidden_weight, out=d_attention_hidden_linear)  # 7840x64
    matmul(d__a_4, b_2, out=d_attention_hidden_weight)  # 1x64
    vecdot(d__tanh, ones_2048, out=d_attention_hidden_parts)  # 1x3
    copyto(d_attention_hidden_x, d_attention_hidden_parts)  # 1x3
    matmul(d_attention_hidden_x, ones_3, out=d_attention_hidden_out)  # 1
    vecdot(d__x_3, ones_1696, out=d_attention_hidden_out_2)  # 1
    copyto(d_attention_hidden_linear_2, d_attention_hidden_out_2)  # 1
    add(d_attention_hidden_out, d_attention_hidden_linear_2, out=d_attention_hidden_out)  # 1
    copyto(d_attention_hidden_bias, d_attention_hidden_linear_3)  # 1
    # d AttentionModel: add
    matmul(ones_128, d_attention_hidden_linear_4, out=d__chains)  # 10x6x64
    copyto(d__x_4, d__chains)  # 10x6x64
    matmul(ones_6, d__x_4, out=d__out_3)  # 10x64
    matmul(ones_16, d_attention_hidden_x_2, out=d__add)  # 10x64
    copyto(d__add_2, d__add)  # 10x64
    add(d__out_3, d__add_2, out=d__out_3)  # 10x64
    copyto(d__g_3, d__out_3)  # 10x64
    matmul(ones_10, d_attention_hidden_x_3, out=d__add_3)  # 1x50176
    add(d_position, d__g_4, out=d_position)  # 784x64
    # d AttentionModel: reshape
    add(d_embedding_weight, d__g_3, out=d_embedding_weight)  # 10x64



adam_0_0_options = {'lr': 0.001, 'eps': 1e-08, 'weight_decay': 0, 'maximize': False, 'decoupled': False, 'beta1': 0.9, 'beta2': 0.999}
adam_0_0 = [  # parameter, gradient, state
    (position, d_position, arrays["position.exp_avg"], arrays["position.exp_avg_sq"], None, arrays["position.step"]),
    (embedding_weight, d_embedding_weight, arrays["embedding_weight.exp_avg"], arrays["embedding_weight.exp_avg_sq"], None, arrays["embedding_weight.step"]),
    (attention_hidden_weight, d_attention_hidden_weight, arrays["attention_hidden_weight.exp_avg"], arrays["attention_hidden_weight.exp_avg_sq"], None, arrays["attention_hidden_weight.step"]),
    (attention_hidden_bias, d_attention_hidden_bias, arrays["attention_hidden_bias.exp_avg"], arrays["attention_hidden_bias.exp_avg_sq"], None, arrays["attention_hidden_bias.step"]),
    (norm_weight, d_norm_weight, arrays["norm_weight.exp_avg"], arrays["norm_weight.exp_avg_sq"], None, arrays["norm_weight.step"]),
    (norm_bias, d_norm_bias, arrays["norm_bias.exp_avg"], arrays["norm_bias.exp_avg_sq"], None, arrays["norm_bias.step"]),
    (fc_weight, d_fc_weight, arrays["fc_weight.exp_avg"], arrays["fc_weight.exp_avg_sq"], None, arrays["fc_weight.step"]),
    (fc_bias, d_fc_bias, arrays["fc_bias.exp_avg"], arrays["fc_bias.exp_avg_sq"], None, arrays["fc_bias.step"]),
]


def update():
    """One step of the optimizer, in place."""
    for *tensors, step in adam_0_0:
        step += 1
        adam_step(*tensors, int(step), **adam_0_0_options)

def step(new_x0, new_x1):
    """Compute everything once; returns what the recorded step returned."""
    copyto(x0, new_x0)
    copyto(x1, new_x1)
    with np.errstate(all="ignore"):
        compute()
        update()
    return mean_3.copy()
