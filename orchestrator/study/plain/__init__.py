"""The staged search inside a plain Optuna study: a sampler, its pruner, and what they read off the study."""
