"""The command line: pictures and pages, and scripts that were written for PyTorch.

python -m tinyattn graph package.module:Model --out model.html
python -m tinyattn by-hand
python -m tinyattn playground runs/NAME runs/ARTICLE-1 runs/ARTICLE-2
python -m tinyattn run train.py --epochs 3
"""

from __future__ import annotations

import argparse
import builtins
import importlib
import inspect
import re
import runpy
import sys
import traceback
import webbrowser
from collections import ChainMap
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import tinyattn as ta
from tinyattn import models, nn
from tinyattn.extras import missing
from tinyattn.nn import functional as F
from tinyattn.train.loading import load_run
from tinyattn.train.parser import open_streams
from tinyattn.train.run import RefusedError
from tinyattn.viz.graphs.drawing import FORMATS
from tinyattn.viz.graphs.model import MODES
from tinyattn.viz.hand import LANGUAGES

# Arguments of tinyattn's own models: ten grey levels, as in the article.
_KNOWN = {models.AttentionModel: {"input_dim": 10, "embed_dim": 64, "num_classes": 10}, models.AttentionClassifier: {}}


class UserError(Exception):
    """A mistake on the command line, with what to change."""


def main(argv: list[str] | None = None) -> int:
    """Run the command line. Exit status: 0; 1 if the forward pass failed (the picture is written); 2: wrong usage."""
    open_streams()
    args = _parser().parse_args(argv)
    if args.command == "run":
        return _run_script(args.script, args.arguments)
    try:
        if args.out is not None:
            _check_out(args.out, args.formats)
        return args.run(args)
    except (
        UserError, RefusedError, AttributeError, ImportError, OSError, RuntimeError, TypeError, ValueError
    ) as error:  # fmt: skip
        print(f"tinyattn {args.command}: {str(error).removeprefix(f'{args.command}: ')}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tinyattn", description="tinyattn from the command line")
    parser.add_argument("--version", action="version", version=f"tinyattn {ta.__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_graph(commands)
    hand = commands.add_parser(
        "by-hand",
        help="write a page on which to work out attention and its gradients",
        description="Write a page with attention on four tokens: change a number and follow every gradient.",
    )
    hand.add_argument("--out", default="attention-by-hand.html", help="file to write (default: attention-by-hand.html)")
    hand.add_argument("--lang", choices=LANGUAGES, default="en", help="language at first (default: en)")
    hand.add_argument("--open", action="store_true", help="open the page in the browser")
    hand.set_defaults(run=_by_hand, formats=("html",))
    for name, what in (
        ("attention", "every head's attention on ten test images"),
        ("playground", "a field to draw a digit in, and every head's attention on it"),
    ):
        page = commands.add_parser(
            name, help=f"write a page with {what}",
            description=f"Write a page with {what}, from the folder of a run of examples/mnist.py.",
        )  # fmt: skip
        page.add_argument("folder", metavar="RUN", help="runs/NAME, of a classifier")
        page.set_defaults(others=())
        if name == "playground":
            page.add_argument("others", nargs="*", metavar="ARTICLE", help="runs of the article's model to compare")
        page.add_argument("--out", help=f"file to write (default: RUN/{name}.html)")
        page.set_defaults(run=_run_page, formats=("html",))
    script = commands.add_parser(
        "run",
        help="run a script that was written for PyTorch",
        description="Run a script with tinyattn in the place of torch.",
        epilog="example: python -m tinyattn run train.py --epochs 3",
    )
    script.add_argument("script", nargs="?", default="", help="the script")
    script.add_argument("arguments", nargs=argparse.REMAINDER, help="its arguments")
    return parser


def _add_graph(commands: Any) -> None:
    graph = commands.add_parser(
        "graph",
        help="draw what a model computes",
        description="Draw what a model computes, as a page that steps through it, or as a picture.",
        epilog="examples: python -m tinyattn graph tinyattn.models:AttentionClassifier --out model.html; "
        "python -m tinyattn graph 'mine:Net(8, hidden=16)' --input 2x8 --out net.svg",
    )
    option = graph.add_argument
    option("model", help="MODULE:NAME of a model, its class, or a function; NAME may be any expression there")
    option("--out", default="graph.html", help="file to write; .html, .svg, .png, .pdf or .dot (default: graph.html)")
    option("--input", action="append", default=[], metavar="SHAPE",
           help="an input: a shape (2x28x28) of random numbers, or an expression in the module (ta.ones(3)); repeat "
                "for more inputs (default for tinyattn's models: two images)")  # fmt: skip
    option("--mode", choices=MODES, default="modules", help="show layers, operations or definitions (default: modules)")
    option("--depth", type=int, help="levels of modules to show; 0: the model as one item")
    option("--stats", action="store_true", help="show min, mean, max and gradient norm")
    option("--times", action="store_true", help="show the time of each operation")
    option("--program", action="store_true", help="show the program of a compiled training step in the page (.html)")
    option("--seed", type=int, default=0, help="seed of parameters and inputs (default: 0)")
    option("--as-torch", action="store_true", help="the module imports torch: give it tinyattn")
    graph.set_defaults(run=_graph, formats=FORMATS)


def _run_script(script: str, arguments: list[str]) -> int:
    """Run a script as `python script.py` does, but for `import torch`. Its errors and exit status are its own."""
    if not Path(script).is_file():
        problem = f"{script} is not a file" if script else "name a script: python -m tinyattn run train.py"
        print(f"tinyattn run: {problem}", file=sys.stderr)
        return 2
    try:
        importlib.import_module("tinyattn.as_torch")
    except ImportError as error:
        print(f"tinyattn run: {error}", file=sys.stderr)
        return 2
    sys.argv = [script, *arguments]
    sys.path.insert(0, str(Path(script).resolve().parent))
    try:
        runpy.run_path(script, run_name="__main__")
    except Exception as error:
        where = error.__traceback__
        while where and where.tb_frame.f_code.co_filename != script:
            where = where.tb_next
        traceback.print_exception(error.with_traceback(where or error.__traceback__))  # from the script's line on
        return 1
    return 0


def _run_page(args: argparse.Namespace) -> int:
    run = load_run(args.folder)
    labels = run.data.test_labels
    first = [int(found[0]) for found in ((labels == digit).nonzero()[0] for digit in range(10)) if found.size]
    images, title = run.data.test_images[first], f"{run.folder.name}, {run.data.name}"
    if args.command == "playground":
        compare: Any = {folder: load_run(folder).model for folder in args.others}
        page: Any = ta.viz.playground(run.model, images, compare=compare, title=title)
    else:
        page = ta.viz.attention(run.model, images, labels=labels[first], title=title)
    print(page.save(args.out or run.folder / f"{args.command}.html"))
    return 0


def _by_hand(args: argparse.Namespace) -> int:
    path = ta.viz.by_hand(args.lang).save(args.out)
    print(path)
    if args.open and not webbrowser.open(path.absolute().as_uri()):
        raise UserError(f"no browser was found; open {path} by hand")
    return 0


def _graph(args: argparse.Namespace) -> int:
    ta.manual_seed(args.seed)
    if args.as_torch:
        importlib.import_module("tinyattn.as_torch")
    module, name = _module(args.model)
    model = _model(module, name)
    inputs = [_input(module, text) for text in args.input]
    function, title = model, None
    if not inputs and type(model) in _KNOWN:  # two images, and the loss for two labels
        size = model.image_size
        inputs = [ta.rand(2, size, size), ta.randint(0, 10, (2,))]
        title = type(model).__name__

        def function(images: Any, labels: Any) -> Any:
            return F.cross_entropy(model(images), labels)

    if not inputs and _needs_inputs(model):
        raise UserError(f"{name} needs inputs; give the shape of each: --input 2x{_first_size(model)}")
    if args.program and (not isinstance(model, nn.Module) or Path(args.out).suffix.lower() != ".html"):
        raise UserError("--program shows the training step of a model, in a page: --out step.html")
    how = {name: getattr(args, name) for name in ("mode", "depth", "stats", "times")}
    step = _compiled_step(model, function, inputs) if args.program else None
    picture = ta.viz.graph(function, *inputs, program=step, title=title, **how)
    path = picture.save(args.out)
    if picture.error:
        print(path)
        print(f"the forward pass failed: {picture.error}", file=sys.stderr)
        return 1
    print(f"{path}: {picture!r}")
    return 0


def _compiled_step(model: nn.Module, function: Any, inputs: Sequence[ta.Tensor]) -> Any:
    """Return a training step with Adam, of the sum of the outputs if they are no loss, that has run until compiled."""
    optimizer = ta.optim.Adam(model.parameters())

    @ta.compile
    def step(*inputs: ta.Tensor) -> ta.Tensor:
        optimizer.zero_grad()
        output = function(*inputs)
        loss = output.sum() if output.ndim else output
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(2):
        step(*inputs)
    return step


# --- the model and its inputs ---


def _module(text: str) -> tuple[ModuleType, str]:
    name, colon, rest = text.partition(":")
    if not colon or not rest:
        raise UserError(f"{text!r} is not MODULE:NAME; write for example tinyattn.models:AttentionClassifier")
    if str(Path.cwd()) not in sys.path:
        sys.path.insert(0, str(Path.cwd()))
    sys.argv = [name]  # what a script reads that parses its command line when it is imported
    if name.endswith(".py"):
        name = _module_of_file(name)
    try:
        return importlib.import_module(name), rest
    except ModuleNotFoundError as error:
        if error.name is not None and name.split(".")[0] == error.name.split(".")[0]:
            raise UserError(f"no module {error.name!r} in {Path.cwd()} or among the installed packages") from None
        if error.name == "torch":
            raise UserError(
                f"{text.partition(':')[0]} imports PyTorch, which is not installed; add --as-torch to give it tinyattn"
            ) from None
        raise UserError(missing(error) or str(error)) from None


def _module_of_file(file: str) -> str:
    """Return the name by which a file can be imported; its folder is searched for what it imports, as for a script."""
    path, here = Path(file).resolve(), Path.cwd()
    if not path.is_file():
        raise UserError(f"{file} is not a file")
    sys.path.insert(1, str(path.parent))
    parts = path.relative_to(here).with_suffix("").parts if path.is_relative_to(here) else ()
    return ".".join(parts) if parts and not any("." in part for part in parts) else path.stem


class _Names(ChainMap[str, Any]):
    """The names of a module, `ta`, the built-in ones, and those of the tinyattn modules that it imports."""

    def __init__(self, module: ModuleType) -> None:
        inside = [x for x in vars(module).values() if isinstance(x, ModuleType) and x.__name__.startswith("tinyattn.")]
        super().__init__(vars(module), {"ta": ta}, vars(builtins), *map(vars, inside))

    def __missing__(self, key: str) -> Any:
        own = self.maps[0]
        models_here = [name for name, value in own.items() if isinstance(value, type) and issubclass(value, nn.Module)]
        hint = f"; it has {', '.join(models_here)}" if models_here else ""
        raise UserError(f"{own['__name__']} has no {key!r}{hint}")


def _value(module: ModuleType, text: str) -> Any:
    """Return the value of an expression with the names of a module."""
    try:
        return eval(compile(text, "<the command line>", "eval"), {"__builtins__": builtins}, _Names(module))
    except SyntaxError:
        raise UserError(f"{text!r} is not a Python expression") from None


def _model(module: ModuleType, text: str) -> Any:
    found = _value(module, text)
    kind = found if isinstance(found, type) else type(found)
    if any(base.__module__.startswith("torch.") and not issubclass(kind, nn.Module) for base in kind.__mro__):
        raise UserError(f"{text} is a model of PyTorch; add --as-torch, which gives its module tinyattn for torch")
    if isinstance(found, type):
        known = _KNOWN.get(found, {})
        signature = inspect.signature(found)
        needed = [p.name for p in signature.parameters.values() if p.default is p.empty and p.name not in known
                  and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]  # fmt: skip
        if needed:
            raise UserError(
                f"{text} needs {', '.join(needed)}; write '{module.__name__}:{text}({'..., ' * (len(needed) - 1)}...)'"
            )
        found = found(**known)
    if not callable(found) and not isinstance(found, ta.Tensor):
        raise UserError(f"{text} has type {type(found).__name__}; expected a model, its class, a function or a tensor")
    return found


def _input(module: ModuleType, text: str) -> Any:
    if re.fullmatch(r"\d+(x\d+)*", text):
        return ta.rand(*map(int, text.split("x")))
    if re.fullmatch(r"[\d\s,()]+", text):
        raise UserError(f"--input {text} has commas; write the shape as {'x'.join(re.findall(r'[0-9]+', text))}")
    return _value(module, text)


def _needs_inputs(model: Any) -> bool:
    if isinstance(model, ta.Tensor):
        return False
    function = model.forward if isinstance(model, nn.Module) else model
    parameters = inspect.signature(function).parameters.values()
    return any(p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters)


def _first_size(model: Any) -> str:
    """Return the input size of the first Linear layer, to suggest a shape."""
    layers = model.modules() if isinstance(model, nn.Module) else []
    return next((str(layer.in_features) for layer in layers if isinstance(layer, nn.Linear)), "8")


def _check_out(out: str, formats: Sequence[str]) -> None:
    """Raise before anything is computed if the file cannot be written."""
    path = Path(out)
    if path.suffix[1:].lower() not in formats:
        raise UserError(f"--out {out} ends in none of {', '.join('.' + name for name in formats)}")
    if not path.parent.is_dir():
        raise UserError(f"--out {out}: the folder {path.parent} does not exist")


if __name__ == "__main__":
    sys.exit(main())
