"""From a plan to Python: a name for every value, a line for every call."""

from __future__ import annotations

import keyword
import re
from collections.abc import Iterable, Sequence
from itertools import groupby
from math import prod
from typing import Any

import numpy as np

from tinyattn.program.plan import Plan
from tinyattn.program.recorder import Call, Recorder, Value, values

_RESERVED = {*dir(np), *keyword.kwlist, *dir(__builtins__), "np", "rng", "Changed", "step", "params"}
_RESERVED |= {*"memory part arrays compute update overwrite spawn side_by_side pool os concurrent contextvars".split()}
_WITH_OUT = {"concatenate", "take", "einsum", "cumsum", "cumprod", "argmax", "argmin"}


class Writer:
    """Writes the lines of a plan; `names` are those of the values, `numbers` of the numbers, which become arrays.

    known: the names of tensors, arguments, constants and gradients.
    """

    def __init__(self, plan: Plan, recorder: Recorder, known: dict[Value, str], generators: Sequence[Any]) -> None:
        self.streams = [f"rng_{i}" if i else "rng" for i in range(len(generators))]
        self._streams = {id(g): name for g, name in zip(generators, self.streams, strict=True)}
        self.plan, self.recorder = plan, recorder
        self.names: dict[Value, str] = {}
        self.numbers: dict[tuple[str, str], tuple[str, Any]] = {}
        self.kernels: dict[str, Any] = {}
        kernels = {call.name for call in plan.calls if call.kind == "kernel"}
        self._used: dict[str, int] = dict.fromkeys({*_RESERVED, *kernels, *self.streams}, 1)
        written = [(value, call.label) for call in recorder.calls[::-1] for value in call.writes]
        self._labels = dict(written)
        self._labels_of_roots = {value.root: label for value, label in written}
        for value, name in known.items():
            self.names[plan.at(value)] = self._fresh(name)
        self.lines: list[str] = []
        for split, calls in groupby(plan.calls, lambda call: call.share and call.share[0]):
            if split is None:
                self._write(calls, "")
                continue
            shares = [self._share(list(share)) for _, share in groupby(calls, lambda call: call.share)]
            self.lines += ["", f"side_by_side({', '.join(shares)})"]

    def _share(self, calls: list[Call]) -> str:
        """Write the function of one share; returns its name."""
        _, i = calls[0].share  # type: ignore[misc] # not None
        name = self._fresh(f"{'backward' if calls[0].label.startswith('d ') else 'forward'}_{i}")
        self.lines += ["", f"def {name}():"]
        self._write(calls, "    ")
        return name

    def _write(self, calls: Iterable[Call], indent: str) -> None:
        label = None
        for call in calls:
            if call.label != label:
                label = call.label
                self.lines.append(f"{indent}# {label}")
            shape = "x".join(map(str, call.writes[-1].shape)) if call.writes else ""
            self.lines.append(indent + self.line(call) + (f"  # {shape}" if shape else ""))

    # --- names ---

    def name(self, value: Value) -> str:
        """The name of a value; another one for each view of the same memory."""
        at = self.plan.at(value)
        if at not in self.names:
            root = self.recorder.roots[value.root]
            base = self._described(value)
            if root.role != "made":  # a view of what has a name
                base = next(name for v, name in self.names.items() if v.root == value.root)
                base += "_T" if value.strides == tuple(sorted(value.strides)) and len(value.shape) == 2 else ""
            self.names[at] = self._fresh(base)
        return self.names[at]

    def _described(self, value: Value) -> str:
        label = self._labels.get(value) or self._labels_of_roots.get(value.root, "")
        module, _, operation = label.removeprefix("d ").rpartition(": ")
        backward = "d_" if label.startswith("d ") else ""
        module = "" if module[:1].isupper() else module  # the outermost one
        return f"{backward}{module}_{self.recorder.names.get(value, operation)}"

    def _fresh(self, base: str) -> str:
        base = re.sub(r"\W+", "_", base).strip("_") or "value"
        base = f"_{base}" if base[0].isdigit() else base
        self._used[base] = count = self._used.get(base, 0) + 1
        return base if count == 1 else self._fresh(f"{base}_{count}")

    def _number(self, x: Any, dtype: str) -> str:
        key = repr(x), dtype  # -0.0 and 0.0 are two numbers
        if key not in self.numbers:
            text = f"{x:g}".replace("-", "minus_").replace("+", "")
            self.numbers[key] = self._fresh(f"n_{text}"), x
        return self.numbers[key][0]

    # --- lines ---

    def term(self, x: Any) -> str:
        """An argument as Python."""
        if type(x) is Value:
            return self.name(x)
        if isinstance(x, slice):
            ends = ["" if e is None else str(e) for e in (x.start, x.stop)]
            return ":".join(ends if x.step is None else [*ends, str(x.step)])
        if x is Ellipsis:
            return "..."
        if isinstance(x, np.dtype):
            return repr(x.name)
        if isinstance(x, type) and issubclass(x, np.generic):
            return repr(np.dtype(x).name)
        if isinstance(x, np.generic):
            return self._number(x.item(), x.dtype.name)
        if type(x) is float and not np.isfinite(x):
            return f"float({str(x)!r})"
        if isinstance(x, tuple):
            return f"({', '.join(map(self.term, x))}{',' if len(x) == 1 else ''})"
        return f"[{', '.join(map(self.term, x))}]" if type(x) is list else repr(x)

    def _index(self, x: Any) -> str:
        return ", ".join(map(self.term, x)) if type(x) is tuple and x else self.term(x)

    def _options(self, call: Call) -> str:
        left = {key: x for key, x in call.options.items() if x is not np._NoValue and (key, x) != ("optimize", False)}
        if call.name.endswith(".reduce"):
            left = {
                k: x for k, x in left.items() if (k, x) not in (("dtype", None), ("keepdims", False), ("where", True))
            }
        return "".join(f", {key}={self.term(x)}" for key, x in left.items())

    def line(self, call: Call) -> str:
        """The statement of one call."""
        return str(getattr(self, f"_{call.kind}")(call))

    def _ufunc(self, call: Call) -> str:
        arrays = list(values(call.args))
        dtypes = {v.dtype for v in (*arrays, *call.writes)}
        dtype = next(iter(dtypes)).name if len(dtypes) == 1 else ""
        hoisted = dtype.startswith("float") and "." not in call.name
        args = [
            self._number(x, dtype) if hoisted and type(x) in (int, float) and np.isfinite(x) else self.term(x)
            for x in call.args
        ]
        if call.name.endswith(".at"):
            return f"{call.name}({', '.join(args)})"
        return f"{call.name}({', '.join(args)}{self._options(call)}, out={self.name(call.writes[0])})"

    def _function(self, call: Call) -> str:
        out = self.name(call.writes[0])
        args = ", ".join(map(self.term, call.args)) + self._options(call)
        if call.name == "copyto":
            return f"copyto({out}, {args})"
        if call.name == "where" and len(call.args) == 3 and call.args[0].dtype == bool:
            condition, a, b = map(self.term, call.args)
            return f"copyto({out}, {b}); copyto({out}, {a}, where={condition})"
        if call.name in _WITH_OUT:
            return f"{call.name}({args}, out={out})"
        return f"copyto({out}, {call.name}({args}))"

    def _method(self, call: Call) -> str:
        out, x = self.name(call.writes[0]), call.args[0]
        rest = ", ".join([*map(self.term, call.args[1:]), self._options(call)[2:]]).strip(", ")
        if call.name in ("take", "cumprod", "cumsum", "argmax", "argmin"):
            return f"{self.name(x)}.{call.name}({rest}, out={out})"
        return f"copyto({out}, {self.name(x)}.{call.name}({rest}))"

    def _copy(self, call: Call) -> str:
        (target,), (source,) = call.writes, call.args
        if type(source) is not Value:
            return f"{self.name(target)}[...] = {self.term(source)}"
        unsafe = not np.can_cast(source.dtype, target.dtype, "same_kind")
        if source.shape != target.shape and prod(source.shape) == prod(target.shape):
            return f"{self.name(target)}[...] = {self.name(source)}.reshape({target.shape})"
        return f"copyto({self.name(target)}, {self.name(source)}{', casting=' + repr('unsafe') if unsafe else ''})"

    def _get(self, call: Call) -> str:
        x, index = call.args
        return f"copyto({self.name(call.writes[0])}, {self.name(x)}[{self._index(index)}])"

    def _set(self, call: Call) -> str:
        index, value = call.args
        return f"{self.name(call.writes[0])}[{self._index(index)}] = {self.term(value)}"

    def _array(self, call: Call) -> str:
        return f"copyto({self.name(call.writes[0])}, np.array({self.term(call.args[0])}))"

    def _draw(self, call: Call) -> str:
        out = self.name(call.writes[0])
        rng = self._streams[id(call.function)]
        if call.name in ("random", "standard_normal") and call.writes[0].dtype.kind == "f":
            return f"{rng}.{call.name}(dtype={call.writes[0].dtype.name!r}, out={out})"
        args = ", ".join(map(self.term, call.args)) + self._options(call)
        return f"copyto({out}, {rng}.{call.name}({args}))"

    def _spawn(self, call: Call) -> str:
        parent, children = call.function
        rng = self._streams[id(parent)]
        names = [self._fresh(f"{rng}_of_{i}") for i in range(len(children))]
        self._streams |= {id(child): name for child, name in zip(children, names, strict=True)}
        return f"{', '.join(names)}{',' if len(names) == 1 else ''} = spawn({rng}, {len(children)})"

    def _kernel(self, call: Call) -> str:
        self.kernels[call.name] = call.function
        text = f"{call.name}({', '.join(map(self.term, call.args))})"
        results = call.options["results"]
        if not any(results):
            return text
        return f"{', '.join('_' if value is None else f'{self.name(value)}[...]' for value in results)} = {text}"

    def _guard(self, call: Call) -> str:
        value, truth = call.args
        return f"if {'not ' if truth else ''}{self.name(value)}: raise Changed({call.label!r})"
