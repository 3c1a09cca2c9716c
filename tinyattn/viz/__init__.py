"""Pictures: computation graphs, how training went, and where attention looks.

Drawing needs packages, and says which: pip install "tinyattn[viz]".
"""

from tinyattn.viz.attention_figures import attention_figure
from tinyattn.viz.attention_maps import AttentionMaps, attention
from tinyattn.viz.attention_record import AttentionLayer
from tinyattn.viz.curves import curves_figure
from tinyattn.viz.graphs import Graph, graph

__all__ = ["AttentionLayer", "AttentionMaps", "Graph", "attention", "attention_figure", "curves_figure", "graph"]
