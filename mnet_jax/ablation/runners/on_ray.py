"""Runs trials on a Ray cluster: each in its own process, on a node with free resources."""

import contextlib
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from mnet_jax import process
from mnet_jax.ablation.runners.machine import THREADS
from mnet_jax.ablation.runners.schedule import Message, StallMonitor, TrialStalled
from mnet_jax.ablation.runners.work import (
    Outcome,
    RunnerError,
    TrialFunction,
    TrialLost,
    outcome_of,
    train,
)
from mnet_jax.config import RunConfig
from mnet_jax.training.results import Progress
from mnet_jax.validation import one_line, require

MOST_LOSSES = 3  # a trial whose process or node is lost this often has failed
CONNECT_SECONDS = 10.0
JOIN_SECONDS = 60.0  # time limit for joining a cluster that accepts connections
JOIN = "import sys, ray; ray.init(sys.argv[1], log_to_driver=False, logging_level='CRITICAL')"
LOOK_SECONDS = 10.0  # interval between checks of which nodes still answer
GONE_SECONDS = {"own": 15.0, "other": 60.0}  # the sweep ends if there is no node for this long
DOUBT_SECONDS = 60.0  # after a loss, the time in which Ray's list of nodes may be out of date
ACCELERATORS = ("GPU", "TPU")  # Ray's names of the resources


class RayRunner:
    """Runs trials on a Ray cluster, each in a process with its own cores and accelerators.

    A trial whose process or node is lost is run again and continues from its checkpoint. After the
    third loss the trial has failed. All nodes must see the store's directory under the same path.
    """

    def __init__(
        self,
        address: str | None,
        cores: int | None,
        devices: int,
        trial: TrialFunction = train,
        environment: Mapping[str, str] = MappingProxyType({}),
        timeout_seconds: float | None = None,
    ) -> None:
        """Connects to a cluster.

        Args:
          address: the cluster's address, as for `ray.init`. None starts a cluster on this machine,
            which is stopped when the runner ends.
          cores: CPU cores of each trial; None for 1.
          devices: accelerators of each trial, on a cluster with accelerators.
          trial: the function that runs a trial; the nodes must be able to import it.
          environment: environment variables for the workers.
          timeout_seconds: a trial that reports no progress for this long is terminated; None for no
            limit.

        Raises:
          ValueError: Ray is not installed, no cluster answers at the address, or no node has the
            requested cores or accelerators.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
        try:
            import ray
        except ImportError as error:
            legal = "local, or ray once `pip install 'mnet_jax[ray]'` has run"
            raise ValueError(f"runner: got 'ray', legal: {legal}") from error
        self._ray: Any = ray
        _silence(ray)
        try:
            _require_reachable(address)
            with _own_signals():
                self._ray.init(
                    address=address or "local", log_to_driver=False, logging_level=logging.ERROR
                )
        except (OSError, RuntimeError, ValueError) as error:
            legal = f"a running cluster's, such as 10.0.0.1:6379, or auto ({one_line(error)})"
            raise ValueError(f"ray_address: got {address!r}, legal: {legal}") from error
        self._trial = trial
        self._running: dict[RunConfig, _Remote] = {}
        self._losses: dict[RunConfig, int] = {}
        self._stall_monitor = StallMonitor(timeout_seconds)
        self._patience_seconds = GONE_SECONDS["other" if address else "own"]
        self._doubted_until = self._looked = self._seen = time.monotonic()
        self._unreachable: set[str] = set()
        try:
            self._options = self._resources(cores or 1, devices)
        except ValueError:
            ray.shutdown()
            raise
        self._host = self._ray.remote(
            max_concurrency=2,  # one call runs the trial, another asks for its progress
            runtime_env={"env_vars": {**environment, THREADS: str(cores or 1)}},
            **self._options,
        )(_Host)

    def _needed(self) -> dict[str, float]:
        named = {"CPU": self._options["num_cpus"], "GPU": self._options.get("num_gpus", 0)}
        return {n: c for n, c in {**named, **self._options.get("resources", {})}.items() if c}

    def _resources(self, cores: int, devices: int) -> dict[str, Any]:
        """Returns the resources of a trial as keyword arguments of `ray.remote`."""
        nodes = self._nodes()
        most = int(max((node.get("CPU", 0) for node in nodes), default=0))
        require(1 <= cores <= most, "cores_per_trial", cores, f"1 to {most}, as the nodes have")
        kind = next((k for k in ACCELERATORS if any(k in node for node in nodes)), None)
        if kind is None:
            require(devices == 1, "devices_per_trial", devices, "1, as there are no accelerators")
            return {"num_cpus": cores}
        most = int(max(node.get(kind, 0) for node in nodes))
        require(1 <= devices <= most, "devices_per_trial", devices, f"1 to {most} of a node")
        if kind == "GPU":
            return {"num_cpus": cores, "num_gpus": devices}
        return {"num_cpus": cores, "resources": {kind: devices}}

    def _nodes(self) -> list[dict[str, float]]:
        """Returns the resources of each node that answers.

        Ray takes a while to notice that a node has failed, and a trial scheduled there meanwhile
        would wait for minutes. So this method itself connects to each node: every `LOOK_SECONDS`,
        and on every call in the `DOUBT_SECONDS` after a loss.

        Raises:
          RunnerError: the cluster has had no node for too long.
        """
        nodes, now = [node for node in self._ray.nodes() if node["Alive"]], time.monotonic()
        if now < self._doubted_until or now >= self._looked + LOOK_SECONDS:
            self._unreachable, self._looked = {n["NodeID"] for n in nodes if not _answers(n)}, now
        nodes = [node for node in nodes if node["NodeID"] not in self._unreachable]
        if nodes:
            self._seen = now
        elif now > self._seen + self._patience_seconds:
            seconds = f"{self._patience_seconds:.0f} seconds"
            raise RunnerError(f"the Ray cluster has had no node for {seconds}")
        return [node["Resources"] for node in nodes]

    def has_room(self) -> bool:
        """Returns whether the nodes have room for one more trial.

        Raises:
          RunnerError: the cluster has had no node for too long.
        """
        needed = self._needed()
        places = sum(
            min(int(node.get(name, 0) // count) for name, count in needed.items())
            for node in self._nodes()
        )
        return len(self._running) < places

    def begin(self, config: RunConfig, directory: Path) -> None:
        """See `Runner`; Ray chooses the node."""
        actor = self._host.remote()
        done = actor.run.remote(self._trial, config, str(directory.absolute()))
        self._running[config] = _Remote(actor, done)
        self._stall_monitor.record_progress(config)

    def wait(self, seconds: float) -> list[tuple[RunConfig, Message]]:
        """See `Runner`."""
        configs = {remote.done: config for config, remote in self._running.items()}
        self._ray.wait(list(configs), timeout=seconds)
        ended, _ = self._ray.wait(list(configs), num_returns=len(configs), timeout=0)
        messages: list[tuple[RunConfig, Message]] = []
        for done in ended:
            remote = self._running.pop(config := configs[done])
            self._stall_monitor.forget(config)
            messages.append((config, self._ending(config, remote)))
        return [*messages, *self._progress(), *self._stalled()]

    def _ending(self, config: RunConfig, remote: "_Remote") -> Outcome | TrialLost:
        try:
            return self._ray.get(remote.done)
        except self._ray.exceptions.RayError as error:
            self._doubted_until = time.monotonic() + DOUBT_SECONDS
            losses = self._losses[config] = self._losses.get(config, 0) + 1
            return TrialLost(
                cause=f"its worker was lost: {one_line(error)}", again=losses < MOST_LOSSES
            )
        finally:
            self._ray.kill(remote.actor)

    def _progress(self) -> list[tuple[RunConfig, Progress]]:
        """Returns the latest progress of each trial that has reported since the last call."""
        messages: list[tuple[RunConfig, Progress]] = []
        for config, remote in self._running.items():
            remote.pending = remote.pending or remote.actor.latest.remote()
            answered, _ = self._ray.wait([remote.pending], timeout=0)
            if not answered:  # the trial's process has not started yet
                continue
            remote.pending = None
            with contextlib.suppress(self._ray.exceptions.RayError):  # the next wait handles a loss
                remote.received, before = self._ray.get(answered[0]), remote.received
                if remote.received.count > before.count and remote.received.last:
                    self._stall_monitor.record_progress(config)
                    messages.append((config, remote.received.last))
        return messages

    def _stalled(self) -> list[tuple[RunConfig, TrialStalled | TrialLost]]:
        """Returns the messages of `StallMonitor.check`; kills the processes of the lost trials."""
        found = self._stall_monitor.check()
        for config, message in found:
            if isinstance(message, TrialLost):
                self._stall_monitor.forget(config)
                self._ray.kill(self._running.pop(config).actor)
        return found

    def end(self) -> None:
        """See `Runner`; also stops a cluster that this runner started."""
        for remote in self._running.values():
            self._ray.kill(remote.actor)
        self._running = {}
        self._ray.shutdown()


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Restores, after the block, the signal handlers that Ray has replaced.

    Ray's handlers abort the process with a stack dump.
    """
    # Only the main thread may set signal handlers.
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def _silence(ray: Any) -> None:
    """Suppresses messages about the exit of raylets, Ray's daemons; Ray has no setting for that."""
    if hasattr(ray, "_private") and hasattr(ray._private.worker, "print_to_stdstream"):
        ray._private.worker.print_to_stdstream = lambda data, ignore_prefix: None


def _require_reachable(address: str | None) -> None:
    """Raises OSError or ValueError if there is no cluster at an address.

    Ray itself would try to connect for minutes (or for ever, if a server accepts the connection but
    does not answer) and print pages of messages. So a subprocess tries to connect first.
    """
    if address in (None, "local"):
        return
    if address != "auto":
        host, _, port = str(address).removeprefix("ray://").rpartition(":")
        socket.create_connection((host, int(port)), timeout=CONNECT_SECONDS).close()
    command = [sys.executable, "-c", JOIN, str(address)]
    try:
        found = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=JOIN_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise ValueError(f"no cluster answers within {JOIN_SECONDS:.0f} seconds") from error
    if found.returncode:
        messages = found.stderr.split("\n\n")[-1].splitlines()
        raise ValueError(messages[-1] if messages else "no cluster answers")


def _answers(node: Mapping[str, Any]) -> bool:
    """Returns whether a node's daemon accepts connections."""
    try:
        address = node["NodeManagerAddress"], node["NodeManagerPort"]
        socket.create_connection(address, timeout=1.0).close()
    except OSError:
        return False
    return True


@dataclass(frozen=True)
class _Reports:
    """The number of progress reports of a trial, and the latest report."""

    count: int = 0
    last: Progress | None = None


@dataclass
class _Remote:
    """A running trial.

    Attributes:
      actor: the process of the trial.
      done: Ray's reference to the future outcome of the trial.
      pending: Ray's reference to the future result of a call of `_Host.latest`; None if the
        results of all calls have arrived.
      received: the last result of `_Host.latest`.
    """

    actor: Any
    done: Any
    pending: Any = None
    received: _Reports = _Reports()


class _Host:
    """A Ray actor, a process on the cluster, that runs one trial."""

    def __init__(self) -> None:
        os.environ.update(process.settings(tune_allocator=False))  # the settings of this node
        process.silence_libraries()  # the cause of a failure is part of the outcome instead
        self._reports = _Reports()

    def run(self, trial: TrialFunction, config: RunConfig, directory: str) -> Outcome:
        """Runs the trial and returns its outcome."""
        return outcome_of(trial, config, Path(directory), self._note)

    def latest(self) -> _Reports:
        """Returns the number of progress reports so far, and the latest."""
        return self._reports

    def _note(self, event: Progress) -> None:
        self._reports = _Reports(self._reports.count + 1, event)
