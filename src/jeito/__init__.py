"""jeito gives a local language model a way of behaving, and proves that it behaves so."""

__version__ = "0.1.0"
