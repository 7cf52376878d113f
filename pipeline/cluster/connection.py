"""Ray for a run: a local one, or a cluster that is there, and how Ray Data behaves on it."""

from __future__ import annotations

import logging
import os

import ray
import ray.data

from pipeline.spinning import bound_spinning

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
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if address is None:
        os.environ.setdefault("RAY_BACKEND_LOG_LEVEL", "fatal")
        bound_spinning()
    try:
        ray.init(
            address=address or "local",
            log_to_driver=address is not None,
            logging_level=logging.ERROR,
            **({} if address else {"include_dashboard": False}),
        )
    except ConnectionError as error:
        raise ConnectionError(f"{error}; {REFUSED}") from error


def configure_data() -> None:
    """Set what Ray Data does about silence, full pools, and its own voice; before it reads."""
    context = ray.data.DataContext.get_current()
    # A healthy block of long syntheses is silent for longer than Ray's half hour.
    context.execution_no_progress_timeout_s = -1
    context.autoscaling_config.actor_pool_util_upscaling_threshold = FULL
    context.enable_progress_bars = False
    context.enable_operator_progress_bars = False
    # What goes wrong comes as an exception, which says it once.
    logging.getLogger("ray.data").setLevel(logging.CRITICAL)
