from __future__ import annotations

import math

import pytest
from google.protobuf.timestamp_pb2 import Timestamp
from google.rpc import code_pb2
from hypothesis import given
from hypothesis import strategies as st

from neptune_api.conformance.operations import counts, densities, file, value
from neptune_api.server.store import rules
from neptune_api.v1 import ingest_pb2 as pb

MIB = 1024 * 1024
# Never given, so without a sentence; the reasons are in the behaviours in test_ingest_codes.py.
SILENT = {
    pb.INGEST_CODE_OK,
    pb.INGEST_CODE_BATCH_CONTAINS_DEPENDENT_RUNS,
    pb.INGEST_CODE_FLOAT_VALUE_NAN_INF_UNSUPPORTED,
}


def test_every_refusal_has_a_sentence() -> None:
    assert set(rules.SENTENCES) == set(pb.IngestCode.values()) - SILENT
    for sentence in rules.SENTENCES.values():
        assert sentence[0].isupper() or sentence.startswith("assign takes")
        assert sentence.endswith(".")


def test_no_refusal_looks_like_a_pending_request() -> None:
    for code in rules.SENTENCES:
        assert rules.grpc_code(code) not in {code_pb2.OK, code_pb2.UNAVAILABLE}
    assert rules.grpc_code(pb.INGEST_CODE_OK) == code_pb2.OK


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("a", pb.INGEST_CODE_OK),
        (" ", pb.INGEST_CODE_OK),
        ("sys", pb.INGEST_CODE_OK),
        ("system/id", pb.INGEST_CODE_OK),
        ("a" * 1024, pb.INGEST_CODE_OK),
        ("ł" * 512, pb.INGEST_CODE_OK),
        ("🔥" * 256, pb.INGEST_CODE_OK),
        ("sys/tags", pb.INGEST_CODE_OK),
        ("sys/group_tags", pb.INGEST_CODE_OK),
        ("sys/description", pb.INGEST_CODE_OK),
        ("sys/failed", pb.INGEST_CODE_OK),
        ("", pb.INGEST_CODE_FIELD_PATH_EMPTY),
        ("a" * 1025, pb.INGEST_CODE_FIELD_PATH_EXCEEDS_SIZE_LIMIT),
        ("ł" * 512 + "a", pb.INGEST_CODE_FIELD_PATH_EXCEEDS_SIZE_LIMIT),
        ("🔥" * 256 + "a", pb.INGEST_CODE_FIELD_PATH_EXCEEDS_SIZE_LIMIT),
        ("a\0b", pb.INGEST_CODE_FIELD_PATH_INVALID),
        ("sys/id", pb.INGEST_CODE_FIELD_PATH_NON_WRITABLE),
        ("sys/", pb.INGEST_CODE_FIELD_PATH_NON_WRITABLE),
        ("sys/tags/x", pb.INGEST_CODE_FIELD_PATH_NON_WRITABLE),
    ],
)
def test_path(path: str, code: int) -> None:
    assert rules.path_fault(path) == code


@pytest.mark.parametrize(
    ("item", "code"),
    [
        (value("x" * MIB), pb.INGEST_CODE_OK),
        (value("x" * (MIB + 1)), pb.INGEST_CODE_STRING_VALUE_EXCEEDS_SIZE_LIMIT),
        (value("ł" * (MIB // 2)), pb.INGEST_CODE_OK),
        (value("ł" * (MIB // 2) + "x"), pb.INGEST_CODE_STRING_VALUE_EXCEEDS_SIZE_LIMIT),
        (value(frozenset({"x" * (MIB - 1), "y"})), pb.INGEST_CODE_OK),
        (value(frozenset({"x" * (MIB - 1), "ł"})), pb.INGEST_CODE_STRING_SET_EXCEEDS_SIZE_LIMIT),
        (pb.Value(string_set=pb.StringSet(values=["x" * MIB] * 2)), pb.INGEST_CODE_OK),
        (value(file("p" * 4086)), pb.INGEST_CODE_OK),
        (value(file("p" * 4087)), pb.INGEST_CODE_FILE_REF_EXCEEDS_SIZE_LIMIT),
        (value(Timestamp(seconds=-2_208_988_800)), pb.INGEST_CODE_OK),
        (
            value(Timestamp(seconds=-2_208_988_801, nanos=999_000_000)),
            pb.INGEST_CODE_DATETIME_VALUE_OUT_OF_RANGE,
        ),
        (value(Timestamp(seconds=10_413_791_999, nanos=999_000_000)), pb.INGEST_CODE_OK),
        (value(Timestamp(seconds=10_413_792_000)), pb.INGEST_CODE_DATETIME_VALUE_OUT_OF_RANGE),
        (value(Timestamp(seconds=2**62)), pb.INGEST_CODE_DATETIME_VALUE_OUT_OF_RANGE),
        (value(Timestamp(seconds=-(2**62))), pb.INGEST_CODE_DATETIME_VALUE_OUT_OF_RANGE),
        (value(math.nan), pb.INGEST_CODE_OK),
        (value(-math.inf), pb.INGEST_CODE_OK),
        (value(2**63 - 1), pb.INGEST_CODE_OK),
        (value(""), pb.INGEST_CODE_OK),
    ],
)
def test_value(item: pb.Value, code: int) -> None:
    assert rules.value_fault(item.WhichOneof("value") or "", item) == code


@pytest.mark.parametrize(
    ("histogram", "code"),
    [
        (counts([0, 1], [3]), pb.INGEST_CODE_OK),
        (densities([0, 1], [math.nan]), pb.INGEST_CODE_OK),
        (counts([-math.inf, 0, math.inf], [1, 2**64 - 1]), pb.INGEST_CODE_OK),
        (counts([0], []), pb.INGEST_CODE_OK),
        (counts(range(513), [1] * 512), pb.INGEST_CODE_OK),
        (counts(range(514), [1] * 513), pb.INGEST_CODE_HISTOGRAM_TOO_MANY_BINS),
        (counts([0, math.nan], [1]), pb.INGEST_CODE_HISTOGRAM_BIN_EDGES_CONTAINS_NAN),
        (counts([0, 0], [1]), pb.INGEST_CODE_HISTOGRAM_BIN_EDGES_NOT_INCREASING),
        (counts([1, 0], [1]), pb.INGEST_CODE_HISTOGRAM_BIN_EDGES_NOT_INCREASING),
        (counts([0, 1, 2], [1]), pb.INGEST_CODE_HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS),
        (densities([0, 1], [1, 2]), pb.INGEST_CODE_HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS),
        (pb.Histogram(bin_edges=[0, 1]), pb.INGEST_CODE_HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS),
        (pb.Histogram(), pb.INGEST_CODE_HISTOGRAM_VALUES_LENGTH_DOESNT_MATCH_BINS),
    ],
)
def test_histogram(histogram: pb.Histogram, code: int) -> None:
    assert rules.value_fault("histogram", value(histogram)) == code


@pytest.mark.parametrize(
    ("whole", "micro", "code"),
    [
        (0, 0, pb.INGEST_CODE_OK),
        (10**12 - 1, 999_999, pb.INGEST_CODE_OK),
        (10**12, 0, pb.INGEST_CODE_SERIES_STEP_TOO_LARGE),
        (2**64 - 1, 0, pb.INGEST_CODE_SERIES_STEP_TOO_LARGE),
        (0, 1_000_000, pb.INGEST_CODE_SERIES_STEP_INVALID),
        (2**64 - 1, 2**64 - 1, pb.INGEST_CODE_SERIES_STEP_INVALID),
    ],
)
def test_step(whole: int, micro: int, code: int) -> None:
    assert rules.step_fault(pb.Step(whole=whole, micro=micro)) == code


@pytest.mark.parametrize(
    ("seconds", "nanos", "milliseconds"),
    [
        (0, 0, 0),
        (1, 678_900_957, 1679),
        (1, 678_999_957, 1679),
        (1, 499_999, 1000),
        (1, 500_001, 1001),
        (1, 999_999_999, 2000),
        (-1, 250_000_000, -750),
        (-1, 0, -1000),
    ],
)
def test_timestamps_are_rounded(seconds: int, nanos: int, milliseconds: int) -> None:
    assert rules.timestamp_ms(Timestamp(seconds=seconds, nanos=nanos)) == milliseconds


@given(st.integers(0, 10**12), st.integers(-250, 250))
def test_rounding_forgives_the_noise_of_floats(milliseconds: int, noise: int) -> None:
    nanoseconds = max(0, milliseconds * 1_000_000 + noise)
    assert rules.timestamp_ms(Timestamp(seconds=nanoseconds // 10**9, nanos=nanoseconds % 10**9)) == milliseconds


@pytest.mark.parametrize(
    ("given_ratio", "ratio"),
    [
        (0.25, 0.25),
        (0.0, 0.0),
        (1.0, 1.0),
        (1.5, 1.0),
        (-0.5, 0.0),
        (math.inf, 1.0),
        (-math.inf, 0.0),
        (math.nan, 0.0),
        (None, 0.0),
    ],
)
def test_completion_ratio(given_ratio: float | None, ratio: float) -> None:
    message = pb.Preview(is_preview=True)
    if given_ratio is not None:
        message.completion_ratio = given_ratio
    assert rules.completion_ratio(message) == ratio


@given(st.sets(st.text()))
def test_sets_come_back_sorted(members: set[str]) -> None:
    assert rules.decode_set(rules.encode_set(members)) == sorted(members)
