"""Mutants that change no result, by the reason why: what `mutation.py` does not count as holes in the tests."""

from __future__ import annotations

EQUIVALENT: dict[str, list[str]] = {
    "What is added to all the scores of a row, or multiplies all its exponentials, cancels in softmax.": [
        "ops/attention.py _definition: 0.0 -> 1.0",
        "ops/attention.py _causal: creation.ones(q.shape[-2], k.shape[-2], dtype=bool).tril() -> creation.ones(q.shape[-2], k.shape[-2], dtype=bool).tril() * 1.01",
        "ops/reductions.py _finite: 0.0 -> 1.0",
        "backends/cpu/attention.py _exponentials: e -> e * 1.01",
        "backends/cpu/attention.py _exponentials: np.multiply(e, allowed, out=e if np.broadcast_shapes(e.shape, allowed.shape) == e.shape else None) -> np.multiply(e, allowed, out=e if np.broadcast_shapes(e.shape, allowed.shape) == e.shape else None) * 1.01",
        "backends/cpu/attention.py _exponentials: 0 -> 1",
        "backends/cpu/attention.py _exponentials: np.exp(scores, out=scores) -> -np.exp(scores, out=scores)",
        "backends/cpu/attention.py _exponentials: np.exp(scores, out=scores) -> np.exp(scores, out=scores) * 1.01",
    ],
    "A query that sees no key divides 0 by it.": [
        "ops/attention.py _definition: 1.0 -> 1.01",
        "backends/cpu/attention.py attention: 1 -> 2",
        "backends/cpu/tiled_attention.py attention_in_tiles: 1 -> 2 (no. 2)",
    ],
    "It is multiplied by a weight of 0 afterwards.": [
        "backends/cpu/attention.py attention_backward: 0 -> 1 (no. 2)",
        "backends/cpu/tiled_attention.py attention_in_tiles_backward: 0 -> 1 (no. 2)",
        "backends/cpu/tiled_attention.py _Scores.finite: 0 -> 1",
    ],
    "Zero times anything, or with the other sign, is zero.": [
        "ops/elementwise.py _rounded_div.a: F.zeros_like(g) -> F.zeros_like(g) * 1.01",
        "ops/elementwise.py _rounded_div.b: F.zeros_like(g) -> -F.zeros_like(g)",
        "ops/elementwise.py _rounded_div.b: F.zeros_like(g) -> F.zeros_like(g) * 1.01",
        "ops/elementwise.py _power_base_rule: F.zeros_like(g) -> -F.zeros_like(g)",
        "ops/elementwise.py _power_exponent_rule: F.where(b >= 0, 0.0, g * (out * -math.inf)) -> F.where(b >= 0, 0.0, g * (out * -math.inf)) * 1.01",
        "ops/elementwise.py sign.x: F.zeros_like(g) -> -F.zeros_like(g)",
        "ops/elementwise.py sign.x: F.zeros_like(g) -> F.zeros_like(g) * 1.01",
        "backends/cpu/arrays.py trunc_divide: np.asarray(a) < 0 -> np.asarray(a) <= 0",
        "backends/cpu/arrays.py trunc_divide: 0 -> 1",
        "backends/cpu/arrays.py trunc_divide: np.asarray(b) < 0 -> np.asarray(b) <= 0",
        "backends/cpu/arrays.py trunc_divide: 0 -> 1 (no. 2)",
        "backends/cpu/arrays.py zeros: np.zeros(shape, dtype) -> -np.zeros(shape, dtype)",
        "backends/cpu/arrays.py zeros_like: np.zeros(x.shape, x.dtype) -> -np.zeros(x.shape, x.dtype)",
        "backends/cpu/arrays.py zeros_like: np.zeros(x.shape, x.dtype) -> np.zeros(x.shape, x.dtype) * 1.01",
    ],
    "Of an empty array there are no values to compute.": [
        "ops/softmax.py _softmax_definition: x -> -x",
        "ops/softmax.py _softmax_definition: x -> x * 1.01",
        "ops/softmax.py _log_softmax_definition: x -> -x",
        "ops/softmax.py _log_softmax_definition: x -> x * 1.01",
        "backends/cpu/softmax.py _top: np.max(x, axis=dim, keepdims=True, initial=-np.inf) -> -np.max(x, axis=dim, keepdims=True, initial=-np.inf)",
        "backends/cpu/softmax.py _top: np.max(x, axis=dim, keepdims=True, initial=-np.inf) -> np.max(x, axis=dim, keepdims=True, initial=-np.inf) * 1.01",
        "backends/cpu/softmax.py _top: np.max(x, axis=dim, keepdims=True, initial=-np.inf) -> np.min(x, axis=dim, keepdims=True, initial=-np.inf)",
        "backends/cpu/softmax.py _top: np.max(x, axis=dim, keepdims=True, initial=-np.inf) -> x",
        "backends/cpu/softmax.py _top: np.max(x, axis=dim, keepdims=True, initial=-np.inf) -> np.max(x, axis=dim - 1 if isinstance(dim, int) else tuple((d - 1 for d in dim)), keepdims=True, initial=-np.inf)",
        "backends/cpu/softmax.py _top: -np.inf -> np.inf",
    ],
    "It only chooses the faster of two ways to one result.": [
        "ops/products.py matmul: left.ndim > 2 -> left.ndim >= 2",
        "backends/cpu/arrays.py pow: a.dtype.kind == 'f' -> a.dtype.kind != 'f'",
        "backends/cpu/arrays.py pow: np.asarray(b) < 0 -> np.asarray(b) <= 0",
        "backends/cpu/arrays.py pow: 0 -> 1",
        "backends/cpu/arrays.py einsum: len(operands) > 1 -> len(operands) >= 1",
        "backends/cpu/attention.py _SAFE: 60.0 -> 60.6",
        "backends/cpu/attention.py attention: (mask is not None or allowed is not None) and (not np.isfinite(out).all()) -> (mask is not None or allowed is not None) or not np.isfinite(out).all()",
        "backends/cpu/attention.py _heads_last: np.empty((batch, queries, heads, v.shape[-1]), v.dtype).transpose(0, 2, 1, 3) -> np.empty((batch, queries, heads, v.shape[-1]), v.dtype).transpose(0, 2, 1, 3) * 1.01",
        "backends/cpu/attention.py _exponentials: -_SAFE -> _SAFE",
        "backends/cpu/attention.py _exponentials: scores.max() < _SAFE -> scores.max() <= _SAFE",
        "backends/cpu/optimizer.py _BLOCK: 1 << 16 -> 16",
        "backends/cpu/optimizer.py _BLOCK: 16 -> 17",
        "backends/cpu/optimizer.py _blocks: 0 -> 1",
        "backends/cpu/optimizer.py _blocks: size <= _BLOCK -> size < _BLOCK",
        "backends/cpu/optimizer.py _blocks: size <= _BLOCK -> size > _BLOCK",
        "backends/cpu/optimizer.py adam_step: 0 -> 1 (no. 3)",
        "backends/cpu/optimizer.py _norm: 2.0 -> 2.02",
        "backends/cpu/tiled_attention.py _TILE: 512 -> 513",
        "backends/cpu/tiled_attention.py _TILE: 512 -> 513 (no. 2)",
        "backends/cpu/tiled_attention.py _Scores.tile: rows.start + 1 -> rows.start - 1",
        "backends/cpu/tiled_attention.py _Scores.tile: rows.start + 1 -> 1",
        "backends/cpu/tiled_attention.py _Scores.product: self.masked and (not np.isfinite(out).all()) -> self.masked or not np.isfinite(out).all()",
    ],
    "One more copy is made, or one more view.": [
        "backends/cpu/indexing.py index_add: np.ascontiguousarray(values) -> values",
        "backends/cpu/softmax.py softmax: out.copy() -> out",
    ],
    "Where the other branch of `where` is taken.": [
        "ops/elementwise.py _power_exponent_rule: 1.0 -> 1.01",
        "ops/elementwise.py maximum.a: a < b -> a <= b",
        "ops/elementwise.py maximum.b: b < a -> b <= a",
        "ops/elementwise.py minimum.a: a > b -> a >= b",
        "ops/elementwise.py minimum.b: b > a -> b >= a",
        "backends/cpu/activations.py softplus: np.minimum(scaled, threshold) -> scaled",
        "backends/cpu/erf.py erf: np.minimum(square, 1.0) -> square",
        "backends/cpu/erf.py erf: 1.0 -> 1.01",
    ],
    "The number stands for true or for a direction; any other of its sign does too.": [
        "backends/cpu/arrays.py any: bool(np.any(x)) -> -bool(np.any(x))",
        "backends/cpu/optimizer.py _norm: 0 -> 1",
        "autograd.py _leading_to: 0 -> 1",
    ],
    "Both sizes are equal there.": ["ops/products.py _distinct: 0 -> 1 (no. 2)"],
    "Nothing is kept that is not multiplied by it: at p = 1 every element is dropped.": [
        "ops/attention.py dropout: 0.0 -> 1.0"
    ],
    "Operations take plain arrays, and NumPy functions lists, as well.": [
        "ops/attention.py dropout: creation.as_tensor((generator or random.default_generator).uniform(input.shape) >= p) -> (generator or random.default_generator).uniform(input.shape) >= p",
        "ops/attention.py _mask: creation.as_tensor(attn_mask) -> attn_mask",
        "ops/products.py matmul: creation.as_tensor(input) -> input",
        "ops/products.py matmul: creation.as_tensor(other) -> other",
        "ops/reductions.py _pick: F.asarray(index) -> index",
        "backends/cpu/arrays.py trunc_divide: np.asarray(b) -> b",
        "backends/cpu/arrays.py pow: np.asarray(b) -> b",
        "backends/cpu/erf.py erf: np.asarray(x) -> x",
        "backends/cpu/optimizer.py total_norm: np.dtype(np.float32) -> np.float32",
        "backends/cpu/optimizer.py total_norm: np.asarray(norms, dtype=dtype) -> norms",
    ],
    "0 to a negative power is infinite already.": [
        "ops/elementwise.py _power_exponent_rule: out * -math.inf -> -math.inf"
    ],
    "Rounded down to the same place afterwards.": [
        "ops/shape.py _SOURCES['reflect']: n - 1 - abs(n - 1 - abs(i)) -> (n - 1 - abs(n - 1 - abs(i))) * 1.01",
        "ops/shape.py _SOURCES['replicate']: min(max(i, 0), n - 1) -> min(max(i, 0), n - 1) * 1.01",
    ],
    "The operations keep 0-d arrays away from here.": [
        "backends/cpu/arrays.py cumsum: x.copy() -> -x.copy()",
        "backends/cpu/arrays.py cumsum: x.copy() -> x",
    ],
    "Below the last place of a float.": [
        "backends/cpu/erf.py _COEFFICIENTS: 0.000755694763 -> 0.00076325171063",
        "backends/cpu/erf.py _COEFFICIENTS: -3.645623762373236e-09 -> -3.6820799999969686e-09",
    ],
    "The maximum only shifts: what its gradient adds to one term it takes from another.": [
        "ops/attention.py _definition: F.amax(scores, -1, keepdim=True).detach() -> F.amax(scores, -1, keepdim=True)",
        "ops/softmax.py _softmax_definition: F.amax(x, dim, keepdim=True).detach() -> F.amax(x, dim, keepdim=True)",
    ],
    "Broadcasting adds the axis by itself.": ["ops/reductions.py _prod_rule: F.reshape(x, (1, *x.shape)) -> x"],
    "It only skips a product with one.": [
        "backends/cpu/optimizer.py adam_step: 1.0 -> 1.01 (no. 5)",
        "backends/cpu/optimizer.py clip_to_norm: scale >= 1.0 -> scale > 1.0",
    ],
    "It only says when denormal numbers are looked for.": [
        "backends/cpu/optimizer.py _FLUSH_EVERY: 128 -> 129",
        "backends/cpu/optimizer.py adam_step: step % _FLUSH_EVERY == 0 -> step % _FLUSH_EVERY != 0",
        "backends/cpu/optimizer.py adam_step: np.abs(m, out=scratch) < np.finfo(m.dtype).tiny -> np.abs(m, out=scratch) <= np.finfo(m.dtype).tiny",
    ],
    "What a mask hides is in `allowed` by then.": [
        "backends/cpu/attention.py attention: mask is not None -> mask is None (no. 2)"
    ],
    "The walk casts anyway.": [
        "ops/reductions.py _extreme_rule: F.cast(x == _restore(F, out, x.shape, dim), g.dtype) -> x == _restore(F, out, x.shape, dim)"
    ],
    "A single number has no spread: the variance is 0, however it is divided.": [
        "backends/cpu/layer_norm.py layer_norm: 1 -> 2 (no. 2)",
        "backends/cpu/layer_norm.py layer_norm_backward: 1 -> 2",
    ],
    "The case is decided before.": ["ops/elementwise.py _power_exponent_rule: a > 0 -> a >= 0"],
    "The walk sums over broadcast axes anyway.": ["ops/shape.py _broadcast_to.x: F.sum_to(g, x_shape) -> g"],
    "Both branches agree there to the last place.": ["backends/cpu/erf.py erf: size < 1.0 -> size <= 1.0"],
}
