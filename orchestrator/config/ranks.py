"""Whether what a trial is given fits the ranks that train it."""


def check_ranks(ranks: int, cpus: int, gpus: float) -> None:
    """Refuse a trial of several ranks with CPU cores that they cannot share evenly, or with another number of GPUs.

    Args:
        ranks: ``trainer.workers``.
        cpus: ``runner.cpus_per_trial``.
        gpus: ``runner.gpus_per_trial``.

    Raises:
        ValueError: with what would fit.
    """
    if ranks == 1:
        return
    if cpus % ranks:
        raise ValueError(
            f"trainer.workers={ranks} train a trial on runner.cpus_per_trial={cpus}: give a multiple of {ranks}, "
            "the cores of all of them"
        )
    if gpus and gpus != ranks:
        raise ValueError(
            f"trainer.workers={ranks} train a trial on runner.gpus_per_trial={gpus:g}: give {ranks}, one GPU each"
        )
