"""A web server on this machine, for tests of downloads."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer


@contextlib.contextmanager
def server(
    content: bytes,
    cut: int | None = None,
    status: int = 200,
    kind: str | None = None,
    length: bool = True,
):
    """Serves `content` at every path; the first answer ends after `cut` bytes.

    Args: status, of the answers; kind, the Content-Type; length, whether it says how long the
    content is.

    Yields the address and the paths that were asked for, a list.
    """
    seen = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(status)
            if length:
                self.send_header("Content-Length", str(len(content)))
            if kind:
                self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content[: cut if len(seen) == 1 else None])

        def log_message(self, *args):
            pass

    httpd = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/file", seen
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()
