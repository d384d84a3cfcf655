"""A laboratory for MobileNets in JAX: models, fast depthwise convolution, trustworthy ablations."""

__version__ = "0.1.0"
