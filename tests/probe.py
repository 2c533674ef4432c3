# ruff: noqa: N802, T201 # servicer methods are named after their RPCs; a script prints
"""What the tests want to know about an installation other than their own; prints JSON.

    python -I -W error probe.py runtime     imports, round trips and calls; a traceback and exit code 1 on failure
    python -I -W error probe.py server      the embedded server, with its dependencies
    python -I -W error probe.py twins       every wire twin against the official message in neptune-query

Runs on every supported protobuf and grpcio with nothing but the package, so it is one file and imports no test code.
"""

from __future__ import annotations

import asyncio
import base64
import importlib
import json
import math
import pkgutil
import re
import struct
import sys
import threading
import time
from collections.abc import MutableSequence
from concurrent import futures
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from random import Random
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio
from google.protobuf import descriptor_pb2, message_factory

import neptune_api
import neptune_api.v1
from neptune_api import models
from neptune_api.http.framing import encode_frame
from neptune_api.http.rules import Format, find_rule
from neptune_api.v1.annotations_pb2 import twin
from neptune_api.v1.auth_service_pb2_grpc import AuthServiceServicer, add_AuthServiceServicer_to_server
from neptune_api.v1.config_service_pb2_grpc import (
    ConfigServiceServicer,
    ConfigServiceStub,
    add_ConfigServiceServicer_to_server,
)
from neptune_api.v1.ingest_service_pb2_grpc import (
    IngestServiceServicer,
    IngestServiceStub,
    add_IngestServiceServicer_to_server,
)
from neptune_api.v1.series_service_pb2_grpc import (
    SeriesServiceServicer,
    SeriesServiceStub,
    add_SeriesServiceServicer_to_server,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator
    from typing import TypeAlias

    from google.protobuf.message import Message

    # The types of protobuf know two classes for each kind of descriptor and take now this, now that one.
    Descriptor: TypeAlias = Any
    FieldDescriptor: TypeAlias = Any

Field = descriptor_pb2.FieldDescriptorProto

# ---------------------------------------------------------------- messages with every field set

DEPTH = 4  # of recursive messages
TEXTS = ("", "a", "train/loss", "zażółć gęślą jaźń", "\N{SNOWMAN}\0\N{PILE OF POO}", "x" * 300)
FLOATS = (0.0, -0.0, 0.1, -1e30, math.inf, -math.inf, math.nan)
INTEGERS: dict[int, tuple[int, bool]] = {  # field type -> bits, signed
    Field.TYPE_INT32: (32, True),
    Field.TYPE_SINT32: (32, True),
    Field.TYPE_SFIXED32: (32, True),
    Field.TYPE_UINT32: (32, False),
    Field.TYPE_FIXED32: (32, False),
    Field.TYPE_INT64: (64, True),
    Field.TYPE_SINT64: (64, True),
    Field.TYPE_SFIXED64: (64, True),
    Field.TYPE_UINT64: (64, False),
    Field.TYPE_FIXED64: (64, False),
}


def scalar(field: FieldDescriptor, random: Random) -> Any:
    """Return a value for a field that holds no message; extreme ones are likely."""
    kind: int = field.type
    if kind == Field.TYPE_ENUM:
        return random.choice([*(value.number for value in field.enum_type.values), 1_000_003])
    if kind in INTEGERS:
        bits, signed = INTEGERS[kind]
        low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
        return random.choice([0, 1, low, high, random.randint(low, high)])
    if kind == Field.TYPE_BOOL:
        return random.random() < 0.5
    if kind == Field.TYPE_STRING:
        return random.choice(TEXTS)
    if kind == Field.TYPE_BYTES:
        return random.choice([b"", b"\xff\x00", bytes(range(256))])
    number = random.choice([*FLOATS, random.uniform(-1, 1)])
    return struct.unpack("f", struct.pack("f", number))[0] if kind == Field.TYPE_FLOAT else number


def fill(message: Message, random: Random, depth: int = DEPTH) -> Message:
    """Set every field of a message, of each oneof one member, and return it."""
    descriptor: Descriptor = message.DESCRIPTOR
    chosen = {oneof.name: random.choice(oneof.fields).number for oneof in descriptor.oneofs}
    for field in descriptor.fields:
        oneof = field.containing_oneof
        skipped = oneof is not None and chosen[oneof.name] != field.number
        if not skipped and not (field.message_type is not None and depth == 0):
            fill_field(message, field, random, depth)
    return message


def fill_field(message: Message, field: FieldDescriptor, random: Random, depth: int) -> None:
    """Set one field: three entries of a map or list."""
    target: Any = getattr(message, field.name)
    repeated = isinstance(target, MutableSequence)
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        parts = field.message_type.fields_by_name
        for _ in range(3):
            key = scalar(parts["key"], random)
            if parts["value"].message_type is None:
                target[key] = scalar(parts["value"], random)
            else:
                fill(target[key], random, depth - 1)
    elif repeated:
        for _ in range(3):
            if field.message_type is None:
                target.append(scalar(field, random))
            else:
                fill(target.add(), random, depth - 1)
    elif field.message_type is None:
        setattr(message, field.name, scalar(field, random))
    else:
        target.SetInParent()
        fill(target, random, depth - 1)


def message_types(types: Iterable[Descriptor]) -> Iterator[Descriptor]:
    """Yield message types and the types nested in them, map entries left out."""
    for descriptor in types:
        if not descriptor.GetOptions().map_entry:
            yield descriptor
            yield from message_types(descriptor.nested_types)


def modules(package: Any) -> list[Any]:
    """Import every module of a package, subpackages included."""
    return [
        importlib.import_module(found.name) for found in pkgutil.walk_packages(package.__path__, f"{package.__name__}.")
    ]


def types_of(package: Any) -> dict[str, type[Message]]:
    """Return the class of every message type that the modules of a package define, by full name."""
    files = [module.DESCRIPTOR for module in modules(package) if module.__name__.endswith("_pb2")]
    return {
        descriptor.full_name: message_factory.GetMessageClass(descriptor)
        for file in files
        for descriptor in message_types(file.message_types_by_name.values())
    }


def canonical(message: Message) -> bytes:
    """Return the bytes of a message, maps in order of their keys."""
    return message.SerializeToString(deterministic=True)


# ---------------------------------------------------------------- runtime: does everything run here


def access_token() -> str:
    """Return an unsigned JWT that expires in an hour."""
    claims = [{"alg": "none"}, {"exp": time.time() + 3600, "sub": "probe", "preferred_username": "probe"}]
    parts = [base64.urlsafe_b64encode(json.dumps(claim).encode()).decode().rstrip("=") for claim in claims]
    return ".".join([*parts, "signature"])


TOKEN = access_token()


def api_token(port: int) -> str:
    """Return an API token that leads to a port of this machine."""
    urls = {"api_address": "http://127.0.0.1", "api_url": "http://127.0.0.1", "grpc_url": f"grpc://127.0.0.1:{port}"}
    return base64.b64encode(json.dumps({**urls, "api_key": "0" * 64}).encode()).decode()


def logged_in(context: Any) -> bool:
    """Tell whether a call carries the access token."""
    return ("authorization", f"Bearer {TOKEN}") in [tuple(pair) for pair in context.invocation_metadata()]


def points(request: models.ReadColumnsRequest) -> list[models.ReadColumnsResponse]:
    """Return one message of columns for each series asked for."""
    columns = models.FloatColumns(values=models.FloatColumn(values=[0.5, math.inf]))
    return [models.ReadColumnsResponse(series_index=i, columns=columns, last=True) for i in range(len(request.series))]


def submitted(run_ids: list[str]) -> models.SubmitResponse:
    """Return the receipt of operations."""
    return models.SubmitResponse(request_id=run_ids[-1], request_ids=run_ids)


class Auth(AuthServiceServicer):
    """Gives everybody the same access token."""

    def ExchangeApiToken(self, request: Any, context: Any) -> Any:
        """Return the token."""
        return models.OauthToken(access_token=TOKEN, refresh_token="r", username="probe")


class AsyncAuth(AuthServiceServicer):
    """Auth, asyncio."""

    async def ExchangeApiToken(self, request: Any, context: Any) -> Any:
        """Return the token."""
        return models.OauthToken(access_token=TOKEN, refresh_token="r", username="probe")


class Config(ConfigServiceServicer):
    """One unary RPC; the other one is not implemented."""

    def GetServerInfo(self, request: Any, context: Any) -> Any:
        """Return a version and a limit."""
        return models.ServerInfo(version="probe", limits=models.Limits(max_step=1e12))


class AsyncConfig(ConfigServiceServicer):
    """Config, asyncio."""

    async def GetServerInfo(self, request: Any, context: Any) -> Any:
        """Return a version and a limit."""
        return models.ServerInfo(version="probe", limits=models.Limits(max_step=1e12))


class Ingest(IngestServiceServicer):
    """A client stream and a bidirectional stream."""

    def SubmitStream(self, request_iterator: Any, context: Any) -> Any:
        """Return the run ids at the end."""
        if not logged_in(context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        return submitted([operation.run_id for operation in request_iterator])

    def SubmitAcknowledged(self, request_iterator: Any, context: Any) -> Any:
        """Return each run id as it comes."""
        if not logged_in(context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        for operation in request_iterator:
            yield submitted([operation.run_id])


class AsyncIngest(IngestServiceServicer):
    """Ingest, asyncio."""

    async def SubmitStream(self, request_iterator: Any, context: Any) -> Any:
        """Return the run ids at the end."""
        if not logged_in(context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        return submitted([operation.run_id async for operation in request_iterator])

    async def SubmitAcknowledged(self, request_iterator: Any, context: Any) -> Any:
        """Return each run id as it comes."""
        if not logged_in(context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        async for operation in request_iterator:
            yield submitted([operation.run_id])


class Series(SeriesServiceServicer):
    """A server stream."""

    def ReadColumns(self, request: Any, context: Any) -> Any:
        """Return columns series by series."""
        if not logged_in(context):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        yield from points(request)


class AsyncSeries(SeriesServiceServicer):
    """Series, asyncio."""

    async def ReadColumns(self, request: Any, context: Any) -> Any:
        """Return columns series by series."""
        if not logged_in(context):
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")
        for message in points(request):
            yield message


# The methods that are missing here are abstract to type checkers only.
SERVICERS: tuple[Any, ...] = (Auth, Config, Ingest, Series)
ASYNC_SERVICERS: tuple[Any, ...] = (AsyncAuth, AsyncConfig, AsyncIngest, AsyncSeries)


def register(server: Any, servicers: tuple[Any, ...]) -> int:
    """Add servicers to a server and return the free port it was bound to."""
    auth, config, ingest, series = (servicer() for servicer in servicers)
    add_AuthServiceServicer_to_server(auth, server)
    add_ConfigServiceServicer_to_server(config, server)
    add_IngestServiceServicer_to_server(ingest, server)
    add_SeriesServiceServicer_to_server(series, server)
    port: int = server.add_insecure_port("127.0.0.1:0")
    return port


OPERATIONS = [models.RunOperation(project="w/p", run_id=name) for name in ("one", "two", "three")]
NAMES = [operation.run_id for operation in OPERATIONS]
COLUMNS = models.ReadColumnsRequest(series=[models.TimeSeries(attribute="loss"), models.TimeSeries(attribute="acc")])
INFO = models.ServerInfo(version="probe", limits=models.Limits(max_step=1e12))


def check(condition: bool, what: object) -> None:
    """Raise AssertionError unless the condition holds; `assert` would not survive -O."""
    if not condition:
        raise AssertionError(what)


def call(port: int) -> list[str]:
    """Call every arity over the channel; return what was called."""
    with neptune_api.channel(api_token=api_token(port)) as channel:
        config, ingest, series = ConfigServiceStub(channel), IngestServiceStub(channel), SeriesServiceStub(channel)
        check(config.GetServerInfo(models.GetServerInfoRequest()) == INFO, "GetServerInfo")
        check(config.GetServerInfo.future(models.GetServerInfoRequest()).result() == INFO, "GetServerInfo.future")
        check(list(ingest.SubmitStream(iter(OPERATIONS)).request_ids) == NAMES, "SubmitStream")
        answers = [answer.request_id for answer in ingest.SubmitAcknowledged(iter(OPERATIONS))]
        check(answers == NAMES, "SubmitAcknowledged")
        check(list(series.ReadColumns(COLUMNS)) == points(COLUMNS), "ReadColumns")
        try:
            config.GetClientConfig(models.GetClientConfigRequest())
        except neptune_api.exceptions.UnimplementedException as error:
            check(error.code() is grpc.StatusCode.UNIMPLEMENTED, error)
        else:
            raise AssertionError("GetClientConfig is not implemented, yet it was answered")
    return ["unary", "client stream", "bidirectional stream", "server stream", "error"]


async def call_async(port: int) -> list[str]:
    """Call every arity over the asyncio channel; return what was called."""

    async def operations() -> AsyncIterator[models.RunOperation]:
        for operation in OPERATIONS:
            yield operation

    async with neptune_api.aio.channel(api_token=api_token(port)) as channel:
        config, ingest, series = ConfigServiceStub(channel), IngestServiceStub(channel), SeriesServiceStub(channel)
        check(await config.GetServerInfo(models.GetServerInfoRequest()) == INFO, "GetServerInfo")
        check(list((await ingest.SubmitStream(operations())).request_ids) == NAMES, "SubmitStream")
        answers = [answer.request_id async for answer in ingest.SubmitAcknowledged(operations())]
        check(answers == NAMES, "SubmitAcknowledged")
        check([message async for message in series.ReadColumns(COLUMNS)] == points(COLUMNS), "ReadColumns")
        try:
            await config.GetClientConfig(models.GetClientConfigRequest())
        except neptune_api.exceptions.UnimplementedException as error:
            check(error.code() is grpc.StatusCode.UNIMPLEMENTED, error)
        else:
            raise AssertionError("GetClientConfig is not implemented, yet it was answered")
    return ["aio unary", "aio client stream", "aio bidirectional stream", "aio server stream", "aio error"]


def serve_and_call() -> list[str]:
    """Call a server of the same installation."""
    with futures.ThreadPoolExecutor(4) as pool:
        server = grpc.server(pool, options=[("grpc.so_reuseport", 0)])
        port = register(server, SERVICERS)
        server.start()
        try:
            return call(port)
        finally:
            server.stop(None).wait()


async def serve_and_call_async() -> list[str]:
    """Call an asyncio server of the same installation."""
    server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
    port = register(server, ASYNC_SERVICERS)
    await server.start()
    try:
        return await call_async(port)
    finally:
        await server.stop(None)


class HttpHandler(BaseHTTPRequestHandler):
    """As much of the HTTP API as the probe calls."""

    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        """Answer GetServerInfo."""
        self.answer(INFO.SerializeToString(), "application/x-protobuf")

    def do_POST(self) -> None:
        """Answer ReadColumns."""
        request = models.ReadColumnsRequest.FromString(self.rfile.read(int(self.headers["Content-Length"])))
        rule = find_rule("/neptune_api.v1.SeriesService/ReadColumns")
        assert rule is not None
        frames = [encode_frame(rule, message, Format.PROTOBUF) for message in points(request)]
        self.answer(b"".join(frames), Format.PROTOBUF.stream_content_type)

    def answer(self, body: bytes, content_type: str) -> None:
        """Send a response."""
        self.send_response(200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def call_http(url: str) -> list[str]:
    """Make the calls that HTTP can carry."""
    with neptune_api.channel(url, access_token="opaque") as channel:
        config, series = ConfigServiceStub(channel), SeriesServiceStub(channel)
        check(config.GetServerInfo(models.GetServerInfoRequest()) == INFO, "GetServerInfo over HTTP")
        check(config.GetServerInfo.future(models.GetServerInfoRequest()).result() == INFO, "future over HTTP")
        check(list(series.ReadColumns(COLUMNS)) == points(COLUMNS), "ReadColumns over HTTP")
    return ["http unary", "http server stream"]


async def call_http_async(url: str) -> list[str]:
    """Make the calls that HTTP can carry, on asyncio."""
    async with neptune_api.aio.channel(url, access_token="opaque") as channel:
        config, series = ConfigServiceStub(channel), SeriesServiceStub(channel)
        check(await config.GetServerInfo(models.GetServerInfoRequest()) == INFO, "GetServerInfo over HTTP")
        check([message async for message in series.ReadColumns(COLUMNS)] == points(COLUMNS), "ReadColumns over HTTP")
    return ["http aio unary", "http aio server stream"]


def serve_and_call_http() -> list[str]:
    """Call an HTTP server of the standard library."""
    with ThreadingHTTPServer(("127.0.0.1", 0), HttpHandler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_address[1]}"
        try:
            return [*call_http(url), *asyncio.run(call_http_async(url))]
        finally:
            server.shutdown()
            thread.join()


def runtime() -> dict[str, object]:
    """Import everything, bring every message there and back, and make calls of every arity."""
    import google.protobuf
    from google.protobuf.internal import api_implementation

    for name in ("aio", "api.client", "auth", "channels", "credentials", "exceptions", "models", "options"):
        importlib.import_module(f"neptune_api.{name}")
    types = types_of(neptune_api.v1)
    random = Random(2)
    for name, message_type in types.items():
        for _ in range(4):
            sent = canonical(fill(message_type(), random))
            check(canonical(message_type.FromString(sent)) == sent, f"{name} changes on its way: {sent!r}")
    return {
        "protobuf": google.protobuf.__version__,
        "implementation": api_implementation.Type(),
        "grpcio": grpc.__version__,
        "package": neptune_api.__file__,
        "modules": len(modules(neptune_api.v1)),
        "messages": len(types),
        "calls": [*serve_and_call(), *asyncio.run(serve_and_call_async()), *serve_and_call_http()],
    }


# ---------------------------------------------------------------- server: does it run here


def embedded_server() -> dict[str, object]:
    """Log a series to an embedded server and read it back; return the versions of the package's dependencies."""
    from importlib import metadata

    from neptune_api.api.client import Client
    from neptune_api.server import LocalServer

    with LocalServer() as running:
        for transport in ("grpc", "http"):
            with Client(api_token=running.api_token, transport=transport) as client:
                log_and_read(client, f"probe-{transport}", running.workspace)
    required = metadata.requires("neptune-api") or []
    dependencies = [line for line in required if "extra ==" not in line or re.search("extra == .server", line)]
    names = [re.split(r"[^\w-]", line, maxsplit=1)[0] for line in dependencies]
    return {"versions": {name: metadata.version(name) for name in names}}


def log_and_read(client: Any, name: str, workspace: str) -> None:
    """Log a series to a new project and read it back."""
    values = [0.5, math.inf, -1.0]
    project = client.post_create_project(name=name, organization_identifier=workspace)
    identifier = f"{project.organization_name}/{project.name}"
    run = client.post_create_run(project_identifier=identifier, run_id="probe")
    snapshots = [
        models.UpdateRunSnapshot(step=models.Step(whole=i), append={"loss": models.Value(float64=value)})
        for i, value in enumerate(values)
    ]
    update = models.UpdateRunSnapshots(snapshots=snapshots)
    operation = models.RunOperation(project=identifier, run_id="probe", update_batch=update)
    request_id = client.post_submit(operation).request_id
    end = time.monotonic() + 10
    while True:
        status = client.get_request_status(project_identifier=identifier, request_id=request_id)
        codes = {outcome.code for outcome in status.code_by_count}
        if codes == {0}:  # applied
            break
        check(codes == {14} and time.monotonic() < end, status)  # not yet
    series = models.TimeSeries(attribute="loss", holder=models.AttributesHolder(identifier=run.id))
    query = models.FloatSeriesValuesQuery(
        per_series_points_limit=10, requests=[models.FloatSeriesQuery(request_id="loss", series=series)]
    )
    (found,) = client.post_get_float_series_values(request_=query).series
    check([point.value for point in found.series.values] == values, found)
    starts_with_lo = models.AttributeNameFilter(must_match_regexes=["^lo"])
    page = client.post_query_attribute_values(
        project_identifier=identifier, query=models.AttributeValuesQuery(attribute_name_filter=starts_with_lo)
    )
    check([attribute.name for entry in page.entries for attribute in entry.attributes] == ["loss"], page)


# ---------------------------------------------------------------- twins: the official bytes


def counterpart(descriptor: Descriptor) -> str:
    """Return the full name of the official message that stands for one of ours."""
    official = str(descriptor.GetOptions().Extensions[twin])
    return official or str(descriptor.full_name)


def shapes(descriptor: Descriptor, *, ours: bool) -> dict[int, dict[str, object]]:
    """Return what the wire and presence show of each field of a message, by number.

    Enums are the set of their numbers, message types the name of the official one, maps their key and value.
    """
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    shown = {}
    for field in proto.field:
        described = descriptor.fields_by_number[field.number]
        shape: dict[str, object] = {
            "type": Field.Type.Name(field.type),
            "repeated": field.label == Field.LABEL_REPEATED,
            "presence": bool(described.has_presence),
        }
        message, enum = described.message_type, described.enum_type
        if message is not None and message.GetOptions().map_entry:
            shape["map"] = shapes(message, ours=ours)
        elif message is not None:
            shape["message"] = counterpart(message) if ours else message.full_name
        elif enum is not None:
            shape["enum"] = sorted(value.number for value in enum.values)
        if shape["repeated"] and field.type not in {Field.TYPE_MESSAGE, Field.TYPE_STRING, Field.TYPE_BYTES}:
            shape["packed"] = field.options.packed if field.options.HasField("packed") else True
        if field.HasField("oneof_index") and not field.proto3_optional:
            shape["oneof"] = sorted(member.number for member in described.containing_oneof.fields)
        shown[field.number] = shape
    return shown


def unlike(ours: Descriptor, theirs: Descriptor) -> Iterator[str]:
    """Yield a line for each field that differs between a twin and its official message."""
    mine, official = shapes(ours, ours=True), shapes(theirs, ours=False)
    for number in sorted(mine.keys() | official.keys()):
        if number not in mine:
            yield f"{ours.full_name}: field {number} of {theirs.full_name} is missing"
        elif number not in official:
            yield f"{ours.full_name}: field {number} is not in {theirs.full_name}"
        elif mine[number] != official[number]:
            name = ours.fields_by_number[number].name
            yield f"{ours.full_name}.{name} = {number}: {mine[number]}, officially {official[number]}"


def unequal_bytes(ours: type[Message], theirs: type[Message], random: Random, times: int) -> Iterator[str]:
    """Yield a line for each filled message whose bytes change on the way through the other class."""
    for sender, receiver in ((theirs, ours), (ours, theirs)):
        for _ in range(times):
            sent = canonical(fill(sender(), random))
            received = canonical(receiver.FromString(sent))
            if received != sent:
                names = f"{sender.DESCRIPTOR.full_name} through {receiver.DESCRIPTOR.full_name}"
                yield f"{names}: {sent.hex()} became {received.hex()}"


def twins() -> dict[str, object]:
    """Compare every wire twin with its official message, by descriptor and by bytes."""
    generated = importlib.import_module("neptune_query.generated.neptune_api.proto")
    ours, official = types_of(neptune_api.v1), types_of(generated)
    differences, mirrored = [], set()
    random = Random(14)
    for name, message_type in ours.items():
        other = str(message_type.DESCRIPTOR.GetOptions().Extensions[twin])
        if not other:
            continue
        if other not in official:
            differences.append(f"{name}: there is no official message {other}")
            continue
        if other in mirrored:
            differences.append(f"{name}: {other} has a twin already")
        mirrored.add(other)
        differences += unlike(message_type.DESCRIPTOR, official[other].DESCRIPTOR)
        differences += unequal_bytes(message_type, official[other], random, 12)
    return {"differences": differences, "twins": sorted(mirrored), "others": sorted(official.keys() - mirrored)}


if __name__ == "__main__":
    print(json.dumps({"runtime": runtime, "server": embedded_server, "twins": twins}[sys.argv[1]]()))
