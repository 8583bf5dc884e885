"""Starts a stack and attacks it while a person clicks: `make attacks`.

For each attack: the quiet clicks just before, the clicks meanwhile, and the largest memory of a
decoder and of an embedding replica with its image workers. The attacker has a low processor
priority, since it would be another machine. Writes build/bench/attacks.json.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from multiprocessing.synchronize import Event
from pathlib import Path

from rich.console import Console
from rich.table import Table
from samserve.client import Click, Client
from samserve.core.errors import SamserveError
from samserve.local.stack import Stack, StackOptions, running

from loadtest.attacks.attacks import ATTACKS
from loadtest.attacks.target import IMAGE, Target
from loadtest.bench.report import FOLDER

QUIET = 4.0  # seconds of clicks before an attack
ATTACKED = 15.0  # seconds of an attack
PREPARED = 300.0  # most seconds to prepare an attack
PAUSE = 0.05  # seconds between a click's answer and the next click
DECODER_MOST, REPLICA_MOST = 1536, 2048  # MiB
SLOWEST = 2.0  # p95 of clicks under attack, as a multiple of the quiet one
MIB = 2**20


@dataclass(slots=True)
class Outcome:
    """What an attack did; times in milliseconds, memory in MiB."""

    attack: str
    quiet_p95: float = 0.0
    p95: float = 0.0
    clicks: int = 0
    failed: list[str] = field(default_factory=list)
    decoder_mib: int = 0
    replica_mib: int = 0
    restarted: bool = False

    @property
    def holds(self) -> bool:
        return (
            not self.failed
            and not self.restarted
            and self.p95 <= SLOWEST * self.quiet_p95
            and self.decoder_mib <= DECODER_MOST
            and self.replica_mib <= REPLICA_MOST
        )


class Person:
    """Clicks on one image through the client library, one click after another."""

    def __init__(self, stack: Stack) -> None:
        addresses = stack.addresses
        self._client = Client(addresses.decoder, addresses.embedding, timeout=30)
        self._client.segment(IMAGE, [Click(213, 193)])

    def click(self, seconds: float) -> tuple[list[float], list[str]]:
        """Click for a while.

        Returns:
            The milliseconds of the answered clicks, and the errors of the others.
        """
        times: list[float] = []
        failed: list[str] = []
        until = time.monotonic() + seconds

        while time.monotonic() < until:
            started = time.perf_counter()
            try:
                self._client.segment(IMAGE, [Click(213, 193)])
                times.append(1000 * (time.perf_counter() - started))
            except SamserveError as error:
                failed.append(f"{type(error).__name__}: {error}"[:200])
            time.sleep(PAUSE)

        return times, failed

    def close(self) -> None:
        self._client.close()


class Processes:
    """The processes below this one, by /proc."""

    def __init__(self) -> None:
        self.parents: dict[int, int] = {}
        self.names: dict[int, bytes] = {}
        for folder in Path("/proc").iterdir():
            if folder.name.isdigit():
                self._read(folder)

    def _read(self, folder: Path) -> None:
        try:
            parent = (folder / "stat").read_text().rpartition(")")[2].split()[1]
            name = (folder / "cmdline").read_bytes()
        except OSError:  # the process has ended
            return
        self.parents[int(folder.name)] = int(parent)
        self.names[int(folder.name)] = name

    def below(self, ancestor: int) -> Iterator[int]:
        """The process and all that descend from it."""
        for pid in self.parents:
            each = pid
            while each and each != ancestor:
                each = self.parents.get(each, 0)
            if each:
                yield pid

    def replicas(self, ancestor: int) -> list[int]:
        return [pid for pid in self.below(ancestor) if b"ServeReplica" in self.names[pid]]


def resident(pid: int) -> int:
    """Memory of a process in bytes, shared pages by their share; 0 if it has ended."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    except (OSError, StopIteration):
        return 0


@contextmanager
def watched(stack: Stack, outcome: Outcome) -> Iterator[None]:
    """Note the largest memory of the decoder and of a replica while the block runs."""
    decoder, embedding = stack.programs["decoder"].pid, stack.programs["embedding"].pid
    replicas = Processes().replicas(embedding)
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(0.1):
            outcome.decoder_mib = max(outcome.decoder_mib, resident(decoder) // MIB)
            processes = Processes()
            for replica in replicas:
                total = sum(resident(pid) for pid in processes.below(replica))
                outcome.replica_mib = max(outcome.replica_mib, total // MIB)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()

    now = Processes()
    alive = stack.programs["decoder"].pid == decoder and decoder in now.parents
    outcome.restarted = not alive or sorted(now.replicas(embedding)) != sorted(replicas)


def attack(name: str, addresses: tuple[str, str, str], begin: Event, prepared: Event) -> None:
    """One attack; the main function of the attacker's process."""

    def wait_to_begin() -> None:
        prepared.set()
        begin.wait()

    leave_the_processor_to_others()
    ATTACKS[name](Target(*addresses, begin=wait_to_begin))


def leave_the_processor_to_others() -> None:
    """Run only when nothing else does, as an attacker on another machine takes no time here.

    Linux schedules sessions as groups where autogroup is on, and there a process's nice value
    counts only within its session.
    """
    os.setsid()
    os.nice(19)
    group = Path("/proc/self/autogroup")
    if group.exists():
        group.write_text("19")


def measure(name: str, stack: Stack, person: Person, seconds: float) -> Outcome:
    """Run one attack while a person clicks."""
    outcome = Outcome(name)
    addresses = (stack.addresses.decoder, stack.addresses.embedding, stack.addresses.redis)

    # The attacker prepares first: it makes its files and embeds its images.
    spawn = multiprocessing.get_context("spawn")
    begin, prepared = spawn.Event(), spawn.Event()
    attacker = spawn.Process(target=attack, args=(name, addresses, begin, prepared))
    attacker.start()
    if not prepared.wait(PREPARED):
        attacker.kill()
        raise SystemExit(f"the attack {name} was not prepared within {PREPARED:.0f} s")

    # Watching costs processor time too, so it also runs during the quiet clicks.
    with watched(stack, outcome):
        quiet, failed = person.click(QUIET)
        if failed:
            attacker.kill()
            raise SystemExit(f"clicks fail before the attack {name}: {failed[0]}")

        begin.set()
        times, outcome.failed = person.click(seconds)
        attacker.kill()
        attacker.join()

    outcome.clicks = len(times)
    outcome.quiet_p95 = round(percentile_95(quiet), 1)
    outcome.p95 = round(percentile_95(times), 1)
    return outcome


def percentile_95(values: list[float]) -> float:
    return statistics.quantiles(values, n=20)[-1] if len(values) > 1 else float("inf")


def show(outcomes: list[Outcome]) -> None:
    """Print the table."""
    table = Table("attack", "clicks", "failed", "p95 ms", "quiet", "decoder MiB", "replica MiB", "")
    for each in outcomes:
        verdict = "[green]held[/]" if each.holds else "[red]fell[/]"
        if each.restarted:
            verdict += " (restarted)"
        numbers = (each.clicks, len(each.failed), each.p95, each.quiet_p95)
        memory = (each.decoder_mib, each.replica_mib)
        table.add_row(each.attack, *map(str, numbers), *map(str, memory), verdict)
    Console(width=130).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("names", nargs="*", help="attacks to run; all by default")
    parser.add_argument("--seconds", type=float, default=ATTACKED, help="of each attack")
    options = parser.parse_args()
    unknown = set(options.names) - set(ATTACKS)
    if unknown:
        parser.error(f"unknown attack {min(unknown)!r}; available: {', '.join(ATTACKS)}")

    outcomes: list[Outcome] = []
    with running(StackOptions()) as stack:
        person = Person(stack)
        for name in options.names or ATTACKS:
            outcomes.append(measure(name, stack, person, options.seconds))
            print(json.dumps(asdict(outcomes[-1])), flush=True)
            if outcomes[-1].failed or outcomes[-1].restarted:
                person.click(10)  # let the stack recover
        person.close()

    show(outcomes)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "attacks.json").write_text(json.dumps([asdict(each) for each in outcomes], indent=1))
    if not all(each.holds for each in outcomes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
