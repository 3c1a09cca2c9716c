"""Pictures: how training went, and where attention looks. Needs matplotlib: pip install "tinyattn[viz]"."""

from tinyattn.viz.attention import attention_figure
from tinyattn.viz.curves import curves_figure

__all__ = ["attention_figure", "curves_figure"]
