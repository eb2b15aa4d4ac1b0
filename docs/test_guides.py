"""What the decision page says is what the committed results show."""

from __future__ import annotations

from dataclasses import replace

import pytest
from scipy import stats

from docs.evidence import PAGE, ROWS, difference, line, written


def test_the_page_holds_the_table_of_now():
    page = PAGE.read_text(encoding="utf-8")
    assert page == written(page), "python -m docs.evidence"


def test_a_row_that_the_results_do_not_show_is_refused():
    for row in ROWS:
        with pytest.raises(ValueError, match="no longer"):
            line(replace(row, seen={score: -1 if sign == 0 else -sign for score, sign in row.seen.items()}))


def test_intervals_are_those_of_the_paired_t_test():
    one, other = [1.0, 2.5, 3.0, 4.8], [0.7, 2.9, 2.1, 3.9]
    interval = stats.ttest_rel(one, other).confidence_interval(0.95)
    mean, half = difference(one, other)
    assert (mean - half, mean + half) == pytest.approx((interval.low, interval.high))
