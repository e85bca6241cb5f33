"""The training step as it is commonly written, to be compared with: nothing in it is slow on purpose.

float32, a DataLoader whose workers crop and flip PIL images, torchattacks' PGD, one loss over both halves, which is
read at every step for the progress bar.
"""

import warnings
from itertools import cycle

import torch
from torch import nn

from benchmarks.race import Work


class _Pictures(torch.utils.data.Dataset):
    """Random images as CIFAR-10's data set of torchvision holds them: uint8 arrays, a PIL image at each access."""

    def __init__(self, count: int):
        from torchvision import transforms

        generator = torch.Generator().manual_seed(0)
        self.arrays = torch.randint(0, 256, (count, 32, 32, 3), dtype=torch.uint8, generator=generator).numpy()
        self.transform = transforms.Compose(
            [transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.arrays)

    def __getitem__(self, k: int):
        from PIL import Image

        return self.transform(Image.fromarray(self.arrays[k])), k % 10


def step(width: int, batch: int) -> Work:
    """One step of Algorithm 1 with PGD-2 on one batch norm, its batch from the loader."""
    warnings.simplefilter("ignore")
    from torchattacks import PGD

    from advlib.resnet import resnet18

    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(0)
    model = resnet18(width=width).to(device).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4)
    attack = PGD(model, eps=0.1, alpha=2 / 255, steps=2, random_start=False)
    loader = torch.utils.data.DataLoader(
        _Pictures(8 * batch), batch_size=batch, shuffle=True, num_workers=2, persistent_workers=True
    )
    batches = iter(cycle(loader))
    criterion = nn.CrossEntropyLoss()

    def one_step() -> None:
        x, y = (tensor.to(device) for tensor in next(batches))
        x_adv = attack(x, y)
        loss = criterion(torch.cat([model(x), model(x_adv)]), torch.cat([y, y]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        loss.item()

    return one_step
