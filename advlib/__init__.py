"""Mixture of techniques: AdvProp, ALS and SAT on CIFAR-10, as a small package that reads like the paper.

Read it in this order::

    config       one experiment as one frozen, validated dataclass
    catalogue    the paper's rows, as differences from a baseline
    norm         the second batch norm (AdvProp, section "AdvProp")
    activations  the surrogate gradient (SAT, equations 1 and 2)
    resnet       ResNet-18 for small images
    losses       cross-entropy and adversarial label smoothing (ALS)
    attacks      FGSM and PGD
    train        Algorithm 1, and the update of the paper's released code
    evaluate     the attack suite every trained model goes through
    records      what a run leaves behind
    run          Config -> Record, the only module that maps names to objects

Letters for shapes: B batch, C channels, H height, W width, K classes. Images are pixels in [0, 1], shape (B, C, H, W);
labels are int64, shape (B,). ``import advlib`` imports nothing else: take what you need from the modules.
"""

__version__ = "0.1.0"
