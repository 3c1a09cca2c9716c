"""The examples in the docstrings of all modules run, and print what they show."""

from __future__ import annotations

import doctest
import importlib
import inspect
import pkgutil
from typing import Any

import numpy as np
import pytest

import tinyattn as ta
from tinyattn import nn, optim
from tinyattn.compat.func import FUNC
from tinyattn.engine.hooks import RemovableHandle
from tinyattn.engine.observer import Observer

NEEDS_CUPY = "tinyattn.backends.cuda"
MODULES = sorted(
    module.name
    for module in pkgutil.walk_packages(ta.__path__, "tinyattn.", onerror=lambda name: None)
    if not f"{module.name}.".startswith(f"{NEEDS_CUPY}.") and not module.name.endswith(("__main__", "as_torch"))
)
ILLUSTRATIVE = {"tinyattn.viz.graphs.drawing.graph"}  # with the reader's own model
NAMES = {"ta": ta, "np": np, "nn": nn, "optim": optim, "F": nn.functional}


def examples_of(name: str) -> list[doctest.DocTest]:
    """The examples of a module, also those of operations, which are objects and not functions."""
    module = importlib.import_module(name)
    found = {test.name: test for test in doctest.DocTestFinder(exclude_empty=True).find(module, name)}
    parser = doctest.DocTestParser()
    for key, value in vars(module).items():
        owner = getattr(value, "__module__", None)
        if owner == name and f"{name}.{key}" not in found and not inspect.isclass(value):
            text = inspect.getdoc(value)
            if text and ">>>" in text:
                found[f"{name}.{key}"] = parser.get_doctest(text, vars(module), f"{name}.{key}", name, 0)
    return [test for test in found.values() if test.examples and test.name not in ILLUSTRATIVE]


@pytest.mark.parametrize("name", ["tinyattn", *MODULES])
def test_docstring_examples_run(name: str, tmp_path: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    runner = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE | doctest.ELLIPSIS, verbose=False)
    state = ta.default_generator.get_state()
    out: list[str] = []
    try:
        for test in examples_of(name):
            ta.manual_seed(0)
            test.globs = {**test.globs, **NAMES}
            assert runner.run(test, out=out.append).failed == 0, "".join(out)
    finally:
        ta.default_generator.set_state(state)


# Public names without an executed example, and why.
NEEDS_A_GPU = """
ta.cuda.set_device ta.cuda.device ta.cuda.get_device_name ta.cuda.get_device_capability ta.cuda.mem_get_info
ta.cuda.memory_allocated ta.cuda.memory_reserved ta.cuda.max_memory_allocated ta.cuda.reset_peak_memory_stats
ta.cuda.current_device ta.cuda.synchronize
""".split()
NEEDS_A_BROKEN_FILE = ["ta.FileFormatError", "ta.MissingFileError"]
NEEDS_A_NETWORK = ["tinyattn.data.DataError", "tinyattn.data.DownloadError", "tinyattn.data.load_mnist"]
WITHOUT_EXAMPLE = {*NEEDS_A_GPU, *NEEDS_A_BROKEN_FILE, *NEEDS_A_NETWORK}
OF_TENSOR = """
T backward fill_diagonal_ mT new_tensor new_zeros numpy random_ register_post_accumulate_grad_hook
repeat split_with_sizes stride sum_to_size to type where
""".split()  # the methods that are not functions of `ta` too, and whose name does not say all


def public_names() -> dict[str, Any]:
    """Functions, operations and classes that users call, by the name they use."""
    found = {}
    for prefix, space in (("ta", ta), ("ta.cuda", ta.cuda), ("ta.autograd", ta.autograd), ("F", nn.functional)):
        for name in getattr(space, "__all__", None) or vars(space):
            value = getattr(space, name)
            if not name.startswith("_") and callable(value) and getattr(value, "__module__", "").startswith("tinyattn"):
                found[f"{prefix}.{name}"] = value
    for space in (nn, nn.init, nn.utils, optim):
        for name in space.__all__:
            value = getattr(space, name)
            if getattr(value, "__module__", "").startswith(("tinyattn.nn.", "tinyattn.optim.")):
                found[f"{space.__name__}.{name}"] = value
    for space in (ta.data, ta.debug, ta.viz):
        found |= {f"{space.__name__}.{name}": getattr(space, name) for name in space.__all__}
    found |= {f"torch.func.{name}": function for name, function in FUNC.items()}
    found |= {f"Tensor.{name}": getattr(ta.Tensor, name) for name in OF_TENSOR}
    return found | {"Observer": Observer, "RemovableHandle": RemovableHandle}


PUBLIC = public_names()


@pytest.mark.parametrize("name", PUBLIC)
def test_public_docstring_has_an_example(name: str) -> None:
    assert (">>>" in (PUBLIC[name].__doc__ or "")) != (name in WITHOUT_EXAMPLE)


def test_public_methods_have_docstrings() -> None:
    spaces = {ta.Tensor, optim.Optimizer, *filter(inspect.isclass, vars(nn).values())}
    methods = [
        (f"{s.__name__}.{name}", value) for s in spaces for name, value in inspect.getmembers(s) if name[0] != "_"
    ]
    assert not [name for name, value in methods if callable(value) and not inspect.getdoc(value)]


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_a_signature(name: str) -> None:
    is_error = inspect.isclass(PUBLIC[name]) and issubclass(PUBLIC[name], Exception)  # Python's own have none
    assert is_error or isinstance(PUBLIC[name], property) or inspect.signature(PUBLIC[name]) is not None
