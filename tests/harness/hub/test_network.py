"""Whether a hub answers: found at once, through a proxy where one is set, and asked once a process."""

from __future__ import annotations

import socket
import time

import pytest
from huggingface_hub import constants

from harness.errors import ConfigError
from harness.hub import network
from tests.fake_hub import FakeHub


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_reachable_is_what_accepts_a_connection() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert network.reachable(f"http://127.0.0.1:{port}", within_s=5)
    assert not network.reachable(f"http://127.0.0.1:{port}", within_s=5)


def test_a_proxy_is_asked_in_the_place_of_the_hub(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("HTTPS_PROXY", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", hub.url)
    assert network.reachable("https://hub.invalid", within_s=5)
    monkeypatch.setenv("no_proxy", "hub.invalid")
    assert not network.reachable("https://hub.invalid", within_s=1)


def test_a_hub_that_does_not_answer_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{free_port()}")
    asked = []
    monkeypatch.setattr(network, "reachable", lambda url, *, within_s: asked.append(url))
    start = time.monotonic()
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"{constants.ENDPOINT} cannot be reached; .* HF_HUB_OFFLINE=1 .*beamlora fetch"):
            network.require_answer()
    assert asked == [constants.ENDPOINT] and time.monotonic() - start < 5
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    network.require_answer()
