"""The API: what it answers equals what ``carvana predict`` writes, and what cannot be answered is said in a line."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pytest
import torch
from PIL import Image
from serving import decoded, encoded, pixels, predictor, segmenter
from starlette.testclient import TestClient

import carvana
from carvana.data.io import rle
from carvana.data.io.images import read_image
from carvana.data.io.masks import read_mask
from carvana.inference.outputs.postprocess import Cleaning, clean
from carvana.inference.predict_folder import predict_folder
from carvana.inference.prediction import levels
from carvana.serve.app import Limits, create_app, model_record

IMAGE = pixels()
PNG = encoded(IMAGE)


@pytest.fixture(scope="module", params=["binary", "multiclass", "multilabel"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def client(kind: str) -> Iterator[TestClient]:
    with TestClient(create_app(predictor(kind)), base_url="http://localhost") as client:
        yield client


@pytest.fixture(scope="module")
def binary() -> Iterator[TestClient]:
    app = create_app(predictor(max_pixels=10_000), limits=Limits(max_bytes=50_000))
    with TestClient(app, base_url="http://localhost", raise_server_exceptions=False) as client:
        yield client


def files_of(kind: str, save: list[str], folder: Path, **settings: Any) -> dict[str, bytes]:
    """What ``carvana predict`` writes of the image."""
    (folder / "in").mkdir()
    (folder / "in" / "blots.png").write_bytes(PNG)
    predict_folder(predictor(kind), [folder / "in" / "blots.png"], out=folder / "out", save=save, **settings)
    written = (path for path in (folder / "out").rglob("blots*") if path.is_file())
    return {path.relative_to(folder / "out").as_posix(): path.read_bytes() for path in written}


def members(data: bytes) -> dict[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def ask(client: TestClient, address: str = "/predict", data: bytes = PNG, name: str = "blots.png") -> Any:
    return client.post(address, files={"image": (name, data)})


def test_by_default_the_answer_is_the_file_that_predict_writes(kind: str, client: TestClient, tmp_path: Path) -> None:
    written = files_of(kind, ["mask"], tmp_path)
    answer = ask(client)
    assert answer.status_code == 200
    if kind == "multilabel":
        assert members(answer.content) == written
        return
    assert answer.headers["content-type"] == "image/png"
    assert 'filename="blots_mask.png"' in answer.headers["content-disposition"]
    assert [answer.content] == list(written.values())
    for headers in ({}, {"content-type": "image/png"}, {"content-type": "application/x-www-form-urlencoded"}):
        assert client.post("/predict", content=PNG, headers=headers).content == answer.content


def test_other_files_of_predict_are_the_same_as_well(kind: str, client: TestClient, tmp_path: Path) -> None:
    chosen = {} if kind == "binary" else {"of_class": predictor(kind).task.names[-1]}
    written = files_of(kind, ["prob", "cutout", "overlay"], tmp_path, **chosen)
    of_class = {"class": chosen["of_class"]} if chosen else {}
    got = {}
    for output, options in (("prob", {}), ("cutout", of_class), ("overlay", {})):
        answer = ask(client, str(client.base_url.copy_with(path="/predict", params={"output": output, **options})))
        assert answer.status_code == 200, answer.text
        got[answer.headers["content-disposition"].split('"')[1]] = answer.content
    assert got == written


def test_several_outputs_come_in_a_zip(kind: str, client: TestClient) -> None:
    found = members(ask(client, "/predict?output=mask,overlay,coco,rle,image").content)
    assert {"blots.jpg", "blots_overlay.jpg", "blots_coco.json", "blots_rle.json"} < set(found)
    for name, data in found.items():
        output = "mask" if name.endswith("_mask.png") else name.split("_")[-1].split(".")[0].replace("blots", "image")
        alone = ask(client, f"/predict?output={output}").content
        assert data == (members(alone)[name] if kind == "multilabel" and output == "mask" else alone)


def test_polygons_and_run_lengths_tell_the_same_masks(kind: str, client: TestClient) -> None:
    prediction = predictor(kind).predict(PNG)
    document = json.loads(ask(client, "/predict?output=coco").content)
    names = {each["id"]: each["name"] for each in document["categories"]}
    assert document["images"] == [{"id": 1, "file_name": "blots.png", "height": 72, "width": 100}]
    assert [each["id"] for each in document["annotations"]] == list(range(1, len(document["annotations"]) + 1))
    for order in ("row", "column"):
        runs = json.loads(ask(client, f"/predict?output=rle&order={order}").content)
        assert runs["size"] == [72, 100]
        for each in runs["classes"]:
            mask = prediction.mask_of(each["name"])
            np.testing.assert_array_equal(rle.decode(each["runs"], (72, 100), order=order), mask)
            area = sum(a["area"] for a in document["annotations"] if names[a["category_id"]] == each["name"])
            assert area == mask.sum()


def test_all_outputs_are_cleaned_alike(kind: str, client: TestClient) -> None:
    if kind == "multiclass":
        assert ask(client, "/predict?output=rle&clean=true").status_code == 422
        return
    names = predictor(kind).task.names
    cleaned = [clean(predictor(kind).predict(PNG).mask_of(name), **vars(Cleaning())) for name in names]
    assert any(
        (mask != predictor(kind).predict(PNG).mask_of(name)).any() for name, mask in zip(names, cleaned, strict=True)
    )
    runs = json.loads(ask(client, "/predict?output=rle&clean=true").content)["classes"]
    areas = dict.fromkeys(names, 0)
    document = json.loads(ask(client, "/predict?output=coco&clean=true").content)
    for each in document["annotations"]:
        areas[names[each["category_id"] - 1]] += each["area"]
    for name, mask, found in zip(names, cleaned, runs, strict=True):
        np.testing.assert_array_equal(rle.decode(found["runs"], (72, 100)), mask)
        assert areas[name] == mask.sum()
        if kind == "multilabel":
            answer = ask(client, f"/predict?output=mask&class={name}&clean=true")
            np.testing.assert_array_equal(decoded(answer.content) > 0, mask)
    if kind == "binary":
        labels = decoded(ask(client, "/predict?output=labels&clean=true").content)
        np.testing.assert_array_equal(labels, cleaned[0])


def test_labels_are_indices_of_classes(kind: str, client: TestClient) -> None:
    answer = ask(client, "/predict?output=labels")
    if kind == "multilabel":
        assert answer.status_code == 422
        return
    np.testing.assert_array_equal(decoded(answer.content), predictor(kind).predict(PNG).labels)


def test_one_class_of_several_has_a_mask_and_probabilities_in_8_bits(kind: str, client: TestClient) -> None:
    task = predictor(kind).task
    name, prediction = task.names[-1], predictor(kind).predict(PNG)
    for output, wanted in (
        ("mask", prediction.mask_of(name)),
        ("prob", levels(prediction.probability_of(name))),
    ):
        answer = client.post("/predict", params={"output": output, "class": name}, content=PNG)
        assert answer.headers["content-type"] == "image/png"
        np.testing.assert_array_equal(decoded(answer.content), wanted)


def test_a_threshold_takes_the_place_of_the_models_own(kind: str, client: TestClient) -> None:
    name, prediction = predictor(kind).task.names[0], predictor(kind).predict(PNG)
    answer = client.post("/predict", params={"class": name, "threshold": 0.7}, content=PNG)
    if kind == "multiclass":
        assert (answer.status_code, "a multiclass task has none" in answer.json()["error"]) == (422, True)
        return
    np.testing.assert_array_equal(decoded(answer.content) > 0, prediction.probability_of(name) > 0.7)


@pytest.mark.parametrize(
    ("accept", "kind_of_answer"),
    [("image/png", "image/png"), ("image/jpeg", "image/jpeg"), ("application/json, */*;q=0.1", "application/json"),
     ("*/*", "image/png"), ("text/html, image/*;q=0.8", "image/png"), ("text/html", None), ("image/png;q=x", None),
     ("image/png;q=0, */*", "image/jpeg"), ("application/*", "application/json")],
)  # fmt: skip
def test_the_accept_header_chooses(binary: TestClient, accept: str, kind_of_answer: str | None) -> None:
    answer = binary.post("/predict", content=PNG, headers={"accept": accept})
    assert answer.status_code == (406 if kind_of_answer is None else 200)
    assert answer.headers["content-type"] == kind_of_answer or kind_of_answer is None


def test_an_image_that_a_browser_cannot_show_is_shown_upright(binary: TestClient) -> None:
    file, exif = io.BytesIO(), Image.Exif()
    exif[0x0112] = 6  # a quarter turn
    Image.fromarray(IMAGE).save(file, "TIFF", exif=exif)
    answer = ask(binary, "/predict?output=image", file.getvalue())
    assert answer.headers["content-type"] == "image/jpeg"
    assert decoded(answer.content).shape == (100, 72, 3)


def multipart(*parts: bytes, boundary: bytes = b"edge") -> dict[str, Any]:
    body = b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts) + b"--" + boundary + b"--\r\n"
    return {"content": body, "headers": {"content-type": "multipart/form-data; boundary=edge"}}


FILE = b'content-disposition: form-data; name="image"; filename="a.png"\r\n\r\n'
BOMB = encoded(np.zeros((101, 100, 3), np.uint8))

BAD: dict[str, tuple[int, str, dict[str, Any]]] = {
    "no body": (400, "is empty", {"content": b""}),
    "text": (400, "not an image", {"content": b"hello"}),
    "a cut image": (400, "damaged or cut", {"content": PNG[: len(PNG) // 2]}),
    "an empty file": (400, "is empty", multipart(FILE)),
    "a cut form": (400, "the form cannot be read", {
        "content": b"--edge\r\n" + FILE + PNG, "headers": {"content-type": "multipart/form-data; boundary=other"}}),
    "no boundary": (400, "the form cannot be read", {
        "content": PNG, "headers": {"content-type": "multipart/form-data"}}),
    "a form without a file": (422, "expected one file", multipart(
        b'content-disposition: form-data; name="a"\r\n\r\nb')),
    "an empty form": (422, "the form has no file", multipart()),
    "two files": (422, "the form has 2 files", multipart(FILE + PNG, FILE + PNG)),
    "a field beside the file": (422, "options in the address", multipart(
        b'content-disposition: form-data; name="output"\r\n\r\nprob', FILE + PNG)),
    "JSON": (415, "expected multipart", {"content": b"{}", "headers": {"content-type": "application/json"}}),
    "compressed": (415, "content encoding", {"content": PNG, "headers": {"content-encoding": "gzip"}}),
    "too many bytes": (413, "more than 50,000 bytes", {"content": bytes(50_001)}),
    "too many bytes in a form": (413, "more than 50,000 bytes", multipart(FILE + bytes(50_001))),
    "too many pixels": (413, "more than the limit of 10,000 pixels", {"content": BOMB}),
    "an unknown output": (422, "expected some of mask", {"content": PNG, "params": {"output": "maks"}}),
    "no output": (422, "expected some of mask", {"content": PNG, "params": {"output": ""}}),
    "an unknown option": (422, "option 'tresh' is unknown", {"content": PNG, "params": {"tresh": 1}}),
    "a word for a number": (422, "option threshold = 'high'", {"content": PNG, "params": {"threshold": "high"}}),
    "a threshold out of range": (422, "outside 0 to 1", {"content": PNG, "params": {"threshold": 1.5}}),
    "not a number": (422, "outside 0 to 1", {"content": PNG, "params": {"threshold": "nan"}}),
    "an option that is there twice": (422, "is there twice", {"content": PNG, "params": {"output": ["mask", "prob"]}}),
    "an unknown class": (422, "no class is named", {"content": PNG, "params": {"class": "bus"}}),
    "an order": (422, "order", {"content": PNG, "params": {"output": "rle", "order": "diagonal"}}),
    "a file as background": (422, "is not a colour", {
        "content": PNG, "params": {"output": "cutout", "background": "/etc/passwd"}}),
    "a background without a cut-out": (422, "needs output=cutout", {"content": PNG, "params": {"background": "white"}}),
}  # fmt: skip


@pytest.mark.parametrize("what", BAD)
def test_a_bad_request_gets_its_status_and_one_line(binary: TestClient, what: str) -> None:
    status, line, request = BAD[what]
    answer = binary.post("/predict", **request)
    told = answer.json()
    assert (answer.status_code, list(told)) == (status, ["error"])
    assert line in told["error"]
    assert "\n" not in told["error"]
    assert binary.post("/predict", content=PNG).status_code == 200  # and the server goes on


def test_chunks_without_a_length_are_counted(binary: TestClient) -> None:
    sent = []

    def chunks() -> Iterator[bytes]:
        for _ in range(1000):
            sent.append(1)
            yield bytes(1000)

    assert binary.post("/predict", content=chunks()).status_code == 413


def test_the_only_one_of_classes_that_may_overlap_has_its_folder_as_several_have(tmp_path: Path) -> None:
    task = carvana.Task(kind="multilabel", classes=["Ω/x"])
    app = create_app(carvana.Predictor(segmenter(task=task), device="cpu", precision="fp32"))
    with TestClient(app, base_url="http://localhost") as client:
        assert list(members(ask(client).content)) == ["Ω_x/blots_mask.png"]


def test_other_addresses_and_methods_are_refused_in_json(binary: TestClient) -> None:
    assert binary.get("/../../etc/passwd").json() == {"error": "Not Found"}
    answer = binary.get("/predict")
    assert (answer.status_code, answer.json()) == (405, {"error": "Method Not Allowed"})


def test_whether_there_is_a_page_can_be_asked_without_it(binary: TestClient) -> None:
    for path in ("/", "/healthz"):
        answer = binary.head(path)
        assert (answer.status_code, answer.content) == (200, b"")


def test_the_names_of_answers_are_plain(binary: TestClient) -> None:
    answer = ask(binary, name='../..\\"evil\r\nX-Header: 1".png')
    assert answer.status_code == 200
    assert answer.headers["content-disposition"].count('"') == 2
    assert "x-header" not in answer.headers


def test_of_several_classes_a_cut_out_needs_one(kind: str, client: TestClient) -> None:
    answer = ask(client, "/predict?output=cutout")
    assert answer.status_code == (200 if kind == "binary" else 422)
    if kind != "binary":
        assert f"add class={predictor(kind).task.names[-1]}" in answer.json()["error"]


def test_a_network_of_other_images_takes_them_and_shows_three_of_their_channels() -> None:
    model = carvana.create_model("unet-ref", channels=4, width=2).with_spec(range=[(0, 4095)] * 4, dtype="uint16")
    values, file = np.random.default_rng(0).integers(0, 4096, (40, 50, 4), np.uint16), io.BytesIO()
    np.save(file, values)
    predictor = carvana.Predictor(model, device="cpu", scale="native")
    with TestClient(create_app(predictor), base_url="http://localhost") as client:
        assert client.get("/model").json()["channels"] == ["1", "2", "3", "4"]
        answer = client.post("/predict", content=file.getvalue())
        np.testing.assert_array_equal(read_mask(answer.content), predictor.predict(values).mask)
        assert read_image(client.post("/predict?output=overlay", content=file.getvalue()).content).shape == (40, 50, 3)
        answer = client.post("/predict", content=PNG)
        assert (answer.status_code, "expected 4" in answer.json()["error"]) == (400, True)


def test_a_network_that_fails_is_told_in_a_line() -> None:
    model = segmenter()
    with torch.no_grad():
        model.network.weight.fill_(torch.nan)  # type: ignore[union-attr]
    app = create_app(carvana.Predictor(model, device="cpu", precision="fp32"))
    with TestClient(app, base_url="http://localhost") as client:
        answer = client.post("/predict", content=PNG)
        assert (answer.status_code, "gives NaN in fp32" in answer.json()["error"]) == (500, True)


def test_a_mistake_of_our_own_is_counted_and_says_nothing_of_itself(caplog: pytest.LogCaptureFixture) -> None:
    own = predictor()
    own.run = lambda *_, **__: 1 / 0  # type: ignore[method-assign]
    with TestClient(create_app(own), base_url="http://localhost") as client:
        answer = client.post("/predict", content=PNG)
        assert (answer.status_code, answer.json()) == (500, {"error": "the server failed; its log says why"})
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert 'carvana_requests_total{path="/predict",status="500"} 1.0' in client.get("/metrics").text
    assert "ZeroDivisionError" in caplog.text


def test_a_model_without_a_folder_has_a_card(client: TestClient) -> None:
    assert "# bright" in client.get("/model").json()["card"]


def test_what_the_model_is(kind: str, client: TestClient) -> None:
    told = client.get("/model").json()
    assert (told["arch"], told["kind"], told["engine"], told["scale"]) == ("bright", kind, "torch", "48x64")
    assert [each["name"] for each in told["classes"]] == predictor(kind).task.names
    if kind == "multiclass":
        assert [each["value"] for each in told["classes"]] == [10, 20, 30]


def test_the_value_of_one_class_is_that_of_its_masks() -> None:
    own = predictor()
    assert [each["value"] for each in model_record(own, "")["classes"]] == [255]
    own.task = carvana.Task(classes={"cell": 2})
    assert [each["value"] for each in model_record(own, "")["classes"]] == [2]


def test_names_beyond_ascii_are_kept(binary: TestClient) -> None:
    for name, plain, exact in (("автомобиль 1.png", "___________1", "автомобиль_1"), ("e\u0301.png", "_", "\xe9")):
        header = ask(binary, name=name).headers["content-disposition"]
        assert header == f"inline; filename=\"{plain}_mask.png\"; filename*=UTF-8''{quote(exact)}_mask.png"
    answer = ask(binary, "/predict?output=mask,overlay", name="汽车.jpg")
    assert sorted(members(answer.content)) == ["汽车_mask.png", "汽车_overlay.jpg"]


def test_a_runs_score_and_card_are_told(tiny_run: Path) -> None:
    app = create_app(carvana.Predictor.from_pretrained(tiny_run, device="cpu"), source=str(tiny_run))
    with TestClient(app, base_url="http://localhost") as client:
        told = client.get("/model").json()
    numbers = carvana.Run.open(tiny_run).read_evaluation()
    assert (told["name"], told["score"], told["images"]) == (tiny_run.name, numbers["dice"], numbers["images"])
    assert told["card"].startswith("---\nlibrary_name: carvana")
    mirrored = carvana.Predictor.from_pretrained(tiny_run, device="cpu", tta=True)
    assert "score" not in model_record(mirrored, str(tiny_run))  # which is of other masks


def test_counters_and_the_sign_of_life(client: TestClient) -> None:
    assert client.get("/healthz").json() == {"status": "ok"}
    before = client.get("/metrics").text
    ask(client)
    client.post("/predict", content=b"")
    after = client.get("/metrics").text

    def count(text: str, name: str) -> float:
        return float(next((line.split()[-1] for line in text.splitlines() if line.startswith(name)), 0))

    for name, more in (
        ('carvana_requests_total{path="/predict",status="200"}', 1),
        ('carvana_requests_total{path="/predict",status="400"}', 1),
        ("carvana_request_seconds_count", 1),
        ("carvana_batch_images_sum", 1),
    ):
        assert count(after, name) - count(before, name) == more, name
    assert count(after, "carvana_waiting_requests") == 0


def test_openapi_describes_options_and_errors(client: TestClient) -> None:
    told = client.get("/openapi.json").json()
    post = told["paths"]["/predict"]["post"]
    assert {each["name"] for each in post["parameters"]} == {
        "output", "class", "threshold", "background", "clean", "order",
    }  # fmt: skip
    assert {"200", "400", "413", "415", "422", "503"} < set(post["responses"])
    assert "multipart/form-data" in post["requestBody"]["content"]
    assert client.get("/docs").status_code == 404  # it would fetch scripts from another host


def test_the_page_may_run_its_own_script_alone(client: TestClient) -> None:
    answer = client.get("/")
    assert answer.headers["content-type"].startswith("text/html")
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'sha256-")
    assert "unsafe" not in policy
    assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_sample_is_an_image(client: TestClient) -> None:
    assert carvana.read_image(client.get("/sample.jpg").content).shape == (640, 960, 3)
