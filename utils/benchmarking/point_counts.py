"""Counting the points at which a trainer evaluates its SDF, by whatever way, for measurements."""
from __future__ import annotations

import torch

from utils.fast.tracing.network_passes import has_analytic_gradients


class CountedPoints:
    """Counts the points at which a model's SDF is evaluated, by whatever way."""

    def __init__(self, trainer) -> None:
        self.total = 0
        sdf, tracer = trainer.model.sdf, trainer.tracer
        sdf.register_forward_hook(lambda module, inputs, output: self.add(output.numel()))
        in_closed_form = sdf.value_and_gradient

        def value_and_gradient(points):
            self.add(len(points))
            return in_closed_form(points)

        sdf.value_and_gradient = value_and_gradient
        if hasattr(tracer, "make_evaluator"):
            tracer.make_evaluator = self.counted(tracer.make_evaluator)
            if has_analytic_gradients(sdf, next(sdf.parameters())):
                for name in ("_values", "sum_of_values", "sum_of_gradients"):
                    setattr(tracer, name, self.counted_loss(getattr(tracer, name)))

    def add(self, number: int) -> None:
        """Count some more."""
        self.total += number

    def counted_loss(self, method):
        """A method of a tracer, (sdf, points, ...) or (sdf, terms, points, ...), that counts."""
        def counting(sdf, *arguments, **options):
            points = next(x for x in arguments if isinstance(x, torch.Tensor))
            self.add(len(points))
            return method(sdf, *arguments, **options)

        return counting

    def counted(self, make_evaluator):
        """The same maker of evaluators, whose evaluators count."""
        return lambda sdf: CountingEvaluator(make_evaluator(sdf), self.add)


class CountingEvaluator:
    """An evaluator that tells how many points it was given; a slope counts as one more."""

    def __init__(self, evaluate, add) -> None:
        self.evaluate, self.add = evaluate, add
        if hasattr(evaluate, "value_and_derivative"):
            self.value_and_derivative = self._value_and_derivative

    def __call__(self, points):
        """As the evaluator."""
        self.add(len(points))
        return self.evaluate(points)

    def _value_and_derivative(self, points, dirs):
        """As the evaluator."""
        self.add(2 * len(points))
        return self.evaluate.value_and_derivative(points, dirs)
