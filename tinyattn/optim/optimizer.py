"""What every optimizer shares: parameter groups, the loop over parameters, saving and loading."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from numbers import Real
from typing import Any, TypeAlias

from tinyattn import backends
from tinyattn.dtypes import float32
from tinyattn.engine.modes import call_site, enable_grad, observers
from tinyattn.ops.creation import as_tensor
from tinyattn.optim.bundles import FEW, Bundles
from tinyattn.optim.counters import Counters
from tinyattn.tensors import Tensor

Params: TypeAlias = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]]
Group: TypeAlias = dict[str, Any]
State: TypeAlias = dict[str, Any]


class Optimizer(ABC):
    """Base of all optimizers: it holds parameters and changes them by their gradients.

    params: tensors, (name, tensor) pairs as `named_parameters()` gives, or dicts
        {"params": tensors, "lr": 0.01, ...} with options of their own (parameter groups).
    defaults: the options of every group that does not say otherwise.

    `param_groups` is the list of groups, `state[parameter]` what an algorithm remembers about one.
    Raises TypeError or ValueError for parameters that cannot be optimized and for bad options.
    As torch.optim.Optimizer. Another algorithm is a subclass with `update`, and `check` and
    `state_names` where it has options and state.
    """

    param_groups: list[Group]
    state: defaultdict[Tensor, State]

    # True for an `update` that treats every element alike and writes to its state in place (all of which `state_names`
    # names): it may then be given many small parameters as one long one, see `bundles`.
    elementwise = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "update" in vars(cls) and "elementwise" not in vars(cls):
            cls.elementwise = False  # another `update` says it for itself
        if "update" in vars(cls) and "update_together" not in vars(cls):
            cls.update_together = Optimizer.update_together  # type: ignore[method-assign]

    def __init__(self, params: Params | Iterable[Group], defaults: Group) -> None:
        self.defaults = defaults
        self.param_groups = []
        self.state = defaultdict(dict)
        self._bundles: dict[int, Bundles] = {}
        self._counters: dict[tuple[int, str], Counters] = {}
        self.check(defaults)
        if isinstance(params, Tensor) or not isinstance(params, Iterable):
            raise TypeError(
                f"an optimizer takes a list of tensors, but was given {_described(params)}; "
                "write [tensor], or model.parameters() for those of a module."
            )
        groups = _ordered(params)
        if not groups:
            raise ValueError(
                "the optimizer was given an empty parameter list; "
                "is there a Parameter in the module, and was its generator used up before?"
            )
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)
        if not any(p.requires_grad for group in self.param_groups for p in group["params"]):
            raise ValueError(
                "none of the parameters given to the optimizer requires a gradient, so it could "
                "never change one; call requires_grad_() on them, or use nn.Parameter."
            )

    @abstractmethod
    def update(self, param: Tensor, grad: Any, state: State, group: Group) -> None:
        """Change `param.array` in place by its gradient, an array of the same shape.

        state: what this optimizer remembers about `param`, empty the first time, to be filled.
        """

    def update_together(self, params: Sequence[Tensor], group: Group) -> None:
        """Change parameters that lie on one GPU and have gradients: one by one, unless fewer launches can do it."""
        for param in params:
            assert param.grad is not None
            self.update(param, param.grad.array, self.state[param], group)

    def check(self, options: Group) -> None:
        """Raise ValueError or TypeError where an option of a parameter group is not allowed."""
        check_number(options, "lr")

    def state_names(self, group: Group) -> tuple[str, ...]:
        """The names in the state of a parameter of this group, once it has been updated."""
        return ()

    def add_param_group(self, param_group: Group) -> None:
        """Optimize more parameters: {"params": tensors, ...and options unlike the defaults}."""
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(
                f"a parameter group is a dict with the tensors under 'params', but got {_described(param_group)}."
            )
        names, tensors = _named_tensors(param_group["params"])
        group = {key: _plain(value) for key, value in {**self.defaults, **param_group}.items()}
        group["params"] = tensors
        if names is not None:
            group["param_names"] = names
        self.check(group)
        others = self.param_groups
        if others and ("param_names" in others[0]) != ("param_names" in group):
            raise ValueError(
                "some parameter groups of the optimizer have names and some have none; "
                "pass named_parameters() for all or parameters() for all."
            )
        seen = {id(p) for other in self.param_groups for p in other["params"]}
        for i, tensor in enumerate(tensors):
            _check_parameter(tensor, f"parameter {i} of group {len(self.param_groups)}")
            if id(tensor) in seen:
                raise ValueError(
                    f"parameter {i} of group {len(self.param_groups)} appears more than once in "
                    "the optimizer, which would update it twice a step; give every tensor once."
                )
            seen.add(id(tensor))
        self.param_groups.append(group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Forget all gradients; with set_to_none=False, keep their arrays and fill in zeros."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    param.grad = None if set_to_none else param.grad.detach().zero_()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; one whose `.grad` is None is left alone.

        closure: computes the gradients anew and returns the loss, which is then returned here.
        """
        backends.check()
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        writer, site = f"{type(self).__name__}.step", call_site()
        for observer in observers.get():
            observer.before_step(self)
        for place, group in enumerate(self.param_groups):
            for param in group["params"]:
                if param.grad is None:
                    continue
                if param.grad.array.shape != param.array.shape:
                    raise ValueError(
                        f"{writer}: a parameter has a gradient of shape {param.grad.shape}, but "
                        f"its own shape is {param.shape}; set .grad to a tensor of the same shape."
                    )
                param._wrote(writer, site=site)  # so that a graph that saved the old values says so
            self._update_group(place, group)
        for observer in observers.get():
            observer.after_step(self)
        return loss

    def _update_group(self, place: int, group: Group) -> None:
        """Update the parameters of a group that have gradients, small ones together where that is allowed."""
        if backends.in_use():
            self._prepare_gpus(place, group)
        rest = group["params"]
        if self.elementwise:
            present = (group["params"], self.state, self.state_names(group))
            kept = self._bundles.get(place)
            if kept is None or not kept.fit(*present):
                kept = self._bundles[place] = Bundles(*present)
            rest = []
            for bundle in kept.bundles:
                for first, last in bundle.runs():
                    if last - first > FEW:
                        bundle.update(first, last, partial(self.update, group=group))
                    else:
                        rest += bundle.params[first:last]
            rest += kept.rest
        on_gpus: defaultdict[str, list[Tensor]] = defaultdict(list)
        gpus = backends.in_use()
        for param in rest:
            if param.grad is None:
                continue
            if gpus and param.is_cuda:
                on_gpus[param.device].append(param)
            else:
                self.update(param, param.grad.array, self.state[param], group)
        for params in on_gpus.values():
            self.update_together(params, group)

    def _prepare_gpus(self, place: int, group: Group) -> None:
        """What is remembered follows parameters that have moved; and the steps of those on a GPU are counted there."""
        for param in group["params"]:
            state = self.state.get(param, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.device != param.device:
                    state[name] = value.detach().to(param.device)
        if "step" not in self.state_names(group):
            return
        for device in dict.fromkeys(param.device for param in group["params"] if param.is_cuda):
            params = [param for param in group["params"] if param.device == device]
            kept = self._counters.get((place, device))
            if kept is None or not kept.fit(params, self.state):
                kept = self._counters[place, device] = Counters(params, self.state)
            kept.count(params, self.state)

    def state_dict(self) -> dict[str, Any]:
        """{"state": {0: {...}}, "param_groups": [{..., "params": [0]}]}, parameters by their place.

        The tensors in it are the optimizer's own: clone or write them out before the next step.
        """
        places: dict[int, int] = {}
        for param in self._parameters():
            places[id(param)] = len(places)
        groups = []
        for group in self.param_groups:
            options = {key: value for key, value in group.items() if key != "params"}
            groups.append({**options, "params": [places[id(p)] for p in group["params"]]})
        state = {places[id(p)]: value for p, value in self.state.items() if value}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict`, this package's or torch's (with tensors as arrays).

        The values are copied. Raises ValueError, and changes nothing, where it does not fit.
        """
        groups, state = self._checked(state_dict)
        self.param_groups, self.state = groups, state

    def _checked(self, state_dict: Mapping[str, Any]) -> tuple[list[Group], defaultdict[Tensor, State]]:
        """The groups and state that `state_dict` stands for, about this optimizer's parameters."""
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= {*state_dict}:
            raise ValueError(
                "an optimizer's state_dict is a dict with 'state' and 'param_groups', "
                f"but got {_described(state_dict)}."
            )
        saved = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in saved]
        ours = [len(group["params"]) for group in self.param_groups]
        if sizes != ours:
            raise ValueError(
                f"the loaded state has parameter groups of {sizes} tensors, but this optimizer has "
                f"groups of {ours}; it belongs to another model or another grouping."
            )
        groups: list[Group] = []
        state: defaultdict[Tensor, State] = defaultdict(dict)
        left = dict(state_dict["state"])
        for i, (group, new) in enumerate(zip(self.param_groups, saved, strict=True)):
            missing = sorted({*self.defaults} - {*new})
            if missing:
                raise ValueError(
                    f"parameter group {i} of the loaded state has no {missing[0]!r}; "
                    f"it was not saved by {type(self).__name__}."
                )
            options = {key: value for key, value in new.items() if key != "params"}
            if "param_names" in group:
                options.setdefault("param_names", group["param_names"])
            self.check(options)
            groups.append({**options, "params": group["params"]})
            for param, place in zip(group["params"], new["params"], strict=True):
                if left.get(place):
                    state[param] = self._restored(param, left[place], options, place)
                left.pop(place, None)
        if left:
            raise ValueError(
                f"the loaded state is about parameter {next(iter(left))!r}, "
                "which is in none of its parameter groups; the file is damaged."
            )
        return groups, state

    def _restored(self, param: Tensor, saved: State, options: Group, place: Any) -> State:
        """A copy of the saved state of one parameter, in that parameter's dtype and place."""
        saved = {name: value for name, value in saved.items() if value is not None}
        missing = [name for name in self.state_names(options) if saved and name not in saved]
        if missing:
            raise ValueError(
                f"the loaded state of parameter {place} has {sorted(saved)} but no {missing[0]!r}; "
                f"it was not saved by {type(self).__name__} with these options."
            )
        state: State = {}
        for name, value in saved.items():
            if name == "step":
                state[name] = _step_counter(value, place).to(param.device)
                continue
            value = as_tensor(value, dtype=param.dtype, device=param.device)
            if value.shape != param.shape:
                raise ValueError(
                    f"the loaded {name!r} of parameter {place} has shape {tuple(value.shape)}, "
                    f"but the parameter {tuple(param.shape)}; it belongs to another model."
                )
            state[name] = value.detach().clone()
        return state

    def __getstate__(self) -> dict[str, Any]:
        return {**vars(self), "_bundles": {}, "_counters": {}}  # a copy makes its own

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({"_bundles": {}, "_counters": {}, **state})

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
            lines.append("")
        return "\n".join([*lines[:-1], ")"])


def check_number(options: Group, name: str, *, least: float = 0.0, below: float = math.inf) -> None:
    """Raise unless least <= options[name] < below: TypeError for no number, else ValueError."""
    _check_in_range(options[name], name, least, below)


def check_betas(options: Group) -> None:
    """Raise unless options["betas"] is a pair of numbers in [0, 1)."""
    betas = options["betas"]
    if not isinstance(betas, tuple | list) or len(betas) != 2:
        raise TypeError(f"betas must be a pair of numbers such as (0.9, 0.999), but got {betas!r}.")
    for i, beta in enumerate(betas):
        _check_in_range(beta, f"betas[{i}]", 0.0, 1.0)


def _check_in_range(value: Any, name: str, least: float, below: float) -> None:
    if not isinstance(value, Real):
        raise TypeError(f"{name} must be a number, but got {_described(value)}.")
    if not least <= float(value) < below:  # NaN fails every comparison
        finite = f"a finite number of at least {least:g}"
        limits = finite if below == math.inf else f"in [{least:g}, {below:g})"
        raise ValueError(f"{name} must be {limits}, but got {value}.")


def _check_parameter(tensor: Any, what: str) -> None:
    if not isinstance(tensor, Tensor):
        raise TypeError(f"an optimizer can only change tensors, but {what} is {_described(tensor)}.")
    if not tensor.is_leaf:
        raise ValueError(
            f"can't optimize a non-leaf Tensor: {what} (shape {tuple(tensor.shape)}) is the result "
            "of an operation; pass what it was computed from, or its detach().requires_grad_()."
        )
    if tensor.dtype.kind != "f":
        raise ValueError(
            f"can't optimize {what}: its dtype is {tensor.dtype}, and only floating-point tensors have gradients."
        )


def _ordered(params: Iterable[Any]) -> list[Any]:
    if isinstance(params, set | frozenset):
        raise TypeError(
            "the parameters of an optimizer need an order, and that of a set differs from run to run; pass a list."
        )
    return list(params)


def _named_tensors(params: Any) -> tuple[list[str] | None, list[Any]]:
    """Names, or None, and tensors out of what a user may pass as "params"."""
    if isinstance(params, Tensor):
        return None, [params]
    items = _ordered(params)
    pairs = [item for item in items if isinstance(item, tuple) and len(item) == 2]
    if not pairs:
        return None, items
    if len(pairs) != len(items):
        raise ValueError(
            "some parameters were given as (name, tensor) and some without a name; name all of a group or none."
        )
    return [name for name, _ in pairs], [tensor for _, tensor in pairs]


def _plain(value: Any) -> Any:
    """Numbers as Python's own: a NumPy scalar would widen float32 arrays, and JSON knows none."""
    foreign = isinstance(value, Real) and type(value).__module__ != "builtins"
    return float(value) if foreign else value


def _step_counter(value: Any, place: Any) -> Tensor:
    """A saved step count (a number or a tensor of one) as a 0-d tensor."""
    step = float(value)
    if not 0.0 <= step < math.inf:
        raise ValueError(f"the loaded 'step' of parameter {place} is {step}; it counts updates.")
    return as_tensor(step, dtype=float32, device="cpu")


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a single Tensor of shape {tuple(value.shape)}"
    if isinstance(value, Mapping):
        return f"a dict with the keys {[*value]}"
    return f"{value!r} ({type(value).__name__})"
