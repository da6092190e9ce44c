"""The service over HTTP with a fake predictor: overload, timeouts, failures, metrics and shutdown."""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Any

import pytest
from serving_fakes import (
    IDS,
    NAMES,
    PATIENCE,
    Client,
    FakePredictor,
    Running,
    picture,
    png,
    wait_until,
)

from deploy.serving import service as service_module
from deploy.serving.uploads import Limits

Serve = Callable[..., Running]

PICTURE = picture(level=100)


# -- overload and time -------------------------------------------------------------------------------------------------


def test_a_full_queue_answers_503(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor, limits=Limits(queue_size=2), max_batch=1)
    client = running.client
    replies = [client.later(png(picture(level=1)))]
    predictor.wait_for_call()
    for level in (2, 3):
        replies.append(client.later(png(picture(level=level))))
    wait_until(lambda: running.service.batcher.waiting == 2)
    assert client.metric("htc_queue_length") == 2
    assert client.metric("htc_requests_under_way") == 3
    refused = client.predict(png(picture(level=4)))
    assert refused.status == 503
    assert refused.headers["retry-after"] == "1"
    assert refused.error == "the service is busy: 3 requests are being processed"
    predictor.release(3)
    assert [reply.result().status for reply in replies] == [200, 200, 200]
    # Each client has received its own result, since the score identifies the level.
    assert [reply.result().json()["instances"][0]["score"] for reply in replies] == [0.701, 0.702, 0.703]
    predictor.release()
    assert client.predict(png(picture(level=5))).status == 200
    assert sorted(level for batch in predictor.batches for level in batch) == [1, 2, 3, 5]


def test_requests_that_wait_share_a_batch(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor, max_batch=4, max_delay=0.0)
    replies = [running.client.later(png(picture(level=1)))]
    predictor.wait_for_call()
    replies += [running.client.later(png(picture(level=level))) for level in (2, 3, 4)]
    wait_until(lambda: running.service.batcher.waiting == 3)
    predictor.release(2)
    assert [reply.result().json()["timings"]["batch_size"] for reply in replies] == [1, 3, 3, 3]
    assert [len(batch) for batch in predictor.batches] == [1, 3]
    metric = running.client.metric
    wait_until(lambda: metric("htc_batch_size_count") == 2)
    assert metric('htc_batch_size_bucket{le="1.0"}') == 1
    assert metric('htc_batch_size_bucket{le="2.0"}') == 1
    assert metric('htc_batch_size_bucket{le="4.0"}') == 2
    assert metric("htc_images_total") == 4


def test_a_request_that_timed_out_is_not_computed(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor, limits=Limits(timeout=1.5), max_batch=1)
    client = running.client
    computed = client.later(png(picture(level=1)))
    predictor.wait_for_call()
    queued = client.later(png(picture(level=2)))
    for reply in (computed.result(), queued.result()):
        assert reply.status == 504
        assert reply.error == "the inference was not completed within 1.5 seconds"
    assert running.service.batcher.waiting == 0
    predictor.release()
    predictor.free()
    assert client.predict(png(picture(level=3))).status == 200
    assert predictor.batches == [[1], [3]]


def test_a_request_whose_client_went_away_is_not_computed(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor, max_batch=1)
    client = running.client
    first = client.later(png(picture(level=1)))
    predictor.wait_for_call()
    connection = client.connect()
    connection.request("POST", "/predict", png(picture(level=2)), {"Content-Type": "image/png"})
    wait_until(lambda: running.service.batcher.waiting == 1)
    connection.close()
    wait_until(lambda: running.service.batcher.waiting == 0)
    predictor.free()
    assert first.result().status == 200
    assert client.predict(png(picture(level=3))).status == 200
    assert predictor.batches == [[1], [3]]
    wait_until(lambda: client.metric("htc_requests_under_way") == 0)
    assert client.metric('htc_requests_total{path="/predict",status="499"}') == 1


def test_a_body_that_does_not_come(serve: Serve) -> None:
    running = serve(FakePredictor(), limits=Limits(timeout=0.2))
    with socket.create_connection(("127.0.0.1", running.client.port), PATIENCE) as connection:
        connection.sendall(
            b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\nonly this"
        )
        assert connection.recv(100).startswith(b"HTTP/1.1 408 ")
    wait_until(lambda: running.client.metric("htc_requests_under_way") == 0)


# -- faults ------------------------------------------------------------------------------------------------------------


def test_the_service_survives_a_failing_inference(serve: Serve, caplog: pytest.LogCaptureFixture) -> None:
    predictor = FakePredictor()
    client = serve(predictor).client
    predictor.error = MemoryError("secret details\nover lines")
    reply = client.predict(png(PICTURE))
    assert reply.status == 500
    assert reply.error == "inference failed (MemoryError); see the log of the service for details"
    assert "secret details" in caplog.text
    predictor.error = None
    assert client.predict(png(PICTURE)).status == 200


def test_a_defect_elsewhere_is_answered_and_logged(
    serve: Serve, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def break_down(*_: Any) -> None:
        raise ZeroDivisionError("a defect")

    client = serve(FakePredictor()).client
    with monkeypatch.context() as patch:
        patch.setattr(service_module, "to_instances", break_down)
        reply = client.predict(png(PICTURE))
    assert reply.status == 500
    assert reply.error == "the service failed (ZeroDivisionError); see its log for details"
    wait_until(lambda: "a defect" in caplog.text)
    assert client.predict(png(PICTURE)).status == 200
    assert client.metric("htc_requests_under_way") == 0


# -- the rest ----------------------------------------------------------------------------------------------------------


def test_draining(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor)
    client = running.client
    assert (client.get("/health").status, client.get("/health").json()) == (200, {"status": "ready", "model": "fake"})
    accepted = client.later(png(PICTURE))
    predictor.wait_for_call()
    running.service.draining = True
    refused = client.predict(png(PICTURE))
    assert (refused.status, refused.error) == (503, "the service is shutting down")
    assert int(refused.headers["retry-after"]) > 0
    assert (client.get("/health").status, client.get("/health").json()["status"]) == (503, "draining")
    predictor.release()
    assert accepted.result().status == 200


def test_the_end_waits_for_what_was_accepted(serve: Serve) -> None:
    predictor = FakePredictor(held=True)
    running = serve(predictor, max_batch=1)
    replies = [running.client.later(png(picture(level=level))) for level in (1, 2)]
    wait_until(lambda: running.service.batcher.waiting == 1)
    running.server.should_exit = True

    def refused() -> bool:
        try:
            running.client.connect().connect()
        except OSError:
            return True
        return False

    wait_until(refused)
    assert not any(reply.done() for reply in replies)
    predictor.release(2)
    assert [reply.result().status for reply in replies] == [200, 200]


def test_metrics(client: Client) -> None:
    client.predict(png(PICTURE))
    client.predict(b"")
    client.get("/somewhere/else")
    client.get("/and/another")
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    assert client.metric('htc_requests_total{path="/predict",status="200"}') == 1
    assert client.metric('htc_requests_total{path="/predict",status="400"}') == 1
    assert client.metric('htc_requests_total{path="other",status="404"}') == 2
    assert client.metric('htc_request_seconds_count{path="/predict"}') == 2
    assert client.metric('htc_request_seconds_bucket{le="+Inf",path="/predict"}') == 2
    assert client.metric("htc_images_total") == 1
    assert client.metric("htc_batch_size_sum") == 1
    assert client.metric("htc_batch_seconds_count") == 1
    assert client.metric("htc_queue_length") == 0
    text = reply.body.decode()
    assert "# TYPE htc_requests_total counter" in text
    assert "# TYPE htc_request_seconds histogram" in text


def test_model(serve: Serve) -> None:
    limits = Limits(max_bytes=1000, max_pixels=2000, timeout=3.0, queue_size=4)
    model = serve(FakePredictor(), limits=limits, threshold=0.4, max_batch=7).client.get("/model").json()
    colours = model.pop("colours")
    assert colours[0] == [255, 70, 60]
    assert len({tuple(colour) for colour in colours}) == 36
    assert model == {
        "name": "fake",
        "classes": [{"class": name, "class_id": number} for name, number in zip(NAMES, IDS)],
        "masks": True,
        "extra_inputs": [],
        "input": {"target_size": [32, 48], "keep_ratio": True, "stride": 16},
        "threshold": 0.4,
        "limits": {"max_bytes": 1000, "max_pixels": 2000, "timeout": 3.0, "queue_size": 4, "max_batch": 7},
    }


def test_openapi_and_no_foreign_origins(client: Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert set(paths) == {"/predict", "/predict.png", "/health", "/metrics", "/model"}
    assert [one["name"] for one in paths["/predict"]["post"]["parameters"]] == ["threshold", "masks", "format"]
    reply = client.predict(png(PICTURE), Origin="http://elsewhere.example")
    assert not [name for name in reply.headers if name.startswith("access-control")]


def test_the_page_is_one_file(client: Client) -> None:
    reply = client.get("/")
    assert (reply.status, reply.headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "default-src 'none'" in reply.headers["content-security-policy"]
    text = reply.body.decode().replace("http://www.w3.org/2000/svg", "")  # a namespace, not an address
    for sign in ("http:", "https:", 'src="', "@import", "url(", '<link rel="stylesheet'):
        assert sign not in text
