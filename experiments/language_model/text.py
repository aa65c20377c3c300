"""Text to learn from, what is held out of it, and text of other kinds.

The text is that of Python's own help on its language (``pydoc_data.topics``, which every Python has), or a file. The
topics repeat whole sections of each other. What has been there before is dropped, so that nothing that is held out
was learned by heart: see `without_repeats` and `repeated_share`.
"""

import hashlib
import inspect
import platform
import re
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np

from experiments.common.data import Split

LEARNED, VALIDATION = 0.9, 0.95  # documents up to here train, then validate; the rest is held out to the end
WINDOW = 50  # characters that are looked for in the training text
FOREIGN = ("python", "german", "shuffled")
GERMAN = Path(__file__).with_name("german.txt")


class Text(NamedTuple):
    """A text in three parts, each of whole documents.

    Attributes:
        name: of the text.
        train, validation, test: the parts.
        sha256: of the file, or of the topics, before anything was dropped.
        num_characters: of the text then.
    """

    name: str
    train: str
    validation: str
    test: str
    sha256: str
    num_characters: int

    def facts(self) -> dict[str, str | int | float]:
        """What results.json says of the text: it differs between versions of Python."""
        parts = {"train": self.train, "validation": self.validation, "test": self.test}
        return {
            "text_sha256": self.sha256,
            "text_characters": self.num_characters,
            "python_version": platform.python_version(),
            **{f"{name}_characters": len(part) for name, part in parts.items()},
            "validation_repeated_share": repeated_share(self.validation, self.train),
            "test_repeated_share": repeated_share(self.test, self.train + self.validation),
        }


def load(path: Path | None) -> Text:
    """Python's help in its topics, in the order of their names; or a file (UTF-8), whose paragraphs are its documents.

    Raises:
        ValueError, OSError: there is no such file, or it is not text.
    """
    if path is None:
        from pydoc_data.topics import topics

        name, documents = "pydoc_data.topics", [topics[topic] for topic in sorted(topics)]
    else:
        if not path.is_file():
            raise ValueError(f"text must be a file, got {path}")
        try:
            name, documents = path.name, [f"{x}\n\n" for x in path.read_text("utf-8-sig").split("\n\n")]
        except UnicodeDecodeError as error:
            raise ValueError(f"text must be in UTF-8, got {path}: {error.reason} at byte {error.start}") from None
    content = "".join(documents).encode() if path is None else path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return Text(name, *split(without_repeats(documents)), digest, len(content.decode("utf-8-sig")))


def without_repeats(documents: Sequence[str]) -> list[str]:
    """Documents without the paragraphs, and the lines of 20 characters and more, that stood there before.

    They are compared without their white space. Lines that hold no letter or digit are dropped, too, the rules of
    tables and below headings; and within a line one space stands for several, which fill up tables.

    >>> without_repeats(["a b\\n\\nc\\n====", "c\\n\\na  b\\n\\nd\\n\\n"])
    ['a b\\n\\nc\\n\\n', 'd\\n\\n']
    """
    seen: set[str] = set()

    def is_new(text: str, shortest: int) -> bool:
        key = "".join(text.split())
        repeated = len(key) >= shortest and key in seen
        seen.add(key)
        return not repeated

    kept = []
    for document in documents:
        paragraphs = []
        for paragraph in re.split(r"\n\s*\n", document):
            lines = [line for line in paragraph.strip("\n").split("\n") if re.search(r"[^\W_]", line)]
            lines = [re.sub(r"(?<=\S) +", " ", line).rstrip() for line in lines]
            if is_new("\n".join(lines), 1) or len(lines) == 0:
                paragraphs.append("\n".join(line for line in lines if len(lines) == 1 or is_new(line, 20)))
        text = "\n\n".join(filter(None, paragraphs))
        kept += [f"{text}\n\n"] if text else []
    return kept


def split(documents: Sequence[str]) -> tuple[str, str, str]:
    """Divides documents, in their order: one belongs to the part that its middle falls into.

    Where these are too few for three parts, the text is cut at the same shares of its characters.
    """
    lengths = np.array([len(document) for document in documents])
    middles = (np.cumsum(lengths) - lengths / 2) / max(lengths.sum(), 1)
    part = np.searchsorted([LEARNED, VALIDATION], middles, side="right")
    parts = ["".join(x for x, i in zip(documents, part, strict=True) if i == k) for k in range(3)]
    if not all(parts):
        whole = "".join(documents)
        a, b = int(LEARNED * len(whole)), int(VALIDATION * len(whole))
        parts = [whole[:a], whole[a:b], whole[b:]]
    return parts[0], parts[1], parts[2]


def repeated_share(held_out: str, learned: str) -> float:
    """The share of the `WINDOW` characters from each place of a text on that stand somewhere in the other one."""
    known = {learned[i : i + WINDOW] for i in range(len(learned) - WINDOW + 1)}
    found = [held_out[i : i + WINDOW] in known for i in range(len(held_out) - WINDOW + 1)]
    return float(np.mean(found)) if found else 0.0


class Vocabulary(NamedTuple):
    """The characters of the training text, in order; one more symbol stands for all others."""

    characters: str

    @property
    def size(self) -> int:
        """How many symbols there are."""
        return len(self.characters) + 1

    def encode(self, text: str) -> np.ndarray:
        """The symbols of a text, [character] int32."""
        number = {character: i for i, character in enumerate(self.characters)}
        return np.array([number.get(character, len(number)) for character in text], np.int32)

    def decode(self, symbols: Sequence[int]) -> str:
        """The text of symbols."""
        return "".join([*self.characters, "\N{REPLACEMENT CHARACTER}"][i] for i in symbols)


def windows(symbols: np.ndarray, context: int, stride: int) -> Split:
    """Symbols in rows [n, context], and those that follow them; a row begins every stride symbols."""
    starts = np.arange(0, len(symbols) - context, stride)
    rows = symbols[starts[:, None] + np.arange(context + 1)]
    return Split(jnp.asarray(rows[:, :-1]), jnp.asarray(rows[:, 1:]))


def foreign(test: str, most: int, seed: int) -> dict[str, str]:
    """Text of other kinds, no more characters of each than most: Python code, German, and the test text shuffled.

    The German one has ae, oe, ue for its umlauts, so that no unknown letter gives it away.
    """
    shuffled = np.random.default_rng(seed).permutation(list(test[:most]))
    texts = inspect.getsource(tarfile)[:most], GERMAN.read_text("utf-8")[:most], "".join(shuffled)
    return dict(zip(FOREIGN, texts, strict=True))
