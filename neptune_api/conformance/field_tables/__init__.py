"""The fields of every request, by RPC: see neptune_api.conformance.fields."""

from __future__ import annotations

from neptune_api.conformance.field_tables.managing import MANAGING
from neptune_api.conformance.field_tables.reading import READING
from neptune_api.conformance.field_tables.writing import COLUMNS, OPERATIONS, WRITING

REQUESTS = {
    **{rpc: (request,) for rpc, request in {**READING, **WRITING, **MANAGING}.items()},
    "IngestService.Submit": OPERATIONS,
    "IngestService.SubmitStream": OPERATIONS,
    "IngestService.SubmitAcknowledged": OPERATIONS,
    "SeriesService.AppendColumns": (COLUMNS,),
    "SeriesService.AppendColumnsStream": (COLUMNS,),
}
"""RPC -> requests, whose fields together are all that its request message has."""

NO_FIELDS = frozenset({"AuthService.RevokeApiToken"})
"""RPCs whose requests have no fields, and which are not called for that reason alone."""
