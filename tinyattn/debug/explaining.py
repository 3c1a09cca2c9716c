"""Why is this gradient None, zero, NaN or huge?"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tinyattn import autograd
from tinyattn.debug.describe import count, describe, fault
from tinyattn.debug.flow import Call, Flow, Recorder, Step
from tinyattn.debug.probe import Passed, Probe, graph_of, largest, shortest_way
from tinyattn.debug.reasons import CHOOSING, VERDICTS, oldest_not_finite, why_not_finite, why_zero
from tinyattn.debug.regions import MOVING, where_it_ends
from tinyattn.engine.node import Node
from tinyattn.engine.walk import leading_to
from tinyattn.tensors import Tensor

__all__ = ["VERDICTS", "Explanation", "explain"]


@dataclass(frozen=True)
class Explanation:
    """What `explain` found; `print` it for the whole story.

    verdict: a key of VERDICTS. culprit: the operation to blame, or None. site: its line, "file:line".
    module: the path of the module it ran in. message: what happened and what to do. path: the
    operations from the loss to the parameter, the culprit marked.
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
    """Why the gradient of `parameter` is None, zero, NaN or huge: the first culprit, seen from the loss.

    loss: a function without arguments that computes the loss and does not call backward(). It is run
    and watched, so that what leaves no trace in a graph is found too: detach, no_grad, integers. Or
    the loss itself, before backward(): then only what the graph has recorded can be told.
    tiny, huge: below and above which the largest element of a gradient is worth an explanation.
    No `.grad` changes. Raises TypeError for other arguments, RuntimeError for a loss that is not a
    single number or whose graph is gone.

    >>> print(explain(model.fc.weight, lambda: F.cross_entropy(model(x), y)))
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
    """One question: what stands between this parameter and this loss?"""

    def __init__(self, parameter: Tensor, loss: Tensor, calls: Sequence[Call] | None, tiny: float, huge: float) -> None:
        self.parameter, self.loss, self.calls, self.tiny, self.huge = parameter, loss, calls, tiny, huge
        self.nodes = graph_of(loss.node)
        stacks = [node.modules for node in (*self.nodes, *(call.node for call in calls or ()))]
        self.called = {id(module) for stack in stacks for module in stack}
        self.roots = list({id(stack[0]): stack[0] for stack in stacks if stack}.values())
        names = [name for root in self.roots for name, p in root.named_parameters() if p is parameter]
        self.name = f"'{max(names, key=len)}'" if names else "this tensor"

    def answer(self) -> Explanation:
        """To the first of these questions that has one."""
        node, start = self.parameter.node, self.loss.node
        if node is None:
            return self._say("frozen", None, "None", "it does not ask for one, its requires_grad is False.")
        useful = set() if start is None else leading_to([node], [start])
        if start is None or start.id not in useful:
            return self._no_way()
        if any(n.saved is None for n in self.nodes if n.id in useful):
            raise RuntimeError(
                "explain: backward() has walked this graph and freed what it saved. Ask before backward(), or give "
                "explain a function that computes the loss without calling backward()."
            )
        probe = Probe(useful)
        with probe:
            (found,) = autograd.grad(self.loss, self.parameter, retain_graph=True, allow_unused=True)
        if fault(self.loss) or fault(found):
            return self._not_finite(probe, found)
        size = 0.0 if found is None else largest(found.array)
        if size < self.tiny:
            return self._too_small(probe, size, "None" if found is None else f"at most {size:.1e}" if size else "zero")
        if size > self.huge:
            return self._too_large(probe, f"as large as {size:.1e}")
        if not self.parameter.is_leaf and node.tensor is None:
            return self._say(
                "not_a_leaf", node, "not kept", f"{node} computed it, and backward() fills .grad of leaves."
            )
        text = f"its largest element is {size:.3g}. If .grad is None, backward() has not run since zero_grad()."
        return self._say("healthy", None, "healthy", text)

    # --- no gradient at all ---

    def _no_way(self) -> Explanation:
        if self.calls is None:
            return self._say("unrecorded", None, "None", "no operation that was recorded leads from the loss to it.")
        steps = Flow(self.calls, self.parameter).path(self.loss)
        route = [step.source.node for step in steps if step.source is not None]
        for step in steps:
            if step.lost:
                return self._without_history(step, route)
            call = step.source
            if call is not None and call.cut:
                text = {
                    "detached": "cuts the history off.",
                    "no_grad": "ran under no_grad(), so nothing was recorded.",
                    "integers": f"gives {call.out.dtype}, through which no gradient passes.",
                    "no_rule": "has no rule for a gradient.",
                }[call.cut]
                return self._say(call.cut, call.node, "None", f"{call.node} {text}", route)
        if steps:
            return self._say("unrecorded", None, "None", "it was cut off before this function began.", route)
        for root in self.roots:
            for path, module in root.named_modules():
                if id(module) not in self.called and any(p is self.parameter for p in module.parameters(recurse=False)):
                    return self._say("unused", None, "None", f"its module '{path}' was never called.", module=path)
        return self._say("unused", None, "None", "no operation that leads to the loss uses it.")

    def _without_history(self, step: Step, route: list[Node]) -> Explanation:
        what = f"what {step.source.node} gave" if step.source is not None else "its value"
        where = f"goes into {step.user.node}" if step.user is not None else "is the loss"
        culprit = step.user or step.source
        text = f"{what} {where} without its history: through .array, .numpy(), .item() or a copy of them."
        return self._say("detached", culprit.node if culprit else None, "None", text, route)

    # --- a gradient that is not what it should be ---

    def _not_finite(self, probe: Probe, found: Tensor | None) -> Explanation:
        bad = found is not None and fault(found)
        what = (
            f"not finite ({count(found.array)})" if found is not None and bad else "that of a loss that is not finite"
        )
        if self.calls is None:
            reason = oldest_not_finite(self.nodes)
        else:
            involved = Flow(self.calls, self.parameter).ancestors(self.loss)
            reason = next((why_not_finite(c) for c in self.calls if c.fault and c in involved), None)
        if reason is not None:
            return self._say(reason.verdict, reason.node, what, f"{reason.node} {reason.text}")
        for node, entries in probe.passed.items():
            if fault(probe.gradients[node]):
                text = (
                    f"the gradient that reaches {node} is not finite, and no rule on the way from the loss made it so."
                )
                return self._say("overflow", node, what, text)
            for passed in entries:
                kind = fault(passed.gradient)
                if kind:
                    text = f"the rule of {node} made {count(passed.gradient)} out of a finite gradient{_saved(passed)}."
                    return self._say("nan" if kind == "NaN" else "infinite_slope", node, what, text)
        return self._say("nan", None, what, "it is in the data or a parameter, or explain has not seen it made.")

    def _too_small(self, probe: Probe, size: float, what: str) -> Explanation:
        if size:
            return self._shrinks(probe, what)
        reached: set[Node] = set()  # by something that is not zero
        for node, entries in probe.passed.items():
            if probe.gradients[node].any():
                if entries and all(passed.nothing for passed in entries):
                    return self._stops(probe, entries[0], what)
                reached |= {passed.edge for passed in entries if not passed.nothing}
            elif node in reached:
                return self._added_up(probe, node, what)
        assert self.parameter.node is not None
        return self._added_up(probe, self.parameter.node, what)

    def _shrinks(self, probe: Probe, what: str) -> Explanation:
        steps = [p for entries in probe.passed.values() for p in entries if p.operation not in MOVING]
        least = min(steps, key=lambda passed: passed.share)
        if least.share < 1e-3:
            return self._stops(probe, least, what)
        product: dict[str, float] = {}
        for passed in steps:
            product[passed.operation] = product.get(passed.operation, 1.0) * passed.share
        most = min(product, key=product.__getitem__)
        return self._say(
            "vanishing", least.node, what, f"no step alone made it so, but all of them, most of all {most}."
        )

    def _stops(self, probe: Probe, passed: Passed, what: str) -> Explanation:
        """Blame the operation that passes nothing on, or the one beyond it that had already used none of it."""
        if passed.operation in CHOOSING and passed.nothing:
            end = where_it_ends(passed.node, passed.edge, probe.consumers, probe.gradients)
            if end is not passed.node and end.op is not None:
                if end.op.name in MOVING:
                    return self._say("not_selected", end, what, f"{end} takes none of what the parameter feeds.")
                passed = probe.passed[end][0]
        reason = why_zero(passed)
        text = f"{passed.node} passes {'nothing' if passed.nothing else 'little'} on. {reason.text}"
        return self._say(reason.verdict, reason.node, what, text)

    def _added_up(self, probe: Probe, node: Node, what: str) -> Explanation:
        if node.hooks:
            return self._say("hook", node, what, f"a hook on what {node} gave replaced the gradient.")
        users = probe.consumers[node]
        return self._say(
            "cancelled", users[0], what, f"what {users[0]} sends back, together with the rest, adds up to nothing."
        )

    def _too_large(self, probe: Probe, what: str) -> Explanation:
        most = max((p for entries in probe.passed.values() for p in entries), key=lambda passed: passed.growth)
        text = f"{most.node} enlarges it most, by up to {most.growth:.1e}{_saved(most)}."
        return self._say("huge", most.node, what, text)

    # --- words ---

    def _say(
        self, verdict: str, node: Node | None, what: str, text: str, route: list[Node] | None = None, module: str = ""
    ) -> Explanation:
        parameter = f"{self.name}, shape {tuple(self.parameter.shape)}"
        message = f"The gradient of {parameter}, is {what}: {text} {VERDICTS[verdict][1]}".rstrip()
        if node is None or node.op is None:
            return Explanation(verdict, message, module=module)
        path = self._path(self._route(node) if route is None else route, node)
        return Explanation(verdict, message, node.op.name, str(node.site), node.module, path)

    def _route(self, culprit: Node) -> list[Node]:
        """Some way from the loss over `culprit` to the parameter."""
        start, end = self.loss.node, self.parameter.node
        if start is None or end is None or culprit not in self.nodes:
            return []
        return shortest_way(start, culprit)[:-1] + (shortest_way(culprit, end) or [culprit])

    def _path(self, route: Sequence[Node], culprit: Node) -> tuple[str, ...]:
        route = [node for node in route if node.op is not None]
        here = next((i for i, node in enumerate(route) if node is culprit), 0)
        lines: list[str] = []
        for i, node in enumerate(route):
            if i in (0, len(route) - 1) or abs(i - here) <= AROUND:
                lines.append(f"<- {node}{'   <==== here' * (node is culprit)}")
            elif lines[-1] != "...":
                lines.append("...")
        return ("loss", *lines, f"<- {self.name}") if lines else ()


AROUND = 5  # how many steps of a long path are shown before and after the culprit


def _saved(passed: Passed) -> str:
    arrays = "; ".join(f"{name}: {describe(x)}" for name, x in passed.saved)
    return f" (saved: {arrays})" if arrays else ""
