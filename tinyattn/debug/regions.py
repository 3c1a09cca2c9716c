"""Which elements of an array depend on a parameter, followed through what only moves or maps elements."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from tinyattn import backends
from tinyattn.engine.node import Node, SavedValues

MOVING = frozenset("cat stack pad getitem reshape permute broadcast_to flip roll tril triu clone alias cast".split())
MAPPING = frozenset(
    """add sub mul div neg abs sign exp expm1 log log1p sqrt rsqrt reciprocal square sin cos tanh erf sigmoid relu gelu
    silu softplus logsigmoid pow clamp maximum minimum where masked_fill dropout""".split()
)
IN_ROWS = frozenset("softmax log_softmax layer_norm linear linear_gelu".split())  # of the last axis, or nearly always


def image(node: Node, region: Any, edge: Node) -> Any:
    """The elements of `node`'s output that depend on `region`, a mask over its input `edge`; None if unknown."""
    assert node.op is not None
    name, xp = node.op.name, backends.of(region)
    if name in MOVING:
        shapes = (node.saved or SavedValues()).get("xs_shapes") or [edge.shape]
        masks = [
            region if source is edge else xp.zeros(shape, bool)
            for source, shape in zip(node.edges, shapes, strict=False)
        ]
        return node.op.forward(xp, *masks, **node.options) != 0
    if name in MAPPING:
        return xp.broadcast_to(region, node.shape)
    if name in IN_ROWS:
        return xp.broadcast_to(region.any(-1, keepdims=True), node.shape)
    return None


def where_it_ends(node: Node, edge: Node, consumers: Mapping[Node, list[Node]], gradients: Mapping[Node, Any]) -> Node:
    """The operation that passes nothing to those elements of `node`'s output that depend on its input
    `edge`, though its own gradient is not zero: the first one from the loss, or `node` if none is found.

    consumers: for each node, those that took its output, newest first; gradients: of their outputs.
    """
    region = image(node, backends.of(gradients[node]).full(edge.shape, True, bool), edge)
    while region is not None and not bool((gradients[node][region] != 0).any()):
        user = next(iter(consumers.get(node, ())), None)
        if user is None:
            break
        region, node = image(user, region, node), user
        if region is not None and not bool(region.any()):
            break  # takes none of them
    return node
