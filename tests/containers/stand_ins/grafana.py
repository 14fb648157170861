"""Answers Grafana's health check. Grafana itself is not in Debian."""

from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Health(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/api/health" else 404)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Nothing to log."""


ThreadingHTTPServer(("", 3000), Health).serve_forever()
