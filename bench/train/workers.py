"""Processes of one thread each that share the work on a batch's gradient.

Two threads inside one process wait for each other at every small product, and longer where anything else
runs: on two cores model S took 4.9 k tokens a second with two threads beside other jobs, and 5.2 k with one.
"""

from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess

import torch
from transformers import LlamaForCausalLM

from bench.train.batches import Batch, add_gradient
from bench.train.model_directory import model_config
from bench.train.recipe import SHAPES

Tensors = dict[str, torch.Tensor]


@dataclass(slots=True)
class _Other:
    process: BaseProcess
    pipe: Connection
    gradient: Tensors


class Workers:
    """`count` processes, this one among them; the others end with it. They share the model's weights.

    The sum is always taken in the same order, so a run is as deterministic as with one.
    """

    def __init__(self, model: LlamaForCausalLM, name: str, count: int) -> None:
        self._model = model
        self._others: list[_Other] = []
        if count == 1:
            return
        context = torch.multiprocessing.get_context("spawn")
        weights = {key: param.data.share_memory_() for key, param in model.named_parameters()}
        for _ in range(count - 1):
            gradient = {key: torch.zeros_like(weight).share_memory_() for key, weight in weights.items()}
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(name, weights, gradient, theirs), daemon=True)
            process.start()
            theirs.close()  # so that the end of the process is seen as the end of the pipe
            self._others.append(_Other(process, ours, gradient))

    def add_gradient(self, batch: Batch) -> float:
        """Adds the batch's gradient to the model's; its loss in nats. Every process takes its share."""
        count = len(self._others) + 1
        for number, other in enumerate(self._others, 1):
            other.pipe.send(batch.share(number, count))
        loss = add_gradient(self._model, batch.share(0, count))
        for other in self._others:
            loss += other.pipe.recv()
            for key, param in self._model.named_parameters():
                assert param.grad is not None
                param.grad += other.gradient[key]
        return loss


def _serve(name: str, weights: Tensors, gradient: Tensors, pipe: Connection) -> None:
    """Of a process beside the first: leaves the gradient of each batch it is sent, answers with the loss."""
    torch.set_num_threads(1)
    model = LlamaForCausalLM(model_config(SHAPES[name])).train()
    for key, param in model.named_parameters():
        param.data, param.grad = weights[key], gradient[key]
    while True:
        try:
            batch = pipe.recv()
        except EOFError:
            return
        for kept in gradient.values():
            kept.zero_()
        pipe.send(add_gradient(model, batch))
