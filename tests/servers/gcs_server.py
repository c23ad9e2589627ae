"""A storage server on loopback for the two real clients of gs://, with faults to order.

TensorFlow's client is C++ with fixed addresses, but it honours a proxy and a list of certificates:
the server is that proxy, and ends the TLS itself, with an authority that it makes for the occasion.
google-cloud-storage comes the same way, or by plain HTTP to STORAGE_EMULATOR_HOST. The server is
also the metadata server from which both get their tokens. Nothing leaves the machine.

    with gcs_server.serve() as server:
        server.make_bucket("bucket")
        subprocess.run(command, env={**os.environ, **server.environment()})
"""

import collections
import contextlib
import dataclasses
import datetime
import http.server
import json
import multiprocessing
import multiprocessing.managers
import os
import pathlib
import random
import ssl
import sys
import tempfile
import threading
import time
import urllib.parse
from collections.abc import Iterator

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers import gcs_store

HOSTS = ("www.googleapis.com", "storage.googleapis.com")
PIECE = 256 * 1024  # sent at once where bandwidth is limited
REFUSED_TOKEN = "refused"  # a client with this token gets 401
MARGIN_SECONDS = 60  # by which TensorFlow renews a token before it ends
METADATA = "/computeMetadata/v1/"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Faults:
    """What goes wrong, drawn by each request's number, so that every run meets the same.

    Attributes:
        seed: of the draws.
        busy: share of requests that are answered 503 or 429.
        cut: share whose connection breaks in the middle: an upload's while it is received, any
            other's while it is answered, after it was carried out.
        slow: share that wait `slow_seconds`.
        slow_seconds: length of such a spike.
        latency_seconds: added to every request.
        bytes_per_second: of each connection, in either direction; 0: as fast as it can.
        total_bytes_per_second: of all connections together, in either direction; 0: unlimited.
        outage_after: requests after which, for `outage_seconds`, every connection is dropped.
        outage_seconds: length of this absence.
        token_seconds: after which clients must have renewed their token; 0: any token will do.
    """

    seed: int = 0
    busy: float = 0.0
    cut: float = 0.0
    slow: float = 0.0
    slow_seconds: float = 0.2
    latency_seconds: float = 0.0
    bytes_per_second: float = 0.0
    total_bytes_per_second: float = 0.0
    outage_after: int = 0
    outage_seconds: float = 0.0
    token_seconds: float = 0.0


@dataclasses.dataclass
class Counts:
    """What was asked of the server since `begin`.

    Attributes:
        requests: kind → number; kinds are those of `gcs_store.Store`.
        faults: "busy", "cut", "slow", "outage", "refused token", "token" → number.
        objects: (kind, bucket/name) → number.
        bytes_up: received in bodies.
        bytes_down: sent in bodies.
    """

    requests: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    faults: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    objects: collections.Counter = dataclasses.field(default_factory=collections.Counter)
    bytes_up: int = 0
    bytes_down: int = 0


@dataclasses.dataclass
class Term:
    """A time in which the same faults are in force, and what it has seen.

    Attributes:
        faults: in force.
        counts: of what was asked since they are.
        back: when the outage ends; None before it has begun.
        number: requests since then.
        line_free: when the line of all connections has sent what it was given, by `time.monotonic`.
    """

    faults: Faults = Faults()
    counts: Counts = dataclasses.field(default_factory=Counts)
    back: float | None = None
    number: int = 0
    line_free: float = 0.0


class Server:
    """The server: a process of its own, of which `serve` gives out a proxy."""

    def __init__(self) -> None:
        """Binds a free port of loopback and answers from now on."""
        self._folder = tempfile.TemporaryDirectory()
        self._authority = pathlib.Path(self._folder.name, "authority.pem")
        self._http = _Http(_write_certificates(self._authority))
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def reset(self) -> None:
        """Starts with no buckets, faults or counts."""
        self._http.gone.update(self._http.store.buckets)
        self._http.store = gcs_store.Store()
        self.begin(Faults())

    def begin(self, faults: Faults) -> None:
        """Puts faults in force and resets the counts."""
        self._http.term = Term(faults)

    def counts(self) -> Counts:
        """Returns what was asked since `begin`."""
        return self._http.term.counts

    def make_bucket(self, name: str, forbidden: bool = False) -> str:
        """Makes an empty bucket, or one that nobody is let into, and returns gs://name."""
        self._http.store.buckets[name] = {}
        self._http.gone.discard(name)
        if forbidden:
            self._http.store.forbidden.add(name)
        return f"gs://{name}"

    def names(self, folder: str) -> list[str]:
        """Returns the names of the objects under gs://bucket/prefix, without the prefix."""
        return self._http.store.names(folder)

    def read(self, path: str) -> bytes:
        """Returns the content of gs://bucket/name."""
        return self._http.store.read(path)

    def write(self, path: str, content: bytes) -> None:
        """Makes the object gs://bucket/name."""
        self._http.store.write(path, content)

    def environment(self, token: str = "token") -> dict[str, str]:
        """Returns the variables that lead both clients of a process here.

        Args:
            token: that TensorFlow comes with; REFUSED_TOKEN is not let in. google-cloud-storage
                then comes by plain HTTP, without any. Empty: both come by TLS, with tokens of the
                metadata server.
        """
        address = f"127.0.0.1:{self._http.server_address[1]}"
        variables = {
            "https_proxy": f"http://{address}",
            "HTTPS_PROXY": f"http://{address}",
            "no_proxy": "127.0.0.1,localhost",
            "CURL_CA_BUNDLE": str(self._authority),
            "REQUESTS_CA_BUNDLE": str(self._authority),
            "GCE_METADATA_HOST": address,
            "GCE_METADATA_IP": address,
            "GCE_METADATA_ROOT": address,
            "GOOGLE_CLOUD_PROJECT": "project",
            "CLOUDSDK_CONFIG": self._folder.name,  # not the user's own login
        }
        if token:
            variables |= {"GOOGLE_AUTH_TOKEN_FOR_TESTING": token, "NO_GCE_CHECK": "true"}
            variables |= {"STORAGE_EMULATOR_HOST": f"http://{address}"}
        return variables


@contextlib.contextmanager
def serve() -> Iterator[Server]:
    """Starts a server and stops it at the end.

    It has a process of its own, because some of TensorFlow's calls wait for an answer while they
    keep Python's lock.
    """
    manager = _Manager(ctx=multiprocessing.get_context("spawn"))
    manager.start(_end_with_parent)
    with manager:
        yield manager.Server()


class _Manager(multiprocessing.managers.BaseManager):
    """Keeps the server in a process."""


_Manager.register("Server", Server)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None

    def wait() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


# What goes over the line --------------------------------------------------------------------------


class _Http(http.server.ThreadingHTTPServer):
    """Listens; the state that its connections share.

    Attributes:
        store: the buckets.
        gone: names of buckets that were before `reset`.
        term: the present one.
        tokens: token → when it was given out.
        tls: what a connection through the proxy is wrapped in.
        lock: of terms and tokens.
    """

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, certificates: pathlib.Path) -> None:
        """Binds a free port of loopback."""
        super().__init__(("127.0.0.1", 0), _Handler)
        self.store = gcs_store.Store()
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.load_cert_chain(certificates)
        self.gone: set[str] = set()
        self.term = Term()
        self.tokens: dict[str, float] = {}
        self.lock = threading.Lock()

    def term_of(self, bucket: str) -> Term:
        """Returns the present term, or one of its own for what a test before left behind.

        A client may ask once more for its bucket when the next test has begun, which is to meet the
        same faults and to count the same requests all the same.
        """
        return Term() if bucket in self.gone else self.term

    def handle_error(self, request: object, client_address: object) -> None:
        """Reports defects of the server, but not that a client has gone."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    """One connection: a client's own, or one that it opened through us as its proxy.

    Attributes:
        term: that of the request in hand.
    """

    protocol_version = "HTTP/1.1"
    # Else a body waits for the acknowledgement of its headers, which the client delays.
    disable_nagle_algorithm = True
    server: _Http
    term: Term

    def log_message(self, format: str, *args: object) -> None:
        """Stays silent."""

    def do_GET(self) -> None:
        """Answers a request."""
        self._answer()

    def do_POST(self) -> None:
        """Answers a request."""
        self._answer()

    def do_PUT(self) -> None:
        """Answers a request."""
        self._answer()

    def do_DELETE(self) -> None:
        """Answers a request."""
        self._answer()

    def do_CONNECT(self) -> None:
        """Becomes the host that the client wants to reach, and continues with TLS."""
        self.term = self.server.term
        host = self.path.partition(":")[0]
        if host not in HOSTS:
            self.send_error(403, f"{host} is not served here")
        elif self._is_outage():
            self.close_connection = True
        else:
            self.wfile.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
            self.rfile = self.connection.makefile("rb")
            self.wfile = self.connection.makefile("wb", 0)
            self.close_connection = False

    def _answer(self) -> None:
        """Answers any request, as the faults in force have it."""
        url = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        request = gcs_store.Request(self.command, url.path, query, self.headers, b"")
        kind, subject, handle = self.server.store.route(request)
        self.term = self.server.term_of(subject.partition("/")[0])
        if url.path.startswith(METADATA) or url.path == "/":
            self._send(self._metadata(url.path))
            return
        if self._is_outage():
            self.close_connection = True
            return
        busy, cut, slow = self._draw()
        time.sleep(self.term.faults.latency_seconds + slow * self.term.faults.slow_seconds)
        self._count(kind, subject)
        size = self._body_size()
        cut_upload = cut and size != 0 and kind in ("insert", "upload")
        wanted = size // 2 if cut_upload and size else size
        request.body = self._receive(wanted)
        cut_upload |= len(request.body) < wanted  # the client was killed
        request.whole = not cut_upload
        if cut_upload and kind == "insert" or self._is_outage():
            self.close_connection = True
        elif busy:
            self._send(gcs_store.RefusedError(busy, "Try again later.").response)
        elif not self._is_let_in():
            self._send(gcs_store.RefusedError(401, "Invalid Credentials").response)
        else:
            response = handle()
            if cut_upload:
                self.close_connection = True
            else:
                self._send(response, cut)

    # Faults ---------------------------------------------------------------------------------------

    def _is_outage(self) -> bool:
        term, now = self.term, time.monotonic()
        with self.server.lock:
            if term.number >= term.faults.outage_after and term.back is None:
                term.back = now + term.faults.outage_seconds
            away = term.back is not None and now < term.back
            term.counts.faults["outage"] += away
        return away

    def _draw(self) -> tuple[int, bool, bool]:
        """Returns the status if the server is to be busy, and whether to cut and to be slow."""
        with self.server.lock:
            self.term.number += 1
            faults = self.term.faults
            draws = random.Random(f"{faults.seed} {self.term.number}")
            busy = draws.choice((429, 503)) if draws.random() < faults.busy else 0
            cut = not busy and draws.random() < faults.cut
            slow = draws.random() < faults.slow
            self.term.counts.faults.update(busy=bool(busy), cut=cut, slow=slow)
        return busy, cut, slow

    def _is_let_in(self) -> bool:
        """Returns whether the request's token is good; on plain HTTP none is asked for."""
        faults, token = self.term.faults, self.headers.get("Authorization", "").split(" ")[-1]
        good = token != REFUSED_TOKEN
        if faults.token_seconds and isinstance(self.connection, ssl.SSLSocket):
            given_out = self.server.tokens.get(token, float("-inf"))
            # Clients may take the last one along for the request that they are about to send.
            good = time.monotonic() - given_out < faults.token_seconds + 1
        with self.server.lock:
            self.term.counts.faults["refused token"] += not good
        return good

    # Bodies ---------------------------------------------------------------------------------------

    def _body_size(self) -> int:
        """Returns the length of the body that follows; it may come in chunks all the same."""
        return int(self.headers.get("Content-Length", 0))

    def _receive(self, size: int) -> bytes:
        """Returns the first `size` bytes of the body, at the speed of the line."""
        body = bytearray()
        chunked = self.headers.get("Transfer-Encoding", "").lower() == "chunked"
        while chunked or len(body) < size:
            length = int(self.rfile.readline(), 16) if chunked else min(PIECE, size - len(body))
            piece = self.rfile.read(length)
            if chunked:
                self.rfile.readline()
            if not piece:
                break
            body += piece
            self._pace(len(piece))
        with self.server.lock:
            self.term.counts.bytes_up += len(body)
        return bytes(body[:size] if size else body)

    def _pace(self, size: int) -> None:
        faults, now = self.term.faults, time.monotonic()
        free = now
        if faults.total_bytes_per_second:
            with self.server.lock:
                free = max(now, self.term.line_free) + size / faults.total_bytes_per_second
                self.term.line_free = free
        seconds = size / faults.bytes_per_second if faults.bytes_per_second else 0.0
        time.sleep(max(seconds, free - now))

    def _send(self, response: gcs_store.Response, cut: bool = False) -> None:
        """Sends an answer, or half of it and then nothing any more."""
        body = memoryview(response.body)
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        if response.status != 204:
            self.send_header("Content-Length", str(len(body)))
        if cut and not body:
            self.close_connection = True  # before the headers are written
            return
        self.end_headers()
        size = len(body) // 2 if cut else len(body)
        with self.server.lock:  # before the client has it all, and asks for the counts
            self.term.counts.bytes_down += size
        for start in range(0, size, PIECE):
            piece = body[start : min(start + PIECE, size)]
            self._pace(len(piece))
            self.wfile.write(piece)
        self.close_connection |= cut

    def _count(self, kind: str, subject: str) -> None:
        with self.server.lock:
            self.term.counts.requests[kind] += 1
            self.term.counts.objects[kind, subject] += 1

    # Tokens ---------------------------------------------------------------------------------------

    def _metadata(self, path: str) -> gcs_store.Response:
        """Answers as the metadata server of a machine on Compute Engine does."""
        flavor = {"Metadata-Flavor": "Google", "Content-Type": "application/json"}
        account = {"email": "tester@project", "scopes": ["storage"], "aliases": ["default"]}
        rest = path.removeprefix(METADATA)
        if rest.endswith("/token"):
            answer: object = self._new_token()
        elif rest.startswith("instance/service-accounts/"):
            answer = account
        elif rest in ("", "/"):
            answer = {}
        else:
            return gcs_store.Response(404, b"", flavor)
        return gcs_store.Response(200, json.dumps(answer).encode(), flavor)

    def _new_token(self) -> dict[str, object]:
        with self.server.lock:
            self.term.counts.faults["token"] += 1
            token = f"token-{len(self.server.tokens) + 1}"
            self.server.tokens[token] = time.monotonic()
        seconds = int(self.term.faults.token_seconds or 3600) + MARGIN_SECONDS
        return {"access_token": token, "expires_in": seconds, "token_type": "Bearer"}


def _write_certificates(authority: pathlib.Path) -> pathlib.Path:
    """Writes an authority's certificate, and beside it one for HOSTS, which is returned."""
    root_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    basic = x509.BasicConstraints(ca=True, path_length=None)
    hosts = x509.SubjectAlternativeName([x509.DNSName(host) for host in HOSTS])
    root = _certificate("loopback authority", root_key, root_key, basic)
    authority.write_bytes(root.public_bytes(serialization.Encoding.PEM))
    leaf = _certificate(HOSTS[0], key, root_key, hosts)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    path = authority.with_name("server.pem")
    path.write_bytes(private + leaf.public_bytes(serialization.Encoding.PEM))
    return path


def _certificate(
    subject: str,
    key: ec.EllipticCurvePrivateKey,
    root_key: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.timezone.utc)
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        for name in (subject, "loopback authority")
    ]
    return (
        x509.CertificateBuilder()
        .subject_name(names[0])
        .issuer_name(names[1])
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(extension, critical=isinstance(extension, x509.BasicConstraints))
        .sign(root_key, hashes.SHA256())
    )
