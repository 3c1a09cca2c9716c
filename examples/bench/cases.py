"""The table of operations beside PyTorch: expressions that both libraries run, forward, and forward and backward."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from itertools import product
from typing import Any

import numpy as np

from bench.compare import Effort, Table
from bench.side import Side

LIMIT = 3  # a ratio above it is a cliff

# A line is an expression and its inputs. Words in braces are alternatives. L is the library, F its functions.
# An input is a name, a shape and words: T (transposed), half (every second column), double, positive, zero (one element
# is 0), <n (integers below n). A name that comes again begins another case. M is a module, with its parameters.
LINES = """
L.{exp log sqrt tanh sin erf abs sigmoid square reciprocal}(x) | x 1000000 positive
L.{exp erf abs sigmoid}(x) | x 10000
L.{exp erf}(x) | x 1000,1000 T ; x 300000 double
L.{log1p rsqrt cos sign relu neg}(x) | x 1000000 positive
L.relu(x) | x 10000 ; x 1000,1000 T ; x 1000,2000 half
F.gelu(x) | x 64,256 ; x 64,49,256 ; x 300000 double ; x 1000,1000 T
F.{silu softplus logsigmoid}(x) | x 300000
F.gelu(x, approximate='tanh') | x 1000000
x {+ /} y | x 10000 ; y 10000 positive
x {+ * /} y | x 1000000 ; y 1000000 positive
x {+ *} y | x 1000,1000 ; y 1000 positive
x {+ *} y | x 1000,1000 ; y 1000,1 positive
x + y | x 1000,1 ; y 1000
x + y | x 1000,1000 ; y 1000,1000 T
x + y | x 64,49,256 ; y 49,256
x {+ * /} 2.5 | x 1000000
x ** {2 3 -1 -2 0.5 1.5} | x 1000000 positive
x ** y | x 300000 positive ; y 300000
L.div(x, y, rounding_mode='{floor trunc}') | x 1000000 ; y 1000000 positive
i {// +} j | i 1000000 <1000 ; j 1000000 <1000
L.clamp(x, -0.5, 0.5) | x 1000000
L.clamp(x, min=0.1) | x 1000000
L.maximum(x, y) | x 1000000 ; y 1000000
L.where(x > 0, x, y) | x 1000000 ; y 1000000
x.masked_fill(x > 0, 0.5) | x 1000000
L.{sum mean amax var}(x) | x 1000,1000
L.sum(x, {0 1}) | x 1000,1000 ; x 250000,4
L.{mean amax}(x, {0 1}) | x 1000,1000 ; x 250000,4
L.var(x, {0 1}) | x 1000,1000
L.prod(x) | x 16000 ; x 16000 zero
L.prod(x, 0) | x 1000,100 zero
L.cumsum(x, {0 1}) | x 1000,1000 ; x 250000,4
L.logsumexp(x, {0 1}) | x 1000,1000
L.max(x, 1)[0] | x 1000,1000
i.argmax(1) | i 1000,1000 <1000
L.softmax(x, {0 1}) | x 1000,1000
L.softmax(x, {0 1}) | x 64,196
L.log_softmax(x, 1) | x 1000,1000
F.cross_entropy(x, i) | x 64,10 ; i 64 <10
F.cross_entropy(x, i) | x 256,1000 ; i 256 <1000
F.cross_entropy(x, i) | x 8,10,100,100 ; i 8,100,100 <10
F.nll_loss(x, i) | x 64,50000 ; i 64 <50000
F.nll_loss(x, i) | x 10000,10 ; i 10000 <10
F.{mse_loss l1_loss}(x, y) | x 300000 ; y 300000
F.binary_cross_entropy_with_logits(x, (i > 3) * 1.0) | x 300000 ; i 300000 <6
F.layer_norm(x, (64,), y, z) | x 3136,64 ; y 64 ; z 64
F.linear(x, y, z) | x 64,256 ; y 64,256 ; z 64
F.embedding(i, x) | i 64,49 <1000 ; x 1000,64
x @ y | x 32,32 ; y 32,32
x @ y | x 256,256 ; y 256,256
x @ y | x 32,100,64 ; y 32,64,100
x @ y | x 32,100,64 ; y 64,64
x @ y | x 1000000 ; y 1000000
x @ y | x 1000,1000 ; y 1000
i @ j | i 256,256 <100 ; j 256,256 <100
L.outer(x, y) | x 1000 ; y 1000
L.einsum('ij->ji', x) | x 1000,1000
L.einsum('ij->{i j}', x) | x 1000,1000
L.einsum('{ij,jk->ik ij,jk->ki}', x, y) | x 256,256 ; y 256,256
L.einsum('bij,bjk->bik', x, y) | x 32,64,64 ; y 32,64,64
L.einsum('i,j->ij', x, y) | x 1000 ; y 1000
L.einsum('ij,ij->i', x, y) | x 1000,1000 ; y 1000,1000
L.einsum('ii->i', x) | x 1000,1000
F.pad(x, (3, 3), mode='{replicate circular}') | x 8,16,10000
F.pad(x, (3, 3, 3, 3), mode='{replicate reflect circular constant}') | x 8,16,64,64
L.cat([x] * 1000) | x 100
L.cat(L.split(x, 100)) | x 100000
L.stack([x] * 1000) | x 100
L.cat([x, y], {0 1}) | x 1000,500 ; y 1000,500
L.stack([x, y], 1) | x 1000,500 ; y 1000,500
L.cat(L.chunk(x, 4, 1), 1) | x 1000,1000
x.permute(2, 0, 1).contiguous() | x 100,100,100
x.T.contiguous() | x 1000,1000
L.flip(x, (1,)) | x 1000,1000
L.roll(x, 3, 1) | x 1000,1000
L.tril(x) | x 1000,1000
x.expand(1000, 1000).clone() | x 1000,1
x[i] | x 1000,100 ; i 5000 <1000
x[i] | x 100000 ; i 100000 <100000
x[:, i] | x 1000,1000 ; i 500 <1000
x[i, j] | x 1000,1000 ; i 10000 <1000 ; j 10000 <1000
x[x > 0] | x 1000000
x[1:-1, ::2].clone() | x 1000,1000
L.index_select(x, {0 1}, i) | x 1000,1000 ; i 500 <1000
L.gather(x, {0 1}, i) | x 1000,1000 ; i 500,500 <1000
x.to(L.float64) | x 1000000
i > j | i 1000000 <1000 ; j 1000000 <1000
i.sum() | i 1000000 <1000
x.to(L.float16) + 1 | x 300000
x.to(L.float16).sum(0) | x 1000,300
L.{exp tanh abs sigmoid relu erf}(x) | x 1000
F.gelu(x) | x 1000
x {+ * /} y | x 1000 ; y 1000 positive
x * 2.5 | x 1000
L.{sum mean amax prod}(x) | x 1000
L.sum(x, {0 1 2}) | x 100,100,100
L.amax(x, {0 1 2}) | x 100,100,100
L.softmax(x, 1) | x 10,100
x @ y | x 8,8 ; y 8,8
L.flip(x, (0, 1)) | x 1000,1000
F.pad(x, (3, 3), mode='reflect') | x 8,16,10000
L.cat(L.split(x, 100)) | x 1000000
L.cat(L.split(x, 1)) | x 1000
L.stack(L.unbind(x)) | x 1000,100
sum(L.split(x, 1000)) | x 1000000
L.{exp tanh sigmoid relu abs neg sqrt erf}(x.to(L.float16)) | x 300000 positive
F.{gelu silu}(x.to(L.float16)) | x 300000
x.to(L.float16) {+ * /} y.to(L.float16) | x 300000 ; y 300000 positive
x.to(L.float16).sum() | x 300000
x.to(L.float16).sum(1) | x 1000,300
L.softmax(x.to(L.float16), 1) | x 1000,300
F.layer_norm(x.to(L.float16), (64,), y.to(L.float16), z.to(L.float16)) | x 3136,64 ; y 64 ; z 64
x.to(L.float16) @ y.to(L.float16) | x 256,256 ; y 256,256
x.to(L.float16).to(L.float32) | x 300000
x.to(L.float16) | x 300000
L.cumsum(x, 2) | x 100,100,100
L.cumprod(x, {0 1}) | x 1000,100 positive
L.prod(x, {0 1}) | x 1000,1000 positive
L.std(x, {0 1}) | x 1000,1000
F.dropout(x, 0.0) | x 300000
F.leaky_relu(x) | x 1000000
F.{elu selu hardtanh relu6 hardswish mish}(x) | x 300000
F.smooth_l1_loss(x, y) | x 300000 ; y 300000
F.max_pool2d(x, 2) | x 8,16,64,64
F.avg_pool2d(x, 2) | x 8,16,64,64
F.conv2d(x, y) | x 8,16,32,32 ; y 16,16,3,3
F.conv2d(x, y, padding=1) | x 64,32,28,28 ; y 32,32,3,3
F.max_pool2d(x, 2) | x 64,32,28,28
F.batch_norm(x, None, None, y, z, training=True) | x 256,64 ; y 64 ; z 64
F.batch_norm(x, None, None, y, z, training=True) | x 64,32,28,28 ; y 32 ; z 32
L.sort(x, 1)[0] | x 1000,1000
L.topk(x, 5)[0] | x 1000,1000
L.cumsum(x, 0) | x 1000000
x.repeat(1, 10) | x 1000,100
x.repeat_interleave(10, 0) | x 1000,100
x.t().reshape(-1) | x 1000,1000
L.triu(x) | x 1000,1000
L.diagonal(x).clone() | x 1000,1000
x.scatter_add(0, i, y) | x 1000,1000 ; i 500,500 <1000 ; y 500,500
x.index_add(0, i, y) | x 1000,100 ; i 5000 <1000 ; y 5000,100
L.take_along_dim(x, i, 1) | x 1000,1000 ; i 1000,500 <1000
L.lerp(x, y, 0.3) | x 1000000 ; y 1000000
L.addmm(z, x, y) | x 256,256 ; y 256,256 ; z 256
L.minimum(x, y) | x 1000000 ; y 1000000
L.atan2(x, y) | x 300000 ; y 300000
M(x)[0] | x 50,32,128 ; M LSTM(128, 128)
L.norm(x) | x 1000,1000
x.norm(dim=1) | x 1000,1000
"""


def cases() -> list[tuple[str, str]]:
    """Every expression with each of its inputs."""
    found = []
    for line in LINES.strip().splitlines():
        expression, _, inputs = map(str.strip, line.partition("|"))
        parts = re.split(r"\{(.*?)\}", expression)
        texts = ["".join(words) for words in product(*(p.split() if i % 2 else [p] for i, p in enumerate(parts)))]
        variants: list[dict[str, str]] = [{}]
        for one in map(str.strip, inputs.split(";")):
            if one[0] in variants[-1]:
                variants.append({})
            variants[-1][one[0]] = one
        found += [(text, "; ".join(variant.values())) for text in texts for variant in variants]
    return found


def arrays(inputs: str) -> dict[str, np.ndarray]:
    """The inputs of a case, the same for every library."""
    random, found = np.random.default_rng(0), {}
    for one in inputs.split("; "):
        name, size, *words = one.split()
        if name == "M":
            continue
        shape = tuple(map(int, size.split(",")))
        below = [int(word[1:]) for word in words if word[0] == "<"]
        x: Any = random.integers(1, below[0], shape) if below else random.standard_normal(shape, dtype=np.float32)
        x = x.astype(np.float64) if "double" in words else x
        x = np.abs(x) + 0.1 if "positive" in words else x
        x = np.ascontiguousarray(x.T).T if "T" in words else x
        x = x[..., ::2] if "half" in words else x
        if "zero" in words:
            x = 1 + x / np.sqrt(x.size) / 10  # a product of many that stays finite
            x.reshape(-1)[7] = 0
        found[name] = x
    return found


def run(library: Any, functions: Any, gradient: Callable[..., Any], options: dict[str, Any]) -> Callable[[], Any]:
    """A case as a task of a library. options: expression; inputs; backward."""
    found = {name: library.from_numpy(array) for name, array in arrays(options["inputs"]).items()}
    leaves = [x.requires_grad_() for name, x in found.items() if name in "xyz" and options["backward"]]
    names = ", ".join(found)
    module = _module(library, options["inputs"].partition("; M ")[2])
    leaves += list(module.parameters()) if module else []
    forward = eval(f"lambda {names}: {options['expression']}", {"L": library, "F": functions, "M": module})
    out = forward(*found.values())
    if not options["backward"]:
        return lambda: forward(*found.values())
    leaves = [x for x in leaves if out.requires_grad]
    seed = library.from_numpy(np.random.default_rng(1).standard_normal(out.shape).astype(str(out.dtype).split(".")[-1]))

    def both() -> Any:
        out = forward(*found.values())
        return (out, *gradient(out, leaves, seed))

    return both


def _module(library: Any, text: str) -> Any:
    """The module `text` makes, with the same parameters in every library; None for an empty text."""
    if not text:
        return None
    made, random = eval(f"nn.{text}", {"nn": library.nn}), np.random.default_rng(2)
    with library.no_grad():
        for parameter in made.parameters():
            parameter.copy_(library.from_numpy(random.uniform(-0.1, 0.1, tuple(parameter.shape)).astype("float32")))
    return made


def table(bench: Any) -> dict[str, Any]:
    """Every case, forward, and forward and backward, on one thread: a row with both ratios."""
    sides = [Side("tinyattn", "engine"), Side("PyTorch", "pytorch")]
    effort = Effort(min(bench.effort.turns, 9), min(bench.effort.seconds, 0.04), bench.effort.quick)
    rows: list[list[Any]] = []
    ratios: tuple[list[float], ...] = ([], [])
    left_out: list[str] = []
    with Table(bench.chosen(sides), bench.say, tolerance=1e-3) as compared:
        for expression, inputs in cases()[:: 40 if bench.effort.quick else 1]:
            row = [f"`{expression}`", inputs]
            for backward in (False, True)[: 1 + any(x.dtype.kind == "f" for x in arrays(inputs).values())]:
                how = {"expression": expression, "inputs": inputs, "backward": backward}
                found = compared.compare(f"{expression} | {inputs}", "case", effort, **how)
                left_out += [f"`{expression}`: {line}" for line in found["left_out"]]
                row += [f"{found['sides'][0]['seconds'] * 1e6:,.0f}" if found["ratios"] else "", *_ratio(found)]
                ratios[backward].extend(r["ratio"] for r in found["ratios"])
            rows.append([*row, "", ""][:6])
    notes = [summary(name, found) for name, found in zip(("forward", "with backward"), ratios, strict=True)]
    columns = ["expression", "inputs", "forward, µs", "ratio", "with backward, µs", "ratio"]
    found = {"title": "tinyattn / PyTorch, one thread", "columns": columns, "rows": rows}
    return {"tables": [found], "notes": [*notes, *left_out]}


def summary(name: str, ratios: list[float]) -> str:
    """A line about the ratios of a column."""
    mean = math.exp(sum(map(math.log, ratios)) / max(len(ratios), 1))
    above = sum(ratio > LIMIT for ratio in ratios)
    largest = max(ratios, default=math.nan)
    return f"{name}: {len(ratios)} cases, geometric mean {mean:.2f}, {above} above {LIMIT}, largest {largest:.2f}"


def _ratio(found: dict[str, Any]) -> list[Any]:
    return [r["ratio"] for r in found["ratios"]] or [""]
