"""The connection to Ray: a private cluster that only this machine can reach, or a running one that is joined."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import ray
from ray._private import ray_constants
from ray._private.authentication.authentication_token_setup import maybe_enable_token_auth_if_token_available

from memory.ledger import publish_bytes
from serving.config import RayConfig
from serving.fleet_record import FleetError

_LOOPBACK = "127.0.0.1"
_RAY_ENVIRONMENT = {
    # Without this, a crashed actor leaves vLLM's child processes behind.
    "RAY_process_group_cleanup_enabled": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray runs workers at niceness 15 by default: next to anything else on the machine an engine would starve.
    "RAY_worker_niceness": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "HF_HUB_OFFLINE": "1",
}
_MAX_STARTS = 3
_AUTH_MODE = "RAY_AUTH_MODE"
_TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")


class LocalRay:
    """A connection to Ray; `close` ends a cluster that was started here and leaves a joined one alone."""

    def __init__(self, *, is_own: bool, roots: tuple[psutil.Process, ...] = ()) -> None:
        """`is_own`: the connection was made here; `roots`: the processes that starting a cluster brought up."""
        self._is_own = is_own
        self._roots = roots

    @property
    def is_private(self) -> bool:
        """The cluster was started here and ends with this connection."""
        return bool(self._roots)

    @property
    def is_running(self) -> bool:
        """Every process that started the private cluster lives; of a joined one, that this process is connected."""
        if not ray.is_initialized():
            return False
        return all(root.is_running() and root.status() != psutil.STATUS_ZOMBIE for root in self._roots)

    def close(self) -> None:
        """Disconnects; of an own cluster nothing is left running, not even what a crash had orphaned in it."""
        if not self._is_own:
            return
        self._is_own = False
        below = [process for root in self._roots if root.is_running() for process in root.children(recursive=True)]
        ray.shutdown()
        _end_all([*self._roots, *below])


def start_local_ray(config: RayConfig) -> LocalRay:
    """Joins `config.address` or $RAY_ADDRESS, or starts a private cluster; reuses a connection that is there.

    Call it from the main thread: the cluster's processes die with the thread that started them.

    Raises:
        FleetError: there is no cluster at the address, it does not let us in, or a private one does not start.
    """
    if ray.is_initialized():
        return LocalRay(is_own=False)
    address = config.address or os.environ.get("RAY_ADDRESS")
    if address is not None and address != "local":
        return join_ray(address)
    for name, value in _RAY_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    stay_on_loopback()
    _keep_token_private()
    for num_tries_left in reversed(range(_MAX_STARTS)):
        before = set(psutil.Process().children())
        try:
            _start_private(config)
            return LocalRay(is_own=True, roots=tuple(set(psutil.Process().children()) - before))
        except Exception as error:  # Ray raises this very class when its processes take too long to start
            if type(error) is not Exception:
                raise
            started = set(psutil.Process().children()) - before
            _end_all([*started, *(process for root in started for process in root.children(recursive=True))])
            if not num_tries_left:
                raise FleetError(
                    f"expected a private Ray cluster, it did not start {_MAX_STARTS} times: {error} The machine may "
                    "be too busy; the logs are under /tmp/ray/session_latest/logs"
                ) from error
    raise AssertionError("the last try returns or raises")


def join_ray(address: str, *, with_token: bool = False) -> LocalRay:
    """Connects to a running cluster; reuses a connection to it. `with_token`: it lets in only who has the token.

    Raises:
        FleetError: nothing answers there, the token is wrong, or this process is connected to another cluster.
    """
    if ray.is_initialized():
        joined = gcs_address()
        if address not in (joined, "auto"):
            raise FleetError(
                f"expected a connection to the Ray cluster at {address}, but this process works with {joined}; close "
                "what uses that one first, or start another process"
            )
        return LocalRay(is_own=False)
    if address.startswith(_LOOPBACK):
        stay_on_loopback()
    logging.getLogger("ray").setLevel(logging.ERROR)
    if with_token:
        # Given an address, Ray shows no token unless it is told to.
        maybe_enable_token_auth_if_token_available(warn_if_disabled=False)
    try:
        with _own_signals():
            ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, ValueError) as error:
        raise FleetError(
            f"expected a Ray cluster at {address}, could not join it: {error}; is it running, and is its token in "
            "~/.ray/auth_token or $RAY_AUTH_TOKEN?"
        ) from error
    return LocalRay(is_own=True)


def gcs_address() -> str:
    """Where the cluster of this process can be joined, host:port."""
    return str(ray.get_runtime_context().gcs_address)


def asks_for_token() -> bool:
    """Whether the cluster of this process lets in only who has its token."""
    return os.environ.get(_AUTH_MODE, "").lower() == "token"


def _start_private(config: RayConfig) -> None:
    with _own_signals():
        ray.init(
            # Not None: Ray would join whatever cluster it finds on this machine.
            address="local",
            num_cpus=config.num_cpus,
            object_store_memory=config.object_store_mib * 2**20,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _node_ip_address=_LOOPBACK,
            _temp_dir=None if config.temp_dir is None else str(config.temp_dir.resolve()),
        )


@contextmanager
def _own_signals() -> Iterator[None]:
    """Keeps what this process does on SIGTERM: Ray puts its own answer, which is to exit, in the place of any other."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        is_ours = before not in (None, signal.SIG_DFL)
        if is_ours and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, before)
            # As asyncio has it: system calls go on after a signal.
            signal.siginterrupt(signal.SIGTERM, False)


def stay_on_loopback() -> None:
    """Makes Ray keep the loopback address it is given.

    It replaces 127.0.0.1 by the machine's address otherwise, and then listens on every interface. Ray has this for
    systems without clusters only; its processes read the variable, this one has read it when Ray was imported.
    """
    os.environ[ray_constants.ENABLE_RAY_CLUSTERS_ENV_VAR] = "0"
    ray_constants.ENABLE_RAY_CLUSTER = False


def _keep_token_private() -> None:
    """Writes the token that Ray would make, readable by its owner alone; Ray's own is readable by everybody."""
    path = Path.home() / ".ray" / "auth_token"
    if any(name in os.environ for name in (*_TOKEN_VARIABLES, _AUTH_MODE)):
        return
    if path.exists():
        if path.stat().st_uid == os.getuid():
            path.chmod(0o600)
        return
    publish_bytes(path, os.urandom(32).hex().encode())
    path.chmod(0o600)


def _end_all(processes: list[psutil.Process]) -> None:
    """Kills what is left of `processes` after a moment; psutil knows a process from another that got its number."""
    _, left = psutil.wait_procs(processes, timeout=5.0)
    for process in left:
        process.kill()
    psutil.wait_procs(left, timeout=5.0)
