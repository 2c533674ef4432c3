from __future__ import annotations

import itertools
import math
import struct
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest
from google.protobuf.message import DecodeError
from hypothesis import example, given, settings
from hypothesis import strategies as st

from neptune_api.conformance.operations import START_MS, file, snapshot, timestamp, value
from neptune_api.server.store import blocks
from neptune_api.server.store.blocks import Block, BlockDecoder
from neptune_api.server.store.rules import step_micros, timestamp_ms
from neptune_api.v1 import ingest_pb2 as pb

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

VARINT, FIXED64, LENGTH, GROUP, END_GROUP, FIXED32 = range(6)
SNAPSHOTS, STEP, TIMESTAMP, ASSIGN, APPEND, PREVIEW, UNKNOWN = 1, 1, 2, 4, 8, 10, 99
DENORMAL = 5e-324


# The wire format, by hand: messages that no library writes.


def varint(number: int) -> bytes:
    parts = bytearray()
    while number > 0x7F:
        parts.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*parts, number])


def field(number: int, content: bytes, wire_type: int = LENGTH) -> bytes:
    length = varint(len(content)) if wire_type == LENGTH else b""
    return varint(number << 3 | wire_type) + length + content


def double(number: float) -> bytes:
    return field(2, field(1, struct.pack("<d", number), FIXED64))


def entry(path: bytes, number: float) -> bytes:
    return field(APPEND, field(1, path) + double(number))


def message(*snapshots: pb.UpdateRunSnapshot) -> bytes:
    return pb.UpdateRunSnapshots(snapshots=snapshots).SerializeToString()


def rows(paths: Sequence[str], count: int, first: int = 0) -> list[pb.UpdateRunSnapshot]:
    """Return snapshots of series in their order, with values that tell series and step."""
    found = []
    for number in range(first, first + count):
        head = snapshot({}, number, START_MS + number).SerializeToString()
        appends = b"".join(entry(path.encode(), number + place / 100) for place, path in enumerate(paths))
        found.append(pb.UpdateRunSnapshot.FromString(head + appends))
    return found


def batch_of(paths: Sequence[str], count: int, first: int = 0) -> bytes:
    """Return the bytes of `rows`, the entries of the map in the order of the paths."""
    parts = []
    for number in range(first, first + count):
        head = snapshot({}, number, START_MS + number).SerializeToString()
        appends = b"".join(entry(path.encode(), number + place / 100) for place, path in enumerate(paths))
        parts.append(field(SNAPSHOTS, head + appends))
    return b"".join(parts)


# What a decoder says, and what protobuf says, in a form that can be compared.

Said = list[tuple[int, int, dict[str, bytes]] | bytes]


def points_of(item: pb.UpdateRunSnapshot) -> tuple[int, int, dict[str, bytes]] | None:
    """Return step, time and values of a snapshot that is nothing but points of floats; None for any other."""
    kinds = {point.WhichOneof("value") for point in item.append.values()}
    appended = pb.UpdateRunSnapshot(step=item.step, timestamp=item.timestamp, append=item.append)
    is_plain = appended.SerializeToString(deterministic=True) == item.SerializeToString(deterministic=True)
    if kinds != {"float64"} or not (item.HasField("step") and item.HasField("timestamp") and is_plain):
        return None
    values = {path: struct.pack("<d", point.float64) for path, point in item.append.items()}
    return step_micros(item.step), timestamp_ms(item.timestamp), values


def said(items: Iterable[Block | pb.UpdateRunSnapshot]) -> Said:
    found: Said = []
    for item in items:
        if isinstance(item, Block):
            assert item.values.shape == (len(item.steps), len(item.layout.paths))
            for at, ms, values in zip(item.steps.tolist(), item.timestamps.tolist(), item.values, strict=True):
                assert len(set(item.layout.paths)) == len(item.layout.paths)
                found.append((at, ms, {p: v.tobytes() for p, v in zip(item.layout.paths, values, strict=True)}))
        else:
            found.append(points_of(item) or item.SerializeToString(deterministic=True))
    return found


def said_by_protobuf(batch: bytes) -> Said | None:
    """Return what protobuf makes of a batch; None when it refuses it."""
    try:
        return said(pb.UpdateRunSnapshots.FromString(batch).snapshots)
    except DecodeError:
        return None


def assert_agrees(decoder: BlockDecoder, batch: bytes) -> None:
    expected = said_by_protobuf(batch)
    if expected is None:
        with pytest.raises(DecodeError):
            list(decoder.decode(batch))
    else:
        assert said(decoder.decode(batch)) == expected


def assert_agrees_or_refuses(decoder: BlockDecoder, batch: bytes) -> None:
    expected = said_by_protobuf(batch)
    try:
        found = said(decoder.decode(batch))
    except DecodeError:
        return
    assert found == expected


# Batches

VALUES = st.floats() | st.sampled_from([0.0, -0.0, math.nan, math.inf, -math.inf, DENORMAL, -DENORMAL])
# The first three have appends of equal length; the others differ.
PATHS = [(b"a", b"bb"), (b"bb", b"a"), (b"aa", b"b"), (b"loss",), (b"m/1", b"m/2", b"m/3"), ("Größe".encode(), b"a")]
STEPS = st.builds(pb.Step, whole=st.integers(0, 40), micro=st.sampled_from([0, 0, 1, 999_999]))
ODD_STEPS = st.builds(pb.Step, whole=st.sampled_from([10**12 - 1, 10**12, 2**64 - 1]), micro=st.integers(0, 2**64 - 1))
TIMES = st.integers(START_MS, START_MS + 5000).map(timestamp)
ODD_TIMES = st.sampled_from([0, -(10**15), 10**15, -1]).map(timestamp)
UNKNOWNS = st.sampled_from(
    [
        field(UNKNOWN, b"\x05", VARINT),
        field(UNKNOWN, b"12345678", FIXED64),
        field(UNKNOWN, b"some bytes"),
        field(UNKNOWN, b"1234", FIXED32),
        # Known numbers of other wire types are unknown fields as well.
        field(APPEND, b"\x05", VARINT),
        field(STEP, b"1234", FIXED32),
    ]
)
ODD_ENTRIES = st.sampled_from(
    [
        field(APPEND, b""),
        field(APPEND, field(1, b"only-key")),
        field(APPEND, double(1.5)),
        field(APPEND, double(2.5) + field(1, b"turned")),
        field(APPEND, field(1, b"first") + field(1, b"a") + double(3.5)),
        field(APPEND, field(1, b"a") + double(1.0) + double(4.5)),
        field(APPEND, field(1, b"a") + field(2, b"")),
        field(APPEND, field(1, b"a") + field(2, field(1, bytes(8), FIXED64) + field(1, b"\0" * 8, FIXED64))),
        field(APPEND, field(1, b"") + double(5.5)),
        field(APPEND, field(1, b"a") + double(6.5) + field(UNKNOWN, b"x")),
        field(APPEND, field(1, b"s") + field(2, pb.Value(string="text").SerializeToString())),
        field(APPEND, field(1, b"i") + field(2, pb.Value(int64=8).SerializeToString())),
        field(APPEND, field(1, b"f") + field(2, value(file("f")).SerializeToString())),
        entry(b"a", 7.5) + entry(b"a", 8.5),
    ]
)


@st.composite
def plain_snapshots(draw: st.DrawFn) -> bytes:
    at, ms = draw(STEPS), draw(TIMES)
    paths = draw(st.sampled_from(PATHS))
    appends = b"".join(entry(path, draw(VALUES)) for path in paths)
    return field(STEP, at.SerializeToString()) + field(TIMESTAMP, ms.SerializeToString()) + appends


@st.composite
def odd_snapshots(draw: st.DrawFn) -> bytes:
    parts = st.one_of(
        (STEPS | ODD_STEPS).map(lambda item: field(STEP, item.SerializeToString())),
        (TIMES | ODD_TIMES).map(lambda item: field(TIMESTAMP, item.SerializeToString())),
        st.tuples(st.sampled_from([b"a", b"bb", b"loss"]), VALUES).map(lambda item: entry(*item)),
        ODD_ENTRIES,
        UNKNOWNS,
        st.just(field(ASSIGN, field(1, b"c") + double(1.0))),
        st.just(field(PREVIEW, pb.Preview(is_preview=True, completion_ratio=0.5).SerializeToString())),
    )
    return b"".join(draw(st.lists(parts, max_size=6)))


@st.composite
def batches(draw: st.DrawFn) -> bytes:
    ordinary = st.sampled_from(PATHS).flatmap(
        lambda paths: st.tuples(st.just([path.decode() for path in paths]), st.integers(1, 4), st.integers(0, 9))
    )
    parts = st.one_of(
        plain_snapshots().map(lambda item: field(SNAPSHOTS, item)),
        ordinary.map(lambda item: batch_of(*item)),
        odd_snapshots().map(lambda item: field(SNAPSHOTS, item)),
        UNKNOWNS.filter(lambda item: item[0] != field(SNAPSHOTS, b"")[0]),
    )
    return b"".join(draw(st.lists(parts, max_size=8)))


@settings(max_examples=300, deadline=None)
@given(st.lists(batches(), max_size=4))
@example([b""])
def test_a_decoder_says_what_protobuf_says(messages: list[bytes]) -> None:
    decoder = BlockDecoder()
    for batch in messages:
        assert_agrees(decoder, batch)


@settings(max_examples=150, deadline=None)
@given(batches(), st.data())
def test_changed_bytes_are_refused_or_are_what_protobuf_reads(batch: bytes, data: st.DataObject) -> None:
    decoder = BlockDecoder()
    list(decoder.decode(batch))
    for _ in range(3):
        changed = bytearray(batch)
        for _ in range(data.draw(st.integers(1, 3))):
            if changed:
                changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
        assert_agrees_or_refuses(decoder, bytes(changed))


@given(st.binary(max_size=60))
def test_any_bytes_are_refused_or_are_what_protobuf_reads(batch: bytes) -> None:
    assert_agrees_or_refuses(BlockDecoder(), batch)
    assert_agrees_or_refuses(BlockDecoder(), field(SNAPSHOTS, batch))


MIXED = b"".join(
    (
        batch_of(["m", "a", "bb"], 3),
        message(snapshot({"text": "x"}, 4, assign={"lr": 0.1})),
        batch_of(["m", "aa", "b"], 2, first=5),
        message(snapshot({"a": math.nan}, 8, preview=0.5), snapshot({"a": 1.0})),
        batch_of(["m", "a", "bb"], 2, first=9),
    )
)


def test_a_batch_cut_off_anywhere_is_refused_or_is_what_protobuf_reads() -> None:
    trained = BlockDecoder()
    list(trained.decode(MIXED))
    ends = 0
    for end in range(len(MIXED)):
        for decoder in (trained, BlockDecoder()):
            assert_agrees(decoder, MIXED[:end])
        ends += said_by_protobuf(MIXED[:end]) is not None
    assert ends == 10  # a batch may end where a snapshot ends


def test_a_snapshot_cut_off_anywhere_is_refused_or_is_what_protobuf_reads() -> None:
    (whole,) = [item.SerializeToString() for item in rows(["a", "bb"], 1)]
    decoder = BlockDecoder()
    list(decoder.decode(field(SNAPSHOTS, whole)))
    for end in range(len(whole)):
        assert_agrees(decoder, field(SNAPSHOTS, whole[:end]))


# Blocks


def test_snapshots_of_the_same_series_are_one_block() -> None:
    decoder = BlockDecoder()
    paths = [f"metrics/{number:03}" for number in range(100)]
    for first in (0, 20):
        (block,) = decoder.decode(batch_of(paths, 20, first))
        assert isinstance(block, Block)
        assert block.layout.paths == tuple(paths)
        assert block.steps.tolist() == [number * 1_000_000 for number in range(first, first + 20)]
        assert block.timestamps.tolist() == [START_MS + number for number in range(first, first + 20)]
        assert block.values.tolist() == [
            [number + place / 100 for place in range(100)] for number in range(first, first + 20)
        ]


def test_blocks_share_the_layout_they_have_in_common() -> None:
    decoder = BlockDecoder()
    found = [list(decoder.decode(batch_of(["a", "b"], 2, first))) for first in (0, 2)]
    layouts = {id(item.layout) for items in found for item in items if isinstance(item, Block)}
    assert len(layouts) == 1


def test_series_of_several_ranks_are_blocks_each_time() -> None:
    decoder = BlockDecoder()
    ranks = [[f"rank-{rank}/{name}" for name in ("loss", "norm")] for rank in range(4)]
    batches = [batch_of(paths, 2, first) for first in (1, 3, 5) for paths in ranks]
    layouts = [item.layout for batch in batches for item in decoder.decode(batch) if isinstance(item, Block)]
    assert [layout.paths for layout in layouts] == [*map(tuple, ranks)] * 3
    assert len(set(map(id, layouts))) == 4
    assert len({len(layout.fixed) for layout in layouts}) == 1


def test_what_lies_between_blocks_stays_between_them() -> None:
    kinds = [type(item) for item in BlockDecoder().decode(MIXED)]
    # The second layout is as long as the first, and begins alike: its snapshots are messages until it has been learned.
    assert kinds[0] is Block
    assert kinds[1] is pb.UpdateRunSnapshot
    assert_agrees(BlockDecoder(), MIXED)


def test_values_are_kept_to_the_bit() -> None:
    odd = [struct.unpack("<d", struct.pack("<Q", bits))[0] for bits in (1, 2**63, 2**63 + 1, 0x7FF8_0000_0000_1234)]
    values = [*odd, math.inf, -math.inf, math.nan, -math.nan, 1.7976931348623157e308, DENORMAL]
    head = snapshot({}, 1).SerializeToString()
    batch = b"".join(field(SNAPSHOTS, head + entry(b"m", number)) for number in values)
    (block,) = BlockDecoder().decode(batch)
    assert isinstance(block, Block)
    assert block.values.tobytes() == struct.pack(f"<{len(values)}d", *values)


@pytest.mark.parametrize(
    "orders", list(itertools.product([("m", "a", "bb"), ("m", "bb", "a"), ("bb", "m", "a")], repeat=3))
)
def test_equal_lengths_of_other_series_are_told_apart(orders: tuple[tuple[str, ...], ...]) -> None:
    decoder = BlockDecoder()
    for paths in orders:
        assert_agrees(decoder, batch_of(paths, 3))
    assert_agrees(decoder, b"".join(batch_of(paths, 2, 2 * place) for place, paths in enumerate(orders)))
    # Whatever came before, a layout that stays is learned in the end.
    list(decoder.decode(batch_of(orders[0], 2)))
    (block,) = decoder.decode(batch_of(orders[0], 2))
    assert isinstance(block, Block)


@pytest.mark.parametrize(
    "item",
    [
        snapshot({"m": 1.0}),
        snapshot({"m": 1.0}, 1, None),
        snapshot({"m": "text"}, 1),
        snapshot({"m": 1}, 1),
        snapshot({}, 1),
        snapshot({"m": 1.0}, 1, preview=0.5),
        snapshot({"m": 1.0}, 1, assign={"c": 1}),
        snapshot({"m": 1.0}, pb.Step(whole=1, micro=1_000_000)),
        snapshot({"m": 1.0}, pb.Step(whole=10**12)),
        snapshot({"m": 1.0}, 1, -(10**14)),
        snapshot({"m": 1.0}, 1, 10**14),
    ],
)
def test_what_is_not_plain_points_is_left_to_protobuf(item: pb.UpdateRunSnapshot) -> None:
    decoder = BlockDecoder()
    list(decoder.decode(batch_of(["m"], 3)))
    assert list(decoder.decode(message(item))) == [item]


def test_a_key_that_is_no_text_is_refused() -> None:
    decoder = BlockDecoder()
    head = snapshot({}, 1).SerializeToString()
    list(decoder.decode(field(SNAPSHOTS, head + entry(b"ab", 1.0))))
    for key in (b"\xff\xfe", b"\xed\xa0", b"a\x80", b"\xc0\xaf"):
        with pytest.raises(DecodeError):
            list(decoder.decode(field(SNAPSHOTS, head + entry(key, 1.0))))
        assert_agrees(BlockDecoder(), field(SNAPSHOTS, head + entry(key, 1.0)))


def test_a_group_among_the_snapshots_is_refused() -> None:
    group = field(UNKNOWN, b"", GROUP) + field(UNKNOWN, b"", END_GROUP)
    assert_agrees_or_refuses(BlockDecoder(), group + batch_of(["m"], 1))
    assert_agrees(BlockDecoder(), field(SNAPSHOTS, group))


# Memory and threads


def test_layouts_take_bounded_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_LAYOUT_BYTES", 20_000)
    decoder = BlockDecoder()
    for count in range(1, 60):
        assert_agrees(decoder, batch_of([f"m{number}" for number in range(count)], 2))
        sizes = [layout.size for layout in decoder._layouts]
        assert decoder._layouts.size == sum(sizes)
        assert sum(sizes) <= 20_000
        assert sizes
    # The oldest went first: those that came last are known.
    known = {len(layout.paths) for layout in decoder._layouts}
    assert known == set(range(min(known), 60))


def test_a_layout_larger_than_the_memory_for_all_is_kept_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(blocks, "_LAYOUT_BYTES", 10)
    decoder = BlockDecoder()
    for count in (50, 60):
        assert_agrees(decoder, batch_of([f"m{number}" for number in range(count)], 2))
        assert len(decoder._layouts) == 1


def test_forgotten_layouts_give_their_memory_back() -> None:
    decoder = BlockDecoder()
    for paths in (("m", "a", "bb"), ("m", "bb", "a")) * 20:
        assert_agrees(decoder, batch_of(paths, 1))
        assert decoder._layouts.size == sum(layout.size for layout in decoder._layouts)
    assert len(decoder._layouts) <= 1


def test_eight_threads_share_a_decoder() -> None:
    decoder = BlockDecoder()
    orders = [["m", "a", "bb"], ["m", "bb", "a"], ["bb", "m", "a"], ["m/1", "m/2", "m/3"]]
    messages = [MIXED, *(b"".join(batch_of(paths, 3) for paths in order) for order in itertools.permutations(orders))]
    expected = [said_by_protobuf(batch) for batch in messages]

    def decode(offset: int) -> None:
        for place in range(len(messages)):
            number = (place + offset) % len(messages)
            assert said(decoder.decode(messages[number])) == expected[number]

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(decode, range(0, 24, 3)))
    assert decoder._layouts.size == sum(layout.size for layout in decoder._layouts)
