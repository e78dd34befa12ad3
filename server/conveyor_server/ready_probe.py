"""Asks the server beside it whether it is ready, for container engines: `python -m conveyor_server.ready_probe`.

Exit code 0 says yes. It knows the variables that the server is set up with, not its flags, and imports nothing of the
server: it runs every few seconds. The certificate is not verified, which is between the server and its clients.
"""

import os
import ssl
import sys
import urllib.request
from collections.abc import Mapping

TIMEOUT_SECONDS = 4.0


def is_ready(environment: Mapping[str, str]) -> bool:
    """Whether the server with these variables says that requests should come to it."""
    scheme = "https" if environment.get("CONVEYOR_TLS_CERTIFICATE") else "http"
    url = f"{scheme}://127.0.0.1:{environment.get('CONVEYOR_HTTP_PORT', '8000')}/readyz"
    unverified = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    try:
        with urllib.request.urlopen(url, timeout=TIMEOUT_SECONDS, context=unverified):
            return True
    except OSError as error:  # refused, too late, or an answer that says no
        sys.stderr.write(f"{url}: {error}\n")
        return False


if __name__ == "__main__":
    sys.exit(not is_ready(os.environ))
