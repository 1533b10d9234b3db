"""The networks without convolutions: the SDF (sine layers, MLPs, encodings) and the aggregation.

Paper, section 3: Phi is a SIREN from a point of object space to its signed distance (negative
inside); G weights the features of the source views.
"""
from __future__ import annotations

import math
import re
from dataclasses import dataclass, field

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from utils.errors import ConfigError
from utils.geometry import sdf as derivatives

#: Factor on every sine layer's argument (SIREN, section 3.2; docs/method.md, section 3).
OMEGA = 30.0
#: Sharpness of the softplus that stands in for ReLU where second derivatives are needed (IDR).
SOFTPLUS_BETA = 100.0
#: Radius of the sphere that the geometric initialisation starts from, object units.
INITIAL_RADIUS = 0.5

MODELS = ("ours", "idr", "deepsdf")
ACTIVATIONS = ("sine", "relu", "softplus")
ENCODINGS = ("none", "nerf", "idr", "ff")


@dataclass(frozen=True)
class PointEncoding:
    """How points are encoded before the first layer.

    Attributes:
        kind: none (the point as it is), nerf (the point, sin and cos of 2^k pi x), idr (the point,
            sin and cos of 2^k x), or ff (sin and cos of 2 pi B x, random B: Fourier features).
        num_bands: frequencies k = 0 .. num_bands - 1, or rows of B.
        sigma: ff: standard deviation of B's entries, per object unit.
        exponential_bands: ff: row k of B has a random direction and the length sigma 2^k instead.
            nerf and idr always have exponential bands.
    """

    kind: str = "none"
    num_bands: int = 0
    sigma: float = 1.0
    exponential_bands: bool = False


@dataclass(frozen=True)
class SdfArchitecture:
    """The shape of an SDF network: hidden_layers + 2 linear layers, numbered from 0.

    Attributes:
        model: which family, see `build_sdf`.
        activation: after all layers but the last: sine, relu or softplus (beta 100). idr and
            deepsdf bring their own.
        hidden_layers: hidden-to-hidden layers.
        hidden_dims: width of the hidden layers.
        skips: pairs (i, j), i < j: the input of layer i is appended to the input of layer j.
            Empty means the family's own.
        feature_vector: outputs beside the signed distance; 0 and less: none.
        encoding: of the points.
    """

    model: str = "ours"
    activation: str = "sine"
    hidden_layers: int = 3
    hidden_dims: int = 128
    skips: tuple[tuple[int, int], ...] = ()
    feature_vector: int = -1
    encoding: PointEncoding = field(default_factory=PointEncoding)

    def __post_init__(self) -> None:
        """Check the values. Raises ConfigError naming the flag that sets the wrong one."""
        for flag, value, choices in (("model", self.model, MODELS),
                                     ("model_activation_sdf", self.activation, ACTIVATIONS),
                                     ("posenc_sdf", self.encoding.kind, ENCODINGS)):
            if value not in choices:
                raise ConfigError(f"{flag} is {value!r}, need one of {', '.join(choices)}")
        if self.hidden_layers < 0 or self.hidden_dims < 1:
            raise ConfigError(
                f"model_hidden_layers_sdf is {self.hidden_layers} and model_hidden_dims_sdf "
                f"{self.hidden_dims}, need at least 0 and 1")
        if self.encoding.kind != "none" and self.encoding.num_bands < 1:
            raise ConfigError(f"posenc_sdf {self.encoding.kind} has posenc_sdf_bands "
                              f"{self.encoding.num_bands}, need at least 1; nerf takes 6 to 10")
        last = self.hidden_layers + 1
        for pair in self.skips:
            if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= last:
                raise ConfigError(f"model_skips_sdf has the pair {tuple(pair)}, need i,j with "
                                  f"0 <= i < j <= {last}, the number of the last layer")
        own = {"idr": "softplus", "deepsdf": "relu"}.get(self.model, self.activation)
        if self.activation not in (own, "sine"):
            raise ConfigError(f"model_activation_sdf is {self.activation}, but model {self.model} "
                              f"always has {own}; leave the flag out or use model ours")


def parse_skips(text: str) -> tuple[tuple[int, int], ...]:
    """Pairs of layers from the flag's text: `0,2 1,3`; empty or `none` has none.

    Raises:
        ConfigError: a word that is not two numbers with a comma between.
    """
    words = [] if text.strip().lower() in ("", "none") else text.split()
    for word in words:
        if not re.fullmatch(r"\d+,\d+", word):
            raise ConfigError(f"model_skips_sdf has {word!r}, need pairs such as 0,2 1,3, or none")
    return tuple((int(first), int(second)) for first, second in (w.split(",") for w in words))


class SineLayer(nn.Linear):
    """sin(omega (W x + b)), initialised so that activations keep their spread (SIREN, 3.2).

    W is uniform in +-1/n in the first layer, in +-sqrt(6/n)/omega in later ones, n inputs.
    """

    def __init__(self, in_features: int, out_features: int, *, is_first: bool = False) -> None:
        super().__init__(in_features, out_features)
        self.omega = OMEGA
        bound = 1 / in_features if is_first else math.sqrt(6 / in_features) / OMEGA
        nn.init.uniform_(self.weight, -bound, bound)

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., n) to (..., m)."""
        phase = self.phase(inputs)
        # A fresh buffer costs as much as the sine: reuse this one where no gradient reads it.
        return phase.sin() if torch.is_grad_enabled() else phase.sin_()

    def phase(self, inputs: Tensor) -> Tensor:
        """The sine's argument; the factor goes to the weights, which are fewer than points."""
        return F.linear(inputs, self.omega * self.weight, self.omega * self.bias)


class FrequencyEncoding(nn.Module):
    """(x, sin(f_k x), cos(f_k x)) per coordinate, f_k = 2^k times base_frequency."""

    def __init__(self, num_bands: int, base_frequency: float) -> None:
        super().__init__()
        self.out_features = 3 + 6 * num_bands
        frequencies = base_frequency * 2.0 ** torch.arange(num_bands)
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        """points (..., 3) to (..., 3 + 6 K), the points first."""
        phases = (self.frequencies[:, None] * points[..., None, :]).flatten(-2)  # (..., 3 K)
        return torch.cat([points, phases.sin(), phases.cos()], dim=-1)


class FourierFeatures(nn.Module):
    """(sin(2 pi B x), cos(2 pi B x)) with a random (K, 3) matrix B that is saved, not trained."""

    def __init__(self, num_bands: int, sigma: float, exponential_bands: bool) -> None:
        super().__init__()
        self.out_features = 2 * num_bands
        matrix = sigma * torch.randn(num_bands, 3)
        if exponential_bands:
            lengths = sigma * 2.0 ** torch.arange(num_bands)
            matrix = F.normalize(matrix, dim=-1) * lengths[:, None]
        self.register_buffer("matrix", matrix)

    def forward(self, points: Tensor) -> Tensor:
        """points (..., 3) to (..., 2 K)."""
        phases = 2 * math.pi * points @ self.matrix.T
        return torch.cat([phases.sin(), phases.cos()], dim=-1)


def _build_encoding(encoding: PointEncoding) -> nn.Module | None:
    """The encoding's module with its `out_features`, or None where points pass unchanged."""
    if encoding.kind == "none":
        return None
    if encoding.kind == "ff":
        return FourierFeatures(encoding.num_bands, encoding.sigma, encoding.exponential_bands)
    return FrequencyEncoding(encoding.num_bands, math.pi if encoding.kind == "nerf" else 1.0)


class MlpSDF(nn.Module):
    """An SDF as a multi-layer perceptron: what all families share.

    Attributes:
        layers: the linear layers, first to last (`nn.Linear` or its child `SineLayer`).
        num_features: outputs beside the signed distance.
        is_chain: True where no encoding and no skip breaks the chain of layers.
    """

    def __init__(self, architecture: SdfArchitecture) -> None:
        super().__init__()
        self.num_features = max(architecture.feature_vector, 0)
        self.is_chain = not architecture.skips and architecture.encoding.kind == "none"
        self.encoding = _build_encoding(architecture.encoding)
        last = architecture.hidden_layers + 1
        self.sources = tuple(tuple(i for i, j in architecture.skips if j == layer)
                             for layer in range(last + 1))
        widths: list[int] = []
        layers = []
        for index, sources in enumerate(self.sources):
            width = architecture.hidden_dims if index else self.encoded_features
            widths.append(width + sum(widths[source] for source in sources))
            out_features = architecture.hidden_dims if index < last else 1 + self.num_features
            layers.append(self._make_layer(index, widths[-1], out_features))
        self.layers = nn.ModuleList(layers)

    @property
    def encoded_features(self) -> int:
        """Width of an encoded point."""
        return 3 if self.encoding is None else self.encoding.out_features

    def _make_layer(self, index: int, in_features: int, out_features: int) -> nn.Linear:
        """Layer `index` of the network, initialised for ReLU."""
        layer = nn.Linear(in_features, out_features)
        nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")
        return layer

    def _activate(self, hidden: Tensor) -> Tensor:
        """What follows each layer but the last."""
        return F.relu(hidden)

    def _append(self, hidden: Tensor, skipped: list[Tensor]) -> Tensor:
        """Join a layer's input with what skips to it."""
        return torch.cat([hidden, *skipped], dim=-1)

    def _outputs(self, points: Tensor) -> Tensor:
        """points (..., 3) to all outputs (..., 1 + features)."""
        hidden = points if self.encoding is None else self.encoding(points)
        inputs: list[Tensor] = []
        for index, layer in enumerate(self.layers):
            if self.sources[index]:
                hidden = self._append(hidden, [inputs[source] for source in self.sources[index]])
            if not self.is_chain:
                inputs.append(hidden)
            hidden = layer(hidden)
            if index < len(self.layers) - 1:
                hidden = self._activate(hidden)
        return hidden

    def forward(self, points: Tensor) -> Tensor:
        """Signed distance.

        Args:
            points: (..., 3), object space.

        Returns:
            (...,) object units, negative inside; differentiable in points and weights.
        """
        return self._outputs(points)[..., 0]

    def forward_with_features(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance (...,) and feature vector (..., C) of points (..., 3), object space.

        Raises:
            ValueError: the network was built without a feature vector.
        """
        if not self.num_features:
            raise ValueError("this SDF has no feature vector; build it with feature_vector > 0")
        outputs = self._outputs(points)
        return outputs[..., 0], outputs[..., 1:]

    def value_and_gradient(self, points: Tensor) -> tuple[Tensor, Tensor]:
        """Signed distance (...,) and its gradient (..., 3) at points (..., 3), object space.

        Both are differentiable in the weights, whether or not gradients are switched on.
        """
        return derivatives.gradient(self, points, create_graph=True)


class SoftplusSDF(MlpSDF):
    """An MLP with softplus (beta 100), a ReLU with second derivatives."""

    def _activate(self, hidden: Tensor) -> Tensor:
        return F.softplus(hidden, beta=SOFTPLUS_BETA)


class GeometricSDF(SoftplusSDF):
    """IDR's SDF: softplus, the input skipped to the middle, weights that start near a sphere.

    The geometric initialisation (Atzmon and Lipman, SAL) makes the untrained network roughly
    |x| - 0.5: the norm of a wide random layer grows like |x|, and the last layer reads it off. An
    encoding's sines and cosines get zero weights so that only the point itself counts at first.
    """

    def _make_layer(self, index: int, in_features: int, out_features: int) -> nn.Linear:
        layer = nn.Linear(in_features, out_features)
        nn.init.zeros_(layer.bias)
        if index == len(self.sources) - 1:
            nn.init.normal_(layer.weight, math.sqrt(math.pi / in_features), 1e-4)
            nn.init.constant_(layer.bias, -INITIAL_RADIUS)
            return layer
        nn.init.normal_(layer.weight, 0.0, math.sqrt(2 / out_features))
        takes_encoding = index == 0 or self.sources[index] == (0,)
        if isinstance(self.encoding, FrequencyEncoding) and takes_encoding:
            with torch.no_grad():  # a skip appends the encoded point behind the hidden values
                layer.weight[:, in_features - self.encoded_features + 3:] = 0.0
        return layer

    def _append(self, hidden: Tensor, skipped: list[Tensor]) -> Tensor:
        return super()._append(hidden, skipped) / math.sqrt(2)


class AggregationMLP(nn.Module):
    """G: how much one source view's features count in a pixel of the target (paper, section 3.2).

    L_i = sigmoid(MLP(F_i, v_t)) with hidden layers of 32 ReLUs.
    """

    def __init__(self, num_features: int = 16, hidden_layers: int = 3,
                 hidden_dims: int = 32) -> None:
        super().__init__()
        self.num_features = num_features
        widths = [num_features + 3] + [hidden_dims] * (hidden_layers + 1) + [1]
        self.layers = nn.ModuleList(nn.Linear(*pair) for pair in zip(widths, widths[1:]))
        for layer in self.layers:
            nn.init.kaiming_uniform_(layer.weight, nonlinearity="relu")

    def weigh_all_alike(self) -> None:
        """Let all samples have one weight before training, as a factor of another weight needs."""
        nn.init.zeros_(self.layers[-1].weight)
        nn.init.zeros_(self.layers[-1].bias)

    def forward(self, features: Tensor, target_dirs: Tensor) -> Tensor:
        """Weights before normalisation over the sources.

        Args:
            features: (..., C) of a source view, sampled at the target's hits.
            target_dirs: (..., 3) unit directions of the target's rays, object space; leading
                dimensions may broadcast against those of the features.

        Returns:
            (...,) in (0, 1); differentiable in both inputs.

        Raises:
            ValueError: another number of features, or directions that are not three-dimensional.
        """
        if features.shape[-1] != self.num_features or target_dirs.shape[-1] != 3:
            raise ValueError(
                f"features are {tuple(features.shape)} and target_dirs {tuple(target_dirs.shape)}, "
                f"need (..., {self.num_features}) and (..., 3)")
        target_dirs = target_dirs.expand(*features.shape[:-1], 3)
        hidden = torch.cat([features, target_dirs], dim=-1)  # (..., C + 3)
        for layer in self.layers[:-1]:
            hidden = F.relu(layer(hidden))
        return torch.sigmoid(self.layers[-1](hidden)[..., 0])
