"""Ray for a run: a local one, or a cluster that is there, and how Ray Data behaves on it."""

from __future__ import annotations

import logging
import os
import re
import socket

import ray
import ray.data

from pipeline.spinning import bound_spinning

HOST_AND_PORT = re.compile(r"([^:/]+):(\d+)")
CONNECT_SECONDS = 10.0
FULL = 1.0
"""Tasks in flight per actor at which an elastic pool grows: each has one, so it cannot be more."""

REFUSED = (
    "is it up, and its port open? A cluster that wants a token (InvalidAuthToken above) has been "
    "started where an earlier Ray left ~/.ray/auth_token: set RAY_AUTH_MODE=token, and on another "
    "machine RAY_AUTH_TOKEN to what `ray get-auth-token` prints there"
)
"""Said of a cluster that cannot be reached: it need not be the network."""


def start_ray(address: str | None) -> None:
    """Connect to a cluster, or start a local one that prints nothing of its own.

    Args:
        address: of the cluster; None for a local one.

    Raises:
        ConnectionError: if the cluster cannot be reached, or does not let us in.
    """
    if address is not None:
        connect(address, log_to_driver=True)
        return
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
    bound_spinning()
    ray.init(
        address="local", log_to_driver=False, logging_level=logging.ERROR, include_dashboard=False
    )


def connect(address: str, *, log_to_driver: bool) -> None:
    """Connect to a cluster.

    Args:
        address: of the cluster; that of a port is tried first, since Ray itself takes five minutes
            to say that nothing is there.
        log_to_driver: whether what its workers print is shown here.

    Raises:
        ConnectionError: if it cannot be reached, or does not let us in, or has another Ray or
            Python.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    place = HOST_AND_PORT.fullmatch(address)
    try:
        if place is not None:
            socket.create_connection((place[1], int(place[2])), CONNECT_SECONDS).close()
        ray.init(address=address, log_to_driver=log_to_driver, logging_level=logging.ERROR)
    except OSError as error:
        raise ConnectionError(f"address {address!r}: {error}; {REFUSED}") from error
    except RuntimeError as error:
        # Another version of Ray or Python, which it names.
        raise ConnectionError(f"address {address!r}: {' '.join(str(error).split())}") from error


def configure_data() -> None:
    """Set what Ray Data does about silence, full pools, and its own voice; before it reads."""
    # Ray 2.60 starts 32 processes to read footers; `pending.parquet` is one file and has one.
    os.environ.setdefault("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", "1")
    context = ray.data.DataContext.get_current()
    # A healthy block of long syntheses is silent for longer than Ray's half hour.
    context.execution_no_progress_timeout_s = -1
    context.autoscaling_config.actor_pool_util_upscaling_threshold = FULL
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    # What goes wrong comes as an exception, which says it once.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
