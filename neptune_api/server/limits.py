"""Every limit the server enforces, in one place; ConfigService.GetServerInfo publishes them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from neptune_api import options

if TYPE_CHECKING:
    from neptune_api.v1.config_service_pb2 import Limits

MAX_REQUEST_BYTES: Final = 32 * 1024 * 1024
MAX_OPERATION_BYTES: Final = 16 * 1024 * 1024
MAX_RUN_ID_BYTES: Final = 730
MAX_EXPERIMENT_NAME_BYTES: Final = 730
MAX_ATTRIBUTE_PATH_BYTES: Final = 1024
MAX_STRING_BYTES: Final = 1024 * 1024
MAX_STRING_SET_BYTES: Final = 1024 * 1024
MAX_FILE_REF_BYTES: Final = 4096
MAX_FILE_PATH_BYTES: Final = 4096
MAX_FILES_TO_SIGN: Final = 1_000
MAX_HISTOGRAM_EDGES: Final = 513
MICROS_PER_STEP: Final = 1_000_000
MAX_WHOLE_STEP: Final = 1_000_000_000_000
MIN_DATETIME_MS: Final = -2_208_988_800_000  # 1900-01-01T00:00:00Z
MAX_DATETIME_MS: Final = 10_413_791_999_999  # 2299-12-31T23:59:59.999Z
MAX_STATUS_IDS: Final = 10_000
MAX_DETAIL_IDS: Final = 1_000
MAX_PROJECT_NAME_BYTES: Final = 128
MAX_PROJECT_KEY_LENGTH: Final = 10
MAX_PROJECT_DESCRIPTION_BYTES: Final = 4096
MAX_BULK_RUNS: Final = 10_000
MAX_PAGE_SIZE: Final = 10_000
MAX_POINTS_PER_SERIES: Final = 1_000_000
MAX_FLOAT_SERIES_PER_QUERY: Final = 20_000
MAX_SERIES_QUERY_PATH_BYTES: Final = 2_048_000
MAX_USERNAME_BYTES: Final = 64
MAX_USERS_PER_LISTING: Final = 1_000
MAX_TOKEN_BYTES: Final = 4096
MAX_EMAIL_BYTES: Final = 254
MAX_PERSON_NAME_BYTES: Final = 128
MAX_AVATAR_URL_BYTES: Final = 2048
MAX_DISPLAY_CLASS_BYTES: Final = 128
MAX_IDEMPOTENCY_KEY_BYTES: Final = 128
MAX_BATCH_ID_BYTES: Final = 128
MAX_COLUMN_SERIES: Final = 100_000
MAX_POINTS_PER_ANSWER: Final = 5_000_000
MAX_SERIES_ANSWER_BYTES: Final = 16 * 1024 * 1024
MAX_VALUES_PAGE_BYTES: Final = 16 * 1024 * 1024
MAX_BUCKETS: Final = 1_001
MAX_BUCKET_SERIES: Final = 1_000
MAX_QUERY_BYTES: Final = 4 * 1024 * 1024
MAX_QUERY_DEPTH: Final = 100_000
MAX_SEARCH_ANSWER_BYTES: Final = 256 * 1024 * 1024
MAX_METADATA_BYTES: Final = options.MAX_METADATA_BYTES
MAX_STREAMS: Final = 256
MAX_HTTP_CONNECTIONS: Final = 1_000
MAX_HTTP_TARGET_BYTES: Final = 65_535
MAX_HTTP_HEADERS_BYTES: Final = 64 * 1024
MAX_HTTP_HEADERS: Final = 128
MAX_MIME_TYPE_BYTES: Final = 512
MAX_SIGNED_URL_SECONDS: Final = 7 * 24 * 3600
REQUEST_STATUS_RETENTION_SECONDS: Final = 7 * 24 * 3600


def enforced_limits() -> Limits:
    """Return every limit, as ConfigService.GetServerInfo tells them."""
    from neptune_api.v1.config_service_pb2 import Limits

    derived: dict[str, Any] = {
        "max_step": MAX_WHOLE_STEP,
        "step_resolution": 1 / MICROS_PER_STEP,
        "min_datetime_millis": MIN_DATETIME_MS,
        "max_datetime_millis": MAX_DATETIME_MS,
    }
    names = {field.name for field in Limits.DESCRIPTOR.fields} - derived.keys()
    return Limits(**{name: globals()[name.upper()] for name in names}, **derived)
