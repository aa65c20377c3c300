"""The public surface: what its names are, that nothing else shows, and that all of it is told and called alike."""

import ast
import importlib
import inspect
import json
import pkgutil
import re
import types
from pathlib import Path

import pytest

import bbinn_jax as bb

ROOT = Path(__file__).parents[1]

# A name is public in one place. Some have a second one, at the top, where most programs look for them.
PUBLIC = {
    "bbinn_jax": """
        bernoulli calibration diagnostics linen metrics nnx
        ApplyFn BimuState BopState GaussianPrediction Packed PackedNetwork PmfState Posterior Prediction
        add_prior bayesbinn bernoulli_predictive bimu bop combine committee_predictive expected_loss
        gaussian_predictive init_natural load_packed load_posterior logit_average_predictive mixture_prediction
        mode_predictive moment_loss over_leading_axis pack partition partition_table pmf posterior_expectation
        posterior_predictive precondition_by_fisher recalibrate_batch_norm relax relaxed_sample sample_packed
        save_packed save_posterior shared_variance ste straight_through unpack
    """,
    "bbinn_jax.bernoulli": """
        entropy expectation fisher_information kl_divergence log_prob logistic_noise mode natural_from_expectation
        sample variance
    """,
    "bbinn_jax.calibration": "apply_output_temperature fit_output_temperature",
    "bbinn_jax.diagnostics": "entropy_bits_per_weight flip_rate frozen_share saturated_share",
    "bbinn_jax.export": "c onnx",
    "bbinn_jax.linen": "BinaryConv BinaryDense natural_initializer",
    "bbinn_jax.metrics": """
        ReliabilityCurve RiskCoverage accuracy auroc bernoulli_accuracy bernoulli_negative_log_likelihood brier_score
        continuous_ranked_probability_score expected_calibration_error false_positive_rate
        gaussian_negative_log_likelihood interval_coverage negative_log_likelihood per_class_accuracy reliability_curve
        risk_coverage root_mean_square_error
    """,
    "bbinn_jax.nnx": """
        BinaryConv BinaryLinear BinaryParam Moments add_noise as_function expected_loss labels mode moment_loss
    """,
}
PUBLIC = {module: set(names.split()) for module, names in PUBLIC.items()}
AT_THE_TOP_TOO = {
    "bbinn_jax.bernoulli": {"logistic_noise", "mode", "sample"},
    "bbinn_jax.linen": {"BinaryConv", "BinaryDense", "natural_initializer"},
}
PUBLIC["bbinn_jax"] = PUBLIC["bbinn_jax"].union(*AT_THE_TOP_TOO.values())

# One name for one thing, whatever function takes it.
PARAMETERS = set(
    """
    natural prior_natural params weights latent real mu previous noise key
    temperature num_samples chunk_size train_set_size learning_rate momentum kl_weight eps scale
    likelihood_weight max_step memory_window gamma threshold beta optimizer rules
    loss_fn apply_fn update_fn function has_aux inputs batches batch_stats
    probabilities labels expected_entropy num_bins equal_mass positives negatives recall uncertainty correct
    mean std targets level output_temperature prior_std certainty path posterior like model variance
    packed committee network fn tolerance metadata
    """.split()
)
# They take the function and the posterior before the key, as the functions that `expected_loss` returns do.
KEY_IS_NOT_FIRST = {
    "bernoulli_predictive",
    "gaussian_predictive",
    "logit_average_predictive",
    "posterior_expectation",
    "posterior_predictive",
}
NEVER_RAISES = {"labels", "mixture_prediction"}

MODULES = [f"bbinn_jax.{module.name}" for module in pkgutil.iter_modules(bb.__path__)]


def tree_of(module):
    path = ROOT / module.replace(".", "/")
    return ast.parse((path / "__init__.py" if path.is_dir() else path.with_suffix(".py")).read_text())


def names_shown_by(module):
    """Those without an underscore that the module defines, or imports ``as`` themselves, which type checkers share."""
    names = set()
    for node in tree_of(module).body:
        match node:
            case ast.FunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=targets):
                names.update(x.id for target in targets for x in ast.walk(target) if isinstance(x, ast.Name))
            case ast.AnnAssign(target=ast.Name(id=name)) | ast.For(target=ast.Name(id=name)):
                names.add(name)
            case ast.Import(names=aliases) | ast.ImportFrom(names=aliases):
                names.update(alias.asname for alias in aliases if alias.name == alias.asname)
    return {name for name in names if not name.startswith("_")}


def value(module, name):
    return getattr(importlib.import_module(module), name)


PUBLIC_FUNCTIONS = {
    f"{module}.{name}": function
    for module, names in PUBLIC.items()
    for name in sorted(names)
    if isinstance(function := value(module, name), types.FunctionType) or hasattr(function, "defjvp")
}
every_function = pytest.mark.parametrize("name", PUBLIC_FUNCTIONS)


@pytest.mark.parametrize("module", PUBLIC)
def test_a_public_module_shows_its_public_names_and_no_others(module):
    assert names_shown_by(module) == PUBLIC[module]
    assert all(hasattr(importlib.import_module(module), name) for name in PUBLIC[module])


def test_what_other_modules_define_is_at_the_top():
    """Also what a function hides that has the name of its module, such as `bb.ste`."""
    for module in MODULES:
        if module not in PUBLIC and "._" not in module:
            for name in names_shown_by(module):
                assert getattr(bb, name) is value_by_import(module, name), f"{module}.{name}"


def value_by_import(module, name):
    """By `from module import name`, to which it does not matter what hides the module."""
    return getattr(__import__(module, fromlist=[name]), name)


def test_a_name_is_public_in_one_place_or_at_the_top_too():
    for module, names in PUBLIC.items():
        if module not in ("bbinn_jax", "bbinn_jax.nnx"):  # whose functions are those of models, with the same names
            assert names & PUBLIC["bbinn_jax"] == AT_THE_TOP_TOO.get(module, set())
            assert all(getattr(bb, name) is value(module, name) for name in AT_THE_TOP_TOO.get(module, ()))


def test_at_run_time_the_top_shows_its_public_names_and_modules():
    shown = {name for name in dir(bb) if not name.startswith("_")}
    assert shown - PUBLIC["bbinn_jax"] <= {module.removeprefix("bbinn_jax.") for module in MODULES}


@pytest.mark.parametrize("module", ["bbinn_jax", *MODULES])
def test_modules_import_from_each_other_what_has_no_underscore(module):
    for node in ast.walk(tree_of(module)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("bbinn_jax."):
            for alias in node.names:
                assert not alias.name.startswith("_"), f"{module}: {node.module}.{alias.name}"
                if "._" not in node.module:
                    assert alias.name in names_shown_by(node.module), f"{module}: {node.module}.{alias.name}"


def sources():
    """The Python of all experiments, notebooks and documents, by name."""
    for path in sorted((ROOT / "experiments").rglob("*.py")):
        yield path, path.read_text()
    for path in sorted((ROOT / "experiments" / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text())["cells"]
        yield path, "\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code")
    for path in (
        ROOT / "README.md",
        *sorted((ROOT / "docs").glob("*.md")),
        *sorted((ROOT / "docs/guides").glob("*.md")),
    ):
        yield path, path.read_text()


def test_experiments_and_documents_use_what_is_public_and_nothing_else():
    used = set()
    for path, text in sources():
        imports = re.findall(r"from (bbinn_jax[\w.]*) import ([\w, ]+)", text)
        names = [f"{module}.{name.split()[0]}" for module, imported in imports for name in imported.split(",")]
        names += [f"bbinn_jax.{name}" for name in re.findall(r"\bbb\.([A-Za-z_]\w*(?:\.\w+)?)", text)]
        used.update((path, name) for name in names)
    assert len(used) > 100
    public = {f"{module}.{name}" for module, names in PUBLIC.items() for name in names}
    for path, name in used:
        owner = name.rpartition(".")[0]
        # what stands behind a public name that is no module is an attribute of it, as `bb.Prediction.entropy`
        assert name in public | PUBLIC.keys() or (owner in public and owner not in PUBLIC), f"{path}: {name}"


@every_function
def test_every_parameter_and_return_is_annotated(name):
    signature = inspect.signature(PUBLIC_FUNCTIONS[name])
    assert signature.return_annotation is not signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, parameter
        assert parameter.kind not in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD), parameter


@every_function
def test_parameters_have_the_names_of_the_library_and_the_key_is_first(name):
    parameters = list(inspect.signature(PUBLIC_FUNCTIONS[name]).parameters)
    assert set(parameters) <= PARAMETERS
    if name.rpartition(".")[2] in KEY_IS_NOT_FIRST:
        assert "key" in parameters
    else:
        assert "key" not in parameters[1:]


@every_function
def test_docstring_has_all_parts(name):
    """A summary, each argument, what comes back, the errors, and an example."""
    function = PUBLIC_FUNCTIONS[name]
    signature = inspect.signature(function)
    summary, *parts = inspect.getdoc(function).split("\n\n")
    assert "\n" not in summary and summary.endswith(".")
    sections = {part.partition("\n")[0]: part.partition("\n")[2] for part in parts}
    described = re.findall(r"^ {4}(\w[\w, ]*):", sections.get("Args:", ""), re.MULTILINE)
    assert sorted(x for names in described for x in names.split(", ")) == sorted(signature.parameters)
    assert "Returns:" in sections or signature.return_annotation in (None, "None")
    assert "Raises:" in sections or name.rpartition(".")[2] in NEVER_RAISES
    assert ">>> " in function.__doc__


@pytest.mark.parametrize("module", PUBLIC)
def test_classes_tell_their_fields(module):
    for name in PUBLIC[module]:
        if isinstance(cls := value(module, name), type):
            fields = getattr(cls, "_fields", None) or [x for x in cls.__annotations__ if x not in ("parent", "name")]
            for field in fields:
                assert re.search(rf"\b{field}\b", cls.__doc__), f"{name}.{field}"


def test_every_module_says_what_it_is_for():
    for module in ("bbinn_jax", *MODULES):
        assert ast.get_docstring(tree_of(module)), module
