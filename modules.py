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

ENCODINGS = ("none", "nerf", "idr", "ff")
#: Frequencies of the encoding `nerf` where no number is given (NeRF, section 5.1).
NERF_BANDS = 10


def _softplus(hidden: Tensor) -> Tensor:
    """Return a ReLU with second derivatives."""
    return F.softplus(hidden, beta=SOFTPLUS_BETA)


#: Activations but the sine: function, and the variance of weights times inputs that keeps the
#: spread of activations (2 for ReLU: He et al.; tanh and sigmoid: Glorot and Bengio).
ACTIVATION_FUNCTIONS = {"relu": (F.relu, 2.0), "softplus": (_softplus, 2.0), "swish": (F.silu, 2.0),
                        "elu": (F.elu, 1.55), "selu": (F.selu, 1.0), "tanh": (torch.tanh, 1.0),
                        "sigmoid": (torch.sigmoid, 1.0)}
ACTIVATIONS = ("sine", *ACTIVATION_FUNCTIONS)
#: Activations under which a random network can start as a sphere, see `start_as_sphere`.
SPHERE_ACTIVATIONS = ("relu", "softplus")


@dataclass(frozen=True)
class PointEncoding:
    """How points are encoded before the first layer, in the released code's order.

    Attributes:
        kind: none (the point x as it is), nerf (x; for each band and coordinate sin and cos of
            2^k pi x), idr (x; for each band sin and then cos of 2 (k + 1) pi x), or ff (x; sin and
            cos of B x with a random matrix B: Fourier features).
        num_bands: bands k = 0 .. num_bands - 1, or columns of B. 0 means 10 for nerf, none for the
            others.
        sigma: ff: standard deviation of B's entries, radians per object unit.
        exponential_bands: idr: the frequencies are 2^k pi instead.
    """

    kind: str = "none"
    num_bands: int = 0
    sigma: float = 1.0
    exponential_bands: bool = False


@dataclass(frozen=True)
class SdfArchitecture:
    """The shape of an SDF network: hidden_layers + 2 linear layers, numbered from 0.

    Attributes:
        activation: after all layers but the last, one of ACTIVATIONS; softplus has beta 100.
        hidden_layers: hidden-to-hidden layers.
        hidden_dims: width of the hidden layers.
        skips: at most one pair (i, j), i < j: the input of layer i comes before the output of
            layer j - 1, which is so much narrower that layer j is as wide as the others.
        feature_vector: outputs beside the signed distance; 0 and less: none.
        encoding: of the points.
    """

    activation: str = "sine"
    hidden_layers: int = 3
    hidden_dims: int = 128
    skips: tuple[tuple[int, int], ...] = ()
    feature_vector: int = -1
    encoding: PointEncoding = field(default_factory=PointEncoding)

    def __post_init__(self) -> None:
        """Check the values. Raises ConfigError naming the flag that sets the wrong one."""
        for flag, value, choices in (("model_activation_sdf", self.activation, ACTIVATIONS),
                                     ("posenc_sdf", self.encoding.kind, ENCODINGS)):
            if value not in choices:
                raise ConfigError(f"{flag} is {value!r}, need one of {', '.join(choices)}")
        if self.hidden_layers < 0 or self.hidden_dims < 1:
            raise ConfigError(
                f"model_hidden_layers_sdf is {self.hidden_layers} and model_hidden_dims_sdf "
                f"{self.hidden_dims}, need at least 0 and 1")
        if len(self.skips) > 1:
            raise ConfigError(f"model_skips_sdf has {len(self.skips)} pairs, need at most one: the "
                              "network has a single skip connection")
        last = self.hidden_layers + 1
        for pair in self.skips:
            if len(pair) != 2 or not 0 <= pair[0] < pair[1] <= last:
                raise ConfigError(f"model_skips_sdf has the pair {tuple(pair)}, need i,j with "
                                  f"0 <= i < j <= {last}, the number of the last layer")


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
    """The point, then sines and cosines of multiples of its coordinates (`PointEncoding`).

    Args:
        frequencies: (K,), radians per object unit.
        by_coordinate: whether sine and cosine of a coordinate stand side by side, as in NeRF, or
            all sines of a band come before its cosines, as in IDR.
    """

    def __init__(self, frequencies: Tensor, *, by_coordinate: bool) -> None:
        super().__init__()
        self.out_features = 3 + 6 * len(frequencies)
        self.by_coordinate = by_coordinate
        self.register_buffer("frequencies", frequencies, persistent=False)

    def forward(self, points: Tensor) -> Tensor:
        """points (..., 3) to (..., 3 + 6 K), the points first."""
        phases = self.frequencies[:, None] * points[..., None, :]      # (..., K, 3)
        waves = torch.stack([phases.sin(), phases.cos()], -1 if self.by_coordinate else -2)
        return torch.cat([points, waves.flatten(-3)], dim=-1)


class FourierFeatures(nn.Module):
    """(x, sin(x B), cos(x B)) with a random (3, K) matrix B that is saved, not trained."""

    def __init__(self, num_bands: int, sigma: float) -> None:
        super().__init__()
        self.out_features = 3 + 2 * num_bands
        self.register_buffer("matrix", sigma * torch.randn(3, num_bands))

    def forward(self, points: Tensor) -> Tensor:
        """points (..., 3) to (..., 3 + 2 K)."""
        phases = points @ self.matrix
        return torch.cat([points, phases.sin(), phases.cos()], dim=-1)


def _build_encoding(encoding: PointEncoding) -> nn.Module | None:
    """The encoding's module with its `out_features`, or None where points pass unchanged."""
    if encoding.kind == "none":
        return None
    if encoding.kind == "ff":
        return FourierFeatures(encoding.num_bands, encoding.sigma)
    is_nerf = encoding.kind == "nerf"
    bands = torch.arange(encoding.num_bands or (NERF_BANDS if is_nerf else 0))
    is_exponential = is_nerf or encoding.exponential_bands
    frequencies = math.pi * (2.0 ** bands if is_exponential else 2.0 * (bands + 1))
    return FrequencyEncoding(frequencies, by_coordinate=is_nerf)


class MlpSDF(nn.Module):
    """An SDF as a multi-layer perceptron, with any activation but the sine (`SirenSDF`).

    Attributes:
        layers: the linear layers, first to last (`nn.Linear` or its child `SineLayer`).
        num_features: outputs beside the signed distance.
        skip: (i, j), the input of layer i comes before the output of layer j - 1; None: no skip.
        is_chain: True where no encoding and no skip breaks the chain of layers.
    """

    def __init__(self, architecture: SdfArchitecture) -> None:
        super().__init__()
        self.activation = architecture.activation
        self.num_features = max(architecture.feature_vector, 0)
        self.is_chain = not architecture.skips and architecture.encoding.kind == "none"
        self.encoding = _build_encoding(architecture.encoding)
        self.skip = architecture.skips[0] if architecture.skips else None
        hidden, last = architecture.hidden_dims, architecture.hidden_layers + 1
        layers = []
        for index in range(last + 1):
            in_features = hidden if index else self.encoded_features
            out_features = hidden if index < last else 1 + self.num_features
            if self.skip and index == self.skip[1] - 1:
                out_features -= hidden if self.skip[0] else self.encoded_features
            if out_features < 1:
                start, end = architecture.skips[0]
                cure = "begin the skip at layer 0" if start else \
                    f"give --model_hidden_dims_sdf {self.encoded_features + 1} or more"
                raise ConfigError(f"model_skips_sdf {start},{end} leaves nothing of the {hidden} "
                                  f"outputs of layer {index}; {cure}")
            layers.append(self._make_layer(index, in_features, out_features, index == last))
        self.layers = nn.ModuleList(layers)

    @property
    def encoded_features(self) -> int:
        """Width of an encoded point."""
        return 3 if self.encoding is None else self.encoding.out_features

    def _make_layer(self, index: int, in_features: int, out_features: int,
                    is_last: bool) -> nn.Linear:
        """Layer `index`, initialised so that activations keep their spread."""
        layer = nn.Linear(in_features, out_features)
        _, gain = ACTIVATION_FUNCTIONS[self.activation]
        bound = math.sqrt(3 * gain / in_features)      # a uniform draw has the variance bound^2 / 3
        nn.init.uniform_(layer.weight, -bound, bound)
        return layer

    def _activate(self, hidden: Tensor) -> Tensor:
        """What follows each layer but the last."""
        return ACTIVATION_FUNCTIONS[self.activation][0](hidden)

    def _outputs(self, points: Tensor) -> Tensor:
        """points (..., 3) to all outputs (..., 1 + features)."""
        hidden = points if self.encoding is None else self.encoding(points)
        kept = hidden
        for index, layer in enumerate(self.layers):
            if self.skip and index == self.skip[1]:
                hidden = torch.cat([kept, hidden], dim=-1)
            if self.skip and index == self.skip[0]:
                kept = hidden
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


def start_as_sphere(sdf: MlpSDF) -> None:
    """Let an SDF network of ReLU or softplus begin as roughly |x| - 0.5, in place.

    The geometric initialisation (Atzmon and Lipman, SAL): the norm of a wide random layer grows
    like |x|, and the last layer reads it off. Sines and cosines of an encoding get zero weights, so
    that the point itself counts alone; behind a skip the point comes in once more, hence the
    factor 1/2 on the variance there.

    Raises:
        ConfigError: the activation is another one.
    """
    if sdf.activation not in SPHERE_ACTIVATIONS:
        raise ConfigError(f"model_activation_sdf is {sdf.activation}, need one of "
                          f"{', '.join(SPHERE_ACTIVATIONS)} to start as a sphere without a fit")
    start, joined = sdf.skip or (-1, -1)
    for index, layer in enumerate(sdf.layers):
        takes_encoding = index == 0 or (index == joined and start == 0)
        nn.init.zeros_(layer.bias)
        if index == len(sdf.layers) - 1:
            nn.init.normal_(layer.weight, math.sqrt(math.pi / layer.in_features), 1e-4)
            nn.init.constant_(layer.bias, -INITIAL_RADIUS)
            first_column = 0           # the norm is read off activations, not off coordinates
        else:
            variance = (1 if index == joined else 2) / layer.out_features
            nn.init.normal_(layer.weight, 0.0, math.sqrt(variance))
            first_column = 3
        if takes_encoding:
            with torch.no_grad():
                layer.weight[:, first_column:sdf.encoded_features] = 0.0


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
