"""Recurrent layers over a whole sequence: one node for all steps of an RNN, an LSTM or a GRU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tinyattn.engine.operation import operation


def _order(steps: int, reverse: bool) -> range:
    return range(steps - 1, -1, -1) if reverse else range(steps)


def _cell(xp: Any, kind: str, x: Any, hidden: Any, h: Any, c: Any) -> tuple[Any, Any]:
    """Return the next (h, c) of one step, from the input's and the state's products (batch, gates * size)."""
    size = h.shape[-1]
    if kind in ("tanh", "relu"):
        return (xp.tanh if kind == "tanh" else xp.relu)(x + hidden), c
    parts = [slice(i * size, (i + 1) * size) for i in range(x.shape[-1] // size)]
    if kind == "gru":
        r, z = (xp.sigmoid(x[:, part] + hidden[:, part]) for part in parts[:2])
        n = xp.tanh(x[:, parts[2]] + r * hidden[:, parts[2]])
        return n + z * (h - n), c
    total = x + hidden
    i, f, o = (xp.sigmoid(total[:, parts[k]]) for k in (0, 1, 3))
    c = f * c + i * xp.tanh(total[:, parts[2]])
    return o * xp.tanh(c), c


def _definition(
    xp: Any, x: Any, weight: Any, bias: Any, h: Any, c: Any, alive: Any, *, kind: str, reverse: bool
) -> Any:  # fmt: skip
    steps = x.shape[0]
    hs, cs = [h] * steps, [c] * steps
    for t in _order(steps, reverse):
        hidden = xp.matmul(h, weight.mT)
        new: Any = _cell(xp, kind, x[t], hidden if bias is None else hidden + bias, h, c)
        if alive is not None:  # the state of a sequence that has ended, or not begun, stays
            new = [a if a is None else xp.where(alive[t], a, b) for a, b in zip(new, (h, c), strict=True)]
        h, c = hs[t], cs[t] = new
    return xp.stack([xp.stack(hs)] if c is None else [xp.stack(hs), xp.stack(cs)])


def _forward(
    xp: Any, x: Any, weight: Any, bias: Any, h: Any, c: Any, alive: Any, *, kind: str, reverse: bool
) -> tuple[Any, Any]:  # fmt: skip
    """Return the states and the gates (steps, parts, batch, size) that the backward pass needs."""
    (steps, batch, _), size = x.shape, h.shape[-1]
    states = xp.empty((1 if c is None else 2, steps, batch, size), x.dtype)
    gates = xp.empty((steps, {"gru": 4, "lstm": 5}.get(kind, 1), batch, size), x.dtype)
    step: Callable[..., Any] = _STEPS.get(kind, _plain_step)
    across = weight.mT.copy()  # contiguous: each step's product takes two thirds of the time
    for t in _order(steps, reverse):
        hidden = xp.matmul(h, across)
        if bias is not None:
            hidden += bias
        old = h, c
        h, c = step(xp, kind, x[t], hidden, h, c, gates[t])
        if alive is not None:
            h, c = (a if a is None else xp.where(alive[t], a, b) for a, b in zip((h, c), old, strict=True))
        states[0, t] = h
        if c is not None:
            states[1, t] = c
    return states, gates


def _squash(xp: Any, x: Any) -> None:
    """Write sigmoid(x) over x; where e ** -x overflows, 1 / (1 + infinity) is 0."""
    x *= -1
    x[...] = xp.exp(x)  # takes half the time of tanh
    x += 1
    x[...] = 1 / x


def _plain_step(xp: Any, kind: str, x: Any, hidden: Any, h: Any, c: Any, gates: Any) -> tuple[Any, Any]:
    hidden += x
    gates[0] = xp.tanh(hidden) if kind == "tanh" else xp.relu(hidden)
    return gates[0], c


def _gru_step(xp: Any, kind: str, x: Any, hidden: Any, h: Any, c: Any, gates: Any) -> tuple[Any, Any]:
    size = h.shape[-1]
    both = x[:, : 2 * size] + hidden[:, : 2 * size]
    _squash(xp, both)
    r, z = both[:, :size], both[:, size:]
    gates[0], gates[1], gates[3] = r, z, hidden[:, 2 * size :]
    n = r * hidden[:, 2 * size :]
    n += x[:, 2 * size :]
    n = xp.tanh(n)
    gates[2] = n
    return n + z * (h - n), c


def _lstm_step(xp: Any, kind: str, x: Any, hidden: Any, h: Any, c: Any, gates: Any) -> tuple[Any, Any]:
    size = h.shape[-1]
    hidden += x
    gates[:4] = xp.permute(hidden.reshape(-1, 4, size), (1, 0, 2))
    gates[2] = xp.tanh(gates[2])
    _squash(xp, gates[:2])
    _squash(xp, gates[3])
    c = gates[1] * c
    c += gates[0] * gates[2]
    gates[4] = xp.tanh(c)
    return gates[3] * gates[4], c


_STEPS: dict[str, Callable[..., tuple[Any, Any]]] = {"gru": _gru_step, "lstm": _lstm_step}


def _step_back(kind: str, gates: Any, h: Any, c: Any, dh: Any, dc: Any, d: Any, dx: Any) -> tuple[Any, Any]:
    """Write the gradients of a step's products, (batch, gates, size), to d and dx; return those of h (direct) and c."""
    if kind in ("tanh", "relu"):
        d[:, 0] = dh * (1 - gates[0] * gates[0]) if kind == "tanh" else dh * (gates[0] > 0)
        return 0, dc
    if kind == "gru":
        r, z, n, hidden = gates
        dn = dh * (1 - z) * (1 - n * n)
        d[:, 0] = dx[:, 0] = dn * hidden * r * (1 - r)
        d[:, 1] = dx[:, 1] = dh * (h - n) * z * (1 - z)
        d[:, 2], dx[:, 2] = dn * r, dn
        return dh * z, dc
    i, f, g, o, top = gates
    dc = dc + dh * o * (1 - top * top)
    d[:, 0] = dc * g * i * (1 - i)
    d[:, 1] = dc * c * f * (1 - f)
    d[:, 2] = dc * i * (1 - g * g)
    d[:, 3] = dh * top * o * (1 - o)
    return 0, dc * f


def _backward(
    xp: Any, g: Any, x: Any, weight: Any, h: Any, c: Any, alive: Any, out: Any, gates: Any, kind: Any, reverse: Any,
    needed: Any,
) -> Any:  # fmt: skip
    (steps, batch, size), order = out.shape[1:], _order(steps=out.shape[1], reverse=reverse)
    starts = [state[None] for state in (h, c) if state is not None]
    previous = [xp.cat([s[1:], start] if reverse else [start, s[:-1]], 0) for s, start in zip(out, starts, strict=True)]
    d = xp.empty((steps, batch, x.shape[-1] // size, size), g.dtype)
    dx = xp.empty(d.shape, g.dtype) if kind == "gru" else d
    dh = xp.zeros(h.shape, g.dtype)
    dc = None if c is None else dh
    for t in reversed(order):
        dh = dh + g[0, t]
        dc = None if dc is None else dc + g[1, t]
        was_h, was_c = previous[0][t], previous[-1][t]
        seen_h, seen_c = (s if s is None or alive is None else s * alive[t] for s in (dh, dc))
        direct, before = _step_back(kind, gates[t], was_h, was_c, seen_h, seen_c, d[t], dx[t])
        if alive is not None:  # what was not used in this step belongs to the state before
            direct = direct + (dh - seen_h)
            before = None if dc is None else before + (dc - seen_c)
        dh, dc = xp.matmul(d[t].reshape(batch, -1), weight) + direct, before
    rows = d.reshape(steps * batch, -1)
    d_weight = xp.matmul(rows.mT, previous[0].reshape(steps * batch, size)) if needed[1] else None
    return dx.reshape(x.shape), d_weight, xp.sum(rows, 0) if needed[2] else None, dh, dc, None


@operation(traits="multiplies saturates", definition=_definition, extras=("gates",), backward=_backward)
def recurrent(
    xp: Any, x: Any, weight: Any, bias: Any, h: Any, c: Any, alive: Any, *, kind: str, reverse: bool
) -> Any:  # fmt: skip
    """Run a recurrence over x (steps, batch, gates * size), the inputs' products; return (1 or 2, steps, batch, size).

    weight (gates * size, size) and bias multiply the state h (batch, size); the result holds h after every step and,
    for kind="lstm", c. alive (steps, batch, 1): where False the state stays as it is. Elman 1990; Hochreiter and
    Schmidhuber 1997; Cho et al. 2014.
    """
    return _forward(xp, x, weight, bias, h, c, alive, kind=kind, reverse=reverse)


def projected_lstm(
    xp: Any, x: Any, weight: Any, project: Any, h: Any, c: Any, alive: Any, reverse: bool
) -> list[Any]:  # fmt: skip
    """Run an LSTM over x (steps, batch, 4 * size) whose h is a product of `project` (fewer, size); return h and c.

    Arguments as of `recurrent`, but weight (4 * size, fewer) and h (batch, fewer). Sak et al. 2014.
    """
    hs, cs = [h] * x.shape[0], [c] * x.shape[0]
    for t in _order(x.shape[0], reverse):
        out, cell = _cell(xp, "lstm", x[t], xp.matmul(h, weight.mT), c, c)
        new = [xp.matmul(out, project.mT), cell]
        if alive is not None:
            new = [xp.where(alive[t], a, b) for a, b in zip(new, (h, c), strict=True)]
        h, c = hs[t], cs[t] = new
    return [xp.stack(hs), xp.stack(cs)]
