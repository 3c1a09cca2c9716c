"""Make every picture of README.md and docs/.

    python examples/visualize.py                        # all of them, into runs/pictures
    python examples/visualize.py --only attention.svg   # one
    python examples/visualize.py --out docs/pictures    # replace those of the documentation
    python examples/visualize.py --list

Each picture is a function below, which ends with the call that draws it; the table at the bottom maps files to
functions. Graphs need graphviz' program `dot`, screenshots need Chromium; pictures that cannot be made are reported and
skipped.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import io
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

from parts import run_script

import tinyattn as ta
import tinyattn.nn.functional as F
from tinyattn import data, models, train


class CannotDrawError(Exception):
    """A program that a picture needs is not installed."""


# --- computation graphs ---


def first_graph(path: Path) -> None:
    """Four operations on three vectors, as they were recorded."""
    a = ta.tensor([1.0, 2.0, 3.0], requires_grad=True)
    b = ta.tensor([4.0, -5.0, 6.0], requires_grad=True)
    c = ta.tensor([0.5, 0.5, 0.5], requires_grad=True)
    y = (a * b + c).relu().sum()
    ta.viz.graph(y, stats=True).save(path)


def attention_graph(path: Path) -> None:
    """Scaled dot-product attention from primitive operations: 49 tokens of 16 features."""
    query, key, value = (ta.randn(49, 16, requires_grad=True) for _ in range(3))
    ta.viz.graph(F.scaled_dot_product_attention, query, key, value, mode="definitions").save(path)


def block_graph(path: Path) -> None:
    """One block of the classifier: attention, then an MLP, each added to its input."""
    block = models.AttentionClassifier().blocks[0]
    tokens = ta.randn(2, 49, 64)
    ta.viz.graph(block, tokens).save(path)


def classifier_graph(path: Path) -> None:
    """A classifier of twelve blocks, folded to its layers."""
    model = models.AttentionClassifier(num_layers=12)
    ta.viz.graph(model, ta.rand(2, 28, 28), depth=1).save(path)


def crashed_graph(path: Path) -> None:
    """A forward pass that failed: the operations up to the error, and the error."""
    model = ta.nn.Sequential(ta.nn.Linear(4, 8), ta.nn.ReLU(), ta.nn.Linear(9, 2))
    ta.viz.graph(model, ta.rand(3, 4), mode="operations").save(path)


def page_of_the_classifier(path: Path) -> None:
    """The page that steps through the MNIST classifier, in the backward pass of its attention."""
    from mnist import RECIPES

    digits = data.load("digits")
    model = models.AttentionClassifier(**RECIPES["classifier"]["model"])
    images, labels = ta.tensor(digits.test_images[:2] / 255, dtype=ta.float32), ta.tensor(digits.test_labels[:2])

    def loss(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
        return F.cross_entropy(model(images), labels)

    picture = ta.viz.graph(loss, images, labels, title="MNIST classifier")
    forward = sum(vertex.is_operation for vertex in picture.vertices)
    back = next(i for i, step in enumerate(picture.steps) if picture.vertices[step.vertex].op == "packed_attention")
    screenshot(picture, path, step=forward + back + 1, level=3, theme="dark" if "dark" in path.stem else "light")


def page_of_a_compiled_step(path: Path) -> None:
    """The page with the program of a compiled training step, at the backward pass of an attention layer."""
    model = models.AttentionClassifier(num_layers=1)
    optimizer = ta.optim.Adam(model.parameters())
    batch = ta.rand(8, 28, 28), ta.randint(0, 10, (8,))

    def loss_of(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
        return F.cross_entropy(model(images), labels)

    @ta.compile
    def step(images: ta.Tensor, labels: ta.Tensor) -> ta.Tensor:
        optimizer.zero_grad()
        loss = loss_of(images, labels)
        loss.backward()
        optimizer.step()
        return loss

    for _ in range(3):
        step(*batch)
    picture = ta.viz.graph(loss_of, *batch, program=step, title="A training step")
    back = next(i for i, step in enumerate(picture.steps) if picture.vertices[step.vertex].op == "packed_attention")
    forward = sum(vertex.is_operation for vertex in picture.vertices)
    screenshot(picture, path, step=forward + back + 1, level=3, tab="program")


def screenshot(picture: ta.viz.Graph | Path, path: Path, **where: object) -> None:
    """Take a screenshot of the page of a graph, or of an existing page, opened at a step or a patch."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        raise CannotDrawError("Chromium is not installed")
    with tempfile.TemporaryDirectory() as folder:
        page = picture if isinstance(picture, Path) else picture.save(Path(folder, "page.html"))
        fragment = "&".join(f"{name}={value}" for name, value in where.items())
        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1280,800"]
        flags.append("--virtual-time-budget=10000")  # ms of the page's own timers, which draw the last of it
        files = [f"--user-data-dir={folder}/profile", f"--screenshot={path.absolute()}", f"{page.as_uri()}#{fragment}"]
        subprocess.run([chromium, *flags, *files], check=True, capture_output=True, timeout=60)


# --- training and attention: all from one run of examples/watch_training.py ---


@functools.cache
def watched() -> Path:
    """The folder of its pictures, of MNIST, or without it of scikit-learn's digits."""
    import watch_training

    folder = Path(tempfile.mkdtemp(prefix="pictures-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    with contextlib.redirect_stdout(io.StringIO()):  # which tells of a folder that is soon gone
        watch_training.main(["--out", str(folder)])
    return folder


def of_training(path: Path) -> None:
    """A picture of the classifier's training, as examples/watch_training.py draws it, in fewer colours."""
    from PIL import Image

    names = {"attention-heads.png": "attention.png"}
    with Image.open(watched() / names.get(path.name, path.name)) as image:
        image.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(path, optimize=True)


def page_of_attention(path: Path) -> None:
    """The attention page: what one patch of a 4 looks at, and whether that raises the score of 4."""
    screenshot(watched() / "attention.html", path, item=4, token=24, row=0, cell=1, what="gradient")


def page_of_the_playground(path: Path) -> None:
    """The playground: what every head attends to from one patch of a 4."""
    screenshot(watched() / "playground.html", path, item=4, token=24)


# --- the function of each file ---

PICTURES: dict[str, Callable[[Path], None]] = {
    "graph.svg": first_graph,
    "attention.svg": attention_graph,
    "block.svg": block_graph,
    "classifier.svg": classifier_graph,
    "crashed.svg": crashed_graph,
    "page.png": page_of_the_classifier,
    "page-dark.png": page_of_the_classifier,
    "program.png": page_of_a_compiled_step,
    **dict.fromkeys(("attention-heads.png", "layers.png", "confusion.png", "mistakes.png"), of_training),
    "attention-page.png": page_of_attention,
    "playground.png": page_of_the_playground,
}


def main() -> int:
    parser = train.Parser(description="Make every picture of README.md and docs/.")
    parser.add_argument("--out", type=Path, default=Path("runs/pictures"), help="folder to write into (runs/pictures)")
    parser.add_argument(
        "--only", action="append", default=[], choices=PICTURES, metavar="FILE", help="this picture; may be repeated"
    )
    parser.add_argument("--list", action="store_true", default=False, help="list the pictures")
    args = parser.parse_args()
    if args.list:
        for name, draw in PICTURES.items():
            print(f"{name:24} {(draw.__doc__ or '').splitlines()[0]}")
        return 0
    args.out.mkdir(parents=True, exist_ok=True)
    missing = 0
    for name in args.only or PICTURES:
        ta.manual_seed(0)  # so that a picture does not depend on the others
        try:
            PICTURES[name](args.out / name)
            print(f"{args.out / name}: {(args.out / name).stat().st_size / 1000:.0f} kB")
        except (CannotDrawError, ImportError, RuntimeError) as error:
            missing += 1
            print(f"{name} is skipped: {error}", file=sys.stderr)
    return 1 if missing else 0


if __name__ == "__main__":
    run_script(main)
