"""When a guess is named, and reading thresholds from files that anybody may have written."""

import math

import pytest

from timm_landmark.runs.thresholds import Thresholds, read_thresholds


@pytest.mark.parametrize(
    ("certain", "none", "decisions"),
    [
        (None, None, ["landmark", "landmark", "landmark"]),
        (0.8, None, ["uncertain", "uncertain", "landmark"]),
        (0.8, 0.4, ["none", "uncertain", "landmark"]),
        (None, 0.4, ["none", "landmark", "landmark"]),
        (0.5, 0.7, ["none", "landmark", "landmark"]),  # what is certain is named, whatever the other threshold says
    ],
)
def test_decisions(certain, none, decisions):
    thresholds = Thresholds(certain, none)
    assert [thresholds.decide(confidence) for confidence in (0.39, 0.6, 0.8)] == decisions


def test_a_confidence_is_compared_as_it_is_stored():
    """Thresholds are chosen from six decimals, so that 0.7234564 in memory is the 0.723456 of the file."""
    thresholds = Thresholds(certain=0.723456, none=0.5)
    assert thresholds.decide(0.7234564) == thresholds.decide(0.7234556) == "landmark"
    assert thresholds.decide(0.7234554) == "uncertain"
    assert (thresholds.decide(0.4999996), thresholds.decide(0.4999994)) == ("uncertain", "none")


def test_written_thresholds_are_read_again():
    thresholds = Thresholds(0.8, 0.25, 0.9)
    assert read_thresholds({**thresholds.as_dict(), "images": 7}) == thresholds
    assert read_thresholds(None) == Thresholds()


@pytest.mark.parametrize(
    "values",
    [[], "0.5", {"certain": 1.5}, {"certain": True}, {"none": "0.5"}, {"none": math.nan}, {"target_accuracy": None}],
)
def test_other_values_are_refused(values):
    with pytest.raises(ValueError, match="thresholds"):
        read_thresholds(values)
