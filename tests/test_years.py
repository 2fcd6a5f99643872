"""Facts per year: internal consistency, and errors that name the nearest right answer."""

import pytest

from asdray.dcase.years import YEARS, check_machines, get_year


def test_machine_counts_per_year():
    counts = {
        name: (len(y.machines["dev"]), len(y.machines["eval"]), len(y.all_machines))
        for name, y in YEARS.items()
    }
    assert counts == {
        "dcase2020": (6, 6, 6),
        "dcase2021": (7, 7, 7),
        "dcase2022": (7, 7, 7),
        "dcase2023": (7, 7, 14),
        "dcase2024": (7, 9, 16),
        "dcase2025": (7, 8, 15),
        "dcase2026": (7, 5, 12),
    }


def test_number_of_official_score_terms():
    """2022 63, 2023 21, 2024 27, 2025 24, 2026 15: three per machine and section of the eval subset."""
    terms = {
        name: 3 * sum(len(s) for s in y.sections["eval"].values())
        for name, y in YEARS.items()
        if y.score_rule == "both_domains"
    }
    assert terms == {"dcase2022": 63, "dcase2023": 21, "dcase2024": 27, "dcase2025": 24, "dcase2026": 15}
    assert 4 * sum(len(s) for s in YEARS["dcase2021"].sections["eval"].values()) == 84


@pytest.mark.parametrize("year", YEARS.values(), ids=list(YEARS))
def test_tables_agree(year):
    assert set(year.durations) == set(year.all_machines)
    assert year.hidden_attributes <= set(year.all_machines)
    for subset, sections in year.sections.items():
        assert set(sections) == set(year.machines[subset])
    for subset, machine, section, domain in year.test_counts:
        assert section in year.sections[subset][machine]
        assert domain in year.domains
    for machine in year.all_machines:
        both = [set(year.sections[s][machine]) for s in year.subsets_of(machine)]
        assert len(both) == 1 or not both[0] & both[1], "a section belongs to one subset"


def test_released_eval_totals():
    """Rows of the released evaluation lists: 2020 7,103 and 2021 8,635, 2023 7 x 200."""

    def total(year):
        n = 0
        for machine, sections in year.sections["eval"].items():
            for section in sections:
                for domain in year.domains:
                    cell = year.test_per_cell or 0
                    n += sum(year.test_counts.get(("eval", machine, section, domain), (cell, cell)))
        return n

    assert [total(YEARS[f"dcase{y}"]) for y in (2020, 2021, 2022, 2023, 2024, 2025)] == [
        7103, 8635, 4200, 1400, 1800, 1600,
    ]  # fmt: skip


def test_longest_clips():
    assert {n: y.duration_max for n, y in YEARS.items()} == {
        "dcase2020": 11, "dcase2021": 10, "dcase2022": 10, "dcase2023": 18, "dcase2024": 12, "dcase2025": 12,
        "dcase2026": 16,
    }  # fmt: skip


def test_wrong_names_get_the_nearest():
    with pytest.raises(ValueError, match=r"'dcase2032'; did you mean 'dcase202\d'\?.*known: dcase2020"):
        get_year("dcase2032")
    with pytest.raises(ValueError, match=r"dcase2023 has no machine 'toydrone'; did you mean 'ToyDrone'\?"):
        check_machines("dcase2023", ["fan", "toydrone"])
    with pytest.raises(ValueError, match="no machine of dcase2023 was named"):
        check_machines("dcase2023", [])
    assert check_machines("dcase2023", ["ToyDrone", "fan", "fan"]) == ("fan", "ToyDrone")
