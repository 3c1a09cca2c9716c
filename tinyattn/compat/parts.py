"""What PyTorch has and tinyattn replaces under its names: settings without effect, one process, small helpers."""

from __future__ import annotations

import contextlib
import copy
import functools
import typing
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import tinyattn as ta
from tinyattn import nn
from tinyattn.files.nested import mapped as tree_map
from tinyattn.nn import parallel


class Refused:
    """A name of PyTorch that tinyattn has not, and why; using it raises. As a type, it is that of no object."""

    def __init__(self, name: str, why: str = "which runs models of real numbers, eagerly") -> None:
        self.name, self.why = name, why

    def __repr__(self) -> str:
        return self.name

    def __getitem__(self, parameters: Any) -> Any:
        return self

    def __instancecheck__(self, instance: Any) -> bool:
        return False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{self.name} is not part of tinyattn, {self.why}")


# --- what means nothing here: it takes any arguments and does nothing ---


class Nothing(contextlib.ContextDecorator):
    """A context manager, a decorator and a setting, all without effect: autocast and its like."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class NoProfile(Nothing):
    """A profiler that measures nothing; `ta.profile` does."""

    def key_averages(self, *args: Any, **kwargs: Any) -> NoProfile:
        """Itself, with an empty table."""
        return self

    def table(self, *args: Any, **kwargs: Any) -> str:
        """A sentence that says what to use."""
        return "nothing was measured; with tinyattn.profile() as p: ... measures"

    def step(self, *args: Any, **kwargs: Any) -> None:
        """The end of a step."""

    export_chrome_trace = export_stacks = start = stop = step


def ignored(*args: Any, **kwargs: Any) -> None:
    """A setting without effect here."""


def no(*args: Any, **kwargs: Any) -> bool:
    """False."""
    return False


class GradScaler:
    """Scales nothing: autocast has no effect here, so values and gradients stay float32."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def scale(self, loss: Any) -> Any:
        """The loss itself."""
        return loss

    def step(self, optimizer: Any, *args: Any) -> Any:
        """Step the optimizer."""
        return optimizer.step(*args)

    def get_scale(self) -> float:
        """One."""
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        """Empty, as that of a scaler that is switched off."""
        return {}

    unscale_ = update = load_state_dict = ignored
    is_enabled = no


def unchanged(function: Any = None, *args: Any, **kwargs: Any) -> Any:
    """A function or module as it is; as a decorator with arguments, the decorator that returns it so."""
    return function if callable(function) else unchanged


def check(condition: Any, message: str = "") -> None:
    """Raise AssertionError unless the condition holds."""
    if not condition:
        raise AssertionError(message)


class Required:
    """The default of an optimizer's option that must be given."""

    def __repr__(self) -> str:
        return "<required parameter>"


def variable(tensor: Any, requires_grad: bool = False, volatile: bool = False) -> Any:
    """The tensor; PyTorch has had no separate Variables since 0.4."""
    return tensor.requires_grad_() if requires_grad else tensor


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalization over all processes, of which there is one."""

    @classmethod
    def convert_sync_batchnorm(cls, module: Any, process_group: Any = None) -> Any:
        """The module itself."""
        return module


class ScriptModule(nn.Module):
    """The base of modules that are compiled in PyTorch; here they run as they are."""


class UntypedStorage:
    """The memory of a tensor and of its views, as programs ask for it to count it or to find shared weights."""

    def __init__(self, tensor: Any) -> None:
        array = tensor.array
        while getattr(array, "base", None) is not None and hasattr(array.base, "nbytes"):
            array = array.base
        self.array, self.device = array, tensor.device

    def data_ptr(self) -> int:
        """The address of its first byte."""
        return int(self.array.ctypes.data if hasattr(self.array, "ctypes") else self.array.data.ptr)

    def nbytes(self) -> int:
        """Its size in bytes."""
        return int(self.array.nbytes)

    size = __len__ = nbytes

    def __sizeof__(self) -> int:
        return super().__sizeof__() + self.nbytes()


class OneProcess(parallel.DataParallel):
    """DataParallel and DistributedDataParallel on one device: one worker; gradients need no exchange."""

    def __init__(self, module: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(module, workers=1)

    def no_sync(self) -> Nothing:
        """No exchange to leave out."""
        return Nothing()


CREATE = "zeros ones full empty arange linspace logspace eye rand randn randint randperm tensor".split()


def creating(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function that makes tensors, with those of PyTorch's arguments that have no effect here."""

    @functools.wraps(function)
    def make(*args: Any, layout: Any = None, pin_memory: Any = None, memory_format: Any = None, **options: Any) -> Any:
        return function(*args, **options)

    return make


def inclusive_range(start: float = 0, end: float = 0, step: float = 1, **options: Any) -> Any:
    """The numbers from `start` to `end`, both included, in the default dtype: torch.range, deprecated there."""
    return start + step * ta.arange(int((end - start) / step) + 1, **{"dtype": ta.get_default_dtype(), **options})


def scalar_tensor(s: Any, **options: Any) -> Any:
    """One number as a tensor, of the default dtype."""
    return ta.full((), s, **{"dtype": ta.get_default_dtype(), **options})


def ndtr(input: Any) -> Any:
    """The probability that a standard normal variable is below the input. As torch.special.ndtr."""
    return (1 + ta.erf(input / 2**0.5)) / 2


def all_gather(tensor_list: list[Any], tensor: Any, *group: Any, **options: Any) -> None:
    """Write the tensor of every process, of which there is one, into the list."""
    tensor_list[0].copy_(tensor)


def skip_init(module_cls: Any, *args: Any, **kwargs: Any) -> Any:
    """A module of this class; it is initialised all the same."""
    return module_cls(*args, **kwargs)


def save(obj: Any, f: Any, *args: Any, **kwargs: Any) -> None:
    """Write `obj` to a file as `ta.save`; PyTorch's other options are without effect."""
    ta.save(f, obj)


def default_tensor_type(kind: Any) -> None:
    """Make the dtype of "torch.DoubleTensor", or of that constructor, the default."""
    ta.set_default_dtype(ta.zeros(0).type(kind).dtype)


def checkpoint_sequential(functions: Any, segments: int, input: Any, **options: Any) -> Any:
    """Run functions one after another, in so many segments that are recomputed in the backward pass."""
    each = list(functions)
    size = max(len(each) // segments, 1)
    for i in range(segments):
        part = each[i * size : (i + 1) * size if i < segments - 1 else None]
        input = ta.checkpoint(lambda x, part=part: functools.reduce(lambda y, f: f(y), part, x), input, **options)
    return input


def seed() -> int:
    """Seed all random streams anew, differently each time; returns the seed."""
    chosen = ta.Generator().seed()
    ta.manual_seed(chosen)
    return chosen


def get_rng_state() -> list[Any]:
    """The states of the random streams of all devices."""
    return [generator.get_state() for generator in ta.random.process_wide_generators()]


def set_rng_state(new_state: list[Any]) -> None:
    """Restore what `get_rng_state` returned."""
    for generator, state in zip(ta.random.process_wide_generators(), new_state, strict=False):  # a GPU may be new
        generator.set_state(state)


@contextlib.contextmanager
def fork_rng(devices: Any = (), enabled: bool = True) -> Iterator[None]:
    """Restore the random streams afterwards."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state if enabled else [])


def tree_flatten(tree: Any) -> tuple[list[Any], Any]:
    """Return what a nest holds, and the nest, for `tree_unflatten`."""
    leaves: list[Any] = []
    tree_map(leaves.append, tree)
    return leaves, tree


def tree_unflatten(leaves: Any, treespec: Any) -> Any:
    """Return a nest as `treespec` that holds `leaves`."""
    left = iter(leaves)
    return tree_map(lambda _: next(left), treespec)


def embedding(
    weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    """F.embedding with the arguments in torch.embedding's order; padding_idx=-1 means none."""
    return nn.functional.embedding(
        indices, weight, None if padding_idx < 0 else padding_idx, None, 2.0, scale_grad_by_freq
    )


def softmax_backward(grad_output: Any, output: Any, dim: int, input_dtype: Any) -> Any:
    """The gradient of a softmax's input, from that of its output: torch._softmax_backward_data."""
    return output * (grad_output - (grad_output * output).sum(dim, True))


def addindent(s_: str, numSpaces: int) -> str:
    """Indent all lines but the first: torch.nn.modules.module._addindent."""
    return s_.replace("\n", "\n" + " " * numSpaces)


def clones(module: Any, n: int) -> Any:
    """A list of deep copies of a module."""
    return nn.ModuleList([copy.deepcopy(module) for _ in range(n)])


def cross(input: Any, other: Any, *, dim: int = -1) -> Any:
    """torch.linalg.cross, along the last axis by default."""
    return ta.cross(input, other, dim)


def qr(input: Any, some: bool = True) -> Any:
    """torch.linalg.qr under its older name."""
    return ta.linalg.qr(input, "reduced" if some else "complete")


def upsample_bilinear(input: Any, size: Any = None, scale_factor: Any = None) -> Any:
    """F.interpolate as it was once named: bilinear, with the corners aligned."""
    return nn.functional.interpolate(input, size, scale_factor, "bilinear", True)


def promote_types(type1: Any, type2: Any) -> Any:
    """The dtype of a sum of tensors of these dtypes."""
    return ta.result_type(ta.zeros(1, dtype=type1), ta.zeros(1, dtype=type2))


def functional_call(module: Any, parameter_and_buffer_dicts: Any, args: Any = (), kwargs: Any = None) -> Any:
    """Call `module` with these tensors in place of its own of the same names."""
    given = parameter_and_buffer_dicts
    given = {name: t for each in ([given] if isinstance(given, dict) else given) for name, t in each.items()}
    places = []
    for name, tensor in given.items():
        path, _, last = name.rpartition(".")
        part = module.get_submodule(path)
        places.append((part._parameters if last in part._parameters else part._buffers, last, tensor))
    before = [(registry, last, registry[last]) for registry, last, _ in places]
    try:
        for registry, last, tensor in places:
            registry[last] = tensor
        return module(*(args if isinstance(args, tuple) else (args,)), **(kwargs or {}))
    finally:
        for registry, last, tensor in before:
            registry[last] = tensor


CLOSE = {"float64": (1e-7, 1e-7), "float32": (1.3e-6, 1e-5), "float16": (1e-3, 1e-5)}  # PyTorch's rtol and atol


def assert_close(
    actual: Any, expected: Any, *, rtol: Any = None, atol: Any = None, equal_nan: bool = False, **others: Any
) -> None:
    """Raise AssertionError unless all elements are close, by default as close as PyTorch wants them for the dtype."""
    a, b = (x.detach().cpu() if ta.is_tensor(x) else ta.as_tensor(x) for x in (actual, expected))
    usual = CLOSE.get(str(a.dtype), (0, 0))
    rtol, atol = (usual[i] if given is None else given for i, given in enumerate((rtol, atol)))
    if a.shape != b.shape or not ta.allclose(a.double(), b.double(), rtol, atol, equal_nan):
        raise AssertionError(
            f"Tensor-likes are not close: shapes {tuple(a.shape)}, {tuple(b.shape)}; rtol={rtol}, atol={atol}"
        )


class SummaryWriter(Nothing):
    """TensorBoard's writer, which writes nothing here; it says so once."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("SummaryWriter: tinyattn writes no TensorBoard files; its methods have no effect", stacklevel=2)

    def __getattr__(self, name: str) -> Any:
        return ignored


def storage_offset(tensor: Any) -> int:
    """How many elements the first one lies behind the beginning of the memory."""
    return int(tensor.data_ptr() - UntypedStorage(tensor).data_ptr()) // int(tensor.element_size())


def pair(count: int) -> Callable[[Any], tuple[Any, ...]]:
    """The function that repeats a number `count` times and leaves a tuple as it is."""
    return lambda x: tuple(x) if isinstance(x, typing.Iterable) else (x,) * count
