"""Tests of what az:// asks for again; Azure itself is met in tests/io."""

import pathlib

import pytest

from trainer.errors import UnreachableError
from trainer.storage import azure, files

CLOSED = "Connection was closed by the server while trying to read a response"


def _failing(times, text):
    """Returns a verb that fails so many times, then says how often it was asked."""
    asked = []

    def verb():
        asked.append(None)
        if len(asked) <= times:
            raise RuntimeError(text)
        return len(asked)

    return verb


def test_a_closed_connection_is_asked_for_again():
    assert azure._persistent(_failing(2, CLOSED))() == 3


def test_other_errors_are_not():
    with pytest.raises(RuntimeError, match="AuthenticationFailed"):
        azure._persistent(_failing(1, "AuthenticationFailed"))()


def test_a_store_that_stays_closed_is_one_line(monkeypatch):
    monkeypatch.setattr(azure, "SECONDS", 0.2)
    with pytest.raises(
        UnreachableError, match=r"^az:// could not be reached \(Connection was .*resume.$"
    ):
        azure._persistent(_failing(99, CLOSED))()


@pytest.mark.parametrize("said", [CLOSED, "Fail to get a new connection for: https. Couldn't …"])
def test_what_tensorflow_says_of_connections_becomes_one_line(said):
    assert files.explain(f"{said} [Op:IteratorGetNext]") == (
        f"The store could not be reached ({said} [Op:IteratorGetNext]); check the account's name, "
        "or start again to resume."
    )


def _break_off(path, content, mode="w"):
    with files.writing(path, mode) as file:
        file.write(content)
        raise KeyError


def test_a_file_is_uploaded_once_its_writer_is_done_and_not_if_it_raises(monkeypatch):
    uploaded = []

    def upload(local, path):
        uploaded.append((path, pathlib.Path(local).read_bytes()))

    monkeypatch.setattr(files, "register_stores", lambda *paths: None)
    monkeypatch.setattr(azure, "upload", upload)
    path = "az://account/container/x"
    for mode, content in (("w", "é" * 10), ("wb", b"e" * 10)):
        with pytest.raises(KeyError):
            _break_off(path, content, mode)
    assert uploaded == []
    files.write_whole(path, "é")
    assert uploaded == [(path, "é".encode())]
