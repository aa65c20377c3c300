r"""The expected loss under the posterior, by two estimators.

    E_q[loss(w)]  ~  1/S sum_s loss(tanh((lambda + delta_s) / tau))             by samples of weights
    E_q[loss(w)]  ~  loss(activations of mean mu and variance F, plus noise)    by moments of activations

`expected_loss` is the paper's: arXiv 2002.10778, equations 13 and 17. One relaxed sample is one
network for the whole batch, and works for any loss of weights. `moment_loss` draws the noise where it
takes effect, on the activations, for each example its own: its gradient varies much less, it needs no
temperature and no random number for each weight, and the posterior that it trains keeps its uncertainty.
It needs layers that take variances, as `BinaryDense` and `BinaryConv` do, and many inputs to each unit.

Either gradient with respect to lambda is the gradient part of the Bayesian learning rule. The KL term of
the objective has a closed form and is added by `bayesbinn`.
"""

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from bbinn_jax import bernoulli
from bbinn_jax._boxes import named_leaves
from bbinn_jax._checks import PyTree, check_count, check_key, check_non_negative, check_positive, checked_loss
from bbinn_jax._dtypes import EPS
from bbinn_jax._mapping import over_leading_axis
from bbinn_jax._tracing import dependence
from bbinn_jax.relaxation import relax, relaxed_sample


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _copies(x: jax.Array, num_copies: int) -> jax.Array:
    return jnp.broadcast_to(x, (num_copies, *jnp.shape(x)))


@_copies.defjvp
def _copies_jvp(num_copies: int, primals: tuple[jax.Array], tangents: tuple[jax.Array]) -> tuple[jax.Array, jax.Array]:
    # The gradient is a sum over the copies. On a CPU XLA takes longer for such a reduction of ten million weights
    # than for all the rest of the samples; a sum of terms, to which a stack is transposed, it makes in passing.
    (x,), (x_dot,) = primals, tangents
    tangent = jax.lax.platform_dependent(
        x_dot, cpu=lambda t: jnp.stack([t] * num_copies), default=lambda t: _copies(t, num_copies)
    )
    return _copies(x, num_copies), tangent


def expected_loss(
    loss_fn: Callable[..., Any],
    *,
    temperature: float | jax.Array,
    num_samples: int = 1,
    has_aux: bool = False,
    eps: float = EPS,
) -> Callable[..., Any]:
    """Turns a loss of weights into a loss of natural parameters.

    Args:
        loss_fn: ``loss_fn(weights, *args)`` gives a scalar, the mean over the
            batch; with has_aux a pair ``(scalar, pytree)``. It sees one
            sample at a time and needs no batch axis for them.
        temperature: tau > 0 of the relaxed samples; may be a traced scalar. Not
            used when num_samples is 0.
        num_samples: S, the number of samples, mapped by `jax.vmap`. With 0 the
            loss is evaluated at the expectation w = mu = tanh(lambda) instead.
        has_aux: whether loss_fn returns auxiliary output as well: arrays, of
            which the mean over samples is taken (integers become floats).
        eps: added to 1 - w^2 in the derivative, as in `relax`.

    Returns:
        ``f(natural, key, *args)``: the loss averaged over samples, with
        has_aux also the auxiliary pytree averaged over samples. It works under
        `jax.grad`, `jax.jit`, `jax.vmap` and `jax.lax.scan`. (A loss_fn with an NNX
        module that changes its state merges it with ``nnx.merge(..., copy=True)``.)

    Raises:
        ValueError: temperature not positive, num_samples negative, or (when
            f is traced) a loss that is not a scalar.
        TypeError: when f is traced: key is not a random key; has_aux and what loss_fn returns do not fit.

    >>> loss = expected_loss(lambda w: jnp.sum(w**2), temperature=1.0, num_samples=0)
    >>> value, grad = jax.value_and_grad(loss)(jnp.array([0.5, -0.5]), jax.random.key(0))
    >>> print(value, grad)
    0.427 [ 0.727 -0.727]
    """
    temperature = check_positive("temperature", temperature)
    eps = check_non_negative("eps", eps)
    num_samples = check_count("num_samples", num_samples, 0)

    def loss_at_expectation(natural: PyTree, key: jax.Array, *args: Any) -> Any:
        if key is not None:  # which is not used
            check_key(key, "second")
        return checked_loss(loss_fn, has_aux, _expectation(natural, eps), *args)

    def loss_over_samples(natural: PyTree, key: jax.Array, *args: Any) -> Any:
        check_key(key, "second")

        def loss_of_sample(key: jax.Array, natural: PyTree) -> Any:
            weights = relaxed_sample(key, natural, temperature=temperature, eps=eps)
            return checked_loss(loss_fn, has_aux, weights, *args)

        copies = jax.tree.map(lambda x: _copies(x, num_samples), natural)
        outputs = over_leading_axis(loss_of_sample)(jax.random.split(key, num_samples), copies)
        return jax.tree.map(lambda x: jnp.mean(x, axis=0), outputs)

    return loss_over_samples if num_samples else loss_at_expectation


def moment_loss(loss_fn: Callable[..., Any], *, has_aux: bool = False, eps: float = EPS) -> Callable[..., Any]:
    """Turns a loss of the mean and the variance of weights into a loss of natural parameters.

    ``loss(mu, F, key)`` with ``mu = tanh(lambda)`` and ``F = 1 - mu^2``

    The layers add noise to their activations, of the variance that weights of variance F give them
    (local reparametrisation, see `BinaryDense`). Train with it, and predict with sampled weights as ever.

    Args:
        loss_fn: ``loss_fn(mean, variance, key, *args)`` gives a scalar, the mean over the batch; with
            has_aux a pair ``(scalar, pytree)``. Mean and variance are trees like lambda, the key is for the
            noise of the activations. In Flax: ``model.apply({"params": combine(mean, real), "variance": variance},
            x, rngs={"weight_noise": key})``.
        has_aux: whether loss_fn returns auxiliary output as well.
        eps: added to the derivative 1 - mu^2 of mu, as in `relax`.

    Returns:
        ``f(natural, key, *args)``, what loss_fn returns. It works under `jax.grad`, `jax.jit`, `jax.vmap` and
        `jax.lax.scan`. It is traced twice: the first time to see what it uses.

    Raises:
        ValueError: when f is traced: a weight is used and its variance is not, so that it would be trained without
            any noise (a layer that knows of no variance, or a lifted transformation that hides it); a loss that is
            not a scalar.
        TypeError: when f is traced: key is not a random key; has_aux and what loss_fn returns do not fit.

    Source: Kingma, Salimans, Welling, arXiv 1506.02557, section 2.2; for discrete weights Shayer, Levi,
    Fetaya, arXiv 1710.07739.

    >>> def loss_fn(mean, variance, key, x):
    ...     noise = jax.random.normal(key, x.shape[:1])
    ...     return jnp.mean((x @ mean + jnp.sqrt(x**2 @ variance) * noise) ** 2)
    >>> loss = moment_loss(loss_fn)
    >>> value, grad = jax.value_and_grad(loss)(jnp.array([0.5, -0.5]), jax.random.key(0), jnp.ones((10**5, 2)))
    >>> print(value, grad)  # E[(w_1 + w_2)^2] = 2 + 2 mu_1 mu_2 = 1.57
    1.57 [-0.73 0.73]
    """
    eps = check_non_negative("eps", eps)

    def variance_of(x: jax.Array, mean: jax.Array) -> jax.Array:
        # A weight whose mean is -1 or +1 in its dtype is certain. What variance it has left is too small to be of
        # use, and the derivative of the noise's standard deviation is the larger the smaller that is.
        return jnp.where(jnp.abs(mean) < 1, bernoulli.variance(x), 0)

    def loss_of_moments(natural: PyTree, key: jax.Array, *args: Any) -> Any:
        check_key(key, "second")
        mean = _expectation(natural, eps)
        variance = jax.tree.map(variance_of, natural, mean)

        def loss_only(mean: PyTree, variance: PyTree) -> jax.Array:
            output = checked_loss(loss_fn, has_aux, mean, variance, key, *args)
            return output[0] if has_aux else output

        of_mean, of_variance = dependence(loss_only, mean, variance)
        for (name, _, mean_is_used), is_used in zip(named_leaves(of_mean), jax.tree.leaves(of_variance), strict=True):
            if mean_is_used and not is_used:
                raise ValueError(
                    f"loss_fn must use the variance of each weight that it uses, got none used of {name!r}: "
                    "BinaryDense, BinaryLinear and BinaryConv use theirs, other layers are for expected_loss, and in "
                    'linen nn.scan and nn.vmap hide it without variable_axes={"variance": 0} and '
                    'split_rngs={"weight_noise": True}'
                )
        return checked_loss(loss_fn, has_aux, mean, variance, key, *args)

    return loss_of_moments


def shared_variance(variance: PyTree) -> PyTree:
    r"""One variance for all weights that lead to an output, and no derivative: noise of activations at a lower cost.

    ``F_j = mean_i F_ij,   Var[y_j] = (sum_i x_i^2) F_j`` in place of ``sum_i x_i^2 F_ij``

    It saves the second product of a layer, forwards and backwards. It is not the loss of the posterior any more: the
    noise of an output does not know which of its weights are unsure, and the gradient is that of the mean alone, as if
    the noise were given. In a loss of curvature h the variance of a weight has the gradient -h mu, which pushes the
    weight to a side: without it weights stay less decided. In ``loss_fn(mean, variance, key, ...)`` of `moment_loss`:

        model.apply({"params": mean, "variance": shared_variance(variance)}, x, rngs={"weight_noise": key})

    Args:
        variance: F, a tree with leaves called "binary_kernel" [..., in, out]; others keep their shape.

    Returns:
        A tree like it, the kernels [..., 1, out]. The layers of this library take it; a convolution has one variance
        for each place of its kernel.

    Raises:
        ValueError: a kernel that is no matrix.

    Source: own; what it gains and costs is in experiments/image_classification/RESULTS.md.

    >>> print(shared_variance({"binary_kernel": jnp.array([[1.0, 0.5], [0.0, 0.5]])})["binary_kernel"])
    [[0.5 0.5]]
    """
    leaves, treedef = jax.tree.flatten(jax.lax.stop_gradient(variance))
    shared = []
    for (name, *_), x in zip(named_leaves(variance), leaves, strict=True):
        is_kernel = name.split("/")[-1] == "binary_kernel"
        if is_kernel and jnp.ndim(x) < 2:
            raise ValueError(f"variance of {name} must be [..., in, out], got shape {jnp.shape(x)}")
        shared.append(jnp.sum(x, axis=-2, keepdims=True) / max(x.shape[-2], 1) if is_kernel else x)
    return jax.tree.unflatten(treedef, shared)


def _expectation(natural: PyTree, eps: float) -> PyTree:
    """The mean weights, with the derivative that relaxed ones have."""
    return relax(natural, jax.tree.map(jnp.zeros_like, natural), temperature=1.0, eps=eps)
