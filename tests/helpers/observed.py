"""Runs ``timm-landmark`` and records, in each process, the rate of every update, the first gradients and last weights.

    python observed.py FOLDER train MODEL --data ...       # writes FOLDER/rank-0.pt, ...

torch's SyncBatchNorm does not support CPUs; ``--sync-bn`` uses the BatchNorm in this file.
"""

import os
import sys
from pathlib import Path

import timm.layers
import torch
from torch import distributed, nn
from torch.optim.optimizer import register_optimizer_step_pre_hook

from timm_landmark import cli


class Total(torch.autograd.Function):
    """The sum over all processes; its derivative is the sum of theirs."""

    @staticmethod
    def forward(ctx, x):
        total = x.clone()
        distributed.all_reduce(total)
        return total

    backward = forward


class ReducedBatchNorm(nn.BatchNorm2d):
    """BatchNorm whose statistics in training are those of all processes' images."""

    def forward(self, x):
        if not self.training:
            return super().forward(x)
        count = x.numel() / x.shape[1] * distributed.get_world_size()
        mean = Total.apply(x.sum((0, 2, 3))) / count
        centred = x - mean[:, None, None]
        variance = Total.apply(centred.square().sum((0, 2, 3))) / count
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1), self.momentum)
        scale = self.weight / (variance + self.eps).sqrt()
        return centred * scale[:, None, None] + self.bias[:, None, None]


def reduced(module):
    """``module`` with a ReducedBatchNorm in place of every BatchNorm."""
    if type(module) is nn.BatchNorm2d:
        norm = ReducedBatchNorm(module.num_features, module.eps, module.momentum)
        norm.load_state_dict(module.state_dict())
        return norm
    for name, child in module.named_children():
        setattr(module, name, reduced(child))
    return module


class Notes:
    """Records of the updates of the last optimizer."""

    optimizer = None

    def before_step(self, optimizer, *_):
        """Called by torch before every optimizer's step."""
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        if optimizer is not self.optimizer:
            self.optimizer, self.weights, self.rates = optimizer, parameters, []
            self.gradients = [parameter.grad.clone() for parameter in parameters]
        self.rates.append(optimizer.param_groups[0]["lr"])


if __name__ == "__main__":
    timm.layers.convert_sync_batchnorm = reduced
    notes = Notes()
    register_optimizer_step_pre_hook(notes.before_step)
    code = cli.main(sys.argv[2:])
    kept = {"rates": notes.rates, "gradients": notes.gradients, "weights": [w.detach() for w in notes.weights]}
    torch.save(kept, Path(sys.argv[1]) / f"rank-{os.environ.get('RANK', 0)}.pt")
    sys.exit(code)
