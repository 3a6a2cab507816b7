"""What results on an object store cost: an append to the journal, beside the disk's, and opening a long journal.

    python -m tests.benchmarks.store

The store is moto's S3 in a process of its own on this machine: a real one adds the way there, 10 to 50 ms a request.
"""

import contextlib
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
from collections.abc import Iterator
from pathlib import Path

from cmp.results.journal import Journal
from cmp.results.opening import open_results
from cmp.results.store_journal import open_journal
from tests.report.synthetic import events_of
from tests.stores import make_bucket, s3_environment

APPENDS = 300
LONG = 5500


@contextlib.contextmanager
def moto() -> Iterator[int]:
    """Moto's server in its own process; gives the port."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "moto.server", "-p", str(port)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(300):
            with contextlib.suppress(urllib.error.URLError):
                make_bucket(port, "benchmark")
                break
            time.sleep(0.1)
        yield port
    finally:
        process.terminate()
        process.wait()


def times_of(journals: dict[str, Journal]) -> dict[str, list[float]]:
    """Seconds of each append, one journal after the other, so that what else the machine does hits both."""
    report = next(event for event in events_of("typical") if event["event"] == "reported")
    found: dict[str, list[float]] = {name: [] for name in journals}
    for _ in range(APPENDS):
        for name, journal in journals.items():
            began = time.perf_counter()
            journal.append(report)
            found[name].append(time.perf_counter() - began)
    return found


def main() -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary, moto() as port:
        os.environ.update(s3_environment(port), CMP_CACHE=temporary)
        journals = {
            "disk": Journal(Path(temporary) / "journal.jsonl"),
            "store": open_journal(open_results("s3://benchmark/appends")),
        }
        for name, seconds in times_of(journals).items():
            ordered = sorted(seconds)
            median, late = statistics.median(ordered), ordered[int(0.95 * len(ordered))]
            print(f"append to a {name}: {1e3 * median:.1f} ms median, {1e3 * late:.1f} ms at 95 %")
        journal = open_journal(open_results("s3://benchmark/long"))
        for event in [{"event": "session", "time": 0.0}, *LONG * [events_of("typical")[5]]]:
            journal.append(event)
        for what in ("put together by the thousand", "put together to the end"):
            began = time.perf_counter()
            length = open_journal(open_results("s3://benchmark/long")).length
            print(f"opening {length:,} events, {what}: {time.perf_counter() - began:.2f} s")
            began = time.perf_counter()
            if what.endswith("thousand"):
                journal.close()
                print(f"putting them together: {time.perf_counter() - began:.2f} s")


if __name__ == "__main__":
    main()
