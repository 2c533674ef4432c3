"""A server that speaks like Google Cloud Storage: `python gcs_process.py BUCKET ACCOUNT`.

Writes a service account into the file ACCOUNT, prints its port and ends with its input.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from gcp_storage_emulator.server import create_server

server = create_server("127.0.0.1", 0, in_memory=True, default_bucket=sys.argv[1])
server.start()
port = server._api._httpd.socket.getsockname()[1]
key = rsa.generate_private_key(65_537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
account = {
    "type": "service_account",
    "client_email": "nobody@example.test",
    "private_key": key.decode(),
    "private_key_id": "1",
    "gcs_base_url": f"http://127.0.0.1:{port}",
}
Path(sys.argv[2]).write_text(json.dumps(account))
sys.stdout.write(f"{port}\n")
sys.stdout.flush()
sys.stdin.read()
server.stop()
