"""`python -m neptune_api` is `neptune-api`."""

from __future__ import annotations

import sys

from neptune_api.cli import main

if __name__ == "__main__":
    sys.exit(main())
