"""How much arithmetic a training asks for, and how long a device needs for it at the least. No torch.

Counted are the convolutions and the linear layer, two operations for a multiplication and its addition. A pass backward
costs as much as one forward for the gradient by what goes in, and as much again for that by the weights. The network is
a ResNet-18, and images count as 3 x 32 x 32 pixels of ten classes, whatever the data.
"""

from study.plan.config import Config

CHANNELS, SIZE, CLASSES = 3, 32, 10
PEAKS = {  # operations a second, in the precision of our training, without sparsity; from NVIDIA's data sheets
    "T4": 65e12,  # float16: it has no bfloat16
    "H200": 989e12,  # bfloat16
}


def multiply_adds(width: int) -> int:
    """Multiplications, each with an addition, of one image going forward."""
    total, incoming, pixels = CHANNELS * width * 9 * SIZE**2, width, SIZE**2
    for outgoing, stride in [(width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)]:
        pixels //= stride**2
        shortcut = incoming * outgoing if incoming != outgoing else 0
        total += pixels * (9 * (incoming + 3 * outgoing) * outgoing + shortcut)
        incoming = outgoing
    return total + incoming * CLASSES


def training(config: Config, images: int) -> float:
    """Operations that a training takes: the attacks, which need no gradient by the weights, then the updates."""
    crafting = 2 * config.train_steps if config.adversarial else 0  # a step: forward, and the gradient by the image
    learning = 3 * (2 if config.adversarial else 1)
    return 2 * multiply_adds(config.width) * images * config.epochs * (crafting + learning)


def parameters(width: int) -> int:
    """Weights and biases, with one batch norm a layer."""
    total, incoming = CHANNELS * width * 9 + 2 * width, width
    for outgoing in (width, 2 * width, 4 * width, 8 * width):
        shortcut = incoming * outgoing + 2 * outgoing if incoming != outgoing else 0
        total += 9 * (incoming + 3 * outgoing) * outgoing + 4 * 2 * outgoing + shortcut
        incoming = outgoing
    return total + incoming * CLASSES + CLASSES


def passes(config: Config) -> dict[str, int]:
    """Forward and backward passes of one batch that one training step takes: attack, then both halves."""
    crafting = config.train_steps if config.adversarial else 0
    learning = 2 if config.adversarial else 1
    return {"forward": crafting + learning, "backward": crafting + learning}
