"""What the protos say about each method: whether it needs a token and what making it twice does."""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from google.protobuf.descriptor import Descriptor, MethodDescriptor, ServiceDescriptor

PACKAGE: Final = "neptune_api.v1"


@dataclass(frozen=True, slots=True)
class Method:
    """One method of a service."""

    name: str
    """Full name, such as `neptune_api.v1.RunsService/GetRun`."""
    anonymous: bool = False
    """No access token is needed."""
    retryable: bool = False
    """Calling it twice does no more than calling it once."""
    keyed: bool = False
    """It writes, and the server knows a repeated call by its idempotency key."""
    single: str | None = None
    """Of a method that takes a stream of requests: the path of the one that takes the same requests one by one."""

    responses: bool = False
    """It answers with a stream."""

    @property
    def short_name(self) -> str:
        """Name without the package, such as `RunsService.GetRun`."""
        return self.name.rpartition(".")[2].replace("/", ".")


def service_descriptors() -> Iterator[ServiceDescriptor]:
    """Yield every service of the API."""
    package = importlib.import_module(PACKAGE)
    for module in pkgutil.iter_modules(package.__path__):
        if module.name.endswith("_service_pb2"):
            yield from importlib.import_module(f"{PACKAGE}.{module.name}").DESCRIPTOR.services_by_name.values()


@cache
def all_methods() -> Mapping[str, Method]:
    """Return every method of the API by the path it is called by, such as `/neptune_api.v1.RunsService/GetRun`."""
    from google.protobuf.descriptor_pb2 import MethodOptions

    from neptune_api.v1.annotations_pb2 import access

    methods = {}
    for service in service_descriptors():
        for descriptor in service.methods:
            options = descriptor.GetOptions()
            level = options.idempotency_level
            method = Method(
                name=f"{service.full_name}/{descriptor.name}",
                anonymous=options.Extensions[access].anonymous,
                retryable=level != MethodOptions.IDEMPOTENCY_UNKNOWN,
                keyed=level == MethodOptions.IDEMPOTENT,
                responses=descriptor.server_streaming,
                single=_single(service, descriptor) if descriptor.client_streaming else None,
            )
            methods[f"/{method.name}"] = method
    return methods


def _single(service: ServiceDescriptor, stream: MethodDescriptor) -> str | None:
    for method in service.methods:
        if method.input_type is stream.input_type and not method.client_streaming:
            return f"/{service.full_name}/{method.name}"
    return None


def message_type(path: str) -> Descriptor:
    """Return the type of the requests of a method of the API."""
    from google.protobuf import descriptor_pool

    service, _, name = path.removeprefix("/").partition("/")
    requests: Descriptor = descriptor_pool.Default().FindServiceByName(service).FindMethodByName(name).input_type
    return requests


def find_method(path: str | bytes) -> Method:
    """Return the method called by a path; one of another API needs a token and may do more when called twice."""
    text = path.decode() if isinstance(path, bytes) else path
    return all_methods().get(text) or Method(text.removeprefix("/"))


def retryable_methods() -> tuple[str, ...]:
    """Return the names of all methods that may be called again after a failure."""
    return tuple(method.name for method in all_methods().values() if method.retryable)
