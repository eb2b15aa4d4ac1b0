"""A web server in this process that behaves well or badly as it is told; no test leaves the machine."""

import re
import threading
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Web(ThreadingHTTPServer):
    """Serves `files` by name; `script` says how each request in turn is answered, "whole" when it is used up."""

    daemon_threads = True

    def __init__(self, files):
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files, self.script, self.asked, self.over = files, [], [], threading.Event()

    def url(self, name=""):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class _Answers(BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        asked = self.headers.get("Range")
        self.server.asked.append((self.path, asked))
        how = self.server.script.pop(0) if self.server.script else "whole"
        content = self.server.files.get(self.path.rpartition("/")[2], b"")
        start = int(re.fullmatch(r"bytes=(\d+)-", asked)[1]) if asked else 0
        if how.isdigit():
            self._head(int(how), {"Content-Length": 0})
        elif "://" in how:
            self._head(302, {"Location": how, "Content-Length": 0})
        elif how == "endless":
            self._head(200, {})
            self._send(content * 100)
        elif how == "boastful":
            self._head(200, {"Content-Length": 10**12})
        elif asked and how == "another range":
            self._head(206, {"Content-Range": f"bytes 1-{len(content) - 1}/*", "Content-Length": len(content) - 1})
            self._send(content[1:])
        elif asked and how != "no ranges" and start >= len(content):
            self._head(416, {"Content-Length": 0})
        else:
            self._serve(content, 0 if how == "no ranges" else start, how)

    def _serve(self, content, start, how):
        told = {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"} if start else {}
        self._head(206 if start else 200, {**told, "Content-Length": len(content) - start})
        rest = content[start:]
        self._send(rest[: len(rest) // 2] if how in ("cut", "stall") else rest)
        if how == "stall":
            self.wfile.flush()
            self.server.over.wait(30)

    def _head(self, code, headers):
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, str(value))
        self.end_headers()

    def _send(self, content):
        with suppress(ConnectionError):  # the other side had enough
            self.wfile.write(content)


@contextmanager
def serving(files):
    """The server, running."""
    web = Web(files)
    thread = threading.Thread(target=web.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield web
    finally:
        web.over.set()
        web.shutdown()
        web.server_close()
        thread.join()
