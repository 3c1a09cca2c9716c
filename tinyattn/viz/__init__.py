"""Pictures: computation graphs, training runs and attention.

Figures need matplotlib, and SVG, PNG and PDF of graphs need graphviz: pip install "tinyattn[viz]".
"""

from tinyattn.viz.graphs import Graph, graph
from tinyattn.viz.hand import by_hand
from tinyattn.viz.maps.attention import AttentionMaps, attention
from tinyattn.viz.maps.figures import attention_figure
from tinyattn.viz.maps.record import AttentionLayer
from tinyattn.viz.mistakes import confusion_figure, confusion_matrix, mistakes_figure, worst_mistakes
from tinyattn.viz.page import Page
from tinyattn.viz.play import playground
from tinyattn.viz.training import Live, curves_figure, layers_figure

__all__ = [
    "AttentionLayer", "AttentionMaps", "Graph", "Live", "Page", "attention", "attention_figure", "by_hand",
    "confusion_figure", "confusion_matrix", "curves_figure", "graph", "layers_figure", "mistakes_figure", "playground",
    "worst_mistakes",
]  # fmt: skip
