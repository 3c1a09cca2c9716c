"""Why is this gradient None, zero, NaN or huge?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tinyattn import autograd
from tinyattn.debug.describe import count, describe, fault
from tinyattn.debug.flow import Call, Flow, Passed, Probe, Recorder, graph_of, largest, shortest_path
from tinyattn.debug.reasons import VERDICTS, Reason, given_nan, oldest_not_finite, why_not_finite, why_zero
from tinyattn.engine.node import Node
from tinyattn.tensors import Tensor

__all__ = ["VERDICTS", "Explanation", "explain"]

AROUND = 5  # how many steps of a long path are shown before and after the culprit


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; `print` shows all of it.

    verdict: a key of VERDICTS. culprit: the name of the operation to blame, or None. site: its line, "file:line".
    module: the path of the module it ran in. message: what happened and what to do. path: the operations from the
    loss to the parameter, the culprit marked.

    >>> w = ta.tensor(2.0, requires_grad=True)
    >>> print(ta.explain(w, (0 * w).sum()).verdict)
    times_zero
    """

    verdict: str
    message: str
    culprit: str | None = None
    site: str | None = None
    module: str = ""
    path: tuple[str, ...] = ()

    def __str__(self) -> str:
        return "\n    ".join([self.message, *self.path])


def explain(
    parameter: Tensor, loss: Tensor | Callable[[], Tensor], *, tiny: float = 1e-7, huge: float = 1e3
) -> Explanation:
    """Explain why the gradient of `parameter` is None, zero, NaN or huge: the first culprit, seen from the loss.

    loss: a function without arguments that computes the loss and does not call backward(). It is run and observed,
    so that detach, no_grad and integers are found, which leave no trace in a graph. Or the loss itself, before
    backward(): then only what the graph has recorded is known.
    tiny, huge: limits for the largest element of a gradient; below and above them it is explained.
    No `.grad` changes. Raises TypeError for other arguments, RuntimeError for a loss that is not a single number or
    whose graph has been freed.

    >>> w = ta.tensor(-1.0, requires_grad=True)
    >>> why = ta.explain(w, lambda: ta.relu(w))  # print(why) tells it in words, with the path from the loss
    >>> why.verdict, why.culprit
    ('dead_relu', 'relu')
    """
    if not isinstance(parameter, Tensor):
        raise TypeError(f"explain: expected a parameter, which is a Tensor, got {type(parameter).__name__}")
    if isinstance(loss, Tensor):
        return _Case(parameter, loss, None, tiny, huge).answer()
    if not callable(loss):
        raise TypeError(f"explain: expected a loss, or a function that computes it, got {type(loss).__name__}")
    with Recorder() as recorder:
        loss = loss()
    if not isinstance(loss, Tensor):
        raise TypeError(f"explain: the function must return the loss, a Tensor; it gave {type(loss).__name__}")
    return _Case(parameter, loss, recorder.calls, tiny, huge).answer()


class _Case:
    """One parameter, one loss, and what happened between them."""

    def __init__(self, parameter: Tensor, loss: Tensor, calls: Sequence[Call] | None, tiny: float, huge: float) -> None:
        self.parameter, self.loss, self.calls, self.tiny, self.huge = parameter, loss, calls, tiny, huge
        self.nodes = graph_of(loss.node)
        self.route: list[Node] | None = None  # from the loss to the parameter, if not along the graph
        stacks = [node.modules for node in (*self.nodes, *(call.node for call in calls or ()))]
        self.called = {id(module) for stack in stacks for module in stack}
        self.roots = list({id(stack[0]): stack[0] for stack in stacks if stack}.values())
        names = [name for root in self.roots for name, p in root.named_parameters() if p is parameter]
        self.name = f"'{max(names, key=len)}'" if names else "this tensor"

    def answer(self) -> Explanation:
        """Decide what the gradient is, and find the reason."""
        node = self.parameter.node
        if node is None:
            return self._say("None", Reason("frozen", None))
        if node not in self.nodes:
            return self._say("None", self._no_path())
        useful = {node}
        for user in sorted(self.nodes, key=lambda user: user.id):
            if any(edge in useful for edge in user.edges):
                useful.add(user)
        if any(user.saved is None for user in useful):
            raise RuntimeError(
                "explain: backward() has walked this graph and freed what it saved. Call explain before backward(), or "
                "give explain a function that computes the loss without calling backward()."
            )
        with Probe(useful) as probe:
            (found,) = autograd.grad(self.loss, self.parameter, retain_graph=True, allow_unused=True)
        if found is not None and fault(found):
            return self._say(f"not finite ({count(found.array)})", self._not_finite(probe))
        if fault(self.loss):
            return self._say("that of a loss that is not finite", self._not_finite(probe))
        size = 0.0 if found is None else largest(found.array)
        if size < self.tiny:
            what = "None" if found is None else f"at most {size:.1e}" if size else "zero"
            return self._say(what, self._shrinks(probe) if size else self._zero(probe, node))
        if size > self.huge:
            return self._say(f"as large as {size:.1e}", self._too_large(probe))
        if not self.parameter.is_leaf and node.tensor is None:
            return self._say("not kept", Reason("not_a_leaf", node))
        text = f"its largest element is {size:.3g}. If .grad is None, backward() has not run since zero_grad()."
        return self._say("healthy", Reason("healthy", None, text))

    # --- no gradient at all ---

    def _no_path(self) -> Reason:
        if self.calls is None:
            return Reason("unrecorded", None)
        steps = Flow(self.calls, self.parameter, self.loss).path()
        self.route = [step.source.node for step in steps if step.source is not None]
        for source, user, lost in steps:
            if lost:
                what = f"what {source.node} gave" if source is not None else "its value"
                where = f"goes into {user.node}" if user is not None else "is the loss"
                text = f"{what} {where} without its history: through .data, .numpy(), .item() or a copy of them."
                culprit = user or source
                return Reason("detached", culprit.node if culprit else None, text)
            if source is not None and source.cut:
                return Reason(source.cut, source.node, f"{source.node} {VERDICTS[source.cut][0]}.")
        if steps:
            return Reason("unrecorded", None, "it was cut off before this function began.")
        for root in self.roots:
            for path, module in root.named_modules():
                if id(module) not in self.called and any(p is self.parameter for p in module.parameters(recurse=False)):
                    return Reason("unused", None, f"its module '{path}' was never called.", path)
        return Reason("unused", None)

    # --- a gradient that is not what it should be ---

    def _not_finite(self, probe: Probe) -> Reason:
        if self.calls is None:
            reason = oldest_not_finite(self.nodes)
        else:
            involved = Flow(self.calls, self.parameter, self.loss).reached
            calls = [call for call in self.calls if call in involved]
            reason = next((why_not_finite(call) for call in calls if call.fault), None)
            reason = reason or next(filter(None, map(given_nan, calls)), None)
        if reason is not None:
            return reason
        for node, entries in probe.passed.items():
            if fault(probe.gradients[node]):
                text = f"the gradient that reaches {node} is not finite, though each rule on the way gave a finite one."
                return Reason("overflow", node, text)
            for passed in entries:
                kind = fault(passed.gradient)
                if kind:
                    text = f"the rule of {node} made {count(passed.gradient)} out of a finite gradient{_saved(passed)}."
                    return Reason("nan" if kind == "NaN" else "infinite_slope", node, text)
        return Reason("nan", None, "it is in the data or a parameter, or no observed operation made it.")

    def _zero(self, probe: Probe, end: Node) -> Reason:
        reached: set[Node] = set()  # by a gradient that is not zero
        for node, entries in probe.passed.items():
            if probe.gradients[node].any():
                if entries and all(passed.nothing for passed in entries):
                    return self._stops(probe, entries[0])
                reached |= {passed.edge for passed in entries if not passed.nothing}
            elif node in reached:
                return self._adds_up(probe, node)
        return self._adds_up(probe, end)

    def _shrinks(self, probe: Probe) -> Reason:
        steps = [p for entries in probe.passed.values() for p in entries if "moves" not in p.op.traits]
        least = min(steps, key=lambda passed: passed.share)
        if least.share < 1e-3:
            return self._stops(probe, least)
        product: dict[str, float] = {}
        for passed in steps:
            product[passed.op.name] = product.get(passed.op.name, 1.0) * passed.share
        most = min(product, key=product.__getitem__)
        return Reason("vanishing", least.node, f"no single step made it so; of all of them, {most} shrinks it most.")

    def _stops(self, probe: Probe, passed: Passed) -> Reason:
        """Blame the operation that passes nothing on, or one nearer to the loss that used nothing of its output."""
        if "chooses" in passed.op.traits and passed.nothing:
            end = probe.end_of(passed)
            if end is not passed.node and end.op is not None:
                if "moves" in end.op.traits:
                    return Reason("not_selected", end, f"{end} takes none of what the parameter feeds.")
                passed = probe.passed[end][0]
        return why_zero(passed)

    def _adds_up(self, probe: Probe, node: Node) -> Reason:
        if node.hooks:
            return Reason("hook", node)
        user = probe.consumers[node][0]
        return Reason("cancelled", user, f"what {user} sends back and the other contributions add up to zero.")

    def _too_large(self, probe: Probe) -> Reason:
        most = max((p for entries in probe.passed.values() for p in entries), key=lambda passed: passed.growth)
        return Reason("huge", most.node, f"{most.node} multiplies it most, by up to {most.growth:.1e}{_saved(most)}.")

    # --- words ---

    def _say(self, what: str, reason: Reason) -> Explanation:
        verdict, node, text, module = reason
        meaning, advice = VERDICTS[verdict]
        text = text or (f"{node}: {meaning}." if node else f"{meaning}.")
        parameter = f"{self.name}, shape {tuple(self.parameter.shape)}"
        message = f"The gradient of {parameter}, is {what}: {text} {advice}".rstrip()
        if node is None or node.op is None:
            return Explanation(verdict, message, module=module)
        return Explanation(verdict, message, node.op.name, str(node.site), node.module, self._path(node))

    def _path(self, culprit: Node) -> tuple[str, ...]:
        """The path from the loss over `culprit` to the parameter, in lines."""
        route = self.route
        if route is None and culprit in self.nodes:
            rest = shortest_path(culprit, self.parameter.node) or [culprit]
            route = shortest_path(self.loss.node, culprit)[:-1] + rest
        route = [node for node in route or () if node.op is not None]
        here = next((i for i, node in enumerate(route) if node is culprit), 0)
        lines: list[str] = []
        for i, node in enumerate(route):
            if i in (0, len(route) - 1) or abs(i - here) <= AROUND:
                lines.append(f"<- {node}{'   <==== here' * (node is culprit)}")
            elif lines[-1] != "...":
                lines.append("...")
        return ("loss", *lines, f"<- {self.name}") if lines else ()


def _saved(passed: Passed) -> str:
    arrays = "; ".join(f"{name}: {describe(x)}" for name, x in passed.saved)
    return f" (saved: {arrays})" if arrays else ""
