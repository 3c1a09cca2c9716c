"""What only models that were written for PyTorch need: `tinyattn.as_torch` gives it PyTorch's names."""
