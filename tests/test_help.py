"""The help texts: every flag of every command says what it does, in a sentence that begins with a verb."""

import ast
from pathlib import Path

import pytest

from experiments.common import methods, networks

FILES = [path for path in (Path(__file__).parents[1] / "experiments").rglob("*.py") if "@dataclass" in path.read_text()]
VERBS = (
    "Averages Chooses Continues Divides Draws Drops Ends Evaluates Gives Holds Is Looks Measures Moves Multiplies "
    "Names Repeats Replaces Runs Says Scores Seeds Sets Skips Splits Tests Trains Weighs"
).split()
OF_CHOICES = ("name", "method", "noise", "network", "devices")  # whose text is that of the field "name"


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_field_has_a_sentence_with_a_verb(path):
    for kind in ast.parse(path.read_text()).body:
        if not (isinstance(kind, ast.ClassDef) and any("dataclass" in ast.unparse(x) for x in kind.decorator_list)):
            continue
        for field, text in zip(kind.body, [*kind.body[1:], None], strict=True):
            if not isinstance(field, ast.AnnAssign) or "ClassVar" in ast.unparse(field.annotation):
                continue
            if field.target.id not in OF_CHOICES:
                sentence = ast.literal_eval(text.value)
                assert sentence.split()[0] in VERBS, sentence
                assert sentence.endswith("."), sentence


def test_choices_have_a_sentence_with_a_verb():
    for choice in (methods.OF_METHOD, methods.OF_NOISE, networks.OF_NETWORK):
        assert choice.help.split()[0] in VERBS and choice.help.endswith(".")
