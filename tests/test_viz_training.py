"""Training pictures: the numbers in them are the run's, from memory or from files that are still being written."""

from __future__ import annotations

import csv
import re
import subprocess
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.testing import assert_allclose

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import models, nn, optim, train, viz
from tinyattn.viz.training import read_rows

METRICS = """epoch,train_loss,train_accuracy,test_accuracy,lr,note
1,0.5,0.8,0.85,0.001,warm
2,0.25,0.9,,0.001,
3,0.125,0.95,0.97,0.0005,cold
"""


@pytest.fixture
def metrics(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text(METRICS)
    return path


def lines(axes):
    """Label -> (x, y) of every curve."""
    return {line.get_label(): (line.get_xdata(), line.get_ydata()) for line in axes.get_lines()}


# --- curves ---


def test_curves_figure_draws_the_numbers_of_the_file(metrics):
    loss, accuracy = viz.curves_figure(metrics, "a run").axes
    x, y = lines(loss)["training, 0.1250 at the end"]
    assert list(x) == [1, 2, 3] and list(y) == [0.5, 0.25, 0.125] and loss.get_yscale() == "log"
    drawn = lines(accuracy)
    assert_allclose(drawn["training, 95.00 % at the end"][1], [80, 90, 95])
    assert_allclose(drawn["test, 97.00 % at the end"][1], [85, np.nan, 97])
    assert loss.get_xlabel() == "epoch"


@pytest.mark.parametrize(("first", "last"), [(0.4, 0.02), (2.3, 0.6), (0.5, 0.3), (2.3, 0.0004)])
def test_curves_figure_labels_losses_in_plain_numbers(first, last):
    figure = viz.curves_figure(
        [{"epoch": 1, "train_loss": first}, {"epoch": 2, "train_loss": last, "test_loss": first}]
    )
    figure.draw_without_rendering()
    low, high = figure.axes[0].get_ylim()
    ticks = [*figure.axes[0].yaxis.get_major_ticks(), *figure.axes[0].yaxis.get_minor_ticks()]
    seen = {t.label1.get_text() for t in ticks if low <= t.get_loc() <= high} - {""}
    assert len(seen) >= 2 and all(re.fullmatch(r"\d+(\.\d+)?", text) for text in seen), seen


def test_curves_figure_of_rows_in_memory():
    rows = [{"step": 10, "loss": 2.0, "val_accuracy": 0.5}, {"step": 20, "loss": 0.0, "val_accuracy": float("nan")}]
    loss, accuracy = viz.curves_figure(rows).axes
    assert list(lines(loss)["loss, 0.0000 at the end"][1]) == [2.0, 0.0] and loss.get_yscale() == "linear"
    assert "validation, 50.00 % at the end" in lines(accuracy) and accuracy.get_xlabel() == "step"


@pytest.mark.parametrize("cut", range(len(METRICS.splitlines()[0]) + 2, len(METRICS)))
def test_read_rows_ignores_incomplete_last_row(tmp_path, cut):
    path = tmp_path / "cut.csv"
    path.write_text(METRICS[:cut])
    whole = METRICS[:cut].count("\n") - 1
    if whole:
        assert [row["epoch"] for row in read_rows(path)] == [1.0, 2.0, 3.0][:whole]
    else:
        with pytest.raises(ValueError, match="no row yet"):
            read_rows(path)


def test_training_figures_refuse_wrong_files(tmp_path):
    other = tmp_path / "other.csv"
    other.write_text("a,b\n1,2\n")
    noise = tmp_path / "noise.csv"
    noise.write_bytes(bytes(range(256)) * 4)
    for draw, message in [
        (lambda: viz.curves_figure(other), r"no column ends in 'loss' or 'accuracy.; the columns are a, b"),
        (lambda: viz.curves_figure([]), "no row yet"),
        (lambda: viz.curves_figure(noise), "noise.csv: not a CSV file"),
        (lambda: viz.layers_figure(other), "other.csv: no column .step.; the columns are a, b"),
    ]:
        with pytest.raises(ValueError, match=message):
            draw()


# --- layers ---


@pytest.mark.parametrize("bias", [True, False])
def test_layer_stats_equal_torch_norms(bias, tmp_path):
    ta.manual_seed(0)
    ours = nn.Sequential(nn.Linear(4, 5, bias=bias), nn.ReLU(), nn.Linear(5, 3))
    theirs = torch.nn.Sequential(torch.nn.Linear(4, 5, bias=bias), torch.nn.ReLU(), torch.nn.Linear(5, 3))
    theirs.load_state_dict({k: torch.tensor(v.numpy()) for k, v in ours.state_dict().items()})
    a, b = optim.SGD(ours.parameters(), 0.1), torch.optim.SGD(theirs.parameters(), 0.1)
    stats = train.LayerStats(ours, a, every=2, file=tmp_path / "layers.csv")
    rng, wanted = np.random.default_rng(0), []
    for step in range(1, 6):
        x, y = rng.random((8, 4), dtype="float32"), rng.integers(0, 3, 8)
        for model, optimizer, library, loss in ((ours, a, ta, F), (theirs, b, torch, torch.nn.functional)):
            optimizer.zero_grad()
            loss.cross_entropy(model(library.tensor(x)), library.tensor(y)).backward()
        before = [[p.detach().clone() for p in theirs[i].parameters()] for i in (0, 2)]
        stats.step()
        b.step()
        if step % 2:
            for i, old in zip((0, 2), before, strict=True):
                now = list(theirs[i].parameters())
                flat = [torch.cat([t.detach().ravel() for t in ts]) for ts in ([p.grad for p in now], old, now)]
                change = (flat[2] - flat[1]).norm().item()
                wanted.append(
                    (step, str(i), flat[0].norm().item(), flat[1].norm().item(), change, change / flat[1].norm().item())
                )
    got = [tuple(row.values()) for row in stats.rows]
    assert [row[:2] for row in got] == [row[:2] for row in wanted]
    assert_allclose(*(np.array([row[2:] for row in rows]) for rows in (got, wanted)), rtol=1e-4)
    read = read_rows(tmp_path / "layers.csv", "step", "layer")
    assert_allclose([row["gradient_norm"] for row in read], [row["gradient_norm"] for row in stats.rows])


def test_layer_stats_name_modules_and_skip_frozen(tmp_path):
    model = models.AttentionClassifier(12, 3, num_layers=1, hidden_dim=8, mlp_dim=8, num_heads=1)
    model.blocks[0].mlp.requires_grad_(False)
    optimizer = optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    file = tmp_path / "layers.csv"
    stats = train.LayerStats(model, optimizer, file=file)
    assert list(stats.layers) == ["position", "embed", "blocks.0.norm1", "blocks.0.attention",
                                  "blocks.0.attention.out_proj", "blocks.0.norm2", "norm", "head"]  # fmt: skip
    stats.step()  # without any gradient
    assert {row["gradient_norm"] for row in stats.rows} == {0.0}
    train.LayerStats(model, optimizer, file=file, every=50, steps=100).step()  # a run that goes on
    assert [row["step"] for row in csv.DictReader(file.read_text().splitlines())] == ["1"] * 8 + ["101"] * 8
    with pytest.raises(ValueError, match="every=0"):
        train.LayerStats(model, optimizer, every=0)


def test_layer_stats_do_not_change_training():
    results = []
    for watched in (False, True):
        ta.manual_seed(0)
        model = nn.Linear(4, 3)
        optimizer = optim.AdamW(model.parameters(), 0.01)
        step = train.LayerStats(model, optimizer, every=3).step if watched else optimizer.step
        for _ in range(7):
            optimizer.zero_grad()
            model(ta.ones(2, 4)).sum().backward()
            step()
        results.append(model.weight.numpy().tobytes())
    assert results[0] == results[1]
    closure = optim.SGD(model.parameters(), 0.1)
    assert train.LayerStats(model, closure).step(lambda: 7) == 7


def test_layers_figure_shows_the_rows():
    rows = [{"step": s, "layer": f"layer{i}", "gradient_norm": (i + 1) * s, "update_ratio": 0.001 * i}
            for s in (1, 11) for i in range(3)]  # fmt: skip
    figure = viz.layers_figure(rows, "a run")
    gradients, ratios = figure.axes[:2]
    assert_allclose(gradients.images[0].get_array().filled(0), [[1, 11], [2, 22], [3, 33]])
    assert ratios.images[0].get_array().mask.tolist() == [[True, True], [False, False], [False, False]]  # no update
    assert [t.get_text() for t in gradients.get_yticklabels()] == ["layer0", "layer1", "layer2"]
    assert [t.get_text() for t in gradients.get_xticklabels()] == ["1", "11"]
    figure.canvas.draw()


# --- confusion and mistakes ---


def test_confusion_matrix_counts_predictions():
    labels, predicted = [0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 2, 2]
    wanted = [[1, 1, 0], [0, 1, 0], [1, 0, 2]]
    assert viz.confusion_matrix(labels, predicted).tolist() == wanted
    scores = np.eye(4)[predicted]
    assert viz.confusion_matrix(ta.tensor(labels), ta.tensor(scores)).tolist() == [[*row, 0] for row in wanted] + [
        [0] * 4
    ]
    for bad in [([0, 1], [0]), ([-1], [0])]:
        with pytest.raises(ValueError, match="confusion"):
            viz.confusion_matrix(*bad)
    with pytest.raises(ValueError, match="expected 0 to 1"):
        viz.confusion_matrix([2], [0], classes=2)
    with pytest.raises(TypeError, match="float64"):
        viz.confusion_matrix([0.5], [1])


def test_confusion_figure_writes_every_count():
    figure = viz.confusion_figure([0, 0, 1, 2, 2, 2], [0, 1, 1, 0, 2, 2], ["cat", "dog", "hen"], "pets")
    (ax,) = figure.axes
    cells = {(t.get_position()[1], t.get_position()[0]): t.get_text() for t in ax.texts}
    assert cells[0, 1] == "1" and cells[2, 2] == "2" and (1, 2) not in cells
    assert {"50.0 %", "100.0 %", "66.7 %"} <= set(cells.values())
    assert figure.get_suptitle() == "pets: 2 mistakes in 6, 66.67 % right"
    assert [t.get_text() for t in ax.get_xticklabels()] == ["cat", "dog", "hen"]


def test_worst_mistakes_have_the_largest_loss():
    rng = np.random.default_rng(0)
    scores, labels = rng.normal(size=(200, 5)) * 3, rng.integers(0, 5, 200)
    worst = viz.worst_mistakes(scores, labels, 10)
    loss = torch.nn.functional.cross_entropy(torch.tensor(scores), torch.tensor(labels), reduction="none").numpy()
    wrong = [i for i in np.argsort(-loss) if scores[i].argmax() != labels[i]]
    assert worst.tolist() == wrong[:10]
    assert viz.worst_mistakes(np.eye(3), [0, 1, 2]).tolist() == []
    assert viz.worst_mistakes([[np.nan, 1.0], [0.0, 1.0]], [1, 1]).tolist() == [0]


def test_mistakes_figure_shows_attention():
    ta.manual_seed(0)
    model = models.AttentionClassifier(12, 3, hidden_dim=8, mlp_dim=8, num_heads=2, num_classes=3)
    images, labels = np.random.default_rng(0).random((12, 12, 12)), np.arange(12) % 3
    scores = train.predict(model, images)
    worst = viz.worst_mistakes(scores, labels, 4)
    figure = viz.mistakes_figure(model, images, labels, count=4)
    titles = [ax.get_title() for ax in figure.axes]
    assert [t.split(":")[0] for t in titles[:4]] == [f"no. {i}" for i in worst]
    assert titles[8:12] == [f"for {scores[i].argmax()}" for i in worst]
    assert titles[12:] == [f"for {labels[i]}" for i in worst]
    looked = viz.attention(model, images[worst]).where_it_looked()
    for_answer, for_truth = (
        viz.attention(model, images[worst], target=target).relevance()
        for target in (scores[worst].argmax(1), labels[worst])
    )
    for row, values in ((1, looked), (2, for_answer), (3, for_truth)):
        drawn = figure.axes[4 * row].images[1].get_array()[..., 3].ravel()
        most = max(looked.max(), 4 / 16) if row == 1 else max(for_answer.max(), for_truth.max())
        assert_allclose(drawn, 0.85 * values[0] / most, rtol=1e-6)  # one scale for all columns
    plain = nn.Sequential(nn.Flatten(), nn.Linear(144, 3))  # without attention
    alone = viz.mistakes_figure(plain.double(), images, labels, count=2)
    assert len(alone.axes) == 2 and alone.axes[0].get_title().startswith("no. ")
    with pytest.raises(ValueError, match="all 12 images were classified right"):
        viz.mistakes_figure(model, images, scores.argmax(1))
    assert not any(ax.texts for ax in figure.axes)
    with ta.no_grad():
        model.head.weight.zero_()  # nothing is relevant any more
    empty = viz.mistakes_figure(model, images, labels, count=1)
    assert [[t.get_text() for t in ax.texts] for ax in empty.axes] == [[], [], ["none"], ["none"]]


# --- live, and without a screen ---


def test_live_redraws_at_intervals_and_replaces_atomically(metrics, tmp_path):
    picture = tmp_path / "curves.png"
    live = viz.Live(lambda: viz.curves_figure(metrics), picture, seconds=1000)
    assert live.update() and picture.read_bytes().startswith(b"\x89PNG")
    first = picture.read_bytes()
    metrics.write_text(METRICS + "4,0.1,0.96,0.98,0.0005,\n")
    assert not live.update() and picture.read_bytes() == first
    assert live.update(now=True) and picture.read_bytes() != first
    assert [p.name for p in tmp_path.iterdir() if "part" in p.name] == []
    empty = viz.Live(lambda: viz.curves_figure([]), picture, seconds=0)
    assert not empty.update()  # nothing to draw yet
    with pytest.raises(ValueError, match="no row yet"):
        empty.update(now=True)


def test_live_updates_in_place_in_a_notebook(monkeypatch):
    shown = []

    class Handle:
        def update(self, image):
            shown.append(("again", image))

    def display(image, display_id):
        shown.append(("first", image))
        return Handle()

    ipython, inside = types.ModuleType("IPython"), types.ModuleType("IPython.display")
    ipython.get_ipython = lambda: object()
    inside.Image, inside.display = (lambda data: data), display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", inside)
    live = viz.Live(lambda: viz.curves_figure([{"loss": 1.0}]), seconds=0)
    live.update()
    live.update()
    assert [what for what, _ in shown] == ["first", "again"] and shown[0][1].startswith(b"\x89PNG")


@pytest.mark.slow
def test_watch_training_example_draws_every_picture(tmp_path):
    example = Path(__file__).parents[1] / "examples/watch_training.py"
    command = [sys.executable, str(example), "--data", "digits", "--epochs", "1", "--batch-size", "64", "--out", "here"]
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join([str(example.parents[1]), *sys.path])}
    done = subprocess.run(command, cwd=tmp_path, env=environment, check=True, capture_output=True, text=True)
    assert "epoch 1: loss" in done.stdout and "profile: " in done.stdout
    assert {p.name for p in (tmp_path / "here").iterdir() if p.stat().st_size > 1000} == {
        "curves.png", "layers.png", "confusion.png", "mistakes.png", "attention.png", "attention.html", "playground.html", "profile.txt",
        "trace.json",
    }  # fmt: skip


@pytest.mark.slow
def test_training_figures_need_no_pyplot(metrics, tmp_path):
    script = f"""
import sys, numpy as np
import tinyattn as ta
from tinyattn import models, viz
model = models.AttentionClassifier(12, 3, hidden_dim=8, mlp_dim=8, num_heads=2)
images, labels = np.random.rand(6, 12, 12), np.arange(6)
viz.curves_figure({str(metrics)!r}).savefig("a.png")
viz.confusion_figure(labels, labels).savefig("b.png")
viz.mistakes_figure(model, images, labels, 2).savefig("c.png")
viz.attention(model, images).save("d.png", token=3)
assert "matplotlib.pyplot" not in sys.modules
"""
    environment = {"PATH": "/usr/bin:/bin", "PYTHONPATH": ":".join(sys.path), "MPLBACKEND": "TkAgg"}
    subprocess.run([sys.executable, "-c", script], cwd=tmp_path, env=environment, check=True)
    assert len(list(tmp_path.glob("*.png"))) == 4
