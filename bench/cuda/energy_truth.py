"""Single-shot joules of the small model beside repetition: `bench.energy_truth` on the device of a run.

Where the counter's lag could not be told, the power channel's readings are compared instead, and it is said.
"""

from bench.cuda.setting import Setting
from bench.curve_power import why_none
from bench.energy_truth import recorder_of, require_told, run_study
from bench.truth.records import problems, table
from engine.energy.sources import open_meter
from engine.engine import Engine
from engine.errors import MeterError

BESIDE = {"nvml": "nvml-power"}


def run(setting: Setting) -> None:
    """Raises `TokenjouleError` where no source's readings can be attributed."""
    model = setting.scale.models[0]
    with Engine.load(
        model,
        random_weights=model is not None and model.startswith("preset:"),
        backend=setting.backend,
        device="cpu" if setting.cuda_device is None else setting.cuda_device,
        dtype="bf16",
        energy_source=source_of(setting),
    ) as engine:
        require_told(engine)
        recorder = recorder_of(engine, setting.where, setting.benchmark)
        study = run_study(
            engine,
            setting.scale.truth,
            0,
            setting.say,
            lambda found: setting.emit(recorder.comparison(found)),
        )
        setting.emit(*recorder.checks(study))
    setting.say("\n" + table(study))
    for line in problems(study):
        setting.say(f"DOES NOT HOLD: {line}")


def source_of(setting: Setting) -> str:
    """The setting's source, or the one beside it where only that one's sensor is known."""
    wanted, other = setting.energy_source, BESIDE.get(setting.energy_source)
    if other is None:
        return wanted
    for name in (wanted, other):
        try:
            meter = open_meter(name, cuda_device=setting.cuda_device)
        except MeterError as error:
            setting.say(f"{name}: {error}")
            continue
        reason = why_none(meter.sensor, fresh=meter.sensor.period_s == 0)
        meter.close()
        if not reason:
            return name
        setting.say(f"{name}: {reason}")
    return wanted
