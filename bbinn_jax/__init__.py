"""Neural networks whose weights are single bits, trained by Bayes."""

from bbinn_jax import bernoulli as bernoulli
from bbinn_jax import calibration as calibration
from bbinn_jax import diagnostics as diagnostics
from bbinn_jax import metrics as metrics
from bbinn_jax import nnx as nnx
from bbinn_jax.batch_norm import recalibrate_batch_norm as recalibrate_batch_norm
from bbinn_jax.bayesbinn import add_prior as add_prior
from bbinn_jax.bayesbinn import bayesbinn as bayesbinn
from bbinn_jax.bayesbinn import init_natural as init_natural
from bbinn_jax.bayesbinn import precondition_by_fisher as precondition_by_fisher
from bbinn_jax.bernoulli import logistic_noise as logistic_noise
from bbinn_jax.bernoulli import mode as mode
from bbinn_jax.bernoulli import sample as sample
from bbinn_jax.bimu import bimu as bimu
from bbinn_jax.bop import bop as bop
from bbinn_jax.diagnostics import entropy_bits_per_weight as entropy_bits_per_weight
from bbinn_jax.linen import BinaryConv as BinaryConv
from bbinn_jax.linen import BinaryDense as BinaryDense
from bbinn_jax.linen import natural_initializer as natural_initializer
from bbinn_jax.objective import expected_loss as expected_loss
from bbinn_jax.objective import moment_loss as moment_loss
from bbinn_jax.partition import combine as combine
from bbinn_jax.partition import partition as partition
from bbinn_jax.partition import partition_table as partition_table
from bbinn_jax.pmf import pmf as pmf
from bbinn_jax.predictive import GaussianPrediction as GaussianPrediction
from bbinn_jax.predictive import Prediction as Prediction
from bbinn_jax.predictive import bernoulli_predictive as bernoulli_predictive
from bbinn_jax.predictive import gaussian_predictive as gaussian_predictive
from bbinn_jax.predictive import logit_average_predictive as logit_average_predictive
from bbinn_jax.predictive import mode_predictive as mode_predictive
from bbinn_jax.predictive import posterior_expectation as posterior_expectation
from bbinn_jax.predictive import posterior_predictive as posterior_predictive
from bbinn_jax.relaxation import relax as relax
from bbinn_jax.relaxation import relaxed_sample as relaxed_sample
from bbinn_jax.saving import Posterior as Posterior
from bbinn_jax.saving import load_posterior as load_posterior
from bbinn_jax.saving import save_posterior as save_posterior
from bbinn_jax.ste import ste as ste
from bbinn_jax.ste import straight_through as straight_through

__version__ = "0.1.0"
