"""The base of the algorithms: options with their defaults, the state of a parameter, and one formula."""

from __future__ import annotations

from typing import Any, ClassVar

from tinyattn import backends
from tinyattn.dtypes import float32, float64, get_default_dtype
from tinyattn.engine.modes import definitions_enabled
from tinyattn.engine.opmath import opmath_dtype, widened
from tinyattn.ops import creation
from tinyattn.optim.checks import check_betas, check_number
from tinyattn.optim.optimizer import Group, Optimizer, State, overwrite
from tinyattn.tensors import Tensor


class Formula(Optimizer):
    """An optimizer that is one formula. The arguments of its constructor are the options of a parameter group.

    kept: the names of the state beside the step, each with the option that must be above 0 for it, or "".
    numbers: those that are one number each. first: initial values other than 0; a string names an option.
    fixed: options that users cannot set. apart: options that the formula does not take. kernel: the function of the
    backend that computes the formula in place.
    """

    kept: ClassVar[dict[str, str]]
    first: ClassVar[dict[str, Any]] = {}
    fixed: ClassVar[Group] = {}
    apart: ClassVar[tuple[str, ...]] = ()
    kernel: ClassVar[str] = ""

    def _set_up(self, arguments: Group) -> None:
        """Begin with the arguments of a constructor, its `locals()`."""
        options = {k: v for k, v in arguments.items() if k not in ("self", "params", "without_effect")}
        if isinstance(options.get("betas"), list):
            options["betas"] = tuple(options["betas"])
        super().__init__(arguments["params"], {**options, **self.fixed}, **arguments["without_effect"])

    def check(self, options: Group) -> None:
        super().check(options)
        for name, default in self.defaults.items():
            if name == "betas":
                check_betas(options)
            elif not isinstance(default, bool):
                check_number(options, name, least=float("-inf") if name == "dampening" else 0.0)

    def state_names(self, group: Group) -> tuple[str, ...]:
        return ("step", *[name for name, needs in self.kept.items() if not needs or group[needs] > 0])

    def formula(self, param: Any, grad: Any, *state_and_step: Any, **options: Any) -> tuple[Any, ...]:
        """Compute the new parameter and state, in the order of `kept`; None for what the options leave out."""
        raise NotImplementedError

    def update(self, param: Tensor, grad: Any, state: State, group: Group) -> None:
        arrays = self._arrays(param, state, group)
        xp, options = backends.of(arrays[0]), self._options(group, arrays[0])
        step = xp.counted(state["step"].array)
        if self.kernel and not definitions_enabled():
            getattr(xp, self.kernel)(arrays[0], grad, *arrays[1:], step, **options)
            return
        with xp.quiet():
            p, *kept = arrays
            overwrite(arrays, self.formula(*widened((p, grad, *kept, step)), **options))

    def _arrays(self, param: Tensor, state: State, group: Group) -> tuple[Any, ...]:
        """The parameter and its state in the order of `kept`, None for what the options leave out."""
        names = self._fill(param, state, group)
        return (param.array, *[state[name].array if name in names else None for name in self.kept])

    def _fill(self, param: Tensor, state: State, group: Group) -> tuple[str, ...]:
        """Make the entries that a parameter's state lacks, and return the names of all."""
        names = self.state_names(group)
        for name in names:
            if name not in state:
                shape: Any = param.shape
                dtype = opmath_dtype(param.dtype)  # in float16, squares would overflow
                if name == "step":
                    shape, dtype = (), float32
                elif name in self.numbers:  # in PyTorch's dtype
                    shape, dtype = (), float64 if get_default_dtype() == float64 else float32
                value = self.first.get(name, 0.0)
                value = group[value] if isinstance(value, str) else value
                state[name] = creation.full(shape, value, dtype=dtype, device=param.device)
        return names

    def _options(self, group: Group, array: Any) -> dict[str, Any]:
        """The options of a group under the names of the formula, for arrays of the kind of `array`."""
        options = {name: group[name] for name in self.defaults if name not in self.apart}
        return {**options, "lr": backends.of(array).live(group, "lr")}
