"""A file server on loopback with byte ranges, and faults that a test can switch on per address."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """A fault of the next ``times`` requests for one address.

    Attributes:
        status: answered in place of the file.
        headers: sent with that status.
        cut_after: bytes of the body after which the connection is closed.
        hang_after: bytes of the body after which nothing comes until the server ends.
        chunked: whether the body comes in chunks, without a length.
    """

    times: int
    status: int | None = None
    headers: dict[str, str] = field(default_factory=dict)
    cut_after: int | None = None
    hang_after: int | None = None
    chunked: bool = False


@dataclass
class Site:
    """The content of the server: ``files`` by address, without the leading slash.

    ``requests`` holds (address, headers) of every request, in order. Without ``ranges`` the server ignores
    range requests, without ``etags`` it sends none.
    """

    url: str = ""
    files: dict[str, bytes] = field(default_factory=dict)
    faults: dict[str, Fault] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    ranges: bool = True
    etags: bool = True
    hanging: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def asked(self, ending: str) -> list[dict[str, str]]:
        """The headers of all requests for addresses with this ending."""
        return [headers for path, headers in self.requests if path.endswith(ending)]

    def add_record(self, record: int, zips: dict[str, bytes]) -> None:
        """A record of the audio host, and its description."""
        for name, content in zips.items():
            self.files[f"records/{record}/files/{name}"] = content
        files = [
            {"key": name, "size": len(content), "checksum": f"md5:{hashlib.md5(content).hexdigest()}"}
            for name, content in zips.items()
        ]
        self.files[f"api/records/{record}"] = json.dumps({"id": record, "files": files}).encode()

    def take_fault(self, path: str) -> Fault | None:
        with self._lock:
            fault = self.faults.get(path)
            if fault is None or fault.times == 0:
                return None
            fault.times -= 1
            return fault

    def response(
        self, path: str, asked: Mapping[str, str]
    ) -> tuple[int, dict[str, str], bytes, Fault | None]:
        """Status, headers, body and fault of the answer to a request with the headers ``asked``."""
        fault = self.take_fault(path)
        content = self.files.get(path)
        if fault and fault.status:
            return fault.status, fault.headers, b"", None
        if content is None:
            return 404, {}, b"not here", None
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        headers = {"ETag": tag} if self.etags else {}
        span = asked.get("Range")
        if not span or not self.ranges or asked.get("If-Range", tag) != tag:
            return 200, headers, content, fault
        start = int(span.removeprefix("bytes=").removesuffix("-"))
        if start >= len(content):
            return 416, {"Content-Range": f"bytes */{len(content)}"}, b"", None
        headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        return 206, headers, content[start:], fault


@contextlib.contextmanager
def serve(site: Site) -> Iterator[Site]:
    """Serves ``site`` on a port of its own."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *args: object) -> None:
            pass

        def do_GET(self) -> None:
            path = self.path.lstrip("/")
            site.requests.append((path, dict(self.headers)))
            self._answer(*site.response(path, self.headers))

        def _answer(
            self, status: int, headers: dict[str, str], body: bytes, fault: Fault | None = None
        ) -> None:
            self.send_response(status)
            chunked = fault is not None and fault.chunked
            length = {"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))}
            for name, value in {**headers, **length}.items():
                self.send_header(name, value)
            self.end_headers()
            if chunked:
                body = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
            if fault and fault.cut_after is not None:
                self.wfile.write(body[: fault.cut_after])
                self.close_connection = True
            elif fault and fault.hang_after is not None:
                self.wfile.write(body[: fault.hang_after])
                self.wfile.flush()
                site.hanging.set()
                site.ended.wait()
                self.close_connection = True
            else:
                self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that was killed

    server = Server(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    site.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield site
    finally:
        site.ended.set()
        server.shutdown()
        server.server_close()
