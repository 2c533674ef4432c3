"""What goes wrong in a store through no fault of the request: in one sentence, what happened and what to do."""

from __future__ import annotations


class StoreError(Exception):
    """Report in one sentence why a store cannot be opened; the command line prints it and exits with 2."""


class DatabaseFaultError(Exception):
    """Report that the database, not the operation, is at fault: nothing was changed, and later it may work."""


class DiskFullError(DatabaseFaultError):
    """Report that there is no room left for what was to be written."""


class UnavailableError(DatabaseFaultError):
    """Report that the database does not answer, or takes no writes now."""


class StoreClosedError(Exception):
    """Report that the store no longer accepts operations."""


class CorruptChunkError(Exception):
    """Report that the bytes of a chunk are not what was written."""
