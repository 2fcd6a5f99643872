"""Speed of a GPU: training, many autoencoders at once, extraction, encoders, beside the card's own limits.

    python benchmarks/perf/gpu.py [--out FILE.md] [--seconds 2] [--minutes 8] [--parts ...] [--device cpu]

The script suits a machine that is available for minutes only: it needs numpy, torch, torchaudio and this
repository, and no data. Every part runs in its own process and gets a share of ``--minutes``; the seconds
that a part leaves go to the parts after it. A failure is printed as a row, and the other rows follow. Rows
are printed as soon as they are measured, and all rows again as JSON at the end. ``--out`` writes FILE.md and
a JSON file beside it, after every row. ``--device cpu`` runs the same code at tiny sizes, as a test.

Variants: ``eager``, as in the pipeline; ``graph``, as with ``train.cuda_graphs``; ``whole graph``, the
optimiser recorded as well; ``free``, eager without deterministic algorithms and with cuDNN's choice of the
fastest; ``compiled``, as with ``train.compile``; ``compiled graph``, both options.

Limits, in the unit of the value: ``products``, if the FLOP of a step took all the time, at the card's
measured speed; ``memory``, if every operation read and wrote its tensors once, at the measured speed, and
nothing else took time; ``copy``, of int16 audio from page-locked memory. The table has the smallest, the JSON
all of them. A profile has the time of a step, the busy share of the GPU in it, and its largest kernels. Exit
code 1 if a row failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gpu_parts
import steps
import torch

HEAD = [
    "| what | variant | batch | value | unit | target | limit | share of limit |",
    "|---|---|---:|---:|---|---:|---:|---:|",
]


def markdown(row: dict[str, Any]) -> str:
    """The lines of a row: one of the table, or one per kernel of a profile."""
    if "failed" in row:
        return f"| {row['what']} | failed | | {row['failed']} | | | | |"
    if "kernels" in row:
        step, busy = f"{1e3 * row['step_seconds']:.3g}", f"{row['busy']:.2f}"
        lines = [f"| {row['what']} | a step | | {step} | ms | | | {busy} |"]
        for one in row["kernels"]:
            name, calls = one["kernel"].replace("|", "/"), f"{one['calls']:g} calls"
            lines.append(f"| {row['what']} | {name} | | {100 * one['share']:.3g} | % in {calls} | | | |")
        return "\n".join(lines)
    wanted = f"{row['target']:,.9g}" if row["target"] else ""
    limit = share = ""
    if row["limits"]:
        name, most = min(row["limits"].items(), key=lambda item: item[1])
        limit, share = f"{_short(most)} ({name})", f"{row['value'] / most:.2f}"
    value = _short(row["value"])
    return (
        f"| {row['what']} | {row['variant']} | {row['batch']} | {value} | {row['unit']} | {wanted} "
        f"| {limit} | {share} |"
    )


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def run_part(name: str, device_name: str, seconds: float, speed: dict[str, float], pipe: Any) -> None:
    """Runs one part in this process and sends its rows through ``pipe``."""
    device = torch.device(device_name)
    tiny = device.type == "cpu"
    if tiny:
        torch.set_num_threads(1)
    rows = gpu_parts.Rows(pipe.send, device, seconds, tiny, speed)
    with rows.attempt(name):
        gpu_parts.PARTS[name][0](rows)
    pipe.close()


def received(context: Any, limit: float, *arguments: Any) -> Iterator[dict[str, Any]]:
    """The rows of one part from a new process, which is ended after ``limit`` seconds.

    Args:
        arguments: of `run_part`, without the pipe.
    """
    name = arguments[0]
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=run_part, args=(*arguments, sender))
    process.start()
    sender.close()
    until = time.monotonic() + limit
    try:
        while receiver.poll(max(0.0, until - time.monotonic())):
            yield receiver.recv()
        yield {"what": name, "failed": f"not done after {limit:.0f} s"}
    except EOFError:  # the process has ended
        process.join(10)
        if process.exitcode:
            yield {"what": name, "failed": f"exit code {process.exitcode}"}
    finally:
        if process.is_alive():
            process.kill()
        process.join()


def measured(parts: list[str], device_name: str, seconds: float, minutes: float) -> Iterator[dict[str, Any]]:
    """The rows of all parts, within ``minutes``."""
    context = gpu_parts.fork_after_imports()
    until = time.monotonic() + 60 * minutes
    speed: dict[str, float] = {}
    weights = [gpu_parts.PARTS[name][1] for name in parts]
    for i, name in enumerate(parts):
        share = (until - time.monotonic()) * weights[i] / sum(weights[i:])
        for row in received(context, max(1.0, share), name, device_name, seconds, speed):
            if "speed" in row:
                speed = row["speed"]
            else:
                yield row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--out", type=Path, help="write the table to this file, and the JSON beside it")
    parser.add_argument("--seconds", type=float, default=2.0, help="per figure")
    parser.add_argument("--minutes", type=float, default=8.0, help="for all parts together")
    parser.add_argument("--parts", nargs="+", choices=tuple(gpu_parts.PARTS), default=list(gpu_parts.PARTS))
    options = parser.parse_args()
    if options.device == "cuda" and not torch.cuda.is_available():
        print("no GPU here: nothing is measured (--device cpu runs the code at tiny sizes)")
        return 0
    device_name, seconds = ("cuda:0", options.seconds) if options.device == "cuda" else ("cpu", 0.02)
    machine = steps.describe(torch.device(device_name), 1)
    table = [f"{machine}\n", *HEAD]
    print("\n".join(table), flush=True)
    rows: list[dict[str, Any]] = []
    for row in measured(options.parts, device_name, seconds, options.minutes):
        rows.append(row)
        table.append(markdown(row))
        print(table[-1], flush=True)
        if options.out:
            options.out.write_text("\n".join(table) + "\n", encoding="utf-8")
            text = json.dumps({"machine": machine, "rows": rows}, indent=1)
            options.out.with_suffix(".json").write_text(text + "\n", encoding="utf-8")
    print("\n" + json.dumps({"machine": machine, "rows": rows}), flush=True)
    return int(any("failed" in row for row in rows))


if __name__ == "__main__":
    sys.exit(main())
