"""The HTTP door: requests in, guarded RPCs, responses out. `http_door.py` listens, this package answers."""
