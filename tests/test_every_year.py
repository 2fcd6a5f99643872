"""The whole way of every year: the organisers' zips on a server, downloaded, formatted, compared."""

import hashlib

import pytest
from http_server import Site, serve
from zips import publish, zips_of

from asdray import store
from asdray.cli import main
from asdray.dcase import manifest, records
from asdray.dcase.synth import synthesise
from asdray.dcase.years import YEARS


def run(*arguments):
    """The exit code of a command."""
    with pytest.raises(SystemExit) as ended:
        main([str(a) for a in arguments])
    return ended.value.code


@pytest.mark.parametrize("dcase", YEARS)
def test_downloaded_and_formatted_it_is_what_was_made(dcase, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    year = YEARS[dcase]
    made = synthesise(tmp_path / "organisers", dcase, train=8, test=8, seconds=0.5, workers=1)
    original = store.original_dir(tmp_path / "organisers", dcase, "dev").parents[1]
    # What is known beforehand is known of the real files.
    monkeypatch.setattr(records, "_MD5", {})
    truth = original / "ground_truth"
    if (found := truth / f"eval_data_list_{year.year}.csv").exists():
        monkeypatch.setitem(records._LIST_SHA256, year.year, hashlib.sha256(found.read_bytes()).hexdigest())
    data = tmp_path / "data"
    with serve(Site()) as site:
        publish(site, zips_of(original, dcase, year.all_machines))
        site.files |= {
            f"{f.repository}/{f.commit}/{f.path}": (truth / f.path.removeprefix("datasets/")).read_bytes()
            for f in records.ground_truth(dcase)
        }
        assert run("download", dcase, "--data", data, "--base-url", site.url) == 0
        asked = len(site.requests)
        assert run("download", dcase, "--data", data, "--base-url", site.url) == 0
        assert len(site.requests) == asked, "the second run asks for nothing"
    capsys.readouterr()
    assert run("format", dcase, "--data", data) == 1, "a part of what the organisers ship"
    assert "train" in capsys.readouterr().out
    assert run("format", dcase, "--data", data, "--partial") == 0

    rows = {row["clip"]: row for row in manifest.load_manifest(data, dcase).to_pylist()}
    assert set(rows) == {clip.key for clip in made.clips}
    for clip in made.clips:
        row = rows[clip.key]
        path = store.original_dir(data, dcase, clip.subset) / clip.machine / clip.folder / clip.name
        said = {
            "original_path": path.relative_to(data).as_posix(),
            "machine": clip.machine,
            "section": clip.section,
            "domain": clip.domain,
            "split": clip.split,
            "subset": clip.subset,
            "is_anomaly": clip.is_anomaly,
            "attributes": clip.attributes,
            "sample_rate": 16000,
            "channels": year.channels,
            "n_samples": round(made.spec.seconds * 16000),
            "size": path.stat().st_size,
        }
        assert {name: row[name] for name in said} == said
        link = data / row["path"]
        assert link.read_bytes() == (original / path.relative_to(data / "original" / dcase)).read_bytes()
        if clip.labelled_name and year.year > 2020:
            assert link.name == clip.labelled_name
        # Every label of a test clip says where it came from.
        sources = {"name"} if clip.anonymous is None else {"evaluator", f"eval_data_list_{year.year}.csv"}
        assert row["label_source"] in (sources if clip.label else {None})
    assert len({row["path"] for row in rows.values()}) == len(rows)
