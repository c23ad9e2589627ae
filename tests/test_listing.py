"""Tests of listings: a local folder, a store asked by TensorFlow, a bucket of a small server."""

import base64
import http.server
import json
import os
import threading
import urllib.parse

import google_crc32c
import pytest

from trainer import files, listing


def test_a_local_folder_gives_sizes_and_times(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "a").write_bytes(b"123")
    os.utime(tmp_path / "a", (5, 7.5))
    assert listing.list_folder(str(tmp_path)) == {"a": listing.Entry(3, 7.5, None)}


def test_a_store_without_listings_of_its_own_gives_sizes():
    with files.open_file("ram://listing/a", "wb") as file:
        file.write(b"123")
    assert listing.list_folder("ram://listing") == {"a": listing.Entry(3, None, None)}


@pytest.fixture
def bucket(monkeypatch):
    """Serves listings of a bucket by Google's protocol, two objects a page; yields its content."""
    content = {}
    requests = []

    def answer(handler):
        url = urllib.parse.urlparse(handler.path)
        if url.path != "/storage/v1/b/name/o":
            return handler.send_error(404)
        query = dict(urllib.parse.parse_qsl(url.query))
        requests.append(query.get("pageToken"))
        names = sorted(name for name in content if name.startswith(query["prefix"]))
        start = int(query.get("pageToken", 0))
        page = {"items": [describe(name) for name in names[start : start + 2]]}
        if start + 2 < len(names):
            page["nextPageToken"] = str(start + 2)
        handler.send_response(200)
        handler.send_header("Content-Type", "application/json")
        handler.end_headers()
        return handler.wfile.write(json.dumps(page).encode())

    def describe(name):
        checksum = google_crc32c.value(content[name]).to_bytes(4, "big")
        crc32c = base64.b64encode(checksum).decode()
        return {"name": name, "size": str(len(content[name])), "crc32c": crc32c}

    actions = {"do_GET": answer, "log_message": lambda *_: None}
    handler = type("Handler", (http.server.BaseHTTPRequestHandler,), actions)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", f"http://127.0.0.1:{server.server_port}")
    yield content, requests
    server.shutdown()
    server.server_close()


def test_a_bucket_gives_sizes_and_checksums_page_by_page(bucket):
    content, requests = bucket
    content.update({"data/a": b"123456789", "data/b": b"", "data/c": b"x", "other": b""})
    found = listing.list_folder("gs://name/data")
    # e3069283 is the standard's check value of crc32c.
    assert found["a"] == listing.Entry(9, None, "e3069283")
    assert found["b"] == listing.Entry(0, None, "00000000")
    assert sorted(found) == ["a", "b", "c"]
    assert requests == [None, "2"]
