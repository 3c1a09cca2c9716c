"""Random programs, run on PyTorch and on tinyattn: every value, dtype, shape and gradient must agree.

    python tests/programs.py                           2,000 programs
    python tests/programs.py --count 50000 --processes 2
    python tests/programs.py --show 4711               one program, and what becomes of it

A program is text over two names, `T` (torch or tinyattn) and `F` (its functions): leaves of several dtypes and
layouts, then arithmetic, views, indexing, in-place writes, reductions, layers, hooks, `retain_grad`, `no_grad`,
`checkpoint` and branches side by side; at the end a backward pass, half of them with second derivatives. Lines that
PyTorch refuses are left out. tinyattn may refuse what `REFUSALS` lists, and nothing else; a program is excused where
PyTorch's result is an accident or its gradient NaN (`EXCUSED`, `NAN`, `_compare`). Both are counted, with the reason.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import pickle
import random
import re
import sys
import types
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any, NoReturn

import numpy as np
import program_lines as lines
import torch
import torch.utils.checkpoint

import tinyattn as ta
import tinyattn.nn.functional

REFUSALS = {  # the sentence: why it is right to say it
    r"saved '.*' .* changed it in place before backward": "a saved value was overwritten",
    r"view of a leaf that requires a gradient, or was taken": "a write into a view of a leaf",
    r"has to run once more": "checkpoint() of a tensor that was written to",
    r"several elements of this tensor .* are one": "a write into an expanded tensor",
    r"cannot be converted to uint8 without overflow": "a number that uint8 cannot hold",
    r"masked_fill: .* does not fit into|alpha is .* and the sum has dtype": "a fraction among integers",
    r"shares its memory with another one": "a recorded write through detach()",
    r"the result is int64 and cannot be stored in bool": "a running sum of booleans in place",
    r"out of range; expected 0 to -1": "an index into an axis of size 0",
    r"nothing has no median": "PyTorch's median of no integers is what is in the memory",
    r"attention: query .*\b0\b.* must agree": "attention of sizes that do not fit, one of them 0",
    r"a leaf that requires a gradient cannot be changed in place": "contiguous() copied in PyTorch, and gave the leaf here",
    r"as_strided: .* input of shape .*\b0\b": "memory beside a tensor of nothing",
    r"booleans cannot be subtracted": "a loss of no booleans",
    r"expected a leaf that requires a gradient": "PyTorch's diff of nothing depends on nothing",
    r"detach_: a view cannot be cut off": "a result that is a view of new memory, and none in PyTorch",
    r"mean: the tensor has dtype": "the norm of integers, which PyTorch takes if there are none",
    r"asks for a gradient of its own operations while it runs": "a gradient inside of checkpoint()",
    r"with inputs that require gradients": "checkpoint() of a function whose other tensors came to require gradients",
}


EXCUSED = [  # a line, what its inputs must be, and why PyTorch's result is not ours
    (r" (>|==) -", lambda xs: any(x.dtype == torch.uint8 for x in xs), "PyTorch makes 255 of -1 beside uint8"),
    (
        r"softm|scaled_dot|_norm|pool", lambda xs: not (xs[0].is_floating_point() or all(x.numel() for x in xs)),
        "PyTorch's softmax, attention, norms and pools take integers, if there are none",
    ),
    (
        r"l1_loss|margin", lambda xs: any(x.dtype == torch.uint8 for x in xs),
        "PyTorch's difference and negative of uint8 wrap around",
    ),
    (
        r"bucketize|searchsorted|multi_margin", lambda xs: any(bool(x.isnan().any()) for x in xs),
        "PyTorch's search among NaN is an accident, and its margin of NaN 0",
    ),
    (
        r"addmv", lambda xs: not xs[0].is_floating_point() and xs[0].ndim == 1,
        "PyTorch's addmv of integers gives its result the shape of the first argument, here one number",
    ),
    (r"median", lambda xs: not xs[0].is_contiguous(), "PyTorch's median of an expanded tensor returns what is in the memory"),
    (
        r"trapezoid", lambda xs: not all(bool(x.isfinite().all()) for x in xs),
        "PyTorch's trapezoid subtracts the ends from the sum of all",
    ),
    (r"T\.addr\(", lambda xs: len({x.dtype for x in xs}) > 1, "PyTorch's addr promotes as none of its other products"),
    (
        r"", lambda xs: any(x.dtype == torch.float16 for x in xs) and any(
            x.ndim == 0 and x.dtype in (torch.float32, torch.float64) and any(y.half() != y for y in (x, x * x + 1)) for x in xs),
        "PyTorch rounds a number to float16 before it computes with it",
    ),
    (r"softsign", lambda xs: xs[0].dtype in (torch.uint8, torch.int8), "PyTorch's 1 + 255 is 0 in uint8"),
    (r"copysign|signbit", lambda xs: any(bool(x.isnan().any()) for x in xs), "the sign of NaN is an accident"),
    (
        r"cosine_similarity|soft_margin", lambda xs: any(x.dtype == torch.float16 for x in xs),
        "PyTorch's vectors of float16 are measured, and its margins raised, in float16",
    ),
    (
        r"\.argsort\(", lambda xs: 16 < xs[0].numel() > xs[0].unique().numel(),
        "PyTorch's argsort of more than 16 numbers leaves equal ones in any order",
    ),
    (
        r"cross_entropy|cosine_emb|multi_margin", lambda xs: not xs[0].numel(),
        "PyTorch's loss of no classes or features is NaN, or what is in the memory",
    ),
    (
        r" @ |mm\(|matmul", lambda xs: len({x.dtype for x in xs}) > 1 and not all(x.numel() for x in xs),
        "PyTorch's product of mixed dtypes has one of its own, if there is nothing to add",
    ),
    (
        r"(\w+)\.b?add(b?mm|mv|r)_\(.*\b\1\b", lambda xs: True,
        "PyTorch's product reads the memory that it writes to",
    ),
    (r"interpolate", lambda xs: xs[0].dtype == torch.uint8, "PyTorch resizes images of uint8 in integers"),
    (
        r"block_diag", lambda xs: any(x.ndim == 0 for x in xs),
        "PyTorch's block_diag stores a single number in the dtype of the others",
    ),
    (
        r"soft_margin", lambda xs: any(bool((x.double().abs() > 80).any()) for x in xs),
        "PyTorch's soft margin overflows",
    ),
    (r"scaled_dot", lambda xs: not xs[0].numel(), "PyTorch's attention gives back a query of no numbers"),
    (
        r"einsum", lambda xs: len({x.dtype for x in xs}) > 1 or not xs[0].is_floating_point(),
        "PyTorch's einsum sums integers and mixed dtypes in a dtype of its own where a size is 0 or 1",
    ),
]  # fmt: skip
NAN = {  # PyTorch's gradient is NaN where ours is a number, or the other way round
    r"\.norm\(|normalize|cosine_similarity|cdist": "PyTorch's second derivative of a norm at 0 is NaN",
    r"\.am(ax|in)\(": "PyTorch's amax and amin spread NaN to all elements",
    r"copysign|sinc": "PyTorch's second derivatives of copysign and sinc at 0 are NaN",
    r"logsumexp": "PyTorch's second derivative of logsumexp at -inf is NaN",
    r"logaddexp": "PyTorch's second derivative of logaddexp overflows far from 0",
    r"gelu": "our second derivative of gelu at 0 is NaN where the gradient there is infinite",
    r"_loss\(": "a loss of nothing is NaN, and so may be its product with the gradient of another",
    r"pow_?\(0\.5": "PyTorch's power of 0.5 is the square root, also of -0",
    r"[.T](var|std)(_mean)?\(": "PyTorch's gradient of the spread of one number does not depend on it",
}
TOLERANCE = {"float64": 1e-9, "float32": 3e-4, "float16": 1e-2}
WRITE = r"(?<!grad)_\(|\] = | [+*/%-]{1,2}= |inplace=True"  # lines that write in place


class _Branches(ta.nn.Module):
    def __init__(self, function: Callable[[Any], Any]) -> None:
        super().__init__()
        self.forward = function


def _side_by_side(function: Callable[[Any], Any], x: Any) -> Any:
    """`function` on each half of `x`, in two threads."""
    return ta.nn.DataParallel(_Branches(function), workers=2)(x) if x.ndim and len(x) > 1 else function(x)


def _functions(T: Any) -> tuple[Any, Any]:
    """Two functions with gradients of their own: the square, and the double with the sine."""

    class Square(T.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            ctx.save_for_backward(x)
            return x * x

        @staticmethod
        def backward(ctx: Any, g: Any) -> Any:
            return 2 * g * ctx.saved_tensors[0]

    class Parts(T.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Any) -> Any:
            sine = x.sin()
            ctx.save_for_backward(x, sine)
            return x * 2, sine

        @staticmethod
        def backward(ctx: Any, g: Any, h: Any) -> Any:
            return g * 2 + h * ctx.saved_tensors[0].cos()

    return Square.apply, Parts.apply


def namespace(library: types.ModuleType) -> dict[str, Any]:
    """The names that a program may use."""
    derivatives = torch.autograd.functional if library is torch else ta.autograd
    square, parts = _functions(library)

    def zero(x: Any) -> Any:  # so that derivatives that are constant require a gradient in both, too
        return (x if x.requires_grad else x.detach().requires_grad_()).sum() * 0

    def slope(function: Callable[[Any], Any], x: Any) -> Any:
        return library.autograd.grad(function(x).sum(), x, create_graph=True)[0] + x * 0

    def vjp(function: Callable[[Any], Any], x: Any) -> Any:
        return derivatives.vjp(function, x, function(x).detach(), create_graph=True)[1] + zero(x)

    def jvp(function: Callable[[Any], Any], x: Any) -> Any:
        return derivatives.jvp(function, x, x.detach() + 1, create_graph=True)[1] + zero(x)

    def hvp(function: Callable[[Any], Any], x: Any) -> Any:
        return derivatives.hvp(function, x, x.detach() + 1, create_graph=True)[1] + zero(x)

    def no_grad_of(function: Callable[[Any], Any], x: Any) -> Any:
        with library.no_grad():
            y = function(x)
        return y.sum() * x

    def compiled(function: Callable[[Any], Any], x: Any) -> Any:
        if library is torch:
            return function(x)
        program = ta.compile(function)
        out = program(x)
        retained = None if x.grad is None else x.grad.clone()  # by a gradient inside of the function, at each call
        for _ in range(3):
            out = program(x)
        x.grad = retained
        return out

    names = {
        "T": library, "twice": square, "parts": parts, "slope": slope, "vjp": vjp, "jvp": jvp, "hvp": hvp,
        "no_grad_of": no_grad_of, "compiled": compiled, "copy": copy, "pickle": pickle,
    }  # fmt: skip
    if library is torch:
        return names | {
            "F": torch.nn.functional, "branches": lambda function, x: function(x),
            "checkpoint": lambda function, *xs: torch.utils.checkpoint.checkpoint(function, *xs, use_reentrant=False),
        }  # fmt: skip
    return names | {"F": tinyattn.nn.functional, "branches": _side_by_side, "checkpoint": ta.checkpoint}


class Program:
    """Lines that PyTorch runs without an error, and the values it gave."""

    def __init__(self, seed: int, length: int = 12) -> None:
        self.seed, self.random, self.lines = seed, random.Random(seed), []
        self.names = namespace(torch)
        self.leaves: list[str] = []
        for _ in range(self.random.choice((1, 2, 2, 3))):
            self._leaf()
        for _ in range(10 * length):
            if len(self.lines) >= length:
                break
            self._try(self._line())

    def _leaf(self) -> None:
        pick, name = self.random, f"x{len(self.lines)}"
        shape = pick.choice([(), (1,), (3,), (2, 3), (3, 2), (2, 2), (1, 3), (2, 3, 2), (0,), (2, 0), (4, 3)])
        dtype = pick.choice(["float64"] * 7 + "float32 float16 int64 bool uint8 int8 int32".split())
        count = int(np.prod(shape))
        spread = [
            pick.randint(0, 3) if dtype == "uint8" else pick.randint(-6, 6) / (1 if "int" in dtype else 4)
            for _ in range(count)
        ]
        numbers = spread if dtype != "bool" else [x > 0 for x in spread]
        values = np.reshape(np.array(numbers, dtype), shape).tolist()
        grad = ", requires_grad=True" if "float" in dtype and pick.random() < 0.9 else ""
        self._try(
            f"{name} = T.tensor({values}, dtype=T.{dtype}{grad})"
            if count
            else f"{name} = T.zeros({shape}, dtype=T.{dtype}{grad})"
        )
        if grad:
            self.leaves.append(name)

    def variables(self) -> list[str]:
        """The names of the tensors so far."""
        return [name for name, value in self.names.items() if isinstance(value, torch.Tensor)]

    def _index(self, shape: tuple[int, ...]) -> str:
        pick, parts = self.random, []
        for size in shape[: pick.randint(0, len(shape))]:
            parts.append(
                pick.choice(
                    [":", "0", "-1", "1:", ":1", "::2", "[0, 0]", "[-1]", "...", "None", f"[{[True] * size}][0]"]
                )
            )
        if parts.count("...") > 1 or not parts:
            return pick.choice(["...", ":", "None"]) if shape else "..."
        return ", ".join(parts)

    def _line(self) -> str:
        pick, known = self.random, self.variables()
        a, b = pick.choice(known), pick.choice(known)
        if pick.random() < 0.3:  # towards the last ones, so that programs grow deep
            a = known[-1]
        shape = tuple(self.names[a].shape)
        d, e = (pick.randrange(-len(shape), len(shape)) if shape else 0 for _ in range(2))
        words: dict[str, Any] = {
            "a": a,
            "b": b,
            "s": pick.choice([2, 0.5, -1, 3.0, 1]),
            "d": d,
            "e": e,
            "i": self._index(shape),
        }
        new = f"v{len(self.lines)} = "
        kind = pick.choice(
            (
                "unary",
                "binary",
                "binary",
                "reduce",
                "in place",
                "in place",
                "view",
                "view",
                "join",
                "join",
                "wrap",
                "mark",
            )
        )
        if kind == "unary":
            function = pick.choice(lines.UNARY)
            inner = {
                "tanh": f"{a}.tanh()",
                "square": f"{a}.square()",
                "positive": f"({a}.square() + 1.5)",
                "unit": f"({a}.tanh() * 0.4 + 0.5)",
                "inner": f"({a}.tanh() * 0.9)",
            }.get(lines.SAFE.get(function, ""), a)
            line = f"{new}{inner}.{function}()"
        elif kind == "binary":
            line = new + pick.choice(lines.BINARY).format(a=a, b=pick.choice([b, b, str(words["s"])]))
        elif kind == "reduce":
            function, keep = pick.choice(lines.REDUCTIONS), ", keepdim=True" * pick.randint(0, 1)
            plain = function in lines.PLAIN
            some = (
                f"dim={d}" + ("" if plain else keep) if plain or function == "logsumexp" or pick.random() < 0.7 else ""
            )
            line = f"{new}{a}.{function}({some})" + ("[0]" if function in lines.PAIRS and (some or plain) else "")
        elif kind == "wrap":
            body = pick.choice(lines.BODIES + lines.ROWS * (len(shape) > 1))
            line = new + pick.choice(lines.WRAPPED).format(body=body, **words)
        else:
            if kind == "in place":  # PyTorch leaves open which of two values at one place stays
                words["i"] = words["i"].replace("[0, 0]", "[0]")
            text = pick.choice(
                {"in place": lines.IN_PLACE, "view": lines.VIEWS, "join": lines.JOINS, "mark": lines.MARKS}[kind]
            ).format(**words)
            line = text if kind in ("in place", "mark") else new + text
        if pick.random() < 0.06 and kind not in ("mark", "view", "wrap"):  # PyTorch's views there require gradients
            line = f"with T.no_grad(): {line}"
        return line

    def _sharing_memory(self, name: str) -> list[str]:
        """The other tensors in the memory of this one."""
        place = {v: self.names[v].untyped_storage()._cdata for v in self.variables()}
        return [v for v in place if v != name and place[v] == place.get(name)]

    def _try(self, line: str) -> None:
        if any(
            not hasattr(ta.Tensor, name)
            for name in re.findall(r"[\w\])]\.(\w+)\(", line.replace("T.", "").replace("F.", ""))
        ):
            return  # tinyattn has no such method
        if any(
            not hasattr(ta if where == "T" else tinyattn.nn.functional, name)
            for where, name in re.findall(r"\b([TF])\.(\w+)", line)
        ):
            return
        target = re.sub(r"^with T.no_grad\(\): ", "", line)
        target = re.search(r"[vx]\d+", target)[0] if re.search(WRITE + r"|^\w+\.requires_grad_", target) else ""
        others = self._sharing_memory(target)
        if any(re.search(rf"\b{other}\b", line) for other in others):
            return  # PyTorch may read there what it has just written
        if re.search(r"no_grad.* x\d+\.(squeeze_|unsqueeze_|transpose_|t_)\(", line):
            return  # a leaf of another shape cannot take the gradient of what was computed before
        if others and ".detach_" in line:
            return  # PyTorch cuts its views off, too, as soon as they are written to
        if others and ".requires_grad_" in line:
            return  # PyTorch's views of it then require gradients that arrive nowhere
        views = [target] if target in self.names and self.names[target]._is_view() else []
        if any(re.search(rf"^{other}\.re(tain|gister)", str(self), re.MULTILINE) for other in others + views):
            return  # PyTorch forgets the hooks of a view then, and retains the gradient of the old values
        if re.search(r"squeeze_\(|transpose_\(|\.t_\(", line) and f"{target}.retain_grad" in str(self):
            return  # PyTorch retains the gradient of the former shape
        if re.search("retain|hook", line) and any(re.search(WRITE, other) for other in self.lines):
            return  # on a view whose base was written to, PyTorch 2.13 may crash there
        try:
            exec(line, self.names)
        except Exception:
            return
        if any(v.numel() > 4000 or v.is_complex() for v in self.names.values() if isinstance(v, torch.Tensor)):
            raise EndedError("too large")
        self.lines.append(line)

    def __str__(self) -> str:
        return "\n".join(self.lines)


class DifferenceError(AssertionError):
    """tinyattn did something else than PyTorch."""


class GradientError(DifferenceError):
    """A gradient is another one."""


class EndedError(Exception):
    """A program was not compared to its end; the text says why."""


def _same(name: str, ours: Any, theirs: Any, tolerance: float = 0.0) -> None:
    if ours is None or theirs is None:  # which is as good as zeros
        given = theirs if ours is None else ours
        if given is not None and bool((given.abs() > tolerance).any()):  # less is rounding
            raise DifferenceError(f"{name} is {ours}, PyTorch's {theirs}")
        return
    if not isinstance(ours, ta.Tensor):
        raise DifferenceError(f"{name} is a {type(ours).__name__}, not a tensor")
    right, wrong = theirs.detach().numpy(force=True), ours.detach().numpy()
    if not isinstance(ours.array, np.ndarray):
        raise DifferenceError(f"{name} holds a {type(ours.array).__name__}, not an array")
    if (right.shape, right.dtype) != (wrong.shape, wrong.dtype):
        raise DifferenceError(f"{name} is {wrong.dtype} {wrong.shape}, PyTorch's {right.dtype} {right.shape}")
    if not (_close(wrong, right, tolerance) if right.dtype.kind == "f" else np.array_equal(right, wrong)):
        raise DifferenceError(f"{name} is\n{wrong}\nPyTorch's\n{right}")


def _close(ours: np.ndarray, theirs: np.ndarray, tolerance: float, floor: float = 1.0) -> bool:
    scale = max(TOLERANCE[theirs.dtype.name], tolerance)
    largest = np.abs(theirs[np.isfinite(theirs)]).max(initial=floor)
    return np.allclose(ours, theirs, rtol=scale, atol=scale * largest, equal_nan=True)


def _differ_in_nan(ours: Any, theirs: Any, tolerance: float) -> bool:
    """Whether two gradients are equal where neither is NaN."""
    given = [
        x.detach().numpy(force=True) if isinstance(x, torch.Tensor) else x.detach().numpy()
        for x in (ours, theirs)
        if x is not None
    ]
    a, b = given if len(given) == 2 else (given[0], np.zeros_like(given[0]))
    if a.shape != b.shape:
        return False
    numbers = ~(np.isnan(a) | np.isnan(b))
    beside = np.abs(a[np.isfinite(a)]).max(initial=1)  # where PyTorch's is NaN, ours may be 1e20, with its rounding
    return _close(a[numbers], b[numbers], tolerance, beside)


def _total(names: dict[str, Any], variables: list[str]) -> Any:
    """A number that depends on every variable that requires a gradient."""
    parts = [(names[v] * (i + 1)).sum() for i, v in enumerate(variables) if names[v].requires_grad]
    total = None
    for part in parts:
        part = part.to(names["T"].float64)
        total = part if total is None else total + part
    return total


def _gradients(names: dict[str, Any], variables: list[str], wanted: list[str], second: bool) -> dict[str, Any]:
    total = _total(names, variables)
    if total is None:
        return {}
    if not second:
        total.backward()
        return {name: names[name].grad for name in wanted}
    leaves = [names[name] for name in wanted if names[name].is_leaf]  # else second derivatives depend on formulas
    if not leaves:
        return {}
    first = names["T"].autograd.grad(total, leaves, create_graph=True, allow_unused=True)
    norm = None
    for g in first:
        if g is not None and g.requires_grad:
            square = (g * g).sum().to(names["T"].float64)
            norm = square if norm is None else norm + square
    found = {f"d{i}": g for i, g in enumerate(first)}
    if norm is not None:
        found |= {f"dd{i}": g for i, g in enumerate(names["T"].autograd.grad(norm, leaves, allow_unused=True))}
    return found


def run(seed: int) -> str:
    """Run one program on both; says how it ended ("same", or why it was given up). Raises DifferenceError."""
    try:
        program = Program(seed)
        try:
            _compare(program)
        except DifferenceError as error:
            derived = re.search(r"(slope|[vj]vp|hvp|twice)\(|cosine_emb", str(error).split("\n")[0])
            if type(error) is not GradientError and not derived:
                raise
            if not re.search("float16|float32", str(program)):
                raise
            program.lines = [re.sub("float16|float32", "float64", line) for line in program.lines]
            with _float64_by_default():
                _compare(program)
            return "excused: rounding of float16 or float32, magnified by the rest of the program: the same in float64"
    except EndedError as end:
        return str(end)
    return "same"


@contextmanager
def _float64_by_default() -> Iterator[None]:
    for library in (torch, ta):
        library.set_default_dtype(library.float64)
    try:
        yield
    finally:
        for library in (torch, ta):
            library.set_default_dtype(library.float32)


def _compare(program: Program) -> None:
    theirs, ours = namespace(torch), namespace(ta)
    tolerance = 0.0  # that of the least precise tensor so far
    text = str(program)
    doubts: list[tuple[str, set[Any]]] = []  # why PyTorch's gradients may be others, and what those are of
    for line in program.lines:
        before = {name: theirs[name].detach().clone() for name in re.findall(r"\b[vx]\d+", line) if name in theirs}
        try:
            exec(line, theirs)
        except RuntimeError as error:  # while the program was made, a line that failed had half been done
            raise EndedError(f"PyTorch refuses: {str(error)[:40]}") from None
        try:
            with ta.definitions() if program.seed % 8 == 7 else nullcontext():
                exec(line, ours)
        except Exception as error:
            _judge(error, f"{line} raised {type(error).__name__}: {error}")
        new = re.match(r"(?:with T.no_grad\(\): )?(\w+) = ", line)
        for name in [new[1]] if new else [v for v in program.variables() if v in theirs]:
            tolerance = max(tolerance, TOLERANCE.get(str(theirs[name].dtype)[6:], 0))
            try:
                _same(f"{name} after `{line}`", ours[name], theirs[name], tolerance)
            except DifferenceError:
                _excuse(line, None if new else name, theirs, ours, before)
                raise
            values = theirs[name].detach().numpy(force=True), ours[name].detach().numpy()
            for reason in _doubts(line, text, *values, before):
                doubts.append((reason, _behind(theirs[name])))
            if theirs[name].requires_grad and not theirs[name].is_floating_point():
                raise EndedError("excused: PyTorch's integers require a gradient after a write that does")
            if theirs[name].requires_grad != ours[name].requires_grad:
                if re.search("trapezoid|local_resp", line) or (".diff(" in text and not theirs[name].numel()):
                    raise EndedError("excused: PyTorch's diff and trapezoid of nothing depend on nothing, or are views")
                raise DifferenceError(f"{name}.requires_grad is {ours[name].requires_grad} after `{line}`")
    variables = program.variables()
    kept = [v for v in variables if f"{v}.retain_grad()" in program.lines]
    wanted = [name for name in dict.fromkeys(program.leaves + kept) if theirs[name].requires_grad]
    hooks = re.search(r"register_hook\(lambda g: (?!None)", text)  # act on second derivatives as formulas have it
    leaves = [name for name in wanted if theirs[name].is_leaf]
    second = random.Random(program.seed).random() < 0.5 and not hooks
    try:
        right = _gradients(theirs, variables, wanted, second)
    except RuntimeError as error:
        raise EndedError(f"PyTorch refuses: {str(error)[:40]}") from None
    except AttributeError:  # of a hook on p.grad, which is None
        raise EndedError("PyTorch calls the hooks of a leaf that has taken requires_grad_(False) since") from None
    try:
        found = _gradients(ours, variables, wanted, second)
    except Exception as error:
        _judge(error, f"backward raised {type(error).__name__}: {error}")
    for name, gradient in right.items():
        try:
            _same(f"{name}, a {'second-order ' * second}gradient,", found.get(name), gradient, tolerance)
        except DifferenceError as error:
            leaf = theirs[leaves[int(name.strip("d"))] if second else name]
            for reason, behind in doubts:
                if name.startswith("dd") or leaf in behind or leaf.grad_fn in behind:
                    raise EndedError(f"excused: {reason}") from None
            reasons = [reason for pattern, reason in NAN.items() if re.search(pattern, text)]
            if reasons and _differ_in_nan(found.get(name), gradient, tolerance):
                raise EndedError(f"excused: {reasons[0]}") from None
            raise GradientError(str(error)) from None


def _behind(x: torch.Tensor) -> set[Any]:
    """The nodes of PyTorch's graph, and the leaves, whose gradients come through `x`."""
    found, nodes = set[Any](), [x.grad_fn]
    while nodes:
        node = nodes.pop()
        if node is not None and node not in found:
            found |= {node, getattr(node, "variable", node)}
            nodes += [source for source, _ in node.next_functions]
    return found


def _doubts(
    line: str, program: str, theirs: np.ndarray, ours: np.ndarray, before: dict[str, torch.Tensor]
) -> Iterator[str]:
    """Why PyTorch's gradients may be others than ours, as far as this line, its inputs and its result tell."""
    tiny = bool(((theirs != 0) & (np.abs(theirs) < 1e-12)).any()) if theirs.dtype.kind == "f" else False
    if not np.array_equal(theirs == 0, ours == 0):
        yield "a number is 0 in one of both and rounding in the other, where a slope jumps"
    if ".std(" in line and bool((np.abs(theirs) < 1e-6).any()):
        yield "PyTorch's std of equal numbers may be a rounding error with a slope"
    if "T.copysign(" in line and tiny:
        yield "PyTorch's second derivative of copysign is a difference of quotients by its input"
    if "F.prelu(" in line and bool((theirs == 0).any()):
        yield "PyTorch's prelu has the slope 1 at 0 in the second backward pass, and the weight in the first"
    if re.search(r"(jvp|vjp|hvp|slope|twice)\(.*layer_norm", line):
        yield "PyTorch's third derivative of layer_norm takes the mean and the deviation for constants"
    if "T.block_diag(" in line and any(x.shape == (0,) for x in before.values()):
        yield "PyTorch's gradient of block_diag forgets that a vector of nothing takes a row"
    if "T.topk(" in line and any(x.unique().numel() < x.numel() for x in before.values()):
        yield "which of equal numbers is among the largest is not defined"
    if re.search(r"max|min", line) and any(_nearly_equal(x) for x in before.values()):
        yield "numbers that differ by rounding, or not at all, and one of them is the largest"
    if "prod(" in line and any(bool((x.abs().double() < 1e-9).any()) for x in before.values() if x.is_floating_point()):
        yield "PyTorch's second derivative of a product divides by its factors, and some are tiny"
    if "atan2" in line and any(x.dtype in (torch.uint8, torch.int8) for x in before.values()):
        yield "PyTorch's gradient of atan2 squares 8-bit integers, which wraps around"
    if re.search(r"T\.pow\(.*, [vx]\d+\)|\.pow\([vx]\d|\*\* [vx]\d", line) and any(
        bool((x == 0).any()) for x in before.values()
    ):
        yield "PyTorch's second derivative of a power by its exponent takes the first one at 0 for a constant"
    if "logcumsumexp(" in line:
        yield "PyTorch's gradient of a running logsumexp is a difference of exponentials, also where it is 1"
    if "T.kron(" in line and re.search(WRITE, program):
        yield "PyTorch's kron forgets that what it has saved was written to"


def _nearly_equal(x: torch.Tensor) -> bool:
    """Whether some neighbours in order are apart by no more than rounding, and by something."""
    values = x.detach().double().flatten().sort().values
    steps = values.diff()
    return bool(((steps > 0) & (steps < 1e-12 * values.abs().clamp(min=1).max())).any()) if x.numel() else False


def _excuse(
    line: str, changed: str | None, theirs: dict[str, Any], ours: dict[str, Any], before: dict[str, torch.Tensor]
) -> None:
    """Raise EndedError if the values may differ after this line, which has `changed` a tensor in place.

    before: PyTorch's tensors that it names, as they were.
    """
    inputs = [theirs[x] for x in re.findall(r"\b[vx]\d+", line.split(" = ")[-1])]
    for pattern, applies, reason in EXCUSED:
        if re.search(pattern, line) and applies(inputs):
            raise EndedError(f"excused: {reason}")
    written = re.search(r"\b[vx]\d+", line)[0]
    try:
        alone = namespace(ta) | {name: ta.from_numpy(x.numpy()) for name, x in before.items()}
        exec(line, alone)
        _same(written, alone[written], theirs[written])
    except Exception:
        pass  # the line itself is to blame, not what came before it
    else:
        raise EndedError(
            "excused: inputs that differ by rounding, magnified by a step, a sine or a power: equal from PyTorch's"
        )
    if changed and _share(theirs, written, changed) != _share(ours, written, changed):
        raise EndedError("excused: a reshape or contiguous() copied in one of both, as results lie in another order")


def _share(names: dict[str, Any], a: str, b: str) -> bool:
    """Whether two tensors share their memory."""
    if names["T"] is torch:
        return names[a].untyped_storage()._cdata == names[b].untyped_storage()._cdata
    return names[a].storage is names[b].storage


def _judge(error: Exception, text: str) -> NoReturn:
    for pattern, reason in REFUSALS.items():
        if isinstance(error, RuntimeError | TypeError | IndexError) and re.search(pattern, str(error)):
            raise EndedError(f"refused: {reason}") from None
    raise DifferenceError(text) from error


def tally(seeds: range) -> tuple[Counter[str], dict[str, list[int]]]:
    """Run these programs; returns how often each end came, and the seeds of each kind of difference."""
    warnings.simplefilter("ignore")
    np.seterr(all="ignore")
    torch.set_num_threads(1)
    ends: Counter[str] = Counter()
    kinds: dict[str, list[int]] = {}
    for seed in seeds:
        try:
            ends[run(seed)] += 1
        except DifferenceError as error:
            ends["DIFFERENT"] += 1
            kind = re.sub(r"\b[vx]\d+|-?\d[\d.]*(e-?\d+)?", "#", str(error).split("\n")[0])[:150]
            kinds.setdefault(kind, []).append(seed)
        except Exception as error:  # of this file: the other programs run on
            ends["CRASHED"] += 1
            kinds.setdefault(f"CRASHED with {type(error).__name__}: {str(error)[:100]}", []).append(seed)
    return ends, kinds


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--show", type=int, help="print the program of this seed and run it")
    options = parser.parse_args()
    if options.show is not None:
        print(Program(options.show))
        print(run(options.show))
        return 0
    shares = [
        range(options.seed + i, options.seed + options.count, options.processes) for i in range(options.processes)
    ]
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        found = pool.map(tally, shares)
    ends = sum((ends for ends, _ in found), Counter())
    for end, count in ends.most_common():
        print(f"{count:7,} {end}")
    for kind, seeds in (item for _, kinds in found for item in kinds.items()):
        print(f"{len(seeds):7,} {kind}   --show {' '.join(map(str, seeds[:5]))}")
    return 1 if ends["DIFFERENT"] + ends["CRASHED"] else 0


if __name__ == "__main__":
    sys.exit(main())
