"""Figures of the results of `mnet_jax.analysis`: functions from arrays to Matplotlib figures.

Each figure has a caption that explains it and names the related figure or section of the papers.
`mnet_jax.drawing.to_png` makes a file from it.
"""
