"""Loading of pretrained weights from the Hub: safetensors only, with checks and readable errors."""

from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from timm.models import build_model_with_cfg, resolve_pretrained_cfg
from torch import nn

from timm_landmark.utils.hub_cache import cached, drop, is_sound
from timm_landmark.utils.hub_errors import PretrainedError, explain
from timm_landmark.utils.hub_files import WEIGHTS

ModelT = TypeVar("ModelT", bound=nn.Module)


def build_model(
    model_cls: type[ModelT],
    variant: str,
    pretrained: bool,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: dict[str, Any] | None = None,
    cache_dir: str | Path | None = None,
    **kwargs: Any,
) -> ModelT:
    """Timm's ``build_model_with_cfg`` with safe downloads and readable errors for ``pretrained=True``.

    Only ``*.safetensors`` files are read from a repository, whatever its config.json says. A cached file that is
    truncated or whose SHA-256 differs from the one stated by the Hub is removed from the cache.

    Raises:
        PretrainedError: If the weights are unavailable, damaged, or do not fit the model or the configured number of
            classes.
    """
    if not pretrained:
        return build_model_with_cfg(
            model_cls,
            variant,
            pretrained,
            pretrained_cfg=pretrained_cfg,
            pretrained_cfg_overlay=pretrained_cfg_overlay,
            cache_dir=cache_dir,
            **kwargs,
        )
    cfg = resolve_pretrained_cfg(variant, pretrained_cfg, pretrained_cfg_overlay)
    hub = cfg.source == "hf-hub" or not (cfg.source or cfg.state_dict or cfg.file)
    repo = cfg.hf_hub_id if hub else None
    if repo and (cfg.custom_load or not str(cfg.hf_hub_filename).endswith(".safetensors")):
        cfg.hf_hub_filename, cfg.custom_load = WEIGHTS, False
    source = str(repo or cfg.file or cfg.url or "the given state dict")
    given = kwargs.pop("pretrained_filter_fn", None)

    def checked(state_dict: dict[str, torch.Tensor], model: nn.Module) -> dict[str, torch.Tensor]:
        if repo:
            _check_sum(cached(repo, str(cfg.hf_hub_filename), cache_dir), repo)
        state_dict = given(state_dict, model) if given else state_dict
        _check_classes(state_dict, cfg.classifier, cfg.num_classes, source)
        return state_dict

    try:
        return build_model_with_cfg(
            model_cls,
            variant,
            pretrained,
            pretrained_cfg=cfg,  # pyright: ignore[reportArgumentType]  # timm also accepts a PretrainedCfg here
            pretrained_filter_fn=checked,
            cache_dir=cache_dir,
            **kwargs,
        )
    except PretrainedError:
        raise
    except Exception as error:
        if repo and isinstance(error, SafetensorError) and (path := cached(repo, str(cfg.hf_hub_filename), cache_dir)):
            drop(path)
        reason = explain(error, repo, str(cfg.hf_hub_filename), cache_dir) if repo else None
        reason = reason or explain_misfit(error, source, variant)
        if reason is None:
            raise
        raise PretrainedError(reason) from error


def explain_misfit(error: Exception, source: str, variant: str) -> str | None:
    """Returns the reason if ``load_state_dict`` failed on the tensors of another model, else None."""
    lines = str(error).splitlines()
    if not lines or "Error(s) in loading state_dict" not in lines[0]:
        return None
    first = lines[1].strip() if len(lines) > 1 else ""
    return (
        f"{source}: its tensors do not fit {variant} ({first[:200]}); check the architecture in its config.json; if "
        "the weights have another number of classes, set num_classes in pretrained_cfg_overlay"
    )


def _check_sum(path: Path | None, repo: str) -> None:
    if path is not None and not is_sound(path):
        drop(path)
        raise PretrainedError(
            f"{repo}: {path.name} is damaged (its SHA-256 differs from the one stated by the Hub) and was removed from "
            "the cache; try again"
        )


def _check_classes(
    state_dict: dict[str, torch.Tensor], classifier: str | tuple[str, ...] | None, num_classes: int, source: str
) -> None:
    """Checks the number of classes, because timm reports a size mismatch or silently keeps a random head."""
    for name in (classifier,) if isinstance(classifier, str) else classifier or ():
        weight = state_dict.get(f"{name}.weight")
        if weight is not None and weight.shape[0] != num_classes:
            raise PretrainedError(
                f"{source}: its weights have {weight.shape[0]} classes, but its configuration has {num_classes}; pass "
                f"pretrained_cfg_overlay=dict(hf_hub_id=..., num_classes={weight.shape[0]}), and also num_classes=N "
                "for a new head of another size"
            )
