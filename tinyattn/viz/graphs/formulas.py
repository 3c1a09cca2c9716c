"""What each operation computes, and its gradient rules, as formulas.

g is the gradient of the output y, ⊙ the elementwise product. A test compares the table with the operations and the
names of their inputs. The page shows the source of the rules beside their formulas.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from tinyattn import ops


class Formula(NamedTuple):
    """The output in terms of the inputs, and the gradient of each input."""

    forward: str
    rules: dict[str, str]


def _f(forward: str, **rules: str) -> Formula:
    return Formula(forward, rules)


_ATTENTION = {"q": "S K/√d", "k": "Sᵀ Q/√d", "v": "Aᵀ g", "mask": "S = A ⊙ (g Vᵀ − Σ A ⊙ g Vᵀ)"}

FORMULAS: dict[str, Formula] = {
    # arithmetic
    "add": _f("a + b", a="g", b="g"),
    "sub": _f("a − b", a="g", b="−g"),
    "mul": _f("a ⊙ b", a="g ⊙ b", b="g ⊙ a"),
    "div": _f("a / b", a="g / b", b="−g ⊙ y / b"),
    "neg": _f("−x", x="−g"),
    "rounded_div": _f("⌊a / b⌋", a="0", b="0"),
    "pow": _f("a^b", a="g ⊙ b a^(b−1)", b="g ⊙ y ⊙ ln a"),
    # exponentials and relatives
    "exp": _f("eˣ", x="g ⊙ y"),
    "expm1": _f("eˣ − 1", x="g ⊙ (y + 1)"),
    "expm1_below": _f("eˣ − 1", x="g ⊙ eˣ"),
    "log": _f("ln x", x="g / x"),
    "log1p": _f("ln(1 + x)", x="g / (1 + x)"),
    "sqrt": _f("√x", x="g / 2y"),
    "rsqrt": _f("1 / √x", x="−½ g ⊙ y³"),
    "reciprocal": _f("1 / x", x="−g ⊙ y²"),
    "square": _f("x²", x="2 g ⊙ x"),
    "sin": _f("sin x", x="g ⊙ cos x"),
    "cos": _f("cos x", x="−g ⊙ sin x"),
    "tanh": _f("tanh x", x="g ⊙ (1 − y²)"),
    "erfinv": _f("erf⁻¹ x", x="g ⊙ √π/2 e^(y²)"),
    "erf": _f("erf x", x="g ⊙ 2/√π e^(−x²)"),
    # kinks and choices
    "abs": _f("|x|", x="g ⊙ sign x"),
    "sign": _f("sign x", x="0"),
    "maximum": _f("max(a, b)", a="g where a > b, g/2 where a = b", b="g where b > a, g/2 where a = b"),
    "minimum": _f("min(a, b)", a="g where a < b, g/2 where a = b", b="g where b < a, g/2 where a = b"),
    "clamp": _f("min(max(x, lo), hi)", x="g where lo ≤ x ≤ hi", min="g where x < lo", max="g where x > hi"),
    "where": _f("a where c, else b", a="g where c", b="g where not c"),
    "masked_fill": _f("value where mask, else x", x="g where not mask", value="Σ g where mask"),
    # copies
    "clone": _f("x", x="g"),
    "alias": _f("x", x="g"),
    "cast": _f("x as another dtype", x="g"),
    "to": _f("x on another device", x="g, brought back"),
    "detach": _f("x, history cut", x=""),
    # activations
    "relu": _f("max(x, 0)", x="g where y > 0"),
    "leaky_relu": _f("x where x > 0, else slope · x", x="g where x > 0, else slope · g"),
    "hardtanh": _f("x, kept between min and max", x="g between them, else 0"),
    "hardswish": _f("x · min(max(x + 3, 0), 6) / 6", x="0 up to −3, g from 3 on, g ⊙ (x/3 + 1/2) between"),
    "huber": _f("x²/2 up to δ, δ (|x| − δ/2) beyond", x="g ⊙ x, kept between −δ and δ"),
    "sigmoid": _f("σ(x) = 1 / (1 + e⁻ˣ)", x="g ⊙ y ⊙ (1 − y)"),
    "silu": _f("x ⊙ σ(x)", x="g ⊙ σ(x) ⊙ (1 + x ⊙ (1 − σ(x)))"),
    "softplus": _f("ln(1 + e^(βx)) / β", x="g ⊙ σ(βx)"),
    "logsigmoid": _f("ln σ(x)", x="g ⊙ σ(−x)"),
    "gelu": _f("x ⊙ Φ(x)", x="g ⊙ (Φ(x) + x ⊙ φ(x))"),
    "batch_mean_var": _f("Σ x / n, Σ (x − mean)² / n"),
    "contiguous": _f("x", x="g"),
    "vector_norm": _f("(Σ |x|ᵖ)^(1/p)", x="g ⊙ sign(x) |x|ᵖ⁻¹ / yᵖ⁻¹"),
    "max_pool": _f("max x, over each window", x="g, at the largest"),
    "softmax": _f("eˣ / Σ eˣ", x="y ⊙ (g − Σ g ⊙ y)"),
    "log_softmax": _f("x − ln Σ eˣ", x="g − e^y Σ g"),
    "dropout": _f("x ⊙ keep / (1 − p)", x="g ⊙ keep / (1 − p)"),
    # layers
    "linear": _f("x Wᵀ + b", x="g W", weight="gᵀ x", bias="Σ g"),
    "linear_gelu": _f(
        "u ⊙ Φ(u),  u = x Wᵀ + b", x="h W,  h = g ⊙ (Φ(u) + u ⊙ φ(u))", weight="hᵀ x", bias="Σ h"
    ),
    "embedding": _f("W[index]", weight="adds each g to the row it was read from"),
    "embedding_gradient": _f("adds each g to its row", g="g[index]"),
    "layer_norm": _f("γ ⊙ (x − μ) / σ + β", x="(γ⊙g − mean(γ⊙g) − x̂ ⊙ mean(γ⊙g⊙x̂)) / σ", weight="Σ g ⊙ x̂", bias="Σ g"),
    "attention": _f("A V,  A = softmax(Q Kᵀ/√d)", **_ATTENTION),
    "tiled_attention": _f("A V,  A = softmax(Q Kᵀ/√d)", **_ATTENTION),
    "packed_attention": _f("A V,  A = softmax(Q Kᵀ/√d)", qkv="(S K/√d,  Sᵀ Q/√d,  Aᵀ g),  S = A ⊙ (g Vᵀ − Σ A ⊙ g Vᵀ)"),
    "nll": _f("−x[class]", x="−g where it was read"),
    "cross_entropy": _f("−ln softmax(x)[class]", x="g (softmax(x) − 1[class])"),
    "binary_cross_entropy": _f(
        "−(t ln x + (1 − t) ln(1 − x))", x="g ⊙ (x − t) / (x ⊙ (1 − x))", target="g ⊙ (ln(1 − x) − ln x)"
    ),
    # products
    "matmul": _f("a b", a="g bᵀ", b="aᵀ g"),
    "einsum": _f("Σ of products, as the letters say", xs="Σ of g with the other factors"),
    # sums and extremes
    "sum": _f("Σ x", x="g, repeated"),
    "mean": _f("Σ x / n", x="g / n, repeated"),
    "var": _f("Σ (x − μ)² / (n − c)", x="2 g (x − μ) / (n − c)"),
    "std": _f("√(Σ (x − μ)² / (n − c))", x="g (x − μ) / ((n − c) y)"),
    "amax": _f("max x", x="g where x = y, equal shares"),
    "amin": _f("min x", x="g where x = y, equal shares"),
    "pick": _f("max or min x, and where", x="g at that place"),
    "prod": _f("Π x", x="g Π of the others"),
    "logsumexp": _f("ln Σ eˣ", x="g ⊙ e^(x − y)"),
    "median": _f("the middle of x", x="g where x = y, equal shares"),
    "cumprod": _f("running Π x", x="running Σ g ⊙ y from the end / x"),
    "cumsum": _f("running Σ x", x="running Σ g from the end"),
    # order and place
    "reshape": _f("x, another shape", x="g, the shape of x"),
    "permute": _f("x, axes in another order", x="g, axes put back"),
    "flip": _f("x reversed", x="g reversed"),
    "roll": _f("x shifted", x="g shifted back"),
    "broadcast_to": _f("x repeated", x="Σ g over the copies"),
    "tril": _f("lower triangle of x", x="lower triangle of g"),
    "triu": _f("upper triangle of x", x="upper triangle of g"),
    "pad": _f("x with a border", x="g without the border"),
    "cat": _f("x₁, x₂ … end to end", xs="the part of g that came from it"),
    "stack": _f("x₁, x₂ … on a new axis", xs="the slice of g that came from it"),
    "getitem": _f("x[index]", x="g at the index, 0 elsewhere"),
    "place": _f("values at the index, 0 elsewhere", values="g[index]"),
    "setitem": _f("x with x[index] = value", x="g, 0 at the index", value="g[index]"),
    "gather": _f("x[index] along one axis", x="g added where it was read"),
    "scatter": _f("values added at the index", values="g[index] along one axis"),
    # comparisons
    "eq": _f("a = b"),
    "ne": _f("a ≠ b"),
    "lt": _f("a < b"),
    "le": _f("a ≤ b"),
    "gt": _f("a > b"),
    "ge": _f("a ≥ b"),
    "logical_not": _f("not x"),
    "logical_and": _f("a and b"),
    "logical_or": _f("a or b"),
    "isfinite": _f("x is finite"),
    "argmax": _f("where x is largest"),
    "argtop": _f("where the k largest x are, or the smallest"),
    "argmin": _f("where x is smallest"),
    # of nn.DataParallel
    "join": _f("the workers’ parts end to end", parts="the part of g that came from it"),
}  # fmt: skip


LETTERS = {"weight": "W", "bias": "b", "qkv": "Q"}  # inputs whose letter in the formulas is not their name
_RAISED = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")


def filled_in(text: str, letters: dict[str, str]) -> str:
    """Replace letters of a formula: a^b with {"a": "x", "b": "3"} is x³."""
    if not letters:
        return text
    pattern = rf"(?<!\w)({'|'.join(map(re.escape, letters))})(?![\w(])"
    text = re.sub(pattern, lambda found: letters[found[0]], text.replace("ˣ", "^x") if "x" in letters else text)
    return re.sub(r"\^\(?(-?\d+)\)?(?![\w.−])", lambda found: found[1].translate(_RAISED), text)


def formula(op: str) -> Formula:
    """Return the formula of an operation by its name.

    For one of tinyattn.ops that is not in the table, the first sentence of its docstring; for a custom one, empty.
    """
    found = FORMULAS.get(op)
    if found is None:
        text = getattr(getattr(ops, op, None), "__doc__", None) or ""
        found = Formula(text.split(". ")[0].split("\n")[0], {})
    return found
