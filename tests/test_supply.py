"""What tinyattn brings into a house: few packages, no network, and nothing that runs what it reads. See docs/security.md."""

from __future__ import annotations

import ast
import json
import re
import socket
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "tinyattn").rglob("*.py"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

# --- nothing that is read is run -----------------------------------------------------------------

RUNS_WHAT_IT_READS = {
    "pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml", "code", "runpy",
}  # fmt: skip
RUNS_TEXT = {"eval", "exec", "compile", "__import__"}
TYPED = {
    "__main__.py": ["runpy", "eval", "compile"],  # what stands on its user's command line, as after python -c
    "program/program.py": ["exec", "compile"],  # what it has written itself
    "data/workers.py": ["pickle"],  # asks whether an error can be sent, and loads nothing
}


def dangers(source):
    """What of a source could run something that was loaded, as (line, name)."""
    tree = ast.parse(source)
    own = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}  # ta.compile is no built-in
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [alias.name for alias in node.names]
            yield from ((node.lineno, module) for module in modules if module.split(".")[0] in RUNS_WHAT_IT_READS)
        elif isinstance(node, ast.Name) and node.id in RUNS_TEXT - own:
            yield node.lineno, node.id
        elif isinstance(node, ast.keyword) and node.arg in ("allow_pickle", "shell", "weights_only"):
            yield node.lineno, node.arg
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in (
            "np.load",
            "numpy.load",
            "torch.load",
            "os.system",
        ):
            yield node.lineno, ast.unparse(node.func)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_nothing_that_is_read_is_run(path):
    found = [name for _, name in dangers(path.read_text(encoding="utf-8"))]
    assert found == TYPED.get(str(path.relative_to(ROOT / "tinyattn")), [])


def test_the_search_for_dangerous_calls_finds_them():
    for line in (
        "import pickle", "from pickle import loads", "import os, marshal", "from yaml.loader import X", "eval('1')", "exec(x)",
        "f = eval", "np.load(path)", "f(allow_pickle=True)", "subprocess.run(x, shell=True)", "os.system(x)", "__import__(x)",
    ):  # fmt: skip
        assert len(list(dangers(line))) == 1, line
    assert list(dangers("model.eval(); re.compile(x); json.loads(x); ta.load(x)")) == []


# --- no network ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_sources_contain_no_http_address(path):
    """http:// stands in a source only as the name of SVG's and XLink's vocabularies, which nobody asks."""
    found = re.findall(r"""http://[^\s"')]*""", path.read_text(encoding="utf-8"))
    assert [address for address in found if not address.startswith("http://www.w3.org/")] == []


OFFLINE = """
import importlib, pkgutil, socket, sys

def refuse(*args, **kwargs):
    raise AssertionError(f"the network was asked for {args[1:]}")

for name in ("connect", "connect_ex", "sendto", "bind"):
    setattr(socket.socket, name, refuse)
socket.getaddrinfo = socket.gethostbyname = socket.create_connection = refuse

import tinyattn as ta
names = [module.name for module in pkgutil.walk_packages(ta.__path__, "tinyattn.") if "cuda" not in module.name]
for name in names:
    importlib.import_module(name)

from tinyattn import data
images = data.load("digits")
model = ta.models.AttentionClassifier(num_layers=1, hidden_dim=16, mlp_dim=16)
optimizer = ta.optim.AdamW(model.parameters(), lr=0.01)
loader = data.DataLoader((images.train_images[:64], images.train_labels[:64]), 32, shuffle=True)
for x, y in loader:
    optimizer.zero_grad()
    loss = ta.nn.functional.cross_entropy(model(x.float() / 255), y)
    loss.backward()
    optimizer.step()
ta.save(sys.argv[1], {"model": model.state_dict(), "optimizer": optimizer.state_dict()})
model.load_state_dict(ta.load(sys.argv[1])["model"])
print(len(names), loss.item() > 0)
"""


def test_import_and_training_ask_no_network(tmp_path):
    done = subprocess.run([sys.executable, "-c", OFFLINE, tmp_path / "file"], capture_output=True, text=True)
    assert done.stderr == ""
    modules, trained = done.stdout.split()
    assert int(modules) > 50
    assert trained == "True"


def test_tests_reach_no_network():
    """conftest.py lets no test connect to another machine."""
    for address in (("192.0.2.1", 80), ("mnist.example", 443)):
        with socket.socket() as connection, pytest.raises(RuntimeError, match="no test may ask the network"):
            connection.connect(address)


# --- few packages, whose oldest versions are tried -----------------------------------------------


def test_numpy_is_the_only_dependency():
    assert [re.match(r"[\w-]+", requirement)[0] for requirement in PROJECT["dependencies"]] == ["numpy"]
    assert len(PROJECT["optional-dependencies"]["train"]) <= 6


def test_every_package_has_a_tested_lower_bound():
    pins = subprocess.run(
        [sys.executable, ROOT / ".ci/oldest.py"], capture_output=True, text=True, check=True
    ).stdout.split()
    extras = PROJECT["optional-dependencies"]
    assert sorted(pins) == sorted(
        {r.replace(">=", "==") for r in PROJECT["dependencies"] + extras["train"] + extras["viz"]}
    )
    assert "python3 .ci/oldest.py" in (ROOT / ".ci/run").read_text(encoding="utf-8")


IMPORTED = """
import json, sys
before = set(sys.modules)
import tinyattn
roots = {name.partition(".")[0] for name in set(sys.modules) - before}
print(json.dumps(sorted(roots - set(sys.stdlib_module_names) - {"tinyattn"})))
"""


def test_import_needs_numpy_alone():
    done = subprocess.run([sys.executable, "-c", IMPORTED], capture_output=True, text=True, check=True)
    roots = {name for name in json.loads(done.stdout) if not name.startswith("_")}
    assert roots - {"cython_runtime"} == {"numpy"}  # the other is a part of NumPy's own


def test_the_tests_that_the_promises_name_exist():
    sources = "".join(path.read_text(encoding="utf-8") for path in (ROOT / "tests").glob("test_*.py"))
    for document, at_least in (("security.md", 15), ("reliability.md", 0)):
        path = ROOT / "docs" / document
        named = set(re.findall(r"\b(test_\w+)\b(?!\.py)", path.read_text(encoding="utf-8") if path.exists() else ""))
        assert len(named) >= at_least
        assert {
            name for name in named if f"def {name}" not in sources and not (ROOT / f"tests/{name}.py").exists()
        } == set()


# --- a GPU that is missing, in a sentence ---

MISSING = {
    "no CuPy": ("raise ModuleNotFoundError(\"No module named 'cupy'\", name='cupy')", "ImportError: device 'cuda' needs CuPy, and CuPy is not installed: pip install \"tinyattn[cuda13]\" where nvidia-smi shows"),
    "a broken CuPy": ("raise ImportError('\\n=====\\nlibnvrtc.so.12: cannot open shared object file')", "ImportError: device 'cuda' needs CuPy, and CuPy does not load (libnvrtc.so.12: cannot open shared object file): pip install"),
    "no driver": ("versions = 0, 12090, 0", "RuntimeError: no GPU: there is no NVIDIA driver on this machine; install one, or use device='cpu'"),
    "an old driver": ("versions = 12040, 13000, 1", "RuntimeError: no GPU: the NVIDIA driver knows CUDA 12.4, but this CuPy was built for 13.0; pip uninstall cupy-cuda13x, then pip install \"tinyattn[cuda12]\""),
    "no GPU": ("versions = 13000, 12090, 0", "RuntimeError: no GPU: the driver sees none (is CUDA_VISIBLE_DEVICES empty?); use device='cpu'"),
    "no headers": ("versions, headers, cublas = (13000, 12090, 1), None, ''", "RuntimeError: no GPU: CUDA's headers, which CuPy compiles with, are missing; pip install \"tinyattn[cuda12]\""),
    "no cuBLAS": ("versions, headers, cublas = (13000, 12090, 1), '', None", "RuntimeError: no GPU: cuBLAS, which computes matrix products, is missing; pip install \"tinyattn[cuda12]\""),
    "another cuBLAS": ("versions, headers, cublas = (13000, 12090, 1), '', '/x/libcublas.so.13'", "RuntimeError: no GPU: this CuPy was built for CUDA 12, but the cuBLAS found first, /x/libcublas.so.13, is of CUDA 13; pip install \"tinyattn[cuda12]\" in an environment without CUDA 13"),
}  # fmt: skip
CUPY = """
    class runtime:
        CUDARuntimeError = RuntimeError
        driverGetVersion, runtimeGetVersion, getDeviceCount = (lambda n=n: n for n in versions)
    class cuda:
        runtime = runtime
    if versions[2]:
        import sys, types
        class pathfinder(types.ModuleType):
            class DynamicLibNotFoundError(RuntimeError): pass
            def find_nvidia_header_directory(self, name): return headers
            def load_nvidia_dynamic_lib(self, name):
                if cublas is None: raise self.DynamicLibNotFoundError
                return types.SimpleNamespace(abs_path=cublas)
        sys.modules["cuda.pathfinder"] = pathfinder("cuda.pathfinder")
"""


@pytest.mark.parametrize("name", MISSING)
def test_one_sentence_says_what_to_install(name, tmp_path):
    body, message = MISSING[name]
    (tmp_path / "cupy.py").write_text(body + ("\n" + textwrap.dedent(CUPY) if body.startswith("versions") else ""))
    program = "import tinyattn as ta; assert not ta.cuda.is_available(); print(ta.cuda.why_not()); assert ta.cuda.device_count() == 0; ta.ones(1, device='cuda')"
    done = subprocess.run(
        [sys.executable, "-c", program], env={"PYTHONPATH": f"{tmp_path}:{ROOT}"}, capture_output=True, text=True
    )
    last = done.stderr.strip().splitlines()[-1]
    assert last.startswith(message) and last.endswith(done.stdout.strip()), done.stderr


def test_importing_tinyattn_does_not_import_cupy():
    program = "import sys, tinyattn; tinyattn.ones(2).cpu(); sys.exit('cupy' in sys.modules or 'tinyattn.backends.cuda' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], env={"PYTHONPATH": str(ROOT)}).returncode == 0
