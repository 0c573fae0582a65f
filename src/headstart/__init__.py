"""headstart: the best honest classifier from a pretrained network and a small labelled set."""

from __future__ import annotations

__version__ = "0.1.0"
