"""After `import tinyattn.as_torch`, `import torch` gives tinyattn: models written for PyTorch run unchanged.

    import tinyattn.as_torch
    import torch
    import torch.nn.functional as F

or `python -m tinyattn run script.py ARGUMENTS`. A module of PyTorch is a list of tinyattn's modules in which its names
are looked up, and a few names of its own: what means nothing here (autocast, the just-in-time compiler, back ends) does
nothing, and what would compute something else (bfloat16, tracing) is refused; sparse tensors are dense ones.

Raises ImportError if PyTorch itself has been imported in this process: its tensors and these do not mix.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.abc
import importlib.machinery
import multiprocessing
import os
import re
import sys
import types
import typing
import urllib.parse
from typing import Any

import numpy as np

import tinyattn as ta
from tinyattn import data, nn, optim
from tinyattn.compat import (
    absent,
    devices,
    distributions,
    flex,
    func,
    functions,
    further_distributions,
    graph,
    hooks,
    layers,
    library,
    matrices,
    older,
    out,
    parts,
    printing,
    prune,
    sparse,
    stored,
)  # fmt: skip
from tinyattn.compat import complex_pairs as pairs
from tinyattn.compat.parts import Nothing, Refused, ignored, no, unchanged
from tinyattn.nn import functional, init, utils
from tinyattn.optim import lr_scheduler

VERSION = "2.13.0"  # of the PyTorch whose names these are

if getattr(sys.modules.get("torch"), "__file__", None) is not None:
    raise ImportError(
        "tinyattn.as_torch: PyTorch is already imported in this process, and its tensors do not mix with tinyattn's. "
        "Import tinyattn.as_torch before anything that imports torch, or leave it out."
    )


class Namespace(types.ModuleType):
    """A module named as PyTorch's, whose names are those of `sources`, in that order, and `own`."""

    def __init__(self, name: str, *sources: Any, **own: Any) -> None:
        super().__init__(name, f"PyTorch's {name}, by tinyattn.")
        self.__path__: list[str] = []  # it may have modules inside
        self.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=True)  # for importlib.util.find_spec
        self._sources = sources
        self.__dict__.update(own)
        sys.modules[name] = self
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, self)

    def __getattr__(self, name: str) -> Any:
        if name == "__all__":
            return self._starred()
        for source in self._sources if not name.startswith("__") else ():
            if hasattr(source, name):
                return getattr(source, name)
        raise AttributeError(f"{self.__name__}.{name} {absent.NOT_HERE}")

    def _starred(self) -> list[str]:
        """What `from torch.nn import *` brings: no modules, but torch.nn's and torch.optim's own."""
        names = {*self.__dict__, *(n for source in self._sources for n in getattr(source, "__all__", dir(source)))}
        found = {n: getattr(self, n) for n in names if n[0] != "_"}
        own = Namespace if self.__name__ in ("torch.nn", "torch.optim") else ()
        return [n for n, value in found.items() if isinstance(value, own) or not isinstance(value, types.ModuleType)]

    def __dir__(self) -> list[str]:
        return sorted({*self.__dict__, *(n for source in self._sources for n in dir(source) if n[0] != "_")})


def _files(package: str, names: str, *sources: Any) -> None:
    """Make modules of a package with the same names in each: tinyattn does not divide them up."""
    for name in names.split():
        Namespace(f"{package}.{name}", *sources)


class NoSuchModule(importlib.abc.MetaPathFinder):
    """Says in one sentence that a module of PyTorch is not here."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> importlib.machinery.ModuleSpec | None:
        """Called for modules that are not in `sys.modules`."""
        if name.startswith("torch."):
            raise ModuleNotFoundError(f"{name} is not part of tinyattn, which stands in for torch here")  # no `name`:
            # Python would then say "cannot import name" instead
        return None


AUTOCAST = """
set_autocast_enabled set_autocast_dtype set_autocast_gpu_dtype set_autocast_cpu_enabled set_autocast_cpu_dtype
set_autocast_cache_enabled clear_autocast_cache autocast_increment_nesting autocast_decrement_nesting
"""


COMPLEX = "complex64 cfloat complex128 cdouble"
STREAMS = "get_rng_state set_rng_state fork_rng seed"


def _torch() -> None:
    missing = ("bfloat16", "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float4_e2m1fn_x2", "stft")
    refused = {n: Refused(f"torch.{n}") for n in missing}
    layouts = dict.fromkeys(("strided", "contiguous_format", "preserve_format", "channels_last",
                             "channels_last_3d", "legacy_contiguous_format"), None)  # fmt: skip
    names = [n for n in {*dir(ta), *functions.FUNCTIONS} if n[-1] != "_" and hasattr(ta.Tensor, f"{n}_")]
    in_place = {f"{n}_": getattr(ta.Tensor, f"{n}_") for n in names}
    made = {n: parts.creating(out.FUNCTIONS.get(n) or getattr(ta, n)) for n in parts.CREATE}
    autocast = dict.fromkeys(AUTOCAST.split(), ignored)
    asked = {f"is_{n}_enabled": no for n in ("autocast", "autocast_cpu", "inference_mode")}
    of_complex = "polar", "view_as_complex", "view_as_real", "real", "imag", "conj", "angle", "absolute"
    kinds = {n: np.dtype(np.complex64 if n in ("cfloat", "complex64") else np.complex128) for n in COMPLEX.split()}
    kinds |= {n: np.dtype(n) for n in ("uint16", "uint32", "uint64")}
    made |= {n: pairs.creating(made[n], n != "ones") for n in ("zeros", "ones", "empty", "rand", "randn")}
    made |= {n: pairs.joining(out.FUNCTIONS.get(n) or getattr(ta, n)) for n in ("cat", "concat", "stack")}
    made |= {"einsum": pairs.einsum, "zeros_like": pairs.zeros_like, "is_complex": pairs.is_complex}
    numbers = {**kinds, "complex": pairs.of, "abs": pairs.absolute, **{n: getattr(pairs, n) for n in of_complex}}
    streams = {n: getattr(parts, n) for n in STREAMS.split()}
    Namespace(
        "torch", ta, functional, __version__=VERSION, dtype=np.dtype,
        compile=unchanged, autocast=Nothing, GradScaler=parts.GradScaler, _assert=parts.check,
        _check=parts.check_lazily,
        set_num_threads=ignored, get_num_threads=lambda: 1, set_num_interop_threads=ignored,
        get_num_interop_threads=lambda: 1, are_deterministic_algorithms_enabled=no, set_flush_denormal=no,
        use_deterministic_algorithms=ignored, set_warn_always=ignored,
        set_printoptions=printing.set_printoptions, set_default_tensor_type=parts.default_tensor_type,
        memory_format=object, layout=object, save=stored.save, load=stored.load, ger=ta.outer, asarray=ta.as_tensor,
        embedding=parts.embedding, vmap=func.vmap, promote_types=parts.promote_types,
        qr=older.qr, lu_unpack=matrices.lu_unpack, _softmax_backward_data=parts.softmax_backward,
        finfo=absent.finfo, TensorType=ta.Tensor, Future=Refused("torch.futures.Future"), **{**out.FUNCTIONS, **made},
        **numbers, **streams, **in_place, **{**refused, **layouts}, **asked,
        range=parts.inclusive_range, scalar_tensor=parts.scalar_tensor, fill=ta.full_like, is_storage=no,
        get_autocast_gpu_dtype=lambda: ta.float16, get_autocast_dtype=lambda device_type: ta.float16,
        ScriptModule=parts.ScriptModule, rrelu=layers.rrelu, **functions.FUNCTIONS, **matrices.METHODS,
        **sparse.FUNCTIONS, **autocast, OutOfMemoryError=MemoryError, UntypedStorage=parts.UntypedStorage,
        ByteStorage=types.SimpleNamespace(from_buffer=lambda b: ta.tensor(np.frombuffer(b, np.uint8))),
        Event=devices.Event, Stream=devices.Stream, device=devices.device,
    )  # fmt: skip


def _submodules() -> None:
    streams = {n: getattr(parts, n) for n in STREAMS.split()}
    whole = sys.modules["torch"]  # torch.sparse.torch.eye, as models of 2017 write it
    Namespace("torch.sparse", torch=whole, **sparse.SPARSE)
    Namespace("torch.version", cuda=None, hip=None, __version__=VERSION)
    Namespace("torch.types", Tensor=ta.Tensor, Device=Any, Number=float)
    Namespace("torch.functional", ta)
    Namespace("torch.random", ta, ta.random, **streams)
    reasons = {"eig": "whose numbers are real; use eigh", "eigvals": "whose numbers are real; use eigvalsh"}
    refused = {name: Refused(f"torch.linalg.{name}", why) for name, why in reasons.items()}
    Namespace("torch.linalg", ta.linalg, matmul=ta.matmul, **matrices.LINALG, **refused)
    Namespace("torch.fft", **pairs.FFT)
    modes = {"no_grad": ta.no_grad, "enable_grad": ta.enable_grad, "set_grad_enabled": ta.set_grad_enabled}
    Namespace("torch.autograd", ta.autograd, ta.debug, Variable=older.Variable, grad=func.gradients,
              set_multithreading_enabled=Nothing, **func.CHECKING, **modes)  # fmt: skip
    Namespace("torch.autograd.grad_mode", **modes)
    Namespace("torch.autograd.graph", Node=ta.engine.node.Node, save_on_cpu=Nothing,
              saved_tensors_hooks=Refused("saved_tensors_hooks"))  # fmt: skip
    Namespace("torch.autograd.function", ta.autograd)
    Namespace("torch.autograd.gradcheck", ta.debug, **func.CHECKING)
    sys.modules["torch.autograd"].gradcheck = func.CHECKING["gradcheck"]  # type: ignore[attr-defined]  # no module
    Namespace("torch.autograd.functional", ta, **func.AUTOGRAD)
    Namespace("torch.special", ta, functional, expit=ta.sigmoid, ndtr=parts.ndtr, **functions.SPECIAL)
    refused = {n: Refused(f"torch.func.{n}") for n in ("functionalize", "linearize")}
    Namespace("torch.func", functional_call=parts.functional_call, **func.FUNC, **refused)
    Namespace("torch.autograd.variable", Variable=older.Variable)


def _nn() -> None:
    Namespace("torch.nn", nn, Buffer=layers.Buffer, DataParallel=parts.DataParallel, SyncBatchNorm=parts.SyncBatchNorm,
              RNNBase=nn.recurrent._Layers, RNNCellBase=nn.recurrent._Cell, NLLLoss2d=nn.NLLLoss,
              **layers.NN)  # fmt: skip
    nn.Module.compile = ignored  # type: ignore[attr-defined]
    nn.Module.forward = layers.no_forward
    nn.Module.__setattr__ = layers.registering(nn.Module.__setattr__)  # type: ignore[method-assign]
    Namespace("torch.nn.common_types", **{f"_size_{n}_t": Any for n in ("any", 1, 2, 3, 4, 5, 6)})
    attend = nn.attention.multi_head_attention_forward
    upsampled = {"upsample_bilinear": older.upsample_bilinear, "upsample_nearest": functional.interpolate}
    added = {**layers.FUNCTIONAL, "pdist": functions.pdist, "multi_head_attention_forward": attend}
    Namespace("torch.nn.functional", functional, ta, **added, **upsampled)
    Namespace("torch.nn.init", init, sparse_=layers.sparse_)
    lazy = {name: Refused(f"torch.nn.parameter.{name}") for name in ("UninitializedParameter", "UninitializedBuffer")}
    Namespace("torch.nn.parameter", nn, Buffer=layers.Buffer, is_lazy=no, **lazy)
    Namespace(
        "torch.nn.parallel", DataParallel=parts.DataParallel, DistributedDataParallel=parts.DistributedDataParallel
    )
    Namespace("torch.nn.parallel.scatter_gather", **{n: Refused(f"{n} of several GPUs") for n in ("scatter", "gather")})
    Namespace("torch.nn.parallel.distributed", DistributedDataParallel=parts.DistributedDataParallel)
    Namespace("torch.nn.utils", utils, clip_grad_norm=utils.clip_grad_norm_, skip_init=parts.skip_init, **layers.FUSION)
    Namespace("torch.nn.utils.rnn", utils.rnn)
    Namespace("torch.nn.utils.prune", prune)
    _files("torch.nn.utils", "clip_grad convert_parameters spectral_norm weight_norm", utils)
    _files("torch.nn.utils", "parametrizations parametrize", utils.parametrize)
    del sys.modules["torch.nn.utils"].weight_norm, sys.modules["torch.nn.utils"].spectral_norm  # functions, not modules
    Namespace("torch.nn.utils.fusion", **layers.FUSION)
    Namespace("torch.nn.utils.stateless", functional_call=parts.functional_call)
    kernels = types.SimpleNamespace(MATH=0, FLASH_ATTENTION=1, EFFICIENT_ATTENTION=2, CUDNN_ATTENTION=3)
    Namespace("torch.nn.attention", SDPBackend=kernels, sdpa_kernel=Nothing)
    Namespace("torch.nn.attention.flex_attention", flex, _DEFAULT_SPARSE_BLOCK_SIZE=128,
              AuxRequest=Refused("flex_attention.AuxRequest"))  # fmt: skip
    Namespace("torch.nn.modules", nn)
    files = (
        "activation batchnorm container conv distance dropout flatten fold instancenorm linear loss module "
        "normalization padding pixelshuffle pooling rnn sparse transformer upsampling"
    )
    bases = {"_Loss": nn.losses._Loss, "_WeightedLoss": nn.losses._WeightedLoss,
             "NonDynamicallyQuantizableLinear": nn.Linear, "SyncBatchNorm": parts.SyncBatchNorm,
             "_IncompatibleKeys": nn.loading.LoadResult, "RNNCellBase": nn.recurrent._Cell,
             "_get_clones": parts.clones, "RNNBase": nn.recurrent._Layers,
             "_addindent": parts.addindent, "_get_activation_fn": nn.transformer._activation}  # fmt: skip
    files_of = (nn.every_module, nn.convolution, nn.layers, nn.normalization, nn.transformer)
    _files("torch.nn.modules", files, nn, functional, *files_of, types.SimpleNamespace(**bases))
    repeat = {name: parts.pair(i) for i, name in enumerate(("_single", "_pair", "_triple", "_quadruple"), 1)}
    Namespace("torch.nn.modules.utils", _ntuple=parts.pair, **repeat)


def _training() -> None:
    refused = {"SparseAdam": Refused("torch.optim.SparseAdam", "whose gradients are dense; use Adam"),
               "Muon": Refused("torch.optim.Muon", "which has no bfloat16; use AdamW")}  # fmt: skip
    Namespace("torch.optim", optim, Adafactor=layers.Adafactor, **refused)
    _files("torch.optim", "adam adamw sgd rmsprop adagrad adadelta adamax nadam radam asgd rprop lbfgs", optim)
    Namespace("torch.optim.optimizer", optim, required=parts.Required())
    missing = {"NegativeBinomial": Refused("torch.distributions.NegativeBinomial")}
    kinds = {**distributions.NAMES, **further_distributions.NAMES, **missing}
    Namespace("torch.distributions", ta.distributions, **kinds)
    files = "bernoulli beta categorical cauchy dirichlet distribution gamma gumbel independent kl laplace normal "
    files += (
        "half_normal log_normal mixture_same_family multivariate_normal poisson relaxed_categorical studentT weibull "
    )
    files += "one_hot_categorical transformed_distribution transforms uniform utils"
    _files("torch.distributions", files, sys.modules["torch.distributions"])
    constraints = ("real", "positive", "unit_interval", "simplex", "boolean", "nonnegative_integer", "real_vector")
    Namespace("torch.distributions.constraints", **{name: Refused(f"constraints.{name}") for name in constraints})
    Namespace("torch.optim.lr_scheduler", lr_scheduler)
    Namespace("torch.optim.swa_utils", optim.swa_utils)
    Namespace("torch.utils")
    Namespace("torch.utils.data", data, ChainDataset=parts.ChainDataset)
    compiling = ("load", "load_inline", "CppExtension", "CUDAExtension", "BuildExtension")
    why = "which compiles no C++"
    Namespace("torch.utils.cpp_extension", CUDA_HOME=None,
              **{n: Refused(f"torch.utils.cpp_extension.{n}", why) for n in compiling})  # fmt: skip
    Namespace("torch.utils._device")
    Namespace("torch.utils.tensorboard", SummaryWriter=parts.SummaryWriter)
    Namespace("torch.utils.hooks", RemovableHandle=ta.engine.hooks.RemovableHandle)
    Namespace("torch.utils.model_zoo", load_url=Refused("torch.utils.model_zoo.load_url"))
    Namespace("torch.testing", assert_close=parts.assert_close)
    _files("torch.utils.data", "dataset dataloader sampler distributed _utils _utils.collate", data)
    states = {"get_device_states": lambda *tensors: ([], []), "set_device_states": ignored}  # are in get_rng_state
    sequential = parts.checkpoint_sequential
    Namespace("torch.utils.checkpoint", checkpoint=ta.checkpoint, checkpoint_sequential=sequential, **states)
    trees = {name: getattr(parts, name) for name in ("tree_map", "tree_flatten", "tree_unflatten")}
    registering = ("register_pytree_node", "_register_pytree_node", "_dict_flatten", "_dict_flatten_with_keys")
    Namespace("torch.utils._pytree", **trees, **dict.fromkeys(registering, ignored))


def _machinery() -> None:
    """Devices and compilers, most of which have no effect."""
    amp = {"autocast": Nothing, "GradScaler": parts.GradScaler, "custom_fwd": unchanged, "custom_bwd": unchanged}
    streams = {f"{do}_rng_state{of}": getattr(parts, f"{do}_rng_state") for do in ("get", "set") for of in ("", "_all")}
    own = {**devices.MEMORY, **devices.CUDA_TYPES, **devices.STREAMS, **streams}
    graphs = {n: Refused(f"torch.cuda.{n}", "which has tinyattn.cuda.compile") for n in ("CUDAGraph", "graph")}
    Namespace("torch.cuda", ta.cuda, **own, StreamContext=Nothing, is_bf16_supported=no, _initialized=False,
              **graphs)  # fmt: skip
    for name in ("torch.amp", "torch.cuda.amp"):
        Namespace(name, **amp)
    Namespace("torch.accelerator", is_available=ta.cuda.is_available, device_count=ta.cuda.device_count,
              current_accelerator=devices.current_accelerator, synchronize=devices.synchronize)  # fmt: skip


def _compilers() -> None:
    """Compilers, profilers and files of models, most of which have no effect."""
    Namespace("torch.futures", **{n: Refused(f"torch.futures.{n}") for n in ("Future", "collect_all", "wait_all")})
    never = {n: type(n, (), {}) for n in ("Graph", "Value", "Node", "Argument")}
    named = {"device": devices.device, "dtype": np.dtype}  # which editors import from here
    Namespace("torch._C", **never, **named, _log_api_usage_once=ignored)  # the classes are named in annotations
    passing = ("disable", "allow_in_graph", "assume_constant_result")
    Namespace("torch._dynamo", reset=ignored, mark_static_address=ignored,
              is_compiling=no, **dict.fromkeys(passing, unchanged))  # fmt: skip
    for name in ("_dynamo.config", "_inductor", "_inductor.config", "_higher_order_ops"):
        Namespace(f"torch.{name}")
    Namespace("torch._dynamo._trace_wrapped_higher_order_op", TransformGetItemToIndex=Nothing)
    Namespace("torch.backends")
    Namespace("torch.backends.cudnn", benchmark=False, deterministic=False, enabled=False, allow_tf32=False,
              is_available=no, version=lambda: None, flags=Nothing)  # fmt: skip
    Namespace("torch.backends.mps", is_available=no, is_built=no)
    kernels = dict.fromkeys(("enable_flash_sdp", "enable_math_sdp", "enable_mem_efficient_sdp"), ignored)
    Namespace("torch.backends.cuda", matmul=types.SimpleNamespace(allow_tf32=False), sdp_kernel=Nothing, **kernels)
    kept = "script ignore export unused script_method script_if_tracing _script_if_tracing _overload_method freeze"
    Namespace("torch.jit", **dict.fromkeys(kept.split(), unchanged), interface=unchanged, is_scripting=no,
              is_tracing=no, trace=Refused("torch.jit.trace"),
              ScriptModule=parts.ScriptModule, Final=typing.Final, annotate=lambda the_type, value: value)  # fmt: skip
    lists = {f"BroadcastingList{n}": list for n in range(1, 7)}  # annotations only
    Namespace("torch.jit.annotations", typing, **lists)
    for name in ("torch.profiler", "torch.autograd.profiler"):
        Namespace(name, profile=parts.NoProfile, record_function=Nothing, schedule=ignored,
                  tensorboard_trace_handler=ignored, ProfilerActivity=types.SimpleNamespace(CPU=0, CUDA=1))  # fmt: skip
    sys.modules["torch"].ops = library.OPS  # type: ignore[attr-defined]
    Namespace("torch.library", custom_op=library.custom_op, register_autograd=library.register_autograd,
              register_fake=library.register_fake,
              **{n: Refused(f"torch.library.{n}") for n in ("Library", "impl", "define")})  # fmt: skip
    Namespace("torch._higher_order_ops.associative_scan", associative_scan=library.associative_scan)
    Namespace("torch.onnx", is_in_onnx_export=no, export=Refused("torch.onnx.export"))
    functions = dict.fromkeys(("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"), no)
    Namespace("torch.overrides", **functions, handle_torch_function=Refused("torch.overrides"))
    loads = "load_state_dict_from_url", "download_url_to_file", "get_dir", "load"
    refused = {name: Refused(f"torch.hub.{name}", "which loads nothing from a network; load a file") for name in loads}
    home = os.path.expanduser(os.environ.get("TORCH_HOME", "~/.cache/torch"))
    Namespace("torch.hub", HASH_REGEX=re.compile(r"-([a-f0-9]*)\."), urlparse=urllib.parse.urlparse,
              _get_torch_home=lambda: home, **refused)  # fmt: skip
    never = {n: type(n, (), {}) for n in ("Proxy", "GraphModule", "Tracer")}  # classes that nothing here belongs to
    Namespace("torch.fx", wrap=unchanged, symbolic_trace=Refused("torch.fx.symbolic_trace"), **never)
    Namespace("torch.compiler", is_compiling=no, is_exporting=no, reset=ignored, disable=unchanged,
              allow_in_graph=unchanged)  # fmt: skip
    inner = {n: Refused(f"torch.serialization.{n}") for n in ("location_tag", "normalize_storage_type")}
    Namespace("torch.serialization", safe_globals=Nothing, add_safe_globals=ignored, load=stored.load, save=stored.save,
              **inner)  # fmt: skip
    Namespace("torch.cpu", is_available=lambda: True, device_count=lambda: 1, synchronize=ignored)
    for name in ("torch.mps", "torch.xpu"):
        Namespace(name, is_available=no, manual_seed=ignored, empty_cache=ignored)


def _one_process() -> None:
    """What programs ask of several processes, answered by one."""
    Namespace("torch.multiprocessing", multiprocessing)
    group = Refused("torch.distributed.init_process_group", "whose own is tinyattn.distributed.init_process_group")
    Namespace("torch.distributed", is_available=no, is_initialized=no, get_rank=lambda: 0, get_world_size=lambda: 1,
              barrier=ignored, all_reduce=ignored, broadcast=ignored, destroy_process_group=ignored,
              all_gather=parts.all_gather, is_nccl_available=no, is_mpi_available=no, broadcast_object_list=ignored,
              ReduceOp=types.SimpleNamespace(SUM=0, AVG=1, MAX=3), init_process_group=group)  # fmt: skip
    Namespace("torch.distributed.optim", ZeroRedundancyOptimizer=Refused("torch.distributed.optim"))
    Namespace("torch.distributed.nn", all_reduce=lambda tensor, *options: tensor)


def _dtypes() -> None:
    """Give dtypes the attributes that PyTorch's have: NumPy's class of them takes none but in its dictionary."""
    names = gc.get_referents(np.dtype.__dict__)[0]
    names["is_floating_point"] = property(lambda dtype: dtype.kind == "f")
    names["is_complex"] = property(lambda dtype: dtype.kind == "c")
    names["is_signed"] = property(lambda dtype: dtype.kind in "ifc")
    ctypes.pythonapi.PyType_Modified(ctypes.py_object(np.dtype))


def _methods() -> None:
    found: dict[str, Any] = {
        **{name: absent.Absent(name) for name in absent.ABSENT.split()}, **functions.METHODS, **matrices.METHODS,
        **sparse.METHODS, "qr": older.qr,
        "untyped_storage": lambda self: parts.UntypedStorage(self), "storage_offset": parts.storage_offset,
        "bfloat16": Refused("Tensor.bfloat16", "whose floating-point dtypes are float16, float32 and float64"),
    }  # fmt: skip
    storage: Any = ta.engine.variable.Storage  # what the attribute Tensor.storage is here
    storage.__call__ = Refused("Tensor.storage", "which has Tensor.untyped_storage")
    for name, method in found.items():
        setattr(ta.Tensor, name, method)


def _texts() -> None:
    nn.containers.DTYPE_PREFIX = "torch."
    ta.Tensor.__repr__ = printing.text_of  # type: ignore[method-assign]
    ta.Size.__repr__ = ta.Size.__str__ = printing.size_text  # type: ignore[assignment, method-assign]


_FIRST = _dtypes, _methods, _texts, graph.extend, older.extend, hooks.extend
for _make in (*_FIRST, _torch, _submodules, _nn, _training, _machinery, _compilers, _one_process):
    _make()
for _made in [m for m in list(sys.modules.values()) if issubclass(type(m), Namespace)]:  # isinstance imports lazy ones
    for _name in dir(_made):  # for programs that look names up in optim.__dict__
        _made.__dict__.setdefault(_name, getattr(_made, _name))
sys.meta_path.insert(0, NoSuchModule())
