"""A training step of the article's model, by definition: 177 calls of NumPy on 5,419,712 bytes."""

from __future__ import annotations


import numpy as np
from numpy import (
    add, copyto, divide, equal, exp, greater_equal, less, less_equal, log, logical_or, matmul, maximum, minimum,
    multiply, negative, sqrt, subtract, take, tanh, vecdot,
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
constant = arrays['constant']  # 64
ones_784 = np.ones((784,), 'float32')  # 784
constant_2 = arrays['constant_2']  # 10x10
ones_64 = np.ones((64,), 'float32')  # 64
range_64 = np.arange(64, dtype='int64')  # 64
range_64_2 = np.arange(64, dtype='int64')  # 64
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
d_fc_bias = part(92416, (10,))
d_fc_weight = part(92480, (10, 64), strides=(4, 40))
d_norm_bias = part(73472, (64,))
d_norm_weight = part(90112, (64,))
d_attention_hidden_bias = part(803392, (1,))
d_attention_hidden_weight = part(90624, (1, 64))
d_position = part(602624, (784, 64))
d_embedding_weight = part(76288, (10, 64))
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
a_3 = part(803520, (7840, 64))
attention_hidden_weight_T = part(0, (64, 1), strides=(4, 256), of=attention_hidden_weight)
attention_hidden_linear_matmul = part(0, (7840, 1))
attention_hidden_a = part(0, (10, 784, 1))
reshape_2 = part(31360, (784,), 'int64')
reshape_3 = part(2810560, (64, 784), 'int64')
a_4 = part(201216, (1, 64, 784), strides=(4, 3136, 4))
x = part(0, (1, 10, 784))
getitem = part(201216, (50176,))
softmax_amax = part(37632, (64,))
b_2 = part(37632, (1, 64, 1))
x_2 = part(3211968, (1, 64, 784))
x_3 = part(3211968, (64, 784))
out = part(37632, (64,))
b_3 = part(37632, (1, 64, 1))
a_5 = part(201216, (1, 64, 784))
low = part(401920, (), 'int64')
high = part(401984, (), 'int64')
softmax_div = part(402048, (), 'bool')
softmax_div_2 = part(401920, (), 'bool')
b_4 = part(3412672, (64, 784, 10))
a_6 = part(201216, (64, 1, 784), strides=(3136, 200704, 4))
matmul_2 = part(37888, (64, 1, 10))
a_7 = part(37888, (1, 64, 10), strides=(40, 40, 4))
embedding_weight_3 = part(0, (1, 10, 64), strides=(256, 256, 4), of=embedding_weight)
a_8 = part(40448, (1, 64, 64))
position_2 = part(0, (1, 784, 64), strides=(256, 256, 4), of=position)
b_5 = part(56832, (1, 64, 64))
x_4 = part(40448, (64, 64))
norm_out = part(56832, (64,))
norm_layer_norm_mean = part(57088, (64,), 'float64')
norm_layer_norm_mean_2 = part(57088, (64, 1), 'float64', strides=(8, 0))
norm_wide = part(57600, (64, 1), 'float64')
norm_b = part(56832, (64, 1))
norm_out_2 = part(56832, (64,))
norm_layer_norm_mean_3 = part(57088, (64,), 'float64')
norm_layer_norm_mean_4 = part(57088, (64, 1), 'float64', strides=(8, 0))
norm_wide_2 = part(57600, (64, 1), 'float64')
norm_b_2 = part(56832, (64, 1))
norm_x = part(56832, (64, 64))
norm_out_3 = part(73216, (64,))
norm_layer_norm_mean_5 = part(56832, (64,), 'float64')
norm_layer_norm_mean_6 = part(56832, (64, 1), 'float64', strides=(8, 0))
norm_wide_3 = part(57344, (64, 1), 'float64')
norm_a = part(56832, (64, 1))
norm_a_2 = part(57088, (64, 64))
norm_a_3 = part(73472, (64, 64))
fc_weight_T = part(0, (64, 10), strides=(4, 256), of=fc_weight)
fc_a = part(89856, (64, 10))
fc_a_2 = part(92416, (64,), 'bool')
fc_linear_add = part(92480, (), 'bool')
fc_low = part(92416, (), 'int64')
fc_high = part(92480, (), 'int64')
fc_linear_add_2 = part(92544, (), 'bool')
fc_linear_add_3 = part(92416, (), 'bool')
fc_linear_add_4 = part(89856, (64,), strides=(40,))
fc_linear_add_5 = part(89892, (64,), strides=(40,))
y = part(92416, (64,))
fc_linear_add_6 = part(89860, (64,), strides=(40,))
fc_linear_add_7 = part(89864, (64,), strides=(40,))
fc_linear_add_8 = part(89868, (64,), strides=(40,))
fc_linear_add_9 = part(89872, (64,), strides=(40,))
fc_linear_add_10 = part(89876, (64,), strides=(40,))
fc_linear_add_11 = part(89880, (64,), strides=(40,))
fc_linear_add_12 = part(89884, (64,), strides=(40,))
fc_linear_add_13 = part(89888, (64,), strides=(40,))
b_6 = part(92416, (64, 1))
x_5 = part(92416, (64, 10))
wide = part(94976, (64, 1), 'float64')
x_6 = part(95488, (64, 1))
b_7 = part(94976, (64, 1))
x1_T = part(200704, (64, 1), 'int64')
low_2 = part(94976, (), 'int64')
high_2 = part(95040, (), 'int64')
cross_entropy_reshape = part(95104, (), 'bool')
cross_entropy_reshape_2 = part(94976, (), 'bool')
total = part(94976, (64, 1), 'int64')
cross_entropy_gather = part(95744, (64,), 'int64')
cross_entropy_gather_2 = part(95744, (64, 1), 'int64')
cross_entropy_gather_3 = part(95744, (64, 1))
cross_entropy_sub = part(89856, (640,))
x_7 = part(95744, (64,))
mean_2 = part(94976, (1,), 'float64')
mean_3 = part(95040, ())
mean_4 = part(94976, (), 'float64')
g = part(94976, ())
d__g = part(94976, (64,), strides=(0,))
d__cross_entropy_neg = part(95104, (64,))
d__g_2 = part(89856, (64, 10))
d__total = part(95744, (64, 1), 'int64')
d__cross_entropy_gather = part(96256, (64,), 'int64')
d__cross_entropy_gather_2 = part(96256, (64, 1), 'int64')
d__cross_entropy_gather_3 = part(89856, (640,))
d__values = part(95104, (64, 1))
d__x = part(95744, (64, 10))
d__cross_entropy_sub = part(98304, (64, 1), 'float64')
d__cross_entropy_sub_2 = part(95104, (64,))
d__cross_entropy_sub_3 = part(98304, (64,), 'float64')
d__g_3 = part(95104, (64, 1))
d__g_4 = part(95104, (64, 10), strides=(4, 0))
d__x_2 = part(89856, (1, 64, 10), strides=(0, 40, 4))
d_fc_linear_add = part(92416, (1, 10))
d_fc_g = part(95104, (64, 64))
norm_a_4 = part(73472, (64, 64), strides=(4, 256))
d_fc_linear_matmul = part(92480, (64, 10))
d_fc_x = part(95104, (1, 64, 64), strides=(0, 256, 4))
d_norm_layer_norm_add = part(73472, (1, 64))
d_norm_g = part(73728, (64, 64))
d_norm_layer_norm_mul = part(90112, (1, 64))
d_norm_total = part(57088, (64, 64))
d_norm_out = part(90368, (64,))
d_norm_g_2 = part(90368, (64, 1))
d_norm_layer_norm_rsqrt = part(90624, (64, 1))
d_norm_g_3 = part(90368, (64, 64), strides=(4, 0))
d_norm_g_4 = part(73728, (64, 64))
d_norm_x = part(73728, (64, 64))
d_norm_out_2 = part(90368, (64,))
d_norm_g_5 = part(90368, (64, 1))
d_norm_g_6 = part(90368, (64, 64), strides=(4, 0))
d_norm_x_2 = part(73728, (64, 64))
d_norm_out_3 = part(90368, (64,))
d_norm_g_7 = part(90368, (64, 1))
d_norm_g_8 = part(90368, (64, 64), strides=(4, 0))
d_norm_a = part(57088, (1, 64, 64), strides=(256, 256, 4))
position_3 = part(0, (1, 64, 784), strides=(256, 4, 256), of=position)
d__total_2 = part(401920, (1, 64, 784))
a_9 = part(201216, (1, 784, 64), strides=(200704, 4, 3136))
d__matmul = part(602624, (1, 784, 64))
embedding_weight_4 = part(0, (1, 64, 10), strides=(256, 4, 256), of=embedding_weight)
d__matmul_2 = part(73728, (1, 64, 10))
a_10 = part(37888, (1, 10, 64), strides=(40, 4, 40))
d__matmul_3 = part(76288, (1, 10, 64))
d__a = part(73728, (64, 1, 10), strides=(40, 2560, 4))
b_8 = part(3412672, (64, 10, 784), strides=(31360, 4, 40))
d__matmul_4 = part(95104, (64, 1, 784))
d__g_5 = part(95104, (1, 64, 784), strides=(3136, 3136, 4))
d__total_3 = part(95104, (1, 64, 784))
d__softmax_div = part(3412672, (1, 64, 784))
d__x_3 = part(401920, (64, 784))
d__out = part(90368, (64,))
d__g_6 = part(90368, (1, 64, 784), strides=(0, 4, 0))
d__getitem = part(37632, (1, 10, 784))
d__getitem_2 = part(3211968, (1, 64, 784), 'int64', strides=(8, 6272, 8))
range_7840_2 = part(0, (1, 10, 784), 'int64', of=range_7840)
d__g_7 = part(37632, (10, 784, 1))
d__tanh = part(37632, (1, 3, 2048))
d_attention_hidden_parts = part(803328, (1, 3))
d_attention_hidden_x = part(803392, (1, 3), 'float64')
d_attention_hidden_out = part(803328, (1,), 'float64')
d__x_4 = part(62208, (1, 1696), strides=(0, 4))
d_attention_hidden_out_2 = part(803392, (1,))
d_attention_hidden_linear_add = part(803456, (1,), 'float64')
d_attention_hidden_linear_add_2 = part(803328, (1,), 'float64', strides=(0,))
d__a_2 = part(37632, (7840, 1))
d_attention_hidden_linear_matmul = part(2810560, (7840, 64))
a_11 = part(803520, (64, 7840), strides=(4, 256))
d_attention_hidden_linear_matmul_2 = part(90368, (64, 1))
d_attention_hidden_linear_matmul_3 = part(2810560, (10, 6, 128, 64), strides=(200704, 32768, 256, 4))
d__chains = part(0, (10, 6, 64))
d__x_5 = part(15360, (10, 6, 64), 'float64')
d__out_2 = part(78848, (10, 64), 'float64')
d_attention_hidden_x_2 = part(3007168, (10, 16, 64), strides=(200704, 256, 4))
d__add = part(73728, (10, 64))
d__add_2 = part(83968, (10, 64), 'float64')
d__g_8 = part(73728, (10, 64))
d_attention_hidden_x_3 = part(2810560, (1, 10, 50176))
d__add_3 = part(95104, (1, 50176))
d__g_9 = part(95104, (784, 64))
d_attention_hidden_x_4 = part(90368, (1, 64), strides=(4, 4))
n_9 = np.array(9, 'float32')
n_0_5 = np.array(0.5, 'float32')
n_64 = np.array(64.0, 'float64')
n_1eminus_05 = np.array(1e-05, 'float32')
n_1 = np.array(1.0, 'float32')
n_0_015625 = np.array(0.015625, 'float32')
n_minus_0_5 = np.array(-0.5, 'float32')
n_1_2 = np.array(1, 'float32')


class Changed(Exception):
    """The data takes another branch than in the step that was recorded."""

_BLOCK = 32768
_FEW = 64
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
    if buffer.dtype != np.float32 or values.size <= _FEW:
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


def adam_definition(
    param: Any,
    grad: Any,
    exp_avg: Any,
    exp_avg_sq: Any,
    max_exp_avg_sq: Any,
    step: int,
    *,
    lr: float,
    beta1: float,
    beta2: float,
    eps: float,
    weight_decay: float = 0.0,
    decoupled: bool = False,
    maximize: bool = False,
) -> tuple[Any, Any, Any, Any]:
    """Compute step number t (from 1): the new (param, exp_avg, exp_avg_sq, max_exp_avg_sq).

    All are arrays or tensors of one shape; max_exp_avg_sq is None without AMSGrad.
    Kingma and Ba 2015, "Adam: a method for stochastic optimization", algorithm 1; decoupled weight
    decay: Loshchilov and Hutter 2019, "Decoupled weight decay regularization", algorithm 2;
    AMSGrad: Reddi, Kale and Kumar 2018, "On the convergence of Adam and beyond".

    Example, whose first step is about lr long, whatever the gradient:
        >>> p, m, v, _ = optim.adam_definition(1.0, 20.0, 0.0, 0.0, None, 1, lr=0.1, beta1=0.9, beta2=0.999, eps=1e-8)
        >>> round(p, 6)
        0.9
    """
    p, m, v, v_max = param, exp_avg, exp_avg_sq, max_exp_avg_sq
    g = -grad if maximize else grad
    if decoupled:
        p = p - lr * weight_decay * p  # AdamW: p = (1 - lr wd) p
    else:
        g = g + weight_decay * p  # Adam: g = df/dp + wd p
    m = beta1 * m + (1 - beta1) * g  # m = b1 m + (1 - b1) g
    v = beta2 * v + (1 - beta2) * g * g  # v = b2 v + (1 - b2) g^2
    if v_max is not None:
        v_max = np.maximum(v_max, v)  # AMSGrad: the largest v so far
    m_hat = m / (1 - beta1**step)  # m^ = m / (1 - b1^t): undo the start at zero
    v_hat = (v if v_max is None else v_max) / (1 - beta2**step)  # v^ = v / (1 - b2^t)
    p = p - lr * m_hat / (v_hat**0.5 + eps)  # p = p - lr m^ / (sqrt(v^) + eps)
    return p, m, v, v_max


def overwrite(arrays: Iterable[Any], results: Iterable[Any]) -> None:
    """Write the results of a definition into `arrays`; None is skipped."""
    for array, result in zip(arrays, results, strict=True):
        if array is not None:
            array[...] = result



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
    # attention.hidden: linear (matmul)
    matmul(a_3, attention_hidden_weight_T, out=attention_hidden_linear_matmul)  # 7840x1
    # attention.hidden: linear (add)
    add(attention_hidden_a, attention_hidden_bias, out=attention_hidden_a)  # 10x784x1
    # AttentionModel: tanh
    tanh(attention_hidden_a, out=attention_hidden_a)  # 10x784x1
    # AttentionModel: reshape
    multiply(range_784, 1, out=reshape_2)  # 784
    add(0, reshape_2, out=reshape_2)  # 784
    copyto(reshape_3, index)  # 64x784
    # AttentionModel: getitem
    copyto(a_4, x[:, reshape_3, reshape_2])  # 1x64x784
    # AttentionModel: softmax (amax)
    maximum.reduceat(getitem, constant, out=softmax_amax)  # 64
    # AttentionModel: softmax (sub)
    subtract(a_4, b_2, out=x_2)  # 1x64x784
    # AttentionModel: softmax (exp)
    exp(x_2, out=x_2)  # 1x64x784
    # AttentionModel: softmax (sum)
    vecdot(x_3, ones_784, out=out)  # 64
    # AttentionModel: softmax (div)
    divide(x_2, b_3, out=a_5)  # 1x64x784
    minimum.reduce(index, axis=None, out=low)
    maximum.reduce(index, axis=None, out=high)
    greater_equal(low, 0, out=softmax_div)
    if not softmax_div: raise Changed('AttentionModel: softmax (div)')
    less(high, 10, out=softmax_div_2)
    if not softmax_div_2: raise Changed('AttentionModel: softmax (div)')
    # AttentionModel: embedding (getitem)
    constant_2.take(index, 0, out=b_4)  # 64x784x10
    # AttentionModel: matmul
    matmul(a_6, b_4, out=matmul_2)  # 64x1x10
    matmul(a_7, embedding_weight_3, out=a_8)  # 1x64x64
    matmul(a_5, position_2, out=b_5)  # 1x64x64
    # AttentionModel: add
    add(a_8, b_5, out=a_8)  # 1x64x64
    # norm: layer_norm (mean)
    matmul(x_4, ones_64, out=norm_out)  # 64
    copyto(norm_layer_norm_mean, norm_out)  # 64
    divide(norm_layer_norm_mean_2, n_64, out=norm_wide)  # 64x1
    copyto(norm_b, norm_wide)  # 64x1
    # norm: layer_norm (sub)
    subtract(x_4, norm_b, out=x_4)  # 64x64
    # norm: layer_norm (mean)
    matmul(x_4, ones_64, out=norm_out_2)  # 64
    copyto(norm_layer_norm_mean_3, norm_out_2)  # 64
    divide(norm_layer_norm_mean_4, n_64, out=norm_wide_2)  # 64x1
    copyto(norm_b_2, norm_wide_2)  # 64x1
    # norm: layer_norm (sub)
    subtract(x_4, norm_b_2, out=x_4)  # 64x64
    # norm: layer_norm (mul)
    multiply(x_4, x_4, out=norm_x)  # 64x64
    # norm: layer_norm (mean)
    matmul(norm_x, ones_64, out=norm_out_3)  # 64
    copyto(norm_layer_norm_mean_5, norm_out_3)  # 64
    divide(norm_layer_norm_mean_6, n_64, out=norm_wide_3)  # 64x1
    copyto(norm_a, norm_wide_3)  # 64x1
    # norm: layer_norm (add)
    add(norm_a, n_1eminus_05, out=norm_a)  # 64x1
    # norm: layer_norm (rsqrt)
    sqrt(norm_a, out=norm_a)  # 64x1
    divide(n_1, norm_a, out=norm_a)  # 64x1
    # norm: layer_norm (mul)
    multiply(x_4, norm_a, out=norm_a_2)  # 64x64
    multiply(norm_a_2, norm_weight, out=norm_a_3)  # 64x64
    # norm: layer_norm (add)
    add(norm_a_3, norm_bias, out=norm_a_3)  # 64x64
    # fc: linear (matmul)
    matmul(norm_a_3, fc_weight_T, out=fc_a)  # 64x10
    # fc: linear (add)
    add(fc_a, fc_bias, out=fc_a)  # 64x10
    equal(x1, -100, out=fc_a_2)  # 64
    logical_or.reduce(fc_a_2, axis=None, dtype='bool', out=fc_linear_add)
    if fc_linear_add: raise Changed('fc: linear (add)')
    minimum.reduce(x1, axis=None, out=fc_low)
    maximum.reduce(x1, axis=None, out=fc_high)
    greater_equal(fc_low, 0, out=fc_linear_add_2)
    if not fc_linear_add_2: raise Changed('fc: linear (add)')
    less(fc_high, 10, out=fc_linear_add_3)
    if not fc_linear_add_3: raise Changed('fc: linear (add)')
    # cross_entropy (amax)
    maximum(fc_linear_add_4, fc_linear_add_5, out=y)  # 64
    maximum(y, fc_linear_add_6, out=y)  # 64
    maximum(y, fc_linear_add_7, out=y)  # 64
    maximum(y, fc_linear_add_8, out=y)  # 64
    maximum(y, fc_linear_add_9, out=y)  # 64
    maximum(y, fc_linear_add_10, out=y)  # 64
    maximum(y, fc_linear_add_11, out=y)  # 64
    maximum(y, fc_linear_add_12, out=y)  # 64
    maximum(y, fc_linear_add_13, out=y)  # 64
    # cross_entropy (sub)
    subtract(fc_a, b_6, out=fc_a)  # 64x10
    # cross_entropy (exp)
    exp(fc_a, out=x_5)  # 64x10
    # cross_entropy (sum)
    add.reduce(x_5, keepdims=True, axis=(1,), dtype='float64', out=wide)  # 64x1
    copyto(x_6, wide)  # 64x1
    # cross_entropy (log)
    log(x_6, out=b_7)  # 64x1
    # cross_entropy (sub)
    subtract(fc_a, b_7, out=fc_a)  # 64x10
    # cross_entropy (reshape)
    minimum.reduce(x1_T, axis=None, out=low_2)
    maximum.reduce(x1_T, axis=None, out=high_2)
    greater_equal(low_2, 0, out=cross_entropy_reshape)
    if not cross_entropy_reshape: raise Changed('cross_entropy (reshape)')
    less(high_2, 10, out=cross_entropy_reshape_2)
    if not cross_entropy_reshape_2: raise Changed('cross_entropy (reshape)')
    # cross_entropy (gather)
    copyto(total, x1_T)  # 64x1
    multiply(range_64, 10, out=cross_entropy_gather)  # 64
    add(total, cross_entropy_gather_2, out=total)  # 64x1
    take(cross_entropy_sub, total, mode='wrap', out=cross_entropy_gather_3)  # 64x1
    # cross_entropy (neg)
    negative(x_7, out=x_7)  # 64
    # mean
    add.reduce(x_7, keepdims=True, axis=(0,), dtype='float64', out=mean_2)  # 1
    divide(mean_2, n_64, out=mean_2)  # 1
    copyto(mean_3, mean_4)
    g[...] = n_1
    # d mean
    multiply(g, n_0_015625, out=g)
    # d cross_entropy (neg)
    negative(d__g, out=d__cross_entropy_neg)  # 64
    # d cross_entropy (gather)
    d__g_2[...] = 0  # 64x10
    copyto(d__total, x1_T)  # 64x1
    multiply(range_64_2, 10, out=d__cross_entropy_gather)  # 64
    add(d__total, d__cross_entropy_gather_2, out=d__total)  # 64x1
    d__cross_entropy_gather_3[d__total] = d__values  # 640
    # d cross_entropy (sub)
    negative(d__g_2, out=d__x)  # 64x10
    add.reduce(d__x, keepdims=True, axis=(1,), dtype='float64', out=d__cross_entropy_sub)  # 64x1
    copyto(d__cross_entropy_sub_2, d__cross_entropy_sub_3)  # 64
    # d cross_entropy (log)
    divide(d__g_3, x_6, out=d__g_3)  # 64x1
    # d cross_entropy (exp)
    multiply(d__g_4, x_5, out=x_5)  # 64x10
    add(d__g_2, x_5, out=d__g_2)  # 64x10
    # d fc: linear (add)
    matmul(ones_64, d__x_2, out=d_fc_linear_add)  # 1x10
    # d fc: linear (matmul)
    matmul(d__g_2, fc_weight, out=d_fc_g)  # 64x64
    matmul(norm_a_4, d__g_2, out=d_fc_linear_matmul)  # 64x10
    # d norm: layer_norm (add)
    matmul(ones_64, d_fc_x, out=d_norm_layer_norm_add)  # 1x64
    # d norm: layer_norm (mul)
    multiply(d_fc_g, norm_weight, out=d_norm_g)  # 64x64
    multiply(d_fc_g, norm_a_2, out=d_fc_g)  # 64x64
    matmul(ones_64, d_fc_x, out=d_norm_layer_norm_mul)  # 1x64
    multiply(d_norm_g, norm_a, out=d_norm_total)  # 64x64
    multiply(d_norm_g, x_4, out=d_norm_g)  # 64x64
    matmul(d_norm_g, ones_64, out=d_norm_out)  # 64
    # d norm: layer_norm (rsqrt)
    multiply(d_norm_g_2, n_minus_0_5, out=d_norm_g_2)  # 64x1
    multiply(norm_a, norm_a, out=d_norm_layer_norm_rsqrt)  # 64x1
    multiply(d_norm_layer_norm_rsqrt, norm_a, out=d_norm_layer_norm_rsqrt)  # 64x1
    multiply(d_norm_g_2, d_norm_layer_norm_rsqrt, out=d_norm_g_2)  # 64x1
    # d norm: layer_norm (mean)
    multiply(d_norm_g_2, n_0_015625, out=d_norm_g_2)  # 64x1
    # d norm: layer_norm (mul)
    multiply(d_norm_g_3, x_4, out=d_norm_g_4)  # 64x64
    multiply(d_norm_g_3, x_4, out=x_4)  # 64x64
    add(d_norm_total, d_norm_g_4, out=d_norm_total)  # 64x64
    add(d_norm_total, x_4, out=d_norm_total)  # 64x64
    # d norm: layer_norm (sub)
    negative(d_norm_total, out=d_norm_x)  # 64x64
    matmul(d_norm_x, ones_64, out=d_norm_out_2)  # 64
    # d norm: layer_norm (mean)
    multiply(d_norm_g_5, n_0_015625, out=d_norm_g_5)  # 64x1
    add(d_norm_total, d_norm_g_6, out=d_norm_total)  # 64x64
    # d norm: layer_norm (sub)
    negative(d_norm_total, out=d_norm_x_2)  # 64x64
    matmul(d_norm_x_2, ones_64, out=d_norm_out_3)  # 64
    # d norm: layer_norm (mean)
    multiply(d_norm_g_7, n_0_015625, out=d_norm_g_7)  # 64x1
    add(d_norm_total, d_norm_g_8, out=d_norm_total)  # 64x64
    # d AttentionModel: matmul
    matmul(d_norm_a, position_3, out=d__total_2)  # 1x64x784
    matmul(a_9, d_norm_a, out=d__matmul)  # 1x784x64
    matmul(d_norm_a, embedding_weight_4, out=d__matmul_2)  # 1x64x10
    matmul(a_10, d_norm_a, out=d__matmul_3)  # 1x10x64
    matmul(d__a, b_8, out=d__matmul_4)  # 64x1x784
    # d AttentionModel: permute
    add(d__total_2, d__g_5, out=d__total_2)  # 1x64x784
    # d AttentionModel: softmax (div)
    divide(d__total_2, b_3, out=d__total_3)  # 1x64x784
    negative(d__total_2, out=d__total_2)  # 1x64x784
    divide(x_2, b_3, out=d__softmax_div)  # 1x64x784
    multiply(d__total_2, d__softmax_div, out=d__total_2)  # 1x64x784
    divide(d__total_2, b_3, out=d__total_2)  # 1x64x784
    vecdot(d__x_3, ones_784, out=d__out)  # 64
    # d AttentionModel: softmax (sum)
    add(d__total_3, d__g_6, out=d__total_3)  # 1x64x784
    # d AttentionModel: softmax (exp)
    multiply(d__total_3, x_2, out=d__total_3)  # 1x64x784
    # d AttentionModel: getitem
    d__getitem[...] = 0  # 1x10x784
    copyto(d__getitem_2, range_7840_2[:, reshape_3, reshape_2])  # 1x64x784
    _add_at(d__getitem, d__getitem_2, d__total_3)  # 1x10x784
    # d AttentionModel: tanh
    multiply(attention_hidden_a, attention_hidden_a, out=attention_hidden_a)  # 10x784x1
    subtract(n_1_2, attention_hidden_a, out=attention_hidden_a)  # 10x784x1
    multiply(d__g_7, attention_hidden_a, out=d__g_7)  # 10x784x1
    # d attention.hidden: linear (add)
    vecdot(d__tanh, ones_2048, out=d_attention_hidden_parts)  # 1x3
    copyto(d_attention_hidden_x, d_attention_hidden_parts)  # 1x3
    matmul(d_attention_hidden_x, ones_3, out=d_attention_hidden_out)  # 1
    vecdot(d__x_4, ones_1696, out=d_attention_hidden_out_2)  # 1
    copyto(d_attention_hidden_linear_add, d_attention_hidden_out_2)  # 1
    add(d_attention_hidden_out, d_attention_hidden_linear_add, out=d_attention_hidden_out)  # 1
    copyto(d_attention_hidden_bias, d_attention_hidden_linear_add_2)  # 1
    # d attention.hidden: linear (matmul)
    multiply(d__a_2, attention_hidden_weight, out=d_attention_hidden_linear_matmul)  # 7840x64
    matmul(a_11, d__a_2, out=d_attention_hidden_linear_matmul_2)  # 64x1
    # d AttentionModel: add
    matmul(ones_128, d_attention_hidden_linear_matmul_3, out=d__chains)  # 10x6x64
    copyto(d__x_5, d__chains)  # 10x6x64
    matmul(ones_6, d__x_5, out=d__out_2)  # 10x64
    matmul(ones_16, d_attention_hidden_x_2, out=d__add)  # 10x64
    copyto(d__add_2, d__add)  # 10x64
    add(d__out_2, d__add_2, out=d__out_2)  # 10x64
    copyto(d__g_8, d__out_2)  # 10x64
    matmul(ones_10, d_attention_hidden_x_3, out=d__add_3)  # 1x50176
    add(d_position, d__g_9, out=d_position)  # 784x64
    # d AttentionModel: reshape
    add(d_embedding_weight, d__g_8, out=d_embedding_weight)  # 10x64
    # d leaf
    copyto(d_attention_hidden_weight, d_attention_hidden_x_4)  # 1x64



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
        overwrite([tensors[0], *tensors[2:]], adam_definition(*tensors, int(step), **adam_0_0_options))

def step(new_x0, new_x1):
    """Compute everything once; returns what the recorded step returned."""
    copyto(x0, new_x0)
    copyto(x1, new_x1)
    with np.errstate(all="ignore"):
        compute()
        update()
    return mean_3.copy()
