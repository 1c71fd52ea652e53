"""What a visit of a search stage begins with: the incumbent, the windows, what decides in it."""

from collections.abc import Sequence
from dataclasses import replace

from orchestrator.config.schema import PrunerConfig, RunConfig
from orchestrator.seeds import derive_seed
from orchestrator.stages.sweep import Sweep
from orchestrator.stages.visits import ALL, Visit, stage_of, varied
from orchestrator.study.advisor import Advisor
from orchestrator.study.candidates import Focus, sobol
from orchestrator.study.policy import FreezeThaw, IndependentTrials, Limits, SearchPolicy
from orchestrator.study.pruners import PAUSE_ROOM, make_pruner, rungs_of
from orchestrator.study.records import TrialRecord, incumbent, searched
from orchestrator.study.region import Region
from orchestrator.study.samplers import make_sampler
from orchestrator.types import Configuration


def best_before(sweep: Sweep, key: str) -> TrialRecord | None:
    """The incumbent when the visit ``key`` began (or now, if it has not), the same after a restart."""
    return incumbent(earlier_trials(sweep, key), sweep.direction)


def earlier_trials(sweep: Sweep, key: str) -> Sequence[TrialRecord]:
    """The trials that were there when the visit ``key`` began (or now, if it has not)."""
    records = sweep.study.records
    first = next((record.number for record in records if record.stage == key), len(records))
    return records[:first]


def windows(sweep: Sweep, key: str) -> dict[str, float]:
    """What the visit tunes again: half-widths of the windows, as shares of the searched range."""
    settings = sweep.config.stages[stage_of(key)]
    visited = dict.fromkeys(stage_of(record.stage) for record in earlier_trials(sweep, key))
    tuned = {name for stage in visited if stage in sweep.config.stages for name in _asked(sweep, stage)}
    found = dict.fromkeys(sorted(tuned), sweep.config.sampler.window) | dict(settings.retunes)
    asked = varied(sweep.space, settings)
    return {name: half for name, half in found.items() if name in sweep.space and name not in asked}


def _asked(sweep: Sweep, stage: str) -> Sequence[str]:
    """What a stage tuned in particular: nothing, if it varied everything or only opened the search."""
    settings = sweep.config.stages[stage]
    return () if ALL in settings.varies or settings.budget == 0 else varied(sweep.space, settings)


def stopping(config: RunConfig, stage: str) -> PrunerConfig:
    """What stops the stage's trials."""
    return config.pruner if config.stages[stage].prunes else replace(config.pruner, name="none")


def pauses(config: RunConfig, stage: str) -> Sequence[int]:
    """Where the staged sampler may pause the stage's trials: epochs, ascending."""
    return rungs_of(stopping(config, stage), config.trainer.epochs, PAUSE_ROOM)


def make_region(sweep: Sweep, key: str) -> Region:
    """What a sampler of independent trials may propose around the best configuration before the visit."""
    settings = sweep.config.stages[stage_of(key)]
    best = best_before(sweep, key)
    base = best.configuration if best else sweep.base
    region = {name: sweep.space.whole(name) for name in varied(sweep.space, settings)}
    if region:
        for name, half_width in settings.retunes.items():
            if name in sweep.space and name not in region:
                region[name] = sweep.space.around(name, base[name], half_width)
    return Region(sweep.space, base, region)


def make_policy(sweep: Sweep, visit: Visit, pruner: PrunerConfig, *, in_rounds: bool) -> SearchPolicy:
    """What decides in a visit, knowing the trials before it."""
    config, epochs = sweep.config, sweep.config.trainer.epochs
    earlier = searched(earlier_trials(sweep, visit.key))
    policy: SearchPolicy
    if config.sampler.name == "staged":
        settings = config.stages[visit.stage]
        rungs = rungs_of(pruner, epochs, PAUSE_ROOM)
        focus = Focus(
            varies=varied(sweep.space, settings),
            windows=windows(sweep, visit.key),
            singly=settings.singly,
            opens=not visit.alone,
            closes=visit.alone,
            rungs=rungs,
        )
        advisor = Advisor(
            sweep.space, sweep.base, sweep.direction, epochs, config.sampler, config.seed, focus, sweep.promotable
        )
        for record in earlier:
            advisor.observe(record)
        own = make_pruner(pruner, sweep.direction, epochs) if pruner.name not in ("halving", "none") else None
        opening = _opening(sweep, visit, advisor)
        limits = Limits(in_rounds, visit.n_trials, opening_too=visit.alone and visit.epochs != 0)
        return FreezeThaw(advisor, opening, rungs, own, limits)
    region = make_region(sweep, visit.key)
    sampler = make_sampler(config.sampler, region, sweep.direction, config.seed, visit.key)
    policy = IndependentTrials(sampler, make_pruner(pruner, sweep.direction, epochs), region, epochs)
    for record in earlier:
        policy.observe(record)
    return policy


def _opening(sweep: Sweep, visit: Visit, advisor: Advisor) -> Sequence[Configuration]:
    """What the visit tries first: the sweep's starts if it is the first, and what its stage opens with."""
    earlier = earlier_trials(sweep, visit.key)
    found: list[Configuration] = [] if earlier else list(sweep.starts)
    settings = sweep.config.stages[visit.stage]
    if visit.round == 1:
        for kind in settings.opening:
            if kind == "sobol":
                seed = derive_seed(sweep.config.seed, "sobol")
                found += sobol(sweep.space, sweep.base, varied(sweep.space, settings), settings.points, seed)
            else:
                found += advisor.line(varied(sweep.space, settings)[0], settings.points)
    known = [dict(record.configuration) for record in earlier]
    unique: list[Configuration] = []
    for configuration in map(dict, found):
        if configuration not in known:
            known.append(configuration)
            unique.append(configuration)
    return unique
