"""After `import tinyattn.as_torch`, `import torch` gives tinyattn: models written for PyTorch run unchanged.

    import tinyattn.as_torch
    import torch
    import torch.nn.functional as F

or `python -m tinyattn run script.py ARGUMENTS`. A module of PyTorch is a list of tinyattn's modules in which its names
are looked up, and a few names of its own: what means nothing here (autocast, the just-in-time compiler, back ends) does
nothing, and what would compute something else (complex numbers, Fourier transforms, sparse tensors) is refused.

Raises ImportError if PyTorch itself has been imported in this process: its tensors and these do not mix.
"""

from __future__ import annotations

import contextlib
import ctypes
import functools
import gc
import importlib.abc
import importlib.machinery
import multiprocessing
import sys
import types
import typing
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

import tinyattn as ta
from tinyattn import data, nn, optim
from tinyattn.nn import functional, init, parallel, utils
from tinyattn.optim import lr_scheduler

VERSION = "2.13.0"  # of the PyTorch whose names these are

if getattr(sys.modules.get("torch"), "__file__", None) is not None:
    raise ImportError(
        "tinyattn.as_torch: PyTorch is already imported in this process, and its tensors do not mix with tinyattn's. "
        "Import tinyattn.as_torch before anything that imports torch, or leave it out."
    )


class Refused:
    """A name of PyTorch that tinyattn has not; using it raises."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __repr__(self) -> str:
        return self.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{self.name} is not part of tinyattn, which runs models of real numbers, eagerly")


class Namespace(types.ModuleType):
    """A module named as PyTorch's, whose names are those of `sources`, in that order, and `own`."""

    def __init__(self, name: str, *sources: Any, **own: Any) -> None:
        super().__init__(name, f"PyTorch's {name}, by tinyattn.")
        self.__path__: list[str] = []  # it may have modules inside
        self._sources = sources
        self.__dict__.update(own)
        sys.modules[name] = self
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, self)

    def __getattr__(self, name: str) -> Any:
        for source in self._sources if not name.startswith("__") else ():
            if hasattr(source, name):
                return getattr(source, name)
        raise AttributeError(
            f"{self.__name__}.{name} is not part of tinyattn, which covers what attention models use of PyTorch"
        )

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *(n for source in self._sources for n in dir(source) if n[0] != "_")})


class NoSuchModule(importlib.abc.MetaPathFinder):
    """Says in one sentence that a module of PyTorch is not here."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Called for modules that are not in `sys.modules`."""
        if name.startswith("torch."):
            raise ModuleNotFoundError(f"{name} is not part of tinyattn, which stands in for torch here", name=name)
        return None


# --- what means nothing here: it takes any arguments and does nothing ---


class Nothing(contextlib.ContextDecorator):
    """A context manager, a decorator and a setting, all without effect: autocast and its like."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __enter__(self) -> Nothing:
        return self

    def __exit__(self, *exception: object) -> None:
        pass


class GradScaler:
    """Scales nothing: float16 is computed in float32 here, and gradients do not underflow more than there."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def scale(self, loss: Any) -> Any:
        """The loss itself."""
        return loss

    def step(self, optimizer: Any, *args: Any) -> Any:
        """Step the optimizer."""
        return optimizer.step(*args)

    def unscale_(self, optimizer: Any) -> None:
        """Nothing to undo."""

    def update(self, new_scale: Any = None) -> None:
        """Nothing to adapt."""

    def get_scale(self) -> float:
        """One."""
        return 1.0

    def is_enabled(self) -> bool:
        """Never."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """Empty, as that of a scaler that is switched off."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Nothing to load."""


def ignored(*args: Any, **kwargs: Any) -> None:
    """A setting without effect here."""


def no(*args: Any, **kwargs: Any) -> bool:
    """False."""
    return False


def unchanged(function: Any = None, *args: Any, **kwargs: Any) -> Any:
    """A function or module as it is; as a decorator with arguments, the decorator that returns it so."""
    return function if callable(function) else unchanged


def variable(tensor: Any, requires_grad: bool = False, volatile: bool = False) -> Any:
    """The tensor; PyTorch has had no separate Variables since 0.4."""
    return tensor.requires_grad_() if requires_grad else tensor


class SyncBatchNorm(nn.BatchNorm2d):
    """Batch normalization over all processes, of which there is one."""

    @classmethod
    def convert_sync_batchnorm(cls, module: Any, process_group: Any = None) -> Any:
        """The module itself."""
        return module


class OneProcess(parallel.DataParallel):
    """DataParallel and DistributedDataParallel on one device: one worker; gradients need no exchange."""

    def __init__(self, module: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(module, workers=1)

    def no_sync(self) -> Nothing:
        """No exchange to leave out."""
        return Nothing()


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


def tree_map(func: Callable[[Any], Any], tree: Any) -> Any:
    """Apply `func` to what dicts, lists and tuples hold, at any depth."""
    if isinstance(tree, dict):
        return {key: tree_map(func, value) for key, value in tree.items()}
    if isinstance(tree, list | tuple):
        mapped = [tree_map(func, value) for value in tree]
        return type(tree)(*mapped) if hasattr(tree, "_fields") else type(tree)(mapped)
    return func(tree)


def tree_flatten(tree: Any) -> tuple[list[Any], Any]:
    """Return what a nest holds, and the nest, for `tree_unflatten`."""
    leaves: list[Any] = []
    tree_map(leaves.append, tree)
    return leaves, tree


def tree_unflatten(leaves: Any, treespec: Any) -> Any:
    """Return a nest as `treespec` that holds `leaves`."""
    left = iter(leaves)
    return tree_map(lambda _: next(left), treespec)


def pair(count: int) -> Callable[[Any], tuple[Any, ...]]:
    """The function that repeats a number `count` times and leaves a tuple as it is."""
    return lambda x: tuple(x) if isinstance(x, typing.Iterable) else (x,) * count


def _torch() -> None:
    refused = {n: Refused(f"torch.{n}") for n in ("bfloat16", "complex64", "complex128", "cfloat", "sparse_coo_tensor")}
    layouts = dict.fromkeys(("strided", "contiguous_format", "preserve_format", "channels_last"), None)
    in_place = {f"{n}_": getattr(ta.Tensor, f"{n}_") for n in dir(ta) if n[-1] != "_" and hasattr(ta.Tensor, f"{n}_")}
    streams = {"get_rng_state": get_rng_state, "set_rng_state": set_rng_state, "fork_rng": fork_rng}
    Namespace(
        "torch", ta, functional, __version__=VERSION, dtype=type(ta.float32),
        compile=unchanged, autocast=Nothing, GradScaler=GradScaler, set_num_threads=ignored, get_num_threads=lambda: 1,
        use_deterministic_algorithms=ignored, set_printoptions=ignored, save=save, ger=ta.outer, asarray=ta.as_tensor,
        memory_format=object, layout=object, is_autocast_enabled=no, set_default_tensor_type=default_tensor_type,
        **streams, **in_place, **{**refused, **layouts},
    )  # fmt: skip
    Namespace("torch.version", cuda=None, hip=None, __version__=VERSION)
    Namespace("torch.types", Tensor=ta.Tensor, Device=Any, Number=float)
    Namespace("torch.functional", ta)
    Namespace("torch.random", ta, ta.random, **streams)
    Namespace("torch.linalg", ta.linalg)
    modes = {"no_grad": ta.no_grad, "enable_grad": ta.enable_grad, "set_grad_enabled": ta.set_grad_enabled}
    Namespace("torch.autograd", ta.autograd, ta.debug, Variable=variable, **modes)
    Namespace("torch.autograd.grad_mode", **modes)
    Namespace("torch.autograd.function", ta.autograd)
    Namespace("torch.autograd.gradcheck", ta.debug)
    del sys.modules["torch.autograd"].gradcheck  # the function of this name, not its module
    Namespace("torch.autograd.variable", Variable=variable)


def _nn() -> None:
    Namespace("torch.nn", nn, Buffer=unchanged, DataParallel=OneProcess, SyncBatchNorm=SyncBatchNorm,
              RNNBase=nn.recurrent._Layers)  # fmt: skip
    Namespace("torch.nn.common_types", **{f"_size_{n}_t": Any for n in ("any", 1, 2, 3, 4, 5, 6)})
    attend = nn.attention.multi_head_attention_forward
    Namespace("torch.nn.functional", functional, ta, multi_head_attention_forward=attend)
    Namespace("torch.nn.init", init)
    Namespace("torch.nn.parameter", nn)
    Namespace("torch.nn.parallel", DataParallel=OneProcess, DistributedDataParallel=OneProcess)
    Namespace("torch.nn.parallel.distributed", DistributedDataParallel=OneProcess)
    Namespace("torch.nn.utils", utils, clip_grad_norm=utils.clip_grad_norm_)
    Namespace("torch.nn.utils.rnn", utils.rnn)
    for name in ("clip_grad", "convert_parameters", "weight_norm"):
        Namespace(f"torch.nn.utils.{name}", utils)
    kernels = types.SimpleNamespace(MATH=0, FLASH_ATTENTION=1, EFFICIENT_ATTENTION=2, CUDNN_ATTENTION=3)
    Namespace("torch.nn.attention", SDPBackend=kernels, sdpa_kernel=Nothing)
    Namespace("torch.nn.modules", nn)
    files = (
        "activation batchnorm container conv distance dropout flatten fold instancenorm linear loss module "
        "normalization padding pixelshuffle pooling rnn sparse transformer upsampling"
    )
    bases = {"_Loss": nn.losses._Loss, "_WeightedLoss": nn.losses._WeightedLoss,
             "NonDynamicallyQuantizableLinear": nn.Linear}  # fmt: skip
    private = (nn.convolution, nn.layers, nn.normalization, types.SimpleNamespace(**bases))
    for name in files.split():
        Namespace(f"torch.nn.modules.{name}", nn, functional, *private)
    repeat = {"_single": pair(1), "_pair": pair(2), "_triple": pair(3), "_quadruple": pair(4), "_ntuple": pair}
    Namespace("torch.nn.modules.utils", **repeat)


def _training() -> None:
    Namespace("torch.optim", optim)
    for name in ("optimizer", "adam", "adamw", "sgd", "rmsprop", "adagrad"):
        Namespace(f"torch.optim.{name}", optim)
    Namespace("torch.optim.lr_scheduler", lr_scheduler)
    Namespace("torch.optim.swa_utils", optim.swa_utils)
    Namespace("torch.utils")
    Namespace("torch.utils.data", data)
    for name in ("dataset", "dataloader", "sampler", "distributed", "_utils", "_utils.collate"):
        Namespace(f"torch.utils.data.{name}", data)
    Namespace(
        "torch.utils.checkpoint",
        checkpoint=ta.checkpoint,
        checkpoint_sequential=checkpoint_sequential,
        get_device_states=lambda *tensors: ([], []),
        set_device_states=ignored,
    )  # all are in get_rng_state
    Namespace("torch.utils._pytree", tree_map=tree_map, tree_flatten=tree_flatten, tree_unflatten=tree_unflatten)


def _machinery() -> None:
    """Devices, compilers and processes, most of which have no effect."""
    amp = {"autocast": Nothing, "GradScaler": GradScaler, "custom_fwd": unchanged, "custom_bwd": unchanged}
    Namespace("torch.cuda", ta.cuda, is_bf16_supported=no, _initialized=False)
    for name in ("torch.amp", "torch.cuda.amp"):
        Namespace(name, **amp)
    Namespace("torch.backends")
    Namespace("torch.backends.cudnn", benchmark=False, deterministic=False, enabled=False, allow_tf32=False)
    Namespace("torch.backends.mps", is_available=no, is_built=no)
    kernels = dict.fromkeys(("enable_flash_sdp", "enable_math_sdp", "enable_mem_efficient_sdp"), ignored)
    Namespace("torch.backends.cuda", matmul=types.SimpleNamespace(allow_tf32=False), sdp_kernel=Nothing, **kernels)
    script = dict.fromkeys(("script", "ignore", "export", "unused", "script_method"), unchanged)
    Namespace("torch.jit", **script, is_scripting=no, is_tracing=no, trace=Refused("torch.jit.trace"),
              ScriptModule=nn.Module, Final=typing.Final)  # fmt: skip
    Namespace("torch.multiprocessing", multiprocessing)
    for name in ("torch.profiler", "torch.autograd.profiler"):
        Namespace(name, profile=Nothing, record_function=Nothing)
    Namespace("torch.onnx", is_in_onnx_export=no)
    Namespace("torch.overrides", has_torch_function=no, handle_torch_function=Refused("torch.overrides"))
    group = Refused("torch.distributed.init_process_group")
    Namespace("torch.distributed", is_available=no, is_initialized=no, get_rank=lambda: 0, get_world_size=lambda: 1,
              barrier=ignored, init_process_group=group)  # fmt: skip
    Namespace("torch.hub", load_state_dict_from_url=Refused("torch.hub.load_state_dict_from_url"))


def _dtypes() -> None:
    """Give dtypes the attributes that PyTorch's have: NumPy's class of them takes none but in its dictionary."""
    names = gc.get_referents(np.dtype.__dict__)[0]
    names["is_floating_point"] = property(lambda dtype: dtype.kind == "f")
    names["is_complex"] = property(lambda dtype: dtype.kind == "c")
    names["is_signed"] = property(lambda dtype: dtype.kind in "ifc")
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(np.dtype))


for _make in (_dtypes, _torch, _nn, _training, _machinery):
    _make()
sys.meta_path.insert(0, NoSuchModule())
