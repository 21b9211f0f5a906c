"""pmoves-mesh: hosts and services that find and trust each other, with no hard-coded address."""

__version__ = "0.1.0"
