"""A store for the element of the tests: files over https, for whoever has a certificate or proxy.

What is below /issuer/ is for all: it is what an issuer of tokens shows of itself.

python store.py PORT CERTIFICATE KEY AUTHORITY      serves the current folder on the loopback
"""

import http.server
import ssl
import sys
import urllib.parse
from typing import Any

X509_V_FLAG_ALLOW_PROXY_CERTS = 0x40

port, certificate, key, authority = sys.argv[1:]
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(certificate, key)
context.load_verify_locations(authority)
context.verify_mode = ssl.CERT_OPTIONAL
context.verify_flags |= ssl.VerifyFlags(X509_V_FLAG_ALLOW_PROXY_CERTS)


class Handler(http.server.SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def translate_path(self, path: str) -> str:
        # ARC asks as one asks a proxy, by the whole address.
        return super().translate_path(urllib.parse.urlsplit(path).path)

    def send_head(self) -> Any:
        open_to_all = urllib.parse.urlsplit(self.path).path.startswith("/issuer/")
        if open_to_all or self.connection.getpeercert():
            return super().send_head()
        return self.send_error(403)

    def log_request(self, code: object = "-", size: object = "-") -> None:
        self.log_message(
            "%s for %s: %s", self.requestline, (self.connection.getpeercert() or {}).get("subject"), code
        )


server = http.server.ThreadingHTTPServer(("127.0.0.1", int(port)), Handler)
server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
server.serve_forever()
