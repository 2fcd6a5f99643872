"""The zips that the organisers would have made of an original tree."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

from http_server import Site

from asdray.dcase import records
from asdray.dcase.records import Zip


def zip_of(files: dict[str, bytes]) -> bytes:
    """A zip with these files."""
    memory = io.BytesIO()
    with zipfile.ZipFile(memory, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(zipfile.ZipInfo(name, (2024, 1, 2, 3, 4, 6)), content, zipfile.ZIP_DEFLATED)
    return memory.getvalue()


def zips_of(original: Path, dcase: str, machines: tuple[str, ...]) -> dict[Zip, bytes]:
    """Content of every zip: an eval machine's test folders in one, all else in the other."""
    made = {}
    for z in records.zips(dcase):
        if z.machine in machines:
            raw = original / f"{z.subset}_data" / "raw"
            files = [p for p in sorted((raw / z.machine).rglob("*")) if p.is_file()]
            if z.subset == "eval":
                tests = z.part == "eval_test"
                files = [p for p in files if p.parent.name.endswith("test") == tests]
            made[z] = zip_of({p.relative_to(raw).as_posix(): p.read_bytes() for p in files})
    return made


def publish(site: Site, zips: dict[Zip, bytes]) -> None:
    """Puts zips on the site, with their records' descriptions."""
    for record in {z.record for z in zips}:
        site.add_record(record, {z.name: c for z, c in zips.items() if z.record == record})
