"""One training run: its state, one optimizer step of it, and how it is kept on disk and taken up again."""

import hashlib
import json
import os
import platform
import random
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM

from bench.stamp import stamp
from bench.train.batches import Batch
from bench.train.examples import mix, sample_example
from bench.train.grow import deepened
from bench.train.model_directory import model_config, write_model
from bench.train.muon import Muon
from bench.train.recipe import GRADIENT_NORM, Recipe, Shape
from bench.train.workers import Workers

CHECKPOINT = "checkpoint.pt"
LATEST = "latest"
WEIGHTS = "model.safetensors"
RECORD = "training.json"


@dataclass(slots=True)
class Run:
    """`step`: optimizer steps done. `loss_nats`: weighted mean per token, running over some 50 steps.

    `before`: the record of the run whose weights this one started from. `commit`: of the code that began it.
    """

    recipe: Recipe
    model: LlamaForCausalLM
    optimizers: tuple[torch.optim.Optimizer, ...]
    workers: Workers
    rng: random.Random
    step: int = 0
    tokens: int = 0
    elapsed_s: float = 0.0
    loss_nats: float = 0.0
    before: dict[str, Any] | None = None
    commit: str | None = None
    mix: dict[str, Any] = field(default_factory=mix)

    @classmethod
    def begin(cls, recipe: Recipe, start: Path | None = None) -> "Run":
        """A fresh model, the same for the same recipe; or the weights of a model directory, `start`.

        Raises `ValueError` where those are of another width, or of blocks that do not divide the recipe's.
        """
        torch.manual_seed(recipe.seed)
        model = LlamaForCausalLM(model_config(recipe.shape))
        before = None
        if start is not None:
            before = json.loads((start / RECORD).read_text(encoding="utf-8"))
            model.load_state_dict(_start_weights(start, recipe.shape))
        model = model.train().to(recipe.device)
        embedding = model.get_input_embeddings().weight
        hidden = [p for p in model.parameters() if p.ndim == 2 and p is not embedding]
        vectors = [p for p in model.parameters() if p.ndim < 2]
        optimizers = (
            Muon(hidden, recipe.weight_decay),
            torch.optim.AdamW([embedding, *vectors], betas=(0.9, 0.98), weight_decay=0.0),
        )
        workers = Workers(model, recipe.name, recipe.workers)
        rng = random.Random(recipe.seed)
        return cls(recipe, model, optimizers, workers, rng, before=before, commit=_commit())

    def advance(self) -> None:
        """One optimizer step on fresh sequences."""
        recipe = self.recipe
        longest = recipe.longest_at(self.step)
        examples = [sample_example(self.rng, longest=longest) for _ in range(recipe.batch)]
        for optimizer in self.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = recipe.learning_rate_at(self.step)
        batch = Batch.of(examples, recipe.micro_batches)
        loss = self.workers.add_gradient(batch)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRADIENT_NORM)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        self.tokens += batch.tokens
        self.loss_nats = loss if self.step == 0 else 0.98 * self.loss_nats + 0.02 * loss
        self.step += 1

    def save(self, directory: Path) -> None:
        """Keeps the state in checkpoint.pt, whole or not at all."""
        state = {
            "recipe": asdict(self.recipe),
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "rng": self.rng.getstate(),
            "history": (self.before, self.commit, self.mix),
            "counts": (self.step, self.tokens, self.elapsed_s, self.loss_nats),
        }
        fresh = directory / (CHECKPOINT + ".new")
        torch.save(state, fresh)
        os.replace(fresh, directory / CHECKPOINT)

    @classmethod
    def resume(cls, directory: Path, device: str) -> "Run":
        """Takes up a kept run on `device`: on the one it was on, it goes on as if it had never stopped."""
        state: dict[str, Any] = torch.load(directory / CHECKPOINT, map_location=device, weights_only=True)
        run = cls.begin(Recipe(**{**state["recipe"], "device": device}))
        run.model.load_state_dict(state["model"])
        for optimizer, kept in zip(run.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(kept)
        run.rng.setstate(state["rng"])
        run.before, run.commit, mix_then = state["history"]
        if mix_then != run.mix:
            raise ValueError(f"the run in {directory} has another mix of sequences than this code")
        run.step, run.tokens, run.elapsed_s, run.loss_nats = state["counts"]
        return run

    def publish(self, directory: Path) -> None:
        """Points `directory`/latest at a complete model directory of this moment, and drops older ones.

        The one before it stays for whoever is still reading it.
        """
        target = directory / f"step-{self.step:07d}"
        write_model(self.model, target, stored_as=self.recipe.shape.stored_as)
        text = json.dumps(self.record(), indent=2) + "\n"
        (target / RECORD).write_text(text, encoding="utf-8")
        link = directory / (LATEST + ".new")
        link.unlink(missing_ok=True)
        link.symlink_to(target.name)
        os.replace(link, directory / LATEST)
        for old in sorted(directory.glob("step-*"))[:-2]:
            shutil.rmtree(old)

    def record(self) -> dict[str, object]:
        """What the card says of the run."""
        recipe = self.recipe
        where = torch.cuda.get_device_name() if recipe.device.startswith("cuda") else "no accelerator"
        return {
            **asdict(recipe),
            "mix": self.mix,
            "before": self.before,
            "steps_done": self.step,
            "parameters": self.model.num_parameters(),
            "tokens": self.tokens,
            "elapsed_s": round(self.elapsed_s, 1),
            "loss_nats": round(self.loss_nats, 4),
            "machine": f"{platform.machine()} CPU, {os.cpu_count()} hardware threads, {where}",
            "torch": torch.__version__,
            "commit": self.commit,
            "command": (
                f"python -m bench.train.train {recipe.name} --out DIR --steps {recipe.steps}"
                f" --seed {recipe.seed} --workers {recipe.workers} --device {recipe.device}"
                f" --learning-rate {recipe.learning_rate:g}" + (" --start MODEL" if recipe.start else "")
            ),
        }


def _start_weights(directory: Path, shape: Shape) -> dict[str, torch.Tensor]:
    smaller = LlamaForCausalLM.from_pretrained(directory, dtype=torch.float32)
    layers: int = smaller.config.num_hidden_layers
    wanted = model_config(shape)
    alike = all(
        getattr(smaller.config, name) == getattr(wanted, name)
        for name in ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads")
    )
    if not alike or shape.layers % layers:
        raise ValueError(f"{directory} cannot be the start: {shape.layers} blocks of its shape are asked")
    return deepened(smaller.state_dict(), shape.layers // layers)


def _commit() -> str | None:
    return stamp("bench.train.train", (), torch.device("cpu")).commit


def weights_digest(directory: Path) -> str:
    """SHA-256 of a model directory's weights."""
    return hashlib.sha256((directory / WEIGHTS).read_bytes()).hexdigest()
