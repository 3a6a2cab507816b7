"""Objects on a store (`s3://`, `gs://`, `az://`): put, got, listed, and created once. The only place for obstore.

Used by `store`, and by everything that knows only a URL. Nothing here is done halfway: an object is put in one request,
and a store that does not answer is asked again, with longer and longer pauses.
"""

import configparser
import contextlib
import functools
import logging
import os
import random
import re
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

logger = logging.getLogger(__name__)

T = TypeVar("T")

SCHEMES = {"s3": "BUCKET", "gs": "BUCKET", "az": "CONTAINER"}
"""The stores that results may go to, and what each calls the first part of a URL."""
PATIENCE_SECONDS = 600.0
"""How long a store that does not answer is waited for. Two writers are kept apart by `create_once`, not by time."""
BRIEF_SECONDS = 10.0
"""The same where nobody should wait: at the start, and for what can be written later."""

_PAUSE_SECONDS = (0.2, 5.0)  # before the first new try, and at most
_NOTICED_SECONDS = 1.0
_PARALLEL = 16


class StoreError(OSError):
    """A store that refuses or does not answer. The text is one line for people and holds no secret.

    Args:
        message: what happened, and what would be right.
        passing: it may go by itself: the store was away, or too busy.
    """

    def __init__(self, message: str, *, passing: bool = False) -> None:
        super().__init__(message)
        self.passing = passing


class NoObjectError(StoreError, FileNotFoundError):
    """There is no object of this name."""


def is_url(place: str | Path) -> bool:
    """Whether a place is written as a URL; a folder otherwise."""
    return isinstance(place, str) and re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", place) is not None


def url_mistake(url: str) -> str | None:
    """What is wrong with a store's URL as it is written, without repeating what may be a secret; None if nothing is."""
    parts = urlsplit(url)
    if parts.scheme not in SCHEMES:
        allowed = ", ".join(f"{scheme}://{first}/PREFIX" for scheme, first in SCHEMES.items())
        return f"{parts.scheme}:// is not a store that results can go to; use a folder, or {allowed}"
    if "@" in parts.netloc or parts.query or parts.fragment:
        return "a URL is only where results go; leave credentials and options to the environment"
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", parts.netloc):
        first = SCHEMES[parts.scheme]
        return f"{url} does not name a {first.lower()}; write {parts.scheme}://{first}/PREFIX"
    return None


class ObjectStore:
    """The objects below a URL, by name. May be used by several threads; waits for a store that is away.

    Credentials, endpoint and region come from the environment, never from the URL.

    Args:
        url: `s3://bucket/prefix`, for one.
        patience_seconds: how long to wait for a store that does not answer.
        pause: how to wait, in seconds; replaced in tests.

    Raises:
        StoreError: the URL is not one of a store.
    """

    def __init__(
        self, url: str, *, patience_seconds: float = PATIENCE_SECONDS, pause: Callable[[float], None] = time.sleep
    ) -> None:
        if (mistake := url_mistake(url)) is not None:
            raise StoreError(mistake)
        self.url = url.rstrip("/")
        self._prefix = urlsplit(self.url).path.strip("/")
        self._patience_seconds = patience_seconds
        self._pause = pause

    def put(self, name: str, content: bytes) -> None:
        """Write an object, in the place of an older one."""
        self._patiently(lambda obstore, client: obstore.put(client, self._key(name), content))

    def get(self, name: str) -> bytes:
        """What an object holds.

        Raises:
            NoObjectError: there is none of this name.
        """
        return self._patiently(lambda obstore, client: bytes(obstore.get(client, self._key(name)).bytes()))

    def get_all(self, names: Iterable[str]) -> list[bytes]:
        """What several objects hold, in their order; asked for at once."""
        with ThreadPoolExecutor(_PARALLEL) as pool:
            return list(pool.map(self.get, names))

    def list(self, below: str = "") -> list[str]:
        """The names of all objects in a folder and its folders, sorted, as `get` takes them."""
        start = len(self._prefix) + 1 if self._prefix else 0
        found = self._patiently(lambda obstore, client: obstore.list(client, self._key(below) or None).collect())
        return sorted(item["path"][start:] for item in found)

    def create_once(self, name: str, content: bytes) -> bool:
        """Create an object unless there is one of this name already.

        Returns:
            Whether it holds this very content: created now, or by an earlier try whose answer was lost on the way.
        """

        def create(obstore: Any, client: Any) -> bool:
            try:
                obstore.put(client, self._key(name), content, mode="create")
            except (obstore.exceptions.AlreadyExistsError, obstore.exceptions.PreconditionError):
                return False
            return True

        return self._patiently(create) or self.get(name) == content

    def delete(self, names: Iterable[str]) -> None:
        """Delete objects; those that are gone already are none of a problem."""
        keys = [self._key(name) for name in names]
        if keys:
            self._patiently(lambda obstore, client: _delete(obstore, client, keys))

    def copy_all(self, names: Iterable[str], target: "ObjectStore") -> None:
        """Copy objects to the same names below another URL of the same bucket, without reading them."""

        def copy(name: str) -> None:
            self._patiently(lambda obstore, client: obstore.copy(client, self._key(name), target._key(name)))

        with ThreadPoolExecutor(_PARALLEL) as pool:
            list(pool.map(copy, names))

    def require_usable(self) -> None:
        """Try all that a search needs with an object of its own, and leave nothing behind.

        Raises:
            StoreError: credentials, bucket or region are wrong, nobody answers, or the store lets an object be created
                twice, so that it could not keep two searches apart.
        """
        brief, name = self.briefly(), f".probe-{os.getpid()}-{random.getrandbits(64):016x}"
        brief.put(name, b"1")
        try:
            if brief.create_once(name, b"2"):
                raise StoreError(f"{self.url}: this store creates an object twice (it ignores If-None-Match)")
            brief.list()
        except StoreError:
            with contextlib.suppress(StoreError):
                brief.delete([name])
            raise
        brief.delete([name])

    def briefly(self) -> "ObjectStore":
        """The same objects, for who would rather fail than wait."""
        return ObjectStore(self.url, patience_seconds=BRIEF_SECONDS, pause=self._pause)

    def _key(self, name: str) -> str:
        return f"{self._prefix}/{name}".strip("/")

    def _patiently(self, action: Callable[[Any, Any], T]) -> T:
        """Do it, again and again while the store is away, with longer and longer pauses."""
        import obstore

        began, pause = time.monotonic(), _PAUSE_SECONDS[0]
        while True:
            try:
                result = action(obstore, _client(self.url))
                _note_back(self.url)
                return result
            except (obstore.exceptions.BaseError, OSError) as error:
                failure = _as_store_error(error, self.url)
            waited = time.monotonic() - began
            if not failure.passing:
                raise failure from None
            if waited >= self._patience_seconds:
                raise StoreError(f"{failure}; waited {waited:.0f} s", passing=True) from None
            if waited >= _NOTICED_SECONDS:
                _note_away(self.url, failure, began)
            self._pause(pause * random.uniform(0.5, 1.0))
            pause = min(2 * pause, _PAUSE_SECONDS[1])


# Since when each bucket is away: said once, whoever in this process waits for it.
_away: dict[str, float] = {}


def _note_away(url: str, failure: StoreError, since: float) -> None:
    bucket = urlsplit(url).netloc
    if bucket not in _away:
        _away[bucket] = since
        logger.warning("%s; waiting for it", failure)


def _note_back(url: str) -> None:
    if (since := _away.pop(urlsplit(url).netloc, None)) is not None:
        logger.warning("%s answers again, after %.0f s", url, time.monotonic() - since)


def _delete(obstore: Any, client: Any, keys: list[str]) -> None:
    try:
        obstore.delete(client, keys)
    except FileNotFoundError:
        for key in keys:
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(client, key)


def _client(url: str) -> Any:
    parts = urlsplit(url)
    return _bucket(parts.scheme, parts.netloc)


@functools.cache
def _bucket(scheme: str, name: str) -> Any:
    """Obstore's connection to a bucket. It reads the environment of its cloud; tries and pauses are `_patiently`'s."""
    from obstore.store import from_url

    connect: Any = from_url  # annotated by cloud, and here is any of them
    options = {"allow_http": True, "connect_timeout": "5s", "timeout": "60s"}
    config = _aws_profile() if scheme == "s3" else {}
    return connect(f"{scheme}://{name}", config=config, client_options=options, retry_config={"max_retries": 0})


_AWS_ENVIRONMENT = ("AWS_ACCESS_KEY_ID", "AWS_WEB_IDENTITY_TOKEN_FILE", "AWS_CONTAINER_CREDENTIALS_RELATIVE_URI")


def _aws_profile() -> dict[str, str]:
    """What `aws configure` left for $AWS_PROFILE (or `default`), which obstore does not read; the environment wins."""
    if any(os.environ.get(name) for name in _AWS_ENVIRONMENT):
        return {}
    profile = os.environ.get("AWS_PROFILE", "default")
    found: dict[str, str] = {}
    for variable, file, section in (
        ("AWS_SHARED_CREDENTIALS_FILE", "~/.aws/credentials", profile),
        ("AWS_CONFIG_FILE", "~/.aws/config", profile if profile == "default" else f"profile {profile}"),
    ):
        parser = configparser.RawConfigParser()
        parser.read(Path(os.environ.get(variable, file)).expanduser(), encoding="utf-8")
        found |= dict(parser[section]) if parser.has_section(section) else {}
    names = {"aws_access_key_id", "aws_secret_access_key", "aws_session_token"}
    config = {name: value for name, value in found.items() if name in names}
    if "region" in found and not (os.environ.get("AWS_REGION") or os.environ.get("AWS_DEFAULT_REGION")):
        config["aws_region"] = found["region"]
    return config


# Where machines in a cloud ask for their own credentials: the last thing that is tried.
_METADATA_SERVERS = ("169.254.169.254", "169.254.170.2", "metadata.google.internal")
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY",
}
_WRONG_REGION = ("PermanentRedirect", "AuthorizationHeaderMalformed", "incorrectly configured region")
_NO_BUCKET = ("NoSuchBucket", "ContainerNotFound", "bucket does not exist")
_AWAY = re.compile(r"status code: (408|409|429|5\d\d)|HTTP error|error sending request|timed out|operation timed out")


def _as_store_error(error: Exception, url: str) -> StoreError:
    """An exception of obstore's in a line that says what to change. Its own texts have whole URLs and XML."""
    parts, text = urlsplit(url), str(error).split("\n\nDebug source", 1)[0]
    variables, kind = _CREDENTIALS[parts.scheme], type(error).__name__
    if any(server in text for server in _METADATA_SERVERS):
        message = f"{url}: no credentials were found; set {variables}, or give the machine a role"
        return StoreError(message, passing=True)
    if any(word in text for word in _NO_BUCKET):
        first = SCHEMES[parts.scheme].lower()
        return StoreError(f"{url}: there is no {first} {parts.netloc}; create it, or correct the name")
    if any(word in text for word in _WRONG_REGION):
        expected = re.search(r"expecting '([\w-]+)'|<Region>([\w-]+)</Region>", text)
        right = f"AWS_REGION={expected[1] or expected[2]}" if expected else "AWS_REGION to the bucket's own"
        return StoreError(f"{url}: {parts.netloc} is in another region; set {right}")
    if kind in ("PermissionDeniedError", "UnauthenticatedError"):
        return StoreError(f"{url}: access denied ({_reason(text)}); check {variables} and what they are allowed to do")
    if isinstance(error, FileNotFoundError):
        return NoObjectError(f"{url}: {_reason(text)}")
    if _AWAY.search(text):
        return StoreError(f"{url}: the store does not answer ({_reason(text)})", passing=True)
    if "Account must be specified" in text:
        return StoreError(f"{url}: no credentials were found; set {variables}")
    return StoreError(f"{url}: {_reason(text)}")


def _reason(text: str) -> str:
    """The store's own code and words where it gave some, else the last part of the first line; no URL but its host."""
    found = [re.search(rf"<{tag}>([^<]+)</{tag}>", text) for tag in ("Code", "Message")]
    if found[0] is not None:
        return ": ".join(match[1].strip().split("\n")[0].rstrip(".") for match in found if match is not None)
    host = re.search(r"https?://[^/\s]+", text)
    last = text.split("\n", 1)[0].rpartition(" - ")[2]
    return re.sub(r"https?://\S+", "", last).strip(" :") + (f", {host[0]}" if host else "")
