"""The learning rule in NumPy float64, written like the equations. It imports no JAX: an oracle shares no code.

Equation numbers are those of arXiv 2002.10778.
"""

import itertools
import math

import numpy as np

EPS = 1e-10

# 1 - tanh^2 cancels: at 15 the last bit of tanh is 1e-6 of it, and np.tanh is not always good to the last bit.
tanh = np.vectorize(math.tanh, otypes=[float])


# Noise, relaxed sample, scale, update -------------------------------------------------------------------------------


def half_logistic(u):
    return 0.5 * np.log(u / (1 - u))  # below (10)


def relaxed_sample(natural, delta, temperature):
    return tanh((natural + delta) / temperature)  # (10)


def gradient_scale(natural, w, temperature, train_set_size, eps=EPS):
    """The factor s between the mean-loss gradient at w and the natural gradient."""
    mu = tanh(natural)
    return train_set_size * (1 - w**2 + eps) / (temperature * (1 - mu**2 + eps))  # (17)


def train(
    loss_and_grad,
    natural,
    noise,
    *,
    learning_rate,
    train_set_size,
    temperature=1.0,
    prior=0.0,
    momentum=0.0,
    kl_weight=1.0,
    eps=EPS,
):
    """Runs the rule and returns (natural [step + 1, P], loss [step]).

    noise is delta [step, sample, P]. Without a sample the loss is evaluated at w = mu, whose derivative is
    1 - mu^2 + eps: the scale is then N. learning_rate is an array [step].
    """
    average = np.zeros_like(natural)
    naturals, losses = [natural], []
    for t, deltas in enumerate(noise):
        if len(deltas):
            loss, g = 0.0, 0.0
            for delta in deltas:
                w = relaxed_sample(natural, delta, temperature)
                sample_loss, sample_grad = loss_and_grad(w)
                s = gradient_scale(natural, w, temperature, train_set_size, eps)
                loss = loss + sample_loss / len(deltas)  # (13)
                g = g + s * sample_grad / len(deltas)
        else:
            w = tanh(natural)
            loss, sample_grad = loss_and_grad(w)
            g = gradient_scale(natural, w, 1.0, train_set_size, eps) * sample_grad

        g = g + kl_weight * (natural - prior)  # (8), (21)
        average = momentum * average + (1 - momentum) * g
        corrected = average / (1 - momentum ** (t + 1))
        natural = natural - learning_rate[t] * corrected
        naturals.append(natural)
        losses.append(loss)
    return np.array(naturals), np.array(losses)


# A tanh network with one logit, forwards and backwards by hand --------------------------------------------------------


def unflatten(flat, shapes):
    """The flat vector [..., P] as a list of leaves; a shape (n, 0) is a bias [n]."""
    leaves, start = [], 0
    for rows, columns in shapes:
        shape = (rows, columns) if columns else (rows,)
        size = int(np.prod(shape))
        leaves.append(flat[start : start + size].reshape(shape))
        start += size
    return leaves


def mlp_loss_and_grad(flat, shapes, x, y):
    """Mean binary cross-entropy of the logit of a tanh network, and its gradient [P].

    Leaves are W1 [out, in], b1 [out], W2, b2, ...; x is [n, in], y [n] in {0, 1}.
    """
    leaves = unflatten(flat, shapes)
    weights, biases = leaves[0::2], leaves[1::2]

    inputs = [x]  # of each layer
    for w, b in zip(weights[:-1], biases[:-1], strict=True):
        inputs.append(np.tanh(inputs[-1] @ w.T + b))
    logit = (inputs[-1] @ weights[-1].T + biases[-1])[:, 0]

    # -y log sigmoid(logit) - (1 - y) log sigmoid(-logit), and its derivative sigmoid(logit) - y
    loss = np.mean(y * np.logaddexp(0, -logit) + (1 - y) * np.logaddexp(0, logit))
    d_out = ((1 / (1 + np.exp(-logit)) - y) / len(y))[:, None]

    grads = []
    for layer in reversed(range(len(weights))):
        grads.append(d_out.sum(axis=0))
        grads.append((d_out.T @ inputs[layer]).ravel())
        d_out = (d_out @ weights[layer]) * (1 - inputs[layer] ** 2)  # of the tanh below
    return loss, np.concatenate(grads[::-1])


# The Bernoulli distribution on {-1, +1} ------------------------------------------------------------------------------


def probability_of_plus(natural):
    return np.exp(-np.logaddexp(0, -2 * natural))


def fisher_information(natural):
    """1 - tanh(natural)^2 without cancellation."""
    e = np.exp(-2 * np.abs(natural))
    return 4 * e / (1 + e) ** 2


def log_prob(natural, w):
    return np.sum(-np.logaddexp(0, -2 * natural * w))


def entropy(natural):
    e = np.exp(-2 * np.abs(natural))  # the odds of the less probable sign
    return np.sum(np.log1p(e) + 2 * np.abs(natural) * e / (1 + e))


def kl_divergence(natural, prior):
    log_p, log_p0 = -np.logaddexp(0, -2 * natural), -np.logaddexp(0, -2 * prior)
    log_m, log_m0 = -np.logaddexp(0, 2 * natural), -np.logaddexp(0, 2 * prior)
    return np.sum(np.exp(log_p) * (log_p - log_p0) + np.exp(log_m) * (log_m - log_m0))


# Enumeration of all 2^n weight vectors -------------------------------------------------------------------------------


def all_weights(n):
    """[2^n, n], every vector of {-1, +1}^n once; the first weight is the highest bit of the row's number."""
    return np.array(list(itertools.product([-1.0, 1.0], repeat=n)))


def probabilities(natural, weights):
    """[rows], the probability of each row of weights: prod (1 + w mu) / 2."""
    return np.prod((1 + weights * np.tanh(natural)) / 2, axis=1)


def log_softmax(logits):
    shifted = logits - logits.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
