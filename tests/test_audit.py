"""The audit: published counts, missing clips, other deviations, and the text of both."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from asdray.dcase.audit import (
    Expected,
    audit,
    differences_of,
    official_counts,
    summary,
    synthetic_counts,
    table,
)
from asdray.dcase.years import YEARS


def clips_of(expected: Expected) -> list[dict]:
    """Rows of a manifest that is exactly as expected; where only a total is known, without labels."""
    rows = []
    for (subset, machine, section), splits in expected.splits.items():
        place = {"subset": subset, "machine": machine, "section": section}
        cells = expected.cells[subset, machine, section]
        for split, total in splits.items():
            known = [(d, a, n) for (s, d, a), n in cells.items() if s == split]
            for domain, label, n in known or [(None, None, total if total is not None else 1)]:
                row = {
                    **place,
                    "split": split,
                    "domain": domain,
                    "is_anomaly": {None: None, "normal": False, "anomaly": True}[label],
                    "label_source": label and "name",
                }
                rows += [row] * n
    return rows


TINY = synthetic_counts(
    {
        f"{subset}/{machine}/00/{split}/{domain}/{label}": n
        for subset, machine in (("dev", "fan"), ("eval", "bandsaw"))
        for domain, train in (("source", 5), ("target", 2))
        for split, label, n in (("train", "normal", train), ("test", "normal", 3), ("test", "anomaly", 3))
    }
)


def deviations(audited):
    return [(*d.section, str(d), d.missing) for d in audited.differences]


@pytest.mark.parametrize(
    ("dcase", "clips"),
    [
        ("dcase2022", 50_400),
        ("dcase2023", 16_800),
        ("dcase2024", 19_200),
        ("dcase2025", 18_000 + 1500),
        ("dcase2026", 14_400),
    ],
)
def test_counts_of_whole_years(dcase, clips):
    expected = official_counts(dcase)
    rows = clips_of(expected)
    assert len(rows) == clips
    audited = audit(dcase, rows, expected)
    assert (audited.n_clips, audited.differences, audited.unchecked) == (clips, (), ())
    assert summary(audited) == [f"{dcase}: {clips} clips, all as expected"]


@pytest.mark.parametrize(
    ("dcase", "sections", "eval_test"),
    [("dcase2020", 41, 7103), ("dcase2021", 42, 8635), ("dcase2022", 42, 4200)],
)
def test_eval_test_counts_are_those_of_the_released_lists(dcase, sections, eval_test):
    expected = official_counts(dcase)
    assert len(expected.splits) == sections
    assert sum(s["test"] for (subset, _, _), s in expected.splits.items() if subset == "eval") == eval_test


def test_a_number_that_nobody_published_is_not_judged():
    expected = official_counts("dcase2021")
    rows = clips_of(expected)
    audited = audit("dcase2021", rows, expected)
    assert audited.differences == ()
    assert audited.unchecked == ("dev test", "dev train", "eval train")
    assert summary(audited)[-1].endswith(
        "all as expected (no number to compare with for: dev test, dev train, eval train)"
    )
    without = [r for r in rows if (r["machine"], r["section"], r["split"]) != ("fan", 1, "train")]
    assert deviations(audit("dcase2021", without, expected)) == [("dev", "fan", 1, "train 0", True)]


def test_the_cells_of_2026s_eval_test_are_not_known_but_their_sum_is():
    expected = official_counts("dcase2026")
    rows = clips_of(expected)
    labelled = [
        {**r, "domain": "source", "is_anomaly": False} if (r["subset"], r["split"]) == ("eval", "test") else r
        for r in rows
    ]
    assert audit("dcase2026", labelled, expected).differences == ()
    assert deviations(audit("dcase2026", labelled[:-1], expected))[0][3:] == ("test 199 of 200", True)


def test_missing_machines_and_sections_are_one_line_each_subset():
    expected = official_counts("dcase2022")
    rows = [
        r
        for r in clips_of(expected)
        if r["machine"] != "valve" and (r["subset"], r["machine"], r["section"]) != ("eval", "fan", 4)
    ]
    audited = audit("dcase2022", rows, expected)
    assert audited.missing
    assert summary(audited) == [
        "missing dev machines: valve",
        "missing eval machines: fan (sections 04), valve",
        f"dcase2022: {len(rows)} clips, something is missing in 7 sections",
    ]


@given(st.data())
def test_whatever_is_taken_away_is_missing_and_whatever_is_added_is_not(data):
    rows = clips_of(TINY)
    absent = data.draw(st.sets(st.integers(0, len(rows) - 1), min_size=1))
    audited = audit("dcase2023", [r for i, r in enumerate(rows) if i not in absent], TINY)
    assert audited.missing == audited.differences
    assert sum(d.expected - d.found for d in audited.differences) == len(absent)
    more = audit("dcase2023", rows + [rows[i] for i in absent], TINY)
    assert more.missing == ()
    assert sum(d.found - d.expected for d in more.differences) == len(absent)
    assert "nothing is missing" in summary(more)[-1]


def test_labels_of_the_ground_truth_that_fall_otherwise_are_different_not_missing():
    rows = clips_of(TINY)
    for subset, missing in (("eval", False), ("dev", True)):
        changed = [dict(r) for r in rows]
        victim = next(
            r for r in changed if (r["subset"], r["split"], r["is_anomaly"]) == (subset, "test", True)
        )
        victim["is_anomaly"] = False
        audited = audit("dcase2023", changed, TINY)
        assert [t[3:] for t in deviations(audited)] == [
            ("test source normal 4 of 3", False),
            ("test source anomaly 2 of 3", missing),
        ]


def test_without_labels_the_sum_counts_and_labels_are_missed_only_with_ground_truth():
    rows = [
        {**r, "domain": None, "is_anomaly": None, "label_source": None}
        if (r["subset"], r["split"]) == ("eval", "test") and r["is_anomaly"]
        else r
        for r in clips_of(TINY)
    ]
    assert audit("dcase2023", rows, TINY).differences == ()
    audited = audit("dcase2023", rows, TINY, has_truth=True)
    assert deviations(audited) == [("eval", "bandsaw", 0, "test labels 6 of 12", True)]
    fewer = rows[:-1]
    assert rows[-1]["is_anomaly"] is None
    assert [t[3:] for t in deviations(audit("dcase2023", fewer, TINY))] == [("test 11 of 12", True)]


def test_a_label_without_a_domain_is_missing_whoever_has_none():
    rows = [
        {**r, "domain": None} if (r["subset"], r["split"], r["is_anomaly"]) == ("eval", "test", True) else r
        for r in clips_of(TINY)
    ]
    audited = audit("dcase2023", rows, TINY, has_truth=True)
    assert deviations(audited) == [("eval", "bandsaw", 0, "test domains 6 of 12", True)]
    assert "something is missing" in summary(audited)[-1]
    # Too few clips, one without a label, some without a domain: no two of these are added up.
    anonymous = {**rows[-1], "is_anomaly": None, "label_source": None}
    audited = audit("dcase2023", [*rows[:-2], anonymous], TINY, has_truth=True)
    assert differences_of(audited, ("eval", "bandsaw", 0)) == (
        "missing: test 11 of 12, test labels 10 of 11, test domains 6 of 10"
    )


def test_supplemental_clips_that_nobody_announced_are_not_judged():
    rows = clips_of(official_counts("dcase2026"))
    extra = {**rows[0], "split": "supplemental", "domain": None, "is_anomaly": None, "label_source": None}
    audited = audit("dcase2026", [*rows, extra], official_counts("dcase2026"))
    assert (audited.differences, audited.unchecked) == ((), ("dev supplemental",))


def test_what_was_not_expected_at_all_is_a_difference():
    extra = dict.fromkeys(["domain", "is_anomaly", "label_source"]) | {
        "subset": "dev", "machine": "fan", "section": 0, "split": "supplemental",
    }  # fmt: skip
    audited = audit("dcase2023", [*clips_of(TINY), extra], TINY)
    assert deviations(audited) == [("dev", "fan", 0, "supplemental 1 of 0", False)]
    unknown = audit("dcase2023", clips_of(TINY), synthetic_counts({}))
    assert unknown.differences == ()
    assert unknown.unchecked == ("dev test", "dev train", "eval test", "eval train")


def text_of(grid, terminal=False) -> str:
    console = Console(width=200, force_terminal=terminal, color_system="standard" if terminal else None)
    with console.capture() as capture:
        console.print(grid)
    return capture.get()


def test_the_table_marks_differences_by_colour_and_by_words():
    rows = clips_of(TINY)
    audited = audit("dcase2023", rows[1:], TINY)
    assert differences_of(audited, ("dev", "fan", 0)) == "missing: train source normal 4 of 5"
    lines = [" ".join(line.split()) for line in text_of(table(audited)).splitlines()]
    assert lines[2:] == [
        "machine subset section normal normal normal anomaly normal anomaly test labels from not as expected",
        "fan dev 00 4 2 3 3 3 3 name missing: train source normal 4 of 5",
        "bandsaw eval 00 5 2 3 3 3 3 name",
    ]
    coloured = text_of(table(audited), terminal=True)
    assert re.findall(r"\x1b\[1;31m *(\d+)\x1b", coloured) == ["4"]
    assert "not as expected" not in text_of(table(audit("dcase2023", rows, TINY)))


def test_many_differences_of_a_split_are_reported_as_one():
    rows = [r for r in clips_of(TINY) if r["split"] == "train" or r["is_anomaly"] is None]
    rows += [r for r in clips_of(TINY) if r["split"] == "test"][::3]
    assert differences_of(audit("dcase2023", rows, TINY), ("dev", "fan", 0)) == "missing: test 4 of 12"


def test_every_year_expects_every_section():
    for name, year in YEARS.items():
        expected = official_counts(name)
        assert list(expected.splits) == [
            (s, m, i) for s in ("dev", "eval") for m in year.machines[s] for i in year.sections[s][m]
        ]
        assert all(("supplemental" in splits) == year.has_supplemental for splits in expected.splits.values())
