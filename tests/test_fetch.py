import pytest

from engine import fetch as module
from engine.fetch import fetch
from tests import bad_server
from tests.bad_server import serving

httpx = pytest.importorskip("httpx")


def test_a_plain_address_is_asked_without_reading_certificates(monkeypatch):
    monkeypatch.setattr(module, "_trusted", lambda: pytest.fail("read"))
    with serving(bad_server.good) as server:
        assert fetch(f"{server.url}/chat/completions", within_s=5.0, body={}).status == 200


def test_certificates_are_read_once_and_checked(monkeypatch):
    read, create = [], httpx.create_ssl_context
    monkeypatch.setattr(httpx, "create_ssl_context", lambda: read.append(create()) or read[-1])
    module._trusted.cache_clear()
    for _ in range(2):
        assert fetch("https://127.0.0.1:9", within_s=5.0).problem.startswith("cannot be reached")
    module._trusted.cache_clear()
    assert len(read) == 1 and read[0].check_hostname
