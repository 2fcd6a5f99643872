"""`asdray official` against tables that were made by hand, byte for byte: `golden/<dcase>/`.

The files hold what a page of fractions gives, each as the double that is nearest to it. Few clips make it short:
of a section since 2022 two per domain and label, with equal scores in each of these four cells, so that no
choice of clips changes a score and ``ci95`` is 0. Nearly all values are powers of 1/2: the order in which
means add them up changes no digit.

Layouts, scores of (source anomalies, target anomalies, source normals, target normals):

* U (3, 1, 3, 2). Against 3 ties and losses: AUC (source) 1/4; against 2 half wins: AUC (target) 1/2; AUC (all)
  3/8. The ROC begins with a tie of half of the normals and half of the anomalies, a diagonal: pAUC 1/2.
  Said of the source: one anomaly: P 1, R 1/2, F 2/3; of the target: all four: P 1/2, R 1, F 2/3.
* W (2, 3, 1, 3). Against 1 wins: AUC (source) 1; against 3 losses and ties: AUC (target) 1/4; AUC (all) 5/8;
  pAUC 1/2 as before. Said of the source: all four; of the target: one anomaly.
* P (4, 4, 1, 2): AUCs and pAUC are 1; said as of U. T (5, 5, 5, 5): they are 1/2; said: all eight.

Since 2023 the system ``one`` is W and U: source AUCs 1, 1/4, target 1/4, 1/2: mean 1/2, harmonic mean
4 / (1 + 4 + 4 + 2) = 4/11, of the source 2/5, of the target 1/3; pAUC 1/2; the official score is
6 / (1 + 4 + 4 + 2 + 2 + 2) = 2/5. ``two`` is P and T: 2/3, and mean AUCs of 3/4.

In 2022 ``one`` has ToyCar sections 3, 4, 5 = W, U, P: its source AUCs 1, 1/4, 1 have the harmonic mean
3 / 6 = 1/2, its target AUCs 1/4, 1/2, 1 3/7. The original, ``--compat``, cuts behind the first of the six: 1, and
5 / (4 + 1 + 4 + 2 + 1) = 5/12. valve has section 3 alone.

2020 and 2021, scores of (anomalies, normals): H (4, 2, 3, 1): 3/4, and half of the anomalies stand above all
normals: pAUC (1 + (0.05 - 0.005) / 0.095) / 2 = 14/19. LOW (1, 3, 2, 4): 1/4, and none does: 9/19. TIE: 1/2 and
1/2. PER: 1 and 1. DI (3, 1, 3, 2): 3/8 and the diagonal's 1/2. DJ (3, 2, 3, 1): 5/8 and 1/2. 2021's ToyTrain is
H, TIE, DI, DJ: mean AUC 9/16, harmonic 4 / (4/3 + 2 + 8/3 + 8/5) = 10/19; pAUC 85/152 and
4 / (19/14 + 6) = 56/103. Its source, H and DI, has 2 / (4/3 + 8/3) = 1/2 and 2 / (19/14 + 2) = 28/47; with fan's H
and LOW the source AUCs have the mean 3 / (4/3 + 8/3 + 4/3) = 9/16, the target's 3 / (2 + 8/5 + 4) = 15/38, and the
official score over six AUCs and six pAUCs is 12 / (194/15 + 19/7 + 6 + 19/9) = 945/1871. One number is a digit
above the nearest double, in scipy's mean too: the target's pAUC 3 / (2 + 2 + 19/9) = 27/55.
"""

from pathlib import Path

import pytest
from test_official import Case

GOLDEN = Path(__file__).parent / "golden"

LAYOUTS = {  # scores; how many anomalies and normals of source, then of target, are called anomalies
    "U": ((3, 1, 3, 2), (1, 0, 2, 2)),
    "W": ((2, 3, 1, 3), (2, 2, 1, 0)),
    "P": ((4, 4, 1, 2), (1, 0, 2, 2)),
    "T": ((5, 5, 5, 5), (2, 2, 2, 2)),
}
PAIRS = {  # scores of two anomalies and two normals
    "H": (4, 2, 3, 1), "TIE": (2, 2, 2, 2), "PER": (4, 3, 2, 1), "LOW": (1, 3, 2, 4), "DI": (3, 1, 3, 2),
    "DJ": (3, 2, 3, 1),
}  # fmt: skip
SAID = {  # what is said of them: P 1, R 1/2, F 2/3; P 1/2, R 1, F 2/3; all 1/2; all 1
    "a": (1, 0, 0, 0), "b": (1, 1, 1, 1), "c": (1, 0, 1, 0), "d": (1, 1, 0, 0),
}  # fmt: skip
ONE_SECTION = {  # year -> machine of W and P, machine of U and T
    "dcase2023": ("bandsaw", "ToyTank"),
    "dcase2024": ("RoboticArm", "3DPrinter"),
    "dcase2025": ("ToyPet", "AutoTrash"),
    "dcase2026": ("ToyDrone", "BlowerDustCollector"),
}


def cells(section, layout):
    """Rows of a section since 2022, as `Case` has them."""
    (sa, ta, sn, tn), (hit_s, false_s, hit_t, false_t) = LAYOUTS[layout]
    rows = []
    for domain, anomaly, score, called in (
        ("source", 1, sa, hit_s), ("target", 1, ta, hit_t), ("source", 0, sn, false_s), ("target", 0, tn, false_t),
    ):  # fmt: skip
        rows += [(domain, anomaly, float(score), int(i < called)) for i in range(2)]
    return [(f"section_{section:02d}_{i:04d}.wav", *row) for i, row in enumerate(rows)]


def pair(case, section, *layouts):
    """Rows of a section of 2020 or 2021: per domain a layout and what is said."""
    rows = []
    for domain, (layout, said) in zip(("source", "target"), layouts, strict=False):
        for i, (score, called) in enumerate(zip(PAIRS[layout], SAID[said], strict=True)):
            rows.append((case.name(section, i, domain), domain, int(i < 2), float(score), called))
    return rows


def systems_of(dcase):
    """Name -> case."""
    if dcase in ONE_SECTION:
        a, b = ONE_SECTION[dcase]
        layouts = {"one": {(a, 0): "W", (b, 0): "U"}, "two": {(a, 0): "P", (b, 0): "T"}}
    elif dcase == "dcase2022":
        layouts = {
            "one": {("ToyCar", 3): "W", ("ToyCar", 4): "U", ("ToyCar", 5): "P", ("valve", 3): "U"},
            "two": {("ToyCar", 3): "T", ("ToyCar", 4): "P", ("ToyCar", 5): "W", ("valve", 3): "W"},
        }
    elif dcase == "dcase2021":
        layouts = {
            "one": {
                ("ToyTrain", 3): (("H", "a"), ("TIE", "b")), ("ToyTrain", 4): (("DI", "a"), ("DJ", "c")),
                ("fan", 3): (("H", "c"), ("LOW", "d")),
            }
        }  # fmt: skip
    else:
        layouts = {
            "one": {
                ("fan", 1): (("H", "a"),), ("fan", 3): (("TIE", "a"),), ("ToyCar", 5): (("PER", "a"),),
                ("ToyCar", 6): (("LOW", "a"),),
            }
        }  # fmt: skip
    found = {}
    for name, sections in layouts.items():
        case = found[name] = Case(dcase, ())
        case.machines = tuple(dict.fromkeys(machine for machine, _ in sections))
        for (machine, section), layout in sections.items():
            one = isinstance(layout, str)
            case.clips[machine, section] = cells(section, layout) if one else pair(case, section, *layout)
    return found


@pytest.mark.parametrize("dcase", ["dcase2020", "dcase2021", "dcase2022", *ONE_SECTION])
def test_tables_equal_those_made_by_hand_byte_for_byte(asdray, tmp_path, dcase):
    systems = systems_of(dcase)
    systems["one"].write_truth(tmp_path / "truth")
    for name, case in systems.items():
        case.write_system(tmp_path / "teams" / name)
    where = ("official", tmp_path / "teams", "--dcase", dcase, "--ground-truth", tmp_path / "truth")
    assert asdray(*where, "--partial")[0] == 0
    expected = {p.relative_to(GOLDEN / dcase): p.read_bytes() for p in (GOLDEN / dcase).rglob("*.csv")}
    compat = expected.pop(Path("one_result_compat.csv"), None)
    written = tmp_path / "teams_result"
    assert {path: (written / path).read_bytes() for path in expected} == expected
    if dcase in ("dcase2022", "dcase2023"):
        assert {p.relative_to(written) for p in written.rglob("*.csv")} == set(expected)
    if compat is not None:
        for name in [m for m in systems["one"].clips if m[0] == "valve"]:
            del systems["one"].clips[name]
        systems["one"].write_truth(tmp_path / "toy_truth")
        systems["one"].write_system(tmp_path / "toy" / "one")
        where = (
            "official",
            tmp_path / "toy" / "one",
            "--dcase",
            dcase,
            "--ground-truth",
            tmp_path / "toy_truth",
        )
        assert asdray(*where, "--compat")[0] == 0
        found = (tmp_path / "toy" / "one_result" / "one_result.csv").read_bytes()
        assert found[: found.index(b"official score ci95")] == compat
