"""bnorm: darknet model files, their batch normalisation, and what is wrong with them."""

__version__ = "0.1.0"
