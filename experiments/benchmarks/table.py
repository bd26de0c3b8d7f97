"""The table of a benchmark."""

# Title, width, key in the row and format of each column.
COLUMNS = (
    ("tasks/s", 8, "tasks_per_s", ".1f"),
    ("ms", 8, "ms", ".1f"),
    ("10 %", 8, "ms_10_percent", ".1f"),
    ("90 %", 8, "ms_90_percent", ".1f"),
    ("cpu ms", 8, "cpu_ms", ".1f"),
    ("ours/it", 8, "ours_over_this", ".2f"),
    ("GFLOP/s", 8, "gflops_per_s", ".1f"),
    ("of peak", 8, "of_peak", ".1%"),
    ("first s", 8, "first_step_s", ".1f"),
    ("dev f64", 9, "float64_deviation", ".1e"),
    ("dev f32", 9, "float32_deviation", ".1e"),
    ("after 3", 9, "float32_deviation_after_3", ".1e"),
)
LEGEND = """\
tasks/s  tasks per second, from the median step
ms       the median step, then the 10th and 90th percentiles
cpu ms   time that all threads of the median step computed or spun
ours/it  tasks/s of keras_meta over those of the row, median over the rounds
GFLOP/s  operations of the convolutions and the dense layer per second, then
         as a fraction of the rate of the matrix product
first s  the first step, including tracing and compilation
dev f64  largest relative deviation of the checked losses from their median
         over the contenders, in float64
dev f32  the same for the first loss in float32, then for the loss after three
         Adam steps, when rounding errors have grown"""


def format_table(rows):
    """Returns the table of rows by name. A value may be a line of text."""
    width = max(map(len, rows)) + 1
    titles = "".join(f"{title:>{w}}" for title, w, _, _ in COLUMNS)
    lines = [" " * width + titles]
    for name, row in rows.items():
        if isinstance(row, str):
            cells = f" {row}"
        else:
            cells = "".join(
                f"{format(row[key], spec) if key in row else '-':>{w}}"
                for _, w, key, spec in COLUMNS
            )
        lines.append(f"{name:<{width}}{cells}")
    return "\n".join(lines)
