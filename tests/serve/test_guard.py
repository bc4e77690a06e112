"""Who may ask: names of the host, pages of other hosts, tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from serving import encoded, pixels, predictor
from starlette.testclient import TestClient

from carvana.serve.app import Limits, create_app

PNG = encoded(pixels())


@contextmanager
def served(**limits: Any) -> Iterator[TestClient]:
    app = create_app(predictor(), limits=Limits(**limits))
    with TestClient(app, base_url="http://localhost:8000") as client:
        yield client


@pytest.mark.parametrize("host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "LOCALHOST"])
def test_this_machine_has_several_names(host: str) -> None:
    with served() as client:
        assert client.get("/model", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "", "[", "localhost.evil.example"])
def test_a_page_whose_name_leads_to_this_machine_is_refused(host: str) -> None:
    with served() as client:
        answer = client.get("/model", headers={"host": host})
        assert (answer.status_code, "--origin" in answer.json()["error"]) == (403, True)


def test_with_a_token_any_name_will_do() -> None:
    with served(token="a long secret", hosts=None) as client:
        headers = {"host": "example.org", "authorization": "Bearer a long secret"}
        assert client.get("/model", headers=headers).status_code == 200


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "https://localhost", "http://["])
def test_pages_of_other_origins_are_refused(origin: str) -> None:
    with served() as client:
        answer = client.post("/predict", content=PNG, headers={"origin": origin})
        assert (answer.status_code, "--origin names those" in answer.json()["error"]) == (403, True)
        preflight = {"origin": origin, "access-control-request-method": "POST"}
        assert client.options("/predict", headers=preflight).status_code == 403


def test_its_own_page_may_ask() -> None:
    with served() as client:
        answer = client.post("/predict", content=PNG, headers={"origin": "http://localhost:8000"})
        assert answer.status_code == 200
        assert "access-control-allow-origin" not in answer.headers


def test_an_origin_that_is_named_may_ask_and_read() -> None:
    origin = "https://app.example"
    with served(origins=[origin], token="a long secret") as client:
        preflight = {
            "origin": origin, "access-control-request-method": "POST",
            "access-control-request-headers": "authorization",
        }  # fmt: skip
        answer = client.options("/predict", headers=preflight)
        assert answer.status_code == 200
        assert answer.headers["access-control-allow-origin"] == origin
        assert "authorization" in answer.headers["access-control-allow-headers"].lower()
        headers = {"origin": origin, "authorization": "Bearer a long secret"}
        answer = client.post("/predict", content=PNG, headers=headers)
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (200, origin)
        answer = client.post("/predict", content=PNG, headers={"origin": origin})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, origin)


@pytest.mark.parametrize("given", [None, "Bearer wrong", "Basic a long secret", "a long secret", "Bearer ä", "Bearer"])
def test_without_the_token_only_the_empty_page_and_the_sign_of_life_answer(given: str | None) -> None:
    headers = {} if given is None else {"authorization": given.encode("utf-8")}
    with served(token="a long secret") as client:
        for path in ("/predict", "/model", "/metrics", "/openapi.json", "/sample.jpg", "/nothing"):
            answer = client.request("POST" if path == "/predict" else "GET", path, headers=headers)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
            assert "token" in answer.json()["error"]
        assert client.get("/", headers=headers).status_code == 200
        assert client.get("/healthz", headers=headers).status_code == 200
