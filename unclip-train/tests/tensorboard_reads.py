"""TensorBoard's own reader finds in a run's events what the run's `log.jsonl` says, also after a resumption.

    pip install tensorboard==2.21.0
    python unclip-train/tests/tensorboard_reads.py RUN [RUN ...]

RUN is the output folder of a run. Needs Python, and is no part of CI.
"""

import json
import math
import pathlib
import struct
import sys

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def single(value):
    """The number as the events hold it, in 32 bits."""
    return struct.unpack("f", struct.pack("f", value))[0]


def check(run):
    events = EventAccumulator(str(run), size_guidance={"scalars": 0, "images": 0})
    events.Reload()
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    names = sorted({name for line in lines for name in line} - {"step"})
    assert sorted(events.Tags()["scalars"]) == names, (events.Tags()["scalars"], names)
    for name in names:
        found = [(event.step, event.value) for event in events.Scalars(name)]
        expected = [(line["step"], single(line[name])) for line in lines if name in line]
        assert found == expected, f"{run}: {name}: {found} is not {expected}"
        assert all(math.isfinite(value) for _, value in found), name
    sheets = sorted(int(path.stem.rsplit("-")[-1]) for path in run.glob("sheets/*.png"))
    found = []
    if "sheet" in events.Tags()["images"]:
        for image in events.Images("sheet"):
            png = (run / "sheets" / f"step-{image.step:010}.png").read_bytes()
            assert image.encoded_image_string == png, f"{run}: the sheet of step {image.step}"
            found.append(image.step)
    assert found == sheets, f"{run}: sheets {found}, expected {sheets}"
    files = len(list(run.glob("events.out.tfevents.*")))
    print(f"{run}: {len(lines)} steps of {len(names)} numbers and {len(found)} sheets in {files} files")


for argument in sys.argv[1:]:
    check(pathlib.Path(argument))
