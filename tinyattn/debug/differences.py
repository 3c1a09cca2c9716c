"""gradcheck: backward against finite differences, in float64."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tinyattn import backends
from tinyattn.autograd.gradients import grad
from tinyattn.dtypes import float64
from tinyattn.grad_mode import enable_grad
from tinyattn.ops.creation import as_tensor, tensor
from tinyattn.ops.inplace import is_expanded
from tinyattn.tensors import Tensor

__all__ = ["GradcheckError", "NotDifferentiableError", "gradcheck", "gradgradcheck"]

Array = Any
Function = Callable[..., Any]


class GradcheckError(RuntimeError):
    """A gradient is wrong, or cannot be checked; the message names the input, the element and both values.

    >>> half = ta.operation(x=lambda xp, g: g)(lambda xp, x: x / 2)  # its rule should be g / 2
    >>> ta.gradcheck(half, (ta.ones(1, dtype=ta.float64, requires_grad=True),))
    Traceback (most recent call last):
    tinyattn.debug.differences.GradcheckError: ...
    """


class NotDifferentiableError(GradcheckError):
    """The inputs lie on a kink or a jump, where there is no gradient to compare with; move them, and check again.

    >>> ta.gradcheck(ta.abs, (ta.zeros(1, dtype=ta.float64, requires_grad=True),))
    Traceback (most recent call last):
    tinyattn.debug.differences.NotDifferentiableError: ...
    """


def gradcheck(
    func: Function, inputs: Tensor | Sequence[Any],
    *, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3, raise_exception: bool = True,
    nondet_tol: float = 0.0, fast_mode: bool = True, seed: int = 0,
) -> bool:  # fmt: skip
    """Compare backward through `func(*inputs)` with central differences with steps of `eps`.

    Checks every float64 input that requires a gradient, against every floating-point output: equal means
    |backward - numeric| <= atol + rtol |numeric|. It also fails if two runs, or two backward passes, differ by more
    than `nondet_tol`, and, with NotDifferentiableError, at kinks: relu at 0, a tie of max. Inputs are changed in place
    and restored, so tensors that `func` captures can be listed as inputs too:
    gradcheck(lambda x, *_: layer(x), (x, *layer.parameters())).

    fast_mode: compare along one random direction of all elements first, with two evaluations for each input, and
    element by element only where that fails (in torch the default is False). False: the full Jacobian.
    raise_exception: GradcheckError names input, element and both values; False returns False instead.
    seed: of the random directions. Raises ValueError for what cannot be checked, such as float32. As
    torch.autograd.gradcheck.

    >>> ta.gradcheck(lambda x: (x**3).sum(), (ta.ones(2, dtype=ta.float64, requires_grad=True),))
    True
    """
    xs = _tuple(inputs)
    hint = "Look at the rule for that input."
    check = _Check("gradcheck", func, xs, _numbered("input", xs), "output", hint, eps, atol, rtol, nondet_tol)
    return check.passes(raise_exception, fast_mode, seed)


def gradgradcheck(
    func: Function, inputs: Tensor | Sequence[Any], grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *, eps: float = 1e-6, atol: float = 1e-5, rtol: float = 1e-3, raise_exception: bool = True,
    nondet_tol: float = 0.0, fast_mode: bool = True, seed: int = 0,
) -> bool:  # fmt: skip
    """`gradcheck` of the gradient of `func`, as a function of the inputs and of the gradients of the outputs.

    grad_outputs: a gradient for each output; random ones by default, which are checked as inputs too. The other
    arguments are those of `gradcheck`. As torch.autograd.gradgradcheck.

    >>> ta.gradgradcheck(lambda x: (x**3).sum(), (ta.ones(2, dtype=ta.float64, requires_grad=True),))
    True
    """
    xs = _tuple(inputs)
    wanted = [i for i, x in enumerate(xs) if isinstance(x, Tensor) and x.requires_grad]
    if grad_outputs is None:
        rng = np.random.default_rng(seed)
        with enable_grad():
            shapes = [y.shape for y in _floats(func(*xs)) if y.requires_grad]
        grad_outputs = [tensor(np.asarray(rng.standard_normal(shape)), requires_grad=True) for shape in shapes]
    seeds = _tuple(grad_outputs)

    def gradient(*args: Any) -> list[Tensor]:
        ys = [y for y in _floats(func(*args[: len(xs)])) if y.requires_grad]
        targets = [args[i] for i in wanted]
        found = grad(ys, targets, args[len(xs) :], create_graph=True, allow_unused=True) if ys and wanted else ()
        return [g for g in found if g is not None]

    names = [*_numbered("input", xs), *_numbered("grad_outputs", seeds)]
    hint = "Is the rule made of xp and operators alone, so that it records itself?"
    check = _Check("gradgradcheck", gradient, (*xs, *seeds), names, "gradient", hint, eps, atol, rtol, nondet_tol)
    return check.passes(raise_exception, fast_mode, seed)


def _tuple(inputs: Any) -> tuple[Any, ...]:
    return (inputs,) if isinstance(inputs, Tensor) else tuple(inputs)


def _numbered(name: str, values: Sequence[Any]) -> list[str]:
    return [f"{name} {i}" for i in range(len(values))]


def _floats(result: Any) -> list[Tensor]:
    """The floating-point tensors among the results of a function."""
    results = result if isinstance(result, tuple | list) else (result,)
    return [y for y in results if isinstance(y, Tensor) and y.dtype.kind == "f"]


class _Slopes(NamedTuple):
    """The slopes of one output along a direction of an input."""

    value: Array  # by the central difference
    left: Array
    right: Array
    kink: Array  # where left and right stay apart however small the step


@dataclass
class _Check:
    """One call of `gradcheck`: what to run, names for messages, tolerances."""

    name: str
    func: Function
    inputs: Sequence[Any]
    input_names: list[str]
    output_name: str
    hint: str
    eps: float
    atol: float
    rtol: float
    nondet_tol: float

    def __post_init__(self) -> None:
        pairs = zip(self.input_names, self.inputs, strict=True)
        self.wanted: dict[str, Tensor] = {n: x for n, x in pairs if isinstance(x, Tensor) and x.requires_grad}
        if not self.wanted:
            raise ValueError(f"{self.name}: no input requires a gradient; give at least one with requires_grad=True")
        for name, x in self.wanted.items():
            self._require_float64(x, name)
            if is_expanded(x.array) or not getattr(x.array.flags, "writeable", True):  # CuPy has no read-only arrays
                raise ValueError(
                    f"{self.name}: {name} cannot be moved, its memory is read-only or shared; pass a clone()"
                )

    def passes(self, raise_exception: bool, fast_mode: bool, seed: int) -> bool:
        """Run the check: True, or False or GradcheckError if something is wrong."""
        try:
            with enable_grad(), np.errstate(all="ignore"):
                self._run(np.random.default_rng(seed) if fast_mode else None)
        except GradcheckError:
            if raise_exception:
                raise
            return False
        return True

    def _run(self, rng: np.random.Generator | None) -> None:
        outputs = _floats(self.func(*self.inputs))
        if not outputs:
            raise ValueError(f"{self.name}: func gives no floating-point tensor, so there is no gradient to check")
        for o, y in enumerate(outputs):
            self._require_float64(y, f"{self.output_name} {o}")
        base = [y._on_host().copy() for y in outputs]  # an output may be a view of an input, which moves
        self._require_repeatable(outputs, base)
        suspect = None if rng is None else self._along_random_directions(outputs, base, rng)
        if rng is None or suspect is not None:
            self._element_by_element(outputs, base)
        if suspect is not None and suspect.any():
            raise NotDifferentiableError(f"{self.name}: at these inputs func has a kink, oblique to every element")

    def _require_float64(self, x: Tensor, name: str) -> None:
        if x.dtype != float64:
            raise ValueError(
                f"{self.name}: {name} is {x.dtype}, whose few digits drown a difference over {self.eps:g}; check in "
                "float64 (x.double(), module.double())."
            )

    def _require_repeatable(self, outputs: list[Tensor], base: list[Array]) -> None:
        for o, (first, second) in enumerate(zip(base, self._values(), strict=True)):
            if np.isnan(first).any():
                raise GradcheckError(f"{self.name}: {self.output_name} {o} is NaN at {_first(np.isnan(first))}")
            differs = ~(abs(_minus(first, second)) <= self.nondet_tol)
            if differs.any():
                raise GradcheckError(
                    f"{self.name}: func gives {_show(first[differs][0])} and then {_show(second[differs][0])} for the "
                    f"same inputs ({self.output_name} {o} at {_first(differs)}). Unseeded dropout? Call eval(), or "
                    "seed inside func."
                )
        passes = [self._pull(outputs, [np.ones(y.shape) for y in outputs]) for _ in range(2)]
        for (name, x), first, second in zip(self.wanted.items(), *passes, strict=True):
            if first is None:
                continue
            if first.shape != x.shape or first.dtype != x.dtype:
                raise GradcheckError(
                    f"{self.name}: {name} is {x.dtype} {x.shape}, and its gradient {first.dtype} {first.shape}"
                )
            if not np.allclose(first, second, 0, self.nondet_tol, equal_nan=True):
                raise GradcheckError(f"{self.name}: two backward passes give {name} different gradients")

    # --- evaluation ---

    def _values(self) -> list[Array]:
        return [y._on_host() for y in _floats(self.func(*self.inputs))]

    def _pull(self, outputs: Sequence[Tensor], seeds: Sequence[Array]) -> list[Array]:
        """The gradient at each wanted input; None if no path leads there."""
        known = [(y, as_tensor(u, device=y.device)) for y, u in zip(outputs, seeds, strict=True) if y.requires_grad]
        if not known:
            return [None] * len(self.wanted)
        ys, us = zip(*known, strict=True)
        found = grad(ys, list(self.wanted.values()), us, retain_graph=True, allow_unused=True)
        return [None if g is None else g._on_host() for g in found]

    def _push(self, x: Tensor, direction: Array, base: list[Array]) -> list[_Slopes]:
        """The slopes of every output when x moves along `direction`: two evaluations, or four at doubt."""
        right, left = self._sides(x, direction, base, self.eps)
        steeper = [np.maximum(abs(r), abs(s)) for r, s in zip(right, left, strict=True)]
        doubts = [  # the two sides differ, or are as steep as a jump
            ~(abs(_minus(r, s)) <= self.atol + self.rtol * most) | (most > self.eps ** (-1 / 3))
            for r, s, most in zip(right, left, steeper, strict=True)
        ]
        if any(doubt.any() for doubt in doubts):
            # With a tenth of the step, the two sides of a smooth function differ by a tenth, and are no steeper.
            step = self.eps / 10
            nearer = zip(*self._sides(x, direction, base, step), strict=True)
            for doubt, r, s, (r10, s10), y in zip(doubts, right, left, nearer, base, strict=True):
                noise = 1e-14 * np.where(np.isfinite(y), abs(y), 0) / step
                together = abs(_minus(r10, s10)) <= np.maximum(abs(_minus(r, s)) / 2, noise)
                doubt &= ~(together & (abs(r10) <= 2 * abs(r) + noise))
        return [_Slopes((r + s) / 2, s, r, kink) for r, s, kink in zip(right, left, doubts, strict=True)]

    def _sides(self, x: Tensor, direction: Array, base: list[Array], step: float) -> list[list[Array]]:
        """Slopes to the right and to the left, of every output."""
        slopes, here = [], x.array.copy()
        try:
            for h in (step, -step):
                x.array[...] = here + backends.move(direction * h, x.device)
                slopes.append([_minus(y, y0) / h for y, y0 in zip(self._values(), base, strict=True)])
        finally:
            x.array[...] = here
        return slopes

    # --- comparison ---

    def _along_random_directions(self, outputs: list[Tensor], base: list[Array], rng: Any) -> Array | None:
        """None if all gradients agree; else where kinks were seen.

        No element of a direction is small, so each counts. The comparison is a hundred times stricter, so that one
        wrong element shows among all the others; what fails here is decided element by element.
        """
        us, vs = ([_direction(rng, t.shape) for t in side] for side in (outputs, self.wanted.values()))
        pulled = [self._pull([y], [u]) for y, u in zip(outputs, us, strict=True)]
        for i, (x, v) in enumerate(zip(self.wanted.values(), vs, strict=True)):
            for o, slopes in enumerate(self._push(x, v, base)):
                backward = 0.0 if pulled[o][i] is None else np.sum(pulled[o][i] * v)
                numeric = np.sum(us[o] * slopes.value)
                if slopes.kink.any() or not abs(backward - numeric) <= self.atol + self.rtol / 100 * abs(numeric):
                    return slopes.kink
        return None

    def _element_by_element(self, outputs: list[Tensor], base: list[Array]) -> None:
        """Compare full Jacobians; a wrong rule is reported before a kink."""
        rows = [[self._pull([y], [u.reshape(y.shape)]) for u in np.eye(y.numel())] for y in outputs]
        kink: NotDifferentiableError | None = None
        for i, (name, x) in enumerate(self.wanted.items()):
            columns = [self._push(x, v.reshape(x.shape), base) for v in np.eye(x.numel())]
            smooth = np.array([not any(slopes.kink.any() for slopes in column) for column in columns])
            for o, y in enumerate(outputs):
                if not x.numel() or not y.numel():
                    continue
                pulled = [row[i] for row in rows[o]]
                backward = np.stack([np.zeros(x.numel()) if g is None else g.reshape(-1) for g in pulled])
                slopes = _Slopes(*(np.stack([c[o][k].reshape(-1) for c in columns], 1) for k in range(4)))
                error = abs(_minus(backward, slopes.value))
                wrong = ~(error <= self.atol + self.rtol * abs(slopes.value)) & smooth
                worst = np.where(wrong, np.nan_to_num(error, nan=np.inf), -1) if wrong.any() else slopes.kink
                a, b = np.unravel_index(worst.argmax(), worst.shape)
                where = f"{self.name}: {self.output_name} {o} at {_index(a, y.shape)}, {name} at {_index(b, x.shape)}:"
                if wrong.any():
                    unused = all(g is None for g in pulled)
                    raise self._wrong(where, None if unused else backward[a, b], slopes.value[a, b], wrong)
                if kink is None and slopes.kink.any():
                    kink = _kinked(where, slopes.left[a, b], slopes.right[a, b])
        if kink is not None:
            raise kink

    def _wrong(self, where: str, backward: Any, numeric: Any, wrong: Array) -> GradcheckError:
        found = "None, for no path in the graph leads there (detach, .data?)" if backward is None else _show(backward)
        return GradcheckError(
            f"{where} backward gives {found}, finite differences {_show(numeric)} (difference "
            f"{abs((backward or 0) - numeric):.3g}, allowed {self.atol + self.rtol * abs(numeric):.3g}; "
            f"{wrong.sum()} of {wrong.size} elements of this Jacobian disagree, this one the most). {self.hint}"
        )


def _kinked(where: str, left: Any, right: Any) -> NotDifferentiableError:
    return NotDifferentiableError(
        f"{where} not differentiable there, the slope is {_show(left)} on the left and {_show(right)} on the right (a "
        "kink such as relu at 0, a tie of max, a jump, the edge of a domain). This says nothing about the rule: check "
        "at another point."
    )


def _show(x: Any) -> str:
    return f"{x + 0.0:.6g}"  # -0 looks like a mistake


def _minus(a: Array, b: Array) -> Array:
    """a - b, where infinity minus itself is 0."""
    return np.where(a == b, 0.0, a - b)


def _direction(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    return np.asarray(rng.uniform(0.5, 1.0, shape) * rng.choice([-1.0, 1.0], shape))


def _index(flat: Any, shape: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(int(i) for i in np.unravel_index(flat, shape)) if shape else ()


def _first(mask: Array) -> tuple[int, ...]:
    return _index(mask.argmax(), mask.shape)
