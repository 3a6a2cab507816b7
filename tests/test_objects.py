"""One contract for every store: whole objects, created once; patience with one that is away; errors that say why."""

import logging
import os
import socket
import threading
import time
from pathlib import Path

import pytest

from cmp import objects
from cmp.objects import NoObjectError, ObjectStore, StoreError, is_url, url_mistake
from tests import stores
from tests.stores import WRONG_SECRET, Gate, error_xml


def test_what_was_put_is_got_listed_and_deleted(store: ObjectStore) -> None:
    store.put("a/1", b"one")
    store.put("a/2", b"two")
    store.put("b c", b"")
    store.put("a/1", b"another")

    assert store.get("a/1") == b"another"
    assert store.get_all(["b c", "a/2"]) == [b"", b"two"]
    assert store.list() == ["a/1", "a/2", "b c"]
    assert store.list("a") == ["a/1", "a/2"]
    store.delete(["a/1", "a/2", "never there"])
    assert store.list() == ["b c"]
    with pytest.raises(NoObjectError):
        store.get("a/1")


def test_an_object_is_created_by_whoever_comes_first(store: ObjectStore) -> None:
    contents = [f"writer {number}".encode() for number in range(8)]
    won: list[bytes] = []

    def create(content: bytes) -> None:
        if store.create_once("event", content):
            won.append(content)

    threads = [threading.Thread(target=create, args=(content,)) for content in contents]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(won) == 1
    assert store.get("event") == won[0]
    assert store.create_once("event", won[0]), "the same once more: an answer may have been lost on its way"


def test_a_probe_of_a_good_store_leaves_nothing_behind(store: ObjectStore) -> None:
    store.require_usable()
    assert store.list() == []


def test_objects_are_copied_below_another_url(store: ObjectStore) -> None:
    store.put("a/1", b"one")
    target = ObjectStore(f"{store.url}-moved")
    store.copy_all(["a/1"], target)
    assert target.get("a/1") == b"one"
    assert store.list() == ["a/1"]


def test_a_bucket_that_does_not_exist_is_named(store: ObjectStore) -> None:
    url = store.url.replace("//bucket", "//nobucket", 1)
    with pytest.raises(StoreError, match=r"there is no (bucket|container) nobucket[\w-]*; create it"):
        ObjectStore(url).require_usable()


def test_a_store_that_is_away_is_waited_for(s3: str, s3_gate: Gate, caplog: pytest.LogCaptureFixture) -> None:
    store = ObjectStore(s3)
    store.put("before", b"1")
    with caplog.at_level(logging.WARNING), s3_gate.away():
        writer = threading.Thread(target=store.put, args=("meanwhile", b"2"))
        writer.start()
        time.sleep(2.5)
        assert writer.is_alive()
    writer.join(20)

    assert store.get("meanwhile") == b"2"
    texts = [record.getMessage() for record in caplog.records]
    assert len(texts) == 2, "said once, and once more when it is over"
    assert f"{s3}: the store does not answer (" in texts[0] and "waiting for it" in texts[0]
    assert f"{s3} answers again, after " in texts[1]


def test_patience_ends(s3: str, s3_gate: Gate) -> None:
    pauses: list[float] = []
    store = ObjectStore(s3, patience_seconds=2.0, pause=lambda seconds: pauses.append(seconds) or time.sleep(0.1))
    with s3_gate.away(), pytest.raises(StoreError, match=r"does not answer \(.*\); waited \d+ s") as error:
        store.get("x")
    assert error.value.passing
    assert max(pauses) > 2 * pauses[0], "longer and longer"


WRONG_REGION = error_xml(
    "AuthorizationHeaderMalformed",
    "The authorization header is malformed; the region 'us-east-1' is wrong; expecting 'eu-west-1'",
    "<Region>eu-west-1</Region>",
)


@pytest.mark.parametrize(
    ("status", "body", "expected"),
    [
        (
            403,
            WRONG_SECRET,
            r"access denied \(SignatureDoesNotMatch: The request .*\); check AWS_ACCESS_KEY_ID",
        ),
        (400, WRONG_REGION, r"b is in another region; set AWS_REGION=eu-west-1$"),
        (301, error_xml("PermanentRedirect", "Use the other endpoint"), r"b is in another region; set AWS_REGION to "),
        (404, error_xml("NoSuchBucket", "The specified bucket does not exist"), r"there is no bucket b; create it"),
        (200, "", r"this store creates an object twice \(it ignores If-None-Match\)"),
    ],
)
def test_what_is_wrong_with_a_store_is_said_in_one_line_without_secrets(
    status: int, body: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with stores.start_one_answer(status, body) as port:
        for name, value in stores.s3_environment(port).items():
            monkeypatch.setenv(name, value)
        stores.forget_connections()
        with pytest.raises(StoreError, match=expected) as error:
            ObjectStore("s3://b/x").require_usable()
    stores.forget_connections()
    text = str(error.value)
    assert text.startswith("s3://b/x: ")
    assert "\n" not in text and "AKIA" not in text and "test-secret" not in text


def test_missing_credentials_are_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setattr(objects, "BRIEF_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    monkeypatch.setenv("AWS_METADATA_ENDPOINT", f"http://127.0.0.1:{port}")
    monkeypatch.setattr(objects, "_METADATA_SERVERS", (f"127.0.0.1:{port}",))
    stores.forget_connections()
    with pytest.raises(StoreError, match="no credentials were found; set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"):
        ObjectStore("s3://b/x").require_usable()
    stores.forget_connections()


def test_credentials_are_read_where_aws_configure_left_them(
    s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "credentials").write_text("[work]\naws_access_key_id = k\naws_secret_access_key = s\nother = 1\n")
    (tmp_path / "config").write_text("[profile work]\nregion = us-east-1\noutput = json\n")
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "work")
    stores.forget_connections()

    ObjectStore(s3).require_usable()

    assert objects._aws_profile() == {"aws_access_key_id": "k", "aws_secret_access_key": "s", "aws_region": "us-east-1"}


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://host/x", "http:// is not a store that results can go to; use a folder, or s3://BUCKET/PREFIX, gs://"),
        ("s3://KEY:hunter2@bucket/x", "leave credentials and options to the environment"),
        ("s3://bucket/x?secret=hunter2", "leave credentials and options to the environment"),
        ("az:///x", "az:///x does not name a container; write az://CONTAINER/PREFIX"),
    ],
)
def test_a_url_that_cannot_be_used_is_explained_without_repeating_a_secret(url: str, expected: str) -> None:
    mistake = url_mistake(url)
    assert mistake is not None and expected in mistake
    assert "hunter2" not in mistake


def test_folders_and_urls_are_told_apart() -> None:
    assert all(is_url(url) for url in ("s3://b", "gs://b/x", "http://x"))
    assert not any(is_url(folder) for folder in ("results", "/x/s3://", "s3:", Path("s3://b")))
    assert url_mistake("s3://my-bucket.x/a/b") is None
