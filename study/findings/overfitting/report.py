"""Watched trainings as they are read: a figure with its words, and a table. No torch."""

from collections.abc import Sequence

from matplotlib.figure import Figure

from study.findings.overfitting import judge
from study.findings.overfitting.judge import Watched
from study.presentation import markup
from study.presentation.figures import PALETTE, style
from study.presentation.marks import band, grid, legend
from study.presentation.markup import counts, element, row, table
from study.presentation.words import Words, network, percent
from study.records import Record

SAYS = {
    judge.OVERFITS: "overfits: epochs {epochs}",
    judge.RECOVERS: "recovers: overfitted in epochs {epochs}",
    judge.SPARED: "spared",
}


def by_epoch(found: Sequence[tuple[Record, Watched]]) -> Figure:
    """A panel a network: accuracy in percent after every epoch under the training's attack, one step and ten."""
    with style():
        figure, panels = grid(len(found), min(4, len(found)), 2.45, 2.1)
        for panel, (record, watched) in zip(panels, found, strict=True):
            _training(panel, record, watched)
        figure.supxlabel("epoch", fontsize=10)
        figure.supylabel("accuracy, %", fontsize=10)
        legend(figure, 3, "outside upper center")
    return figure


def by_epoch_words(found: Sequence[tuple[Record, Watched]]) -> Words:
    """``found``: as :func:`judge.collect` has it."""
    sentences = []
    for record, seen in found:
        rates = ", ".join(percent(seen.accuracy(judge.MANY, k + 1)) for k in range(len(seen.epochs)))
        name = f"{_name(record)}, {judge.verdict(seen, record)}"
        sentences.append(f"{name}: {seen.epochs[0][-1].column.replace('pgd-10-', 'PGD-10 ')} {rates}.")
    images = counts(sorted({seen.images for _, seen in found}))
    record, _ = found[0]
    return {
        "caption": "Accuracy after every epoch: under the attack of the training, on training images, and under FGSM "
        f"and PGD-10 of the largest size within its reach, on the first {images} test images, with 95 % intervals for "
        f"these. AdvProp through its auxiliary branch. Budget {record.budget}, {record.data['title']}, one training a "
        "panel.",
        "alt": f"Line charts, one a network, of accuracy by epoch. {' '.join(sentences)}",
    }


def summary(found: Sequence[tuple[Record, Watched]]) -> str:
    """A line a network, HTML: after its best epoch and its last, and the verdict; empty if none was watched."""
    body = []
    for record, watched in found:
        last = len(watched.epochs)
        best = max(range(1, last + 1), key=lambda epoch: watched.accuracy(judge.MANY, epoch).value)
        cells = [
            f"{judge.size(record.as_config())}/255",
            f"{100 * record.curve[-1]['adversarial_accuracy']:.1f}",
            *(markup.accuracy(watched.accuracy(method, last)) for method in (judge.ONE, judge.MANY)),
            markup.accuracy(watched.accuracy(judge.MANY, best)) + " " + element("small", f"epoch {best}"),
            SAYS[judge.verdict(watched, record)].format(epochs=", ".join(map(str, judge.overfitted(watched, record)))),
        ]
        body.append(row(_name(record), [*cells, markup.links([record])]))
    if not body:
        return ""
    return table(
        ["Method", "ε", "Attack of the training", "FGSM", "PGD-10", "PGD-10 at its best", "", "Run"],
        body,
        "After the last epoch, and under PGD-10 after the best one: accuracies in percent, with 95 % intervals for the "
        "test images; the attack of the training on training images. AdvProp through its auxiliary branch.",
    )


def _training(panel, record: Record, watched: Watched) -> None:
    """One network's accuracies, epoch by epoch."""
    epochs = range(1, len(watched.epochs) + 1)
    training = [100 * line["adversarial_accuracy"] for line in record.curve]
    panel.plot(epochs, training, color="black", ls="--", lw=1.5, label="attack of the training")
    for method, colour, marker in ((judge.ONE, PALETTE[1], "s"), (judge.MANY, PALETTE[0], "o")):
        seen = [watched.accuracy(method, epoch) for epoch in epochs]
        band(panel, epochs, seen, colour, marker=marker, label=judge.HEADINGS[method])
    title = _name(record).replace(f", {record.protocol}", f"\n{record.protocol}")
    panel.set_title(f"{title}, ε = {judge.size(record.as_config())}/255", fontsize=8)
    panel.set(ylim=(0, 100))
    panel.xaxis.get_major_locator().set_params(integer=True)


def _name(record: Record) -> str:
    return network(record.key, record.protocol, record.seed)
