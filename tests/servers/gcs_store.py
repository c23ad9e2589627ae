"""Google Cloud Storage's JSON interface over objects in memory, however it is reached.

Only what TensorFlow's own client and google-cloud-storage ask for; the rest is answered 501, so
that a test cannot pass by luck. Names and rules are those of
https://cloud.google.com/storage/docs/json_api/v1.
"""

import base64
import dataclasses
import email.parser
import functools
import hashlib
import itertools
import json
import re
import threading
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Any

import google_crc32c

QUANTUM = 256 * 1024  # an unfinished upload is kept in multiples of it


@dataclasses.dataclass
class Request:
    """A request as it was received; `whole` is false if the connection broke in its body."""

    method: str
    path: str
    query: Mapping[str, str]
    headers: Mapping[str, str]
    body: bytes
    whole: bool = True


@dataclasses.dataclass
class Response:
    """What is to be sent back."""

    status: int
    body: bytes | memoryview = b""
    headers: dict[str, str] = dataclasses.field(default_factory=dict)


class RefusedError(Exception):
    """A request that breaks a rule: (status, message)."""

    @property
    def response(self) -> Response:
        """The answer, in the form in which both clients look for the message."""
        status, message = self.args
        return _json({"error": {"code": status, "message": message}}, status)


@dataclasses.dataclass
class Object:
    """An object and the resource that describes it."""

    content: bytes
    resource: dict[str, Any]

    @property
    def generation(self) -> int:
        """The number of this content."""
        return int(self.resource["generation"])


@dataclasses.dataclass
class Upload:
    """A resumable upload; `finished` once it has become an object."""

    bucket: str
    name: str
    metadata: dict[str, Any]
    query: Mapping[str, str]
    received: bytearray = dataclasses.field(default_factory=bytearray)
    finished: Object | None = None


class Store:
    """Buckets of objects.

    Attributes:
        buckets: name → object name → object.
        forbidden: names of buckets that exist, and answer 403.
    """

    def __init__(self) -> None:
        """Starts without any bucket."""
        self.buckets: dict[str, dict[str, Object]] = {}
        self.forbidden: set[str] = set()
        self._uploads: dict[str, Upload] = {}
        self._numbers = itertools.count(1_700_000_000_000_001)
        self._lock = threading.RLock()
        names = r"/storage/v1/b/(?P<bucket>[^/]+)/o/(?P<name>[^/]+)"
        self._routes: list[tuple[str, str, str, Callable[..., Response]]] = [
            ("POST", "/storage/v1/b", "make bucket", self._make_bucket),
            ("GET", "/storage/v1/b/(?P<bucket>[^/]+)", "get bucket", self._get_bucket),
            ("GET", "/storage/v1/b/(?P<bucket>[^/]+)/storageLayout", "layout", self._layout),
            ("GET", "/storage/v1/b/(?P<bucket>[^/]+)/o", "list", self._list),
            ("GET", f"(/download)?{names}", "get", self._get),
            ("DELETE", names, "delete", self._delete),
            ("POST", f"{names}/(rewriteTo|copyTo)(?P<to>/b/.+)", "copy", self._copy),
            ("POST", f"{names}/compose", "compose", self._compose),
            ("POST", "/upload/storage/v1/b/(?P<bucket>[^/]+)/o", "insert", self._insert),
            ("PUT", "/upload/storage/v1/b/(?P<bucket>[^/]+)/o", "upload", self._continue),
            ("GET", "/(?P<bucket>[^/]+)/(?P<name>.+)", "read", self._read),  # as TensorFlow reads
        ]

    def read(self, path: str) -> bytes:
        """Returns the content of gs://bucket/name, for tests."""
        bucket, _, name = path.removeprefix("gs://").partition("/")
        return self.buckets[bucket][name].content

    def write(self, path: str, content: bytes) -> None:
        """Makes the object gs://bucket/name, for tests."""
        bucket, _, name = path.removeprefix("gs://").partition("/")
        self._put(bucket, name, content, {}, {})

    def names(self, folder: str) -> list[str]:
        """Returns the names under gs://bucket/prefix, what follows the prefix, for tests."""
        bucket, _, prefix = folder.removeprefix("gs://").partition("/")
        names = sorted(self.buckets[bucket])
        return [name.removeprefix(prefix) for name in names if name.startswith(prefix)]

    def route(self, request: Request) -> tuple[str, str, Callable[[], Response]]:
        """Returns a request's kind, the object or bucket that it is about, and its handler."""
        for method, pattern, kind, handler in self._routes:
            found = re.fullmatch(pattern, request.path)
            if found and method == request.method:
                named = {k: urllib.parse.unquote(v) for k, v in found.groupdict().items() if k}
                kind = "read" if request.query.get("alt") == "media" else kind
                subject = "/".join(v for k, v in named.items() if k in ("bucket", "name"))
                return kind, subject, functools.partial(self._handle, handler, request, named)
        return "unknown", request.path, lambda: RefusedError(501, "Not built here.").response

    def _handle(
        self, handler: Callable[..., Response], request: Request, named: dict[str, str]
    ) -> Response:
        try:
            with self._lock:
                if named.get("bucket") in self.forbidden:
                    raise RefusedError(
                        403, "tester does not have storage.objects access to the bucket."
                    )
                return handler(request, **named)
        except RefusedError as refused:
            return refused.response

    # Buckets --------------------------------------------------------------------------------------

    def _make_bucket(self, request: Request) -> Response:
        name = json.loads(request.body)["name"]
        if name in self.buckets:
            raise RefusedError(409, "Your previous request to create the bucket succeeded.")
        self.buckets[name] = {}
        return _json({"kind": "storage#bucket", "name": name})

    def _objects(self, bucket: str) -> dict[str, Object]:
        if bucket not in self.buckets:
            raise RefusedError(404, "The specified bucket does not exist.")
        return self.buckets[bucket]

    def _get_bucket(self, request: Request, bucket: str) -> Response:
        self._objects(bucket)
        return _json({"kind": "storage#bucket", "name": bucket, "location": "US"})

    def _layout(self, request: Request, bucket: str) -> Response:
        self._objects(bucket)
        return _json({"location": "US", "hierarchicalNamespace": {"enabled": False}})

    def _list(self, request: Request, bucket: str) -> Response:
        prefix, delimiter = request.query.get("prefix", ""), request.query.get("delimiter", "")
        objects, entries = self._objects(bucket), {}
        for name in sorted(objects):
            if not name.startswith(prefix) or name < request.query.get("startOffset", ""):
                continue
            head, found, _ = name[len(prefix) :].partition(delimiter) if delimiter else ("", "", "")
            entries[prefix + head + found if found else name] = None if found else objects[name]
        later = [name for name in entries if name > request.query.get("pageToken", "")]
        page = later[: int(request.query.get("maxResults", 1000))]
        answer: dict[str, Any] = {
            "kind": "storage#objects",
            "items": [entries[name].resource for name in page if entries[name]],
            "prefixes": [name for name in page if not entries[name]],
        }
        if len(page) < len(later):
            answer["nextPageToken"] = page[-1]
        return _json(answer)

    # Objects --------------------------------------------------------------------------------------

    def _find(self, request: Request, bucket: str, name: str) -> Object:
        found = self._objects(bucket).get(name)
        wanted = request.query.get("generation")
        if found is None or wanted not in (None, str(found.generation)):
            raise RefusedError(404, f"No such object: {bucket}/{name}")
        _check_generation(request.query, found)
        return found

    def _get(self, request: Request, bucket: str, name: str) -> Response:
        if request.query.get("alt") == "media":
            return self._read(request, bucket, name)
        return _json(self._find(request, bucket, name).resource)

    def _read(self, request: Request, bucket: str, name: str) -> Response:
        found = self._find(request, bucket, name)
        size = len(found.content)
        headers = {
            "Content-Type": "application/octet-stream",
            "ETag": found.resource["etag"],
            "X-Goog-Generation": found.resource["generation"],
            "X-Goog-Hash": f"crc32c={found.resource['crc32c']},md5={found.resource['md5Hash']}",
        }
        asked = re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("Range", ""))
        if not asked:
            return Response(200, found.content, headers)
        first, last = asked.groups()
        start = int(first) if first else max(0, size - int(last))
        stop = min(size, int(last) + 1) if first and last else size
        if start >= size:
            return Response(416, b"", {"Content-Range": f"bytes */{size}"})
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        return Response(206, memoryview(found.content)[start:stop], headers)

    def _delete(self, request: Request, bucket: str, name: str) -> Response:
        self._find(request, bucket, name)
        del self.buckets[bucket][name]
        return Response(204)

    def _copy(self, request: Request, bucket: str, name: str, to: str) -> Response:
        names = {"sourceGeneration": "generation", "ifSourceGenerationMatch": "ifGenerationMatch"}
        query = {names[key]: value for key, value in request.query.items() if key in names}
        source = dataclasses.replace(request, query=query)
        content = self._find(source, bucket, name).content
        _, _, target, _, new_name = to.split("/", 4)
        made = self._put(target, urllib.parse.unquote(new_name), content, {}, request.query)
        size = str(len(content))
        return _json(
            {
                "kind": "storage#rewriteResponse",
                "done": True,
                "objectSize": size,
                "totalBytesRewritten": size,
                "resource": made.resource,
            }
        )

    def _compose(self, request: Request, bucket: str, name: str) -> Response:
        sources = json.loads(request.body)["sourceObjects"]
        parts = []
        for source in sources:
            wanted = source.get("objectPreconditions", {})
            part = dataclasses.replace(request, query=wanted)
            parts.append(self._find(part, bucket, source["name"]).content)
        return _json(self._put(bucket, name, b"".join(parts), {}, request.query).resource)

    def _put(
        self,
        bucket: str,
        name: str,
        content: bytes,
        metadata: Mapping[str, Any],
        query: Mapping[str, str],
    ) -> Object:
        """Makes an object, if the checksums that were given hold and no precondition fails."""
        objects = self._objects(bucket)
        _check_generation(query, objects.get(name))
        crc = base64.b64encode(google_crc32c.value(content).to_bytes(4, "big")).decode()
        md5 = base64.b64encode(hashlib.md5(content).digest()).decode()
        for field, found in (("crc32c", crc), ("md5Hash", md5)):
            given = metadata.get(field, found)
            if given != found:
                raise RefusedError(
                    400, f"Provided {field} {given!r} doesn't match calculated {field} {found!r}."
                )
        generation = str(next(self._numbers))
        resource = {
            **metadata,
            "kind": "storage#object",
            "bucket": bucket,
            "name": name,
            "size": str(len(content)),
            "generation": generation,
            "metageneration": "1",
            "crc32c": crc,
            "md5Hash": md5,
            "etag": generation,
            "updated": "2026-01-01T00:00:00.000Z",
        }
        objects[name] = Object(content, resource)
        return objects[name]

    # Uploads --------------------------------------------------------------------------------------

    def _insert(self, request: Request, bucket: str) -> Response:
        self._objects(bucket)
        kind, given = request.query.get("uploadType"), _checksums(request.headers)
        if kind == "resumable":
            metadata = {**json.loads(request.body or b"{}"), **given}
            name = metadata.pop("name", None) or request.query["name"]
            key = str(next(self._numbers))
            self._uploads[key] = Upload(bucket, name, metadata, request.query)
            host = request.headers.get("Host", "")
            scheme = "https" if host.endswith("googleapis.com") else "http"
            where = f"{scheme}://{host}{request.path}?uploadType=resumable&upload_id={key}"
            return Response(200, b"", {"Location": where, "X-GUploader-UploadID": key})
        content, metadata = request.body, {}
        if kind == "multipart":
            metadata, content = _parts(request)
        name = metadata.pop("name", None) or request.query["name"]
        return _json(
            self._put(bucket, name, content, {**metadata, **given}, request.query).resource
        )

    def _continue(self, request: Request, bucket: str) -> Response:
        """Takes the next part of a resumable upload, or says how far it has come."""
        upload = self._uploads.get(request.query.get("upload_id", ""))
        if upload is None:
            raise RefusedError(404, "No such upload.")
        if upload.finished:
            return _json(upload.finished.resource)
        given = request.headers.get("Content-Range", f"bytes 0-/{len(request.body)}")
        found = re.fullmatch(r"bytes (?:\*|(\d+)-\d*)/(\*|\d+)", given)
        if not found:
            raise RefusedError(400, f"Content-Range {given!r} is malformed.")
        start, total = found.groups()
        if start is not None:
            self._receive(upload, request, int(start), total)
        if total != "*" and len(upload.received) == int(total) and request.whole:
            metadata = {**upload.metadata, **_checksums(request.headers)}
            content = bytes(upload.received)
            upload.finished = self._put(upload.bucket, upload.name, content, metadata, upload.query)
            upload.received.clear()
            return _json(upload.finished.resource)
        received = len(upload.received)
        return Response(308, b"", {"Range": f"bytes=0-{received - 1}"} if received else {})

    def _receive(self, upload: Upload, request: Request, start: int, total: str) -> None:
        if start > len(upload.received):
            raise RefusedError(503, f"Expected byte {len(upload.received)}, got {start}.")
        stop = start + len(request.body)
        if not request.whole:  # what had been written when the connection broke
            stop = max(len(upload.received), stop // QUANTUM * QUANTUM)
        elif stop % QUANTUM and str(stop) != total:
            raise RefusedError(400, f"A part that is not the last ends at byte {stop}.")
        upload.received += request.body[len(upload.received) - start : stop - start]


def _json(answer: Mapping[str, Any], status: int = 200) -> Response:
    return Response(status, json.dumps(answer).encode(), {"Content-Type": "application/json"})


def _check_generation(query: Mapping[str, str], found: Object | None) -> None:
    """Refuses a request whose precondition fails; an object that does not exist is number 0."""
    current = found.generation if found else 0
    wanted, unwanted = query.get("ifGenerationMatch"), query.get("ifGenerationNotMatch")
    if (wanted is not None and int(wanted) != current) or (unwanted == str(current)):
        raise RefusedError(412, "At least one of the pre-conditions you specified did not hold.")


def _checksums(headers: Mapping[str, str]) -> dict[str, str]:
    """Returns the checksums that an upload's headers give, by the names of the resource."""
    fields = {"crc32c": "crc32c", "md5": "md5Hash"}
    pairs = [
        part.strip().split("=", 1)
        for part in headers.get("X-Goog-Hash", "").split(",")
        if "=" in part
    ]
    return {fields[name]: value for name, value in pairs if name in fields}


def _parts(request: Request) -> tuple[dict[str, Any], bytes]:
    """Returns metadata and content of a multipart upload."""
    kind = request.headers["Content-Type"]
    boundary = email.parser.HeaderParser().parsestr(f"Content-Type: {kind}").get_boundary()
    marker = b"--" + boundary.encode()
    _, first, second = request.body.split(marker, 2)
    metadata = json.loads(first.partition(b"\r\n\r\n")[2])
    content = second.partition(b"\r\n\r\n")[2]
    return metadata, content[: content.rindex(b"\r\n" + marker + b"--")]
