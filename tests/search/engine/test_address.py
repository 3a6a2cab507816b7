"""Where a cluster is, and what is said to those whom it does not let in."""

import json
import platform
import time

import pytest
import ray

from cmp.search.engine import address, ray_private
from cmp.search.engine.address import cluster_address, require_reachable
from cmp.search.engine.ray_private import Greeting, Versions
from cmp.space.errors import UserError


@pytest.fixture
def listening(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(address, "_require_listening", lambda address: None)


def test_an_address_where_nobody_listens_is_refused_within_seconds() -> None:
    began = time.monotonic()
    with pytest.raises(UserError, match=r"--address: nobody answers at 127\.0\.0\.1:1 .*ray start --head"):
        require_reachable("127.0.0.1:1")
    with pytest.raises(UserError, match="nobody answers at host:port"):
        require_reachable("host:port")

    assert time.monotonic() - began < 10


@pytest.mark.parametrize("url", ["ray://head:10001", "http://head:8265"])
def test_an_address_of_something_else_is_refused(url: str) -> None:
    with pytest.raises(UserError, match="is for Ray's remote client or its job server"):
        require_reachable(url)


def test_auto_without_a_cluster_on_this_machine_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_private, "address_of_local_cluster", lambda: None)
    with pytest.raises(UserError, match="auto, but no cluster runs on this machine"):
        require_reachable("auto")


def test_the_variable_that_a_submitted_job_has_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.0.0.1:6379")
    assert cluster_address(None) == "10.0.0.1:6379"
    assert cluster_address("10.0.0.2:6379") == "10.0.0.2:6379"
    assert cluster_address("local") is None
    monkeypatch.delenv("RAY_ADDRESS")
    assert cluster_address(None) is None


@pytest.mark.usefixtures("listening")
@pytest.mark.parametrize(
    ("greeting", "words"),
    [
        (Greeting.NO_TOKEN, "asks for a token, and there is none here; copy ~/.ray/auth_token"),
        (Greeting.WRONG_TOKEN, "asks for another token than the one here; copy ~/.ray/auth_token"),
        ("Deadline Exceeded", r"does not answer as one of Ray \(Deadline Exceeded\)"),
        (
            (Versions("2.60.0", "3.12.3"), Versions("2.60.0", "3.11.7")),
            r"runs Ray 2\.60\.0 on Python 3\.12\.3, this program Ray 2\.60\.0 on Python 3\.11\.7; they must",
        ),
    ],
    ids=["no token", "another token", "something else", "another Python"],
)
def test_who_is_not_let_in_is_told_why_and_what_to_do(
    monkeypatch: pytest.MonkeyPatch, greeting: object, words: str
) -> None:
    """Without this, two minutes of silence, and then that no cluster was found."""
    monkeypatch.setattr(ray_private, "greet", lambda address: greeting)
    with pytest.raises(UserError, match=words):
        require_reachable("10.0.0.1:6379")


@pytest.mark.usefixtures("listening")
def test_a_cluster_with_the_same_versions_lets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    same = Versions("2.60.0", "3.11.7")
    monkeypatch.setattr(ray_private, "greet", lambda address: (same, same))

    require_reachable("10.0.0.1:6379")
    require_reachable(None)


@pytest.mark.parametrize(
    ("metadata", "theirs"),
    [
        ({"ray_version": ray.__version__, "python_version": "3.1.4"}, f"Ray {ray.__version__} on Python 3.1.4"),
        ({"ray_version": "1.0.0", "python_version": platform.python_version()}, "Ray 1.0.0 on Python"),
    ],
    ids=["another Python", "another Ray"],
)
def test_both_versions_of_a_mismatch_are_named(
    monkeypatch: pytest.MonkeyPatch, metadata: dict[str, str], theirs: str
) -> None:
    """Ray's own message is of six lines, of which the first names neither."""

    class Store:
        def __init__(self, address: str) -> None:
            pass

        def internal_kv_get(self, key: bytes, namespace: bytes, timeout: float) -> bytes:
            return json.dumps({**metadata, "ray_init_cluster": False}).encode()

    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setattr(ray_private, "GcsClient", Store)
    monkeypatch.setattr(address, "_require_listening", lambda address: None)
    ours = f"this program Ray {ray.__version__} on Python {platform.python_version()}; they must be the same"
    with pytest.raises(UserError) as raised:
        require_reachable("10.0.0.1:6379")

    assert theirs in str(raised.value) and ours in str(raised.value)
