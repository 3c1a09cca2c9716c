"""A program as a file that needs NumPy alone: memory, views, the source of kernels, calls, the optimizer's update."""

from __future__ import annotations

import inspect
import io
import re
import textwrap
import tokenize
import types
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np

from tinyattn.backends import cpu
from tinyattn.program.plan import ALIGNED
from tinyattn.program.recorder import Value, whole

_MEMORY = '''
memory = np.empty({size}, np.uint8)
memory = memory[-memory.__array_interface__["data"][0] % {aligned} :]


def part(offset, shape, dtype="float32", strides=None, of=memory):
    """A part of the memory, whose values come and go: the same bytes have several names."""
    return np.ndarray(shape, dtype, of, offset, strides)
'''
_CHANGED = '''

class Changed(Exception):
    """The data takes another branch than in the step that was recorded."""
'''
_THREADED = "concurrent.futures", "contextvars", "os"  # imports
_THREADS = '''
pool = concurrent.futures.ThreadPoolExecutor()


def side_by_side(first, *others):
    """Run all at the same time; they have ended when this returns or raises."""
    running = [pool.submit(contextvars.copy_context().run, share) for share in others]
    try:
        first()
    finally:
        concurrent.futures.wait(running)
    for share in running:
        share.result()
'''
_ONE_THREAD = """
for name in ("OPENBLAS", "MKL", "OMP"):  # one thread for each matrix product: the shares have a thread each
    os.environ.setdefault(f"{name}_NUM_THREADS", "1")"""
# The kernel of each optimizer that can be written, the arrays in its state, and its options by their name in a group.
_ADAM = (cpu.adam_step, ("exp_avg", "exp_avg_sq", "max_exp_avg_sq"), ("lr", "eps", "weight_decay", "maximize"))
_SGD = ("lr", "momentum", "dampening", "weight_decay", "nesterov", "maximize")
_OPTIMIZERS = {"Adam": _ADAM, "AdamW": _ADAM, "SGD": (cpu.sgd_step, ("momentum_buffer",), _SGD)}


def spawn(rng: np.random.Generator, n: int) -> list[np.random.Generator]:
    """n streams of random numbers, seeded from `rng`."""
    return [np.random.Generator(np.random.PCG64(seed)) for seed in rng.integers(2**63, size=n).tolist()]


class File:
    """The text of a Program, and the arrays that it loads."""

    def __init__(self, program: Any) -> None:
        self.program, self.writer = program, program._writer
        self.arrays: dict[str, Any] = {}
        for optimizer, _ in program._steps_with:
            if type(optimizer).__name__ not in _OPTIMIZERS:
                raise ValueError(
                    f"save: a step of {type(optimizer).__name__} cannot be written; use one of {sorted(_OPTIMIZERS)}"
                )
        update = [*self._updates()]
        views = [*self._views()]  # after it, which may name more values
        calls = program._plan.calls
        shares, spawns = any(call.share for call in calls), any(call.kind == "spawn" for call in calls)
        used = [self._kernel(optimizer) for optimizer, _ in program._steps_with]
        if program.by_definition:
            used += [type(optimizer).update.__globals__["overwrite"] for optimizer, _ in program._steps_with]
        kernels = [*self.writer.kernels.values(), *used, *([spawn] if spawns else [])]
        names = {
            *self.writer.names.values(),
            *(name for name, _ in self.writer.numbers.values()),
            *"part memory arrays step compute update side_by_side pool os concurrent contextvars".split(),
        }
        sources = Sources(kernels, names - {kernel.__name__ for kernel in kernels})
        called = {*re.findall(r"(?<![.\w])([a-z_0-9]+)[.(]", program.text)} & {*dir(np)} - {"array"}
        size, how = program._plan.size, ", by definition" if program.by_definition else ""
        self.text = "\n".join([
            f'"""{program.name}{how}: {len(program._plan.calls)} calls of NumPy on {size:,} bytes."""\n',
            "from __future__ import annotations\n",
            *(f"import {name}" for name in sorted(sources.imports | ({*_THREADED} if shares else set()))),
            *([_ONE_THREAD] if shares else []),
            "\nimport numpy as np",
            *_imported(sorted(called)),
            _MEMORY.format(size=size + ALIGNED, aligned=ALIGNED),
            'arrays = np.load(__file__.removesuffix(".py") + ".npz")' if self.arrays else "",
            *views,
            _CHANGED + (_THREADS if shares else ""),
            *(f"\n{block}\n" if block.startswith("def") else block for block in sources.blocks),
            f"\n\n{program.text}\n",
            *update,
            *self._step(),
        ])  # fmt: skip

    def _kernel(self, optimizer: Any) -> Any:
        """The function that updates a parameter, or the one that returns what the update gives."""
        kernel: Any = _OPTIMIZERS[type(optimizer).__name__][0]
        return type(optimizer).formula if self.program.by_definition else kernel

    def _views(self) -> Iterator[str]:
        """A line for each array: loaded, constant, or a part of the memory or of another array."""
        recorder, plan, names = self.program._recorder, self.program._plan, self.writer.names
        roots: dict[int, str] = {}
        for value in list(names):
            root = recorder.roots[value.root]
            if root.role in ("tensor", "constant") and value.root not in roots:
                array = self.program._roots[value.root]
                roots[value.root] = name = self.writer.name(whole(value.root, array))
                yield f"{name} = {self._loaded(name, array)}  # {_shape(array.shape)}"
        for value, name in list(names.items()):
            if name == roots.get(value.root):
                continue
            dtype = "" if value.dtype == np.float32 else f", {value.dtype.name!r}"
            strides = _strides(value)
            if value.root in roots:
                yield f"{name} = part({value.offset}, {value.shape}{dtype}{strides}, of={roots[value.root]})"
            else:
                yield f"{name} = part({plan.places[value.root] + value.offset}, {value.shape}{dtype}{strides})"
        for (_, kind), (name, x) in self.writer.numbers.items():
            yield f"{name} = np.array({self.writer.term(x)}, {kind!r})"
        for generator, name in zip(self.program.generators, self.writer.streams, strict=True):
            yield f"{name} = np.random.Generator(np.random.PCG64())"
            yield f"{name}.bit_generator.state = {generator._stream.bit_generator.state}"

    def _loaded(self, name: str, array: Any) -> str:
        if name.startswith("ones"):
            return f"np.ones({array.shape}, {array.dtype.name!r})"
        if name.startswith("range"):
            return f"np.arange({len(array)}, dtype={array.dtype.name!r})"
        self.arrays[name] = array
        return f"arrays[{name!r}]"

    def _updates(self) -> Iterator[str]:
        """The update of each optimizer: its options by group, then a row for each parameter."""
        lines: list[str] = []
        name_of, value_of = self.writer.name, self.program._recorder.value
        for i, step in enumerate(self.program._steps):
            kind = type(step.optimizer).__name__
            kernel, names, options = _OPTIMIZERS[kind]
            for j, group in enumerate(step.optimizer.param_groups):
                chosen = {name: group[name] for name in options}
                if kernel is cpu.adam_step:
                    chosen |= {"decoupled": group["decoupled_weight_decay"]}
                    chosen |= dict(zip(("beta1", "beta2"), group["betas"], strict=True))
                own = f"{kind.lower()}_{i}_{j}"
                yield f"\n{own}_options = {chosen}\n{own} = [  # parameter, gradient, state"
                members = {id(p) for p in group["params"]}
                for param, gradient in step.gradients:
                    if id(param) in members:
                        p, state = name_of(value_of(param.array)), step.optimizer.state[param]
                        arrays = {name: state[name].array for name in ("step", *names) if name in state}
                        self.arrays |= {f"{p}.{name}": array for name, array in arrays.items()}
                        wanted = [name for name in (*names, "step") if name != "step" or "step" in arrays]
                        row = [f'arrays["{p}.{name}"]' if name in arrays else "None" for name in wanted]
                        yield f"    ({', '.join([p, name_of(gradient), *row])}),"
                yield "]"
                lines += self._loop(own, step.optimizer)
        if lines:
            yield "\n    ".join(["\n\ndef update():", '"""One step of the optimizer, in place."""', *lines])

    def _loop(self, own: str, optimizer: Any) -> list[str]:
        """The lines that update the parameters of a group."""
        name = self._kernel(optimizer).__name__
        adam, defined = name.startswith("adam"), self.program.by_definition
        lines = [f"for *tensors, step in {own}:", "    step += 1"] if adam else [f"for tensors in {own}:"]
        more = "int(step), " if adam else "" if defined else "first=False, "
        call = f"{name}(*tensors, {more}**{own}_options)"
        if not defined:
            return [*lines, f"    {call}"]
        return [*lines, f"    overwrite([tensors[0], *tensors[2:]], {call})"]

    def _step(self) -> Iterator[str]:
        program = self.program
        inputs = [self.writer.name(v) for v in program._inputs]
        lines = [f"copyto({name}, new_{name})" for name in inputs]
        lines += ['with np.errstate(all="ignore"):', f"    compute({', '.join(self.writer.streams)})"]
        lines += ["    update()"] if program._steps_with else []
        lines.append("return " + ", ".join(f"{self.writer.name(v)}.copy()" for v in program._results))
        head = f"\ndef step({', '.join(f'new_{name}' for name in inputs)}):"
        yield (
            "\n    ".join([head, '"""Compute everything once; returns what the recorded step returned."""', *lines])
            + "\n"
        )


def _imported(names: list[str]) -> Iterator[str]:
    if names:
        text = textwrap.fill(", ".join(names), 116, initial_indent="    ", subsequent_indent="    ")
        yield f"from numpy import (\n{text},\n)"


def _strides(value: Value) -> str:
    dense = np.empty(value.shape, value.dtype).strides if 0 not in value.shape else value.strides
    return "" if value.strides == dense else f", strides={value.strides}"


def _shape(shape: tuple[int, ...]) -> str:
    return "x".join(map(str, shape)) or "()"


# --- the source of kernels, with all that they call ---


class Sources:
    """Definitions of functions and of the constants they name, each once, in an order in which they can run.

    taken: names that mean something else in the file. imports: the modules they need besides NumPy, of Python's own.
    """

    def __init__(self, kernels: Iterable[Callable[..., Any]], taken: Iterable[str]) -> None:
        self.blocks: list[str] = []
        self.imports: set[str] = set()
        self._names: dict[Any, str] = {}  # of what is written: functions by id, constants by name and value
        self._taken = {*taken}
        for kernel in kernels:
            self._function(kernel.__name__, kernel)

    def _function(self, name: str, function: Any) -> str:
        function = inspect.unwrap(function)
        if id(function) in self._names:
            return self._names[id(function)]
        own = self._names[id(function)] = self._free(name)
        text = textwrap.dedent(inspect.getsource(function))
        text = text[re.search(r"^def ", text, re.MULTILINE).start() :]  # type: ignore[union-attr] # without decorators
        text = re.sub(rf"\bdef {function.__name__}\b", f"def {own}", text, count=1)
        text = re.sub(r"\bbackends\.of\(\w+\)", "np", text)  # in definitions
        for used in sorted({*_globals(function.__code__)} & {*function.__globals__} - {"backends"}):
            new = self._anything(used, function.__globals__[used])
            if new != used:
                text = _renamed(text, used, new)
        self.blocks.append(text.rstrip())
        return own

    def _anything(self, name: str, x: Any) -> str:
        if x is np or getattr(x, "__module__", None) == "builtins":
            return name
        if isinstance(x, types.ModuleType):
            self.imports.add(x.__name__)
            return name
        if isinstance(x, np.ufunc):
            return f"np.{x.__name__}"
        if callable(x):
            return self._function(name, x)
        key = name, repr(x)
        if key not in self._names:
            self._names[key] = own = self._free(name)
            self.blocks.append(f"{own} = {_written(x)}")
        return self._names[key]

    def _free(self, name: str) -> str:
        while name in self._taken:
            name += "_"
        self._taken.add(name)
        return name


def _renamed(text: str, old: str, new: str) -> str:
    """The source with another name for a global, outside of strings and comments."""
    lines, before = text.splitlines(keepends=True), ""
    found = []
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.NAME and token.string == old and before != ".":
            found.append(token.start)
        before = token.string
    for row, column in reversed(found):
        line = lines[row - 1]
        lines[row - 1] = line[:column] + new + line[column + len(old) :]
    return "".join(lines)


def _written(x: Any) -> str:
    if isinstance(x, np.generic):
        return f"np.{type(x).__name__}({x.item()!r})"
    if isinstance(x, dict):
        return "{" + ", ".join(f"{key!r}: {_written(v)}" for key, v in x.items()) + "}"
    return f"np.dtype({x.name!r})" if isinstance(x, np.dtype) else repr(x)


def _globals(code: types.CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _globals(constant)
