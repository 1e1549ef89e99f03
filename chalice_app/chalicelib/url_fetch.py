"""Fetch an image from a URL that a stranger chose, and from nowhere inside.

Server-side request forgery is kept out by what is connected to, not by how the URL looks
(https://cheatsheetseries.owasp.org/cheatsheets/Server_Side_Request_Forgery_Prevention_Cheat_Sheet.html):
the host is resolved once, every address that it has must be a public one, and the connection goes to
one of these very addresses. A name that resolves differently the next time gains nothing, and every
redirect starts from the beginning.
"""

import contextlib
import http.client
import ipaddress
import socket
import ssl
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from urllib.parse import SplitResult, urljoin, urlsplit

from chalicelib.errors import ImageTooLarge, UrlRefused, UrlUnavailable

PORTS = {"https": 443, "http": 80}
# From the first look-up to the last byte, redirects included: API Gateway waits for 29 seconds.
TOTAL_SECONDS = 8.0
MAX_REDIRECTS = 3
MAX_URL_LENGTH = 2048
REDIRECTS = frozenset({301, 302, 303, 307, 308})
CHUNK_BYTES = 64 * 1024
HEADERS = {"User-Agent": "droptune", "Accept": "image/*", "Accept-Encoding": "identity", "Connection": "close"}
# What `is_global` of some Python versions lets pass: IANA's special-purpose addresses
# (https://www.iana.org/assignments/iana-ipv4-special-registry/, …/iana-ipv6-special-registry/), and all that carry
# an IPv4 address for a gateway to pass on to (6to4, NAT64; Teredo is in 2001::/23, mapped ones are reserved).
SPECIAL = tuple(
    ipaddress.ip_network(network)
    for network in (
        "0.0.0.0/8",
        "100.64.0.0/10",
        "192.0.0.0/24",
        "192.88.99.0/24",
        "198.18.0.0/15",
        "240.0.0.0/4",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "100::/64",
        "2001::/23",
        "2001:db8::/32",
        "2002::/16",
        "3fff::/20",
        "5f00::/16",
        "fec0::/10",
    )
)
# An interface identifier of ISATAP (RFC 5214) holds an IPv4 address behind one of these.
ISATAP = frozenset({0x00005EFE, 0x02005EFE})


@dataclass(frozen=True)
class Target:
    """Where one request goes: the checked addresses of a host, in the resolver's order."""

    url: SplitResult
    host: str
    port: int
    addresses: tuple[str, ...]


def fetch(url: str, max_bytes: int, *, allow_http: bool = False, seconds: float = TOTAL_SECONDS) -> bytes:
    """The body behind `url`, of at most `max_bytes`.

    Args:
        url: an absolute URL; `https` only, unless `allow_http`.
        max_bytes: how many bytes the body may have.
        allow_http: whether unencrypted `http` is allowed too.
        seconds: how long everything may take.

    Raises UrlRefused (a URL, or one that it redirects to, that is not allowed), UrlUnavailable (no answer, not in
    time, or no 200), ImageTooLarge.
    """
    deadline = time.monotonic() + seconds
    schemes = frozenset(PORTS) if allow_http else frozenset({"https"})
    for _ in range(MAX_REDIRECTS + 1):
        target = check(url, schemes, deadline)
        answer = _get(target, max_bytes, deadline)
        if isinstance(answer, bytes):
            return answer
        url = urljoin(url, answer)
    raise UrlRefused(f"The URL redirects more than {MAX_REDIRECTS} times.", "Give the address of the image itself.")


def check(url: str, schemes: frozenset[str], deadline: float) -> Target:
    """Resolve the host of `url` and check all that can be said before connecting. Raises UrlRefused."""
    hint = "Give an https:// address on the public internet, without a user name, on port 443."
    if len(url) > MAX_URL_LENGTH or not url.isprintable() or any(letter in url for letter in " \\"):
        raise UrlRefused(f"The URL is longer than {MAX_URL_LENGTH} characters, or holds blanks or backslashes.", hint)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UrlRefused(f"The URL cannot be read: {error}.", hint) from error
    if parts.scheme not in schemes:
        raise UrlRefused(f"The URL's scheme is '{parts.scheme}', which is not allowed.", hint)
    if "@" in parts.netloc:
        raise UrlRefused("The URL holds a user name.", hint)
    if port not in (None, PORTS[parts.scheme]):
        raise UrlRefused(f"The URL's port is {port}, which is not allowed.", hint)
    host = _ascii_host(parts, hint)
    port = PORTS[parts.scheme]
    addresses = _resolve_in_time(host, port, deadline)
    for address in addresses:
        if not is_public(address):
            # The address is not told: that would show a stranger what names mean inside.
            raise UrlRefused(f"The host '{host}' is not, or not only, on the public internet.", hint)
    return Target(parts, host, port, tuple(addresses))


def _ascii_host(parts: SplitResult, hint: str) -> str:
    host = parts.hostname or ""
    try:
        ascii_host = host.encode("ascii" if ":" in host else "idna").decode("ascii")
    except UnicodeError as error:
        raise UrlRefused("The URL's host is no host name.", hint) from error
    if not ascii_host or "%" in ascii_host:
        raise UrlRefused("The URL names no host, or one with a zone.", hint)
    return ascii_host


def is_public(address: str) -> bool:
    """Whether `address` is on the public internet, and no way to an address that is not."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if any(parsed in network for network in SPECIAL if network.version == parsed.version):
        return False
    if parsed.version == 6 and (int(parsed) >> 32) & 0xFFFFFFFF in ISATAP:
        return False
    return parsed.is_global and not (parsed.is_multicast or parsed.is_reserved)


def resolve(host: str, port: int) -> list[str]:
    """All addresses of `host`, without repetition, in the resolver's order. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


# The resolver knows no deadline; a look-up that is given up ends by itself, after the resolver's own time.
_resolvers = ThreadPoolExecutor(max_workers=4, thread_name_prefix="resolve")


def _resolve_in_time(host: str, port: int, deadline: float) -> list[str]:
    hint = "Check the host name."
    try:
        found = _resolvers.submit(resolve, host, port).result(timeout=max(0.0, deadline - time.monotonic()))
    except TimeoutError as error:
        raise UrlUnavailable(f"The host '{host}' could not be looked up in time.", hint) from error
    except (OSError, UnicodeError) as error:
        raise UrlUnavailable(f"The host '{host}' could not be found.", hint) from error
    if not found:
        raise UrlUnavailable(f"The host '{host}' has no address.", hint)
    return found


def tls_context() -> ssl.SSLContext:
    """The system's trusted authorities, as for every other client."""
    return ssl.create_default_context()


class _PinnedConnection(http.client.HTTPConnection):
    """A connection to one checked address; certificate, SNI and Host stay those of the host's name."""

    def __init__(self, target: Target, address: str, deadline: float) -> None:
        super().__init__(target.host, target.port)
        self._target = target
        self._address = address
        self._deadline = deadline
        self._watch: threading.Timer | None = None
        self._connected: socket.socket | None = None
        self.timed_out = False

    def connect(self) -> None:
        left = max(0.1, self._deadline - time.monotonic())
        # Not `self.host`: resolving it again could give another address than the one that was checked.
        self.sock = socket.create_connection((self._address, self._target.port), timeout=left)
        # A socket's own timeout begins anew with every byte; a server that sends one a second never meets it.
        self._watch = threading.Timer(left, self._cut_off)
        self._watch.daemon = True
        self._watch.start()
        # Python's client lets go of its socket before the body of the last answer is read.
        self._connected = self.sock
        if self._target.url.scheme == "https":
            self.sock = self._connected = tls_context().wrap_socket(self.sock, server_hostname=self._target.host)

    def _cut_off(self) -> None:
        self.timed_out = True
        if self._connected is not None:
            with contextlib.suppress(OSError):  # It was closed in the same moment.
                self._connected.shutdown(socket.SHUT_RDWR)

    def end(self) -> None:
        """Close it, and stop watching it."""
        if self._watch is not None:
            self._watch.cancel()
        self.close()


def _get(target: Target, max_bytes: int, deadline: float) -> bytes | str:
    """The body, or where the answer redirects to."""
    hint = "Open the address in a browser to see whether it leads to an image."
    problem: Exception | None = None
    for address in target.addresses:
        if time.monotonic() >= deadline:
            break
        connection = _PinnedConnection(target, address, deadline)
        try:
            path = (target.url.path or "/") + (f"?{target.url.query}" if target.url.query else "")
            connection.request("GET", path, headers=HEADERS)
            with connection.getresponse() as response:
                return _read(response, max_bytes, deadline)
        except ConnectionRefusedError as error:
            # Nothing was sent yet: the host's next address may answer.
            problem = error
        except (OSError, http.client.HTTPException, ValueError) as error:
            if connection.timed_out:
                break
            raise UrlUnavailable(f"The host '{target.host}' gave no usable answer: {_reason(error)}.", hint) from error
        finally:
            connection.end()
    if problem is not None and time.monotonic() < deadline:
        raise UrlUnavailable(f"The host '{target.host}' refuses connections.", hint) from problem
    raise UrlUnavailable(f"The host '{target.host}' did not send the image in time.", hint)


def _read(response: http.client.HTTPResponse, max_bytes: int, deadline: float) -> bytes | str:
    hint = "Open the address in a browser to see whether it leads to an image."
    location = response.headers.get("Location")
    if response.status in REDIRECTS and location:
        return location
    if response.status != 200:
        raise UrlUnavailable(f"The URL answers with status {response.status}.", hint)
    if response.headers.get("Content-Encoding", "identity").lower() != "identity":
        # Unpacked it could be a thousand times as large; images are compressed already.
        raise UrlUnavailable("The URL answers with a compressed body, which was not asked for.", hint)
    too_large = ImageTooLarge(f"The URL's image has more than {max_bytes} bytes.", "Give the address of a smaller one.")
    if (response.length or 0) > max_bytes:
        raise too_large
    body = bytearray()
    while chunk := response.read1(CHUNK_BYTES):
        body += chunk
        if len(body) > max_bytes:
            raise too_large
    if response.length or time.monotonic() > deadline:
        raise UrlUnavailable("The URL's body ended early, or did not come in time.", hint)
    return bytes(body)


def _reason(error: Exception) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"its certificate is not valid ({error.verify_message})"
    return type(error).__name__
