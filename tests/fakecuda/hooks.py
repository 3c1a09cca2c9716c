"""CuPy's calls of the CUDA runtime and driver, led to the functions of runtime.c.

CuPy's compiled modules find each other's functions in dictionaries of addresses, `__pyx_capi__`, when they are imported.
So an address that is replaced before `import cupy` is what all of CuPy calls. The name of each address is the function's
C type, which is compared with the one below: if CuPy changes it, that is an error here and not a crash later. What is
not replaced finds no driver, and CuPy raises CUDARuntimeError.
"""

from __future__ import annotations

import ctypes
import itertools
import re
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import cuda_shim
from cupy_backends.cuda.api import driver, runtime

from fakecuda import PINNED, libraries
from fakecuda.cache import HERE

RUNTIME = """
    PyObject *_deviceEnsurePeerAccess(int, int)
    PyObject *_ensure_context(void)
    int deviceCanAccessPeer(int, int, int)
    PyObject *deviceEnablePeerAccess(int, int)
    int deviceGetAttribute(int, int, int)
    PyObject *deviceSynchronize(int)
    int driverGetVersion(int)
    intptr_t eventCreateWithFlags(unsigned int, int)
    PyObject *eventDestroy(intptr_t, int)
    float eventElapsedTime(intptr_t, intptr_t, int)
    PyObject *eventQuery(intptr_t, int)
    PyObject *eventRecord(intptr_t, intptr_t, int)
    PyObject *eventSynchronize(intptr_t, int)
    PyObject *free(intptr_t, int)
    PyObject *freeHost(intptr_t, int)
    int getDevice(int)
    int getDeviceCount(int)
    PyObject *getDeviceProperties(int, int)
    PyObject *graphDestroy(intptr_t, int)
    PyObject *graphExecDestroy(intptr_t, int)
    intptr_t graphInstantiate(intptr_t, int)
    PyObject *graphLaunch(intptr_t, intptr_t, int)
    PyObject *graphUpload(intptr_t, intptr_t, int)
    intptr_t hostAlloc(size_t, unsigned int, int)
    intptr_t malloc(size_t, int)
    PyObject *memGetInfo(int)
    PyObject *memcpy(intptr_t, intptr_t, size_t, int, int)
    PyObject *memcpyAsync(intptr_t, intptr_t, size_t, int, intptr_t, int)
    PyObject *memcpyPeer(intptr_t, int, intptr_t, int, size_t, int)
    PyObject *memcpyPeerAsync(intptr_t, int, intptr_t, int, size_t, intptr_t, int)
    PyObject *memset(intptr_t, int, size_t, int)
    PyObject *memsetAsync(intptr_t, int, size_t, intptr_t, int)
    int pointerGetMemoryType(intptr_t, int)
    int runtimeGetVersion(int)
    PyObject *setDevice(int, int)
    PyObject *streamBeginCapture(intptr_t, int, void *)
    intptr_t streamCreateWithPriority(unsigned int, int, int)
    PyObject *streamDestroy(intptr_t, int)
    intptr_t streamEndCapture(intptr_t, int)
    int streamIsCapturing(intptr_t, int)
    PyObject *streamQuery(intptr_t, int)
    PyObject *streamSynchronize(intptr_t, int)
    PyObject *streamWaitEvent(intptr_t, intptr_t, int, void *)
"""
DRIVER = """
    int funcGetAttribute(int, intptr_t, int)
    PyObject *funcSetAttribute(intptr_t, int, int, int)
    PyObject *launchKernel(intptr_t, GRID, BLOCK, unsigned int, intptr_t, intptr_t, intptr_t, int)
    intptr_t moduleGetFunction(intptr_t, PyObject *, int)
    intptr_t moduleLoadData(PyObject *, int)
    PyObject *moduleUnload(intptr_t, int)
""".replace("GRID, BLOCK", ", ".join(6 * ["unsigned int"]))
FROM_PYTHON = """
    deviceSynchronize driverGetVersion getDevice getDeviceCount getDeviceProperties memGetInfo runtimeGetVersion setDevice
"""  # these are also called through the module's Python functions
_LINE = re.compile(r" *(.*?)(\w+)(\(.*\))")
_OBSERVER = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.POINTER(ctypes.c_void_p), ctypes.POINTER(ctypes.c_int))
_C = {"int": ctypes.c_int, "PyObject *": ctypes.py_object}
_kept: list[Any] = []  # what C has the address of


@cache
def library() -> ctypes.PyDLL:
    """runtime.c and cublas.c, compiled; where functions differ from the types above, that is an error of the compiler."""
    prototypes = "".join(
        f"{result} {prefix}_{name}{arguments};\n"
        for prefix, table in (("runtime", RUNTIME), ("driver", DRIVER))
        for result, name, arguments in _LINE.findall(table)
    )
    own = f"-I{sysconfig.get_paths()['include']}", f"-I{HERE}"
    return ctypes.PyDLL(str(libraries.built({"prototypes.h": prototypes}, *own)), mode=ctypes.RTLD_GLOBAL)


def install() -> None:
    """Replace the addresses. `import cupy` must come later."""
    launch = ctypes.cast(cuda_shim.runtime().shim_launch, ctypes.c_void_p)
    ctypes.c_void_p.in_dll(library(), "shim_launch").value = launch.value
    for module, prefix, table in ((runtime, "runtime", RUNTIME), (driver, "driver", DRIVER)):
        for result, name, arguments in _LINE.findall(table):
            _replace(module, name, f"{result}({arguments[1:]}", getattr(library(), f"{prefix}_{name}"))
            if name in FROM_PYTHON.split():
                setattr(runtime, name, _callable(name, _C[result.strip()]))
    error = runtime.CUDARuntimeError
    _kept.append(error)
    ctypes.c_void_p.in_dll(library(), "error_class").value = id(error)


@contextmanager
def memory_limited(more: int, index: int) -> Iterator[None]:
    """GPU `index` has only so many bytes more than were taken from it so far."""
    capacity = ctypes.c_longlong.in_dll(library(), "capacity")
    before = capacity.value
    capacity.value = (ctypes.c_longlong * runtime.getDeviceCount()).in_dll(library(), "used")[index] + more
    try:
        yield
    finally:
        capacity.value = before


@contextmanager
def observing(observer: Callable[[str, list[bytes]], None]) -> Iterator[None]:
    """Call `observer` at every launch with the kernel's name and its arguments' bytes; runtime.h says what else launches."""

    def call(name: bytes, arguments: Any, sizes: Any) -> None:
        known = itertools.takewhile(bool, (sizes[i] for i in itertools.count()))
        observer(name.decode(), [ctypes.string_at(arguments[i], size) for i, size in enumerate(known)])

    address = ctypes.c_void_p.in_dll(library(), "observer")
    function = _OBSERVER(call)
    address.value = ctypes.cast(function, ctypes.c_void_p).value
    try:
        yield
    finally:
        address.value = None


def waited_for(stream: int) -> int:
    """Return the stream of the event that a stream waited for last."""
    function = library().waited_for
    function.restype, function.argtypes = ctypes.c_ssize_t, [ctypes.c_ssize_t]
    return int(function(stream))


class _Counts(ctypes.Structure):
    """struct Counts of runtime.h."""

    names = "launch", "graph launch", "upload", "download", "synchronise", "malloc", "malloc in capture"
    _fields_ = [(name, ctypes.c_longlong) for name in names]


def counts() -> Counter[str]:
    """What has happened so far."""
    now = _Counts.in_dll(library(), "counts")
    return Counter({name: getattr(now, name) for name in now.names})


def _replace(module: Any, name: str, expected: str, function: Any) -> None:
    capsule = module.__pyx_capi__.get(name)
    found = _plain(_name_of(capsule).decode()) if capsule is not None else "missing"
    if found != expected:
        raise RuntimeError(
            f"CuPy has moved: {module.__name__}.{name} is {found!r}, and tests/fakecuda expects {expected!r}. It was "
            f"written for CuPy {PINNED}: install that, or adapt hooks.py and runtime.c."
        )
    name_of_type = _name_of(capsule)  # the same memory: CuPy compares the text, and the capsule does not copy it
    _kept.append((capsule, name_of_type))
    address = ctypes.cast(function, ctypes.c_void_p)
    module.__pyx_capi__[name] = _new(address, name_of_type, None)


def _plain(signature: str) -> str:
    """The C type without what Cython adds: names of arguments, and structs of its own."""
    signature = signature.replace(" __pyx_skip_dispatch", "")
    signature = re.sub(r"struct __pyx_opt_args_\w+ \*__pyx_optional_args", "void *", signature)
    return re.sub(r"struct __pyx_obj_\w+ \*", "PyObject *", signature)


def _callable(name: str, result: Any) -> Any:
    function = getattr(library(), f"runtime_{name}")
    function.restype = result
    return lambda *args: function(*args, 0)


_name_of = ctypes.pythonapi.PyCapsule_GetName
_name_of.restype, _name_of.argtypes = ctypes.c_char_p, [ctypes.py_object]
_new = ctypes.pythonapi.PyCapsule_New
_new.restype, _new.argtypes = ctypes.py_object, [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
