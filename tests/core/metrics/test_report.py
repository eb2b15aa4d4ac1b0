"""Groups of classes, and reports that were written before."""

import pytest
import torch

from cbdm_core.metrics.report import Report, Scores, count_groups, rank_groups

COUNTS = [500, 300, 200, 120, 80, 50, 30, 20, 10, 5]


def test_a_file_of_the_first_version_still_loads():
    scores = {"fid": 1.5, "precision": 0.9, "recall": None, "label_accuracy": 1.0, "n_samples": 8, "n_reference": 9}
    table = {
        "overall": scores,
        "groups": {"tail": scores},
        "classes": [{"name": "a", "training_count": 3, "scores": scores}],
        "features": "f",
        "note": "n",
        "held_out_accuracy": None,
        "k": 5,
    }
    report = Report.from_dict(table)
    assert report.overall == Scores(1.5, 0.9, None, 1.0, 8, 9)
    assert (report.overall.kid, report.by_count, report.intervals) == (None, {}, {})
    assert Report.from_dict(report.to_dict()) == report


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        (COUNTS, {"head": (0, 1, 2), "medium": (3, 4, 5), "tail": (6, 7, 8, 9)}),
        (COUNTS[::-1], {"head": (9, 8, 7), "medium": (6, 5, 4), "tail": (3, 2, 1, 0)}),
        ([5, 9, 5, 5, 9, 1], {"head": (1, 4), "medium": (0, 2), "tail": (3, 5)}),  # ties go by label
        ([7] * 5, {"head": (0,), "medium": (1, 2), "tail": (3, 4)}),
        ([0, 0, 3], {"head": (2,), "medium": (0,), "tail": (1,)}),
        ([3, 8], {"medium": (1,), "tail": (0,)}),
        ([3], {"tail": (0,)}),
    ],
)
def test_groups_by_rank(counts, groups):
    assert rank_groups(torch.tensor(counts)) == groups == rank_groups(counts)
    assert list(rank_groups(counts)) == list(groups)


@pytest.mark.parametrize(
    ("counts", "groups"),
    [
        (COUNTS, {"many": (0, 1, 2, 3), "medium-shot": (4, 5, 6, 7), "few": (8, 9)}),
        ([19, 20, 100, 101, 0], {"many": (3,), "medium-shot": (1, 2), "few": (0, 4)}),
        ([500, 500], {"many": (0, 1)}),
    ],
)
def test_groups_by_count(counts, groups):
    assert count_groups(torch.tensor(counts)) == groups == count_groups(counts)
    assert list(count_groups(counts)) == list(groups)
