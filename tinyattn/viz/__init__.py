"""Pictures: how training went, and where attention looks. Needs matplotlib: pip install "tinyattn[viz]"."""

from tinyattn.viz.attention_figures import attention_figure
from tinyattn.viz.attention_maps import AttentionMaps, attention
from tinyattn.viz.attention_record import AttentionLayer
from tinyattn.viz.curves import curves_figure

__all__ = ["AttentionLayer", "AttentionMaps", "attention", "attention_figure", "curves_figure"]
