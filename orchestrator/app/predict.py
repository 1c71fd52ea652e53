"""``stage=predict``: a sweep's model on a file, without a tracker, a study, or the task's data."""

import sys
from pathlib import Path

from orchestrator.config.errors import suggest
from orchestrator.config.schema import RunConfig
from orchestrator.ensemble.ship import MODELS, NAMES
from orchestrator.errors import ConfigError, NoFeasibleTrialError
from orchestrator.progress import Progress
from orchestrator.serving.files import check_format, read_inputs, writing
from orchestrator.serving.model import Model, read_description
from orchestrator.serving.package import CODE, MODEL
from orchestrator.stages.sweep import sweep_folder


def predict(config: RunConfig) -> str:
    """Predict for every example of ``predict.input``; returns what was done.

    Raises:
        ConfigError: a setting, the file or what it holds does not fit.
        NoFeasibleTrialError: the sweep has no model yet.
    """
    settings = config.predict
    if settings.input is None or settings.output is None:
        raise ConfigError("stage=predict needs predict.input=FILE and predict.output=FILE")
    source, target = Path(settings.input), Path(settings.output)
    check_format(source, "predict.input")
    check_format(target, "predict.output")
    if source.resolve() == target.resolve():
        raise ConfigError(f"predict.output={target}: is the input; give another file")
    folder = _chosen(config)
    description = read_description(folder / MODEL)
    # The model's own copy of the task's source, before what the working folder holds by now.
    sys.path.insert(0, str(folder / CODE))
    model = Model.load(folder / MODEL, settings.device)
    progress = Progress()
    done = 0
    pieces = read_inputs(source, description, settings.keep, settings.rows)
    with writing(target, description, settings.keep) as write:
        for piece in pieces:
            try:
                write(model.predict(piece.inputs), piece.kept)
            except ConfigError as error:
                raise ConfigError(f"{source}: {error}") from None
            done += len(piece.inputs)
            progress.update(f"[predict] {done} examples")
        if not done:
            raise ConfigError(f"{source}: holds no examples")
    origins = ", ".join(member.origin for member in description.members)
    return f"predicted {done} examples with the {description.name} ({origins}): {target}"


def _chosen(config: RunConfig) -> Path:
    folder = sweep_folder(config)
    known = [name for name in NAMES if (folder / MODELS / name / MODEL).is_dir()]
    if not known:
        where = f"{folder} has no model" if folder.is_dir() else f"{folder}: there is no such sweep"
        raise NoFeasibleTrialError(
            f"stage=predict: {where}; run a search stage, or name another sweep: sweep.name=NAME"
        )
    wanted = config.predict.model
    if wanted is None:
        return folder / MODELS / ("ensemble" if "ensemble" in known else "winner")
    if wanted not in known:
        raise ConfigError(f"predict.model={wanted}: sweep {folder.name} has none; {suggest(wanted, known)}")
    return folder / MODELS / wanted
