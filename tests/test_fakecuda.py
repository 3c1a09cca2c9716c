"""tests/fakecuda itself: what CUDA refuses is refused, what moved in CuPy is named, its cache is shared and bounded.

Most of it needs CuPy: pip install -e ".[test-gpu]".
"""

from __future__ import annotations

import multiprocessing
import os
import shutil
import sys
import time

import gpus
import numpy as np
import pytest

import tinyattn as ta

needs_cupy = pytest.mark.skipif(gpus.CHOICE == "1", reason="not about a real GPU")
needs_gxx = pytest.mark.skipif(
    sys.platform != "linux" or shutil.which("g++") is None, reason="needs g++, and Linux's locks"
)


@pytest.fixture
def cupy(gpu):
    return pytest.importorskip("cupy")


# --- the cache ---


def build_slowly(folder, turn):
    """Build one file; the command notes each time it runs."""
    from fakecuda import cache

    cache.folder = lambda: folder
    script = folder / "compile"
    turn.wait()
    made = cache.build("library.so", ["sh", str(script)])
    assert made.read_text() == "built\n"


@needs_gxx
def test_fakecuda_builds_once_for_processes_at_the_same_time(tmp_path):
    (tmp_path / "compile").write_text(f'echo run >> {tmp_path}/runs; echo half > "$2"; sleep 0.3; echo built > "$2"\n')
    spawned = multiprocessing.get_context("spawn")
    turn = spawned.Barrier(3)
    workers = [spawned.Process(target=build_slowly, args=(tmp_path, turn)) for _ in range(3)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0, 0, 0]
    assert (tmp_path / "runs").read_text() == "run\n"


@needs_gxx
def test_fakecuda_cache_is_bounded_and_old_versions_go(tmp_path, monkeypatch):
    from fakecuda import cache

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(cache, "MOST", 25)
    cache.folder.cache_clear()
    try:
        kernels = cache.kernels()
        stale, fresh = kernels.parents[1] / "stale", kernels.parents[1] / "fresh"
        for i in range(4):
            (kernels / f"{i}.cubin").write_bytes(bytes(10))
            os.utime(kernels / f"{i}.cubin", (1000 + i, 1000 + i))
        for other, age in ((stale, 2 * 24 * 3600), (fresh, 60)):
            other.mkdir()
            os.utime(other, (time.time() - age,) * 2)
        cache.folder.cache_clear()
        assert cache.kernels() == kernels
        assert sorted(path.name for path in kernels.iterdir()) == ["2.cubin", "3.cubin"]
        assert fresh.exists() and not stale.exists()
    finally:
        cache.folder.cache_clear()


@needs_gxx
def test_fakecuda_build_error_has_the_compilers_words(tmp_path, monkeypatch):
    from fakecuda import cache

    monkeypatch.setattr(cache, "folder", lambda: tmp_path)
    with pytest.raises(RuntimeError, match=r"sh could not build x.so of tests/fakecuda: .*no such thing"):
        cache.build("x.so", ["sh", "-c", "echo no such thing >&2; exit 1", "sh"])
    assert not (tmp_path / "x.so").exists()


# --- CuPy on it ---


@needs_cupy
def test_fakecuda_names_what_has_moved_in_cupy(cupy):
    from cupy_backends.cuda.api import runtime
    from fakecuda import hooks

    moved = r"CuPy has moved: .*runtime.malloc is 'intptr_t \(size_t, int\)', and tests/fakecuda expects 'int \(int\)'"
    with pytest.raises(RuntimeError, match=moved):
        hooks._replace(runtime, "malloc", "int (int)", hooks.library().runtime_malloc)
    with pytest.raises(RuntimeError, match=r"runtime.mallocElsewhere is 'missing'"):
        hooks._replace(runtime, "mallocElsewhere", "int (int)", hooks.library().runtime_malloc)


@needs_cupy
@pytest.mark.parametrize("wait", ["stream", "device"])
def test_fakecuda_capture_refuses_to_wait(cupy, wait):
    stream = cupy.cuda.Stream(non_blocking=True)
    error = cupy.cuda.runtime.CUDARuntimeError
    with stream:
        x = cupy.zeros(3)
        stream.begin_capture()
        with pytest.raises(error, match="StreamCaptureUnsupported"):
            stream.synchronize() if wait == "stream" else cupy.cuda.Device().synchronize()
        if wait == "stream":
            with pytest.raises(error, match="StreamCaptureInvalidated"):
                stream.end_capture()
        else:
            x += 1
            graph = stream.end_capture()
            assert x.get().tolist() == [0, 0, 0]
            graph.launch()
            assert x.get().tolist() == [1, 1, 1]


@needs_cupy
@pytest.mark.parametrize("mode", ["Global", "ThreadLocal", "Relaxed"])
def test_fakecuda_capture_allocates_only_where_cuda_does(cupy, mode):
    stream = cupy.cuda.Stream(non_blocking=True)
    stream.begin_capture(getattr(cupy.cuda.runtime, f"streamCaptureMode{mode}"))
    with gpus.counting() as cost:
        if mode == "Relaxed":
            cupy.cuda.Memory(512)
        else:
            with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="StreamCaptureUnsupported"):
                cupy.cuda.Memory(512)
    stream.end_capture()
    assert cost["malloc in capture"] == (mode == "Relaxed")


@needs_cupy
def test_fakecuda_graph_keeps_the_arguments_it_was_captured_with(cupy):
    scale = cupy.RawKernel('extern "C" __global__ void scale(double* x, double by) { x[threadIdx.x] *= by; }', "scale")
    x, stream = cupy.arange(4.0), cupy.cuda.Stream(non_blocking=True)
    with stream:
        stream.begin_capture()
        scale((1,), (4,), (x, np.float64(3)))
        graph = stream.end_capture()
        scale((1,), (4,), (x, np.float64(2)))
        graph.launch()
        graph.launch()
    assert x.get().tolist() == [0, 18, 36, 54]


@needs_cupy
def test_fakecuda_memory_is_limited_and_not_zero(cupy):
    with pytest.raises(cupy.cuda.memory.OutOfMemoryError):
        cupy.empty(1 << 40, np.uint8)
    fresh = cupy.cuda.MemoryPointer(cupy.cuda.Memory(32), 0)  # of no pool
    assert np.isnan(cupy.ndarray(4, memptr=fresh).get()).all()
    free, total = cupy.cuda.Device().mem_info
    assert 0 < free < total


@needs_cupy
def test_fakecuda_counts_copies_launches_and_waits(cupy):
    x = cupy.zeros(5)
    for call, expected in (
        (lambda: cupy.asarray(np.ones(3)), {"upload": 1}),
        (lambda: x.get(), {"download": 1}),  # to wait is a part of it
        (lambda: float(x[0]), {"download": 1}),
        (lambda: x[np.array([1, 2])], {"upload": 1, "launch": 1}),  # in secret
        (lambda: x + 1, {"launch": 1}),
        (lambda: cupy.cuda.Device().synchronize(), {"synchronise": 1}),
        (lambda: cupy.cuda.get_current_stream().synchronize(), {"synchronise": 1}),
    ):
        call()
        with gpus.counting() as found:
            call()
        assert {name: n for name, n in found.items() if name != "malloc"} == expected


@needs_cupy
def test_fakecuda_has_two_gpus_and_no_third(cupy):
    assert ta.cuda.device_count() == 2
    with pytest.raises(cupy.cuda.runtime.CUDARuntimeError, match="InvalidDevice"):
        cupy.cuda.Device(2).use()


@needs_cupy
def test_fakecuda_kernel_errors_name_the_kernel(cupy):
    code = 'extern "C" __global__ void half(float* x) { if (threadIdx.x < 16) __syncthreads(); x[threadIdx.x] = 1; }'
    kernel = cupy.RawModule(code=code, options=("-Dreal=float",)).get_function("half")
    with pytest.raises(RuntimeError, match=r"kernel half: a barrier not reached by all"):
        kernel((1,), (32,), (cupy.zeros(32, "f"),))
    with pytest.raises(cupy.cuda.compiler.CompileException, match="nonsense"):
        cupy.RawKernel('extern "C" __global__ void f() { nonsense; }', "f").compile()
    with pytest.raises(RuntimeError, match="there is no kernel g"):
        cupy.RawModule(code='extern "C" __global__ void f() { }').get_function("g")


@needs_cupy
def test_fakecuda_kernel_arguments_are_of_the_declared_dtype_and_order(cupy):
    from fakecuda import arguments

    from tinyattn.backends.cuda import launch

    source = 'extern "C" __global__ void __launch_bounds__(1)\n    f(const real* x, Size* at, Size n) {}'
    wanted = arguments.declared(source, "f", "float64")
    assert wanted == [("const real* x", "float64"), ("Size* at", "int64"), ("Size n", None)]
    x, at = cupy.ones((2, 3)), cupy.zeros(2, np.int64)
    arguments.check("f", wanted, (x, at, np.int64(2)))
    arguments.check("f", wanted, (x, np.uint64(0), np.int64(2)))  # a null pointer
    for bad in (x.astype(np.float32), x.astype(np.int64), x.T):
        with pytest.raises(TypeError, match=r"f: const real. x is .* not float64 in row order"):
            arguments.check("f", wanted, (bad, at, np.int64(2)))
    with pytest.raises(TypeError, match=r"embedding_rows: const real. weight is int64"):
        launch.launch("embedding", "embedding_rows", (1,), (1,), [at, at, at, 1, 1, 1])


@needs_cupy
def test_fakecuda_computes_as_numpy(cupy):
    """CuPy's own kernels, of every sort: elementwise, reductions, scans, sorting, indices, half precision, complex."""
    x = np.random.default_rng(0).standard_normal((7, 65, 3))
    for dtype in ("e", "f", "d"):
        host, device = x.astype(dtype), cupy.asarray(x.astype(dtype))
        for call in (
            lambda xp, a: a * 2 - a, lambda xp, a: a.sum(1), lambda xp, a: a.max((0, 2)), lambda xp, a: a.argmin(1),
            lambda xp, a: xp.cumsum(a, 1), lambda xp, a: xp.sort(a, 1), lambda xp, a: xp.argsort(a, 1, kind="stable"),
            lambda xp, a: a[xp.asarray([3, 1])], lambda xp, a: a[a > 0], lambda xp, a: xp.unique(xp.rint(a)),
            lambda xp, a: xp.where(a > 0, a, 0), lambda xp, a: a.astype(np.int16), lambda xp, a: xp.exp(a * 1j).real,
        ):  # fmt: skip
            got, expected = call(cupy, device).get(), call(np, host)
            assert got.dtype == expected.dtype
            np.testing.assert_allclose(
                got, expected, rtol={"e": 2e-2, "f": 1e-4, "d": 1e-12}[dtype], atol=1e-2 if dtype == "e" else 1e-5
            )
