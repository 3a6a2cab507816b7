"""Object stores on this machine for tests: moto's S3, and in front of it what a search must live with.

`start_s3` serves S3 in this process. `Gate` relays to it and can be shut, as a store that is away. `in_google_words`
lets the same server answer to Google's names of headers: no emulator speaks Google's XML interface, which obstore uses.
Azure is Azurite, where its command is on the path.
"""

import base64
import contextlib
import hashlib
import hmac
import json
import logging
import shutil
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

# Azurite's published account; it is no secret.
AZURITE_ACCOUNT = "devstoreaccount1"
AZURITE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

# Moto checks no signature, but it reads the name of the service from it.
SOMEBODY = "AWS4-HMAC-SHA256 Credential=x/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=x"

App = Callable[[dict[str, Any], Any], Any]


@contextlib.contextmanager
def start_s3(around: Callable[[App], App] = lambda app: app) -> Iterator[int]:
    """Moto's S3 on a free port of this machine; gives the port."""
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import make_server

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    app = around(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, app, threaded=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.port
    finally:
        server.shutdown()


class _OneAnswer(BaseHTTPRequestHandler):
    """A store that answers every request alike."""

    status, body = 200, ""

    def do_PUT(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.status)
        self.send_header("ETag", '"1"')
        self.send_header("Content-Length", str(len(self.body)))
        self.end_headers()
        self.wfile.write(self.body.encode())

    do_GET = do_POST = do_DELETE = do_PUT  # noqa: N815

    def log_message(self, *args: object) -> None:
        return


@contextlib.contextmanager
def start_one_answer(status: int, body: str) -> Iterator[int]:
    """A store that answers every request alike, on a free port of this machine; gives the port."""
    server = HTTPServer(("127.0.0.1", 0), type("OneAnswer", (_OneAnswer,), {"status": status, "body": body}))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port
    finally:
        server.shutdown()


def error_xml(code: str, message: str, more: str = "") -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>{message}</Message>{more}</Error>"


# What S3 says to a wrong secret, with what must not be repeated.
WRONG_SECRET = error_xml(
    "SignatureDoesNotMatch",
    "The request signature we calculated does not match the signature you provided.",
    "<AWSAccessKeyId>AKIA-OF-SOMEBODY</AWSAccessKeyId>",
)


def in_google_words(app: App) -> App:
    """The same application for requests with Google's headers."""
    names = {"HTTP_X_GOOG_COPY_SOURCE": "HTTP_X_AMZ_COPY_SOURCE"}

    def translated(environ: dict[str, Any], start_response: Any) -> Any:
        environ["HTTP_AUTHORIZATION"] = SOMEBODY
        if environ.get("HTTP_X_GOOG_IF_GENERATION_MATCH") == "0":
            environ["HTTP_IF_NONE_MATCH"] = "*"
        for theirs, ours in names.items():
            if theirs in environ:
                environ[ours] = environ[theirs]

        def start(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            return start_response(status, [*headers, ("x-goog-generation", "1")], *rest)

        return app(environ, start)

    return translated


class Gate:
    """A relay to a port that can be shut and opened again: whoever comes meanwhile is refused.

    Args:
        target: the port behind it.
    """

    def __init__(self, target: int) -> None:
        self._target = target
        self._links: set[socket.socket] = set()
        self._listener: socket.socket | None = None
        self.port = 0
        self.open()

    def open(self) -> None:
        """Let everybody through."""
        listener = socket.create_server(("127.0.0.1", self.port), reuse_port=False)
        self._listener, self.port = listener, listener.getsockname()[1]
        threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def shut(self) -> None:
        """Let nobody through, and cut off who is talking."""
        assert self._listener is not None
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._listener = None
        for link in list(self._links):
            with contextlib.suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)

    @contextlib.contextmanager
    def away(self) -> Iterator[None]:
        """Shut for the time of a block."""
        self.shut()
        try:
            yield
        finally:
            self.open()

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", self._target))
                for source, sink in ((client, server), (server, client)):
                    threading.Thread(target=self._relay, args=(source, sink), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket) -> None:
        self._links.add(source)
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        self._links.discard(source)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


def s3_environment(port: int) -> dict[str, str]:
    """What a user of this S3 has in the environment."""
    return {
        "AWS_ACCESS_KEY_ID": "test-key",
        "AWS_SECRET_ACCESS_KEY": "test-secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
    }


def make_bucket(port: int, name: str) -> None:
    """Create a bucket; one that is there stays."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/{name}", method="PUT")
    urllib.request.urlopen(request, timeout=10).close()


def gs_environment(port: int) -> dict[str, str]:
    """What makes obstore take this server for Google's."""
    account = {"gcs_base_url": f"http://127.0.0.1:{port}", "disable_oauth": True}
    nobody = {"client_email": "", "private_key": "", "private_key_id": ""}
    return {"GOOGLE_SERVICE_ACCOUNT_KEY": json.dumps({**account, **nobody})}


@contextlib.contextmanager
def start_azurite(container: str) -> Iterator[dict[str, str] | None]:
    """Azure's emulator with a container; gives the environment, or None where Azurite is not installed."""
    program = shutil.which("azurite-blob")
    if program is None:
        yield None
        return
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    where = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence"]
    quietly = ["--skipApiVersionCheck", "--disableTelemetry", "--silent"]
    process = subprocess.Popen([program, *where, *quietly], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        _make_container(port, container)
        yield {
            "AZURE_STORAGE_ACCOUNT_NAME": AZURITE_ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": AZURITE_KEY,
            "AZURE_STORAGE_ENDPOINT": f"http://127.0.0.1:{port}/{AZURITE_ACCOUNT}",
        }
    finally:
        process.terminate()
        process.wait()


def _make_container(port: int, name: str) -> None:
    """The one signed request that obstore has no function for."""
    date, version = formatdate(usegmt=True), "2021-08-06"
    resource = f"/{AZURITE_ACCOUNT}/{name}"
    headers = f"x-ms-date:{date}\nx-ms-version:{version}"
    to_sign = "PUT" + 12 * "\n" + f"{headers}\n/{AZURITE_ACCOUNT}{resource}\nrestype:container"
    digest = hmac.new(base64.b64decode(AZURITE_KEY), to_sign.encode(), hashlib.sha256).digest()
    signature = f"SharedKey {AZURITE_ACCOUNT}:{base64.b64encode(digest).decode()}"
    request = urllib.request.Request(f"http://127.0.0.1:{port}{resource}?restype=container", method="PUT")
    for header, value in (("x-ms-date", date), ("x-ms-version", version), ("Authorization", signature)):
        request.add_header(header, value)
    end = time.monotonic() + 30
    while True:
        try:
            urllib.request.urlopen(request, timeout=10).close()
            return
        except urllib.error.URLError:  # it listens after some seconds
            if time.monotonic() > end:
                raise
            time.sleep(0.2)


def forget_connections() -> None:
    """Let the next use of a store read the environment again."""
    from cmp.objects import _bucket

    _bucket.cache_clear()


def journal_at(url: str) -> bytes:
    """The journal of a search on a store, read without the program: events put together first, then single ones."""
    import obstore
    from obstore.store import from_url

    scheme, _, rest = url.partition("://")
    bucket, _, prefix = rest.partition("/")
    client = from_url(f"{scheme}://{bucket}", client_options={"allow_http": True})  # type: ignore[arg-type]
    while True:
        found = sorted(item["path"] for item in obstore.list(client, f"{prefix}/journal").collect())
        try:
            contents = {path: bytes(obstore.get(client, path).bytes()) for path in found}
        except FileNotFoundError:  # events were put together meanwhile
            continue
        lines: dict[int, bytes] = {}
        for path, content in contents.items():
            for number, line in enumerate(content.splitlines(keepends=True), start=_number(path)):
                assert lines.setdefault(number, line) == line, f"two events {number}"
        assert sorted(lines) == list(range(1, len(lines) + 1)), "an event is missing"
        return b"".join(line for _, line in sorted(lines.items()))


def _number(path: str) -> int:
    """Of the first event in an object."""
    return int(path.rpartition("/")[2][:8])
