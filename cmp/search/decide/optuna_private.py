"""All that is used of Optuna beside its public interface. Read in the sources of optuna 5.0.0."""

from optuna.samplers._tpe.parzen_estimator import _ParzenEstimator as ParzenEstimator
from optuna.samplers._tpe.parzen_estimator import _ParzenEstimatorParameters as ParzenEstimatorParameters
from optuna.samplers._tpe.sampler import default_weights
from optuna.storages.journal._storage import JournalOperation

__all__ = ["JournalOperation", "ParzenEstimator", "ParzenEstimatorParameters", "default_weights"]
