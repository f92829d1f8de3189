"""Ways to answer a question with one model, and the prompts and the grading that go with them."""

from engine.strategy.base import Attempt, Outcome, Sample, Strategy, run
from engine.strategy.best_of_n import BestOfN
from engine.strategy.cot import Cot
from engine.strategy.direct import Direct
from engine.strategy.vote import Vote

__all__ = ["Attempt", "BestOfN", "Cot", "Direct", "Outcome", "Sample", "Strategy", "Vote", "run"]
