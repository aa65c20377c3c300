"""The help texts: every flag of every command says what it does, in a sentence that begins with a verb."""

import ast
import inspect

import pytest

from experiments.benchmarks import presets as benchmark_presets
from experiments.common import full_batch, presets
from experiments.continual_learning import presets as continual_presets
from experiments.regression import __main__ as regression
from experiments.two_moons import __main__ as two_moons
from experiments.uncertainty import __main__ as uncertainty

VERBS = (
    "Averages Chooses Continues Divides Draws Drops Ends Evaluates Gives Holds Is Looks Measures Moves Multiplies "
    "Names Repeats Replaces Runs Says Scores Seeds Sets Skips Splits Tests Trains Weighs"
).split()


@pytest.mark.parametrize(
    "module", [benchmark_presets, continual_presets, full_batch, presets, regression, two_moons, uncertainty]
)
def test_every_field_has_a_sentence_with_a_verb(module):
    (config,) = [
        node
        for node in ast.parse(inspect.getsource(module)).body
        if isinstance(node, ast.ClassDef) and node.name in ("Config", "Settings")
    ]
    for field, text in zip(config.body, [*config.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            sentence = ast.literal_eval(text.value)
            assert sentence.split()[0] in VERBS, sentence
            assert sentence.endswith("."), sentence
