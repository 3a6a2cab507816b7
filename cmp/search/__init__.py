"""Many trials: sampler, scheduler, trial, tuner. The only place for ray and optuna."""
