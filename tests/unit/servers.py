"""A web server on this machine, for tests of downloads."""

import contextlib
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer


class Seen(list):
    """Range headers in the order of the requests, and the paths that were asked for."""

    def __init__(self):
        super().__init__()
        self.paths = []


@contextlib.contextmanager
def server(
    content: bytes,
    cut: int | None = None,
    ranges: bool = True,
    status: int = 200,
    kind: str | None = None,
    length: bool = True,
):
    """Serves `content` at every path; the first answer ends after `cut` bytes.

    Args: ranges, whether it knows them; status, of whole answers; kind, the Content-Type; length,
    whether it says how long the content is.

    Yields the address and the Range headers that it saw (a list; its attribute `paths` holds the
    paths).
    """
    seen = Seen()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            first = not seen
            seen.append(asked)
            seen.paths.append(self.path)
            start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and ranges else 0
            if start and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.end_headers()
                return
            self.send_response(206 if start else status)
            whole = len(content) if length else "*"
            if start:
                self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{whole}")
            if length:
                self.send_header("Content-Length", str(len(content) - start))
            if kind:
                self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(content[start : cut if first and cut else None])

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
