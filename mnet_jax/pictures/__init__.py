"""Pictures of what `mnet_jax.analysis` measures: arrays in, a Matplotlib figure out.

Each has a caption that says what is seen and which figure of the papers it belongs to; `to_png` of
`mnet_jax.drawing` makes a file of it.
"""
