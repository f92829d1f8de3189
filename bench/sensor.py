"""What a GPU's power sensor does to the power it shows: period, window, lag, gain, and what cannot be told.

    python -m bench.sensor                          characterises the GPU of this machine, under three minutes
    python -m bench.sensor --recording FILE.npz     the same from a recording

Of a GPU every channel that it has is reported and kept in the cache directory, where the meters of that GPU
and driver find it; `--json`, `--plot` and `--save` are of one of them. `--sensor` reads what `--json` printed
as well as what `--save` wrote.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from bench.characterise import Characterisation, characterise
from engine.cli import Parser, guarded, leave
from engine.energy.power_recording import CHANNELS, read_recording
from engine.energy.sensor_model import SensorModel
from engine.energy.sensor_profile import save_profile
from engine.errors import TokenjouleError, UsageError


def parser() -> argparse.ArgumentParser:
    """The command line."""
    cli = Parser(prog="bench.sensor", description=__doc__.split("\n\n")[0])
    cli.add_argument("--recording", type=Path, metavar="FILE.npz", help="a recording instead of this GPU")
    cli.add_argument("--channel", choices=CHANNELS, help="default: the first of these that has values")
    cli.add_argument("--sensor", type=Path, metavar="FILE.json", help="check this sensor instead of fitting")
    cli.add_argument("--save", type=Path, metavar="FILE.json", help="keep the fitted sensor")
    cli.add_argument("--plot", type=Path, metavar="FILE.png", help="draw it (needs matplotlib)")
    cli.add_argument("--json", action="store_true", help="one object on stdout and nothing else")
    cli.add_argument("--device", type=int, metavar="N", help="CUDA device to characterise (default: 0)")
    cli.add_argument("--record", type=Path, metavar="FILE.npz", help="keep the recording of this GPU")
    return cli


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return guarded(lambda: _main(parser().parse_args(argv)))


def _main(options: argparse.Namespace) -> int:
    if options.recording and (options.record or options.device is not None):
        raise UsageError("--record and --device are for this machine's GPU, --recording is not")
    if options.sensor and options.save:
        raise UsageError("--sensor fits nothing, so that there is nothing to --save")
    if options.plot:
        from engine.plot import check_plot

        check_plot(str(options.plot))
    for path in filter(None, (options.record, options.save, options.plot)):
        if not path.parent.is_dir():  # better known before two minutes of recording than after
            raise UsageError(f"cannot write {path}: there is no folder {path.parent}")
    given = SensorModel.load(options.sensor) if options.sensor else None
    if options.recording:
        recording = read_recording(options.recording)
    else:
        from bench.sensor_live import record_gpu

        recording = record_gpu(options.device or 0, options.record)
        if given is None:
            keep_profiles([characterise(recording, channel) for channel in sorted(recording.channels)])
    found = characterise(recording, options.channel, given)
    others = [] if options.recording or options.channel else sorted(set(recording.channels) - {found.channel})
    if options.plot:
        from bench.sensor_figure import draw_sensor

        draw_sensor(found, options.plot)
    if options.json:
        print(json.dumps(found.to_json(), allow_nan=False), flush=True)
    else:
        reports = [report(found), *(report(characterise(recording, other, given)) for other in others)]
        print("\n\n".join(reports), flush=True)
    if options.save:
        if found.model is None:
            raise TokenjouleError(f"no sensor was saved: {found.reason}")
        found.model.save(options.save)
    return 0


def keep_profiles(found: Sequence[Characterisation]) -> None:
    """Keep every channel's sensor that could be told, for the meters of this GPU; say which on stderr."""
    for channel in found:
        if channel.model is None:
            print(f"channel {channel.channel}: no profile was kept: {channel.reason}", file=sys.stderr)
        else:
            print(f"channel {channel.channel}: kept in {save_profile(channel.model)}", file=sys.stderr)


ROWS = (
    ("period", "period_ms", "{:.2f} ms"),
    ("window", "window_ms", "{:.1f} ms"),
    ("lag", "lag_ms", "{:.1f} ms"),
    ("time constant", "tau_ms", "{:.1f} ms"),
    ("duty", "duty", "{:.0%}"),
    ("gain", "gain", "{:.4f}"),
    ("offset", "offset_w", "{:.2f} W"),
    ("resolution", "resolution_w", "{:.3g} W"),
    ("noise", "noise_w", "{:.2g} W"),
    ("residual", "rmse_w", "{:.3g} W"),
    ("held out", "held_out_rmse_w", "{:.3g} W"),
    ("load", "load_energy_error", "{:+.1%} of the meter's joules"),
    ("  naive", "naive_load_energy_error", "{:+.1%}"),
    ("idle", "idle_energy_error", "{:+.1%} of the meter's joules"),
    ("  naive", "naive_idle_energy_error", "{:+.1%}"),
)


def report(found: Characterisation) -> str:
    """The figures for people, one a line, and the verdict."""
    title = f"{found.recording.path.name}, channel {found.channel}"
    if found.against:
        title += f", against the {found.against}"
    rows = [title]
    for label, name, form in ROWS:
        value = found.figures.get(name)
        if value is not None:
            text = form.format(value)
        else:
            why = found.missing[name]
            text = "not known, see below" if why == found.reason else f"not known: {why}"
        rows.append(f"{label:14} {text}")
    verdict = {True: "yes", False: f"NO: {found.reason}", None: f"not asked: {found.reason}"}
    rows.append(f"identifiable   {verdict[found.identifiable]}")
    return "\n".join(rows + [f"note: {note}" for note in found.recording.notes])


if __name__ == "__main__":
    leave(main(sys.argv[1:]))
