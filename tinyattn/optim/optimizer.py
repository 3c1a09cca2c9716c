"""The base of all optimizers: parameter groups, the step, and the state that is saved."""

from __future__ import annotations

import copy
import math
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias

from tinyattn import backends
from tinyattn.dtypes import float32
from tinyattn.engine.modes import call_site, observers
from tinyattn.engine.opmath import opmath_dtype
from tinyattn.grad_mode import enable_grad
from tinyattn.ops.creation import as_tensor
from tinyattn.optim import checks
from tinyattn.optim.checks import check_number, described, plain
from tinyattn.tensors import Tensor

Group: TypeAlias = dict[str, Any]
Params: TypeAlias = Tensor | Iterable[Tensor] | Iterable[tuple[str, Tensor]] | Iterable[Group]
State: TypeAlias = dict[str, Any]


class Optimizer:
    """Hold parameters and change them by their gradients. As torch.optim.Optimizer.

    params: tensors, (name, tensor) pairs as `named_parameters()` yields, or dicts {"params": tensors, "lr": 0.01, ...}
        with their own options (parameter groups).
    defaults: the options of every group that does not set them; a learning rate may be a tensor of one element, whose
        value is taken.
    without_effect: foreach, fused, capturable and differentiable=False, which choose an implementation in PyTorch.

    `param_groups` is the list of groups, `state[parameter]` a dict of what the algorithm keeps about one parameter.
    Raises TypeError or ValueError for parameters that cannot be optimized and for invalid options.

    A subclass defines `step`, as in PyTorch:

        >>> class Descent(ta.optim.Optimizer):
        ...     def __init__(self, params, lr):
        ...         super().__init__(params, {"lr": lr})
        ...
        ...     @ta.no_grad()
        ...     def step(self):
        ...         for group in self.param_groups:
        ...             for p in group["params"]:
        ...                 if p.grad is not None:
        ...                     p -= group["lr"] * p.grad
        >>> w = ta.tensor([1.0, 2.0], requires_grad=True)
        >>> (w * w).sum().backward()
        >>> Descent([w], lr=0.25).step()
        >>> w.tolist()
        [0.5, 1.0]

    or only `update`, the change of one parameter, and inherits `step`. `check` validates options, and `state_names`
    lists the entries that a loaded state must have.
    """

    numbers: tuple[str, ...] = ()  # of the state, beside the step: one number each

    param_groups: list[Group]
    state: defaultdict[Tensor, State]

    def __init__(self, params: Params, defaults: Group, **without_effect: Any) -> None:
        checks.check_without_effect(type(self).__name__, without_effect, defaults)
        self.defaults = defaults = {key: plain(value) for key, value in defaults.items()}
        self.param_groups = []
        self.state = defaultdict(dict)
        self.check(defaults)
        groups = checks.ordered(params)
        if not groups:
            raise ValueError(
                "the optimizer was given an empty parameter list; "
                "check that the module has a Parameter, and that a generator was not used up before."
            )
        for group in groups if isinstance(groups[0], dict) else [{"params": groups}]:
            self.add_param_group(group)

    # --- the step ---

    @backends.keeps_gpu
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter whose `.grad` is not None.

        closure: recomputes the gradients and returns the loss, which `step` then returns.
        Raises ValueError for a gradient of another shape than its parameter, before anything is changed.
        """
        backends.check()
        loss = None
        if closure is not None:
            with enable_grad():
                loss = closure()
        for observer in observers.get():
            observer.before_step(self)
        self._record_writes()
        if backends.in_use():
            self._move_state()
        self.update_all()
        for observer in observers.get():
            observer.after_step(self)
        return loss

    def update_all(self) -> None:
        """Update every parameter that has a gradient."""
        for group in self.param_groups:
            for param in group["params"]:
                if param.grad is not None:
                    self.update(param, param.grad.array, self.state[param], group)

    def update(self, param: Tensor, grad: Any, state: State, group: Group) -> None:
        """Change `param.array` in place by its gradient, an array of the same shape.

        state: the entries about `param`, an empty dict the first time, to be filled.
        """
        raise NotImplementedError(f"{type(self).__name__} defines neither step() nor update() of one parameter.")

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Set all gradients to None, or with set_to_none=False to zeros in the same arrays."""
        for param in self._parameters():
            if param.grad is not None:
                param.grad = None if set_to_none else param.grad.detach().zero_()

    def _record_writes(self) -> None:
        """Increment the version counters of what changes now, so that a graph that saved the old values detects it."""
        writer, site = f"{type(self).__name__}.step", call_site()
        for param in self._parameters():
            if param.grad is None:
                continue
            if param.grad.array.shape != param.array.shape:
                raise ValueError(
                    f"{writer}: a parameter has a gradient of shape {param.grad.shape}, but "
                    f"its own shape is {param.shape}; set .grad to a tensor of the same shape."
                )
            param._wrote(writer, site=site)

    def _move_state(self) -> None:
        """Move the state of parameters that are on another device by now."""
        for param in self._parameters():
            state = self.state.get(param, {})
            for name, value in state.items():
                if isinstance(value, Tensor) and value.device != param.device:
                    state[name] = value.detach().to(param.device)

    # --- parameters and their options ---

    def check(self, options: Group) -> None:
        """Raise ValueError or TypeError for invalid options of a parameter group."""
        if options.get("lr") is not None:  # an algorithm may choose it itself
            check_number(options, "lr")

    def check_loaded(self, options: Group) -> None:
        """Raise ValueError or TypeError for loaded options that are not of the kind of the defaults.

        Schedules and users may set any finite number, such as a negative rate, and it must load again.
        """
        for name, default in self.defaults.items():
            checks.check_kind(options[name], name, default)

    def state_names(self, group: Group) -> tuple[str, ...]:
        """Return the names in the state of an updated parameter of this group."""
        return ()

    def add_param_group(self, param_group: Group) -> None:
        """Add parameters: {"params": tensors, ...}, with the options that differ from the defaults.

        Raises TypeError or ValueError for parameters that cannot be optimized and for invalid options.
        """
        if not isinstance(param_group, dict) or "params" not in param_group:
            raise TypeError(
                f"a parameter group is a dict with the tensors under 'params', but got {described(param_group)}."
            )
        names, tensors = checks.named_tensors(param_group["params"])
        group = {key: plain(value) for key, value in {**self.defaults, **param_group}.items()}
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
        seen = {id(p) for p in self._parameters()}
        for i, tensor in enumerate(tensors):
            checks.check_parameter(tensor, f"parameter {i} of group {len(others)}")
            if id(tensor) in seen:
                raise ValueError(
                    f"parameter {i} of group {len(others)} appears more than once in "
                    "the optimizer, which would update it twice a step; give every tensor once."
                )
            seen.add(id(tensor))
        self.param_groups.append(group)

    def _parameters(self) -> Iterator[Tensor]:
        for group in self.param_groups:
            yield from group["params"]

    # --- saving and loading ---

    def state_dict(self) -> dict[str, Any]:
        """Return {"state": {0: {...}}, "param_groups": [{..., "params": [0]}]}, with parameters as numbers.

        The tensors in it are the optimizer's own: clone or save them before the next step.
        """
        places = {id(param): i for i, param in enumerate(self._parameters())}
        groups = []
        for group in self.param_groups:
            options = {key: value for key, value in group.items() if key != "params"}
            groups.append({**options, "params": [places[id(p)] for p in group["params"]]})
        state = {places[id(p)] if isinstance(p, Tensor) else p: value for p, value in self.state.items() if value}
        return {"state": state, "param_groups": groups}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Continue from a `state_dict` of this package or of torch (with tensors as arrays); the values are copied.

        Raises ValueError for one that does not fit, and then changes nothing.
        """
        self.param_groups, self.state = self._loaded(state_dict)

    def _loaded(self, state_dict: Mapping[str, Any]) -> tuple[list[Group], defaultdict[Tensor, State]]:
        """The validated groups and state of `state_dict`, for this optimizer's parameters."""
        groups: list[Group] = []
        state: defaultdict[Tensor, State] = defaultdict(dict)
        saved_groups = self._saved_groups(state_dict)
        left = dict(state_dict["state"])
        for i, (group, saved) in enumerate(zip(self.param_groups, saved_groups, strict=True)):
            missing = sorted({*self.defaults} - {*saved})
            if missing:
                raise ValueError(
                    f"parameter group {i} of the loaded state has no {missing[0]!r}; "
                    f"it was not saved by {type(self).__name__}."
                )
            options = {key: plain(value) for key, value in saved.items() if key != "params"}
            if "param_names" in group:
                options.setdefault("param_names", group["param_names"])
            self.check_loaded(options)
            groups.append({**options, "params": group["params"]})
            for param, place in zip(group["params"], saved["params"], strict=True):
                if left.get(place):
                    state[param] = self._restored(param, left[place], options, place)
                left.pop(place, None)
        for name in [name for name in left if isinstance(name, str)]:  # about no parameter, of a user's own algorithm
            state[name] = copy.deepcopy(left.pop(name))  # type: ignore[index]
        if left:
            raise ValueError(
                f"the loaded state is about parameter {next(iter(left))!r}, "
                "which is in none of its parameter groups; the file is damaged."
            )
        return groups, state

    def _saved_groups(self, state_dict: Mapping[str, Any]) -> list[Group]:
        """The parameter groups in `state_dict`, as many and as large as those here."""
        if not isinstance(state_dict, Mapping) or not {"state", "param_groups"} <= {*state_dict}:
            raise ValueError(
                f"an optimizer's state_dict is a dict with 'state' and 'param_groups', but got {described(state_dict)}."
            )
        saved: list[Group] = state_dict["param_groups"]
        sizes = [len(group["params"]) for group in saved]
        ours = [len(group["params"]) for group in self.param_groups]
        if sizes != ours:
            raise ValueError(
                f"the loaded state has parameter groups of {sizes} tensors, but this optimizer has "
                f"groups of {ours}; it belongs to another model or another grouping."
            )
        return saved

    def _restored(self, param: Tensor, saved: State, options: Group, place: Any) -> State:
        """A copy of the saved state of one parameter, in the dtype in which it is computed and on its device."""
        names = self.state_names(options)
        saved = {name: value for name, value in saved.items() if value is not None}
        missing = [name for name in names if saved and name not in saved]
        if missing:
            raise ValueError(
                f"the loaded state of parameter {place} has {sorted(saved)} but no {missing[0]!r}; "
                f"it was not saved by {type(self).__name__} with these options."
            )
        state: State = {}
        for name, value in saved.items():
            if name not in names and not hasattr(value, "shape"):  # a number of a user's own algorithm
                state[name] = copy.deepcopy(value)
                continue
            if name == "step":
                state[name] = _step_count(value, place).to(param.device)
                continue
            tensor = as_tensor(value, dtype=opmath_dtype(param.dtype), device=param.device)
            if name in names and tensor.shape != (() if name in self.numbers else param.shape):
                raise ValueError(
                    f"the loaded {name!r} of parameter {place} has shape {tuple(tensor.shape)}, "
                    f"but the parameter {tuple(param.shape)}; it belongs to another model."
                )
            state[name] = tensor.detach().clone()
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take the attributes of a copy or a pickle; subclasses written for PyTorch call it."""
        vars(self).update(state)

    def __repr__(self) -> str:
        lines = [f"{type(self).__name__} ("]
        for i, group in enumerate(self.param_groups):
            lines.append(f"Parameter Group {i}")
            lines += [f"    {key}: {group[key]}" for key in sorted(group) if key != "params"]
            lines.append("")
        return "\n".join([*lines[:-1], ")"])


def overwrite(arrays: Iterable[Any], results: Iterable[Any]) -> None:
    """Write the results of a definition into `arrays`; None is skipped."""
    for array, result in zip(arrays, results, strict=True):
        if array is not None:
            array[...] = result


def _step_count(value: Any, place: Any) -> Tensor:
    """A saved step count (a number or a tensor of one) as a 0-d tensor."""
    step = float(value)
    if not 0.0 <= step < math.inf:
        raise ValueError(f"the loaded 'step' of parameter {place} is {step}; expected a finite number of at least 0.")
    return as_tensor(step, dtype=float32, device="cpu")
