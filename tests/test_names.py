"""The file-name grammar: official samples, laws, and what must not fit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asdray.dcase.names import (
    ClipName,
    build_name,
    expected,
    is_hidden,
    parse_name,
    unified_name,
)
from asdray.dcase.years import YEARS

# One row per kind of name that the organisers ship or release, written from their descriptions.
OFFICIAL = [
    (
        "dcase2020", "dev", "train", "normal_id_00_00000001.wav",
        ClipName(0, "source", "train", False, "00000001", ""),
    ),
    (
        "dcase2020", "dev", "test", "anomaly_id_06_00000064.wav",
        ClipName(6, "source", "test", True, "00000064", ""),
    ),
    (
        "dcase2020", "eval", "test", "id_01_00000000.wav",
        ClipName(1, "source", "test", None, "00000000", ""),
    ),
    (
        "dcase2020", "eval", "test", "normal_id_01_00000098.wav",
        ClipName(1, "source", "test", False, "00000098", ""),
    ),
    (
        "dcase2021", "eval", "train", "section_03_target_train_normal_0002_strength_2.wav",
        ClipName(3, "target", "train", False, "0002", "strength_2"),
    ),
    (
        "dcase2021", "dev", "test", "section_00_source_test_anomaly_0000.wav",
        ClipName(0, "source", "test", True, "0000", ""),
    ),
    (
        "dcase2021", "eval", "test", "section_03_target_test_0000.wav",
        ClipName(3, "target", "test", None, "0000", ""),
    ),
    (
        "dcase2022", "dev", "train", "section_00_source_train_normal_0000_m-n_W.wav",
        ClipName(0, "source", "train", False, "0000", "m-n_W"),
    ),
    (
        "dcase2022", "eval", "test", "section_05_target_test_anomaly_0199_v1pat_04_v2pat_05.wav",
        ClipName(5, "target", "test", True, "0199", "v1pat_04_v2pat_05"),
    ),
    ("dcase2022", "eval", "test", "section_03_0000.wav", ClipName(3, None, "test", None, "0000", "")),
    (
        "dcase2023", "dev", "test", "section_00_target_test_normal_0050_vel_1100_ac_0.30.wav",
        ClipName(0, "target", "test", False, "0050", "vel_1100_ac_0.30"),
    ),
    ("dcase2023", "eval", "test", "section_00_0199.wav", ClipName(0, None, "test", None, "0199", "")),
    (
        "dcase2024", "dev", "train", "section_00_source_train_normal_0001_noAttribute.wav",
        ClipName(0, "source", "train", False, "0001", "noAttribute"),
    ),
    (
        "dcase2024", "dev", "test", "section_00_source_test_anomaly_0001_vel_1_.wav",
        ClipName(0, "source", "test", True, "0001", "vel_1_"),
    ),
    (
        "dcase2025", "dev", "train", "section_00_source_train_normal_0000_.wav",
        ClipName(0, "source", "train", False, "0000", ""),
    ),
    (
        "dcase2025", "eval", "supplemental", "section_00_machine_0001_.wav",
        ClipName(0, None, "supplemental", None, "", "machine_0001_"),
    ),
    (
        "dcase2026", "dev", "train", "section_00_source_train_normal_0000_noAttributes.wav",
        ClipName(0, "source", "train", False, "0000", "noAttributes"),
    ),
]  # fmt: skip


@pytest.mark.parametrize(("dcase", "subset", "split", "name", "clip"), OFFICIAL)
def test_official_names_read_and_build(dcase, subset, split, name, clip):
    assert parse_name(dcase, subset, split, name) == clip
    assert build_name(dcase, subset, clip) == name


def test_missing_test_token_of_2024_is_read_and_mended():
    clip = parse_name("dcase2024", "eval", "test", "section_00_source_normal_0035_weight15_BckgF.wav")
    assert clip == ClipName(0, "source", "test", False, "0035", "weight15_BckgF")
    assert build_name("dcase2024", "eval", clip) == "section_00_source_test_normal_0035_weight15_BckgF.wav"


def test_unified_names():
    clip = ClipName(1, "source", "test", True, "00000098", "")
    assert unified_name("dcase2020", "eval", clip) == "section_01_source_test_anomaly_00000098.wav"
    anonymous = ClipName(1, "source", "test", None, "00000098", "")
    assert unified_name("dcase2020", "eval", anonymous) == "id_01_00000098.wav"
    clip = ClipName(0, "target", "train", False, "0003", "m-n_W")
    assert unified_name("dcase2023", "dev", clip) == build_name("dcase2023", "dev", clip)


ATTRIBUTES = st.text(
    st.characters(codec="utf-8", exclude_characters="/", exclude_categories=["Cc", "Cs"]), max_size=20
)


@st.composite
def named_clips(draw):
    year = YEARS[draw(st.sampled_from(sorted(YEARS)))]
    subset = draw(st.sampled_from(["dev", "eval"]))
    split = draw(st.sampled_from(["train", "test", *(["supplemental"] if year.has_supplemental else [])]))
    section = draw(st.integers(0, 99))
    if split == "supplemental":
        if draw(st.booleans()):
            return (
                year.name,
                subset,
                ClipName(0, None, split, None, "", draw(st.sampled_from(["a", "_", ""])), False),
            )
        return year.name, subset, ClipName(section, None, split, None, "", draw(ATTRIBUTES))
    label = False
    if split == "test":
        label = draw(st.sampled_from([False, True, *([None] if subset == "eval" else [])]))
    named_domain = label is not None or year.year <= 2021
    has_attributes = label is not None and (year.year >= 2022 or (year.year == 2021 and split == "train"))
    digits = 8 if year.year == 2020 else 4
    return year.name, subset, ClipName(
        section,
        draw(st.sampled_from(year.domains)) if named_domain else None,
        split,
        label,
        f"{draw(st.integers(0, 10**digits - 1)):0{digits}d}",
        draw(ATTRIBUTES) if has_attributes else "",
    )  # fmt: skip


@given(named_clips())
def test_clip_to_name_to_clip_is_the_identity(case):
    dcase, subset, clip = case
    name = build_name(dcase, subset, clip)
    assert parse_name(dcase, subset, clip.split, name) == clip
    assert build_name(dcase, subset, parse_name(dcase, subset, clip.split, name)) == name


@st.composite
def official_names(draw):
    """Any name that the descriptions of the years allow, put together without the grammar under test."""
    year = draw(st.integers(2020, 2026))
    subset = draw(st.sampled_from(["dev", "eval"]))
    split = draw(st.sampled_from(["train", "test"] + ["supplemental"] * (year >= 2025)))
    section = f"{draw(st.integers(0, 99)):02d}"
    index = draw(st.text("0123456789", min_size=8 if year == 2020 else 4, max_size=8 if year == 2020 else 4))
    label = "normal" if split == "train" else draw(st.sampled_from(["normal", "anomaly"]))
    domain = draw(st.sampled_from(["source", "target"]))
    known = ["", "noAttribute", "noAttributes", "m-n_W", "vel_1100_ac_0.30", "ac_0.03_", "v1pat_A_v2pat_none"]
    attributes = draw(st.one_of(st.sampled_from(known), ATTRIBUTES))
    anonymous = (subset, split) == ("eval", "test") and draw(st.booleans())
    if split == "supplemental":
        head = draw(
            st.sampled_from([f"section_{section}_", f"section_{section}", "section_", "machine ", ""])
        )
        name = f"{head}{draw(st.sampled_from(['machine_0001_', 'noise_', '']))}{attributes}.wav"
    elif year == 2020:
        name = f"id_{section}_{index}.wav" if anonymous else f"{label}_id_{section}_{index}.wav"
    elif anonymous:
        name = (
            f"section_{section}_{domain}_test_{index}.wav"
            if year == 2021
            else f"section_{section}_{index}.wav"
        )
    elif (year, split) == (2021, "test"):
        name = f"section_{section}_{domain}_test_{label}_{index}.wav"
    else:
        name = f"section_{section}_{domain}_{split}_{label}_{index}_{attributes}.wav"
    return f"dcase{year}", subset, split, name


@given(official_names())
def test_name_to_clip_to_name_is_the_identity(case):
    dcase, subset, split, name = case
    clip = parse_name(dcase, subset, split, name)
    assert build_name(dcase, subset, clip) == name
    assert clip.split == split


@pytest.mark.parametrize("attributes", ["noAttribute", "noAttributes"])
def test_hidden_attributes_are_kept_and_told(attributes):
    name = f"section_00_target_train_normal_0003_{attributes}.wav"
    for dcase in ("dcase2024", "dcase2025", "dcase2026"):
        clip = parse_name(dcase, "dev", "train", name)
        assert clip.attributes == attributes
        assert is_hidden(clip.attributes)
    assert not any(map(is_hidden, ["", "_", "vel_1", "noAttribute_", "no"]))


@pytest.mark.parametrize("dcase", ["dcase2025", "dcase2026"])
@pytest.mark.parametrize(
    "name",
    [
        "section_00_machine_0001_.wav",
        "section_00_machine_source_0000_noAttribute.wav",
        "section_00_source_supplemental_machine_0000.wav",
        "section_00_noise_supplemental_normal_0000.wav",
        "section_00_machine_0001_mic_1_noise_6.wav",
        "section_00_source_supplemental_0000.wav",
        "section_00_noises_0001_.wav",
    ],
)
def test_supplemental_names_are_parsed_up_to_the_section(dcase, name):
    clip = parse_name(dcase, "dev", "supplemental", name)
    assert (clip.section, clip.domain, clip.is_anomaly, clip.index) == (0, None, None, "")
    assert build_name(dcase, "dev", clip) == name


@pytest.mark.parametrize(
    ("dcase", "subset", "split", "name"),
    [
        ("dcase2025", "eval", "test", "section_00_test_0000.wav"),  # a README's placeholder
        (
            "dcase2024",
            "dev",
            "test",
            "section_00_source_normal_0035_weight15.wav",
        ),  # the slip is of eval alone
        ("dcase2021", "dev", "test", "section_00_source_test_anomaly_0000_car_A1.wav"),  # no attributes there
        ("dcase2023", "dev", "train", "section_00_source_train_anomaly_0000_m-n_W.wav"),  # train is normal
        ("dcase2023", "dev", "train", "section_00_source_test_normal_0000_m-n_W.wav"),  # a test name in train
        ("dcase2023", "dev", "test", "section_00_0000.wav"),  # dev is never anonymous
        ("dcase2023", "eval", "test", "section_00_test_0000.wav"),  # a README's placeholder
        ("dcase2023", "eval", "test", "section_00_0000.wav\n"),
        ("dcase2023", "eval", "test", "section_0_0000.wav"),
        ("dcase2023", "eval", "test", "section_00_00000.wav"),
        ("dcase2023", "eval", "test", "section_00_0000.WAV"),
        ("dcase2023", "eval", "test", "id_00_00000000.wav"),
        ("dcase2023", "dev", "train", "section_00_left_train_normal_0000_m-n_W.wav"),
        ("dcase2023", "dev", "train", "section_00_source_train_normal_0000.wav"),  # the attribute is missing
        ("dcase2023", "eval", "test", "section_00_source_normal_0035_weight15.wav"),  # 2024's slip only
        ("dcase2020", "dev", "test", "section_00_source_test_normal_0000_a.wav"),
    ],
)
def test_names_that_do_not_fit(dcase, subset, split, name):
    with pytest.raises(ValueError, match="is not a name of") as error:
        parse_name(dcase, subset, split, name)
    assert repr(name) in str(error.value)
    assert dcase in str(error.value)
    assert expected(dcase, subset, split) in str(error.value)


@pytest.mark.parametrize("dcase", ["dcase2025", "dcase2026"])
@pytest.mark.parametrize(
    "name", ["noise_0001.wav", "section_0_machine_0001.wav", "Maschine 1 (b).wav", "7.wav"]
)
def test_supplemental_names_need_no_form(dcase, name):
    clip = parse_name(dcase, "eval", "supplemental", name)
    assert (clip.section, clip.has_section, clip.attributes) == (0, False, name.removesuffix(".wav"))
    assert build_name(dcase, "eval", clip) == unified_name(dcase, "eval", clip) == name
    with pytest.raises(ValueError, match="is not a name of"):
        parse_name(dcase, "eval", "supplemental", name.removesuffix(".wav"))
    misread = ClipName(0, None, "supplemental", None, "", "section_01_x", has_section=False)
    with pytest.raises(ValueError, match="has no"):  # such a name tells another section
        build_name(dcase, "eval", misread)


def test_a_year_without_supplemental_clips_says_so():
    with pytest.raises(ValueError, match="dcase2023 has no supplemental clips"):
        parse_name("dcase2023", "dev", "supplemental", "section_00_machine_0001_.wav")


@pytest.mark.parametrize(
    "clip",
    [
        ClipName(0, None, "test", True, "0000", ""),  # labelled without a domain
        ClipName(0, "source", "test", None, "0000", ""),  # anonymous names do not tell the domain
        ClipName(0, "source", "train", True, "0000", ""),
        ClipName(0, "source", "train", False, "7", ""),
        ClipName(100, "source", "train", False, "0000", ""),
        ClipName(0, "source", "train", False, "0000", "a/b"),
        ClipName(0, "source", "train", False, "0000", "", has_section=False),
    ],
)
def test_no_name_loses_a_fact(clip):
    with pytest.raises(ValueError, match="has no dcase2023 eval file name"):
        build_name("dcase2023", "eval", clip)
