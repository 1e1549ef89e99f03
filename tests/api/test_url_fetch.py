"""Fetching from URLs: nothing inside is ever connected to, and what is fetched has its limits."""

import datetime
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from chalicelib import url_fetch
from chalicelib.errors import ImageTooLarge, UrlRefused, UrlUnavailable
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

BODY = b"\xff\xd8 an image"
PUBLIC = "93.184.215.14"
# What names of a hostile zone lead to; the last is asked for more than once.
ZONE = {
    "loopback.example": ["127.0.0.1"],
    "loopback6.example": ["::1"],
    "metadata.example": ["169.254.169.254"],
    "private10.example": ["10.0.0.1"],
    "private172.example": ["172.16.0.1"],
    "private192.example": ["192.168.1.1"],
    "carrier.example": ["100.64.0.1"],
    "half.example": [PUBLIC, "10.0.0.1"],
    "half6.example": [PUBLIC, "fd00::1"],
    "mapped.example": ["::ffff:127.0.0.1"],
    "zone.example": ["fe80::1%lo"],
    "nothing.example": [],
    "public.example": [PUBLIC],
}
LITERALS = [
    # The loopback address in every notation of inet_aton(3).
    "127.0.0.1",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0x0.0x0.0x1",
    "0x7f.1",
    "017700000001",
    "0177.0.0.1",
    "0177.0.0x1",
    "127.0.0.1.",
    "127.255.255.254",
    # Other special-purpose addresses of IPv4.
    "0",
    "0.0.0.0",
    "0.1.2.3",
    "10.0.0.1",
    "10.255.255.255",
    "167772161",
    "100.64.0.1",
    "100.127.255.255",
    "169.254.169.254",
    "0xa9fea9fe",
    "0251.0376.0251.0376",
    "2852039166",
    "172.16.0.1",
    "172.31.255.255",
    "192.0.0.170",
    "192.0.2.1",
    "192.88.99.1",
    "192.168.0.1",
    "3232235777",
    "198.18.0.1",
    "198.51.100.1",
    "203.0.113.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    # IPv6, and IPv4 inside of it.
    "[::]",
    "[::1]",
    "[0:0:0:0:0:0:0:1]",
    "[::ffff:127.0.0.1]",
    "[::ffff:7f00:1]",
    "[::ffff:10.0.0.1]",
    "[::ffff:169.254.169.254]",
    "[::127.0.0.1]",
    "[::ffff:0:127.0.0.1]",
    "[64:ff9b::127.0.0.1]",
    "[64:ff9b::a9fe:a9fe]",
    "[64:ff9b:1::10.0.0.1]",
    "[2002:7f00:1::]",
    "[2002:a9fe:a9fe::1]",
    "[2001:0:7f00:1::]",
    "[2001:0:4136:e378:8000:63bf:3fff:fdd2]",
    "[2001:db8::1]",
    "[2001:10::1]",
    "[3fff::1]",
    "[5f00::1]",
    "[100::1]",
    "[fc00::1]",
    "[fd00:ec2::254]",
    "[fe80::1]",
    "[fe80::1%25lo]",
    "[fec0::1]",
    "[ff02::1]",
    "[2a00:1450::5efe:a00:1]",
    "[2a00:1450::200:5efe:a00:1]",
    # Names, by way of the host's own files and of unusual letters.
    "localhost",
    "LOCALHOST.",
    "ⓛocalhost",
    "①②⑦.⓪.⓪.①",
    "127。0。0。1",
]
URLS = [
    *(f"https://{literal}/a.jpg" for literal in LITERALS),
    *(f"https://{name}/a.jpg" for name in ZONE if name != "public.example"),
    # What a URL may be besides.
    f"http://{PUBLIC}/a.jpg",
    "ftp://public.example/a.jpg",
    "file:///etc/passwd",
    "gopher://127.0.0.1:25/_HELO",
    "dict://127.0.0.1:11211/stat",
    "data:image/png;base64,AAAA",
    "//public.example/a.jpg",
    "public.example/a.jpg",
    "https:///a.jpg",
    "https://",
    "",
    "https://public.example@127.0.0.1/",
    "https://user:secret@public.example/",
    "https://@public.example/",
    "https://public.example:22/",
    "https://public.example:8443/",
    "https://public.example:0/",
    "https://public.example:x/",
    "https://public.example:99999/",
    "https://127.0.0.1\\@public.example/",
    "https://public.example\\.127.0.0.1/",
    "https://public.example/a b.jpg",
    "https://public.example/a\r\nHost: inside",
    "https://public.example\t/",
    "https://[::1/",
    "https://[v1.x]/",
    "https://" + "a" * 64 + ".example/",
    "https://public.example/" + "a" * 2048,
]


@dataclass
class Inside:
    """A server on the loopback address, and every address that a socket of this process connects to."""

    port: int
    requests: list[str] = field(default_factory=list)
    connected: list[str] = field(default_factory=list)
    handle: Callable[[BaseHTTPRequestHandler], None] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> Iterator[Inside]:
    """A real server that must not be reached, on the only ports that are allowed; names lead where `ZONE` says."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            state.requests.append(self.path)
            if state.handle is not None:
                state.handle(self)
                return
            self.send_response(200)
            self.send_header("Content-Length", str(len(BODY)))
            self.end_headers()
            self.wfile.write(BODY)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            """Keep the test's output clean."""

    real_connect, real_lookup = socket.socket.connect, socket.getaddrinfo

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        state.connected.append(address[0])
        if address[0] == PUBLIC:
            raise ConnectionRefusedError("this test has no internet")
        real_connect(self, address)

    def lookup(host: str, port: int, *arguments: int, **options: int) -> list[tuple[object, ...]]:
        if host in ZONE:
            return [(0, 0, 0, "", (address, port)) for address in ZONE[host]]
        found: list[tuple[object, ...]] = real_lookup(host, port, *arguments, **options)  # type: ignore[assignment]
        return found

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        state = Inside(server.server_address[1])
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        monkeypatch.setattr(url_fetch, "PORTS", {"https": state.port, "http": state.port})
        monkeypatch.setattr(socket.socket, "connect", connect)
        monkeypatch.setattr(socket, "getaddrinfo", lookup)
        yield state
        server.shutdown()
        thread.join()


@pytest.fixture
def reachable(inside: Inside, monkeypatch: pytest.MonkeyPatch) -> Inside:
    """The same server, whose address counts as public: what comes after the check."""
    real = url_fetch.is_public
    monkeypatch.setattr(url_fetch, "is_public", lambda address: address == "127.0.0.1" or real(address))
    return inside


def fetch(url: str, *, max_bytes: int = 1000, seconds: float = 5.0) -> bytes:
    return url_fetch.fetch(url, max_bytes, allow_http=True, seconds=seconds)


class TestNothingInsideIsReached:
    def test_there_are_enough_of_them(self) -> None:
        assert len(URLS) == len(set(URLS)) >= 40

    @pytest.mark.parametrize("url", URLS, ids=range(len(URLS)))
    def test_a_url(self, inside: Inside, url: str) -> None:
        # GIVEN a server on the loopback address, on the very port that is allowed
        # WHEN the URL is fetched as the API does
        with pytest.raises((UrlRefused, UrlUnavailable)) as caught:
            url_fetch.fetch(url, 1000)
        # THEN it is refused with a next step, no socket has connected anywhere, and the server has seen nothing
        assert caught.value.hint
        assert (inside.connected, inside.requests) == ([], [])

    @pytest.mark.parametrize("literal", LITERALS, ids=range(len(LITERALS)))
    def test_a_literal_where_http_is_allowed(self, inside: Inside, literal: str) -> None:
        with pytest.raises((UrlRefused, UrlUnavailable)):
            fetch(f"http://{literal}/a.jpg")
        assert (inside.connected, inside.requests) == ([], [])

    def test_the_same_server_is_reached_when_its_address_is_allowed(self, reachable: Inside) -> None:
        # GIVEN the server of these tests WHEN only the check of the address is left out
        # THEN it is reached: the tests above could have failed
        assert fetch("http://127.0.0.1/a.jpg") == BODY
        assert (reachable.connected, reachable.requests) == (["127.0.0.1"], ["/a.jpg"])

    def test_a_name_that_leads_elsewhere_the_second_time(self, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
        # GIVEN a name that is public for the first look-up and private for every later one
        answers = [[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]]
        monkeypatch.setattr(url_fetch, "resolve", lambda *_: answers.pop(0))
        # WHEN it is fetched
        with pytest.raises(UrlUnavailable):
            fetch("http://rebinding.example/a.jpg")
        # THEN the address that was checked is the one that was connected to, and there was no second look-up
        assert (inside.connected, inside.requests, len(answers)) == ([PUBLIC], [], 2)

    @pytest.mark.parametrize(
        "target",
        [
            "http://10.0.0.1/",
            "http://169.254.169.254/latest/meta-data/",
            "http://[::1]/",
            "//10.0.0.1/",
            "http://metadata.example/",
            "http://half.example/",
            "http://127.0.0.1:22/",
            "http://user@127.0.0.1/",
            "file:///etc/passwd",
            "ftp://127.0.0.1/",
            "http://[::ffff:10.0.0.1]/",
        ],
    )
    def test_a_redirect(self, reachable: Inside, target: str) -> None:
        # GIVEN a public server that redirects inside
        def redirect(request: BaseHTTPRequestHandler) -> None:
            request.send_response(302)
            request.send_header("Location", target)
            request.end_headers()

        reachable.handle = redirect
        # WHEN it is asked
        with pytest.raises(UrlRefused):
            fetch("http://127.0.0.1/a.jpg")
        # THEN only the server itself was connected to
        assert (reachable.connected, reachable.requests) == (["127.0.0.1"], ["/a.jpg"])

    def test_no_downgrade(self, reachable: Inside) -> None:
        # GIVEN that http is not allowed WHEN an address of it comes (by itself, or as a redirect: it is the same check)
        with pytest.raises(UrlRefused, match="scheme is 'http'"):
            url_fetch.fetch("http://127.0.0.1/", 1000)
        assert reachable.connected == []

    def test_proxies_of_the_environment_take_no_part(self, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
            monkeypatch.setenv(name, inside.url)
        with pytest.raises(UrlUnavailable):
            fetch("http://public.example/a.jpg")
        assert (inside.connected, inside.requests) == ([PUBLIC], [])


class TestWhatIsFetched:
    def test_redirects_up_to_three(self, reachable: Inside) -> None:
        def redirect(request: BaseHTTPRequestHandler) -> None:
            left = int(request.path.strip("/"))
            request.send_response(200 if left == 0 else 307)
            request.send_header("Location", str(left - 1))
            request.send_header("Content-Length", str(len(BODY)))
            request.end_headers()
            request.wfile.write(BODY)

        reachable.handle = redirect
        assert fetch("http://127.0.0.1/3") == BODY
        assert reachable.requests == ["/3", "/2", "/1", "/0"]
        with pytest.raises(UrlRefused, match="more than 3 times"):
            fetch("http://127.0.0.1/4")

    def test_the_host_is_asked_by_its_name(self, reachable: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
        hosts: list[str | None] = []

        def note(request: BaseHTTPRequestHandler) -> None:
            hosts.append(request.headers["Host"])
            request.send_error(404)

        reachable.handle = note
        monkeypatch.setitem(ZONE, "named.example", ["127.0.0.1"])
        with pytest.raises(UrlUnavailable, match="status 404"):
            fetch("http://named.example/")
        assert hosts == [f"named.example:{reachable.port}"]

    @pytest.mark.parametrize("length", [True, False], ids=["announced", "unannounced"])
    def test_too_many_bytes(self, reachable: Inside, length: bool) -> None:
        def flood(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            if length:
                request.send_header("Content-Length", "1000000")
            request.end_headers()
            for _ in range(100):
                request.wfile.write(b"x" * 10_000)

        reachable.handle = _until_hung_up(flood)
        with pytest.raises(ImageTooLarge, match="more than 1000 bytes"):
            fetch("http://127.0.0.1/a.jpg")

    def test_a_body_that_ends_early(self, reachable: Inside) -> None:
        def cut_off(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Length", "100")
            request.end_headers()
            request.wfile.write(b"x")

        reachable.handle = cut_off
        with pytest.raises(UrlUnavailable):
            fetch("http://127.0.0.1/a.jpg")

    def test_a_compressed_body(self, reachable: Inside) -> None:
        def bomb(request: BaseHTTPRequestHandler) -> None:
            request.send_response(200)
            request.send_header("Content-Encoding", "gzip")
            request.end_headers()

        reachable.handle = bomb
        with pytest.raises(UrlUnavailable, match="compressed"):
            fetch("http://127.0.0.1/a.jpg")

    @pytest.mark.parametrize("where", ["headers", "body"])
    def test_a_server_that_drips(self, reachable: Inside, where: str) -> None:
        # GIVEN a server that sends a byte before every timeout of a socket
        stop = threading.Event()

        def drip(request: BaseHTTPRequestHandler) -> None:
            request.wfile.write(b"HTTP/1.1 200 OK\r\n" + (b"X: " if where == "headers" else b"\r\n"))
            while not stop.wait(0.05):
                request.wfile.write(b"x")
                request.wfile.flush()

        reachable.handle = _until_hung_up(drip)
        # WHEN everything together may take half a second THEN it does not take for ever
        try:
            with pytest.raises(UrlUnavailable, match="in time"):
                fetch("http://127.0.0.1/a.jpg", seconds=0.5)
        finally:
            stop.set()

    def test_a_name_that_is_looked_up_for_ever(self, inside: Inside, monkeypatch: pytest.MonkeyPatch) -> None:
        stop = threading.Event()

        def wait(*_: object) -> list[str]:
            stop.wait(30)
            return [PUBLIC]

        monkeypatch.setattr(url_fetch, "resolve", wait)
        try:
            with pytest.raises(UrlUnavailable, match="looked up in time"):
                fetch("http://slow.example/a.jpg", seconds=0.2)
        finally:
            stop.set()

    def test_no_http_at_all(self, reachable: Inside) -> None:
        def greet(request: BaseHTTPRequestHandler) -> None:
            request.wfile.write(b"SSH-2.0-OpenSSH\r\n")

        reachable.handle = greet
        with pytest.raises(UrlUnavailable, match="no usable answer"):
            fetch("http://127.0.0.1/a.jpg")


def _until_hung_up(
    handle: Callable[[BaseHTTPRequestHandler], None],
) -> Callable[[BaseHTTPRequestHandler], None]:
    def guarded(request: BaseHTTPRequestHandler) -> None:
        try:
            handle(request)
        except OSError:
            # The client has had enough, which is what is tested.
            request.close_connection = True

    return guarded


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate of `good.example`, signed by itself, and its key, in one file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "good.example")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName("good.example")]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = tmp_path_factory.mktemp("tls") / "pair.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(private + made.public_bytes(serialization.Encoding.PEM))
    return file


class TestTls:
    @pytest.fixture
    def names(self, certificate: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
        """The names that clients say in their first message to a TLS server on the loopback address."""
        asked: list[str] = []
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate)
        context.sni_callback = lambda _socket, name, _context: asked.append(str(name))

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.send_response(200)
                self.send_header("Content-Length", str(len(BODY)))
                self.end_headers()
                self.wfile.write(BODY)

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002
                """Keep the test's output clean."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that does not like the certificate hangs up."""

        with Server(("127.0.0.1", 0), Handler) as server:
            server.socket = context.wrap_socket(server.socket, server_side=True)
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
            thread.start()
            monkeypatch.setattr(url_fetch, "PORTS", {"https": server.server_address[1]})
            monkeypatch.setattr(url_fetch, "resolve", lambda *_: ["127.0.0.1"])
            monkeypatch.setattr(url_fetch, "is_public", lambda address: address == "127.0.0.1")
            yield asked
            server.shutdown()
            thread.join()

    def test_the_pinned_connection_speaks_the_hosts_name(
        self, names: list[str], certificate: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # GIVEN a client that trusts the certificate of good.example
        trusting = ssl.create_default_context(cafile=str(certificate))
        monkeypatch.setattr(url_fetch, "tls_context", lambda: trusting)
        # WHEN it fetches from there by an address THEN SNI and the check are those of the name
        assert url_fetch.fetch("https://good.example/a.jpg", 1000) == BODY
        assert names == ["good.example"]
        # AND another name has no certificate there
        with pytest.raises(UrlUnavailable, match="certificate is not valid"):
            url_fetch.fetch("https://other.example/a.jpg", 1000)

    def test_an_unknown_authority(self, names: list[str]) -> None:
        with pytest.raises(UrlUnavailable, match="certificate is not valid"):
            url_fetch.fetch("https://good.example/a.jpg", 1000)


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:80b::200e"]
)
def test_public_addresses(address: str) -> None:
    assert url_fetch.is_public(address)


def test_no_special_network_is_public() -> None:
    # GIVEN the first and the last address of every network that is told apart
    for network in url_fetch.SPECIAL:
        for address in (network[0], network[-1]):
            assert not url_fetch.is_public(str(address)), address
    # AND what is no address at all
    assert not url_fetch.is_public("fe80::1%lo0")
    assert not url_fetch.is_public("x")
