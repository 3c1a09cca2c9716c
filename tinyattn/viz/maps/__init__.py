"""Attention maps: recorded, followed through the layers, drawn, and shown in a page."""
