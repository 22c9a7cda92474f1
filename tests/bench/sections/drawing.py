"""The curves as a picture: cost over what it grows with, both logarithmic, so that what is linear is a line of slope one."""

from measure import FLOOR
from sections.curves import TICK

PANELS = [
    ("groups", [(TICK, "cgrove", "a tick"), (TICK, FLOOR, "its bare preads"), ("settled reconcile", "cgrove", "every knob verified")]),
    ("processes", [("look at all processes", "cgrove", "a look at all"), ("look at all processes", FLOOR, "bare pass over /proc")]),
    (
        "groups in a document",
        [("parse a document", "cgrove", "reading it"), ("plan an empty node", "cgrove", "planning, empty node"), ("plan a settled node", "cgrove", "planning, settled node")],
    ),
]
COLOURS = ["#1a7f5a", "#8a8f98", "#c2571a"]


def draw(rows, path):
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "cgrove", "font.family": "sans-serif", "font.size": 9})
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(1, len(PANELS), figsize=(10.5, 3.4), layout="constrained")
    for axis, (title, lines) in zip(axes, PANELS):
        for (work, who, label), colour in zip(lines, COLOURS):
            points = sorted({r["count"]: r["median"] for r in rows if (r["work"], r["who"], r["unit"]) == (work, who, "ms")}.items())
            axis.loglog(*zip(*points), marker="o", markersize=3, linewidth=1.3, color=colour, label=label, linestyle="--" if who == FLOOR else "-")
        axis.set(xlabel=title, ylabel="ms of CPU time")
        axis.grid(True, which="major", linewidth=0.4, color="#d8dbe0")
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(frameon=False)
    figure.savefig(path, facecolor="white", metadata={"Date": None})
