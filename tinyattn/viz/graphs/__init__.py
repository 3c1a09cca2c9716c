"""Computation graphs: recorded, folded, drawn, and walked through step by step."""

from tinyattn.viz.graphs.drawing import Graph, graph

__all__ = ["Graph", "graph"]
