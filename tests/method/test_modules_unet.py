"""Tests of modules_unet.py."""
import pytest
import torch
import torch.nn.functional as F
from support import golden_files
from torch import nn

from modules_unet import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    BasicBlock,
    FeatureDecoder,
    ImageEncoder,
    PartialConv2d,
    PlainDown,
    ResNetTrunk,
    load_resnet_weights,
)
from utils.checkpoints.released_names import read_release_names
from utils.errors import CheckpointError, ConfigError

#: The release's outputs are float32 and may be summed in another order.
GOLDEN_TOLERANCE = 1e-5


@pytest.fixture(autouse=True)
def seed():
    """Same random weights in every run."""
    torch.manual_seed(0)


def num_parameters(module):
    """Count of trained numbers."""
    return sum(parameter.numel() for parameter in module.parameters())


def test_parameter_counts_are_the_papers():
    shortcut = 64 * 128 + 2 * 128  # the 1x1 convolution and its norm, in layer2 only
    assert num_parameters(ImageEncoder(kind="plain")) == 941_072
    assert num_parameters(ImageEncoder(kind="residual")) == 941_072 + shortcut
    assert num_parameters(FeatureDecoder()) == 1_977_219


@pytest.mark.parametrize("kind", ["residual", "plain"])
@pytest.mark.parametrize("size", [(48, 64), (37, 53), (16, 16), (1, 1)])
def test_any_size_comes_back(size, kind):
    images = 2 * torch.rand(2, 3, *size) - 1
    encoder, decoder = ImageEncoder(kind=kind).eval(), FeatureDecoder()
    features = encoder(images)
    assert features.shape == (2, 16, *size)
    pictures = decoder(features)
    assert pictures.shape == (2, 3, *size)
    pictures.square().mean().backward()
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        assert torch.isfinite(parameter.grad).all()


@pytest.mark.parametrize("depth", range(1, 6))
def test_every_depth_and_number_of_features(depth):
    encoder = ImageEncoder(5, depth)
    assert len(encoder.ups) == depth and len(encoder.skips) == depth + 1
    assert encoder(torch.zeros(2, 3, 20, 33)).shape == (2, 5, 20, 33)


def test_levels_of_the_trunk_are_halves():
    levels = ResNetTrunk(3, residual=True)(torch.zeros(2, 3, 37, 53))
    assert [tuple(level.shape[1:]) for level in levels] == [
        (3, 37, 53), (64, 19, 27), (64, 10, 14), (128, 5, 7)]


def test_pooling_of_odd_sides_averages_what_exists():
    down = PlainDown(4, "standard")
    down.stages = nn.ModuleList(nn.Identity() for _ in range(3))
    rows = torch.arange(5.0).reshape(1, 1, 5, 1)
    assert [level.flatten().tolist() for level in down(rows)] == [
        [0, 1, 2, 3, 4], [0.5, 2.5, 4], [1.5, 4]]


@pytest.mark.parametrize("size", [(17, 25), (24, 16)])
def test_features_stay_where_they_are_in_the_image(size):
    """Coarse levels keep their place: the answer to a lone bright pixel is centred on it."""
    decoder = FeatureDecoder(1)
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.fill_(1 / parameter[0].numel() if parameter.ndim == 4 else 0.0)
        decoder.skips[0].weight.zero_()  # coarse levels alone
        centre = torch.tensor([size[0] // 2, size[1] // 2])
        image = torch.zeros(1, 1, *size)
        image[0, 0, centre[0], centre[1]] = 1.0
        answer = decoder(image)[0, 0]
    rows, columns = torch.meshgrid(*(torch.arange(float(side)) for side in size), indexing="ij")
    total = answer.sum()
    found = torch.stack([(answer * rows).sum(), (answer * columns).sum()]) / total
    # Pooled cells lie half a pixel off on each of two levels (0.5 + 1), corners are kept fixed.
    assert (found - centre).abs().max() < 1.6


def convolve(state, name, inputs, *, stride=1):
    """A convolution that is stored under a name, as the release numbers them."""
    weight = state[f"{name}.weight"]
    return F.conv2d(inputs, weight, state.get(f"{name}.bias"), stride, weight.shape[-1] // 2)


def climb(state, ups, hidden, *, skipped):
    """Up path of the release: double the size, join, convolve."""
    for names, skip in zip(ups, skipped, strict=True):
        hidden = F.interpolate(hidden, scale_factor=2, mode="bilinear", align_corners=True)
        hidden = torch.cat([hidden, skip], dim=1)
        for name in names:
            hidden = convolve(state, name, hidden).relu()
    return hidden


def test_plain_encoder_equals_its_obvious_twin():
    """METHOD's table of E, line by line, in float64; running statistics are 0 and 1."""
    encoder = ImageEncoder(kind="plain").double().eval()
    state, images = encoder.state_dict(), 2 * torch.rand(1, 3, 16, 24, dtype=torch.float64) - 1
    mean, std = (torch.tensor(c).reshape(1, 3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    image = ((images + 1) / 2 - mean) / std
    norm = (1 + 1e-5) ** -0.5
    hidden = (convolve(state, "down.conv1", image, stride=2) * norm).relu()
    levels = [hidden]
    hidden = F.max_pool2d(hidden, 3, 2, 1)
    for layer in (1, 2):
        for block in (0, 1):
            name, stride = f"down.layer{layer}.{block}", 2 if (layer, block) == (2, 0) else 1
            hidden = (convolve(state, f"{name}.conv1", hidden, stride=stride) * norm).relu()
            hidden = convolve(state, f"{name}.conv2", hidden) * norm
        levels.append(hidden)
    skipped = [convolve(state, f"skips.{i + 1}.0", level).relu() for i, level in enumerate(levels)]
    full = convolve(state, "skips.0.2", convolve(state, "skips.0.0", image).relu()).relu()
    expected = climb(state, [[f"ups.{i}.0"] for i in range(3)], skipped.pop(),
                     skipped=[skipped[1], skipped[0], full])
    # The mean and spread are float32 here and there: 1e-7 of inputs up to 3.
    torch.testing.assert_close(encoder(images), expected, rtol=0, atol=1e-6)


def test_decoder_equals_its_obvious_twin():
    """METHOD's table of D, line by line."""
    decoder = FeatureDecoder().double()
    state, features = decoder.state_dict(), torch.randn(1, 16, 12, 16, dtype=torch.float64)
    hidden, skipped = features, []
    for stage in range(3):
        hidden = F.avg_pool2d(hidden, 2) if stage else hidden
        for index in (0, 2):
            hidden = convolve(state, f"down.stages.{stage}.{index}", hidden).relu()
        skipped.append(convolve(state, f"skips.{stage}", hidden))
    ups = [[f"ups.{i}.0", f"ups.{i}.2"] for i in range(2)]
    hidden = climb(state, ups, skipped[2], skipped=[skipped[1], skipped[0]])
    torch.testing.assert_close(decoder(features), convolve(state, "out", hidden), rtol=0,
                               atol=1e-12)


def test_trunk_gets_the_normalisation_of_imagenet():
    encoder = ImageEncoder(depth=1)
    seen = []
    encoder.down.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    image = (2 * (mean + std) - 1).reshape(1, 3, 1, 1).expand(1, 3, 8, 8)
    encoder.eval()(image)
    torch.testing.assert_close(seen[0], torch.ones(1, 3, 8, 8), rtol=0, atol=1e-5)
    assert not {"mean", "std"} & set(encoder.state_dict())


def test_residual_block_adds_its_input_and_plain_does_not():
    inputs = torch.randn(2, 4, 6, 6)
    residual = BasicBlock(4, 4, stride=1, residual=True)
    plain = BasicBlock(4, 4, stride=1, residual=False)
    plain.load_state_dict(residual.state_dict())
    torch.testing.assert_close(residual(inputs), (plain(inputs) + inputs).relu())
    assert plain(inputs).min() < 0
    shortcut = BasicBlock(4, 8, stride=2, residual=True)
    nn.init.zeros_(shortcut.bn2.weight)
    torch.testing.assert_close(shortcut(inputs), shortcut.downsample(inputs).relu())
    assert BasicBlock(4, 8, stride=2, residual=False).downsample is None


def test_norms_use_the_batch_in_training_and_running_statistics_at_evaluation():
    encoder = ImageEncoder(depth=2)
    first, second = torch.rand(2, 1, 3, 16, 16)
    alone = encoder(first)
    together = encoder(torch.cat([first, second]))[:1]
    assert (alone - together).abs().max() > 1e-3
    encoder.eval()
    # Another batch size may choose another convolution algorithm: float32 rounding.
    torch.testing.assert_close(encoder(first), encoder(torch.cat([first, second]))[:1], rtol=0,
                               atol=1e-5)


def test_channels_last_gives_the_same():
    encoder, decoder = ImageEncoder().eval(), FeatureDecoder()
    images = torch.rand(2, 3, 21, 30)
    expected = decoder(encoder(images))
    for module in (encoder, decoder):
        module.to(memory_format=torch.channels_last)
    features = encoder(images.contiguous(memory_format=torch.channels_last))
    assert features.is_contiguous(memory_format=torch.channels_last)
    # Sums in another order: float32 rounding.
    torch.testing.assert_close(decoder(features), expected, rtol=0, atol=1e-5)


def naive_partial(inputs, weight):
    """Partial convolution of (C, H, W), pixel by pixel."""
    size, (_, height, width) = weight.shape[-1], inputs.shape
    outputs = torch.zeros(weight.shape[0], height, width)
    for row in range(height):
        for column in range(width):
            total, valid = torch.zeros(weight.shape[0]), 0
            for y in range(size):
                for x in range(size):
                    i, j = row + y - size // 2, column + x - size // 2
                    if 0 <= i < height and 0 <= j < width and inputs[:, i, j].any():
                        total += weight[:, :, y, x] @ inputs[:, i, j]
                        valid += 1
            if valid:
                outputs[:, row, column] = total * size**2 / valid
    return outputs


@pytest.mark.parametrize("kernel_size", [1, 3])
def test_partial_convolution_equals_its_slow_twin(kernel_size):
    layer = PartialConv2d(2, 3, kernel_size)
    inputs = torch.randn(1, 2, 6, 7) * (torch.rand(1, 1, 6, 7) > 0.6)
    with torch.no_grad():
        expected = naive_partial(inputs[0], layer.weight)
        torch.testing.assert_close(layer(inputs)[0], expected, rtol=1e-5, atol=1e-5)


def test_partial_networks_have_no_bias_and_finite_gradients():
    encoder, decoder = ImageEncoder(convolution="partial"), FeatureDecoder(convolution="partial")
    assert [name for name, _ in decoder.named_parameters() if "bias" in name] == ["out.bias"]
    features = encoder(torch.rand(1, 3, 24, 24))
    visible_mask = torch.rand(1, 1, 24, 24) > 0.5
    decoder(features * visible_mask).square().sum().backward()
    for parameter in (*encoder.parameters(), *decoder.parameters()):
        assert torch.isfinite(parameter.grad).all()


def test_meta_convolutions_are_standard_ones():
    torch.manual_seed(3)
    expected = FeatureDecoder().state_dict()
    torch.manual_seed(3)
    state = FeatureDecoder(convolution="meta").state_dict()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


@pytest.mark.parametrize("make, text", [
    (lambda: ImageEncoder(kind="vgg"), "image_encoder is 'vgg'"),
    (lambda: ImageEncoder(depth=0), "model_image_encoder_depth is 0"),
    (lambda: ImageEncoder(depth=6), "model_image_encoder_depth is 6"),
    (lambda: ImageEncoder(convolution="gated"), "convolution_type is 'gated'"),
    (lambda: FeatureDecoder(convolution="gated"), "convolution_type is 'gated'"),
])
def test_options_that_do_not_exist_are_refused_by_flag(make, text):
    with pytest.raises(ConfigError, match=text):
        make()


def test_inputs_of_another_shape_are_refused():
    with pytest.raises(ValueError, match=r"\(1, 4, 8, 8\)"):
        ImageEncoder()(torch.zeros(1, 4, 8, 8))
    with pytest.raises(ValueError, match=r"\(16, 8, 8\)"):
        FeatureDecoder()(torch.zeros(16, 8, 8))


def resnet_state():
    """A state dict with the names of torchvision's resnet18, random weights."""
    return {**ResNetTrunk(5, residual=True).state_dict(), "fc.weight": torch.zeros(1000, 512),
            "fc.bias": torch.zeros(1000)}


@pytest.mark.parametrize("kind", ["residual", "plain"])
def test_resnet_file_fills_the_trunk(tmp_path, kind):
    state = resnet_state()
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    encoder = ImageEncoder(kind=kind)
    load_resnet_weights(encoder, path)
    assert all(torch.equal(value, state[key]) for key, value in encoder.down.state_dict().items())


def test_resnet_file_may_lack_batch_counts(tmp_path):
    path = tmp_path / "resnet18.pth"
    state = {key: value for key, value in resnet_state().items() if "num_batches" not in key}
    torch.save(state, path)
    encoder = ImageEncoder()
    load_resnet_weights(encoder, path)
    assert torch.equal(encoder.down.conv1.weight, state["conv1.weight"])


def test_resnet_file_that_lacks_weights_is_refused_and_changes_nothing(tmp_path):
    state = resnet_state()
    del state["layer1.0.conv2.weight"]
    state["bn1.bias"] = torch.zeros(3)
    path = tmp_path / "resnet18.pth"
    torch.save(state, path)
    encoder = ImageEncoder()
    before = {key: value.clone() for key, value in encoder.state_dict().items()}
    with pytest.raises(CheckpointError, match="bn1.bias, layer1.0.conv2.weight"):
        load_resnet_weights(encoder, path)
    assert all(torch.equal(value, before[key]) for key, value in encoder.state_dict().items())


@pytest.mark.parametrize("content", [b"no checkpoint", b""])
def test_resnet_file_that_is_no_checkpoint_is_refused(tmp_path, content):
    path = tmp_path / "resnet18.pth"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="resnet18.pth"):
        load_resnet_weights(ImageEncoder(depth=1), path)


@pytest.mark.parametrize("content", [torch.zeros(3), {"conv1.weight": "text"}])
def test_resnet_file_with_other_content_is_refused(tmp_path, content):
    path = tmp_path / "resnet18.pth"
    torch.save(content, path)
    with pytest.raises(CheckpointError, match="resnet18.pth"):
        load_resnet_weights(ImageEncoder(depth=1), path)


def load_release(network, module):
    """Fill one of our networks from the release's file."""
    state = golden_files.release_state()
    names = read_release_names(state).networks[network]
    module.load_state_dict({own: state[key] for own, key in names.items()})
    return module, names


@golden_files.needs_golden
def test_release_decoder_is_met():
    data = golden_files.arrays("dec_net")
    decoder, _ = load_release("decoder", FeatureDecoder())
    torch.testing.assert_close(decoder(data["features"]), data["out"], rtol=0,
                               atol=GOLDEN_TOLERANCE)


@golden_files.needs_golden
def test_release_encoder_and_its_statistics_are_met():
    data = golden_files.arrays("enc_net")
    encoder, names = load_release("encoder", ImageEncoder(kind="plain"))
    torch.testing.assert_close(encoder.eval()(data["image_m11"]), data["out_eval"], rtol=0,
                               atol=GOLDEN_TOLERANCE)
    torch.testing.assert_close(encoder.train()(data["image_m11"]), data["out_train"], rtol=0,
                               atol=GOLDEN_TOLERANCE)
    state = encoder.state_dict()
    checked = [own for own, key in names.items() if f"after_train.{key}" in data]
    assert len(checked) == 18  # mean and variance of nine norms
    for own in checked:
        torch.testing.assert_close(state[own], data[f"after_train.{names[own]}"], rtol=0,
                                   atol=GOLDEN_TOLERANCE)
