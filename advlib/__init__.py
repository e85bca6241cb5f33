"""AdvProp, adversarial label smoothing and smooth adversarial training: the method of the paper, on torch alone.

In the order of the paper: ``norm`` (AdvProp), ``losses`` (ALS), ``activations`` (SAT), ``resnet`` (ResNet-18 with all
three), ``attacks`` (FGSM and PGD), ``train`` (Algorithm 1). What is made of them, runs and findings, is in ``study``.

Letters for shapes: B batch, C channels, H height, W width, K classes. Images are pixels in [0, 1], shape (B, C, H, W);
labels are int64, shape (B,).
"""

from advlib.activations import ParametricSoftplus, SurrogateReLU
from advlib.attacks import eval_mode, fgsm, first_success, pgd
from advlib.losses import als, als_targets, cross_entropy, label_smoothing
from advlib.norm import DualBatchNorm2d
from advlib.resnet import ResNet18, resnet18
from advlib.train import clean_step, craft, train_step, two_step_update

__all__ = [
    "DualBatchNorm2d",
    "ParametricSoftplus",
    "ResNet18",
    "SurrogateReLU",
    "als",
    "als_targets",
    "clean_step",
    "craft",
    "cross_entropy",
    "eval_mode",
    "fgsm",
    "first_success",
    "label_smoothing",
    "pgd",
    "resnet18",
    "train_step",
    "two_step_update",
]
