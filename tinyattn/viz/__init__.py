"""Pictures: computation graphs, how training went, and where attention looks.

Drawing needs packages, and says which: pip install "tinyattn[viz]".
"""

from tinyattn.viz.attention_figures import attention_figure
from tinyattn.viz.attention_maps import AttentionMaps, attention
from tinyattn.viz.attention_record import AttentionLayer
from tinyattn.viz.confusion import confusion_figure, confusion_matrix
from tinyattn.viz.curves import curves_figure
from tinyattn.viz.graphs import Graph, graph
from tinyattn.viz.layers import layers_figure
from tinyattn.viz.live import Live
from tinyattn.viz.mistakes import mistakes_figure, worst_mistakes

__all__ = [
    "AttentionLayer", "AttentionMaps", "Graph", "Live", "attention", "attention_figure", "confusion_figure",
    "confusion_matrix", "curves_figure", "graph", "layers_figure", "mistakes_figure", "worst_mistakes",
]  # fmt: skip
