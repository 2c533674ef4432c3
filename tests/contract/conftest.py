"""Behaviours that only a server of this project can show run where the others do, over every wire and every store."""

from __future__ import annotations

from neptune_api.conformance.fixtures import *  # noqa: F403 # fixtures and hooks
