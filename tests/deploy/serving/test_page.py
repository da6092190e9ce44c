"""The web page in a browser: choosing and dropping images, filtering and highlighting instances, error messages."""

from __future__ import annotations

import base64
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import pytest
from serving_fakes import NAMES, FakePredictor, PromptedPredictor, Running, picture, png

from deploy.serving.uploads import Limits

pytest.importorskip("selenium", reason="selenium is not installed (requirements-dev.txt)")

from selenium.webdriver import ActionChains, Chrome, ChromeOptions, ChromeService, Keys  # noqa: E402
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage --window-size=1280,900"
)
PATIENCE = 30

Serve = Callable[..., Running]


class Page:
    """The page of the service in a browser."""

    def __init__(self, browser: Any, address: str) -> None:
        self.browser = browser
        browser.get(address)
        self.wait(lambda: self.text("limits"))

    def wait(self, condition: Callable[[], Any]) -> None:
        WebDriverWait(self.browser, PATIENCE, 0.05).until(lambda _: condition())

    def text(self, name: str) -> str:
        return str(self.browser.find_element(By.ID, name).text)

    def all(self, selector: str) -> list[Any]:
        return list(self.browser.find_elements(By.CSS_SELECTOR, selector))

    def run(self, script: str, *arguments: Any) -> Any:
        return self.browser.execute_script(script, *arguments)

    def pick(self, file: Path) -> None:
        self.browser.find_element(By.ID, "file").send_keys(str(file))

    def drop(self, data: bytes, name: str) -> None:
        """Drop a file on the page."""
        script = """
            const bytes = Uint8Array.from(atob(arguments[0]), (sign) => sign.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], arguments[1], { type: "image/png" }));
            for (const kind of ["dragenter", "dragover", "drop"])
                document.body.dispatchEvent(
                    new DragEvent(kind, { bubbles: true, cancelable: true, dataTransfer: transfer }));
        """
        self.run(script, base64.b64encode(data).decode(), name)

    def wait_for_instances(self, number: int) -> None:
        start = f"{number} instance"
        self.wait(lambda: self.text("count").startswith(start))

    def set_threshold(self, value: float) -> None:
        script = "const s = document.getElementById('threshold'); s.value = arguments[0];"
        self.run(script + "s.dispatchEvent(new Event('input'))", value)

    def lit(self) -> list[str]:
        """Return the type and instance of each highlighted element."""
        found = self.all("[data-index].lit")
        return sorted(f"{element.tag_name} {element.get_attribute('data-index')}" for element in found)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    program = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("no chromium with chromedriver here (Debian: apt-get install chromium chromium-driver)")
    options = ChromeOptions()
    options.binary_location = program
    for switch in SWITCHES.split():
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('chromium')}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    started = Chrome(options=options, service=ChromeService(driver))
    yield started
    started.quit()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    file = tmp_path / "picture.png"
    file.write_bytes(png(picture(120, 180, level=100)))
    return file


@pytest.fixture
def open_page(serve: Serve, browser: Any) -> Callable[..., Page]:
    return lambda predictor, **options: Page(browser, serve(predictor, **options).address)


def test_a_picked_picture_shows_its_instances(serve: Serve, browser: Any, image: Path, tmp_path: Path) -> None:
    running = serve(FakePredictor(), threshold=0.5)
    page = Page(browser, running.address)
    assert page.text("about").startswith("fake: ball")
    assert page.text("count") == "No image yet"
    page.pick(image)
    answer = running.client.predict(image.read_bytes()).json()["instances"]
    assert len(answer) == 2
    page.wait_for_instances(len(answer))
    assert page.text("count") == "2 instances, 1 with lower scores"
    assert len(page.all("#overlay .instance path")) == len(answer)
    listed = [(one.find_element(By.CLASS_NAME, "name").text, one.text.split()[-1]) for one in page.all("#list button")]
    assert listed == [(one["class"], f"{one['score']:.2f}") for one in answer]  # tags in a name are shown as text
    assert page.text("error") == ""
    # The overlay has the same position as the box in the image: x 90 to 180, y 30 to 90 of 180 x 120.
    frame, box = page.run(
        "const b = document.querySelector(arguments[0]).getBoundingClientRect(),"
        "f = document.getElementById('picture').getBoundingClientRect();"
        "return [[f.x, f.y, f.width, f.height], [b.x, b.y, b.width, b.height]]",
        "#overlay [data-index='0'] rect",
    )
    relative = [(box[0] - frame[0]) / frame[2], (box[1] - frame[1]) / frame[3], box[2] / frame[2], box[3] / frame[3]]
    assert relative == pytest.approx([0.5, 0.25, 0.5, 0.5], abs=0.005)
    assert frame[2] / frame[3] == pytest.approx(1.5, abs=0.01)
    shot = tmp_path / "page.png"
    assert page.browser.save_screenshot(str(shot))
    assert shot.stat().st_size > 10_000
    assert [line for line in browser.get_log("browser") if line["level"] == "SEVERE"] == []


def test_extra_inputs_of_a_model_that_requires_them(open_page: Callable[..., Page], image: Path) -> None:
    page = open_page(PromptedPredictor())
    values = page.browser.find_element(By.ID, "values")
    assert values.is_displayed() and values.get_attribute("placeholder") == '{"prompt": …}'
    page.pick(image)
    page.wait(lambda: "the extra input prompt (float32 [any, 2]) is missing" in page.text("error"))
    values.send_keys('{"prompt": [[0.5, 0.375]]}', Keys.ENTER)
    page.wait_for_instances(2)
    assert page.text("error") == "" and page.all("#list button")[0].text.split()[-1] == "0.88"


def test_a_dropped_picture_and_the_threshold(open_page: Callable[..., Page], image: Path) -> None:
    page = open_page(FakePredictor(), threshold=0.2)
    page.drop(image.read_bytes(), "dropped.png")
    page.wait_for_instances(3)
    assert page.all("body.dragging") == []
    for value, names in ((0.5, NAMES[:2]), (0.7, NAMES[:1]), (0.9, []), (0.05, NAMES)):
        page.set_threshold(value)
        assert [one.text for one in page.all("#list .name")] == names
        assert len(page.all("#overlay .instance")) == len(names)
        assert page.text("level") == f"{value:.2f}"
        assert page.text("count").split()[0] == str(len(names))


def test_hovering_and_focus_highlight_one_instance(open_page: Callable[..., Page], image: Path) -> None:
    page = open_page(FakePredictor(), threshold=0.5)
    page.pick(image)
    page.wait_for_instances(2)
    assert page.lit() == []
    mouse = ActionChains(page.browser)
    mouse.move_to_element(page.all("#list button")[1]).perform()
    assert page.lit() == ["button 1", "g 1", "span 1"]
    mouse.move_to_element(page.all("#overlay [data-index='0'] path")[0]).perform()
    assert page.lit() == ["button 0", "g 0", "span 0"]
    mouse.move_to_element(page.browser.find_element(By.TAG_NAME, "h1")).perform()
    assert page.lit() == []
    # Keyboard navigation: from the check box to the first instance, then to the second.
    page.browser.find_element(By.ID, "names").send_keys(Keys.TAB)
    assert page.lit() == ["button 0", "g 0", "span 0"]
    page.browser.switch_to.active_element.send_keys(Keys.TAB)
    assert page.lit() == ["button 1", "g 1", "span 1"]


def test_the_file_button_is_reached_by_keyboard(open_page: Callable[..., Page]) -> None:
    page = open_page(FakePredictor())
    page.browser.find_element(By.TAG_NAME, "body").send_keys(Keys.TAB)
    assert page.browser.switch_to.active_element.get_attribute("id") == "file"
    assert page.run("return getComputedStyle(document.getElementById('drop')).outlineStyle") == "solid"


def test_without_masks_boxes_are_drawn(open_page: Callable[..., Page], image: Path) -> None:
    page = open_page(FakePredictor(has_masks=False))
    page.pick(image)
    page.wait_for_instances(2)
    assert len(page.all("#overlay .instance.boxed rect")) == 2


def test_a_format_that_browsers_do_not_show(open_page: Callable[..., Page], tmp_path: Path) -> None:
    file = tmp_path / "scan.tiff"
    assert cv2.imwrite(str(file), picture(120, 180))
    page = open_page(FakePredictor())
    page.pick(file)
    page.wait_for_instances(2)
    assert page.run("return document.getElementById('picture').naturalWidth") == 180


def test_complaints_in_plain_words(serve: Serve, browser: Any, image: Path, tmp_path: Path) -> None:
    predictor = FakePredictor()
    running = serve(predictor, limits=Limits(max_bytes=100_000, queue_size=0), max_batch=1)
    page = Page(browser, running.address)

    def complaint(file: Path) -> str:
        page.pick(file)
        page.wait(lambda: page.text("error"))
        return page.text("error")

    text = tmp_path / "letter.png"
    text.write_text("Dear service")
    assert complaint(text).startswith("This image was rejected: the uploaded file is not a valid image")
    large = tmp_path / "large.png"
    large.write_bytes(bytes(200_000))
    assert complaint(large) == "This image has 0.2 MB; the limit of the service is 0.1 MB."
    predictor.error = ValueError("inside")
    assert complaint(image).startswith("The service failed to process this image: inference failed (ValueError)")
    predictor.error = None
    page.pick(image)
    page.wait_for_instances(2)
    assert page.text("error") == ""
    running.service.draining = True
    assert complaint(image) == "Try again in 10 seconds: the service is shutting down."
    assert page.all("#overlay .instance") == []
    running.stop()
    page.pick(text)
    page.wait(lambda: page.text("error").startswith("The service does not respond"))
    assert page.text("count") == "No instances"
