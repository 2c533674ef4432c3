"""The surface of the API as the descriptors in this package tell it: services, methods, messages, enums by name."""

from __future__ import annotations

import difflib
import importlib
import inspect
import pkgutil
import re
from functools import cached_property
from typing import TYPE_CHECKING, Final

from neptune_api.cli.console import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import TypeVar

    from google.protobuf.descriptor import (
        Descriptor,
        EnumDescriptor,
        FileDescriptor,
        MethodDescriptor,
        ServiceDescriptor,
    )

    Found = TypeVar("Found")

PACKAGE: Final = "neptune_api.v1"


class Surface:
    """Finds what a name on the command line stands for."""

    @cached_property
    def _files(self) -> list[FileDescriptor]:
        package = importlib.import_module(PACKAGE)
        names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
        return [importlib.import_module(f"{PACKAGE}.{name}").DESCRIPTOR for name in names if name.endswith("_pb2")]

    @cached_property
    def services(self) -> dict[str, ServiceDescriptor]:
        """Every service by its short name."""
        return {name: service for file in self._files for name, service in file.services_by_name.items()}

    @cached_property
    def types(self) -> dict[str, Descriptor | EnumDescriptor]:
        """Every message and enum by its name within the package, nested ones with dots."""
        found: dict[str, Descriptor | EnumDescriptor] = {}
        for file in self._files:
            found.update(file.enum_types_by_name)
            for message in file.message_types_by_name.values():
                for kind in _with_nested(message):
                    found[kind.full_name.removeprefix(f"{PACKAGE}.")] = kind
        return found

    def service(self, name: str) -> ServiceDescriptor:
        """Return the service of that name; case and underscores do not matter, nor do package and `Service`.

        Raises UsageError, which suggests the nearest name.
        """
        return _find(self.services, name, "service", _service_key)

    def method(self, name: str) -> MethodDescriptor:
        """Return the method `SERVICE.METHOD` or `SERVICE/METHOD`.

        Raises UsageError, which suggests the nearest name.
        """
        service_name, separator, method_name = _short(name).replace("/", ".").rpartition(".")
        if not separator:
            raise UsageError(f"{name!r} is no method: write SERVICE.METHOD, such as ProjectsService.GetProject.")
        service = self.service(service_name)
        return _find(service.methods_by_name, method_name, f"method of {service.name}", _key)

    def any(self, name: str) -> ServiceDescriptor | MethodDescriptor | Descriptor | EnumDescriptor:
        """Return the service, method, message or enum of that name.

        Raises UsageError, which suggests the nearest names.
        """
        short = _short(name)
        for table in (self.types, self.services):
            if short in table:
                return table[short]
        for find in (self.method, self.service):
            try:
                return find(name)
            except UsageError:
                continue
        folded = {_key(known): kind for known, kind in self.types.items()}
        if _key(short) in folded:
            return folded[_key(short)]
        methods = {f"{s.name}.{method}": None for s in self.services.values() for method in s.methods_by_name}
        raise _unknown(name, "service, method, message or enum", [*self.services, *methods, *self.types])


def documentation(service: ServiceDescriptor, method: MethodDescriptor | None = None) -> str:
    """Return the doc comment of a service or of one of its methods; empty when there is none."""
    module = service.file.name.removesuffix(".proto").replace("/", ".")
    thing = getattr(importlib.import_module(f"{module}_pb2_grpc"), f"{service.name}Servicer")
    if method is not None:
        thing = getattr(thing, method.name)
    return inspect.cleandoc(thing.__doc__ or "").strip()


def _with_nested(message: Descriptor) -> Iterator[Descriptor | EnumDescriptor]:
    if message.GetOptions().map_entry:
        return
    yield message
    yield from message.enum_types
    for nested in message.nested_types:
        yield from _with_nested(nested)


def _short(name: str) -> str:
    return name.strip().lstrip("/").removeprefix(f"{PACKAGE}.")


def _key(name: str) -> str:
    return re.sub(r"[_\-.]", "", _short(name)).casefold()


def _service_key(name: str) -> str:
    return _key(name).removesuffix("service")


def _find(table: Mapping[str, Found], name: str, kind: str, key: Callable[[str], str]) -> Found:
    wanted = key(name)
    for known, found in table.items():
        if key(known) == wanted:
            return found
    raise _unknown(name, kind, table, key)


def _unknown(name: str, kind: str, known: Iterable[str], key: Callable[[str], str] = _key) -> UsageError:
    by_key = {key(candidate): candidate for candidate in known}
    near = [by_key[match] for match in difflib.get_close_matches(key(name), by_key, n=3)]
    hint = f"did you mean {' or '.join(near)}?" if near else "`neptune-api describe` lists what there is."
    return UsageError(f"There is no {kind} {_short(name)!r}; {hint}")
