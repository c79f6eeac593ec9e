"""The picture of a benchmark: how much of the machine's peak every job reaches, and how it does beside its peer."""

from llmc.show import picture
from llmc.show.colours import COOL, GREY, INK, WARM

ROW = 0.27  # inches


def plot(report, path):
    """Draw the results of a Report that were measured; the picture at `path` appears whole, as `picture.save` says."""
    picture.ending(path)
    results = [result for result in report.results if result.seconds is not None]
    figure, axes = picture.chart(10, 1.5 + ROW * max(len(results), 3), lines="x")
    shares = [100 * result.fraction for result in results]
    colours = [COOL if result.bound == "arithmetic" else WARM for result in results]
    axes.barh(range(len(results)), shares, color=colours, height=0.72)
    for row, (result, share) in enumerate(zip(results, shares)):
        beside = f"   {result.beside['ratio']:.2f} × {result.beside['label']}" if result.beside else ""
        axes.text(share + 0.8, row, f"{share:.0f} %{beside}", va="center", color=INK, fontsize=8.5)
    axes.set_yticks(range(len(results)), [result.name for result in results], fontsize=8.5, color=INK)
    axes.set_ylim(len(results) - 0.4, -0.6)
    axes.set_xlim(0, max([100, *shares]) * 1.3)
    axes.set_xticks(range(0, 101, 20), [f"{share} %" for share in range(0, 101, 20)], color=GREY, fontsize=8.5)
    axes.set_title("share of the machine's own peak: of arithmetic (blue), of memory bandwidth (orange)", loc="left",
                   color=INK, fontsize=11, pad=28)  # fmt: skip
    words = f"{report.title()}\n{report.company()}".rstrip()
    axes.text(0, 1.0, words, transform=axes.transAxes, va="bottom", color=GREY, fontsize=7.5)
    picture.save(figure, path)
