"""The page in a browser: skipped where there is none."""

from __future__ import annotations

import base64
import io
import json
import re
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from browsing import CHROMIUM, CONTRAST, launched
from numpy.typing import NDArray
from PIL import Image
from serving import decoded, encoded, pixels, predictor, running, segmenter
from starlette.responses import JSONResponse

import carvana
from carvana.serve.app import Limits, create_app

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

IMAGE = pixels((90, 140))
PNG = encoded(IMAGE)
ELEVEN = carvana.Task(classes=[f"class {number}" for number in range(11)])


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with launched() as browser:
        yield browser


@pytest.fixture(scope="module")
def ports() -> Iterator[dict[str, int]]:
    """A server of each kind, and one of eleven classes."""
    with ExitStack() as servers:
        found = {
            kind: servers.enter_context(running(create_app(predictor(kind))))
            for kind in ("binary", "multiclass", "multilabel")
        }
        eleven = carvana.Predictor(segmenter(task=ELEVEN), device="cpu", precision="fp32")
        yield found | {"eleven": servers.enter_context(running(create_app(eleven)))}


@contextmanager
def shown(browser: Browser, port: int, **how: Any) -> Iterator[Page]:
    """The page, which asks no other host and has nothing to complain of."""
    address = f"http://127.0.0.1:{port}/"
    complaints: list[str] = []
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 850}} | how)
    page = context.new_page()
    page.on("console", lambda message: "status of 400" in message.text or complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on(
        "request",
        lambda request: request.url.startswith((address, "blob:", "data:")) or complaints.append(request.url),
    )
    page.goto(address)
    page.wait_for_selector("#facts dd")
    yield page
    context.close()
    assert complaints == []


def drop(page: Page, *files: tuple[str, bytes]) -> None:
    """Drop files on the page, as a hand does."""
    given = [{"name": name, "data": list(data)} for name, data in files]
    transfer = page.evaluate_handle(
        """files => {
          const transfer = new DataTransfer();
          for (const { name, data } of files) transfer.items.add(new File([new Uint8Array(data)], name));
          return transfer;
        }""",
        given,
    )
    for kind in ("dragenter", "dragover", "drop"):
        page.dispatch_event("body", kind, {"dataTransfer": transfer})


def wait_for(page: Page, name: str) -> None:
    page.wait_for_selector(f'#view[aria-label*="{name}"]')


def seen(page: Page, canvas: str = "view") -> NDArray[np.uint8]:
    """The pixels that a canvas shows, RGBA."""
    url = page.evaluate(f"document.getElementById('{canvas}').toDataURL()")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1]))).convert("RGBA"))


def saved(page: Page, what: str) -> tuple[str, bytes]:
    with page.expect_download() as download:
        page.click(f"[data-save={what}]")
    return download.value.suggested_filename, Path(download.value.path()).read_bytes()


def test_an_image_that_is_dropped_becomes_the_mask_that_predict_makes(browser: Browser, ports: dict[str, int]) -> None:
    with shown(browser, ports["binary"]) as page:
        drop(page, ("car.png", PNG))
        wait_for(page, "overlay of car.png")
        page.check("[name=view][value=mask]")
        wait_for(page, "mask of car.png")
        mask = predictor().predict(IMAGE).mask
        np.testing.assert_array_equal(seen(page)[..., 0], mask * 255)
        np.testing.assert_array_equal(seen(page, "original")[..., :3], IMAGE)
        assert f"{100 * mask.mean():.0f} %" in page.inner_text("#legend")
        assert page.inner_text("#count") == "1 image"


def test_the_threshold_acts_at_once_and_what_is_saved_follows_it(browser: Browser, ports: dict[str, int]) -> None:
    prediction = predictor().predict(IMAGE)
    with shown(browser, ports["binary"]) as page:
        drop(page, ("car.png", PNG))
        wait_for(page, "car.png")
        page.check("[name=view][value=mask]")
        page.focus("#threshold")
        page.evaluate(
            "const t = document.getElementById('threshold'); t.value = 192; t.dispatchEvent(new Event('input'))"
        )
        wanted = (prediction.probabilities > 0.75).view(np.uint8) * 255
        np.testing.assert_array_equal(seen(page)[..., 0], wanted)
        assert page.inner_text("#shown") == "0.750"
        name, data = saved(page, "mask")
        assert name == "car_mask.png"
        np.testing.assert_array_equal(decoded(data) * np.uint8(255), wanted)
        page.focus("#threshold")
        page.keyboard.press("ArrowRight")
        assert page.inner_text("#shown") == "0.754"
        page.click("#reset")
        np.testing.assert_array_equal(seen(page)[..., 0], prediction.mask * 255)


def test_a_cutout_is_that_of_the_server_on_any_ground(browser: Browser, ports: dict[str, int]) -> None:
    with shown(browser, ports["binary"]) as page:
        drop(page, ("car.png", PNG))
        wait_for(page, "car.png")
        page.check("[name=view][value=cutout]")
        name, data = saved(page, "cutout")
        assert (name, decoded(data).shape) == ("car_cutout.png", (90, 140, 4))
        page.select_option("#ground", "colour")
        page.evaluate(
            "const c = document.getElementById('colour'); c.value = '#ff0000'; c.dispatchEvent(new Event('input'))"
        )
        on_red = decoded(saved(page, "cutout")[1])
        with zipfile.ZipFile(io.BytesIO(saved(page, "zip")[1])) as archive:
            np.testing.assert_array_equal(decoded(archive.read("car_cutout.png")), on_red)
        outside = predictor().predict(IMAGE).probabilities < 0.01
        clear = decoded(data)[..., 3] == 0
        assert (on_red[clear][:, :3] == (255, 0, 0)).all()
        assert outside.sum() == 0 or clear.any()


def test_classes_are_shown_and_hidden(browser: Browser, ports: dict[str, int]) -> None:
    labels = carvana.Predictor(segmenter(task=ELEVEN), device="cpu", precision="fp32").predict(IMAGE).labels
    with shown(browser, ports["eleven"]) as page:
        drop(page, ("street.png", PNG))
        wait_for(page, "street.png")
        page.check("[name=view][value=mask]")
        np.testing.assert_array_equal(seen(page)[..., :3], ELEVEN.palette[labels])
        assert page.locator("#legend li").count() == 11
        most = int(np.bincount(labels.ravel()).argmax())
        page.locator("#legend input").nth(most).uncheck()
        colors = ELEVEN.palette.copy()
        colors[most] = 0
        np.testing.assert_array_equal(seen(page)[..., :3], colors[labels])
        assert not page.is_visible("#thresholds")
        name, data = saved(page, "mask")
        assert name == "street_mask.png"
        np.testing.assert_array_equal(decoded(data), labels)


def test_classes_that_overlap_have_their_own_masks(browser: Browser, ports: dict[str, int]) -> None:
    own = predictor("multilabel")
    masks = own.predict(IMAGE).masks
    with shown(browser, ports["multilabel"]) as page:
        drop(page, ("cells.png", PNG))
        wait_for(page, "cells.png")
        page.check("[name=view][value=mask]")
        page.locator("#legend input").nth(0).uncheck()
        wanted = own.task.palette[1] * masks[1][..., None]
        np.testing.assert_array_equal(seen(page)[..., :3], wanted)


@pytest.mark.parametrize("kind", ["binary", "multiclass", "multilabel"])
def test_all_is_saved_as_one_zip(browser: Browser, ports: dict[str, int], kind: str) -> None:
    with shown(browser, ports[kind]) as page:
        drop(page, ("car.png", PNG), ("car.png", encoded(IMAGE[::-1].copy())))
        wait_for(page, "car.png")
        page.wait_for_selector("text=2 of 2 images")
        name, data = saved(page, "zip")
        assert name == "masks.zip"
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            assert archive.testzip() is None
            names = archive.namelist()
            assert len(set(names)) == len(names)
            stems = {re.sub(r"_[a-z]+\.\w+$", "", each.rpartition("/")[2]) for each in names}
            ends = {each.rpartition("_")[2] for each in names}
            assert ends == {"mask.png", "overlay.jpg", "coco.json", "cutout.png"}
            assert {each.removesuffix("-2") for each in stems} == {"car"}
            assert len(names) == 2 * (5 if kind == "multilabel" else 4)
            document = json.loads(archive.read("car_coco.json"))
            assert document["images"][0]["width"] == 140


def test_what_a_browser_cannot_read_is_shown_by_the_server(browser: Browser, ports: dict[str, int]) -> None:
    with shown(browser, ports["binary"]) as page:
        drop(page, ("машина.tif", encoded(IMAGE, "TIFF")), ("notes.txt", b"hello"))
        wait_for(page, "машина.tif")
        assert saved(page, "mask")[0] == "машина_mask.png"
        assert seen(page, "original").shape == (90, 140, 4)
        page.wait_for_selector(".failed >> text=not an image")


def test_what_failed_leaves_no_other_image_on_the_stage_and_is_named_when_all_is_saved(
    browser: Browser, ports: dict[str, int]
) -> None:
    with shown(browser, ports["binary"]) as page:
        drop(page, ("a.png", PNG), ("bad.png", PNG[:200]))
        wait_for(page, "a.png")
        page.wait_for_selector(".failed")
        page.click(".failed .item")
        page.wait_for_selector("#waiting >> text=retry")
        assert page.get_attribute("#view", "aria-label") is None
        assert page.evaluate("document.getElementById('view').width") == 0
        with zipfile.ZipFile(io.BytesIO(saved(page, "zip")[1])) as archive:
            assert len(archive.namelist()) == 4
        assert page.inner_text("#waiting") == "not in the zip: bad.png"


def test_a_full_server_is_waited_for_and_what_is_removed_waits_no_longer(browser: Browser) -> None:
    app = create_app(predictor(), limits=Limits(places=1))
    full = True

    class Full:
        def __init__(self, app: Any) -> None:
            self.app = app

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
            if scope.get("path") == "/predict" and full:
                answer = JSONResponse({"error": "full"}, 503, headers={"retry-after": "1"})
                await answer(scope, receive, send)
            else:
                await self.app(scope, receive, send)

    app.add_middleware(Full)
    with running(app) as port:
        page = browser.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#facts dd")
        drop(page, *((f"{number}.png", PNG) for number in range(4)))
        page.wait_for_selector("text=waits: the server is full")
        for number in range(3):
            page.click(f'[aria-label="Remove {number}.png"]')
        full = False
        wait_for(page, "3.png")
        page.close()


def test_an_image_is_chosen_pasted_removed_and_a_sample_tried(browser: Browser, ports: dict[str, int]) -> None:
    with shown(browser, ports["binary"]) as page:
        page.click("#sample")
        wait_for(page, "sample.jpg")
        page.set_input_files("#files", {"name": "b.png", "mimeType": "image/png", "buffer": PNG})
        page.click("text=b.png")
        wait_for(page, "b.png")
        for name in ("sample.jpg", "b.png"):
            page.click(f'[aria-label="Remove {name}"]')
        assert page.is_visible("#drop")
        page.evaluate(
            """data => {
              const transfer = new DataTransfer();
              transfer.items.add(new File([new Uint8Array(data)], "image.png"));
              dispatchEvent(new ClipboardEvent("paste", { clipboardData: transfer }));
            }""",
            list(PNG),
        )
        wait_for(page, "image.png")


def test_the_slider_zoom_and_keys_move_the_picture(browser: Browser, ports: dict[str, int]) -> None:
    with shown(browser, ports["binary"]) as page:
        drop(page, ("car.png", PNG))
        wait_for(page, "car.png")
        page.focus("#split")
        for _ in range(30):
            page.keyboard.press("ArrowRight")
        assert page.evaluate("document.getElementById('after').style.clipPath") == "inset(0px 0px 0px 30%)"
        fitted = page.inner_text("#scale")
        page.click("[data-zoom=one]")
        assert page.inner_text("#scale") == "100 %"
        page.focus("#stage")
        for _ in range(4):
            page.keyboard.press("+")
        assert page.evaluate("document.getElementById('stage').className") == "sharp"
        page.click("[data-zoom=fit]")
        assert page.inner_text("#scale") == fitted


def test_a_token_is_asked_for_or_taken_from_the_address(browser: Browser) -> None:
    app = create_app(predictor(), limits=Limits(token="a-long-secret", hosts=None))
    with running(app) as port:
        context = browser.new_context()
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{port}/")
        page.wait_for_selector("#ask:visible")
        drop(page, ("early.png", PNG))
        page.fill("#token", "a-long-secret")
        page.click("#ask button")
        wait_for(page, "early.png")
        context.close()
        page = browser.new_context().new_page()
        page.goto(f"http://127.0.0.1:{port}/#token=a-long-secret")
        page.wait_for_selector("#facts dd")
        assert page.evaluate("location.hash") == ""
        page.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 3840])
def test_any_width_and_both_grounds_are_legible(
    browser: Browser, ports: dict[str, int], width: int, scheme: str
) -> None:
    how = {"viewport": {"width": width, "height": 800}, "color_scheme": scheme}
    with shown(browser, ports["eleven"], **how) as page:
        for begun in (False, True):
            if begun:
                drop(page, ("a street with a long name that says where it was taken.png", PNG))
                wait_for(page, "street")
            assert page.evaluate("document.documentElement.scrollWidth") <= width
            worst = page.evaluate(CONTRAST)
            assert worst[0][0] >= 4.5, worst
        unnamed = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select")].filter(each => each.checkVisibility()
              && !(each.ariaLabel || each.labels?.length || each.textContent.trim())).map(each => each.outerHTML)"""
        )
        assert unnamed == []
