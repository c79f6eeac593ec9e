"""What the papers print, beside what follows from their formulas, and why the two differ where they do."""

TABLE4_WHY = (
    "The paper does not print the sizes of its 150m models, nor the feed-forward width of those of the arithmetic task "
    "(aet): these are llmc's."
)
TABLE5 = {32: (1845, 7936), 64: (6795, 32256), 128: (24632, 130048)}  # layers -> (pruned, total)
TABLE5_WHY = (
    "The paper's total is H·L·(L−1), that of a padded array; the routers have H·Σ(r+1) weights: 4,216, 16,632 and "
    "66,040. Of those its pruned routes are 43.8, 40.9 and 37.3 %."
)
TABLE6 = {  # family -> (parameters in 10⁹, change in %, FLOPs in 10¹², change in %), as printed
    "llama": ("1.1767", "", "2.97", ""),
    "lime1-static": ("1.1768", "+0.008", "2.98", "+0.3"),
    "lime1-dynamic": ("1.1856", "+0.075", "3.01", "+1.3"),
    "hc": ("1.1771", "+0.030", "2.98", "+0.3"),
}
TABLE6_WHY = {
    "lime1-static": "+0.008 % is the difference of rounded numbers (1.1768 and 1.1767). The published code gives "
                    "2.9888 · 10¹² FLOPs; 2.98 would follow if a multiply-add of the mixture counted half.",
    "lime1-dynamic": "+0.075 % is off by ten.",
    "hc": "+0.030 % is the difference of rounded numbers.",
}  # fmt: skip
AET = {"llama": 0.413, "lime": 0.716}  # version 2's text, at six operands
AET_WHY = (
    "Whether the paper counts operands or operators, its batch size, its feed-forward width and whether one model "
    "learns all lengths are not published."
)
