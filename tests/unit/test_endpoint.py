"""Who is served what, over real connections."""

import http.client
import socket
import ssl
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from wsgiref.types import StartResponse, WSGIEnvironment

import pytest

from secgroupd.config import Serving
from secgroupd.endpoint import MAX_TOKEN_BYTES, Endpoint, Unservable, check

Listen = tuple[str, int]


def page(_: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
    start("200 OK", [("Content-Type", "text/plain")])
    return [b"numbers"]


def free(host: str = "127.0.0.1") -> Listen:
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as finder:
        finder.bind((host, 0))
        return host, finder.getsockname()[1]


@contextmanager
def served(serving: Serving) -> Iterator[Listen]:
    assert serving.listen
    with Endpoint(serving, page):
        yield serving.listen


def ask(
    listen: Listen,
    method: str = "GET",
    authorization: str | None = None,
    trusting: Path | None = None,
) -> tuple[int, str]:
    connection = http.client.HTTPConnection(*listen, timeout=10)
    if trusting is not None:
        context = ssl.create_default_context(cafile=str(trusting))
        connection = http.client.HTTPSConnection(*listen, timeout=10, context=context)
    headers = {} if authorization is None else {"Authorization": authorization}
    try:
        connection.request(method, "/metrics", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


def certified(directory: Path, name: str = "one", password: str | None = None) -> Serving:
    """Make a certificate for the loopback address."""
    cert, key = directory / f"{name}.crt", directory / f"{name}.key"
    secret = ["-passout", f"pass:{password}"] if password else ["-nodes"]
    subject = ["-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += [*secret, *subject, "-keyout", str(key), "-out", str(cert)]
    subprocess.run(command, check=True, capture_output=True)
    return Serving(listen=free(), cert_file=cert, key_file=key)


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_the_page_is_served_over_both_families(host: str) -> None:
    with served(Serving(listen=free(host))) as listen:
        assert ask(listen) == (200, "numbers")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD"])
def test_nothing_but_get_is_answered(method: str) -> None:
    with served(Serving(listen=free())) as listen:
        assert ask(listen, method)[0] == 405


def test_a_busy_port_is_an_error_and_free_again_after_closing() -> None:
    serving = Serving(listen=free())
    with served(serving), pytest.raises(Unservable, match="in use"):
        Endpoint(serving, page)
    Endpoint(serving, page).close()


def test_with_a_certificate_only_tls_is_spoken(tmp_path: Path) -> None:
    serving = certified(tmp_path)
    with served(serving) as listen:
        assert ask(listen, trusting=serving.cert_file) == (200, "numbers")
        with pytest.raises((http.client.HTTPException, ConnectionError)):
            ask(listen)
        stranger = certified(tmp_path, "two")
        with pytest.raises(ssl.SSLCertVerificationError):
            ask(listen, trusting=stranger.cert_file)


def test_who_says_nothing_holds_up_nobody(tmp_path: Path) -> None:
    serving = certified(tmp_path)
    with served(serving) as listen, socket.create_connection(listen):
        assert ask(listen, trusting=serving.cert_file)[0] == 200


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer s3cret", 200),
        ("bearer s3cret", 200),
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer s3cre", 401),
        ("Bearer s3cret2", 401),
        ("Basic s3cret", 401),
        ("Bearer s3cr\xe9t", 401),
    ],
)
def test_the_token_opens_and_nothing_else_does(
    tmp_path: Path, authorization: str | None, status: int
) -> None:
    file = tmp_path / "token"
    file.write_text("s3cret\n")
    with served(Serving(listen=free(), token_file=file)) as listen:
        found, text = ask(listen, authorization=authorization)
    assert (found, text) == (status, "numbers" if status == 200 else "")


@pytest.mark.parametrize("token", ["", "\n", "two words", "caf\xe9", "x" * (MAX_TOKEN_BYTES + 1)])
def test_what_is_no_token_is_never_taken_for_none(tmp_path: Path, token: str) -> None:
    file = tmp_path / "token"
    file.write_text(token)
    serving = Serving(listen=free(), token_file=file)
    for attempt in (lambda: check(serving), lambda: Endpoint(serving, page)):
        with pytest.raises(Unservable, match="is no token"):
            attempt()


def test_files_that_do_not_fit_are_refused_before_anything_is_served(tmp_path: Path) -> None:
    one, two = certified(tmp_path), certified(tmp_path, "two")
    missing = tmp_path / "missing"
    for serving, reason in (
        (replace(one, key_file=two.key_file), "mismatch"),
        (replace(one, cert_file=missing), "No such file"),
        (replace(one, key_file=one.cert_file), "no certificate and key"),
        (replace(one, token_file=missing), "cannot be read: No such file"),
        (replace(one, token_file=tmp_path), "cannot be read: Is a directory"),
        (certified(tmp_path, "locked", password="secret"), "the key is encrypted"),
    ):
        with pytest.raises(Unservable, match=f"(?i){reason}"):
            check(serving)
        with pytest.raises(Unservable):
            Endpoint(serving, page)
    check(one)
