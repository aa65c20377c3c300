"""The README's quickstart, run as it stands, and the same network trained straight-through: python -m tests.quickstart

The code is taken out of README.md. For other data and seeds one line of it is replaced.
"""

import doctest
import re
import statistics
import time
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from sklearn import datasets
from sklearn.preprocessing import StandardScaler

README = Path(__file__).parents[1] / "README.md"
DATA_LINE = "from sklearn.datasets import load_digits as load_data"
NUM_STEPS = 300


def load_even(return_X_y):
    """Digits, with the question whether they are odd."""
    inputs, labels = datasets.load_digits(return_X_y=return_X_y)
    return inputs, labels % 2


DATASETS = {
    "digits": datasets.load_digits,
    "odd digits": load_even,
    "breast cancer": datasets.load_breast_cancer,
    "wine": datasets.load_wine,
}


def of_readme(name="digits", seed=0, num_steps=NUM_STEPS):
    """What the variables of the README's first block are after it has run."""
    text = re.search(r"## Quickstart\n\n```python\n(.*?)```", README.read_text(), re.DOTALL)[1]
    source = "".join(example.source for example in doctest.DocTestParser().get_examples(text))
    for line, replacement in (
        (DATA_LINE, "load_data = DATA"),
        ("jax.random.key(0)", f"jax.random.key({seed})"),
        ("num_steps = 300", f"num_steps = {num_steps}"),
    ):
        assert source.count(line) == 1, line
        source = source.replace(line, replacement)
    variables = {"DATA": DATASETS[name], "print": lambda *_: None}
    exec(source, variables)
    return variables


def straight_through(name="digits", seed=0, num_steps=NUM_STEPS, learning_rate=0.1):
    """The same network on the same data in plain Flax and optax: its prediction and the labels, as in the README."""
    inputs, labels = DATASETS[name](return_X_y=True)
    is_test = np.arange(len(labels)) % 5 == 0
    inputs = StandardScaler().fit(inputs[~is_test]).transform(inputs)
    x, y, test_x, test_y = map(jnp.array, (inputs[~is_test], labels[~is_test], inputs[is_test], labels[is_test]))

    @jax.custom_jvp
    def sign(x):
        return jnp.where(x > 0, 1.0, -1.0)

    sign.defjvp(lambda primals, tangents: (sign(*primals), tangents[0]))

    class Binary(nn.Module):
        width: int

        @nn.compact
        def __call__(self, x):
            uniform = lambda key, shape: jax.random.uniform(key, shape, minval=-1, maxval=1)  # noqa: E731
            return x @ sign(self.param("latent", uniform, (x.shape[-1], self.width)))

    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            x = nn.relu(nn.LayerNorm()(Binary(256)(x)))
            output_scale = self.param("output_scale", nn.initializers.constant(1 / 16), ())
            return output_scale * Binary(int(labels.max()) + 1)(x)

    model = Network()
    init_key, train_key = jax.random.split(jax.random.key(seed))
    params = model.init(init_key, x)
    kinds = jax.tree_util.tree_map_with_path(lambda path, _: "latent" if "latent" in str(path) else "real", params)
    rates = {"latent": learning_rate, "real": 1e-2}
    adams = {kind: optax.adam(optax.cosine_decay_schedule(rate, num_steps)) for kind, rate in rates.items()}
    tx = optax.partition(adams, kinds)

    @jax.jit
    def step(params, state, key):
        batch = jax.random.randint(key, (100,), 0, len(x))

        def loss(params):
            return optax.softmax_cross_entropy_with_integer_labels(model.apply(params, x[batch]), y[batch]).mean()

        updates, state = tx.update(jax.grad(loss)(params), state, params)
        params = optax.apply_updates(params, updates)
        return jax.tree.map(lambda kind, p: jnp.clip(p, -1, 1) if kind == "latent" else p, kinds, params), state

    state = tx.init(params)
    for key in jax.random.split(train_key, num_steps):
        params, state = step(params, state, key)
    return jax.nn.softmax(model.apply(params, test_x)), test_y


def scores(probabilities, labels):
    """Accuracy, and negative log likelihood in nats, in NumPy."""
    probabilities, labels = np.asarray(probabilities, np.float64), np.asarray(labels)
    of_label = probabilities[np.arange(len(labels)), labels]
    return np.mean(probabilities.argmax(axis=1) == labels), -np.mean(np.log(of_label))


def main():
    """Prints the table that stands in docs/guides/your_data.md, of 5 seeds."""
    print("| data | trained by | steps | test accuracy | nats | seconds |\n|---|---|---|---|---|---|")
    for name in DATASETS:
        for title, steps in (("BayesBiNN", NUM_STEPS), ("STE", NUM_STEPS), ("STE", 2 * NUM_STEPS)):
            rows = []
            for seed in range(5):
                start = time.perf_counter()
                if title == "STE":
                    scored = scores(*straight_through(name, seed, steps))
                else:
                    run = of_readme(name, seed)
                    scored = scores(run["prediction"].probabilities, run["test_y"])
                rows.append((*scored, time.perf_counter() - start))
            accuracy, nats, seconds = zip(*rows, strict=True)
            cells = [f"{statistics.fmean(v):.3f} +- {statistics.stdev(v):.3f}" for v in (accuracy, nats)]
            print(f"| {name} | {title} | {steps} | {' | '.join(cells)} | {statistics.fmean(seconds):.1f} |", flush=True)


if __name__ == "__main__":
    main()
