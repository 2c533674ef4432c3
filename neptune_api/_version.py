"""The version of the package, written here and nowhere else."""

from __future__ import annotations

__version__ = "1.0.0.dev0"
