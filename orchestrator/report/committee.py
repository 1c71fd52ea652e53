"""The ensemble on the page: scores beside the references, members with their costs, ways of choosing, calibration."""

from collections.abc import Mapping, Sequence
from typing import Any

from orchestrator.config.schema import SweepConfig
from orchestrator.ensemble.shipped import shipped
from orchestrator.report.answers import worth
from orchestrator.report.html import code, details, paragraph, table, text
from orchestrator.report.pictures import Pictures
from orchestrator.report.view import SweepView

_WAYS = {
    "single": "the best single",
    "uniform": "the best few, equally",
    "greedy": "greedy selection",
    "bagged": "greedy selection over bags of the candidates",
}


def committee(view: SweepView, entry: Mapping[str, Any]) -> str:
    """All that the ensemble stage found."""
    names = list(entry["validation"]["single"])
    labels = {
        "single": f"best single (trial {entry['single']})",
        "uniform": f"mean of the best {len(entry['uniform'])}",
        "ensemble": f"ensemble of {len(entry['weights'])}",
    }
    rows: list[Sequence[object]] = [["", *(f"{split} {name}" for split in ("validation", "test") for name in names)]]
    for who, label in labels.items():
        rows.append([label, *(f"{entry[s][who][name]:.4g}" for s in ("validation", "test") for name in names)])
    gains = " and ".join(f"{gain['value']:+.2g} ± {gain['error']:.2g} on {s}" for s, gain in entry["gains"].items())
    averages = f" (averages of weights among them: {', '.join(entry['averages'])})" if entry["averages"] else ""
    told = (
        f"Gain in {view.objective} over the best single: {gains} (standard error over examples). On validation every "
        "fold is predicted by what the other folds chose. "
        f"Considered: {entry['candidates']} networks{averages}. The knee is at {entry['knee']} "
        f"member{'s' if entry['knee'] > 1 else ''}: more gain less than a standard error."
    )
    body = paragraph(worth(view, entry)) + table(rows) + paragraph(told) + _members(entry) + _calibrated(entry)
    return body + details("Ways of choosing, on examples that did not choose", _ways(view, entry))


def ship(view: SweepView, pictures: Pictures) -> str:
    """The models to ship: how good, at what cost, where, and the lines that load them."""
    models = shipped(view.folder, view.config, view.finished, view.best, view.objective)
    if not models:
        return ""
    heads = ["model", f"validation {view.objective}", f"test {view.objective}", "parameters", "MB", "ms an example",
             "torch.export"]  # fmt: skip
    rows: list[Sequence[object]] = [heads]
    for model in models:
        about = model.description
        scores = ["-" if value is None else f"{value:.4g}" for value in (model.validation, model.test)]
        size = [f"{about.parameters:,}", f"{about.megabytes:.3g}", f"{about.ms_per_example:.2g}"]
        rows.append([model.name, *scores, *size, "model.pt2" if model.exported else "-"])
    told = (
        "Each predicts from raw inputs, in the target's units. Validation: of the ensemble cross-fitted; of winner "
        "and student the best epoch, by which they were chosen. Milliseconds: of a large batch, on the machine that "
        "wrote the model."
    )
    body = table(rows) + paragraph(told)
    for model in models:
        body += f"<h3>{text(model.name)}</h3>" + paragraph(
            f"{model.folder}, version {model.description.version}, made of {model.origin}"
        )
        body += code(model.from_folder)
        if model.from_mlflow:
            body += paragraph("The same where this package is not, from MLflow's registry:") + code(model.from_mlflow)
    listed = paragraph("Or on a file:") + code(f"{_predict(view)} predict.input=FILE predict.output=FILE")
    return body + listed


def _predict(view: SweepView) -> str:
    where = "" if view.config.sweep.dir == SweepConfig().dir else f" sweep.dir={view.config.sweep.dir}"
    return f"python run.py stage=predict sweep.name={view.name}{where}"


def _members(entry: Mapping[str, Any]) -> str:
    rows: list[Sequence[object]] = [["member", "share", "made of", "parameters", "MB", "ms an example"]]
    for one in entry["members"]:
        made = ", ".join(one["ingredients"]) or "training"
        size = [f"{one['parameters']:,}", f"{one['megabytes']:.3g}", f"{one['ms_per_example']:.2g}"]
        rows.append([one["name"], f"{one['share']:.0%}", made, *size])
    sums = {key: sum(one[key] for one in entry["members"]) for key in ("parameters", "megabytes", "ms_per_example")}
    rows.append(
        ["in all", "", "", f"{sums['parameters']:,}", f"{sums['megabytes']:.3g}", f"{sums['ms_per_example']:.2g}"]
    )
    return table(rows)


def _ways(view: SweepView, entry: Mapping[str, Any]) -> str:
    rows: list[Sequence[object]] = [["", view.objective, "gain over the best single", "members"]]
    for kind, found in entry["ways"].items():
        taken = " (taken)" if kind == entry["kind"] else ""
        gain = f"{found['gain']['value']:+.2g} ± {found['gain']['error']:.2g}"
        rows.append([_WAYS[kind] + taken, f"{found['value']:.4g}", gain, found["members"]])
    return table(rows)


def _calibrated(entry: Mapping[str, Any]) -> str:
    found = entry["calibration"]
    if not found:
        return ""
    ece, gain = found["ece"], found["gain"]
    used = "It is used." if found["used"] else "It is not used."
    return paragraph(
        f"Expected calibration error on validation (10 equal bins of confidence): best single {ece['single']:.2%}, "
        f"ensemble {ece['ensemble']:.2%}, with the temperature {found['temperature']:.3g} {ece['scaled']:.2%}; it "
        f"lowers log-loss by {gain['value']:.2g} ± {gain['error']:.2g}, cross-fitted. {used}"
    )
