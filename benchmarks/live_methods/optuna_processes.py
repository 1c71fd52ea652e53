"""Optuna in two processes that share a study in a journal file, as its documentation recommends."""

import multiprocessing

import optuna
from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from live_methods import peers
from live_methods.jobs import Job
from live_methods.problems import Problem, distributions, to_parameters
from orchestrator.seeds import derive_seed
from orchestrator.types import Value

STUDY = "live"


def tpe_halving(job: Job) -> list[str]:
    """The command of Optuna's TPE with its successive-halving pruner."""
    return list(peers.command("optuna_processes", job))


def gp(job: Job) -> list[str]:
    """The command of Optuna's Gaussian process; it ignores pruned trials, so none is pruned."""
    return list(peers.command("optuna_processes", job))


def sampler_of(method: str, seed: int) -> optuna.samplers.BaseSampler:
    if method == "optuna_gp":
        return optuna.samplers.GPSampler(seed=seed)
    # constant_liar: the documentation's advice where several processes share a study.
    return optuna.samplers.TPESampler(seed=seed, constant_liar=True)


def pruner_of(method: str) -> optuna.pruners.BasePruner:
    if method == "optuna_gp":
        return optuna.pruners.NopPruner()
    return optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3)


def storage(job: Job) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(job.folder / "study.journal")))


def suggest(trial: optuna.Trial, name: str, item: BaseDistribution) -> Value:
    if isinstance(item, IntDistribution):
        return trial.suggest_int(name, item.low, item.high, log=item.log)
    assert isinstance(item, FloatDistribution)
    return trial.suggest_float(name, item.low, item.high, log=item.log)


def work(job: Job, worker: int) -> None:
    """One process: trials until it is ended."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    problem = job.problem
    seed = derive_seed("sampler", job.seed, worker)
    study = optuna.load_study(
        study_name=STUDY, storage=storage(job), sampler=sampler_of(job.method, seed), pruner=pruner_of(job.method)
    )
    study.optimize(lambda trial: objective(trial, problem, job.seed))


def objective(trial: optuna.Trial, problem: Problem, seed: int) -> float:
    """The best validation loss of one training."""
    parameters = {name: suggest(trial, name, item) for name, item in distributions(problem.ranges).items()}
    best = float("inf")
    for epoch, best in enumerate(peers.losses(problem, parameters, seed), start=1):
        trial.report(best, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned
    return best


def main() -> None:
    job = peers.job_of(peers.parser(__doc__).parse_args())
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(study_name=STUDY, storage=storage(job), direction="minimize")
    study.enqueue_trial(to_parameters(job.problem, job.problem.base))
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=work, args=(job, worker)) for worker in range(job.workers)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    if any(process.exitcode for process in processes):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
