"""Fixtures that start services."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest


@pytest.fixture
def serve() -> Iterator[Callable[..., Any]]:
    """Start services with ``serve(predictor, limits=..., max_batch=...)``; they are stopped at the end of the test."""
    from serving_fakes import Running

    started: list[Running] = []

    def start(predictor: Any, **options: Any) -> Running:
        started.append(Running(predictor, **options))
        return started[-1]

    yield start
    for running in started:
        running.stop()


@pytest.fixture
def client(serve: Callable[..., Any]) -> Any:
    """Client of a service whose predictor is not paused."""
    from serving_fakes import FakePredictor

    return serve(FakePredictor()).client
