"""Serves the metrics by HTTP: to GET requests only, encrypted and to who knows a token, if asked.

Every request has a thread of its own, which does the TLS handshake too, so that a client that says
nothing holds up nobody else.
"""

import hmac
import socket
import ssl
import threading
from collections.abc import Iterable
from socketserver import TCPServer, ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIApplication, WSGIEnvironment

from secgroupd.closing import Closing
from secgroupd.config import Serving

PATIENCE_SECONDS = 10.0
"""How long a client may be silent."""

MAX_TOKEN_BYTES = 4096


class Unservable(Exception):
    """What is to be served with cannot be used: a certificate, a key, a token, an address."""


class Endpoint(Closing):
    """Serves an application until it is closed.

    Raises:
        Unservable: the address cannot be listened on, or a file of the settings is not what it
            should be. Nothing is served then, least of all in the clear or to everybody.
    """

    def __init__(self, serving: Serving, app: WSGIApplication) -> None:
        assert serving.listen is not None
        context, token = _context(serving), _token(serving)
        server = _Server6 if ":" in serving.listen[0] else _Server
        try:
            self._server = server(serving.listen, _Handler)
        except OSError as error:
            host, port = serving.listen
            raise Unservable(f"cannot listen on {host} port {port}: {error.strerror}") from error
        self._server.context = context
        self._server.set_app(_guarded(app, token))
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving and wait for the server's thread."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def check(serving: Serving) -> None:
    """Check that the files of the settings can be used.

    Raises:
        Unservable: they cannot; nothing has been closed or opened.
    """
    _context(serving)
    _token(serving)


def _context(serving: Serving) -> ssl.SSLContext | None:
    if serving.cert_file is None:
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        # The password is refused here because OpenSSL would ask the terminal for it, and wait.
        context.load_cert_chain(serving.cert_file, serving.key_file, password=_no_password)
    except OSError as error:
        files = f"{serving.cert_file} and {serving.key_file}"
        reason = getattr(error, "reason", None) or error.strerror or error
        raise Unservable(f"{files} are no certificate and key: {reason}") from error
    return context


def _no_password() -> str:
    raise OSError("the key is encrypted")


def _token(serving: Serving) -> bytes | None:
    if serving.token_file is None:
        return None
    try:
        with serving.token_file.open("rb") as file:
            token = file.read(MAX_TOKEN_BYTES + 1).strip()
    except OSError as error:
        raise Unservable(f"{serving.token_file} cannot be read: {error.strerror}") from error
    printable = all(0x20 < byte < 0x7F for byte in token)
    if not token or len(token) > MAX_TOKEN_BYTES or not printable:
        message = "it must hold one word of printable ASCII and nothing else"
        raise Unservable(f"{serving.token_file} is no token: {message}")
    return token


def _guarded(app: WSGIApplication, token: bytes | None) -> WSGIApplication:
    """Return the application for those who only read and know the token."""

    def answer(environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        if environ["REQUEST_METHOD"] != "GET":
            return _refuse(start, "405 Method Not Allowed", ("Allow", "GET"))
        if token is not None and not _knows(token, environ.get("HTTP_AUTHORIZATION", "")):
            return _refuse(start, "401 Unauthorized", ("WWW-Authenticate", "Bearer"))
        return app(environ, start)

    return answer


def _knows(token: bytes, authorization: str) -> bool:
    scheme, _, given = authorization.partition(" ")
    # Headers are decoded as Latin-1; the comparison takes the same time wherever they differ.
    right = hmac.compare_digest(given.strip().encode("latin-1", "replace"), token)
    return right and scheme.lower() == "bearer"


def _refuse(start: StartResponse, status: str, header: tuple[str, str]) -> Iterable[bytes]:
    start(status, [header, ("Content-Type", "text/plain"), ("Content-Length", "0")])
    return [b""]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True
    context: ssl.SSLContext | None = None

    def server_bind(self) -> None:
        # HTTPServer's own would ask the name service who we are, and wait for it.
        TCPServer.server_bind(self)
        self.server_name, self.server_port = self.server_address[:2]  # type: ignore[assignment]
        self.setup_environ()

    def finish_request(self, request: object, client_address: object) -> None:
        assert isinstance(request, socket.socket)
        request.settimeout(PATIENCE_SECONDS)
        if self.context is None:
            super().finish_request(request, client_address)
            return
        with self.context.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log nothing: a client that hangs up, or shakes no hands, is no event."""


class _Server6(_Server):
    address_family = socket.AF_INET6


class _Handler(WSGIRequestHandler):
    timeout = PATIENCE_SECONDS

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Log nothing: a scrape is no event."""
