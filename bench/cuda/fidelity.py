"""KL and NLL of the device's logits against fp32 on real text, beside transformers' bf16 on the same device.

Decode is what captured steps compute, prefill what a prompt takes; both are of trained weights.
"""

from dataclasses import replace

from bench import fidelity
from bench.cuda.setting import Setting, first_line
from bench.record import Arm, Case


def run(setting: Setting) -> None:
    """The bundled model, and stories260K where the test data is at hand."""
    backends = tuple(dict.fromkeys((setting.backend, "torch")))
    schemes = ("none", "int8", "int4") if setting.device.type == "cuda" else ("none",)
    arms = fidelity.chosen_arms(backends, schemes, ("bf16",))
    for model in fidelity.default_models():
        subject = fidelity.Subject.of(model, device=setting.device)

        def failed(arm: Arm, reason: str, model: str = subject.id) -> None:
            setting.failed(arm, Case(model, False, "decode", 1, 0), reason, model)

        for arm in arms:
            try:
                for record in fidelity.records([arm], subject, setting.where, failed, setting.device):
                    value = record.derived["kl"].value
                    setting.emit(replace(record, benchmark=setting.benchmark))
                    setting.say(f"{subject.id}, {record.case.phase}: {record.arm.name} KL {value:.3g} nats")
            except Exception as error:  # of one arm, such as a kernel that does not compile; others go on
                failed(arm, first_line(error))
