"""Recordings of your own as a year's dataset: ``python examples/own_data.py LIST.csv DATA``.

LIST.csv has a row per recording: ``file`` (relative to the list), ``machine``, ``split`` (train or test),
``domain`` (source or target), ``label`` (normal or anomaly) and ``attributes`` (such as ``speed_3_mic_1``, or
nothing). A machine of your own takes the name of one of `MACHINES`. Recordings are written as 16 kHz mono.
"""

import csv
import re
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import resample_poly

YEAR = "dcase2024"
MACHINES = ("ToyCar", "ToyTrain", "bearing", "fan", "gearbox", "slider", "valve")  # its development set
RATE = 16000


def main(listed: Path, data: Path) -> None:
    seen = Counter()
    for row in csv.DictReader(listed.open(encoding="utf-8")):
        machine, split, domain, label = (row[name] for name in ("machine", "split", "domain", "label"))
        if machine not in MACHINES:
            raise ValueError(f"{listed}: machine {machine!r} is none of {', '.join(MACHINES)}")
        if split == "train" and label != "normal":
            raise ValueError(
                f"{listed}: {row['file']} is an anomaly, and training clips are normal: use test"
            )
        if re.search("[^A-Za-z0-9_.-]", row["attributes"]):
            raise ValueError(f"{listed}: {row['attributes']!r}: attributes have letters, digits, _ . - alone")
        kind = f"section_00_{domain}_{split}_{label}"
        name = f"{kind}_{seen[machine, kind]:04d}_{row['attributes'] or 'noAttribute'}.wav"
        seen[machine, kind] += 1
        folder = data / "original" / YEAR / "dev_data" / "raw" / machine / split
        folder.mkdir(parents=True, exist_ok=True)
        wave, rate = soundfile.read(listed.parent / row["file"], always_2d=True)
        mono = resample_poly(wave.mean(axis=1), RATE, rate)
        soundfile.write(folder / name, np.clip(mono, -1, 1), RATE, subtype="PCM_16")
    for (machine, kind), n in sorted(seen.items()):
        print(f"{n:5d}  {machine}  {kind}")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
