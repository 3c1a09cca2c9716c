"""The example scripts, run as a user runs them, and the parts of tinyattn.train that they use."""

from __future__ import annotations

import csv
import json
import os
import runpy
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import tinyattn as ta
from tinyattn import models, nn, train, viz
from tinyattn.__main__ import main as command_line
from tinyattn.nn import functional as F

ROOT = Path(__file__).parents[1]
COLUMNS = ["epoch", "train_loss", "test_loss", "train_accuracy", "test_accuracy", "lr", "images_per_second", "seconds"]
FILES = {
    "config.json",
    "metrics.csv",
    "summary.json",
    "curves.png",
    "attention.png",
    "checkpoints",
    "model.safetensors",
    "lock",
}
FACTS = {"dataset", "model", "parameters", "seed", "epochs", "workers", "test_accuracy", "seconds", "images_per_second"}
QUIET = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "TINYATTN_DATA": ""}


def script(name, *arguments, **options):
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=QUIET, **options)


@pytest.mark.parametrize(
    ("model", "parameters"), [pytest.param("classifier", 85_579, marks=pytest.mark.slow), ("article", 51_659)]
)
def test_mnist_writes_all_files_of_a_run(tmp_path, model, parameters):
    done = script("mnist.py", "--data", "digits", "--model", model, "--epochs", 2, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "digits (scikit-learn, not MNIST) test accuracy" in done.stdout
    assert "mistakes in 355 test images" in done.stdout
    (folder,) = tmp_path.iterdir()
    pages = {"attention.html", "playground.html"} if model == "classifier" else set()
    assert {f.name for f in folder.iterdir()} == FILES | pages
    with (folder / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == COLUMNS
    assert [int(row["epoch"]) for row in rows] == [1, 2]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])
    summary = json.loads((folder / "summary.json").read_text())
    assert set(summary) >= FACTS
    assert (summary["dataset"], summary["parameters"]) == ("digits (scikit-learn, not MNIST)", parameters)
    assert summary["test_accuracy"] == float(rows[1]["test_accuracy"])
    assert (folder / "attention.png").read_bytes().startswith(b"\x89PNG")
    run = train.load_run(folder)
    predicted = train.predict(run.model, run.data.test_images).argmax(1)
    assert (predicted == run.data.test_labels).mean() == summary["test_accuracy"]
    scores, labels = ta.tensor(train.predict(run.model, run.data.test_images)), ta.tensor(run.data.test_labels)
    assert float(rows[1]["test_loss"]) == pytest.approx(F.cross_entropy(scores, labels).item(), rel=1e-4)
    for page in pages:
        text = (folder / page).read_text()
        (folder / page).unlink()
        assert command_line([page.removesuffix(".html"), str(folder)]) == 0
        assert len((folder / page).read_text()) == pytest.approx(len(text), rel=0.01)
    (folder / "model.safetensors").unlink()  # as while it runs
    again = train.load_run(folder).model.state_dict()
    assert all((again[name] == value).all() for name, value in run.model.state_dict().items())


@pytest.mark.slow
def test_mnist_trains_other_score_functions(tmp_path):
    options = ("--data", "digits", "--validation", 100, "--batch-size", 700, "--epochs", 1, "--out", tmp_path)
    done = script("mnist.py", "--model", "article", "--score", "multihead", *options)
    assert done.returncode == 0, done.stderr
    run = train.load_run(tmp_path / "article-multihead-digits-seed0")
    assert len(run.model.attention.query) == 4
    refused = script("mnist.py", "--score", "dot", *options)
    assert refused.returncode == 2 and "--score is for --model article" in refused.stderr


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sparsemax", "entmax"])
def test_mnist_attends_sparsely_and_counts_the_zeros(tmp_path, kind):
    options = ("--data", "digits", "--epochs", 6, "--workers", 1, "--attention", kind)
    done = script("mnist.py", *options, "--out", tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / f"classifier-{kind}-digits-seed0"
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["test_accuracy"] > 0.85
    assert len(summary["zeros"]) == 2 and 0.3 < np.mean(summary["zeros"]) < 1
    assert "of the weights are 0" in done.stdout
    assert "attention.html" not in {path.name for path in folder.iterdir()}
    run = train.load_run(folder)
    predicted = train.predict(run.model, run.data.test_images).argmax(1)
    assert (predicted == run.data.test_labels).mean() == summary["test_accuracy"]
    assert command_line(["playground", str(folder)]) == 2


@pytest.mark.slow
def test_mnist_with_entmax_is_the_same_without_compile(tmp_path):
    losses = []
    for option in ("--overwrite", "--no-compile"):
        options = ("--data", "digits", "--epochs", 1, "--workers", 1, "--attention", "entmax", option)
        done = script("mnist.py", *options, "--out", tmp_path / option)
        assert done.returncode == 0, done.stderr
        with next((tmp_path / option).glob("*/metrics.csv")).open() as file:
            losses.append(next(csv.DictReader(file))["train_loss"])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("steps", [2, pytest.param(800, marks=pytest.mark.slow)])
def test_reverse_words_writes_its_page(tmp_path, steps):
    done = script("reverse_words.py", "--steps", steps, "--out", tmp_path / "new" / "words.html")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "new" / "words.html").is_file()
    if steps == 800:
        assert float(done.stdout.split("%")[0].split()[-1]) >= 99


def test_load_run_refuses_what_is_no_run(tmp_path):
    with pytest.raises(train.RefusedError, match=r"holds no run of mnist\.py"):
        train.load_run(tmp_path)
    assert command_line(["playground", str(tmp_path)]) == 2
    config = {"format": 1, "arguments": {"model": "other"}, "recipe": {"model": {}}}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(train.RefusedError, match=r"model 'other'; expected .* classifier, article"):
        train.load_run(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps({**config, "arguments": {"model": "classifier"}}))
    with pytest.raises(train.RefusedError, match="has no weights yet"):
        train.load_run(tmp_path)


@pytest.mark.slow
def test_mnist_draws_test_sets_without_some_digit(tmp_path):
    done = script(
        "mnist.py", "--data", "digits", "--validation", 3, "--batch-size", 800, "--epochs", 1, "--out", tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert list(tmp_path.glob("*/attention.png"))


@pytest.mark.slow
def test_mnist_with_one_seed_repeats_bit_for_bit(tmp_path):
    accuracies = []
    for out in ("a", "b"):
        script("mnist.py", "--data", "digits", "--epochs", 1, "--seed", 3, "--out", tmp_path / out, check=True)
        (metrics,) = (tmp_path / out).glob("*/metrics.csv")
        with metrics.open() as file:
            accuracies.append([(row["train_loss"], row["test_accuracy"]) for row in csv.DictReader(file)])
    assert accuracies[0] == accuracies[1]


def test_ctrl_c_saves_summary_and_pictures(tmp_path):
    command = [sys.executable, ROOT / "examples/mnist.py", "--data", "digits", "--epochs", "500", "--out", tmp_path]
    running = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=QUIET,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )
    deadline = time.monotonic() + 60
    while not list(tmp_path.glob("*/metrics.csv")) and time.monotonic() < deadline:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, err = running.communicate(timeout=60)
    assert running.returncode == 130, err
    assert "Stopped by Ctrl-C" in err
    assert "Traceback" not in err
    (summary,) = tmp_path.glob("*/summary.json")
    assert json.loads(summary.read_text())["interrupted"]
    assert (summary.parent / "curves.png").exists()


@pytest.mark.slow
def test_from_scratch_learns_the_digits_by_default():
    done = script("from_scratch.py", "--data", "digits")
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines() if line.startswith("epoch")]
    losses, accuracies = zip(
        *[(float(line[3].rstrip(",")), float(line[-1].rstrip("%"))) for line in lines], strict=True
    )
    assert accuracies[-1] > 90 > 30 > accuracies[0]
    assert losses[0] > 2 > 0.2 > losses[-1]


def test_from_scratch_attention_equals_its_plain_form():
    example = runpy.run_path(str(ROOT / "examples/from_scratch.py"))
    ta.manual_seed(0)
    parameters = example["parameters"]()
    levels = np.random.default_rng(0).integers(0, 10, (3, 784))
    plain, fast = (example[name](parameters, levels).numpy() for name in ("attend_plainly", "attend"))
    np.testing.assert_allclose(fast, plain, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "'0' is not a whole number above 0"),
        (["--workers", "0"], "'0' is not a whole number above 0"),
        (["--lr", "nan"], "'nan' is not a number above 0"),
        (["--lr", "fast"], "'fast' is not a number above 0"),
        (["--model", "cnn"], "invalid choice: 'cnn'"),
        (["--device", "tpu"], "device='tpu' is no device"),
        (["--dat-dir"], "--dat"),
    ],
)
def test_mnist_rejects_wrong_arguments_with_code_2(arguments, message):
    done = script("mnist.py", *arguments)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--epochs", "0"], "argument --epochs: '0' is not a whole number above 0"),
        (["--epoch", "1"], "there is no option --epoch (is --epochs meant?)"),
    ],
)
def test_from_scratch_reports_wrong_arguments(arguments, message):
    done = script("from_scratch.py", *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"from_scratch.py: {message}; from_scratch.py --help lists the options.\n"


def test_data_dir_without_mnist_is_one_sentence(tmp_path):
    done = script("mnist.py", "--data-dir", tmp_path, "--out", tmp_path / "runs")
    assert done.returncode == 2
    assert str(tmp_path) in done.stderr
    assert "Traceback" not in done.stderr


def test_mnist_help_names_every_option():
    done = script("mnist.py", "--help")
    for option in "--model --epochs --batch-size --lr --seed --workers --threads --device --data --data-dir --out --no-progress".split():
        assert option in done.stdout


TOOLS = {"benchmark", "lesson_notebooks", "lesson_pictures", "visualize", "watch_training"}  # and no lessons
SCRIPTS = sorted(path.stem for path in (ROOT / "examples").glob("*.py"))


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - TOOLS))
def test_examples_have_at_most_120_lines(name):
    """They show the learning; options, data and pictures are in parts/, bookkeeping is in train.Session."""
    assert len((ROOT / f"examples/{name}.py").read_text(encoding="utf-8").splitlines()) <= 120


@pytest.mark.parametrize(
    "name", [n if n in ("mnist", "benchmark", "binary") else pytest.param(n, marks=pytest.mark.slow) for n in SCRIPTS]
)
def test_examples_suggest_the_option_that_is_meant(name, tmp_path):
    """Also in a folder that is not the repository's, and where tinyattn is not installed."""
    done = script(f"{name}.py", "--hepl", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"{name}.py: there is no option --hepl (is --help meant?);")
    assert done.stderr.count("\n") == 1


WITHOUT = """
import importlib.abc, os, runpy, sys
class Absent(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in absent:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
absent = sys.argv[1].split()
sys.meta_path.insert(0, Absent())
sys.argv[:] = sys.argv[2:]
sys.path[0] = os.path.dirname(sys.argv[0])
runpy.run_path(sys.argv[0], run_name="__main__")
"""
BARE = {"custom_operation", "lesson_notebooks", "long_attention"}  # begin with NumPy alone


def without(packages, name, *arguments):
    command = [sys.executable, "-c", WITHOUT, packages, str(ROOT / "examples" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=QUIET)


@pytest.mark.parametrize("name", sorted({*SCRIPTS} - BARE - {"benchmark", "visualize"}))
def test_examples_name_the_command_that_installs_a_missing_package(name, tmp_path):
    optional = "babel graphviz matplotlib pooch safetensors scipy sklearn threadpoolctl tqdm"
    where = ["--data", "digits"] if name == "from_scratch" else ["--out", tmp_path / "out"]
    done = without(optional, f"{name}.py", *where)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"{name}.py: ") and done.stderr.count("\n") == 1
    assert 'pip install "tinyattn[' in done.stderr


@pytest.mark.parametrize("name", ["custom_operation", "mnist"])
def test_examples_without_numpy_say_so(name):
    done = without("numpy", f"{name}.py")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert done.stderr.startswith(f"{name}.py: numpy is not installed: pip install")


def test_examples_show_where_their_own_errors_are(tmp_path):
    """A module that is no known package is a mistake, which needs its traceback."""
    (tmp_path / "numpy.py").write_text("import no_such_module")
    command = [sys.executable, str(ROOT / "examples/custom_operation.py")]
    done = subprocess.run(command, capture_output=True, text=True, env={**QUIET, "PYTHONPATH": str(tmp_path)})
    assert done.returncode == 1 and "Traceback" in done.stderr and "no_such_module" in done.stderr


# --- what the scripts are made of ---


def test_runs_never_share_a_folder(tmp_path):
    folders = [train.Run(tmp_path, "name").folder.name for _ in range(3)]
    assert folders == ["name", "name-2", "name-3"]
    (tmp_path / "file").write_text("")
    with pytest.raises(train.RefusedError, match="file"):
        train.Run(tmp_path / "file", "name")


def test_predict_uses_evaluation_mode_and_restores_that_of_each_module():
    ta.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(4, 3), nn.BatchNorm1d(3).eval())
    images = np.random.default_rng(0).random((7, 2, 2)).astype(np.float32)
    first, second = train.predict(model, images, batch_size=3), train.predict(model, images)
    np.testing.assert_allclose(first, second, rtol=1e-6)
    assert first.shape == (7, 3)
    assert [part.training for part in (model, *model)] == [True, True, True, True, False]


def test_progress_bar_shows_known_numbers(monkeypatch, capsys):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    batches = train.Progress([1, 2], 2, "epoch 1")
    for _ in batches:
        batches.update(1, loss=0.5, accuracy=float("nan"))
    assert "epoch 1" in capsys.readouterr().err
    assert batches.bar.postfix == "loss=0.5000"  # and no accuracy, which nobody knows yet
    silent = train.Progress([1, 2], 2, "epoch 1", show=False)
    assert list(silent) == [1, 2]
    silent.update(1, loss=0.5)


@pytest.mark.parametrize(("module", "use"), [("tqdm", "progress"), ("matplotlib.figure", "figure")])
def test_a_missing_package_names_its_extra(monkeypatch, module, use):
    monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with pytest.raises(ImportError, match=r"pip install \"tinyattn\["):
        train.Progress([], 0, "") if use == "progress" else viz.figure.new_figure(1, 1)


def test_attention_figure_has_a_panel_for_each_image(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (7, 28, 28)).astype(np.uint8)
    model = models.AttentionClassifier()
    looked = model.where_it_looked(images).numpy()
    np.testing.assert_allclose(looked.sum((1, 2)), 1, rtol=1e-5)
    figure = viz.attention_figure(images, {"looked": looked}, [f"digit {i}" for i in range(7)], "title")
    assert len(figure.axes) == 20  # two bands of five columns, an image and a map each
    assert figure.axes[0].get_title() == "digit 0"
    np.testing.assert_array_equal(figure.axes[5].images[0].get_array(), looked[0])
