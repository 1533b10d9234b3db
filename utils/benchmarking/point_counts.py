"""Counting the points at which a trainer evaluates its SDF, for measurements."""
from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor

from utils.geometry.sdf import Sdf


class CountedPoints:
    """Counts the points at which a trainer's SDF is evaluated, from its creation on.

    Args:
        trainer: has the attributes model and tracer; the methods that evaluate the SDF, in its
            network and in its tracer, are replaced by ones that count.
        has_analytic_sums: whether the tracer's sums have gradients in closed form, which do not
            call the network, so that they are counted themselves.

    Attributes:
        total: points so far; a directional derivative counts as one point more.
    """

    def __init__(self, trainer: Any, *, has_analytic_sums: bool) -> None:
        self.total = 0
        sdf, tracer = trainer.model.sdf, trainer.tracer
        sdf.register_forward_hook(lambda module, inputs, output: self.add(output.numel()))
        analytic = sdf.value_and_gradient

        def value_and_gradient(points: Tensor) -> tuple[Tensor, Tensor]:
            self.add(len(points))
            return analytic(points)

        sdf.value_and_gradient = value_and_gradient
        if hasattr(tracer, "make_evaluator"):
            tracer.make_evaluator = self.counted(tracer.make_evaluator)
            if has_analytic_sums:
                for name in ("_values", "sum_of_values", "sum_of_gradients"):
                    setattr(tracer, name, self.counted_loss(getattr(tracer, name)))

    def add(self, number: int) -> None:
        """Add so many points to the total."""
        self.total += number

    def counted_loss(self, method: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """Return a tracer's method, (sdf, points, ...) or (sdf, terms, points, ...), counting."""
        def counting(sdf: Sdf, *arguments: Any, **options: Any) -> Tensor:
            points = next(x for x in arguments if isinstance(x, Tensor))
            self.add(len(points))
            return method(sdf, *arguments, **options)

        return counting

    def counted(self, make_evaluator: Callable[[Sdf], Sdf]) -> Callable[[Sdf], CountingEvaluator]:
        """Return a maker of the same evaluators, which count."""
        return lambda sdf: CountingEvaluator(make_evaluator(sdf), self.add)


class CountingEvaluator:
    """An evaluator that reports how many points it was given.

    Args:
        evaluate: points (N, 3) to the SDF (N,); may have a method `value_and_derivative`.
        add: is told the number of points of each call; a directional derivative is one more.
    """

    def __init__(self, evaluate: Any, add: Callable[[int], None]) -> None:
        self.evaluate, self.add = evaluate, add
        if hasattr(evaluate, "value_and_derivative"):
            self.value_and_derivative = self._value_and_derivative

    def __call__(self, points: Tensor) -> Tensor:
        """Return the SDF (N,) at points (N, 3)."""
        self.add(len(points))
        return self.evaluate(points)

    def _value_and_derivative(self, points: Tensor, dirs: Tensor) -> tuple[Tensor, Tensor]:
        """Return the SDF (N,) and its derivative (N,) along directions (N, 3)."""
        self.add(2 * len(points))
        return self.evaluate.value_and_derivative(points, dirs)
