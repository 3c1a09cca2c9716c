"""A mobile network with squeeze and excitation, as its users write it: depthwise convolutions, hard activations."""

from functools import partial

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.nn.modules.batchnorm import _BatchNorm


def make_divisible(v, divisor=4):
    return max(divisor, int(v + divisor / 2) // divisor * divisor)


class ConvBNActivation(nn.Sequential):
    def __init__(self, inside, outside, kernel=3, stride=1, groups=1, activation=None):
        activation = nn.ReLU6 if activation is None else activation
        super().__init__(
            nn.Conv2d(inside, outside, kernel, stride, (kernel - 1) // 2, groups=groups, bias=False),
            nn.BatchNorm2d(outside, eps=0.001, momentum=0.01),
            activation(inplace=True),
        )
        self.out_channels = outside


class SqueezeExcitation(nn.Module):
    def __init__(self, channels, factor=2):
        super().__init__()
        squeezed = make_divisible(channels // factor)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1, self.fc2 = nn.Conv2d(channels, squeezed, 1), nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.SiLU(inplace=True)

    def forward(self, input):
        scale = self.fc1(self.avgpool(input))
        return F.relu6(self.fc2(self.activation(scale)) + 3, inplace=True) / 6 * input


class InvertedResidual(nn.Module):
    def __init__(self, inside, expand, outside, kernel, stride, use_se, use_hs):
        super().__init__()
        self.use_res_connect = stride == 1 and inside == outside
        layers = []
        activation = nn.Hardswish if use_hs else partial(nn.LeakyReLU, 0.2)
        if expand != inside:
            layers.append(ConvBNActivation(inside, expand, 1, activation=activation))
        layers.append(ConvBNActivation(expand, expand, kernel, stride, expand, activation))
        if use_se:
            layers.append(SqueezeExcitation(expand))
        layers.append(ConvBNActivation(expand, outside, 1, activation=nn.Identity))
        self.block = nn.Sequential(*layers)

    def forward(self, x):
        return x + self.block(x) if self.use_res_connect else self.block(x)


class Net(nn.Module):
    def __init__(self, classes=3):
        super().__init__()
        rows = [(4, 8, 4, 3, 1, True, False), (4, 8, 6, 5, 2, False, True), (6, 12, 6, 3, 1, True, True)]
        features = [nn.ZeroPad2d((0, 1, 0, 1)), ConvBNActivation(1, 4, 3, 2, activation=nn.Hardswish)]
        features += [InvertedResidual(*row) for row in rows]
        self.features = nn.Sequential(*features)
        self.features.append(ConvBNActivation(6, 10, 1, activation=nn.Mish))
        self.classifier = nn.Sequential(nn.Linear(10, 8), nn.CELU(inplace=True), nn.Dropout(p=0.0, inplace=True))
        self.classifier += nn.Sequential(nn.Linear(8, classes), nn.Softplus())
        for m in self.modules():
            if isinstance(m, nn.Conv2d):
                nn.init.kaiming_normal_(m.weight, mode="fan_out")
                if m.bias is not None:
                    nn.init.zeros_(m.bias)
            elif isinstance(m, (_BatchNorm, nn.GroupNorm)):
                nn.init.ones_(m.weight)
                nn.init.zeros_(m.bias)
            elif isinstance(m, nn.Linear):
                nn.init.trunc_normal_(m.weight, 0, 0.5)
        assert len(self.features[2:5]) == 3 and self.get_submodule("features.2.block.2.fc1").out_channels == 4

    def forward(self, images, labels):
        x = self.features(images)
        x = torch.flatten(F.adaptive_avg_pool2d(x, (1, 1)), 1)
        scores = self.classifier(x)
        pull = nn.TripletMarginLoss(margin=0.5)(x[:1], x[1:2], x[2:3]) + F.margin_ranking_loss(
            scores[:, 0], scores[:, 1], torch.ones_like(scores[:, 0])
        )
        return scores, nn.CrossEntropyLoss(label_smoothing=0.1, ignore_index=2)(scores, labels) + 0.1 * pull


def make():
    return Net()


def inputs():
    images = torch.sin(torch.arange(4 * 121, dtype=torch.get_default_dtype()) * 0.53).reshape(4, 1, 11, 11)
    return images, torch.tensor([0, 2, 1, 1])
