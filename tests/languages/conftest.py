"""Every program in turn."""

from __future__ import annotations

import os

import pytest

from tests.languages.programs import PROGRAMS, MissingError, Program


@pytest.fixture(params=PROGRAMS, ids=lambda program: program.name)
def program(request: pytest.FixtureRequest) -> Program:
    """Each program in turn, built; skips what cannot be built here, and fails there under CI."""
    found: Program = request.param
    try:
        found.language.build()
    except MissingError as error:
        if os.environ.get("CI"):
            pytest.fail(str(error))
        pytest.skip(str(error))
    return found
