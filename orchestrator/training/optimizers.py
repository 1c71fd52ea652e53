"""The optimizer of a trial."""

from typing import Any

from torch import nn, optim

from orchestrator.config.hyperparameters import OptimizerConfig


def make_optimizer(config: OptimizerConfig, model: nn.Module) -> optim.Optimizer:
    """PyTorch's optimizer named in ``config`` over all trainable parameters of ``model``.

    Weight decay goes to parameters of two and more dimensions only: decaying biases and the scales of
    norms does not regularise (He et al. 2019, arXiv 1812.01187, section 3.1).
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if config.name == "sgd":
        nesterov = config.nesterov and config.momentum > 0
        return optim.SGD(groups, lr=config.lr, momentum=config.momentum, nesterov=nesterov)
    kind = optim.AdamW if config.name == "adamw" else optim.Adam
    return kind(groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps)
