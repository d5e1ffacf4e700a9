"""The paper's twelve claims, with section and text, and the verdicts that follow from counts alone; needs no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

HOLDS = "holds"
HOLDS_ONLY = "holds only for"
DOES_NOT_HOLD = "does not hold"
NOT_DECIDABLE = "not decidable here"

SEVEN = (
    "resnet50",
    "resnext50_32x4d",
    "densenet121",
    "inception_resnet_v2",
    "seresnet50",
    "inception_resnet_pa",
    "resneat50",
)

# Table 3 (section 4.2): name in the paper, top-5 and top-1 on its test set.
PAPER_TABLE_3 = {
    "resnet50": ("ResNet", 0.843, 0.774),
    "resnext50_32x4d": ("ResNeXt", 0.855, 0.793),
    "densenet121": ("DenseNet", 0.855, 0.799),
    "inception_resnet_v2": ("Inception-Res", 0.845, 0.783),
    "seresnet50": ("SE-Net", 0.860, 0.809),
    "inception_resnet_pa": ("Inception-Res-PA", 0.851, 0.800),
    "resneat50": ("ResNeAt", 0.848, 0.784),
}

# Section 3.2.4: convolution weights of one unit with 256 input channels and width 128.
PAPER_UNITS = {"resnet": 212_992, "resnext": 70_144, "resneat": 41_472}

# Table 1: side of each stage's output at 224 pixels, and its blocks.
_SIDES = {"conv1": 112, "conv2": 56, "conv3": 28, "conv4": 14, "conv5": 7}
_BLOCKS = {
    "resnet50": "[1x1,{w}; 3x3,{w}; 1x1,{out}] x{n}",
    "resnext50_32x4d": "[1x1,{w2}; 3x3,{w2},C=32; 1x1,{out}] x{n}",
    "resneat50": "[1x1,{w2}; 3x3,{w2},C=32; AU,{out},C=32] x{n}",
}


def paper_table_1() -> dict[str, dict[str, str]]:
    """Table 1 as text: for each model and stage ``CxHxW`` and, for conv2 to conv5, the blocks."""
    table = {}
    for model, form in _BLOCKS.items():
        stages = {"conv1": "64x112x112"}
        for i, blocks in enumerate((3, 4, 6, 3)):
            width, out, stage = 64 << i, 256 << i, f"conv{i + 2}"
            text = form.format(w=width, w2=2 * width, out=out, n=blocks)
            stages[stage] = f"{out}x{_SIDES[stage]}x{_SIDES[stage]} {text}"
        table[model] = {**stages, "fc": "1000"}
    return table


@dataclass(frozen=True)
class Claim:
    """One claim of the paper; ``judged_by`` is ``count``, ``runs`` or both."""

    number: int
    section: str
    text: str
    judged_by: str


CLAIMS = (
    Claim(1, "3.2.4", "ResNeAt's unit has 59 % of the parameters of ResNeXt's", "count"),
    Claim(2, "3.2.4", 'ResNeAt "in total" has about 59 % of ResNeXt\'s parameters', "count"),
    Claim(3, "1, 3.2", "ResNeAt has a lower computing cost than ResNeXt", "count and speed"),
    Claim(4, "3.1, 4.2", "Inception-Res-PA converges faster than Inception-Res", "runs"),
    Claim(5, "4.2", "Inception-Res-PA gains 1.7 points of test top-1 over Inception-Res", "runs"),
    Claim(6, "3.1", "Inception-Res-PA trains more steadily than Inception-Res", "runs"),
    Claim(7, "1, 6", "pre-activation allows more depth; ResNeAt keeps ResNet's depth", "count and runs"),
    Claim(8, "4.2", "ResNeAt's accuracy is about ResNeXt's (top-1 0.784 and 0.793)", "runs"),
    Claim(9, "4.2", "ResNeAt converges slightly faster than ResNeXt", "runs"),
    Claim(10, "1, 6", "both new models are clearly more accurate than the originals", "runs"),
    Claim(11, "4.2", "SE-Net is best, and all six beat the ResNet-50 baseline", "runs"),
    Claim(12, "4.2", "Inception-Res's training curve is like the baseline's", "runs"),
)


@dataclass(frozen=True)
class Verdict:
    """The verdict on a claim.

    Attributes:
        verdict: ``holds``, ``holds only for ...``, ``does not hold`` or ``not decidable here ...``.
        evidence: The numbers behind it.
    """

    verdict: str
    evidence: str

    def as_dict(self) -> dict[str, str]:
        """For JSON."""
        return asdict(self)


def ratios(counts: Mapping[str, Any]) -> dict[str, float]:
    """Ratios of ResNeAt to ResNeXt: three of parameters, and the MACs of the plain path and of the path that runs."""
    units, models = counts["units"], counts["models"]
    at, xt = models["resneat50"], models["resnext50_32x4d"]
    return {
        "unit": units["resneat"] / units["resnext"],
        "network": at["params"] / xt["params"],
        "network without classifier": at["params_without_classifier"] / xt["params_without_classifier"],
        "MACs, plain path": at["macs"] / xt["macs"],
        "MACs spent": at["macs_spent"] / xt["macs"],
    }


def judge_by_count(counts: Mapping[str, Any], speed: Mapping[str, float]) -> dict[int, Verdict]:
    """Verdicts on claims 1, 2, 3 and the countable half of 7.

    Args:
        counts: Units, models and depths as counted by ``verify``.
        speed: Measured throughput relative to ResNeXt (name of the measurement -> ratio) for claim 3; may be empty.
    """
    r = ratios(counts)
    return {1: _claim_1(counts, r), 2: _claim_2(r), 3: _claim_3(counts, r, speed), 7: _claim_7(counts)}


def _claim_1(counts: Mapping[str, Any], r: Mapping[str, float]) -> Verdict:
    units = counts["units"]
    evidence = f"{units['resneat']:,} of {units['resnext']:,} convolution weights = {r['unit']:.1%}"
    return Verdict(HOLDS if f"{r['unit']:.0%}" == "59%" else DOES_NOT_HOLD, evidence)


def _claim_2(r: Mapping[str, float]) -> Verdict:
    whole, trunk = r["network"], r["network without classifier"]
    evidence = f"whole network {whole:.1%}, without classifier {trunk:.1%}"
    holds = [name for name, value in (("the network", whole), ("the trunk", trunk)) if f"{value:.0%}" == "59%"]
    if holds:
        return Verdict(HOLDS if len(holds) == 2 else f"{HOLDS_ONLY} {holds[0]}", evidence)
    return Verdict(f"{DOES_NOT_HOLD} for the network", f"{evidence}; 59 % is one unit's ratio")


def _claim_3(counts: Mapping[str, Any], r: Mapping[str, float], speed: Mapping[str, float]) -> Verdict:
    models = counts["models"]
    at, xt = models["resneat50"], models["resnext50_32x4d"]
    evidence = (
        f"as written {at['macs'] / 1e9:.2f} G MACs, ResNeXt {xt['macs'] / 1e9:.2f} G (x{r['MACs, plain path']:.2f}); "
        f"on the fast path that computes the same {at['macs_spent'] / 1e9:.2f} G (x{r['MACs spent']:.2f})"
    )
    if speed:
        evidence += "; img/s relative to ResNeXt: " + ", ".join(f"{what} x{ratio:.2f}" for what, ratio in speed.items())
    return Verdict(HOLDS if r["MACs, plain path"] < 1 else DOES_NOT_HOLD, evidence)


def _claim_7(counts: Mapping[str, Any]) -> Verdict:
    depths = counts["depths"]
    same = depths["resneat50"] == depths["resnet50"]
    evidence = (
        f"weight layers on the longest path: resneat50 {depths['resneat50']}, resnet50 {depths['resnet50']}, "
        f"resneat101 {depths['resneat101']}"
    )
    return Verdict(f"{HOLDS_ONLY} ResNeAt's depth" if same else DOES_NOT_HOLD, evidence)


def judge_all(
    counts: Mapping[str, Any], shown: Mapping[int, Verdict], speed: Mapping[str, float]
) -> dict[int, Verdict]:
    """A verdict for each of the twelve claims.

    Args:
        counts: Units, models and depths as counted by ``verify``.
        shown: Verdicts on the claims that need training, from committed runs; a missing one is not decidable.
        speed: Measured throughput relative to ResNeXt.
    """
    missing = Verdict(NOT_DECIDABLE, "needs training, and no results are committed yet")
    counted = judge_by_count(counts, speed)
    verdicts = {claim.number: shown.get(claim.number, missing) for claim in CLAIMS} | counted
    if 7 in shown:
        verdicts[7] = Verdict(counted[7].verdict, f"{counted[7].evidence}; {shown[7].evidence}")
    return verdicts
