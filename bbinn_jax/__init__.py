"""Neural networks whose weights are single bits, trained by Bayes.

What a program needs to train, to predict and to save is here. The modules hold more of one kind: `bernoulli` is the
distribution, `linen` the layers, `metrics`, `calibration` and `diagnostics` judge what came of it. Nothing else is
public: other modules are where the functions below are written, and some have the name of one.
"""

from bbinn_jax import bernoulli as bernoulli
from bbinn_jax import calibration as calibration
from bbinn_jax import diagnostics as diagnostics
from bbinn_jax import linen as linen
from bbinn_jax import metrics as metrics
from bbinn_jax import nnx as nnx
from bbinn_jax._mapping import over_leading_axis as over_leading_axis
from bbinn_jax.batch_norm import recalibrate_batch_norm as recalibrate_batch_norm
from bbinn_jax.bayesbinn import add_prior as add_prior
from bbinn_jax.bayesbinn import bayesbinn as bayesbinn
from bbinn_jax.bayesbinn import init_natural as init_natural
from bbinn_jax.bayesbinn import precondition_by_fisher as precondition_by_fisher
from bbinn_jax.bernoulli import logistic_noise as logistic_noise
from bbinn_jax.bernoulli import mode as mode
from bbinn_jax.bernoulli import sample as sample
from bbinn_jax.bimu import BimuState as BimuState
from bbinn_jax.bimu import bimu as bimu
from bbinn_jax.bop import BopState as BopState
from bbinn_jax.bop import bop as bop
from bbinn_jax.linen import BinaryConv as BinaryConv
from bbinn_jax.linen import BinaryDense as BinaryDense
from bbinn_jax.linen import natural_initializer as natural_initializer
from bbinn_jax.objective import expected_loss as expected_loss
from bbinn_jax.objective import moment_loss as moment_loss
from bbinn_jax.objective import shared_variance as shared_variance
from bbinn_jax.packing import Packed as Packed
from bbinn_jax.packing import pack as pack
from bbinn_jax.packing import sample_packed as sample_packed
from bbinn_jax.packing import unpack as unpack
from bbinn_jax.partition import combine as combine
from bbinn_jax.partition import partition as partition
from bbinn_jax.partition import partition_table as partition_table
from bbinn_jax.pmf import PmfState as PmfState
from bbinn_jax.pmf import pmf as pmf
from bbinn_jax.predictive import ApplyFn as ApplyFn
from bbinn_jax.predictive import GaussianPrediction as GaussianPrediction
from bbinn_jax.predictive import Prediction as Prediction
from bbinn_jax.predictive import bernoulli_predictive as bernoulli_predictive
from bbinn_jax.predictive import committee_predictive as committee_predictive
from bbinn_jax.predictive import gaussian_predictive as gaussian_predictive
from bbinn_jax.predictive import logit_average_predictive as logit_average_predictive
from bbinn_jax.predictive import mixture_prediction as mixture_prediction
from bbinn_jax.predictive import mode_predictive as mode_predictive
from bbinn_jax.predictive import posterior_expectation as posterior_expectation
from bbinn_jax.predictive import posterior_predictive as posterior_predictive
from bbinn_jax.relaxation import relax as relax
from bbinn_jax.relaxation import relaxed_sample as relaxed_sample
from bbinn_jax.saving import PackedNetwork as PackedNetwork
from bbinn_jax.saving import Posterior as Posterior
from bbinn_jax.saving import load_packed as load_packed
from bbinn_jax.saving import load_posterior as load_posterior
from bbinn_jax.saving import save_packed as save_packed
from bbinn_jax.saving import save_posterior as save_posterior
from bbinn_jax.ste import ste as ste
from bbinn_jax.ste import straight_through as straight_through

__version__ = "0.1.0"
