"""Which edits `mutation.py` makes, and how an edit gets into a running function."""

from __future__ import annotations

import ast
import copy
import hashlib
import sys
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "tinyattn"

# In ops/, what checks arguments is not meant; a rule, a definition or a helper of theirs takes xp.
ALSO = {
    "ops/attention.py": {"_causal", "_repeat_heads", "_mask", "scaled_dot_product_attention"},
    "ops/dropouts.py": {"_dropped", "_keep", "dropout"},
    "ops/heads.py": {"split_heads", "_join_heads", "packed_attention"},
    "ops/indexing.py": {"_integers_first"},
    "ops/loss.py": {
        "_reduce", "_weighted", "_without_ignored", "_class_rows", "_soft_cross_entropy", "binary_cross_entropy_with_logits",
        "cross_entropy", "l1_loss", "mse_loss", "nll_loss", "shaped",
    },
    "ops/products.py": {"matmul", "_distinct"},
    "ops/joins.py": {"_inner"},
    "ops/reductions.py": {"count", "sum_to"},
    "ops/shape.py": {"_inverse"},
}  # fmt: skip

FLIPS: dict[type, tuple[type, ...]] = {
    ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt), ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,), ast.In: (ast.NotIn,),
    ast.NotIn: (ast.In,),
}  # fmt: skip
SIBLINGS = dict(
    pair
    for a, b in [
        ("amax", "amin"), ("maximum", "minimum"), ("max", "min"), ("argmax", "argmin"), ("logical_and", "logical_or"),
        ("tril", "triu"), ("floor_divide", "trunc_divide"), ("any", "all"), ("zeros", "ones"), ("exp", "expm1"), ("log", "log1p"),
    ]
    for pair in ((a, b), (b, a))
)  # fmt: skip
ORDERED = {"matmul", "div", "pow", "power", "true_divide", "floor_divide", "divide", "subtract", "copysign"}


@dataclass(frozen=True)
class Mutant:
    """One edit to one function."""

    file: Path
    function: str
    kind: str
    before: str
    after: str
    count: int  # of edits with the same text in one function, the number of this one
    lines: tuple[int, ...]
    around: tuple[int, ...]  # the lines of the whole function
    digest: str  # of the function's source: a verdict holds for that
    put: tuple[Any, str, int | None, ast.AST]  # parent, field, position, new node
    tree: ast.Module

    @property
    def place(self) -> str:
        """The file, within the package."""
        return self.file.relative_to(PACKAGE).as_posix()

    @property
    def name(self) -> str:
        """Such as "ops/elementwise.py mul.a: g * b -> g"."""
        number = f" (no. {self.count + 1})" if self.count else ""
        return f"{self.place} {self.function}: {self.before} -> {self.after}{number}"

    def put_in(self, live: dict[CodeType, list[FunctionType]]) -> None:
        """Give the functions of this process the edited code, or the module the edited constant."""
        parent, field, position, new = self.put
        original = compile(self.tree, str(self.file), "exec", dont_inherit=True)
        _set(parent, field, position, new)
        edited = compile(self.tree, str(self.file), "exec", dont_inherit=True)
        if self.function.isupper():
            self._rebind()
        elif not _replace(original, edited, live):
            raise LookupError(f"{self.name}: the function is not alive")

    def _rebind(self) -> None:
        module = next(m for m in sys.modules.values() if getattr(m, "__file__", None) == str(self.file))
        constants = [
            s for s in self.tree.body if isinstance(s, ast.Assign) and ast.unparse(s.targets[0]) == self.function
        ]
        try:
            exec(compile(ast.Module(constants, []), str(self.file), "exec", dont_inherit=True), vars(module))
        except Exception as error:
            raise ImportFailsError(f"{type(error).__name__}: {error}") from error


class ImportFailsError(Exception):
    """The module could not be imported with this edit, which no test can overlook."""


def codes(code: CodeType) -> list[CodeType]:
    """The code objects directly inside of another one."""
    return [c for c in code.co_consts if isinstance(c, CodeType)]


def _replace(original: CodeType, edited: CodeType, live: dict[CodeType, list[FunctionType]]) -> int:
    """Walk both in step and put the edited code where the original one is alive; how often that was.

    A function inside another is alive beside it if it was made at import, as a closure; one that no longer uses all
    variables of the outer one cannot take the edited code.
    """
    if original == edited:
        return 0
    found = live.get(original, []) if original.co_freevars == edited.co_freevars else []
    for function in found:
        function.__code__ = edited
    inner, others = codes(original), codes(edited)
    if len(inner) != len(others):  # the edit adds or removes a lambda or a generator here
        return len(found)
    return len(found) + sum(_replace(a, b, live) for a, b in zip(inner, others, strict=True))


# --- finding the functions ---


def all_mutants() -> list[Mutant]:
    """Every edit to every rule, definition, kernel and unbroadcast."""
    files = [*sorted(PACKAGE.glob("ops/*.py")), *sorted(PACKAGE.glob("backends/cpu/*.py"))]
    files += [PACKAGE / "backends/shared.py", *sorted(PACKAGE.glob("engine/*.py"))]
    return [mutant for file in files if file.name != "__init__.py" for mutant in mutants_of(file)]


def mutants_of(file: Path) -> list[Mutant]:
    """Every edit to one file."""
    source = file.read_text(encoding="utf-8")
    tree = ast.parse(source)
    found: list[Mutant] = []
    seen: dict[tuple[str, str, str], int] = {}
    texts: set[tuple[str, str]] = set()
    for function, top in _targets(tree, file.relative_to(PACKAGE).as_posix()):
        digest = hashlib.sha256(ast.dump(top).encode()).hexdigest()[:12]
        around = tuple(range(top.lineno, top.end_lineno + 1))
        for kind, old, new, put in _edits(top):
            before, after = _short(old), _short(new)
            if before == after:
                continue
            whole = _text_with((*put, new), top)
            if (function, whole) in texts or not _compiles(whole):
                continue  # two edits, one result; or nonsense, such as -1[i]
            texts.add((function, whole))
            count = seen.setdefault((function, before, after), 0)
            seen[function, before, after] += 1
            lines = tuple(range(old.lineno, old.end_lineno + 1))
            found.append(Mutant(file, function, kind, before, after, count, lines, around, digest, (*put, new), tree))
    return found


def _short(node: ast.AST) -> str:
    if isinstance(node, ast.If):
        return f"if {ast.unparse(node.test)}"
    return " ".join(ast.unparse(node).split()) if not isinstance(node, ast.Pass) else "(nothing)"


def _text_with(put: tuple[Any, str, int | None, ast.AST], top: ast.AST) -> str:
    parent, field, position, new = put
    old = _get((parent, field, position))
    _set(parent, field, position, new)
    try:
        return ast.unparse(top)
    finally:
        _set(parent, field, position, old)


def _compiles(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("error", SyntaxWarning)
        try:
            compile(text, "<mutant>", "exec", dont_inherit=True)
        except SyntaxError:
            return False
    return True


def _set(parent: Any, field: str, position: int | None, node: Any) -> None:
    if position is None:
        setattr(parent, field, node)
    else:
        getattr(parent, field)[position] = node


def _targets(tree: ast.Module, place: str) -> Iterator[tuple[str, ast.AST]]:
    """Functions, lambdas and constants to edit, under the names that tell them apart."""
    kernels = place.startswith(("backends/", "engine/"))

    def visit(node: ast.AST, path: str) -> Iterator[tuple[str, ast.AST]]:
        if isinstance(node, ast.FunctionDef):
            full = f"{path}.{node.name}".lstrip(".")
            for decorator in node.decorator_list:
                yield from visit(decorator, full)
            first = node.args.args[0].arg if node.args.args else ""
            if full == "Operation.__init__":
                return  # it has run at import, before any edit
            if kernels or first == "xp" or node.name in ALSO.get(place, ()):
                yield full, node
                return
            for inner in ast.walk(node):
                if isinstance(inner, ast.FunctionDef) and inner is not node:
                    yield from visit(inner, full)
        elif isinstance(node, ast.Lambda):
            yield path, node
        elif isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            name = node.targets[0].id
            if kernels and name.strip("_").isupper():
                yield name, node
            else:
                yield from visit(node.value, f"{path}.{name}".lstrip("."))
        elif isinstance(node, ast.ClassDef) and node.name != "WatchedWalk":  # notifies, and calls super()
            for statement in node.body:
                yield from visit(statement, f"{path}.{node.name}".lstrip("."))
        elif isinstance(node, ast.Call):
            for argument in node.args:
                yield from visit(argument, path)
            for keyword in node.keywords:
                yield from visit(keyword.value, f"{path}.{keyword.arg}".lstrip("."))
        elif isinstance(node, ast.Dict):
            for key, value in zip(node.keys, node.values, strict=True):
                yield from visit(value, f"{path}[{ast.unparse(key) if key else '**'}]")

    for statement in tree.body:
        yield from visit(statement, "")


# --- the edits ---

Put = tuple[Any, str, int | None]
Edit = tuple[str, ast.AST, ast.AST, Put]  # kind, old, new, where


def _edits(top: ast.AST) -> Iterator[Edit]:
    """Every edit below a function, a lambda, an `if` or an assignment."""
    if isinstance(top, ast.FunctionDef):
        roots: list[Put] = [(top, "body", i) for i in range(len(top.body))]
    elif isinstance(top, ast.Lambda):
        roots = [(top, "body", None)]
        yield from _of_result(top.body, roots[0])
    elif isinstance(top, ast.Assign):
        roots = [(top, "value", None)]
    else:
        roots = [(top, field, i) for field, i in (("test", None), ("body", 0))]
    for put in roots:
        yield from _below(_get(put), put)


def _get(put: Put) -> Any:
    parent, field, position = put
    return getattr(parent, field) if position is None else getattr(parent, field)[position]


def _below(node: ast.AST, put: Put) -> Iterator[Edit]:
    """The edits of a node and of all that is in it."""
    if _is_guard(node) or isinstance(node, ast.Raise | ast.Assert | ast.JoinedStr | ast.Import | ast.ImportFrom):
        return
    if isinstance(node, ast.keyword) and node.arg == "strict":
        return
    if isinstance(node, ast.Expr) and (isinstance(node.value, ast.Constant) or _is_super(node.value)):
        return  # a docstring; a constructor without its super() would have another closure
    for kind, new in _of(node):
        yield kind, node, _at(node, new), put
    if isinstance(node, ast.Return) and node.value is not None:
        yield from _of_result(node.value, (node, "value", None))
    if isinstance(node, ast.UnaryOp) and isinstance(node.operand, ast.Constant):
        return  # a negative number is one thing
    for field, value in ast.iter_fields(node):
        if field in ("annotation", "returns", "args") and not isinstance(node, ast.Call):
            continue
        if isinstance(node, ast.Call) and field == "func" and isinstance(value, ast.Name):
            continue
        if isinstance(value, ast.AST):
            yield from _below(value, (node, field, None))
        elif isinstance(value, list):
            for i, child in enumerate(value):
                if isinstance(child, ast.AST):
                    yield from _below(child, (node, field, i))


def _at(old: ast.AST, new: ast.AST) -> ast.AST:
    """A copy of `new` (which may be a part of the tree) that stands where `old` does."""
    return ast.fix_missing_locations(ast.copy_location(copy.deepcopy(new), old))


def _is_super(node: ast.AST) -> bool:
    return ast.unparse(node).startswith("super()")


def _is_guard(node: ast.AST) -> bool:
    """An `if` or a call that only refuses arguments: test_errors.py is about those."""
    if isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        return getattr(node.value.func, "id", "").lstrip("_").startswith("check_")
    return isinstance(node, ast.If) and not node.orelse and isinstance(node.body[-1], ast.Raise)


def _of_result(node: ast.expr, put: Put) -> Iterator[Edit]:
    """Another sign and another size of what a function returns, of each thing if there are several."""
    if isinstance(node, ast.Tuple | ast.List):
        for i, part in enumerate(node.elts):
            yield from _of_result(part, (node, "elts", i))
    elif isinstance(node, ast.IfExp):
        yield from _of_result(node.body, (node, "body", None))
        yield from _of_result(node.orelse, (node, "orelse", None))
    elif not isinstance(node, ast.Constant | ast.Compare | ast.BoolOp | ast.Starred | ast.Dict):
        for kind, new in (
            ("sign", ast.UnaryOp(ast.USub(), node)),
            ("factor", ast.BinOp(node, ast.Mult(), ast.Constant(1.01))),
        ):
            yield kind, node, _at(node, new), put


def _of(node: ast.AST) -> Iterator[tuple[str, ast.AST]]:
    """The edits of one node: a kind and what takes its place."""
    match node:
        case ast.BinOp(left, op, right):
            yield from _of_arithmetic(node, left, op, right)
        case ast.UnaryOp(ast.USub(), operand) if not isinstance(operand, ast.Constant):
            yield "sign", operand
        case ast.UnaryOp(ast.Not() | ast.Invert(), operand):
            yield "branch", operand
        case ast.UnaryOp(ast.USub(), ast.Constant(int() as n)):
            yield "constant", ast.parse(str(1 - n), mode="eval").body
        case ast.UnaryOp(ast.USub(), ast.Constant(float() as c)):
            yield "sign", ast.Constant(c)
            yield "constant", ast.UnaryOp(ast.USub(), ast.Constant(c * 1.01))
        case ast.Compare(left, [op], [right]):
            for i, other in enumerate(FLIPS.get(type(op), ())):
                kind = "boundary" if i == 0 and len(FLIPS[type(op)]) == 2 else "branch"
                yield kind, ast.Compare(left, [other()], [right])
        case ast.BoolOp(op, values):
            yield "branch", ast.BoolOp(ast.Or() if isinstance(op, ast.And) else ast.And(), values)
        case ast.If(test) | ast.IfExp(test) if isinstance(test, ast.Name | ast.Call | ast.Attribute):
            edited = copy.copy(node)
            edited.test = ast.UnaryOp(ast.Not(), test)
            yield "branch", edited
        case ast.Constant(bool() as flag):
            yield "axis", ast.Constant(not flag)
        case ast.Constant(int() as n):
            yield "constant", ast.Constant(n + 1)
        case ast.Constant(float() as c):
            yield "constant", ast.Constant(c * 1.01 if c else 1.0)
        case ast.Attribute(value, "mT" | "T"):
            yield "swap", value
        case ast.Call():
            yield from _of_call(node)
        case ast.AugAssign(target, op, value):
            yield "drop", ast.Pass()
            if isinstance(op, ast.Add | ast.Sub):
                yield "sign", ast.AugAssign(target, ast.Sub() if isinstance(op, ast.Add) else ast.Add(), value)
            elif isinstance(op, ast.Mult | ast.Div):
                yield "swap", ast.AugAssign(target, ast.Div() if isinstance(op, ast.Mult) else ast.Mult(), value)
        case ast.Expr() | ast.Assign([ast.Subscript()]):
            yield "drop", ast.Pass()


def _of_arithmetic(node: ast.BinOp, left: ast.expr, op: ast.operator, right: ast.expr) -> Iterator[tuple[str, ast.AST]]:
    match op:
        case ast.Add():
            yield "sign", ast.BinOp(left, ast.Sub(), right)
        case ast.Sub():
            yield "sign", ast.BinOp(left, ast.Add(), right)
        case ast.Div() | ast.MatMult() | ast.Pow() | ast.Mod() | ast.FloorDiv():
            yield "swap", ast.BinOp(right, op, left)
        case ast.BitAnd():
            yield "swap", ast.BinOp(left, ast.BitOr(), right)
        case ast.BitOr():
            return  # of types, in isinstance
    if not isinstance(op, ast.MatMult):
        yield "drop", left
        yield "drop", right


def _of_call(node: ast.Call) -> Iterator[tuple[str, ast.AST]]:
    """Operands swapped, a sibling called instead, the call left out, its axis moved by one."""
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    args = node.args

    def call(args: list[ast.expr] = args, func: ast.expr = node.func) -> ast.Call:
        return ast.Call(func, args, node.keywords)

    if name in ("isinstance", "tuple", "list", "range", "zip", "len", "int", "float", "slice"):
        return
    if name in ORDERED and len(args) == 2:
        yield "swap", call([args[1], args[0]])
    if name in ("where", "masked_fill") and len(args) == 3:
        yield "swap", call([args[0], args[2], args[1]])
    if name in SIBLINGS and isinstance(node.func, ast.Attribute):
        yield "sibling", call(func=ast.Attribute(node.func.value, SIBLINGS[name], ast.Load()))
    if args and not isinstance(args[0], ast.Starred | ast.Constant) and isinstance(node.func, ast.Attribute):
        yield "drop", args[0]
    elif isinstance(node.func, ast.Attribute) and name in (
        "copy",
        "reshape",
        "transpose",
        "detach",
        "expand",
        "astype",
    ):
        yield "drop", node.func.value
    for i, argument in enumerate([*args, *(k.value for k in node.keywords)]):
        if isinstance(argument, ast.Name) and argument.id in ("dim", "axis"):
            d = argument.id
            off = ast.parse(f"{d} - 1 if isinstance({d}, int) else tuple(d - 1 for d in {d})", mode="eval").body
            edited = copy.copy(node)
            if i < len(args):
                edited.args = [*args[:i], off, *args[i + 1 :]]
            else:
                k = i - len(args)
                moved = ast.keyword(node.keywords[k].arg, off)
                edited.keywords = [*node.keywords[:k], moved, *node.keywords[k + 1 :]]
            yield "axis", edited
