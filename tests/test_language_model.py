"""The binary transformer from the command line: what the run writes, what it claims, what it refuses, and its text."""

import hashlib
import itertools
import json
import re
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.image import imread

import bbinn_jax as bb
from experiments.common import checkpoints
from experiments.language_model import answers
from experiments.language_model import text as texts
from experiments.language_model.__main__ import load_network, load_packed, main
from experiments.language_model.text import Vocabulary, repeated_share, split, windows, without_repeats
from experiments.language_model.transformer import Network, Shape
from tests.commands import (
    assert_finished_run_stays,
    assert_flat_and_on_disk,
    kill,
    process_of,
    read_metrics,
    refused,
    results_of,
    state_of,
    without_times,
)

pytestmark = pytest.mark.long

SHAPE = "--context 16 --layers 1 --width 16 --heads 2 --hidden 32 --embedding 4 --joined 2".split()
TINY = [*SHAPE, "--preset", "quick", "--epochs", "3", "--batch-size", "8", "--eval-samples", "3"]


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Words in a random order: 60 paragraphs."""
    rng = np.random.default_rng(0)
    words = [
        " ".join(rng.choice("the weight of a bit is minus one or plus one and no more than that".split(), 15))
        for _ in range(60)
    ]
    path = tmp_path_factory.mktemp("text") / "words.txt"
    path.write_text("\n\n".join(words))
    return path


@pytest.fixture(scope="module")
def run(tmp_path_factory, file):
    out = tmp_path_factory.mktemp("runs") / "tiny"
    return main([*TINY, "--text", str(file), "--out", str(out)]), out


# What a run leaves ----------------------------------------------------------------------------------------------------


def test_results_are_flat_complete_and_on_disk(run):
    results, out = run
    promised = (
        "experiment preset dataset method seed epochs device jax_version wall_seconds compile_seconds train_loss "
        "posterior_entropy_bits_per_weight num_binary_weights num_real_parameters size_bits eval_samples commit "
        "command text_sha256 text_characters python_version train_characters test_characters test_repeated_share "
        "test_bits_per_character_mode test_bits_per_character_mean_1 "
        "test_bits_per_character_mean test_ece_mode test_ece_mean validation_bits_per_character_mean "
        "python_auroc_entropy_mean german_auroc_mutual_information_mean shuffled_auroc_entropy_of_windows_mode"
    )
    assert_flat_and_on_disk(results, out, promised)
    assert results["num_binary_weights"] == 2 * 4 * 16 + 16 * 48 + 16 * 16 + 2 * 16 * 32 + 16 * results["num_symbols"]
    assert results["num_real_parameters"] == results["num_symbols"] * (4 + 1) + 2 + 2 * 16 + 1
    assert results["size_bits"] == results["num_binary_weights"] + 32 * results["num_real_parameters"]
    metrics = read_metrics(out)
    assert [line["epoch"] for line in metrics] == [1, 2, 3]
    assert metrics[-1]["validation_nll_mode"] / np.log(2) == pytest.approx(
        results["validation_bits_per_character_mode"], rel=1e-4
    )


def test_folder_holds_what_networks_wrote_and_a_figure(run):
    _, out = run
    assert {"checkpoints", "figure.png", "network-0.safetensors", "samples.txt"} <= {x.name for x in out.iterdir()}
    written = (out / "samples.txt").read_text()
    assert written.count("--- ") == 4  # the prompt, the mode, and two networks that were drawn
    assert imread(out / "figure.png").std() > 0.1


def test_finished_run_is_not_overwritten_unless_told(run, file, capsys):
    assert_finished_run_stays(capsys, main, [*TINY, "--text", str(file)], run)


def test_killed_run_goes_on_to_the_same_result(run, file, tmp_path):
    arguments = [*TINY, "--text", str(file), "--checkpoint-seconds", "0", "--out", str(tmp_path / "run")]
    process = process_of("language_model", arguments)
    while checkpoints.latest(tmp_path / "run") is None:
        assert process.poll() is None, process.communicate()
    kill(process)
    assert not (tmp_path / "run" / "results.json").exists()
    main([*arguments, "--resume"])
    assert state_of(tmp_path / "run") == state_of(run[1])
    assert results_of(tmp_path / "run") == results_of(run[1])


def test_network_of_real_weights_has_no_mean(file, tmp_path):
    arguments = [*SHAPE, "--preset", "quick", "--batch-size", "8"]
    results = main(
        [*arguments, "--epochs", "1", "--method", "full_precision", "--text", str(file), "--out", str(tmp_path / "x")]
    )
    assert "test_bits_per_character_mean" not in results
    assert results["test_mutual_information_bits_mode"] == pytest.approx(0, abs=1e-6)
    assert results["num_binary_weights"] == 0
    assert results["test_bits_per_character_half"] == pytest.approx(results["test_bits_per_character_mode"], abs=0.01)


# Against an oracle ----------------------------------------------------------------------------------------------------


def norm(x):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6)


def softmax(x):
    e = np.exp(x - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def rotated(x):
    """Channel pairs as complex numbers, turned by place times frequency; x [head, place, channel]."""
    half = x.shape[-1] // 2
    z = (x[..., :half] + 1j * x[..., half:]) * np.exp(
        1j * np.outer(np.arange(x.shape[1]), 1000.0 ** -(np.arange(half) / half))
    )
    return np.concatenate([z.real, z.imag], axis=-1)


def oracle(p, row, heads):
    """The probabilities after each symbol of one row, by NumPy in float64."""
    e = p["embedding"]["embedding"][row]
    h = norm(np.hstack([e, np.vstack([0 * e[:1], e[:-1]])]) @ p["expand"]["binary_kernel"])
    places, width = h.shape
    for name in sorted(x for x in p if x.startswith("block")):
        block = p[name]
        q, k, v = np.split(norm(h) @ block["qkv"]["binary_kernel"], 3, axis=1)
        q, k, v = (x.reshape(places, heads, -1).transpose(1, 0, 2) for x in (q, k, v))
        read = np.zeros_like(v)
        q, k = rotated(norm(q)), rotated(norm(k))
        for head in range(heads):
            for i in range(places):
                scores = k[head, : i + 1] @ q[head, i] * block["sharpness"][head] / np.sqrt(width // heads)
                read[head, i] = softmax(scores) @ v[head, : i + 1] / np.sqrt(width)
        h = h + block["gains"][0] * norm(read.transpose(1, 0, 2).reshape(h.shape) @ block["out"]["binary_kernel"])
        hidden = np.maximum(norm(norm(h) @ block["up"]["binary_kernel"]), 0)
        h = h + block["gains"][1] * norm(hidden @ block["down"]["binary_kernel"])
    return softmax(p["scale"] * (norm(h) @ p["decode"]["binary_kernel"]) / np.sqrt(width) + p["bias"])


def test_bits_per_character_are_those_of_an_oracle(run, file):
    results, out = run
    posterior, apply_fn, vocabulary = load_network(out / "network-0.safetensors")
    signs = jax.tree.map(lambda x: np.where(np.asarray(x) > 0, 1.0, -1.0), posterior.natural)
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), bb.combine(signs, posterior.real))
    symbols = vocabulary.encode(texts.load(file).test)
    bits = []
    for start in range(0, len(symbols) - 16, 16):
        row, following = symbols[start : start + 16], symbols[start + 1 : start + 17]
        p = oracle(params, row, heads=2)
        bits += list(-np.log2(p[np.arange(16), following]))
    assert np.mean(bits) == pytest.approx(results["test_bits_per_character_mode"], rel=1e-4)
    logits = apply_fn(bb.mode(posterior.natural), jnp.asarray(symbols[:16])[None])
    packed, _ = load_packed(out / "network-0.packed.safetensors")
    answer = packed.predict(jnp.asarray(symbols[:16])[None]).probabilities
    np.testing.assert_allclose(answer, jax.nn.softmax(logits), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(jax.nn.softmax(logits), oracle(params, symbols[:16], heads=2), rtol=1e-3, atol=1e-6)


def test_it_learns(run):
    """Of words in a random order: letters alone have 3.2 bits a character, and so have guesses by their frequency."""
    results, _ = run
    assert results["test_bits_per_character_mean"] < 4


def test_scores_are_those_of_an_oracle():
    """Of random answers: bits, and how often a foreign character, or the mean of a row, has the higher value."""
    rng = np.random.default_rng(0)
    rows = {
        kind: windows(rng.integers(0, 9, n).astype(np.int32), 16, 16)
        for kind, n in (("validation", 99), ("test", 300), ("python", 200), ("german", 150), ("shuffled", 120))
    }
    said = {}
    for kind, row in rows.items():
        p = jnp.asarray(softmax(rng.normal(size=(row.labels.size, 9))))
        said[kind] = bb.mixture_prediction(p, jnp.asarray(rng.uniform(0, 0.5, row.labels.size)))
    found = answers.scores(said, rows, "x")
    p, labels = np.asarray(said["test"].probabilities), np.asarray(rows["test"].labels).ravel()
    assert found["test_bits_per_character_x"] == pytest.approx(
        -np.mean(np.log2(p[np.arange(len(p)), labels])), rel=1e-4
    )
    for kind, signal in itertools.product(("python", "german", "shuffled"), ("entropy", "mutual_information")):
        a, b = (np.asarray(getattr(said[x], signal)) for x in (kind, "test"))
        assert found[f"{kind}_auroc_{signal}_x"] == pytest.approx(np.mean(a[:, None] > b), abs=1e-4)
        a, b = (x.reshape(-1, 16).mean(1) for x in (a, b))
        assert found[f"{kind}_auroc_{signal}_of_windows_x"] == pytest.approx(np.mean(a[:, None] > b), abs=1e-4)


# The transformer ------------------------------------------------------------------------------------------------------

NETWORK = Network(Shape(symbols=11, layers=1, width=16, heads=2, hidden=32, embedding=4, joined=2))
logits_of = jax.jit(partial(NETWORK.apply, train=False))


@pytest.fixture(scope="module")
def variables():
    params = jax.jit(partial(NETWORK.init, train=False))(jax.random.key(0), jnp.zeros((1, 8), jnp.int32))["params"]
    natural, real = bb.partition(params)
    return {"params": bb.combine(bb.mode(natural), real)}


@pytest.mark.parametrize("place", [0, 3, 7])
def test_later_characters_change_nothing_before_them(variables, place):
    symbols = jax.random.randint(jax.random.key(1), (1, 8), 0, 10)
    changed = symbols.at[0, place].add(1)
    before, after = (np.asarray(logits_of(variables, x)[0]) for x in (symbols, changed))
    np.testing.assert_array_equal(before[:place], after[:place])
    assert (np.abs(before[place:] - after[place:]).max(axis=-1) > 1e-4).all()


def test_all_matrices_are_binary(variables):
    natural, real = bb.partition(variables["params"])
    assert len(jax.tree.leaves(natural)) == 2 + 4
    assert {x for leaf in jax.tree.leaves(natural) for x in np.abs(leaf).ravel().tolist()} == {1.0}
    matrices = [x for x in jax.tree.leaves(real) if x.ndim == 2 and min(x.shape) > 2]
    assert [x.shape for x in matrices] == [(11, 4)]  # the embedding


def test_noise_of_activations_is_that_of_the_weights(variables):
    """Mean and variance of logits over noise, near those over networks: at small variances, where the net is linear."""
    natural, real = bb.partition(variables["params"])
    natural = jax.tree.map(lambda x: 2.5 * x, natural)
    mean = bb.bernoulli.expectation(natural)
    symbols = jnp.arange(8)[None]

    def of_noise(key):
        given = {"params": bb.combine(mean, real), "variance": bb.bernoulli.variance(natural)}
        return NETWORK.apply(given, symbols, train=True, mutable=["x"], rngs={"weight_noise": key})[0]

    def of_network(key):
        return logits_of({"params": bb.combine(bb.sample(key, natural), real)}, symbols)

    keys = jax.random.split(jax.random.key(2), 200)
    noisy, drawn = (np.asarray(jax.jit(jax.vmap(f))(keys)) for f in (of_noise, of_network))
    assert 0.7 < noisy.std(0).mean() / drawn.std(0).mean() < 1.4
    assert np.corrcoef(noisy.mean(0).ravel(), drawn.mean(0).ravel())[0, 1] > 0.95


# The text -------------------------------------------------------------------------------------------------------------


def test_nothing_held_out_was_learned():
    """By another way than `repeated_share`: regular expressions, and text without its white space."""
    text = texts.load(None)
    facts = text.facts()
    assert facts["test_repeated_share"] < 0.005
    assert facts["validation_repeated_share"] < 0.005
    assert len(text.test) > 10_000 and len(text.validation) > 5_000 and len(text.train) > 200_000
    learned = "".join((text.train + text.validation).split())
    paragraphs = ["".join(x.split()) for x in text.test.split("\n\n")]
    assert not [x for x in paragraphs if len(x) > 40 and x in learned]


def test_repeated_sections_are_the_reason():
    """Without dropping them much of the last topics would stand in earlier ones."""
    from pydoc_data.topics import topics

    train, validation, test = split([topics[name] for name in sorted(topics)])
    assert repeated_share(test, train + validation) > 0.2


def test_share_of_repeated_windows_by_hand():
    assert repeated_share("x" * 60, "y" * 60) == 0
    assert repeated_share("a" + "b" * 50, "b" * 50) == 0.5  # one of two windows
    assert repeated_share("short", "short") == 0


def test_documents_go_whole_into_one_part():
    documents = [f"{i:02}" * 50 for i in range(40)]
    parts = split(documents)
    assert "".join(parts) == "".join(documents)
    assert [len(part) // 100 for part in parts] == [36, 2, 2]


def test_repeats_are_dropped_and_padding_too():
    table = "+----+\n| a    |\n+----+"
    documents = ["one\n\ntwo words\n\n" + table, "two\nwords\n\nthree\n\n", "a line of more than twenty letters\nx\n\n"]
    documents.append("y\na line of  more than twenty letters\nz\n")
    assert without_repeats(documents) == [
        "one\n\ntwo words\n\n| a |\n\n",
        "three\n\n",
        "a line of more than twenty letters\nx\n\n",
        "y\nz\n\n",
    ]


def test_rows_hold_each_character_and_the_next_one():
    vocabulary = Vocabulary("abc")
    symbols = vocabulary.encode("abcabcx")
    assert symbols.tolist() == [0, 1, 2, 0, 1, 2, 3]
    assert vocabulary.decode(symbols) == "abcabc\N{REPLACEMENT CHARACTER}"
    rows = windows(symbols, 3, 3)
    assert rows.images.tolist() == [[0, 1, 2], [0, 1, 2]]
    assert rows.labels.tolist() == [[1, 2, 0], [1, 2, 3]]


def test_text_of_other_kinds_has_no_letters_of_its_own():
    """An umlaut would give the German away."""
    text = texts.load(None)
    known = set(text.train)
    foreign = texts.foreign(text.test, 2000, 0)
    assert set(foreign) == {"python", "german", "shuffled"}
    for kind, other in foreign.items():
        assert len(other) == 2000 and set(other) <= known, kind
    assert sorted(foreign["shuffled"]) == sorted(text.test[:2000]) != list(foreign["shuffled"])


# What is refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--text", "/no/such/file"], ["text must be a file", "/no/such/file"]),
        (["--text", "/"], ["text must be a file", "got /"]),
        (["--context", "1"], ["context", "1"]),
        (["--context", "50000"], ["context must be less", "50000"]),
        (["--width", "20", "--heads", "4"], ["width must be a multiple", "20"]),
        (["--layers", "0"], ["layers", "0"]),
        (["--batch-size", "100000"], ["batch_size must be at most", "100000"]),
        (["--epochs", "3", "--stop-after-epochs", "4"], ["stop_after_epochs", "4"]),
        (["--preset", "equal-32"], ["method must be full_precision", "'bayesbinn'"]),
        (["--method", "magic"], ["--method", "magic"]),
        (["--preset", "large"], ["--preset", "large"]),
        (["--seeds", "0"], ["seeds", "0"]),
    ],
)
def test_bad_argument_ends_in_one_line_and_writes_nothing(tmp_path, capsys, arguments, expected):
    error = refused(capsys, main, ["--out", str(tmp_path / "run"), *arguments])
    assert all(text in error for text in expected), error
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("content", [b"", b"too short", b"\xff\xfe not text " * 100, b"\x00" * 5000])
def test_text_that_is_none_is_refused(tmp_path, capsys, content):
    path = tmp_path / "a.txt"
    path.write_bytes(content)
    error = refused(capsys, main, ["--text", str(path), "--out", str(tmp_path / "run")])
    assert "a.txt" in error and re.search("UTF-8|context", error)
    assert list(tmp_path.iterdir()) == [path]


def test_a_run_does_not_go_on_with_another_text(tmp_path, capsys, file):
    path, out = tmp_path / "a.txt", tmp_path / "run"
    path.write_text(file.read_text())
    arguments = [*TINY, "--text", str(path), "--out", str(out)]
    main([*arguments, "--stop-after-epochs", "1"])
    (out / "results.json").unlink()
    path.write_text(file.read_text()[::-1])  # as long, of the same characters
    capsys.readouterr()
    assert "of other data" in refused(capsys, main, [*arguments, "--resume"])


def test_a_text_without_paragraphs_is_cut_by_its_characters(tmp_path):
    content = b"\xef\xbb\xbf" + " ".join(f"word{i}" for i in range(500)).encode()  # a byte order mark is no character
    (tmp_path / "a.txt").write_bytes(content)
    text = texts.load(tmp_path / "a.txt")
    assert text.sha256 == hashlib.sha256(content).hexdigest()
    assert text.num_characters == len(content) - 3 and text.train.startswith("word0")
    lengths = [len(part) / len(content) for part in (text.train, text.validation, text.test)]
    np.testing.assert_allclose(lengths, [0.9, 0.05, 0.05], atol=0.01)


def test_readable_by_those_who_have_only_json(run):
    """No digit of a text's digest is lost."""
    results = json.loads((run[1] / "results.json").read_text())
    assert re.fullmatch("[0-9a-f]{64}", results["text_sha256"])
    assert without_times(results)["seed"] == 0
