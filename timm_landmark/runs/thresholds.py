"""Confidence thresholds of a trained model: when it names a landmark, when it is uncertain, and when it sees none."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from timm_landmark.runs.checkpoints import checkpoint_epoch
from timm_landmark.runs.folder import INFO
from timm_landmark.runs.model import Run
from timm_landmark.utils.errors import UserError

# The first guess is named, is not certain enough, or the photo shows none of the model's landmarks.
Decision = Literal["landmark", "uncertain", "none"]
KEY = "thresholds"  # in run.json and in config.json of an exported model
DIGITS = 6  # decimals of a confidence, as stored by evaluate, from which the thresholds are chosen


@dataclass(frozen=True)
class Thresholds:
    """Thresholds for the probability of the first guess, each in 0..1 or None if it is not set.

    Attributes:
        certain: A guess is named from here on. On validation, ``target_accuracy`` of those are right.
        none: Below it, the photo shows none of the model's landmarks. Chosen with photos of other things.
        target_accuracy: The share of right answers for which both were chosen.
    """

    certain: float | None = None
    none: float | None = None
    target_accuracy: float = 0.95

    @property
    def is_set(self) -> bool:
        """Whether there is a threshold, so that a guess may not be named."""
        return self.certain is not None or self.none is not None

    def decide(self, confidence: float) -> Decision:
        """The decision for the probability of the first guess, rounded to ``DIGITS`` decimals."""
        confidence = round(confidence, DIGITS)
        if not self.is_set:
            return "landmark"
        if self.certain is not None and confidence >= self.certain:
            return "landmark"
        if self.none is not None and confidence < self.none:
            return "none"
        return "uncertain" if self.certain is not None else "landmark"

    def as_dict(self) -> dict[str, Any]:
        """The entry :data:`KEY` of run.json and config.json."""
        return asdict(self)


def read_thresholds(values: Any) -> Thresholds:
    """Reads the entry :data:`KEY` of run.json or config.json, as untrusted input; None gives no thresholds.

    Raises:
        ValueError: If it is not an object with numbers in 0..1. Keys that are no attributes are ignored.
    """
    if values is None:
        return Thresholds()
    if not isinstance(values, dict):
        raise ValueError(f"{KEY} is not an object")
    known = {name: values[name] for name in Thresholds.__dataclass_fields__ if name in values}
    for name, value in known.items():
        optional = value is None and name != "target_accuracy"
        if not optional and (isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= 1):
            raise ValueError(f"{KEY}: {name} {value!r} is not a number in 0..1")
    return Thresholds(**known)


def run_thresholds(run: Run) -> tuple[Thresholds, str | None]:
    """The thresholds in a run's run.json.

    Returns:
        The thresholds; or none and the reason, if they were chosen for another epoch than that of the checkpoint.

    Raises:
        UserError: If the entry is malformed.
    """
    entry = run.info.get(KEY)
    try:
        thresholds = read_thresholds(entry)
    except ValueError as error:
        raise UserError(f"{run.path / INFO}: {error}; evaluate the run again with `timm-landmark evaluate`") from None
    if entry is None or entry.get("epoch") == (epoch := checkpoint_epoch(run.checkpoint)):
        return thresholds, None
    return Thresholds(), (
        f"{run.path}: its thresholds are not used, because they were chosen for epoch {entry.get('epoch')} and the "
        f"best epoch is {epoch}; evaluate the run again"
    )
