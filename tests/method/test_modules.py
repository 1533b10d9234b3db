"""Tests of modules.py."""
import math

import pytest
import torch
from support import golden_files

from modules import (
    ACTIVATIONS,
    SPHERE_ACTIVATIONS,
    AggregationMLP,
    PointEncoding,
    SdfArchitecture,
    SineLayer,
    parse_skips,
    start_as_sphere,
)
from modules_sdf import SirenSDF, build_sdf
from utils.checkpoints.released_names import read_release_names
from utils.errors import ConfigError
from utils.geometry.sdf import gradient

#: The release's outputs are float32 and may be summed in another order.
GOLDEN_TOLERANCE = 1e-5
SMALL = dict(hidden_dims=24, hidden_layers=2)


@pytest.fixture(autouse=True)
def seed():
    """Same random weights in every run."""
    torch.manual_seed(0)


def random_points(*shape, dtype=torch.float64):
    """Points of [-1, 1]^3."""
    return 2 * torch.rand(*shape, 3, dtype=dtype) - 1


def num_parameters(module):
    """Count of trained numbers."""
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_the_papers():
    assert num_parameters(build_sdf()) == 50_177
    assert num_parameters(build_sdf(SdfArchitecture(hidden_dims=256))) == 198_657
    assert num_parameters(AggregationMLP()) == 3_841


def test_siren_starts_within_the_published_bounds():
    layers = build_sdf().layers
    bounds = [1 / 3] + 4 * [math.sqrt(6 / 128) / 30]
    for layer, bound in zip(layers, bounds):
        largest = layer.weight.abs().max()
        # Of at least 128 uniform draws the largest lies below 90 % with a chance of 1e-6.
        assert 0.9 * bound < largest <= bound


def test_siren_is_sines_of_thirty_times_linear_layers():
    net = build_sdf(SdfArchitecture(**SMALL)).double()
    points = random_points(4, 5)
    hidden = points
    for layer in net.layers[:-1]:
        hidden = torch.sin(30 * (hidden @ layer.weight.T + layer.bias))
    expected = (hidden @ net.layers[-1].weight.T + net.layers[-1].bias)[..., 0]
    # The factor 30 is applied before the product here and after it there: rounding of float64.
    torch.testing.assert_close(net(points), expected, rtol=0, atol=1e-12)
    with torch.no_grad():
        torch.testing.assert_close(net(points), expected, rtol=0, atol=1e-12)


def test_closed_form_gradient_equals_automatic_one():
    net = build_sdf().double()
    points = random_points(7, 3)
    values, slopes = net.value_and_gradient(points)
    expected_values, expected_slopes = gradient(net, points)
    torch.testing.assert_close(values, expected_values, rtol=0, atol=1e-12)
    torch.testing.assert_close(slopes, expected_slopes, rtol=0, atol=1e-12)


def test_closed_form_trains_like_double_backward():
    net = build_sdf().double()
    points = random_points(50)

    def loss_gradients(values, slopes):
        loss = (slopes.norm(dim=-1) - 1).square().mean() + values.mean()
        return torch.autograd.grad(loss, tuple(net.parameters()))

    once = loss_gradients(*net.value_and_gradient(points))
    twice = loss_gradients(*gradient(net, points, create_graph=True))
    for first, second in zip(once, twice):
        # Float64; entries are up to about 1.
        torch.testing.assert_close(first, second, rtol=1e-9, atol=1e-11)


def test_closed_form_is_differentiable_in_points():
    net = build_sdf(SdfArchitecture(hidden_dims=6, hidden_layers=1)).double()
    assert torch.autograd.gradcheck(net.value_and_gradient, random_points(3).requires_grad_())


ARCHITECTURES = [
    *(SdfArchitecture(activation=name, **SMALL) for name in ACTIVATIONS[1:]),
    SdfArchitecture(skips=((0, 2),), **SMALL),
    SdfArchitecture(skips=((0, 1),), activation="softplus", **SMALL),
    SdfArchitecture(encoding=PointEncoding("nerf", 2), **SMALL),
    SdfArchitecture(encoding=PointEncoding("idr", 2), skips=((0, 3),), **SMALL),
    SdfArchitecture(encoding=PointEncoding("ff", 5, 0.5), **SMALL),
    SdfArchitecture(encoding=PointEncoding("idr", 3, exponential_bands=True), feature_vector=4,
                    activation="softplus", **SMALL),
    SdfArchitecture(hidden_layers=0, hidden_dims=8, feature_vector=2),
]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_every_architecture_has_the_gradient_of_finite_differences(architecture):
    net = build_sdf(architecture).double()
    points = random_points(2, 3)
    values, slopes = net.value_and_gradient(points)
    assert values.shape == (2, 3) and slopes.shape == (2, 3, 3)
    torch.testing.assert_close(values, net(points), rtol=0, atol=1e-12)
    step = 1e-6
    for axis in range(3):
        shift = step * torch.eye(3, dtype=torch.float64)[axis]
        difference = (net(points + shift) - net(points - shift)) / (2 * step)
        # Central differences are good to about step^2 times the third derivative (up to 1e6 for
        # a random sine layer) plus 1e-16 / step of rounding.
        torch.testing.assert_close(slopes[..., axis], difference, rtol=1e-4, atol=1e-5)
    slopes.square().sum().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in net.parameters()
               if parameter.grad is not None)


def test_a_skip_brings_its_layers_input_before_their_output():
    """The layers under it give so much less that the joined input is as wide as without a skip."""
    net = build_sdf(SdfArchitecture(skips=((0, 2),), activation="relu", **SMALL)).double()
    assert [(layer.in_features, layer.out_features) for layer in net.layers] == [
        (3, 24), (24, 21), (24, 24), (24, 1)]
    points = random_points(5)
    first, second, third, last = net.layers
    inner = torch.relu(second(torch.relu(first(points))))
    expected = last(torch.relu(third(torch.cat([points, inner], -1))))[..., 0]
    torch.testing.assert_close(net(points), expected, rtol=0, atol=1e-12)    # the same products


def test_a_skip_brings_the_encoded_point():
    net = build_sdf(SdfArchitecture(skips=((0, 3),), encoding=PointEncoding("nerf", 2), **SMALL))
    assert [(layer.in_features, layer.out_features) for layer in net.layers] == [
        (15, 24), (24, 24), (24, 9), (24, 1)]


@pytest.mark.parametrize("name, function", [
    ("relu", lambda x: x.clamp(min=0)), ("swish", lambda x: x / (1 + torch.exp(-x))),
    ("softplus", lambda x: torch.log1p(torch.exp(100 * x)) / 100),
    ("elu", lambda x: torch.where(x > 0, x, torch.exp(x) - 1)), ("tanh", torch.tanh),
    ("selu", lambda x: 1.0507009873554805 * torch.where(x > 0, x,
                                                        1.6732632423543772 * (torch.exp(x) - 1))),
    ("sigmoid", lambda x: 1 / (1 + torch.exp(-x)))])
def test_activations_are_their_formulas(name, function):
    net = build_sdf(SdfArchitecture(activation=name, hidden_dims=6, hidden_layers=1)).double()
    points = random_points(9)
    hidden = function(net.layers[1](function(net.layers[0](points))))
    # exp(100 x) - and with it rounding - is largest in softplus: 1e-16 of it, over 100
    torch.testing.assert_close(net(points), net.layers[2](hidden)[..., 0], rtol=0, atol=1e-10)


def test_skips_are_read_from_the_flag():
    assert parse_skips("0,2  1,3") == ((0, 2), (1, 3))
    assert parse_skips("") == parse_skips("none") == parse_skips("None") == ()


@pytest.mark.parametrize("text", ["0", "0,2;1,3", "0,2 x", "0,-1"])
def test_unreadable_skips_are_refused(text):
    with pytest.raises(ConfigError, match="model_skips_sdf"):
        parse_skips(text)


@pytest.mark.parametrize("activation", SPHERE_ACTIVATIONS)
@pytest.mark.parametrize("skips", [(), ((0, 2),), ((0, 4),)])
@pytest.mark.parametrize("encoding", [PointEncoding(), PointEncoding("nerf", 6),
                                      PointEncoding("ff", 8)])
def test_geometric_initialisation_is_roughly_a_sphere(encoding, skips, activation):
    net = build_sdf(SdfArchitecture(activation=activation, hidden_dims=256, encoding=encoding,
                                    skips=skips))
    start_as_sphere(net)
    points = random_points(500, dtype=torch.float32)
    with torch.no_grad():
        error = net(points) - (points.norm(dim=-1) - 0.5)
        # The initialisation is exact only for infinite width; at 256 errors stay near 0.1.
        assert error.abs().mean() < 0.2
        assert net(torch.zeros(1, 3)).item() < 0 and net(torch.eye(3)).min() > 0


def encoding_of(*values):
    """A network's encoding, in float64; pi is kept in float32."""
    return build_sdf(SdfArchitecture(encoding=PointEncoding(*values))).double().encoding


def test_encodings_are_their_formulas():
    """The release's, in its order; phases up to 4 pi are known to 1e-7 of themselves."""
    (x, y, z), pi = points = torch.tensor([0.3, -0.7, 0.9]).double(), math.pi
    waves = [f(2**k * pi * c) for k in range(2) for c in (x, y, z) for f in (torch.sin, torch.cos)]
    nerf = torch.cat([points[0], torch.stack(waves)])
    torch.testing.assert_close(encoding_of("nerf", 2)(points[0]), nerf, rtol=0, atol=2e-6)
    for is_exponential, bands in ((False, (2, 4, 6)), (True, (1, 2, 4))):
        parts = [points[0], *(f(n * pi * points[0]) for n in bands for f in (torch.sin, torch.cos))]
        found = encoding_of("idr", 3, 1.0, is_exponential)(points[0])
        torch.testing.assert_close(found, torch.cat(parts), rtol=0, atol=4e-6)
    fourier = encoding_of("ff", 4, 2.0)
    phases = torch.stack([(points[0] * fourier.matrix[:, k]).sum() for k in range(4)])
    torch.testing.assert_close(fourier(points[0]),
                               torch.cat([points[0], phases.sin(), phases.cos()]), rtol=0,
                               atol=1e-12)
    assert fourier.matrix.shape == (3, 4) and "matrix" in fourier.state_dict()


def test_encodings_without_a_number_of_bands():
    assert encoding_of("nerf", 0).out_features == 3 + 6 * 10
    points = random_points(2)
    for kind in ("idr", "ff"):
        torch.testing.assert_close(encoding_of(kind, 0)(points), points, rtol=0, atol=0)


def test_sigma_is_the_spread_of_fourier_features():
    matrix = build_sdf(SdfArchitecture(encoding=PointEncoding("ff", 2000, 3.0))).encoding.matrix
    # 6000 draws: the standard deviation is known to 1 %; 5 % is five times that.
    assert abs(matrix.std().item() / 3.0 - 1) < 0.05


def test_features_come_beside_the_same_distance():
    net = build_sdf(SdfArchitecture(feature_vector=5, **SMALL)).double()
    points = random_points(6)
    values, features = net.forward_with_features(points)
    assert features.shape == (6, 5)
    torch.testing.assert_close(values, net(points), rtol=0, atol=0)
    torch.testing.assert_close(net.value_and_gradient(points)[0], values, rtol=0, atol=1e-12)


@pytest.mark.parametrize("feature_vector", [-1, 0])
def test_features_are_refused_where_there_are_none(feature_vector):
    net = build_sdf(SdfArchitecture(feature_vector=feature_vector, **SMALL))
    with pytest.raises(ValueError, match="feature_vector > 0"):
        net.forward_with_features(torch.zeros(1, 3))


@pytest.mark.parametrize("options, text", [
    (dict(activation="cosine"), "model_activation_sdf is 'cosine'"),
    (dict(encoding=PointEncoding("hash", 4)), "posenc_sdf is 'hash'"),
    (dict(hidden_layers=-1), "model_hidden_layers_sdf is -1"),
    (dict(hidden_dims=0), "model_hidden_dims_sdf 0"),
    (dict(skips=((0, 5),)), r"pair \(0, 5\)"),
    (dict(skips=((2, 2),)), r"pair \(2, 2\)"),
    (dict(skips=((0, 1), (1, 2))), "2 pairs, need at most one"),
])
def test_impossible_architectures_are_refused_by_flag(options, text):
    with pytest.raises(ConfigError, match=text):
        SdfArchitecture(**options)


def test_a_skip_of_everything_is_refused():
    """What is said to be done is enough, and less is not."""
    with pytest.raises(ConfigError, match="1,2 leaves nothing of the 24 outputs of layer 1; begin "
                                          "the skip at layer 0$"):
        build_sdf(SdfArchitecture(skips=((1, 2),), **SMALL))
    wide = dict(skips=((0, 2),), encoding=PointEncoding("nerf", 2), hidden_layers=2)
    with pytest.raises(ConfigError, match="0,2 leaves nothing .*; give .* 16 or more$"):
        build_sdf(SdfArchitecture(hidden_dims=15, **wide))
    build_sdf(SdfArchitecture(hidden_dims=16, **wide))


def test_layers_are_readable_as_linear_ones():
    net = build_sdf()
    assert isinstance(net, SirenSDF)
    assert [isinstance(layer, SineLayer) for layer in net.layers] == [True] * 4 + [False]
    assert all(isinstance(layer, torch.nn.Linear) for layer in net.layers)
    assert net.layers[0].omega == 30.0


def test_aggregation_lies_between_zero_and_one_and_broadcasts_directions():
    net = AggregationMLP().double()
    features = torch.randn(3, 10, 16, dtype=torch.float64)
    directions = torch.nn.functional.normalize(random_points(10), dim=-1)
    weights = net(features, directions)
    assert weights.shape == (3, 10)
    assert 0 < weights.min() and weights.max() < 1 and weights.std() > 0
    one = net(features[1, 4], directions[4])
    torch.testing.assert_close(weights[1, 4], one, rtol=0, atol=1e-12)


def test_aggregation_depends_on_the_direction():
    net = AggregationMLP()
    features = torch.ones(16)
    assert net(features, torch.tensor([1.0, 0, 0])) != net(features, torch.tensor([0, 1.0, 0]))


@pytest.mark.parametrize("shapes", [((4, 15), (4, 3)), ((4, 16), (4, 2))])
def test_aggregation_refuses_other_widths(shapes):
    with pytest.raises(ValueError, match="need"):
        AggregationMLP()(*(torch.zeros(shape) for shape in shapes))


def load_release(network, module, state):
    """Fill one of our networks from the release's names."""
    names = read_release_names([key for key in state if "." in key]).networks[network]
    module.load_state_dict({own: state[key] for own, key in names.items()})
    return module


def test_excerpt_of_the_release_is_met():
    data = golden_files.excerpt()
    aggregation = load_release("aggregation", AggregationMLP(), data)
    weights = aggregation(data["inp"][:, :16], data["inp"][:, 16:])
    torch.testing.assert_close(weights, data["out"], rtol=0, atol=GOLDEN_TOLERANCE)
    values, slopes = load_release("sdf", build_sdf(), data).value_and_gradient(data["coords"])
    torch.testing.assert_close(values, data["sdf"], rtol=0, atol=GOLDEN_TOLERANCE)
    # Hidden weights of the excerpt have 16 bits: steps of 4e-7, about 3e-5 in the gradient.
    torch.testing.assert_close(slopes, data["grad"], rtol=0, atol=1e-4)


@golden_files.needs_golden
def test_release_sdf_and_its_gradient_are_met():
    data = golden_files.arrays("decoder_sdf")
    net = load_release("sdf", build_sdf(), golden_files.release_state())
    for values, slopes in (net.value_and_gradient(data["coords"]), gradient(net, data["coords"])):
        torch.testing.assert_close(values[..., None], data["sdf"], rtol=0, atol=GOLDEN_TOLERANCE)
        torch.testing.assert_close(slopes, data["grad"], rtol=0, atol=GOLDEN_TOLERANCE)


@golden_files.needs_golden
def test_release_aggregation_is_met():
    data = golden_files.arrays("agg_net")
    net = load_release("aggregation", AggregationMLP(), golden_files.release_state())
    weights = net(data["inp"][..., :16], data["inp"][..., 16:])
    torch.testing.assert_close(weights[..., None], data["out"], rtol=0, atol=GOLDEN_TOLERANCE)
