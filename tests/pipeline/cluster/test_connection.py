from __future__ import annotations

import socket
import time

import pytest

from pipeline.cluster import connection


@pytest.mark.parametrize(("address", "bounded"), [(None, True), ("auto", False)])
def test_threads_of_a_local_ray_are_kept_from_spinning(
    monkeypatch: pytest.MonkeyPatch, address: str | None, bounded: bool
) -> None:
    calls: list[None] = []
    monkeypatch.setattr(connection.os, "environ", {})
    monkeypatch.setattr(connection.ray, "init", lambda **options: None)
    monkeypatch.setattr(connection, "bound_spinning", lambda: calls.append(None))
    connection.start_ray(address)
    assert bool(calls) == bounded


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, about its own settings
def test_a_pool_grows_when_every_actor_has_its_one_task() -> None:
    connection.configure_data()
    context = connection.ray.data.DataContext.get_current()
    # One task in flight of one at a time is a utilisation of 1: Ray's own 1.75 is out of reach.
    assert context.autoscaling_config.actor_pool_util_upscaling_threshold <= 1.0
    assert context.execution_no_progress_timeout_s == -1


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of Ray, about its own settings
def test_the_footer_of_one_file_is_read_by_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.data._internal.datasource_v2.formats.parquet import footer_file_indexer

    def processes() -> int:
        indexer = footer_file_indexer.FooterFileIndexer(ignore_missing_paths=False)
        return indexer._num_actors

    monkeypatch.setattr(footer_file_indexer, "_DEFAULT_NUM_ACTORS", 32)
    monkeypatch.delenv("RAY_DATA_PARQUET_FOOTER_NUM_ACTORS", raising=False)
    assert processes() == 32
    connection.configure_data()
    assert processes() == 1


def test_a_cluster_that_does_not_answer_may_want_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: object) -> None:
        raise ConnectionError("Failed to connect to Ray cluster at 10.0.0.1:6379")

    monkeypatch.setattr(connection.ray, "init", refuse)
    monkeypatch.setattr(connection.socket, "create_connection", lambda *_: socket.socket())
    expected = r"cluster at 10\.0\.0\.1:6379; is it up, .* set RAY_AUTH_MODE=token, and on another"
    with pytest.raises(ConnectionError, match=expected):
        connection.start_ray("10.0.0.1:6379")


def test_a_port_where_nothing_is_is_refused_at_once() -> None:
    """Ray by itself takes five minutes."""
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    begun = time.monotonic()
    with pytest.raises(ConnectionError, match=rf"address '{address}': .*refused; is it up"):
        connection.start_ray(address)
    assert time.monotonic() - begun < 5
