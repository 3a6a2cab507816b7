"""All that is used of Optuna beside its public interface. Read in the sources of optuna 5.0.0."""

from optuna.storages.journal._storage import JournalOperation

__all__ = ["JournalOperation"]
