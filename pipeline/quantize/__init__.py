"""Command ``quantize``: the exported network with 8-bit integers."""
