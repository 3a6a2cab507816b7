"""The recipe for two machines, run on two: network namespaces with a cable between, each with a home of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.search.check_journal import violations
from tests.search.engine.test_recipes import recipe
from tests.whole_program.harness import REPOSITORY, Search

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0 or shutil.which("ip") is None, reason="needs root and iproute2"),
]

TOKEN = "0123456789abcdef" * 4


@dataclass
class Host:
    """A machine: its own network, name and home; the disk is that of all."""

    name: str
    address: str
    home: Path
    peers: dict[str, Path]

    def start(self, command: str, output: Path) -> "subprocess.Popen[bytes]":
        """Type a command in bash."""
        bin_folder = Path(sys.executable).parent
        environment = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "PYTEST_"))}
        environment |= {"HOME": str(self.home), "PATH": f"{self.home}/bin:{bin_folder}:{environment['PATH']}"}
        environment |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_TMPDIR": str(self.home), "RAY_worker_niceness": "0"}
        return subprocess.Popen(
            ["ip", "netns", "exec", self.name, "unshare", "--uts", "bash", "-c", f"hostname {self.name}; {command}"],
            cwd=REPOSITORY,
            env=environment,
            stdout=output.open("w"),
            stderr=subprocess.STDOUT,
        )

    def run(self, command: str, seconds: float = 120.0) -> tuple[int, str]:
        """Type a command and wait; its exit code and what it printed."""
        output = self.home / "output.txt"
        process = self.start(command, output)
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            code = -1
        return code, output.read_text()

    def end(self) -> None:
        """Cut its power."""
        found = subprocess.run(["ip", "netns", "pids", self.name], capture_output=True, text=True)
        for pid in found.stdout.split():
            try:
                os.kill(int(pid), signal.SIGKILL)
            except ProcessLookupError:
                continue
        subprocess.run(["ip", "netns", "delete", self.name])


@pytest.fixture
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Host, Host]]:
    """Two machines that reach each other; `scp` between their homes works."""
    stem = f"cmp{os.getpid() % 100_000}"
    short = Path("/tmp") / stem  # sockets have short names only
    both: list[Host] = []
    for letter, address in (("a", "10.77.7.1"), ("b", "10.77.7.2")):
        home = short / letter
        (home / "bin").mkdir(parents=True)
        subprocess.run(["ip", "netns", "add", f"{stem}{letter}"], check=True)
        subprocess.run(["ip", "-n", f"{stem}{letter}", "link", "set", "lo", "up"], check=True)
        both.append(Host(f"{stem}{letter}", address, home, {}))
    ends = [f"{host.name}0" for host in both]
    subprocess.run(["ip", "link", "add", ends[0], "type", "veth", "peer", "name", ends[1]], check=True)
    for host, end in zip(both, ends, strict=True):
        subprocess.run(["ip", "link", "set", end, "netns", host.name], check=True)
        subprocess.run(["ip", "-n", host.name, "addr", "add", f"{host.address}/24", "dev", end], check=True)
        subprocess.run(["ip", "-n", host.name, "link", "set", end, "up"], check=True)
        copy = f'#!/bin/sh\nexec cp "$(echo "$1" | sed "s|^{both[0].address}:|{both[0].home}/|")" "$2"\n'
        (host.home / "bin" / "scp").write_text(copy)
        (host.home / "bin" / "scp").chmod(0o755)
    try:
        yield both[0], both[1]
    finally:
        for host in both:
            host.end()
        shutil.rmtree(short, ignore_errors=True)


def typed(name: str, first: Host) -> str:
    """A recipe's commands, with the first machine's address."""
    return recipe(name).replace("FIRST", first.address).replace("ray start", "ray start --num-cpus=1")


def keep_running(host: Host, command: str) -> None:
    """Start Ray on a machine, as the recipe says, and wait until it has started."""
    code, text = host.run(command)
    assert code == 0, text


@pytest.mark.parametrize("has_token", [True, False], ids=["after a demo", "fresh"])
def test_a_search_on_two_machines_as_the_recipe_says(hosts: tuple[Host, Host], tmp_path: Path, has_token: bool) -> None:
    first, second = hosts
    if has_token:
        write_token(first, TOKEN)
    search = Search(
        tmp_path, {"n_epochs": 3, "n_train_loops": 60, "search": {"control": False, "num_samples": 6, "min_peers": 6}}
    )
    keep_running(first, typed("first", first))
    join = typed("second", first) if has_token else typed("second", first).splitlines()[-1]
    keep_running(second, join)
    command = typed("search", first).replace("spaces/owt.yaml", str(search.space))
    code, text = second.run(command, 300)

    assert code == 0, text
    assert "the 2 nodes have 2 CPU" in text
    assert {event["node"].split()[0] for event in search.events("started")} == {first.name, second.name}
    assert violations(search.journal, ended=True) == []


def test_a_group_over_two_machines_finds_its_workers(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """Gloo would listen at the address that the host's own name resolves to, which here is nobody's."""
    first, second = hosts
    settings = {"n_epochs": 2, "search": {"control": False, "num_samples": 2, "min_peers": 2}}
    search = Search(tmp_path, {**settings, "resources": {"workers": 2, "cpus_per_worker": 1}})
    keep_running(first, typed("first", first))
    keep_running(second, typed("second", first).splitlines()[-1])
    code, text = first.run(f"python search.py {search.space} --address {first.address}:6379", 300)

    assert code == 0, text
    assert len(search.events("finished")) == 2
    assert violations(search.journal, ended=True) == []


def test_without_the_token_a_machine_is_told_what_to_copy(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """`--address` found no cluster after 24 s, and did not say why."""
    first, second = hosts
    write_token(first, TOKEN)
    search = Search(tmp_path)
    keep_running(first, typed("first", first))
    code, _ = second.run(typed("second", first).splitlines()[-1])
    assert code != 0, "Ray lets nobody join without the token"
    began = time.monotonic()
    command = f"python search.py {search.space} --address {first.address}:6379"
    code, text = second.run(command)

    assert code == 2, text
    assert time.monotonic() - began < 60
    assert "asks for a token, and there is none here; copy ~/.ray/auth_token" in text
    write_token(second, TOKEN[::-1])
    code, text = second.run(command)
    assert code == 2 and "asks for another token than the one here" in text, text


def test_a_machine_with_a_token_uses_a_cluster_that_asks_for_none(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    """Its processes would ask everybody for it, and all trials die before they begin."""
    first, second = hosts
    search = Search(tmp_path, {"n_epochs": 2, "search": {"control": False, "num_samples": 2, "min_peers": 2}})
    keep_running(first, typed("first", first))
    write_token(second, TOKEN)
    keep_running(second, f"RAY_AUTH_MODE=disabled {typed('second', first).splitlines()[-1]}")
    code, text = second.run(f"python search.py {search.space} --address {first.address}:6379", 300)

    assert code == 0, text
    assert len(search.events("finished")) == 2


def write_token(host: Host, token: str) -> None:
    """As a search on one machine leaves it."""
    path = host.home / ".ray" / "auth_token"
    path.parent.mkdir(exist_ok=True)
    path.write_text(token)
    path.chmod(0o600)
