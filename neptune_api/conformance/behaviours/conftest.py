"""Where the behaviours run: see neptune_api.conformance.fixtures."""

from __future__ import annotations

from neptune_api.conformance.fixtures import *  # noqa: F403 # fixtures and hooks
