"""Replacements for names of PyTorch: settings without effect here, one process, small helpers."""

from __future__ import annotations

import contextlib
import copy
import functools
import itertools
import operator
import typing
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import tinyattn as ta
from tinyattn import backends, data, nn
from tinyattn.files.nested import mapped as tree_map
from tinyattn.nn import parallel


class Refused:
    """A name of PyTorch that tinyattn does not have: a call raises NotImplementedError, and it has no instances."""

    def __init__(self, name: str, why: str = "which runs models of real numbers, eagerly") -> None:
        self.name, self.why = name, why

    def __repr__(self) -> str:
        return self.name

    def __getitem__(self, parameters: Any) -> Any:
        return self

    def __or__(self, other: Any) -> Any:
        return typing.Any  # torch.cuda.CUDAGraph | None, in an annotation

    __ror__ = __or__

    def __instancecheck__(self, instance: Any) -> bool:
        return False

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{self.name} is not part of tinyattn, {self.why}")


# --- without effect, for any arguments ---


class Nothing(contextlib.ContextDecorator):
    """A context manager, decorator or setting without effect, such as torch.autocast."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class NoProfile(Nothing):
    """torch.profiler.profile, without measurements; `ta.profile` measures."""

    def key_averages(self, *args: Any, **kwargs: Any) -> NoProfile:
        """Return the profiler, whose table is empty."""
        return self

    def table(self, *args: Any, **kwargs: Any) -> str:
        """Return a sentence that names `ta.profile`."""
        return "nothing was measured; with tinyattn.profile() as p: ... measures"

    def step(self, *args: Any, **kwargs: Any) -> None:
        """End a step, without effect."""

    export_chrome_trace = export_stacks = start = stop = step


def ignored(*args: Any, **kwargs: Any) -> None:
    """Accept a setting that has no effect here."""


def no(*args: Any, **kwargs: Any) -> bool:
    """Return False."""
    return False


class GradScaler:
    """torch.amp.GradScaler without scaling: autocast has no effect here, so losses and gradients are float32."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def scale(self, loss: Any) -> Any:
        """Return the loss unchanged."""
        return loss

    def step(self, optimizer: Any, *args: Any) -> Any:
        """Step the optimizer."""
        return optimizer.step(*args)

    def get_scale(self) -> float:
        """Return 1."""
        return 1.0

    def state_dict(self) -> dict[str, Any]:
        """Return {}, as a disabled scaler does."""
        return {}

    unscale_ = update = load_state_dict = ignored
    is_enabled = no


def unchanged(function: Any = None, *args: Any, **kwargs: Any) -> Any:
    """Return a function or module unchanged; called with options only, return the decorator that does so."""
    return function if callable(function) else unchanged


def check(condition: Any, message: str = "") -> None:
    """Raise AssertionError unless the condition holds."""
    if not condition:
        raise AssertionError(message)


def check_lazily(cond: Any, message: Any = None) -> None:
    """Raise RuntimeError with the text of the function `message`, unless `cond` holds. As torch._check."""
    if not cond:
        raise RuntimeError(message() if message else "Expected cond to be True, but got False.")


class Required:
    """torch.optim.optimizer.required: the default of an option that must be given."""

    def __repr__(self) -> str:
        return "<required parameter>"


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalization over all processes, of which there is one."""

    @classmethod
    def convert_sync_batchnorm(cls, module: Any, process_group: Any = None) -> Any:
        """Return the module unchanged."""
        return module


class ScriptModule(nn.Module):
    """The base of modules that are compiled in PyTorch; here they run as they are."""


class UntypedStorage:
    """The memory of a tensor and its views, from which programs read its size, or find shared weights."""

    def __init__(self, tensor: Any) -> None:
        self.array, self.device = backends.owner(tensor.array), tensor.device

    def data_ptr(self) -> int:
        """Return the address of the first byte."""
        return int(self.array.ctypes.data if hasattr(self.array, "ctypes") else self.array.data.ptr)

    def nbytes(self) -> int:
        """Return the size in bytes."""
        return int(self.array.nbytes)

    size = __len__ = nbytes

    def __sizeof__(self) -> int:
        return super().__sizeof__() + self.nbytes()


class OneProcess(parallel.DataParallel):
    """DataParallel and DistributedDataParallel on one device: one worker; gradients need no exchange."""

    def __init__(self, module: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(module, workers=1)
        self.device_ids: list[int] = []

    def extra_repr(self) -> str:
        return ""

    def no_sync(self) -> Nothing:
        """Return a context manager without effect: one process exchanges no gradients."""
        return Nothing()


class DataParallel(OneProcess):
    """A module over several GPUs, of which there is one at most. As torch.nn.DataParallel."""


class DistributedDataParallel(OneProcess):
    """A module over several processes. As torch.nn.parallel.DistributedDataParallel."""


CREATE = "zeros ones full empty arange linspace logspace eye rand randn randint randperm tensor".split()


def creating(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a function that makes tensors accept PyTorch's arguments that have no effect here."""

    @functools.wraps(function)
    def make(*args: Any, layout: Any = None, pin_memory: Any = None, memory_format: Any = None, **options: Any) -> Any:
        return function(*args, **options)

    return make


def inclusive_range(start: float = 0, end: float = 0, step: float = 1, **options: Any) -> Any:
    """Return start, start + step, ... up to `end`, included, (n,), in the default dtype. As torch.range."""
    return start + step * ta.arange(int((end - start) / step) + 1, **{"dtype": ta.get_default_dtype(), **options})


def scalar_tensor(s: Any, **options: Any) -> Any:
    """Return a number as a tensor () of the default dtype. As torch.scalar_tensor."""
    return ta.full((), s, **{"dtype": ta.get_default_dtype(), **options})


def ndtr(input: Any) -> Any:
    """Compute the standard normal distribution function of each element, (...) -> (...). As torch.special.ndtr."""
    return (1 + ta.erf(input / 2**0.5)) / 2


def all_gather(tensor_list: list[Any], tensor: Any, *group: Any, **options: Any) -> None:
    """Write the tensors of all processes into the list; here there is one. As torch.distributed.all_gather."""
    tensor_list[0].copy_(tensor)


def skip_init(module_cls: Any, *args: Any, **kwargs: Any) -> Any:
    """Return module_cls(*args, **kwargs), which is initialised all the same. As torch.nn.utils.skip_init."""
    return module_cls(*args, **kwargs)


def default_tensor_type(kind: Any) -> None:
    """Make the dtype of "torch.DoubleTensor", or of that constructor, the default."""
    ta.set_default_dtype(ta.zeros(0).type(kind).dtype)


def checkpoint_sequential(functions: Any, segments: int, input: Any, **options: Any) -> Any:
    """Apply functions in `segments` checkpoints. As torch.utils.checkpoint.checkpoint_sequential."""
    each = list(functions)
    size = max(len(each) // segments, 1)
    for i in range(segments):
        part = each[i * size : (i + 1) * size if i < segments - 1 else None]
        input = ta.checkpoint(lambda x, part=part: functools.reduce(lambda y, f: f(y), part, x), input, **options)
    return input


def seed() -> int:
    """Seed all random streams with a random number, and return it. As torch.seed."""
    chosen = ta.Generator().seed()
    ta.manual_seed(chosen)
    return chosen


def get_rng_state() -> list[Any]:
    """Return the states of the random streams of all devices, a list (PyTorch: a tensor of bytes)."""
    return [generator.get_state() for generator in ta.random.process_wide_generators()]


def set_rng_state(new_state: list[Any]) -> None:
    """Restore what `get_rng_state` returned."""
    for generator, state in zip(ta.random.process_wide_generators(), new_state, strict=False):  # a GPU may be new
        generator.set_state(state)


@contextlib.contextmanager
def fork_rng(devices: Any = (), enabled: bool = True) -> Iterator[None]:
    """Restore the random streams at the end of a `with` block. As torch.random.fork_rng."""
    state = get_rng_state()
    try:
        yield
    finally:
        set_rng_state(state if enabled else [])


def tree_flatten(tree: Any) -> tuple[list[Any], Any]:
    """Return the leaves of nested dicts, lists and tuples, and their structure, for `tree_unflatten`."""
    leaves: list[Any] = []
    tree_map(leaves.append, tree)
    return leaves, tree


def tree_unflatten(leaves: Any, treespec: Any) -> Any:
    """Return nested dicts, lists and tuples of the structure `treespec` with these leaves."""
    left = iter(leaves)
    return tree_map(lambda _: next(left), treespec)


def embedding(
    weight: Any, indices: Any, padding_idx: int = -1, scale_grad_by_freq: bool = False, sparse: bool = False
) -> Any:
    """Look up rows, as `F.embedding`, with the arguments of torch.embedding; padding_idx=-1 means none."""
    row = None if padding_idx < 0 else padding_idx
    return nn.functional.embedding(indices, weight, row, None, 2.0, scale_grad_by_freq)


def softmax_backward(grad_output: Any, output: Any, dim: int, input_dtype: Any) -> Any:
    """Compute the gradient of a softmax's input from that of its output. As torch._softmax_backward_data."""
    return output * (grad_output - (grad_output * output).sum(dim, True))


def addindent(s_: str, numSpaces: int) -> str:
    """Indent all lines but the first. As torch.nn.modules.module._addindent."""
    return s_.replace("\n", "\n" + " " * numSpaces)


def clones(module: Any, n: int) -> Any:
    """Return a ModuleList of `n` deep copies of a module."""
    return nn.ModuleList([copy.deepcopy(module) for _ in range(n)])


class ChainDataset(data.IterableDataset):
    """Iterable data sets one after another. As torch.utils.data.ChainDataset."""

    def __init__(self, datasets: Any) -> None:
        self.datasets = datasets

    def __iter__(self) -> Iterator[Any]:
        return itertools.chain.from_iterable(self.datasets)

    def __len__(self) -> int:
        return sum(map(len, self.datasets))


def promote_types(type1: Any, type2: Any) -> Any:
    """Return the dtype of the sum of tensors of these dtypes. As torch.promote_types."""
    return ta.result_type(ta.zeros(1, dtype=type1), ta.zeros(1, dtype=type2))


def functional_call(module: Any, parameter_and_buffer_dicts: Any, args: Any = (), kwargs: Any = None) -> Any:
    """Call `module` with other tensors in place of its parameters and buffers. As torch.func.functional_call.

    parameter_and_buffer_dicts: tensors by name, a dict or a tuple of dicts. Raises KeyError for an unknown name.

    >>> from tinyattn.compat.parts import functional_call
    >>> functional_call(nn.Linear(2, 1), {"weight": ta.ones(1, 2), "bias": ta.zeros(1)}, ta.tensor([2.0, 3.0])).tolist()
    [5.0]
    """
    dicts = parameter_and_buffer_dicts
    before = []
    try:
        for name, tensor in functools.reduce(operator.or_, [dicts] if isinstance(dicts, dict) else dicts).items():
            path, _, last = name.rpartition(".")
            part = module.get_submodule(path)
            registry = part._parameters if last in part._parameters else part._buffers
            if last not in registry:
                raise KeyError(f"functional_call: {type(module).__name__} has no parameter or buffer {name!r}")
            before.append((registry, last, registry[last]))
            registry[last] = tensor
        return module(*(args if isinstance(args, tuple) else (args,)), **(kwargs or {}))
    finally:
        for registry, last, tensor in before:
            registry[last] = tensor


CLOSE = {"float64": (1e-7, 1e-7), "float32": (1.3e-6, 1e-5), "float16": (1e-3, 1e-5)}  # PyTorch's rtol and atol


def assert_close(
    actual: Any, expected: Any, *, rtol: Any = None, atol: Any = None, equal_nan: bool = False, **others: Any
) -> None:
    """Raise AssertionError unless all elements are close, by PyTorch's tolerances. As torch.testing.assert_close."""
    a, b = (x.detach().cpu() if ta.is_tensor(x) else ta.as_tensor(x) for x in (actual, expected))
    usual = CLOSE.get(str(a.dtype), (0, 0))
    rtol, atol = (usual[i] if given is None else given for i, given in enumerate((rtol, atol)))
    if a.shape != b.shape or not ta.allclose(a.double(), b.double(), rtol, atol, equal_nan):
        raise AssertionError(
            f"Tensor-likes are not close: shapes {tuple(a.shape)}, {tuple(b.shape)}; rtol={rtol}, atol={atol}"
        )


class SummaryWriter(Nothing):
    """torch.utils.tensorboard.SummaryWriter without files: its constructor warns, its methods have no effect."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        warnings.warn("SummaryWriter: tinyattn writes no TensorBoard files; its methods have no effect", stacklevel=2)

    def __getattr__(self, name: str) -> Any:
        return ignored


def storage_offset(tensor: Any) -> int:
    """How many elements the first one lies behind the beginning of the memory."""
    return int(tensor.data_ptr() - UntypedStorage(tensor).data_ptr()) // int(tensor.element_size())


def pair(count: int) -> Callable[[Any], tuple[Any, ...]]:
    """Return the function that repeats a number `count` times, and makes a tuple of an iterable."""
    return lambda x: tuple(x) if isinstance(x, typing.Iterable) else (x,) * count
