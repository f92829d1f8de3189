"""The engine: a model loaded on a device, beside the meter that reads that device. The Python API.

with Engine.load() as engine:
    print(engine.generate("47+35-18=", budget_joules=5).answer)
"""

import copy
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from threading import Lock
from types import TracebackType

from engine.ahead import check_graph_steps
from engine.chat import ChatTemplate
from engine.decode import Decoder
from engine.device_errors import device_failures
from engine.energy.curve import CurveKey, OperatingCurve
from engine.energy.curve_predict import choose_predictor
from engine.energy.curve_store import AUTO, choose_curve, fingerprint
from engine.energy.forecast import Forecast
from engine.energy.ledger import Ledger
from engine.energy.meter import Meter, source_key
from engine.energy.nvml import uuid_of_cuda_device
from engine.energy.poller import Poller
from engine.energy.predict import Predictor
from engine.energy.report import joules, mean_w
from engine.energy.sources import host_meter, open_meter, require_measured
from engine.energy.warmup import warm_up
from engine.errors import MeterError, TokenjouleError, UsageError
from engine.loading import LoadStep, OnProgress, Work, ignore
from engine.locate import locate
from engine.model import Model
from engine.placement import check_memory, choose_backend, choose_device, choose_dtype, device_name
from engine.probe import MODES, TRUNCATE
from engine.profile import ProfiledBackend
from engine.result import Generation, ModelCard
from engine.rows import Marks, Request, own_copy
from engine.sampler import Sampling
from engine.schemes import NONE, choose_scheme
from engine.session import Origin, Session
from engine.shared_prompt import by_prompt
from engine.source import open_checkpoint, open_tokenizer, read_config
from engine.steps import Hook, StopPolicy
from engine.stop import JouleBudget, TokenBudget
from engine.stop.auto import auto_policy
from engine.stop.dial import dial_of
from engine.stop.names import resolved
from engine.thinking import ThinkingFormat
from engine.tokenizer import Tokenizer
from engine.weights import load_weights
from kernels.api import BackendUnavailable, compilations

NEW_TOKENS = 512  # where the caller names no limit; the context may be shorter
ANSWER_TOKENS = 16

Prompt = str | Sequence[int]


class Engine:
    """Make one with `Engine.load`. Close it, or use it in a `with`: it holds a meter and a polling thread.

    `curve`: what requests cost on this model and device; None where no curve of just these was fitted. One
    too far off (`curve.predicts`) or of elsewhere (`curve.mismatch`) is here, and `predictor.curve` is None.
    """

    def __init__(
        self,
        model: Model,
        tokenizer: Tokenizer,
        poller: Poller,
        origin: Origin,
        *,
        directory: Path | None,
        thinking: ThinkingFormat | None,
        predictor: Predictor,
        curve: OperatingCurve | None,
        curve_key: CurveKey,
        power_w: float | None,
        setup_j: float | None,
        host: Meter | None,
    ) -> None:
        self.model, self.tokenizer, self.poller, self.origin = model, tokenizer, poller, origin
        self.directory, self.thinking = directory, thinking
        self.predictor, self._setup_j, self._host = predictor, setup_j, host
        self.forecast = Forecast(predictor, power_w, poller.meter.name)
        self.curve, self.curve_key = curve, curve_key
        self._running = Lock()

    @classmethod
    @device_failures("while loading")
    def load(
        cls,
        model: str | Path | None = None,
        *,
        backend: str = "auto",
        device: str | int | None = None,
        dtype: str = "auto",
        quantize: str | None = None,
        random_weights: bool = False,
        seed: int = 0,
        energy_source: str = "auto",
        require_measured_energy: bool = False,
        meter: Meter | None = None,
        profile: bool = False,
        graph_steps: int = 1,
        curve: str | Path = AUTO,
        on_progress: OnProgress = ignore,
    ) -> "Engine":
        """Load a model, open the meter of its device, and warm both up; that energy is `setup_j`.

        `curve`: the operating curve. "auto": that of just this model, backend, device and source, where one
        is kept (`bench.curves`); "none"; or a file, as `engine.energy.curve_store.choose_curve` takes it.

        `model`: "bundled:NAME" (None: bundled:chain), a Hugging Face directory or id, or "preset:NAME", which
        needs `random_weights`. `device`: a CUDA index, "cpu", or None for the first CUDA device if there is
        one. `quantize`: "none", "int8" or "int4", None for what the directory holds. `meter` replaces
        `energy_source`. `profile`: every stage is timed, see `engine.profile`. `on_progress` hears of every
        part of the work that takes time. `graph_steps`: decode steps that a GPU may take in one launch, see
        `engine.ahead`. Raises `TokenjouleError` (`UsageError`, `MeterError`) with one line.
        """
        begun = time.monotonic()
        place = choose_device(device)
        where = locate(None if model is None else str(model))
        if meter is None:
            meter = open_meter(energy_source, cuda_device=place.index if place.type == "cuda" else None)
        if require_measured_energy:
            require_measured(meter)
        poller = Poller(meter)
        poller.start()
        try:
            before = poller.poll()
            config = read_config(where, random_weights=random_weights)
            tokenizer = open_tokenizer(where, config)
            checkpoint = open_checkpoint(
                where, config, random_weights=random_weights, seed=seed, device=place
            )
            kind = choose_dtype(dtype, config)
            chosen = choose_backend(backend, place, kind)
            if profile:
                chosen = ProfiledBackend(chosen)
            check_graph_steps(graph_steps, chosen)
            scheme = choose_scheme(quantize, config.quantization)
            check_memory(config, kind, scheme, place)
            curve_key = CurveKey(
                model=where.id,
                fingerprint=fingerprint(config),
                quantization=NONE if scheme is None else scheme.name,
                dtype=str(kind).removeprefix("torch."),
                # Stages that are waited for one by one cost more than those that a curve was fitted to.
                backend=f"{chosen.name}, profiled" if profile else chosen.name,
                device=device_name(place),
                device_uuid=uuid_of_cuda_device(place.index) if place.type == "cuda" else "",
                source=source_key(meter),
                peak_w=meter.sensor.peak_w,
            )
            found = choose_curve(curve, curve_key)
            weights = load_weights(
                checkpoint, config, dtype=kind, device=place, scheme=scheme, on_progress=on_progress
            )
            with compilations(chosen, lambda done: on_progress(LoadStep(Work.KERNELS, done, None))):
                try:
                    loaded = Model(config, weights, chosen, graph_steps=graph_steps)
                except BackendUnavailable as error:
                    raise TokenjouleError(str(error)) from error
                warmed, power_w = warm_up(loaded, tokenizer, poller)
            after = poller.poll()
        except BaseException:
            poller.stop()
            meter.close()
            raise
        card = ModelCard(
            id=where.id,
            architecture=config.architecture,
            parameters=loaded.parameters,
            dtype=curve_key.dtype,
            quantization=curve_key.quantization,
            shape_only=random_weights or config.shape_only,
        )
        origin = Origin(card, chosen.name, device_name(place), loaded.dims(), time.monotonic() - begun)
        return cls(
            loaded,
            tokenizer,
            poller,
            origin,
            directory=where.directory,
            thinking=ThinkingFormat.discover(where.directory, tokenizer) if where.directory else None,
            predictor=choose_predictor(found, curve_key, warmed),
            curve=found,
            curve_key=curve_key,
            power_w=power_w or meter.sensor.peak_w or mean_w(before, after),
            setup_j=joules(after.energy_uj - before.energy_uj),
            host=host_meter(meter),
        )

    def __enter__(self) -> "Engine":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop the polling and release the meter."""
        self.poller.stop()
        self.poller.meter.close()
        if self._host:
            self._host.close()

    def encode(self, prompt: str, *, chat: bool = False, system: str | None = None) -> list[int]:
        """Token ids of a prompt; with `chat`, through the model's chat template."""
        if not chat:
            return self.tokenizer.encode(prompt)
        if self.directory is None:
            raise TokenjouleError(f"{self.origin.card.id} has no chat template")
        messages = [{"role": "system", "content": system}] if system is not None else []
        text = ChatTemplate.load(self.directory).render([*messages, {"role": "user", "content": prompt}])
        return self.tokenizer.encode(text, add_special_tokens=False)

    def generate(self, prompt: Prompt, **options: object) -> Generation:
        """One prompt (text or token ids) to its result; see `start` for the options."""
        return self.generate_many([prompt], **options)[0]

    def generate_many(self, prompts: Sequence[Prompt], **options: object) -> list[Generation]:
        """Several prompts, decoded together as one request with one account of joules."""
        session = self.start(prompts, **options)  # type: ignore[arg-type]
        for _ in session.steps():
            pass
        return session.results()

    @device_failures("before the request began")
    def start(
        self,
        prompts: Sequence[Prompt],
        *,
        max_new_tokens: int | None = None,
        temperature: float = 0.0,
        top_k: int | None = None,
        top_p: float | None = None,
        min_p: float | None = None,
        repetition_penalty: float = 1.0,
        seed: int = 0,
        answer_temperature: float | None = None,
        stop_sequences: Sequence[str] = (),
        ignore_eos: bool = False,
        policies: Sequence[StopPolicy | str] = (),
        probe_share: float | None = None,
        probe_mode: str = TRUNCATE,
        category: str | Sequence[str | None] | None = None,
        price_joules: float | None = None,
        hooks: Sequence[Hook] = (),
        budget_joules: float | None = None,
        budget_tokens: int | None = None,
        answer_tokens: int = ANSWER_TOKENS,
        chat: bool = False,
        system: str | None = None,
        rows_at_once: int | None = None,
        rows_by_budget: bool = False,
        share_prompts: bool = True,
    ) -> Session:
        """Check the request and make its session; nothing has been computed yet.

        Rows with the same prompt share one prefill, in equal parts of its joules, unless `share_prompts` is
        False; their tokens are the same either way, but for the last bits of a GPU's shared attention.
        `rows_at_once`: rows begin in waves of so many; a later wave finds the prompt computed and paid for.
        `rows_by_budget`: and no more of them at once than a joule budget is predicted to hold answers of, but
        one at least; for rows that could be fewer, as samples can.
        `answer_tokens` bounds the answer behind thinking that was cut short; `answer_temperature` is that of
        answers where it is not `temperature`. Every row gets its own deep copy of `policies`; a string among
        them is a name, as `--stop` has them ("confidence:threshold=0.9", "auto"). Named policies spend at
        most `probe_share` of the joules on probes, 5 % unless told otherwise; where it is given, all do.
        `probe_mode`: "truncate", or "piggyback" where the backend can, see `engine.rider`.
        `category`: of the questions, one for all prompts or one for each. `price_joules`: accuracy points
        that a joule must gain, for policies that weigh the two. Price and budget can be turned while the
        request runs: `Session.dial`. Raises `UsageError` for values out of range, `TokenjouleError` for
        prompts that do not fit the model and budgets below the predicted minimum.
        """
        if self.poller.failure is not None:
            raise MeterError(f"the meter failed: {self.poller.failure}")
        if isinstance(prompts, str):
            raise UsageError("prompts must be a list; for one prompt there is generate()")
        for name, value in {"answer_tokens": answer_tokens, "rows_at_once": rows_at_once}.items():
            if value is not None and value < 1:
                raise UsageError(f"{name} must be at least 1, not {value}")
        if probe_mode not in MODES:
            raise UsageError(f"unknown probe mode {probe_mode!r}; known: {', '.join(MODES)}")
        sampling = Sampling(temperature, top_k, top_p, min_p, repetition_penalty, seed, answer_temperature)
        if answer_temperature is not None and self.thinking is None:
            raise UsageError("an answer temperature needs a model that marks its thinking")
        automatic = partial(auto_policy, self.curve, self.curve_key, thinks=self.thinking is not None)
        steering = resolved(policies, automatic, probe_share, riding=probe_mode != TRUNCATE)
        if budget_tokens is not None:
            steering.insert(0, TokenBudget(budget_tokens))
        if budget_joules is not None:
            steering.insert(0, JouleBudget(budget_joules))
        dial = dial_of(steering, price_joules)
        categories = [category] * len(prompts) if isinstance(category, str | None) else list(category)
        if len(categories) != len(prompts):
            raise UsageError(f"{len(categories)} categories for {len(prompts)} prompts")
        requests = [
            self._request(
                prompt, max_new_tokens, sampling, stop_sequences, ignore_eos, steering, chat, system, kind
            )
            for prompt, kind in zip(prompts, categories, strict=True)
        ]
        if not requests:
            raise UsageError("no prompt was given")
        lengths = [len(request.prompt_ids) for request in requests]
        ledger = Ledger(
            self.poller,
            predictor=copy.copy(self.predictor),
            prior_w=self.forecast.prior_w(lengths),
            setup_j=self._setup_j,
            host=self._host,
            dims=self.origin.dims,
            power=self.curve.power if self.curve and not self.curve.mismatch(self.curve_key) else None,
        )
        if dial.budget_j is not None:
            computed = [lengths[group[0]] for group in by_prompt(requests, share=share_prompts)]
            self.forecast.require(dial.budget_j, computed)
            if rows_by_budget:
                tokens = min(self._answer_cost(answer_tokens), requests[0].max_new_tokens)
                held = self.forecast.rows_held(dial.budget_j, computed, lengths, tokens)
                rows_at_once = min(rows_at_once or held, held)
        decoder = Decoder(
            self.model,
            self.tokenizer,
            requests,
            ledger,
            thinking=self.thinking,
            answer_tokens=answer_tokens,
            hooks=hooks,
            dial=dial,
            probe_mode=probe_mode,
            rows_at_once=rows_at_once,
            share_prompts=share_prompts,
        )
        backend = self.model.backend
        profiled = backend if isinstance(backend, ProfiledBackend) else None
        return Session(decoder, ledger, self.origin, hooks, self._running, profiled=profiled)

    def _answer_cost(self, answer_tokens: int) -> int:
        """Tokens of an answer behind thinking that was cut short, or of a text of an unmarked model."""
        if self.thinking is None:
            return answer_tokens
        return Marks.of(self.thinking, self.tokenizer, answer_tokens).answer_cost_tokens

    def _request(
        self,
        prompt: Prompt,
        max_new_tokens: int | None,
        sampling: Sampling,
        stop_sequences: Sequence[str],
        ignore_eos: bool,
        policies: Sequence[StopPolicy],
        chat: bool,
        system: str | None,
        category: str | None,
    ) -> Request:
        text = prompt if isinstance(prompt, str) else None
        ids = self.encode(prompt, chat=chat, system=system) if isinstance(prompt, str) else list(prompt)
        config = self.model.config
        if not ids:
            raise UsageError("the prompt is empty")
        if len(ids) >= config.max_context:
            raise TokenjouleError(
                f"the prompt has {len(ids)} tokens, and the model's context of {config.max_context} must "
                "also hold the answer"
            )
        foreign = next((token for token in ids if not 0 <= token < config.vocab_size), None)
        if foreign is not None:
            raise TokenjouleError(
                f"token id {foreign} is outside the model's vocabulary of {config.vocab_size}"
            )
        return Request(
            prompt_ids=tuple(ids),
            max_new_tokens=NEW_TOKENS if max_new_tokens is None else max_new_tokens,
            sampling=sampling,
            stop_sequences=tuple(stop_sequences),
            eos_ids=frozenset() if ignore_eos else frozenset(config.eos_ids),
            policies=tuple(own_copy(policy) for policy in policies),
            question=text,
            category=category,
        )
