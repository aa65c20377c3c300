"""The page docs/digit in a real browser: what it makes of strokes, and what its networks say, against NumPy and JAX."""

import json
import re
import shutil
from functools import partial
from pathlib import Path

import jax
import numpy as np
import pytest

import bbinn_jax as bb
from experiments.common import classifier, data
from tests import browser

PAGE = Path(__file__).parents[1] / "docs" / "digit"
WIDE, PHONE = (1280, 900), (390, 844)
DRAWN = (0, 4, 7, 8)  # examples that are drawn again by hand


@pytest.fixture(scope="module")
def committee():
    """What JAX says of grey values [n * 784], from the packed file of the same networks."""
    kept = classifier.load_packed(PAGE / "committee.packed.safetensors")
    networks = kept.network.weights, kept.network.batch_stats
    predict = jax.jit(partial(bb.committee_predictive, kept.apply_fn))
    return lambda pixels: predict(networks, kept.preprocess(pixels.reshape(-1, 28, 28, 1)))


@pytest.fixture(scope="module")
def mnist():
    """The test images [n, 28, 28] as they are, and their labels."""
    try:
        ((images, labels),) = data.load_tfds("mnist", ("test",))
    except FileNotFoundError as error:
        pytest.skip(str(error))
    return images[..., 0], labels


@pytest.fixture(scope="module")
def tab(tmp_path_factory):
    if browser.executable() is None:
        pytest.skip("needs a browser: Chromium, of Debian's package of this name")
    if not (PAGE / "onnxruntime" / "copied").exists():
        pytest.skip("needs onnxruntime-web, which make page fetches by npm")
    pytest.importorskip("websockets")
    with browser.served(PAGE) as address, browser.browser(tmp_path_factory.mktemp("chromium")) as opened:
        opened.address = address
        resize(opened, *WIDE)
        opened("Page.navigate", url=f"{address}/index.html")
        opened.wait("document.getElementById('bytes-networks')?.value > 0")
        examples = opened.evaluate("import('/examples.js').then((module) => module.EXAMPLES)")
        opened.examples = [[thin(stroke) for stroke in strokes] for strokes in examples]
        yield opened


@pytest.fixture
def empty(tab):
    """The page with nothing drawn, in a wide window."""
    resize(tab, *WIDE)
    tab.evaluate("document.getElementById('clear').click()")
    tab.wait("document.getElementById('verdict').dataset.kind === 'empty'")
    return tab


def thin(stroke):
    """A stroke of fewer points: each of them is an event of the mouse."""
    return stroke if len(stroke) < 10 else [*stroke[:-1:2], stroke[-1]]


def resize(tab, width, height, scheme="light"):
    mobile = width < height
    tab("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=mobile)
    tab("Emulation.setTouchEmulationEnabled", enabled=mobile)
    tab("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": scheme}])


def on_screen(tab, strokes):
    """Strokes [[[x, y], ...], ...] in [0, 1] as places in the window."""
    box = tab.evaluate(
        "(({ left, top, width }) => [left, top, width])(document.getElementById('paper').getBoundingClientRect())"
    )
    return [[{"x": box[0] + x * box[2], "y": box[1] + y * box[2]} for x, y in stroke] for stroke in strokes]


def draw(tab, strokes):
    for stroke in on_screen(tab, strokes):
        tab("Input.dispatchMouseEvent", type="mousePressed", button="left", clickCount=1, **stroke[0])
        for place in stroke[1:]:
            tab("Input.dispatchMouseEvent", type="mouseMoved", button="left", buttons=1, **place)
        tab("Input.dispatchMouseEvent", type="mouseReleased", button="left", **stroke[-1])
    settle(tab)


def touch(tab, strokes):
    for stroke in on_screen(tab, strokes):
        tab("Input.dispatchTouchEvent", type="touchStart", touchPoints=stroke[:1])
        for place in stroke[1:]:
            tab("Input.dispatchTouchEvent", type="touchMove", touchPoints=[place])
        tab("Input.dispatchTouchEvent", type="touchEnd", touchPoints=[])
    settle(tab)


def press(tab, key, code):
    for kind in ("keyDown", "keyUp"):
        text = {"text": "\r"} if key == "Enter" and kind == "keyDown" else {}
        tab("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code, **text)
    settle(tab)


def settle(tab):
    """Waits until the networks have answered the last change."""
    tab.evaluate("import('/page.js').then((module) => module.answered())")


def text(tab, name):
    return tab.evaluate(f"document.getElementById('{name}').textContent").replace("\xa0", " ")


def value(tab, name):
    return float(tab.evaluate(f"document.getElementById('{name}').value"))


def pixels_of(tab):
    """The grey values that the networks were given."""
    return np.array(tab.evaluate("import('/page.js').then((module) => [...module.shown.pixels])"), np.float32)


def agrees_with_jax(tab, committee):
    """What the page shows, and what JAX says of the pixels that the page has made."""
    pixels = pixels_of(tab)
    wanted = committee(pixels)
    rows = "[...document.querySelectorAll('#digits data')].map((element) => Number(element.value))"
    np.testing.assert_allclose(tab.evaluate(rows), wanted.probabilities[0], atol=1e-4)
    shares = {"unsure": wanted.entropy, "of-weights": wanted.mutual_information, "of-image": wanted.expected_entropy}
    for name, nats in shares.items():
        np.testing.assert_allclose(value(tab, name) * np.log(10), nats[0], atol=1e-4, err_msg=name)
    votes = tab.evaluate("[...document.querySelectorAll('#votes b')].map((element) => Number(element.textContent))")
    networks = np.array(tab.evaluate("import('/page.js').then((module) => module.shown.answer.networks)"))
    assert votes == networks.argmax(1).tolist() and networks.shape == (16, 10)
    np.testing.assert_allclose(networks.mean(0), wanted.probabilities[0], atol=1e-4)
    return pixels, wanted


def ink(strokes, points=8, pen=2.4, box=20, middle=14.5):
    """The definition in ink.js, from distances to all segments, in float64."""
    places = np.concatenate([np.array(stroke, float) for stroke in strokes])
    low = places.min(0)
    scale = (box - pen) / max(np.ptp(places, axis=0).max(), 0.1)
    grid = (
        np.stack(np.meshgrid(np.arange(box * points), np.arange(box * points)), -1) + 0.5
    ) / points  # [row, column, xy]
    inked = np.zeros(grid.shape[:2], bool)
    for stroke in strokes:
        line = (np.array(stroke, float) - low) * scale + pen / 2
        for a, b in zip(line[:1].tolist() + line[:-1].tolist(), line.tolist(), strict=True):
            along = np.subtract(b, a)
            share = np.clip((grid - a) @ along / max(along @ along, 1e-300), 0, 1)
            inked |= np.linalg.norm(grid - a - share[..., None] * along, axis=-1) <= pen / 2
    fine = np.zeros((3 * 28 * points,) * 2)
    corner = 28 * points + np.round(middle * points - 0.5 - np.argwhere(inked).mean(0)).astype(int)
    fine[corner[0] : corner[0] + box * points, corner[1] : corner[1] + box * points] = inked
    inside = fine[28 * points : 56 * points, 28 * points : 56 * points]
    return inside.reshape(28, points, 28, points).mean((1, 3))


def centre_of(image):
    """The centre of mass (x, y), in pixels from the left upper corner."""
    grid = np.arange(28) + 0.5
    return np.array([image.sum(0) @ grid, image.sum(1) @ grid]) / image.sum()


def longer_side(image):
    return max(np.ptp(np.nonzero(image.any(axis))[0]) + 1 for axis in (0, 1))


def test_images_of_strokes_are_those_of_the_definition(tab):
    rng = np.random.default_rng(0)
    scribble = rng.uniform(size=(3, 8, 2)).tolist()
    others = [[[[0.4, 0.6]]], [[[0.1, 0.1], [0.101, 0.1]]], [[[0, 0.2], [1, 0.21]]], scribble]
    for strokes in [*tab.examples, *others]:
        found = tab.evaluate(f"import('/ink.js').then((module) => [...module.pixelsOf({json.dumps(strokes)})])")
        found, wanted = np.reshape(found, (28, 28)), ink(strokes)
        assert np.abs(found - wanted).max() < 1.5 / 64 and np.mean(found != wanted) < 0.01  # points on the rim
    assert tab.evaluate("import('/ink.js').then((module) => module.pixelsOf([]).some((grey) => grey))") is False


def test_images_of_strokes_are_as_those_of_mnist(tab, mnist):
    """Longer side, centre of mass and mean grey value."""
    images = mnist[0][:2000].astype(float)
    assert np.mean([longer_side(image) == 20 for image in images]) > 0.99
    centres = np.array([centre_of(image) for image in images])
    assert np.abs(centres - 14.5).max() < 0.51
    np.testing.assert_allclose(centres.mean(0), 14.5, atol=0.05)
    drawn = [ink(strokes) for strokes in tab.examples]
    assert {longer_side(image) for image in drawn} <= {20, 21}  # it may lie across pixels
    assert max(np.abs(centre_of(image) - 14.5).max() for image in drawn) <= 1 / 16 + 1e-9
    assert 0.85 < np.mean(drawn) / np.mean(images) < 1.15


def test_committee_knows_digits_and_not_shuffled_ones(committee, mnist):
    """What the page says of its networks, within three standard errors of 2,000 images."""
    images, labels = (part[:2000] for part in mnist)
    unknown = float(re.findall(r"UNKNOWN = ([.0-9]+)", (PAGE / "words.js").read_text())[0]) * np.log(10)
    said = committee(images)
    shuffled = committee(np.random.default_rng(0).permuted(images.reshape(2000, 784), axis=1))
    found = [
        np.mean(said.probabilities.argmax(1) == labels),
        *(np.mean(x.entropy >= unknown) for x in (said, shuffled)),
    ]
    for share, stated in zip(found, (0.984, 0.04, 0.98), strict=True):
        assert abs(share - stated) < 3 * (stated * (1 - stated) / 2000) ** 0.5, found
    recorded = json.loads((PAGE / "network.json").read_text())
    assert abs(recorded["test_accuracy_mean"] - 0.984) < 5e-4 and "-dirty" not in recorded["commit"]


@pytest.mark.parametrize("digit", DRAWN)
def test_digits_drawn_with_the_mouse_are_read_as_jax_reads_them(empty, committee, digit):
    draw(empty, empty.examples[digit])
    pixels, wanted = agrees_with_jax(empty, committee)
    apart = np.abs(pixels.reshape(28, 28) - ink(empty.examples[digit]))  # the mouse moves by whole pixels
    assert apart.max() < 0.35 and apart.mean() < 0.01
    assert wanted.probabilities[0].argmax() == digit
    assert text(empty, "says") == f"It is {'an' if digit == 8 else 'a'} {digit}."
    shades = empty.evaluate("[...document.getElementById('seen').getContext('2d').getImageData(0, 0, 28, 28).data]")
    np.testing.assert_allclose(np.array(shades[::4]) / 255, pixels, atol=1 / 255)


def test_shuffled_pixels_are_not_known(empty, committee):
    empty.evaluate("let seed = 1; Math.random = () => (seed = (seed * 48271) % 2147483647) / 2147483647")
    draw(empty, empty.examples[3])
    straight, known = agrees_with_jax(empty, committee)
    unknown = []
    for _ in range(6):
        empty.evaluate("document.getElementById('shuffle').click()")
        settle(empty)
        shuffled, wanted = agrees_with_jax(empty, committee)
        assert np.array_equal(np.sort(shuffled), np.sort(straight)) and not np.array_equal(shuffled, straight)
        assert wanted.entropy[0] > known.entropy[0] and wanted.mutual_information[0] > known.mutual_information[0]
        unknown.append(text(empty, "says") == "We do not know.")
        assert text(empty, "shuffle") == "Put them back"
        empty.evaluate("document.getElementById('shuffle').click()")
        settle(empty)
        assert np.array_equal(pixels_of(empty), straight) and text(empty, "says") == "It is a 3."
    assert sum(unknown) >= 5  # of six ways to shuffle


def test_phone_draws_with_a_finger_and_shows_the_answer_without_scrolling(empty, committee):
    resize(empty, *PHONE)
    touch(empty, empty.examples[8])
    agrees_with_jax(empty, committee)
    assert text(empty, "says") == "It is an 8."
    bottom = empty.evaluate("document.getElementById('because').getBoundingClientRect().bottom")
    width = empty.evaluate("document.documentElement.scrollWidth")
    assert 0 < bottom <= PHONE[1] and width <= PHONE[0] and empty.evaluate("scrollY") == 0
    sizes = empty.evaluate(
        "[...document.querySelectorAll('button')].map((button) => button.getBoundingClientRect().height)"
    )
    assert min(sizes) >= 44


def test_keyboard_draws_an_example_and_clears(empty):
    empty.evaluate("document.activeElement.blur()")
    press(empty, "Tab", 9)
    assert empty.evaluate("document.activeElement.id") == "example"  # the only control of an empty page
    press(empty, "Enter", 13)
    assert empty.evaluate("document.getElementById('verdict').dataset.kind") in ("sure", "perhaps")
    empty.wait("document.getElementById('said').textContent.includes('vote')", 10)  # read out
    press(empty, "Escape", 27)
    assert text(empty, "says") == "Nothing is drawn yet."
    assert all(value(empty, name) == 0 for name in ("unsure", "of-image", "of-weights"))
    assert empty.evaluate("import('/page.js').then((module) => module.shown.answer)") is None


def luminance(colour):
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in channels]
    return np.dot(linear, [0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_colours_can_be_read(empty, scheme):
    """At least 4.5 to 1, as the guidelines for accessible pages ask of text."""
    resize(empty, *WIDE, scheme)
    style = "getComputedStyle(document.documentElement)"
    names = ("ground", "card", "text", "quiet", "first", "other", "image", "on")
    colours = {name: luminance(empty.evaluate(f"{style}.getPropertyValue('--{name}').trim()")) for name in names}
    assert (colours["ground"] < colours["text"]) == (scheme == "dark")
    pairs = [(text, on) for text in ("text", "quiet", "first", "other", "image") for on in ("ground", "card")]
    for pair in [*pairs, ("on", "first")]:
        low, high = sorted(colours[name] for name in pair)
        assert (high + 0.05) / (low + 0.05) >= 4.5, pair


def test_screen_readers_find_a_name_for_everything(empty):
    draw(empty, empty.examples[7])
    nodes = empty("Accessibility.getFullAXTree")["nodes"]
    named = [(node["role"]["value"], node.get("name", {}).get("value", "")) for node in nodes if not node["ignored"]]
    for role in ("button", "image", "table", "list", "link"):
        names = [name for found, name in named if found == role]
        assert names and all(names), (role, named)
    assert ("image", "The drawing area, with a drawing") in named
    assert ("image", "What the networks see: your drawing, white on black") in named
    assert any(role == "status" for role, _ in named) and ("heading", "Draw a digit") in named
    assert empty.evaluate("document.documentElement.lang") == "en"


def test_bytes_are_those_of_the_files(tab):
    assert value(tab, "bytes-networks") == (PAGE / "committee.onnx").stat().st_size
    assert value(tab, "bytes-alone") == (PAGE / "network.onnx").stat().st_size
    runtime = [
        (PAGE / "onnxruntime" / name).stat().st_size
        for name in re.findall(r'"(ort[^"]*)"', (PAGE / "committee.js").read_text())
    ]
    assert value(tab, "bytes-runtime") == sum(runtime) and len(runtime) == 2
    kept = bb.load_packed(PAGE / "committee.packed.safetensors")
    weights = sum(
        np.prod(leaf.shape) for leaf in jax.tree.leaves(kept.weights, is_leaf=lambda x: isinstance(x, bb.Packed))
    )
    assert text(tab, "weights") == f"{weights:,}"


@pytest.fixture
def offline(empty):
    """The page without any network."""
    conditions = {"latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}
    empty("Network.emulateNetworkConditions", offline=True, **conditions)
    yield empty
    empty("Network.emulateNetworkConditions", offline=False, **conditions)


def test_nothing_comes_from_elsewhere_and_it_works_offline_without_an_error(offline, committee):
    draw(offline, offline.examples[4])
    agrees_with_jax(offline, committee)
    addresses = [event["request"]["url"] for event in offline.of("Network.requestWillBeSent")]
    assert addresses and all(address.startswith(offline.address) for address in addresses), addresses
    logged = [event["entry"] for event in offline.of("Log.entryAdded")]
    assert [entry for entry in logged if entry["level"] == "error"] == []
    assert offline.of("Runtime.exceptionThrown") == [] and offline.of("Runtime.consoleAPICalled") == []


def test_page_says_that_the_networks_could_not_be_loaded(tab, tmp_path):
    """Last, since it leaves the page."""
    shutil.copytree(PAGE, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns("committee.onnx"))
    with browser.served(tmp_path) as address:
        tab("Page.navigate", url=f"{address}/index.html")
        tab.wait("document.getElementById('says')?.textContent === 'The networks could not be loaded.'")
        assert "committee.onnx" in text(tab, "because")
